//! Containers: made, started, logged, attached to, ended, taken away.

use std::os::fd::{AsFd as _, OwnedFd};

use conmon_protocol::{
    ATTACH_PACKET, Answer, Ask, ContainerPlan, Handler, Owner, Phase, RefusalKind, STREAM_STDERR,
    STREAM_STDOUT, Scope, Stdin,
};
use rustix::net::{AddressFamily, RecvFlags, Shutdown, SocketFlags, SocketType, recv, shutdown, socketpair};

use crate::harness::{Pod, eventually, open_fds, pipe, read_all};

#[test]
fn a_container_is_created_then_runs_and_its_end_is_told_and_written() {
    let Some(mut pod) = Pod::made() else { return };
    let plan = pod.container("c1", "echo hello; echo oops >&2; exit 3");
    let pid = pod.create(plan);
    assert_eq!(pod.state(), [("c1".to_owned(), Phase::Created { pid })]);
    assert_eq!(pod.log("c1"), "", "it waits");
    pod.start("c1");
    let exit = pod.daemon.exit_of("c1");
    assert_eq!((exit.code, exit.oom_killed), (3, false));
    let mut lines: Vec<String> = pod.log("c1").lines().map(str::to_owned).collect();
    lines.sort();
    assert_eq!(lines, ["stderr F oops", "stdout F hello"]);
    let file = std::fs::read_to_string(pod.container_dir("c1").join("exit")).unwrap();
    assert_eq!(serde_json::from_str::<conmon_protocol::Exit>(&file).unwrap(), exit);
    assert_eq!(pod.state(), [("c1".to_owned(), Phase::Exited(exit))]);
    pod.delete("c1");
    pod.delete("c1");
    assert!(pod.state().is_empty());
    pod.unmake();
}

#[test]
fn asking_twice_is_the_same_as_asking_once() {
    let Some(mut pod) = Pod::made() else { return };
    let plan = pod.container("c1", "sleep 100");
    let first = pod.create(plan.clone());
    let refusal = pod.daemon.ask(Ask::Create(plan)).unwrap_err();
    assert_eq!(refusal.kind, RefusalKind::Exists);
    let started = pod.daemon.ask(Ask::Start { container_id: "c1".into() });
    assert_eq!(pod.daemon.ask(Ask::Start { container_id: "c1".into() }), started);
    for scope in [Scope::Init, Scope::All] {
        let signal = Ask::Signal { container_id: "c1".into(), signal: 9, scope };
        assert_eq!(pod.daemon.ask(signal.clone()), Ok(Answer::Done));
        if scope == Scope::Init {
            assert_eq!(pod.daemon.exit_of("c1").code, 137);
        }
    }
    let refusal = pod.daemon.ask(Ask::Start { container_id: "c1".into() }).unwrap_err();
    assert_eq!(refusal.kind, RefusalKind::State);
    assert!(first > 0);
    pod.unmake();
}

#[test]
fn a_running_container_is_deleted_and_its_end_is_told_too() {
    let Some(mut pod) = Pod::made() else { return };
    pod.run("c1", "trap '' TERM; while true; do sleep 1; done");
    let signal = Ask::Signal { container_id: "c1".into(), signal: 15, scope: Scope::Init };
    assert_eq!(pod.daemon.ask(signal), Ok(Answer::Done));
    pod.delete("c1");
    assert_eq!(pod.daemon.exit_of("c1").code, 137);
    pod.unmake();
}

#[test]
fn a_created_container_can_be_deleted_and_made_again() {
    let Some(mut pod) = Pod::made() else { return };
    for _ in 0..3 {
        let plan = pod.container("c1", "true");
        pod.create(plan);
        pod.delete("c1");
        std::fs::remove_dir_all(pod.container_dir("c1")).unwrap();
    }
    pod.unmake();
}

