//! Pods without containers: made, refused, taken away.

use std::os::fd::AsFd as _;
use std::path::Path;

use conmon_protocol::{Answer, Ask, IdMap, IdMaps, PidSharing, RefusalKind, Sharing, VERSION};

use crate::harness::{Daemon, Pod, eventually};

fn same_namespace(a: &Path, b: &Path) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    std::fs::metadata(a).unwrap().ino() == std::fs::metadata(b).unwrap().ino()
}

/// Runs a command in a pinned namespace.
fn inside(pod: &Pod, namespaces: &[&str], command: &str) -> String {
    let arguments = namespaces.iter().map(|name| format!("--{name}={}/ns/{name}", pod.dir.display()));
    let output =
        std::process::Command::new("nsenter").args(arguments).args(["sh", "-c", command]).output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn a_pod_gets_its_namespaces_and_the_monitor_keeps_the_hosts() {
    let Some(mut pod) = Pod::new() else { return };
    let mut plan = pod.plan();
    plan.sysctls = vec![
        ("net.ipv4.ip_unprivileged_port_start".into(), "99".into()),
        ("kernel/shm_rmid_forced".into(), "1".into()),
    ];
    plan.shm_size_bytes = Some(1 << 20);
    assert_eq!(pod.daemon.ask(Ask::MakePod(plan.clone())), Ok(Answer::Done));
    assert_eq!(pod.daemon.ask(Ask::MakePod(plan)), Ok(Answer::Done), "made already");
    for name in ["net", "ipc", "uts"] {
        let monitors = format!("/proc/{}/ns/{name}", pod.monitor.id());
        let hosts = format!("/proc/self/ns/{name}");
        assert!(same_namespace(Path::new(&monitors), Path::new(&hosts)), "{name}");
        assert!(!same_namespace(&pod.dir.join("ns").join(name), Path::new(&hosts)), "{name}");
    }
    assert!(!pod.dir.join("ns/user").exists() && !pod.dir.join("ns/pid").exists());
    assert_eq!(inside(&pod, &["uts"], "hostname"), "pod-name\n");
    assert_eq!(inside(&pod, &["net"], "cat /proc/sys/net/ipv4/ip_unprivileged_port_start"), "99\n");
    assert_eq!(inside(&pod, &["ipc"], "cat /proc/sys/kernel/shm_rmid_forced"), "1\n");
    assert!(inside(&pod, &["net"], "ip addr show lo || cat /proc/net/dev").contains("127.0.0.1"));
    let shm = rustix::fs::statvfs(pod.dir.join("shm")).unwrap();
    assert_eq!(shm.f_blocks * shm.f_frsize, 1 << 20);
    pod.unmake();
}

#[test]
fn a_pod_on_the_hosts_namespaces_pins_nothing() {
    let Some(mut pod) = Pod::new() else { return };
    let mut plan = pod.plan();
    (plan.network, plan.ipc, plan.uts) = (Sharing::Host, Sharing::Host, Sharing::Host);
    assert_eq!(pod.daemon.ask(Ask::MakePod(plan)), Ok(Answer::Done));
    assert_eq!(std::fs::read_dir(pod.dir.join("ns")).unwrap().count(), 0);
    assert!(!pod.dir.join("shm").exists());
    pod.unmake();
}

#[test]
fn a_shared_pid_namespace_has_a_first_process_that_gives_nothing_away() {
    let Some(mut pod) = Pod::new() else { return };
    let mut plan = pod.plan();
    plan.pid = PidSharing::Pod;
    assert_eq!(pod.daemon.ask(Ask::MakePod(plan)), Ok(Answer::Done));
    let init = children(pod.monitor.id());
    assert_eq!(init.len(), 1);
    let process = format!("/proc/{}", init[0]);
    assert!(same_namespace(&pod.dir.join("ns/pid"), Path::new(&format!("{process}/ns/pid"))));
    let status = std::fs::read_to_string(format!("{process}/status")).unwrap();
    let line = |name: &str| status.lines().find(|line| line.starts_with(name)).unwrap().to_owned();
    assert!(line("NSpid").ends_with("\t1"), "{}", line("NSpid"));
    assert!(line("CapEff").ends_with("0000000000000000"));
    assert!(line("CapPrm").ends_with("0000000000000000"));
    assert!(line("NoNewPrivs").ends_with('1'));
    assert_eq!(std::fs::read_dir(format!("{process}/root")).unwrap().count(), 0, "an empty root");
    let mounts = std::fs::read_to_string(format!("{process}/mountinfo")).unwrap();
    assert_eq!(mounts.lines().count(), 1, "{mounts}");
    let fds = std::fs::read_dir(format!("{process}/fd")).unwrap().flatten();
    for fd in fds {
        assert_eq!(std::fs::read_link(fd.path()).unwrap(), Path::new("/dev/null"));
    }
    assert!(is_read_only(&format!("{process}/exe")), "its executable can be written to once it has ended");
    let pids = format!("--pid={}/ns/pid", pod.dir.display());
    let orphan = "(sleep 0.5 > /dev/null 2>&1 &)";
    assert!(
        std::process::Command::new("nsenter").args([&pids, "sh", "-c", orphan]).status().unwrap().success()
    );
    let init: u32 = init[0].parse().unwrap();
    eventually("the orphan is adopted", || children(init).len() == 1);
    eventually("the orphan is reaped", || children(init).is_empty());
    pod.unmake();
    assert!(!Path::new(&process).exists(), "the first process is left");
}

#[test]
fn a_user_namespace_owns_the_pods_others() {
    for pid in [PidSharing::Container, PidSharing::Pod] {
        let Some(mut pod) = Pod::new() else { return };
        let mut plan = pod.plan();
        let maps = vec![IdMap { container_id: 0, host_id: 100_000, length: 65_536 }];
        plan.user = Some(IdMaps { uids: maps.clone(), gids: maps });
        plan.pid = pid;
        plan.sysctls = vec![
            ("net.ipv4.ip_unprivileged_port_start".into(), "99".into()),
            ("kernel.shm_rmid_forced".into(), "1".into()),
        ];
        assert_eq!(pod.daemon.ask(Ask::MakePod(plan)), Ok(Answer::Done), "{pid:?}");
        assert_eq!(inside(&pod, &["user", "uts"], "hostname"), "pod-name\n");
        assert!(inside(&pod, &["user", "net"], "ip addr show lo").contains("127.0.0.1"));
        assert_eq!(inside(&pod, &["net"], "cat /proc/sys/net/ipv4/ip_unprivileged_port_start"), "99\n");
        assert!(inside(&pod, &["user"], "cat /proc/self/uid_map").contains("100000"));
        assert_eq!(pod.dir.join("ns/pid").exists(), pid == PidSharing::Pod);
        pod.unmake();
    }
}

#[test]
fn what_a_pod_may_not_have_is_refused_and_nothing_stays() {
    let Some(mut pod) = Pod::new() else { return };
    let mut plan = pod.plan();
    plan.sysctls = vec![("kernel.core_pattern".into(), "x".into())];
    let refusal = pod.daemon.ask(Ask::MakePod(plan.clone())).unwrap_err();
    assert_eq!(refusal.kind, RefusalKind::Invalid);
    assert!(refusal.message.contains("kernel.core_pattern"), "{refusal}");
    plan.sysctls = vec![("net.ipv4.no_such_thing".into(), "1".into())];
    let refusal = pod.daemon.ask(Ask::MakePod(plan.clone())).unwrap_err();
    assert!(refusal.message.contains("setting sysctl net.ipv4.no_such_thing"), "{refusal}");
    assert!(!pod.dir.join("ns").exists(), "undone");
    plan.sysctls.clear();
    assert_eq!(pod.daemon.ask(Ask::MakePod(plan)), Ok(Answer::Done), "as if nothing had been");
    pod.unmake();
}

#[test]
fn a_pod_can_be_taken_away_before_it_is_made() {
    let Some(pod) = Pod::new() else { return };
    pod.unmake();
}

#[test]
fn there_is_one_monitor_and_it_answers_many_daemons() {
    let Some(mut pod) = Pod::made() else { return };
    let second = std::process::Command::new(env!("CARGO_BIN_EXE_berth-conmon"))
        .arg("--pod-dir")
        .arg(&pod.dir)
        .output()
        .unwrap();
    assert!(!second.status.success());
    assert!(String::from_utf8_lossy(&second.stderr).contains("another monitor"));

    let before = crate::harness::open_fds(pod.monitor.id());
    for _ in 0..50 {
        let mut other = Daemon::connect(&pod.dir);
        assert!(matches!(other.ask(Ask::Hello { version: VERSION }), Ok(Answer::Hello(state)) if state.made));
        let refusal = other.ask(Ask::Hello { version: VERSION + 1 }).unwrap_err();
        assert_eq!(refusal.kind, RefusalKind::Unsupported);
    }
    eventually("the connections are closed", || crate::harness::open_fds(pod.monitor.id()) == before);
    assert!(pod.state().is_empty());
    pod.unmake();
}

#[test]
fn a_monitor_hears_only_what_is_asked_of_it() {
    let Some(mut pod) = Pod::made() else { return };
    let pid = rustix::process::Pid::from_raw(pod.monitor.id() as i32).unwrap();
    for signal in [rustix::process::Signal::TERM, rustix::process::Signal::HUP, rustix::process::Signal::INT]
    {
        rustix::process::kill_process(pid, signal).unwrap();
    }
    let unknown = pod.daemon.ask(Ask::Start { container_id: "nobody".into() }).unwrap_err();
    assert_eq!(unknown.kind, RefusalKind::NotFound);
    pod.delete("nobody");
    assert_eq!(pod.daemon.ask(Ask::KillExec { exec_id: "nobody".into() }), Ok(Answer::Done));
    assert_eq!(std::fs::read_link(format!("/proc/{pid}/cwd")).unwrap(), Path::new("/"));
    assert!(is_read_only(&format!("/proc/{pid}/exe")), "CVE-2019-5736");
    for fd in std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten() {
        let held = std::fs::read_link(fd.path()).unwrap();
        assert_ne!(held, Path::new("/dev/zero"), "whoever started it had that open");
    }
    let mode =
        std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(pod.dir.join("monitor.sock")).unwrap());
    assert_eq!(mode & 0o777, 0o600);
    let null = std::fs::File::open("/dev/null").unwrap();
    let attach = Ask::Attach { container_id: "nobody".into(), stdin: false, stdout: true, stderr: true };
    assert_eq!(pod.daemon.ask_with(attach, &[null.as_fd()]).0.unwrap_err().kind, RefusalKind::NotFound);
    pod.unmake();
}

#[test]
fn a_made_pod_outlives_its_monitor() {
    let Some(mut pod) = Pod::made() else { return };
    pod.replace_monitor();
    let hello = pod.daemon.ask(Ask::Hello { version: VERSION });
    assert!(matches!(hello, Ok(Answer::Hello(state)) if state.made));
    let plan = pod.plan();
    assert_eq!(pod.daemon.ask(Ask::MakePod(plan)), Ok(Answer::Done));
    assert_eq!(inside(&pod, &["uts"], "hostname"), "pod-name\n");
    pod.unmake();
}

/// While a program runs nobody can write to it anyway (ETXTBSY); what counts is the mount it was opened through.
fn is_read_only(exe: &str) -> bool {
    rustix::fs::statvfs(exe).unwrap().f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY)
}

fn children(pid: u32) -> Vec<String> {
    let list = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
    list.split_ascii_whitespace().map(str::to_owned).collect()
}
