//! A monitor killed with SIGKILL while a daemon keeps what would be lost with it.

use std::time::Duration;

use conmon_protocol::{Answer, Ask, Exit, Phase, Stdin};

use crate::harness::{Pod, eventually};

const WAIT: &str = "while [ ! -e /tmp/go ]; do sleep 0.01; done; rm /tmp/go";

fn go(pod: &Pod, id: &str) {
    std::fs::write(pod.container_dir(id).join("bundle/rootfs/tmp/go"), "").unwrap();
}

fn kept() -> Option<Pod> {
    let mut pod = Pod::made()?;
    pod.keep();
    Some(pod)
}

/// Linux 6.15 tells how a process ended that was reaped by somebody else; before, nobody can.
fn tells_exits() -> bool {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers =
        release.split(|c: char| !c.is_ascii_digit()).map(|n| n.parse::<u32>().unwrap_or_default());
    (numbers.next(), numbers.next()) >= (Some(6), Some(15))
}

/// What a reader of the log makes of one stream.
fn said(pod: &Pod, stream: &str) -> String {
    let log = pod.log("c1");
    let records = log.lines().filter_map(|line| line.strip_prefix(stream)?.strip_prefix(' '));
    let text = |record: &str| match record.split_once(' ').unwrap() {
        ("F", text) => format!("{text}\n"),
        (_, text) => text.to_owned(),
    };
    records.map(text).collect()
}

/// Kills the monitor, lets the container end and be reaped by whoever becomes its parent, and starts another monitor.
fn end_without_a_monitor(pod: &mut Pod, pid: i32) -> Exit {
    pod.kill_monitor();
    go(pod, "c1");
    let process = format!("/proc/{pid}");
    eventually("it ends", || !std::path::Path::new(&process).exists());
    pod.start_monitor();
    let [(_, Phase::Exited(exit))] = pod.state()[..] else { panic!("it has exited") };
    exit
}

#[test]
fn a_container_that_ends_while_no_monitor_lives_loses_neither_its_last_words_nor_its_code() {
    let Some(mut pod) = kept() else { return };
    let pid = pod.run("c1", &format!("echo first; {WAIT}; seq 1 5000; echo oops >&2; printf open; exit 6"));
    pod.wait_log("c1", "first");
    let exit = end_without_a_monitor(&mut pod, pid);
    assert_eq!(exit.code, if tells_exits() { 6 } else { Exit::UNSEEN });
    assert!(!exit.oom_killed);
    let numbers: String = (1..=5000).map(|n| format!("{n}\n")).collect();
    assert!(said(&pod, "stdout") == format!("first\n{numbers}open\n"), "the log is not whole");
    assert_eq!(said(&pod, "stderr"), "oops\n");
    pod.delete("c1");
    pod.unmake();
}

#[test]
fn an_out_of_memory_kill_that_no_monitor_saw_is_told() {
    let Some(mut pod) = kept() else { return };
    let script = format!("{WAIT}; x=x; while :; do x=$x$x$x; done");
    let mut config = pod.config("c1", &["sh", "-c", &script]);
    config["linux"]["resources"]["memory"] = serde_json::json!({"limit": 16 << 20, "swap": 16 << 20});
    let plan = pod.container_of("c1", config);
    let pid = pod.create(plan);
    pod.start("c1");
    let exit = end_without_a_monitor(&mut pod, pid);
    assert!(exit.oom_killed);
    assert_eq!(exit.code, if tells_exits() { 137 } else { Exit::UNSEEN });
    pod.unmake();
}

#[test]
fn a_container_killed_before_its_start_is_told_too() {
    let Some(mut pod) = kept() else { return };
    let plan = pod.container("c1", "sleep 1000");
    let pid = pod.create(plan);
    pod.kill_monitor();
    rustix::process::kill_process(
        rustix::process::Pid::from_raw(pid).unwrap(),
        rustix::process::Signal::KILL,
    )
    .unwrap();
    eventually("it ends", || !std::path::Path::new(&format!("/proc/{pid}")).exists());
    pod.start_monitor();
    let [(_, Phase::Exited(exit))] = pod.state()[..] else { panic!("it has exited") };
    assert_eq!(exit.code, if tells_exits() { 137 } else { Exit::UNSEEN });
    pod.unmake();
}