#[test]
fn what_can_not_be_made_is_refused_with_its_reason_and_nothing_stays() {
    let Some(mut pod) = Pod::made() else { return };
    let before = open_fds(pod.monitor.id());
    let good = pod.container("c1", "true");
    let mut check = |plan: ContainerPlan, kind: RefusalKind, text: &str| {
        let refusal = pod.daemon.ask(Ask::Create(plan)).unwrap_err();
        assert_eq!(refusal.kind, kind, "{refusal}");
        assert!(refusal.message.contains(text), "{refusal}");
    };
    let mut plan = good.clone();
    plan.bundle_dir = "/nowhere".into();
    check(plan, RefusalKind::Failed, "reading /nowhere/config.json");
    let mut plan = good.clone();
    plan.log_path = Some("/nowhere/0.log".into());
    check(plan, RefusalKind::Failed, "opening the log /nowhere/0.log");
    let mut plan = good;
    plan.handler = Handler::Command {
        path: "/no/such/runtime".into(),
        root: "/x".into(),
        cgroup_driver: conmon_protocol::CgroupDriver::Cgroupfs,
    };
    check(plan, RefusalKind::Failed, "starting the runtime /no/such/runtime");
    assert!(pod.state().is_empty());
    assert_eq!(open_fds(pod.monitor.id()), before);
    pod.unmake();
}

#[test]
fn a_command_that_does_not_exist_is_told_as_such() {
    let Some(mut pod) = Pod::made() else { return };
    let config = pod.config("c1", &["/no/such/command"]);
    let plan = pod.container_of("c1", config);
    let answer = match pod.daemon.ask(Ask::Create(plan)) {
        Ok(_) => pod.daemon.ask(Ask::Start { container_id: "c1".into() }),
        refused => refused,
    };
    let refusal = answer.unwrap_err();
    assert_eq!(refusal.kind, RefusalKind::NoSuchCommand, "{refusal}");
    assert!(refusal.message.contains("/no/such/command"), "{refusal}");
    pod.delete("c1");
    pod.unmake();
}

/// The image's entry point is whatever process makes the container (CVE-2019-5736): it finds a program that it can
/// neither use nor change.
#[test]
fn a_container_that_executes_its_maker_gets_nothing_from_it() {
    let Some(mut pod) = Pod::made() else { return };
    let program = crate::harness::program();
    let before = std::fs::read(&program).unwrap();
    let config = pod.config("c1", &["/proc/self/exe", "--pod-dir", "/"]);
    let plan = pod.container_of("c1", config);
    match pod.daemon.ask(Ask::Create(plan)) {
        Ok(_) => {
            pod.start("c1");
            assert_ne!(pod.daemon.exit_of("c1").code, 0);
        }
        Err(refusal) => assert_eq!(refusal.kind, RefusalKind::NoSuchCommand, "{refusal}"),
    }
    assert!(std::fs::read(&program).unwrap() == before);
    pod.unmake();
}

#[test]
fn a_rotated_log_goes_on_in_a_new_file() {
    let Some(mut pod) = Pod::made() else { return };
    pod.run(
        "c1",
        "echo one; read x < /dev/stdin; i=0; while [ ! -e /tmp/go ]; do sleep 0.02; done; echo two",
    );
    pod.wait_log("c1", "one");
    let rotated = pod.log_path("c1").with_extension("old");
    std::fs::rename(pod.log_path("c1"), &rotated).unwrap();
    assert_eq!(pod.daemon.ask(Ask::Reopen { container_id: "c1".into() }), Ok(Answer::Done));
    assert!(pod.log_path("c1").exists(), "it is there when the answer is");
    std::fs::write(pod.container_dir("c1").join("bundle/rootfs/tmp/go"), "").unwrap();
    pod.daemon.exit_of("c1");
    assert_eq!(pod.log("c1"), "stdout F two\n");
    let refusal = pod.daemon.ask(Ask::Reopen { container_id: "c1".into() }).unwrap_err();
    assert_eq!(refusal.kind, RefusalKind::State, "it has exited, and no file is made");
    pod.unmake();
}

#[test]
fn much_output_is_logged_whole_and_long_lines_are_cut() {
    let Some(mut pod) = Pod::made() else { return };
    pod.run("c1", "seq 1 200000; head -c 50000 /dev/zero");
    pod.daemon.exit_of("c1");
    let text = std::fs::read(pod.log_path("c1")).unwrap();
    let mut whole = Vec::new();
    for record in text.split_inclusive(|byte| *byte == b'\n') {
        assert!(record.len() <= 40 + (16 << 10) + 1);
        let ends = record[38] == b'F';
        whole.extend_from_slice(&record[40..record.len() - usize::from(!ends)]);
    }
    let mut expected: Vec<u8> = (1..=200_000).flat_map(|n: u32| format!("{n}\n").into_bytes()).collect();
    expected.extend([0; 50_000]);
    expected.push(b'\n');
    assert!(whole == expected, "{} bytes instead of {}", whole.len(), expected.len());
    pod.unmake();
}

