//! What filters let through, and how ends are told.

use std::sync::Arc;

use conmon_protocol::{Exit, PidSharing, PodPlan, Sharing};
use prost::Message as _;

use super::*;

const EXIT: Exit = Exit { code: 0, oom_killed: false, finished_at_ns: 7 };

fn labels(pairs: &[(&str, &str)]) -> HashMap<String, String> {
    pairs.iter().map(|(key, value)| ((*key).to_string(), (*value).to_string())).collect()
}

fn sandbox(id: &str, life: sandbox::Life, created_at_ns: i64, pairs: &[(&str, &str)]) -> Sandbox {
    let config = v1::PodSandboxConfig { labels: labels(pairs), ..Default::default() };
    let pod = PodPlan {
        sandbox_id: id.into(),
        pod_dir: "/run/x".into(),
        hostname: None,
        network: Sharing::Own,
        ipc: Sharing::Own,
        uts: Sharing::Own,
        pid: PidSharing::Container,
        user: None,
        sysctls: vec![],
        shm_size_bytes: None,
        cgroup_parent: String::new(),
        cgroup_driver: conmon_protocol::CgroupDriver::Cgroupfs,
        monitor_cgroup: None,
        process_label: None,
        file_label: None,
    };
    let plan = sandbox::Plan {
        pod,
        handler: "berth".into(),
        hostname: "h".into(),
        port_mappings: vec![],
        resolv_conf: String::new(),
        created_at_ns,
        labels: None,
    };
    let request = v1::RunPodSandboxRequest { config: Some(config), ..Default::default() };
    let facts = Arc::new(sandbox::Facts { id: id.into(), request, plan });
    let ips = vec!["10.0.0.2".parse().unwrap(), "fd00::2".parse().unwrap()];
    let task = sandbox::task::Mailbox::unheard();
    Sandbox { facts, life, ips, limits: None, monitor: None, task }
}

fn world() -> Snapshot {
    let mut world = Snapshot::default();
    for sandbox in [
        sandbox("aa1", sandbox::Life::Ready, 1, &[("app", "web"), ("tier", "front")]),
        sandbox("aa2", sandbox::Life::Stopped, 2, &[("app", "web")]),
        sandbox("bb3", sandbox::Life::Ready, 3, &[("app", "db")]),
    ] {
        world.sandboxes.insert(sandbox.facts.id.clone(), Arc::new(sandbox));
    }
    world
}

#[test]
fn a_list_shows_what_was_published_last() {
    let lists = super::super::lists::Lists::default();
    let listed = |world: &Snapshot| -> Vec<(String, v1::PodSandboxState)> {
        let bytes = lists.sandboxes(world, None).encode_to_vec();
        let read = proto::ListPodSandboxResponse::decode(&*bytes).unwrap();
        read.items.iter().map(|item| (item.id.clone(), item.state())).collect()
    };
    let (ready, not) = (v1::PodSandboxState::SandboxReady, v1::PodSandboxState::SandboxNotready);
    let expected = [("bb3", ready), ("aa2", not), ("aa1", ready)];
    let mut world = world();
    for _ in 0..2 {
        assert_eq!(listed(&world), expected.map(|(id, state)| (id.to_owned(), state)), "the newest first");
    }
    let stopped = Sandbox { life: sandbox::Life::Stopped, ..Sandbox::clone(&world.sandboxes["bb3"]) };
    world.sandboxes.insert("bb3".into(), Arc::new(stopped));
    world.sandboxes.remove("aa2");
    let expected = [("bb3", not), ("aa1", ready)];
    assert_eq!(listed(&world), expected.map(|(id, state)| (id.to_owned(), state)));
}

#[test]
fn all_parts_of_a_filter_must_hold_and_the_newest_is_first() {
    let world = world();
    let check = |filter: v1::PodSandboxFilter, expected: &[&str]| {
        let found: Vec<String> =
            sandboxes(&world, Some(filter)).into_iter().map(|s| s.facts.id.to_string()).collect();
        assert_eq!(found, expected);
    };
    let state = |state: v1::PodSandboxState| Some(v1::PodSandboxStateValue { state: state.into() });
    let none = v1::PodSandboxFilter::default;
    check(none(), &["bb3", "aa2", "aa1"]);
    check(v1::PodSandboxFilter { id: "aa".into(), ..none() }, &["aa2", "aa1"]);
    check(
        v1::PodSandboxFilter { state: state(v1::PodSandboxState::SandboxReady), ..none() },
        &["bb3", "aa1"],
    );
    check(v1::PodSandboxFilter { label_selector: labels(&[("app", "web")]), ..none() }, &["aa2", "aa1"]);
    let both = v1::PodSandboxFilter {
        state: state(v1::PodSandboxState::SandboxReady),
        label_selector: labels(&[("app", "web"), ("tier", "front")]),
        ..none()
    };
    check(both, &["aa1"]);
    check(v1::PodSandboxFilter { label_selector: labels(&[("app", "")]), ..none() }, &[]);
}

#[test]
fn the_first_address_is_the_pods_and_the_rest_are_told_beside_it() {
    let network = pod_sandbox_status(&sandbox("a", sandbox::Life::Ready, 1, &[])).network.unwrap();
    assert_eq!(network.ip, "10.0.0.2");
    assert_eq!(network.additional_ips, [v1::PodIp { ip: "fd00::2".into() }]);
}

#[test]
fn ends_have_the_words_that_the_kubelet_knows() {
    assert_eq!(reason(EXIT), "Completed");
    assert_eq!(reason(Exit { code: 1, ..EXIT }), "Error");
    assert_eq!(reason(Exit { code: 137, oom_killed: true, ..EXIT }), "OOMKilled");
    let unseen = Exit { code: Exit::UNSEEN, ..EXIT };
    assert_eq!((reason(unseen), exit_code(unseen)), ("Unknown", 255));
    assert!(end_message(unseen).contains("to see how"));
    assert_eq!((reason(Exit { code: 255, ..EXIT }), end_message(EXIT)), ("Error", ""));
}

#[test]
fn every_life_is_one_of_the_interfaces_four_states() {
    let check = |life: Life, state: v1::ContainerState| assert_eq!(container_state(&life), state, "{life:?}");
    check(Life::Created { pid: 1 }, v1::ContainerState::ContainerCreated);
    check(Life::Starting { pid: 1, ended: None }, v1::ContainerState::ContainerCreated);
    check(Life::Running { pid: 1, started_at_ns: 2 }, v1::ContainerState::ContainerRunning);
    check(Life::Exited { started_at_ns: 2, exit: EXIT }, v1::ContainerState::ContainerExited);
    check(Life::Broken { started_at_ns: 2, exit: None }, v1::ContainerState::ContainerUnknown);
}
