//! Another OCI runtime behind the same monitor. `BERTH_HANDLER=/usr/sbin/runc` runs all other tests with it too.

use std::os::fd::AsFd as _;

use conmon_protocol::{Answer, Ask, Phase, RefusalKind};

use crate::harness::{exec_plan, pipe, process, read_all, runc};

#[test]
fn runc_makes_starts_enters_and_takes_away() {
    let Some(mut pod) = runc() else { return };
    let pid = pod.run("c1", "echo hello; while [ ! -e /tmp/go ]; do sleep 0.02; done; exit 3");
    pod.wait_log("c1", "hello");
    assert!(matches!(&pod.state()[..], [(_, Phase::Running { pid: same, .. })] if *same == pid));

    let (out, out_end) = pipe();
    let mut plan = exec_plan("e1", "c1", "echo out; exit 7");
    plan.stderr = false;
    let answer = pod.daemon.ask_with(Ask::Exec(plan.clone()), &[out_end.as_fd()]).0;
    assert!(matches!(answer, Ok(Answer::ExecStarted { .. })), "{answer:?}");
    drop(out_end);
    assert_eq!((pod.daemon.exec_exit("e1"), read_all(out)), ((7, false), "out\n".to_owned()));

    (plan.stdout, plan.process) = (false, process(&["no-such-command"]));
    let refusal = pod.daemon.ask(Ask::Exec(plan)).unwrap_err();
    assert_eq!(refusal.kind, RefusalKind::NoSuchCommand, "{refusal}");

    pod.replace_monitor();
    std::fs::write(pod.container_dir("c1").join("bundle/rootfs/tmp/go"), "").unwrap();
    assert_eq!(pod.daemon.exit_of("c1").code, 3);
    pod.delete("c1");
    pod.delete("c1");
    pod.unmake();
}

#[test]
fn runc_gets_its_layers_mounted() {
    let Some(mut pod) = runc() else { return };
    crate::container::stack(&mut pod);
    pod.unmake();
}

#[test]
fn runc_hands_terminals_over() {
    let Some(mut pod) = runc() else { return };
    let mut config = pod.config("c1", &["sh", "-c", "tty; sleep 1000"]);
    config["process"]["terminal"] = true.into();
    let mut plan = pod.container_of("c1", config);
    plan.terminal = true;
    pod.create(plan);
    pod.start("c1");
    pod.wait_log("c1", "/dev/");
    let mut plan = exec_plan("e1", "c1", "tty; exit 4");
    plan.process["terminal"] = true.into();
    (plan.terminal, plan.stdout, plan.stderr) = (true, false, false);
    let (answer, fds) = pod.daemon.ask_with(Ask::Exec(plan), &[]);
    assert!(matches!(answer, Ok(Answer::ExecStarted { .. })), "{answer:?}");
    assert_eq!(fds.len(), 1);
    assert_eq!(pod.daemon.exec_exit("e1"), (4, false));
    pod.unmake();
}

#[test]
fn what_runc_says_is_passed_on() {
    let Some(mut pod) = runc() else { return };
    let config = pod.config("c1", &["/no/such/command"]);
    let plan = pod.container_of("c1", config);
    let answer = match pod.daemon.ask(Ask::Create(plan)) {
        Ok(_) => pod.daemon.ask(Ask::Start { container_id: "c1".into() }),
        refused => refused,
    };
    let refusal = answer.unwrap_err();
    assert_eq!(refusal.kind, RefusalKind::NoSuchCommand, "{refusal}");
    assert!(refusal.message.contains("/no/such/command"), "{refusal}");
    pod.unmake();
}