#[test]
fn a_log_that_can_not_be_written_does_not_stop_the_container() {
    let Some(mut pod) = Pod::made() else { return };
    let small = pod.run.path().join("small");
    std::fs::create_dir(&small).unwrap();
    // More than what is left in a pipe makes, and less than all of it.
    let size = c"size=1m";
    rustix::mount::mount("tmpfs", &small, "tmpfs", rustix::mount::MountFlags::empty(), Some(size)).unwrap();
    let mut plan = pod.container(
        "c1",
        "seq 1 100000; echo > /tmp/done; while [ ! -e /tmp/go ]; do sleep 0.02; done; echo last",
    );
    plan.log_path = Some(small.join("0.log"));
    pod.create(plan);
    pod.start("c1");
    let journal = pod.dir.join("monitor.log");
    eventually("the loss is noted", || {
        std::fs::read_to_string(&journal).is_ok_and(|text| text.contains("losing the log of c1"))
    });
    let done = pod.container_dir("c1").join("bundle/rootfs/tmp/done");
    eventually("all is written", || done.exists());
    std::fs::File::options().write(true).truncate(true).open(small.join("0.log")).unwrap();
    std::fs::write(pod.container_dir("c1").join("bundle/rootfs/tmp/go"), "").unwrap();
    assert_eq!(pod.daemon.exit_of("c1").code, 0);
    let text = std::fs::read_to_string(small.join("0.log")).unwrap();
    assert_eq!(text.lines().last().map(|line| &line[31..]), Some("stdout F last"));
    assert!(
        text.lines().all(|line| line.as_bytes()[38] == b'F' || line.as_bytes()[38] == b'P'),
        "no torn line"
    );
    rustix::mount::unmount(&small, rustix::mount::UnmountFlags::DETACH).unwrap();
    pod.unmake();
}

#[test]
fn an_unprivileged_process_may_open_its_own_stdout_again() {
    let Some(mut pod) = Pod::made() else { return };
    let mut config =
        pod.config("c1", &["sh", "-c", "echo out > /proc/self/fd/1; echo err > /proc/self/fd/2"]);
    config["process"]["user"] = serde_json::json!({"uid": 1234, "gid": 1234});
    let mut plan = pod.container_of("c1", config);
    plan.stdio_owner = Owner { uid: 1234, gid: 1234 };
    pod.create(plan);
    pod.start("c1");
    assert_eq!(pod.daemon.exit_of("c1").code, 0);
    let mut lines: Vec<String> = pod.log("c1").lines().map(str::to_owned).collect();
    lines.sort();
    assert_eq!(lines, ["stderr F err", "stdout F out"]);
    pod.unmake();
}

#[test]
fn a_container_gets_clean_signals_and_no_descriptors() {
    let Some(mut pod) = Pod::made() else { return };
    pod.run("c1", "grep -E '^Sig(Blk|Ign|Cgt)' /proc/self/status; ls /proc/self/fd");
    pod.daemon.exit_of("c1");
    let log = pod.log("c1");
    assert!(log.contains("SigBlk:\t0000000000000000"), "{log}");
    // 32 and 33 are the C library's own; whoever started this test may ignore them.
    let ignored = log.lines().find_map(|line| line.strip_prefix("stdout F SigIgn:\t")).unwrap();
    assert_eq!(u64::from_str_radix(ignored, 16).unwrap() & !(3 << 31), 0, "{log}");
    let fds: Vec<&str> = log.lines().filter_map(|line| line.strip_prefix("stdout F ")).skip(3).collect();
    assert_eq!(fds, ["0", "1", "2", "3"], "3 is the directory that ls reads");
    pod.unmake();
}