#[test]
fn a_terminal_is_not_hung_up_and_goes_on() {
    let Some(mut pod) = kept() else { return };
    let mut config = pod.config(
        "c1",
        &["sh", "-c", "trap 'echo hung up; exit 1' HUP; echo up; while read word; do echo got $word; done"],
    );
    config["process"]["terminal"] = true.into();
    let mut plan = pod.container_of("c1", config);
    (plan.terminal, plan.stdin) = (true, Stdin::Open);
    pod.create(plan);
    pod.start("c1");
    pod.wait_log("c1", "up");
    for n in 0..3 {
        pod.kill_monitor();
        pod.start_monitor();
        let client = crate::container::attach(&mut pod, "c1", true);
        rustix::io::write(&client, format!("word{n}\n").as_bytes()).unwrap();
        pod.wait_log("c1", &format!("got word{n}"));
    }
    assert!(!pod.log("c1").contains("hung up"));
    assert_eq!(
        pod.daemon.ask(Ask::Resize { container_id: "c1".into(), columns: 90, rows: 30 }),
        Ok(Answer::Done)
    );
    pod.delete("c1");
    pod.unmake();
}

#[test]
fn a_running_exec_goes_on_and_its_end_and_its_timeout_are_told_by_the_next_monitor() {
    let Some(mut pod) = kept() else { return };
    pod.run("c1", "sleep 1000");
    let exec = |pod: &mut Pod, id: &str, script: &str, timeout_ms: Option<u64>| {
        let mut plan = crate::harness::exec_plan(id, "c1", script);
        (plan.stdout, plan.stderr, plan.timeout_ms) = (false, false, timeout_ms);
        pod.daemon.ask(Ask::Exec(plan)).unwrap();
    };
    exec(&mut pod, "after", &format!("{WAIT}; exit 4"), None);
    exec(&mut pod, "between", "sleep 0.5; exit 5", None);
    exec(&mut pod, "long", "sleep 1000", Some(1500));
    pod.kill_monitor();
    std::thread::sleep(Duration::from_secs(1));
    pod.start_monitor();
    let known = |code: i32| if tells_exits() { code } else { Exit::UNSEEN };
    assert_eq!(pod.daemon.exec_exit("between"), (known(5), false));
    assert_eq!(pod.daemon.exec_exit("long"), (known(137), true));
    go(&pod, "c1");
    assert_eq!(pod.daemon.exec_exit("after"), (known(4), false));
    pod.unmake();
}

#[test]
fn what_is_said_too_late_is_refused_and_what_is_kept_holds_nothing_up() {
    let Some(mut pod) = kept() else { return };
    let late = Ask::TakeBack { container_id: "c1".into(), kept: vec![] };
    let refusal = pod.daemon.ask(late).unwrap_err();
    assert!(refusal.message.contains("too late"), "{refusal}");
    let mut plan = pod.container("c1", "cat; echo end");
    plan.stdin = Stdin::Once;
    pod.create(plan);
    pod.start("c1");
    let client = crate::container::attach(&mut pod, "c1", true);
    rustix::io::write(&client, b"in\n").unwrap();
    rustix::net::shutdown(&client, rustix::net::Shutdown::Write).unwrap();
    assert_eq!(pod.daemon.exit_of("c1").code, 0, "a stdin for once ends with its client");
    assert_eq!(pod.log("c1"), "stdout F in\nstdout F end\n");
    pod.unmake();
}

/// The container numbers a thousand lines a second for as long as its monitor is killed, and ends while there is none.
#[test]
fn a_hundred_kills_in_a_row_lose_and_double_nothing() {
    let Some(mut pod) = kept() else { return };
    let count = "i=0; while [ ! -e /tmp/go ]; do for n in 1 2 3 4 5 6 7 8 9 10; do i=$((i+1)); echo $i; done; sleep 0.01; done";
    let pid = pod.run("c1", &format!("{count}; echo end; exit 7"));
    let began = std::time::Instant::now();
    for _ in 0..100 {
        std::thread::sleep(Duration::from_millis(20));
        pod.replace_monitor();
    }
    println!("a hundred kills in {:?}", began.elapsed());
    let exit = end_without_a_monitor(&mut pod, pid);
    assert_eq!(exit.code, if tells_exits() { 7 } else { Exit::UNSEEN });
    let said = said(&pod, "stdout");
    let lines: Vec<&str> = said.lines().collect();
    let (end, numbers) = lines.split_last().unwrap();
    assert_eq!(*end, "end");
    assert!(numbers.len() > 500, "{} lines", numbers.len());
    for (expected, number) in (1..).zip(numbers) {
        assert_eq!(*number, expected.to_string());
    }
    pod.unmake();
}
