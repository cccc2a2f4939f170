//! A monitor killed with SIGKILL, and another in its place.

use conmon_protocol::{Answer, Ask, Exit, Phase, Stdin};

use crate::harness::{Pod, eventually, read_all};

fn go(pod: &Pod, id: &str) {
    std::fs::write(pod.container_dir(id).join("bundle/rootfs/tmp/go"), "").unwrap();
}

const WAIT: &str = "while [ ! -e /tmp/go ]; do sleep 0.02; done";

#[test]
fn a_container_runs_on_and_nothing_it_wrote_meanwhile_is_lost() {
    let Some(mut pod) = Pod::made() else { return };
    let pid =
        pod.run("c1", &format!("echo one; {WAIT}; seq 1 1000; echo two >&2; {WAIT}; sleep 0.5; exit 6"));
    pod.wait_log("c1", "one");
    pod.monitor.kill().unwrap();
    pod.monitor.wait().unwrap();
    go(&pod, "c1");
    std::thread::sleep(std::time::Duration::from_millis(200));
    pod.replace_monitor();
    assert!(
        matches!(&pod.state()[..], [(id, Phase::Running { pid: same, .. })] if id == "c1" && *same == pid)
    );
    assert_eq!(pod.daemon.exit_of("c1").code, 6);
    let expected: String = (1..=1000).map(|n| format!("stdout F {n}\n")).collect();
    let log = pod.log("c1");
    let stdout: String =
        log.lines().filter(|line| line.starts_with("stdout")).map(|line| format!("{line}\n")).collect();
    assert_eq!(stdout, format!("stdout F one\n{expected}"));
    assert!(log.contains("stderr F two"));
    pod.unmake();
}

#[test]
fn a_container_that_ended_meanwhile_is_exited() {
    let Some(mut pod) = Pod::made() else { return };
    let pid = pod.run("c1", &format!("{WAIT}; echo last; exit 6"));
    pod.monitor.kill().unwrap();
    pod.monitor.wait().unwrap();
    go(&pod, "c1");
    let process = format!("/proc/{pid}");
    eventually("it ends", || !std::path::Path::new(&process).exists());
    pod.replace_monitor();
    let [(_, Phase::Exited(exit))] = pod.state()[..] else { panic!("it has exited") };
    assert_eq!(exit.code, Exit::UNSEEN, "nobody could see how");
    assert!(pod.container_dir("c1").join("exit").exists());
    // What it wrote last is lost: a FIFO that nobody has open keeps nothing (fifo(7)). See `keep` for daemons that do.
    pod.unmake();
}

#[test]
fn a_created_container_is_started_by_the_next_monitor() {
    let Some(mut pod) = Pod::made() else { return };
    let mut plan = pod.container("c1", "read word; echo $word");
    plan.stdin = Stdin::Open;
    let pid = pod.create(plan);
    pod.replace_monitor();
    assert_eq!(pod.state(), [("c1".to_owned(), Phase::Created { pid })]);
    pod.start("c1");
    let stdin = std::fs::OpenOptions::new().write(true).open(pod.container_dir("c1").join("stdin")).unwrap();
    std::io::Write::write_all(&mut &stdin, b"word\n").unwrap();
    assert_eq!(pod.daemon.exit_of("c1").code, 0);
    assert_eq!(pod.log("c1"), "stdout F word\n");
    pod.unmake();
}

#[test]
fn an_exited_container_stays_as_it_ended() {
    let Some(mut pod) = Pod::made() else { return };
    pod.run("c1", "exit 9");
    let exit = pod.daemon.exit_of("c1");
    pod.replace_monitor();
    assert_eq!(pod.state(), [("c1".to_owned(), Phase::Exited(exit))]);
    pod.delete("c1");
    pod.unmake();
}

