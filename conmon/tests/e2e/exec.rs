//! Execs: their streams, their codes, their time, their terminals.

use std::os::fd::AsFd as _;
use std::time::{Duration, Instant};

use conmon_protocol::{Answer, Ask, RefusalKind};

use crate::harness::{Pod, eventually, exec_plan, pipe, process, read_all};

fn pod_with_container() -> Option<Pod> {
    let mut pod = Pod::made()?;
    pod.run("c1", "sleep 1000");
    Some(pod)
}

/// Runs a script to its end; returns code, stdout and stderr.
fn exec(pod: &mut Pod, id: &str, script: &str) -> (i32, String, String) {
    let ((out, out_end), (err, err_end)) = (pipe(), pipe());
    let plan = exec_plan(id, "c1", script);
    let answer = pod.daemon.ask_with(Ask::Exec(plan), &[out_end.as_fd(), err_end.as_fd()]).0;
    assert!(matches!(answer, Ok(Answer::ExecStarted { .. })), "{answer:?}");
    drop((out_end, err_end));
    let (code, timed_out) = pod.daemon.exec_exit(id);
    assert!(!timed_out);
    (code, read_all(out), read_all(err))
}

#[test]
fn an_exec_writes_into_the_daemons_own_pipes_and_tells_its_code() {
    let Some(mut pod) = pod_with_container() else { return };
    let told = exec(&mut pod, "e1", "echo out; echo err >&2; exit 7");
    assert_eq!(told, (7, "out\n".to_owned(), "err\n".to_owned()));
    assert_eq!(exec(&mut pod, "e1", "kill -9 $$").0, 137, "an id may be used again");
    assert_eq!(
        exec(&mut pod, "e2", "readlink /proc/self/ns/uts; hostname").1.lines().last(),
        Some("pod-name")
    );
    pod.unmake();
}

#[test]
fn an_exec_reads_its_stdin_to_the_end() {
    let Some(mut pod) = pod_with_container() else { return };
    let ((input_end, input), (out, out_end)) = (pipe(), pipe());
    let mut plan = exec_plan("e1", "c1", "cat");
    (plan.stdin, plan.stderr) = (true, false);
    pod.daemon.ask_with(Ask::Exec(plan), &[input_end.as_fd(), out_end.as_fd()]).0.unwrap();
    drop((input_end, out_end));
    rustix::io::write(&input, b"typed").unwrap();
    drop(input);
    assert_eq!(read_all(out), "typed");
    assert_eq!(pod.daemon.exec_exit("e1"), (0, false));
    pod.unmake();
}

#[test]
fn an_exec_out_of_time_is_killed_with_what_it_started() {
    let Some(mut pod) = pod_with_container() else { return };
    let (out, out_end) = pipe();
    let mut plan = exec_plan("e1", "c1", "sleep 1000 & sleep 1000; echo never");
    (plan.stderr, plan.timeout_ms) = (false, Some(200));
    let began = Instant::now();
    pod.daemon.ask_with(Ask::Exec(plan), &[out_end.as_fd()]).0.unwrap();
    drop(out_end);
    assert_eq!(pod.daemon.exec_exit("e1"), (137, true));
    assert_eq!(read_all(out), "", "nobody holds the pipe any more");
    assert!(began.elapsed() >= Duration::from_millis(200) && began.elapsed() < Duration::from_secs(5));
    pod.unmake();
}

#[test]
fn an_exec_is_killed_when_asked() {
    let Some(mut pod) = pod_with_container() else { return };
    let mut plan = exec_plan("e1", "c1", "sleep 1000");
    (plan.stdout, plan.stderr) = (false, false);
    pod.daemon.ask(Ask::Exec(plan.clone())).unwrap();
    assert_eq!(pod.daemon.ask(Ask::Exec(plan)).unwrap_err().kind, RefusalKind::Exists);
    assert_eq!(pod.daemon.ask(Ask::KillExec { exec_id: "e1".into() }), Ok(Answer::Done));
    assert_eq!(pod.daemon.exec_exit("e1"), (137, false));
    pod.unmake();
}

