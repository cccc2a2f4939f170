//! What a monitor costs while nothing happens. Measured on the build under test; `cargo xtask bench pod` measures
//! the static one.

use crate::harness::Pod;

fn rollup(pid: u32, field: &str) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
    let line = text.lines().find(|line| line.starts_with(field)).unwrap();
    line.split_ascii_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn twenty_pods_share_what_can_be_shared() {
    let mut pods: Vec<Pod> = (0..20).map(|_| Pod::made()).collect();
    for pod in &mut pods {
        pod.run("c1", "sleep 1000");
    }
    for pod in pods.iter().take(3) {
        let pid = pod.monitor.id();
        let private = rollup(pid, "Private_Clean:") + rollup(pid, "Private_Dirty:");
        println!("private {private} KiB, PSS {} KiB, RSS {} KiB", rollup(pid, "Pss:"), rollup(pid, "Rss:"));
        assert!(rollup(pid, "Pss:") < 1024);
    }
    pods.into_iter().for_each(Pod::unmake);
}
