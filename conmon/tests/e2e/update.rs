//! Limits of a container that runs, changed.

use conmon_protocol::{Answer, Ask, RefusalKind};
use serde_json::{Value, json};

use crate::harness::{Pod, cgroups, runc};

fn update(pod: &mut Pod, resources: Value) -> Result<Answer, conmon_protocol::Refusal> {
    pod.daemon.ask(Ask::Update { container_id: "c1".into(), resources })
}

/// What the kernel has, in whichever hierarchy has the first of these files.
fn limit(pod: &Pod, names: &[&str]) -> String {
    let dirs = cgroups(&pod.cgroup_parent);
    let files = dirs.iter().flat_map(|dir| names.iter().map(move |name| dir.join(name)));
    let text = files.filter_map(|file| std::fs::read_to_string(file).ok()).next().unwrap();
    text.trim().to_owned()
}

const MEMORY: [&str; 2] = ["memory.max", "memory.limit_in_bytes"];

fn a_running_containers_limits_change(mut pod: Pod) {
    pod.run("c1", "sleep 1000");
    let memory = 64 << 20;
    assert_eq!(
        update(&mut pod, json!({"memory": {"limit": memory}, "pids": {"limit": 77}})),
        Ok(Answer::Done)
    );
    assert_eq!(limit(&pod, &["pids.max"]), "77");
    assert_eq!(limit(&pod, &MEMORY), memory.to_string());
    assert_eq!(update(&mut pod, json!({"memory": {"limit": memory * 2}})), Ok(Answer::Done));
    assert_eq!(limit(&pod, &["pids.max"]), "77", "what is not given stays");
    assert_eq!(limit(&pod, &MEMORY), (memory * 2).to_string());
    pod.replace_monitor();
    assert_eq!(update(&mut pod, json!({"pids": {"limit": 88}})), Ok(Answer::Done), "by the next monitor");
    assert_eq!(limit(&pod, &["pids.max"]), "88");
    pod.unmake();
}

#[test]
fn a_running_containers_limits_can_be_changed() {
    let Some(pod) = Pod::made() else { return };
    a_running_containers_limits_change(pod);
}

#[test]
fn runc_changes_the_limits_of_its_container() {
    let Some(pod) = runc() else { return };
    a_running_containers_limits_change(pod);
}

#[test]
fn limits_that_can_not_be_are_refused_and_the_container_goes_on() {
    let Some(mut pod) = Pod::made() else { return };
    let refused = |pod: &mut Pod, resources: Value, kind: RefusalKind, words: &str| {
        let refusal = update(pod, resources).unwrap_err();
        assert_eq!(refusal.kind, kind, "{refusal}");
        assert!(refusal.message.contains(words), "{refusal}");
    };
    refused(&mut pod, json!({}), RefusalKind::NotFound, "no container c1");
    pod.run("c1", "echo up; while [ ! -e /tmp/go ]; do sleep 0.02; done");
    pod.wait_log("c1", "up");
    refused(&mut pod, json!({"cpu": {"quota": "much"}}), RefusalKind::Invalid, "the resources to set");
    refused(&mut pod, json!({"cpu": {"cpus": "900-901"}}), RefusalKind::Failed, "cpus");
    std::fs::write(pod.container_dir("c1").join("bundle/rootfs/tmp/go"), "").unwrap();
    pod.daemon.exit_of("c1");
    refused(&mut pod, json!({"pids": {"limit": 5}}), RefusalKind::State, "has exited");
    pod.unmake();
}