#[test]
fn an_exec_with_a_terminal_hands_its_master_over() {
    let Some(mut pod) = pod_with_container() else { return };
    let mut plan = exec_plan("e1", "c1", "");
    plan.process = process(&["sh", "-c", "tty; stty size; exit 4"]);
    plan.process["terminal"] = true.into();
    plan.process["consoleSize"] = serde_json::json!({"height": 33, "width": 99});
    (plan.terminal, plan.stdout, plan.stderr) = (true, false, false);
    let (answer, fds) = pod.daemon.ask_with(Ask::Exec(plan), &[]);
    assert!(matches!(answer, Ok(Answer::ExecStarted { .. })), "{answer:?}");
    let [master] = <[_; 1]>::try_from(fds).unwrap();
    assert_eq!(pod.daemon.exec_exit("e1"), (4, false));
    let mut text = Vec::new();
    let mut buffer = [0; 256];
    // The end of a terminal is EIO.
    while let Ok(count @ 1..) = rustix::io::read(&master, &mut buffer) {
        text.extend_from_slice(&buffer[..count]);
    }
    let text = String::from_utf8(text).unwrap();
    assert!(text.contains("/dev/pts/") && text.contains("33 99"), "{text:?}");
    pod.unmake();
}

#[test]
fn what_can_not_be_executed_is_refused_with_its_reason() {
    let Some(mut pod) = Pod::made() else { return };
    let plan = pod.container("c1", "sleep 1000");
    pod.create(plan);
    let mut plan = exec_plan("e1", "c1", "true");
    (plan.stdout, plan.stderr) = (false, false);
    let mut check = |plan: conmon_protocol::ExecPlan, kind: RefusalKind, text: &str| {
        let refusal = pod.daemon.ask(Ask::Exec(plan)).unwrap_err();
        assert_eq!(refusal.kind, kind, "{refusal}");
        assert!(refusal.message.contains(text), "{refusal}");
    };
    check(plan.clone(), RefusalKind::State, "has not been started");
    let mut other = plan.clone();
    other.container_id = "c9".into();
    check(other, RefusalKind::NotFound, "c9");
    pod.start("c1");
    let mut check = |plan: conmon_protocol::ExecPlan, kind: RefusalKind, text: &str| {
        let refusal = pod.daemon.ask(Ask::Exec(plan)).unwrap_err();
        assert_eq!(refusal.kind, kind, "{refusal}");
        assert!(refusal.message.contains(text), "{refusal}");
    };
    let mut other = plan.clone();
    other.process = process(&["no-such-command"]);
    check(other, RefusalKind::NoSuchCommand, "no-such-command");
    let mut other = plan.clone();
    other.process = serde_json::json!({"args": 3});
    check(other, RefusalKind::Invalid, "the process to exec");
    let mut other = plan;
    other.stdout = true;
    check(other, RefusalKind::Invalid, "1 descriptors");
    pod.unmake();
}

#[test]
fn two_hundred_execs_leave_no_descriptor_and_cost_little() {
    let Some(mut pod) = pod_with_container() else { return };
    exec(&mut pod, "e", "true");
    let before = descriptors(&pod);
    let began = Instant::now();
    for _ in 0..200 {
        assert_eq!(exec(&mut pod, "e", "true").0, 0);
    }
    println!("an exec takes {:?}", began.elapsed() / 200);
    let mut alone: Vec<Duration> = (0..20)
        .map(|_| {
            std::thread::sleep(Duration::from_millis(60));
            let began = Instant::now();
            exec(&mut pod, "e", "true");
            began.elapsed()
        })
        .collect();
    alone.sort();
    println!("one after a pause takes {:?}", alone[10]);
    let after = descriptors(&pod);
    assert_eq!(before, after);
    pod.unmake();
}

/// What the monitor has open, once it has nothing left to do.
fn descriptors(pod: &Pod) -> Vec<String> {
    let pid = pod.monitor.id();
    eventually("the monitor waits", || {
        std::fs::read_to_string(format!("/proc/{pid}/wchan")).is_ok_and(|wchan| wchan.contains("poll"))
    });
    let fds = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten();
    let mut names: Vec<String> =
        fds.filter_map(|fd| Some(std::fs::read_link(fd.path()).ok()?.to_str()?.to_owned())).collect();
    names.sort();
    names
}