pub(crate) fn attach(pod: &mut Pod, id: &str, stdin: bool) -> OwnedFd {
    let (ours, theirs) =
        socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
    rustix::net::sockopt::set_socket_timeout(
        &ours,
        rustix::net::sockopt::Timeout::Recv,
        Some(crate::harness::PATIENCE),
    )
    .unwrap();
    let ask = Ask::Attach { container_id: id.into(), stdin, stdout: true, stderr: true };
    assert_eq!(pod.daemon.ask_with(ask, &[theirs.as_fd()]).0, Ok(Answer::Done));
    ours
}

/// All packets until the end: what came from stdout, and from stderr.
fn hear(client: &OwnedFd) -> (String, String) {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let mut buffer = [0; ATTACH_PACKET + 1];
    loop {
        match recv(client, &mut buffer, RecvFlags::empty()).unwrap().1 {
            0 => return (String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap()),
            length => match buffer[0] {
                STREAM_STDOUT => out.extend_from_slice(&buffer[1..length]),
                STREAM_STDERR => err.extend_from_slice(&buffer[1..length]),
                other => panic!("stream {other}"),
            },
        }
    }
}

#[test]
fn clients_hear_and_speak_and_the_end_of_a_once_stdin_is_the_containers() {
    let Some(mut pod) = Pod::made() else { return };
    let mut plan = pod.container("c1", "cat; echo bye >&2");
    plan.stdin = Stdin::Once;
    pod.create(plan);
    let listener = attach(&mut pod, "c1", false);
    let speaker = attach(&mut pod, "c1", true);
    pod.start("c1");
    let words: String = (0..20_000).map(|n| format!("word {n}\n")).collect();
    for packet in words.as_bytes().chunks(ATTACH_PACKET) {
        rustix::io::write(&speaker, packet).unwrap();
    }
    shutdown(&speaker, Shutdown::Write).unwrap();
    let heard = std::thread::spawn(move || hear(&listener));
    assert_eq!(hear(&speaker), (words.clone(), "bye\n".to_owned()));
    assert_eq!(heard.join().unwrap(), (words, "bye\n".to_owned()));
    assert_eq!(pod.daemon.exit_of("c1").code, 0);
    pod.unmake();
}

#[test]
fn an_open_stdin_outlives_its_clients() {
    let Some(mut pod) = Pod::made() else { return };
    let mut plan = pod.container("c1", "read a; echo got $a; read b; echo got $b");
    plan.stdin = Stdin::Open;
    pod.create(plan);
    pod.start("c1");
    for word in ["one", "two"] {
        let client = attach(&mut pod, "c1", true);
        rustix::io::write(&client, format!("{word}\n").as_bytes()).unwrap();
        pod.wait_log("c1", &format!("got {word}"));
    }
    assert_eq!(pod.daemon.exit_of("c1").code, 0);
    pod.unmake();
}

#[test]
fn a_client_that_does_not_read_never_stops_the_container() {
    let Some(mut pod) = Pod::made() else { return };
    let plan = pod.container("c1", "seq 1 1000000");
    pod.create(plan);
    let lazy = attach(&mut pod, "c1", false);
    let before = open_fds(pod.monitor.id());
    pod.start("c1");
    eventually("the lazy client is let go", || open_fds(pod.monitor.id()) < before);
    assert_eq!(pod.daemon.exit_of("c1").code, 0);
    assert!(hear(&lazy).0.starts_with("1\n2\n"), "what it got before is its own");
    pod.unmake();
}

#[test]
fn a_thousand_clients_come_and_go_and_leave_nothing() {
    let Some(mut pod) = Pod::made() else { return };
    let mut plan = pod.container("c1", "cat");
    plan.stdin = Stdin::Open;
    pod.create(plan);
    pod.start("c1");
    let before = open_fds(pod.monitor.id());
    for _ in 0..1000 {
        drop(attach(&mut pod, "c1", true));
    }
    eventually("all are gone", || open_fds(pod.monitor.id()) == before);
    pod.unmake();
}