#[test]
fn a_resumed_container_can_be_entered_signalled_and_taken_away() {
    use std::os::fd::AsFd as _;
    let Some(mut pod) = Pod::made() else { return };
    pod.run("c1", "sleep 1000");
    pod.replace_monitor();
    let (out, out_end) = crate::harness::pipe();
    let mut plan = crate::harness::exec_plan("e1", "c1", "echo in");
    plan.stderr = false;
    pod.daemon.ask_with(Ask::Exec(plan), &[out_end.as_fd()]).0.unwrap();
    drop(out_end);
    assert_eq!(read_all(out), "in\n");
    assert_eq!(pod.daemon.exec_exit("e1"), (0, false));
    let reopen = Ask::Reopen { container_id: "c1".into() };
    assert_eq!(pod.daemon.ask(reopen), Ok(Answer::Done));
    pod.delete("c1");
    assert_eq!(pod.daemon.exit_of("c1").code, 137);
    pod.unmake();
}

/// A busy container keeps its monitor between a read and a write most of the time, which is where a kill hurts.
#[test]
fn no_line_of_a_busy_container_is_lost_or_doubled_by_many_kills() {
    let Some(mut pod) = Pod::made() else { return };
    // It stays a while: what a container wrote that ends while no monitor lives is lost with its FIFOs.
    pod.run("c1", &format!("seq 1 400000; {WAIT}"));
    let log_path = pod.log_path("c1");
    let is_complete = || std::fs::read_to_string(&log_path).unwrap().trim_end().ends_with(" 400000");
    let mut kills = 0;
    while !is_complete() {
        pod.replace_monitor();
        kills += 1;
        std::thread::sleep(std::time::Duration::from_millis(15));
    }
    println!("{kills} kills");
    go(&pod, "c1");
    assert_eq!(pod.daemon.exit_of("c1").code, 0);
    assert!(kills > 3);
    let log = std::fs::read_to_string(pod.log_path("c1")).unwrap();
    let mut text = String::new();
    for record in log.split_terminator('\n') {
        text.push_str(&record[40..]);
        if &record[38..39] == "F" {
            text.push('\n');
        }
    }
    let mut expected = (1..=400_000).map(|n: u32| n.to_string());
    for (line, text) in text.lines().enumerate() {
        assert_eq!(Some(text), expected.next().as_deref(), "line {line}");
    }
    pod.unmake();
}

/// Wherever in a making the monitor is killed, the next one has the whole of it or nothing.
#[test]
fn a_monitor_killed_at_any_moment_of_a_making_leaves_it_whole_or_takes_it_away() {
    let (mut whole, mut gone) = (0, 0);
    // Other runtimes take longer.
    let stretch = if std::env::var_os("BERTH_HANDLER").is_some() { 8 } else { 1 };
    for after_us in (0..12_000 * stretch).step_by(250 * stretch as usize) {
        let Some(mut pod) = Pod::new() else { return };
        pod.state();
        let mut plan = pod.plan();
        plan.pid = conmon_protocol::PidSharing::Pod;
        pod.daemon.say(Ask::MakePod(plan.clone()), &[]);
        let container = pod.container("c1", "sleep 1000");
        pod.daemon.say(Ask::Create(container.clone()), &[]);
        std::thread::sleep(std::time::Duration::from_micros(after_us));
        pod.replace_monitor();
        match &pod.state()[..] {
            [] => gone += 1,
            [(id, Phase::Created { .. })] if id == "c1" => whole += 1,
            other => panic!("{after_us} us: {other:?}"),
        }
        assert_eq!(pod.daemon.ask(Ask::MakePod(plan)), Ok(Answer::Done));
        if pod.state().is_empty() {
            pod.create(container);
        }
        pod.start("c1");
        pod.unmake();
    }
    println!("{whole} whole, {gone} gone");
    assert!(whole > 0 && gone > 0);
}

#[test]
fn a_monitor_killed_at_any_moment_of_a_taking_away_leaves_what_the_next_can_take_away() {
    for after_us in (0..8000).step_by(250) {
        let Some(mut pod) = Pod::made() else { return };
        pod.run("c1", "sleep 1000");
        let plan = pod.container("c2", "true");
        pod.create(plan);
        pod.daemon.say(Ask::Delete { container_id: "c1".into() }, &[]);
        pod.daemon.say(Ask::UnmakePod, &[]);
        std::thread::sleep(std::time::Duration::from_micros(after_us));
        pod.replace_monitor();
        pod.delete("c1");
        pod.delete("c2");
        pod.unmake();
    }
}
