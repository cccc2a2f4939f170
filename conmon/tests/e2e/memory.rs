//! What a monitor costs while nothing happens. Measured on the build under test; `cargo xtask bench pod` measures
//! the static one.

use crate::harness::Pod;

fn rollup(pid: u32, field: &str) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
    let line = text.lines().find(|line| line.starts_with(field)).unwrap();
    line.split_ascii_whitespace().nth(1).unwrap().parse().unwrap()
}

fn report(pods: &[Pod], what: &str) {
    for pod in pods.iter().take(2) {
        let pid = pod.monitor.id();
        let private = rollup(pid, "Private_Clean:") + rollup(pid, "Private_Dirty:");
        let (pss, rss) = (rollup(pid, "Pss:"), rollup(pid, "Rss:"));
        println!("{what}: private {private} KiB, PSS {pss} KiB, RSS {rss} KiB");
        assert!(pss < 1024);
    }
}

#[test]
fn twenty_pods_share_what_can_be_shared() {
    let pods: Vec<Pod> = (0..20).map(|_| Pod::made()).collect();
    report(&pods, "without containers");
    pods.into_iter().for_each(Pod::unmake);
}

/// As large as a kubelet's: a seccomp profile of many names, and a cluster's worth of service variables.
fn large_config(pod: &Pod) -> serde_json::Value {
    let mut config = pod.config("c1", &["sleep", "1000"]);
    let env = (0..200).map(|n| format!("SERVICE_{n}_PORT_8080_TCP_ADDR=tcp://10.96.{n}.1:8080"));
    config["process"]["env"] = env.chain(["PATH=/bin".to_owned()]).collect();
    let names: Vec<String> = (0..60).map(|n| format!("no_such_call_{n}")).collect();
    let rule = |n: i32| serde_json::json!({"names": names, "action": "SCMP_ACT_ERRNO", "errnoRet": n});
    config["linux"]["seccomp"] = serde_json::json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
        "syscalls": (1..10).map(rule).collect::<Vec<_>>(),
    });
    config
}

#[test]
fn twenty_pods_with_a_container_each_share_what_can_be_shared() {
    let mut pods: Vec<Pod> = (0..20).map(|_| Pod::made()).collect();
    for pod in &mut pods {
        let plan = pod.container_of("c1", large_config(pod));
        pod.create(plan);
        pod.start("c1");
    }
    report(&pods, "with a container each");
    for pod in &mut pods {
        for n in 0..20 {
            let mut plan = crate::harness::exec_plan(&format!("e{n}"), "c1", "true");
            (plan.stdout, plan.stderr) = (false, false);
            pod.daemon.ask(conmon_protocol::Ask::Exec(plan)).unwrap();
            pod.daemon.exec_exit(&format!("e{n}"));
        }
    }
    report(&pods, "after twenty execs each");
    if std::env::var_os("BERTH_SMAPS").is_some() {
        println!("{}", std::fs::read_to_string(format!("/proc/{}/smaps", pods[0].monitor.id())).unwrap());
    }
    pods.into_iter().for_each(Pod::unmake);
}

#[test]
fn a_monitor_is_there_at_once() {
    let (mut starts, mut makes) = (Vec::new(), Vec::new());
    for _ in 0..20 {
        let began = std::time::Instant::now();
        let mut pod = Pod::new();
        pod.state();
        starts.push(began.elapsed());
        let plan = pod.plan();
        let began = std::time::Instant::now();
        pod.daemon.ask(conmon_protocol::Ask::MakePod(plan)).unwrap();
        makes.push(began.elapsed());
        pod.unmake();
    }
    starts.sort();
    makes.sort();
    println!("spawn to hello: {:?}, making a pod: {:?}", starts[10], makes[10]);
}