#[test]
fn a_terminal_is_logged_resized_and_typed_into() {
    let Some(mut pod) = Pod::made() else { return };
    let mut config = pod.config("c1", &["sh", "-c", "tty; read line; stty size; echo got $line"]);
    config["process"]["terminal"] = true.into();
    let mut plan = pod.container_of("c1", config);
    plan.terminal = true;
    plan.stdin = Stdin::Open;
    pod.create(plan);
    pod.start("c1");
    pod.wait_log("c1", "/dev/");
    let resize = Ask::Resize { container_id: "c1".into(), columns: 101, rows: 37 };
    assert_eq!(pod.daemon.ask(resize), Ok(Answer::Done));
    let client = attach(&mut pod, "c1", true);
    rustix::io::write(&client, b"typed\n").unwrap();
    assert_eq!(pod.daemon.exit_of("c1").code, 0);
    let (out, err) = hear(&client);
    assert!(out.contains("37 101\r\n") && out.contains("got typed\r\n"), "{out:?}");
    assert_eq!(err, "");
    let log = std::fs::read_to_string(pod.log_path("c1")).unwrap();
    assert!(log.contains("stdout F got typed\r\n"), "{log:?}");
    pod.unmake();
}

#[test]
fn a_killed_daemon_changes_nothing() {
    let Some(mut pod) = Pod::made() else { return };
    pod.run("c1", "while [ ! -e /tmp/go ]; do sleep 0.02; done; echo after; exit 5");
    pod.daemon = crate::harness::Daemon::connect(&pod.dir);
    std::fs::write(pod.container_dir("c1").join("bundle/rootfs/tmp/go"), "").unwrap();
    assert_eq!(pod.daemon.exit_of("c1").code, 5);
    assert_eq!(pod.log("c1"), "stdout F after\n");
    pod.unmake();
}

#[test]
fn an_out_of_memory_kill_is_told() {
    let Some(mut pod) = Pod::made() else { return };
    let mut config = pod.config("c1", &["dd", "if=/dev/zero", "of=/dev/null", "bs=100M"]);
    config["linux"]["resources"]["memory"] = serde_json::json!({"limit": 16 << 20, "swap": 16 << 20});
    let plan = pod.container_of("c1", config);
    pod.create(plan);
    pod.start("c1");
    pod.daemon.event(|event| {
        matches!(event, conmon_protocol::Event::Oom { container_id } if container_id == "c1").then_some(())
    });
    let exit = pod.daemon.exit_of("c1");
    assert_eq!((exit.code, exit.oom_killed), (137, true));
    pod.unmake();
}

/// The kernel counts a kill before it sends the signal, so the count is there when the end is, whoever is heard first.
#[test]
fn an_out_of_memory_kill_is_told_though_the_end_is_heard_with_it() {
    use rustix::process::{Pid, Signal, kill_process};
    let Some(mut pod) = Pod::made() else { return };
    let script = "while [ ! -e /tmp/go ]; do sleep 0.02; done; exec dd if=/dev/zero of=/dev/null bs=100M";
    let mut config = pod.config("c1", &["sh", "-c", script]);
    config["linux"]["resources"]["memory"] = serde_json::json!({"limit": 16 << 20, "swap": 16 << 20});
    let plan = pod.container_of("c1", config);
    let pid = pod.create(plan);
    pod.start("c1");
    let monitor = Pid::from_raw(pod.monitor.id() as i32).unwrap();
    kill_process(monitor, Signal::STOP).unwrap();
    std::fs::write(pod.container_dir("c1").join("bundle/rootfs/tmp/go"), "").unwrap();
    let is_zombie = || {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('Z'))
    };
    let begun = std::time::Instant::now();
    while !is_zombie() && begun.elapsed() < crate::harness::PATIENCE {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    kill_process(monitor, Signal::CONT).unwrap();
    let exit = pod.daemon.exit_of("c1");
    assert_eq!((exit.code, exit.oom_killed), (137, true));
    pod.unmake();
}

