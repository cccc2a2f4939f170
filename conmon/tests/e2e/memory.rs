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

#[test]
fn twenty_pods_with_a_container_each_share_what_can_be_shared() {
    let mut pods: Vec<Pod> = (0..20).map(|_| Pod::made()).collect();
    for pod in &mut pods {
        pod.run("c1", "sleep 1000");
    }
    report(&pods, "with a container each");
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
