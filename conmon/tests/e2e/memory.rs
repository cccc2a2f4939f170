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
    let pods: Vec<Pod> = (0..20).filter_map(|_| Pod::made()).collect();
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
    let mut pods: Vec<Pod> = (0..20).filter_map(|_| Pod::made()).collect();
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
        let Some(mut pod) = Pod::new() else { return };
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

#[test]
fn each_step_of_a_containers_life_is_quick() {
    use conmon_protocol::Ask;
    let Some(mut pod) = Pod::made() else { return };
    let mut times: Vec<[u128; 4]> = Vec::new();
    for _ in 0..30 {
        let plan = pod.container_of("c1", large_config(&pod));
        std::thread::sleep(std::time::Duration::from_millis(60));
        let mut last = std::time::Instant::now();
        let mut lap = || {
            let now = std::time::Instant::now();
            std::mem::replace(&mut last, now).elapsed().as_micros()
        };
        pod.create(plan);
        let create = lap();
        pod.start("c1");
        let start = lap();
        let kill = Ask::Signal { container_id: "c1".into(), signal: 9, scope: conmon_protocol::Scope::Init };
        pod.daemon.ask(kill).unwrap();
        pod.daemon.exit_of("c1");
        let stop = lap();
        pod.delete("c1");
        times.push([create, start, stop, lap()]);
        std::fs::remove_dir_all(pod.container_dir("c1")).unwrap();
    }
    for (step, name) in ["create", "start", "kill to exit", "delete"].iter().enumerate() {
        let mut of_step: Vec<u128> = times.iter().map(|times| times[step]).collect();
        of_step.sort_unstable();
        println!("{name} takes {} us, at best {} us", of_step[15], of_step[0]);
    }
    pod.unmake();
}

#[test]
fn a_hundred_containers_come_and_go_and_leave_nothing() {
    let Some(mut pod) = Pod::made() else { return };
    let pid = pod.monitor.id();
    let cycle = |pod: &mut Pod| {
        pod.run("c1", "echo hello");
        pod.daemon.exit_of("c1");
        pod.delete("c1");
        std::fs::remove_dir_all(pod.container_dir("c1")).unwrap();
    };
    (0..10).for_each(|_| cycle(&mut pod));
    let fds = crate::harness::open_fds(pid);
    let mut sizes = vec![rollup(pid, "Anonymous:")];
    // A heap takes a while to settle; what leaks grows with every hundred.
    let settled = (0..5).any(|_| {
        (0..100).for_each(|_| cycle(&mut pod));
        sizes.push(rollup(pid, "Anonymous:"));
        sizes[sizes.len() - 1] <= sizes[sizes.len() - 2]
    });
    println!("memory after each hundred: {sizes:?} KiB");
    assert!(settled, "{sizes:?} KiB: every hundred containers cost more");
    assert_eq!(crate::harness::open_fds(pid), fds);
    pod.unmake();
}

#[test]
fn output_is_logged_as_fast_as_it_comes() {
    let Some(mut pod) = Pod::made() else { return };
    let began = std::time::Instant::now();
    pod.run("c1", "yes 'a line of a log as long as many lines of many logs are' | head -c 20000000");
    pod.daemon.exit_of("c1");
    let bytes = std::fs::metadata(pod.log_path("c1")).unwrap().len();
    println!("20 MB of output takes {:?} and makes {bytes} bytes of log", began.elapsed());
    pod.unmake();
}