#[test]
fn an_out_of_memory_kill_is_told_when_it_happens_also_of_a_process_that_is_not_the_first() {
    let Some(mut pod) = Pod::made() else { return };
    let script = "dd if=/dev/zero of=/dev/null bs=100M; echo survived; sleep 1000";
    let mut config = pod.config("c1", &["sh", "-c", script]);
    config["linux"]["resources"]["memory"] = serde_json::json!({"limit": 16 << 20, "swap": 16 << 20});
    let plan = pod.container_of("c1", config);
    pod.create(plan);
    pod.start("c1");
    let oom = |event: &conmon_protocol::Event| {
        matches!(event, conmon_protocol::Event::Oom { container_id } if container_id == "c1").then_some(())
    };
    pod.daemon.event(oom);
    pod.wait_log("c1", "survived");
    assert!(matches!(&pod.state()[..], [(_, Phase::Running { .. })]));
    pod.replace_monitor();
    let (mut exec, memory) =
        (crate::harness::exec_plan("e1", "c1", "exec dd if=/dev/zero of=/dev/null bs=100M"), 137);
    (exec.stdout, exec.stderr) = (false, false);
    pod.daemon.ask(Ask::Exec(exec)).unwrap();
    assert_eq!(pod.daemon.exec_exit("e1"), (memory, false));
    pod.daemon.event(oom);
    pod.unmake();
}

#[test]
fn what_a_container_leaves_behind_in_a_shared_namespace_ends_with_it() {
    let Some(mut pod) = Pod::new() else { return };
    let mut plan = pod.plan();
    plan.pid = conmon_protocol::PidSharing::Pod;
    assert_eq!(pod.daemon.ask(Ask::MakePod(plan)), Ok(Answer::Done));
    let mut config = pod.config("c1", &["sh", "-c", "sleep 1000 & echo $!; exit 0"]);
    for namespace in config["linux"]["namespaces"].as_array_mut().unwrap() {
        if namespace["type"] == "pid" {
            namespace["path"] = pod.dir.join("ns/pid").to_str().unwrap().into();
        }
    }
    let plan = pod.container_of("c1", config);
    pod.create(plan);
    pod.start("c1");
    assert_eq!(pod.daemon.exit_of("c1").code, 0);
    assert!(pod.log("c1").starts_with("stdout F "));
    pod.unmake();
}

#[test]
fn everything_of_a_pod_goes_at_once() {
    let Some(mut pod) = Pod::made() else { return };
    for id in ["c1", "c2", "c3"] {
        pod.run(id, "sleep 1000");
    }
    let plan = pod.container("c4", "true");
    pod.create(plan);
    pod.run("c5", "exit 1");
    pod.daemon.exit_of("c5");
    let (reader, writer) = pipe();
    let plan = crate::harness::exec_plan("e1", "c1", "sleep 1000");
    let exec = pod.daemon.ask_with(Ask::Exec(plan), &[writer.as_fd(), writer.as_fd()]).0;
    assert!(matches!(exec, Ok(Answer::ExecStarted { .. })), "{exec:?}");
    drop(writer);
    pod.unmake();
    assert_eq!(read_all(reader), "", "the exec has ended too");
}

#[test]
fn layers_are_stacked_and_only_the_writable_one_is_written() {
    let Some(mut pod) = Pod::made() else { return };
    stack(&mut pod);
    pod.unmake();
}

/// A container on two layers, of which the upper hides a file of the lower.
pub(crate) fn stack(pod: &mut Pod) {
    let script =
        "cat /tmp/name; echo written > /tmp/new; cat /tmp/new; while [ ! -e /tmp/go ]; do sleep 0.02; done";
    let mut plan = pod.container("c1", script);
    std::fs::remove_dir_all(plan.bundle_dir.join("rootfs")).unwrap();
    let layer = |name: &str| pod.run.path().join(name);
    crate::harness::make_rootfs(&layer("bottom"));
    std::fs::write(layer("bottom").join("tmp/name"), "bottom\n").unwrap();
    for name in ["top/tmp", "upper", "work"] {
        std::fs::create_dir_all(layer(name)).unwrap();
    }
    std::fs::write(layer("top").join("tmp/name"), "top\n").unwrap();
    plan.rootfs = conmon_protocol::Rootfs::Overlay {
        lower: vec![layer("top"), layer("bottom")],
        upper: layer("upper"),
        work: layer("work"),
    };
    let upper = layer("upper");
    pod.create(plan);
    pod.start("c1");
    pod.wait_log("c1", "written");
    assert_eq!(pod.log("c1"), "stdout F top\nstdout F written\n");
    assert_eq!(std::fs::read_to_string(upper.join("tmp/new")).unwrap(), "written\n");
    pod.delete("c1");
}
