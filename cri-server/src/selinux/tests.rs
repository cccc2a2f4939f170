//! Labels by their output: what the policy has and what is asked for in, contexts out.

use super::*;

fn policy() -> Policy {
    Policy {
        process: "system_u:system_r:container_t:s0".parse().unwrap(),
        file: "system_u:object_r:container_file_t:s0".parse().unwrap(),
        init: Some("container_init_t".into()),
    }
}

/// `USER ROLE TYPE LEVEL`, a dash for what is not asked for.
fn asked(words: &str) -> SeLinuxOption {
    let mut words = words.split(' ').map(|word| if word == "-" { String::new() } else { word.to_owned() });
    let mut next = || words.next().unwrap_or_default();
    SeLinuxOption { user: next(), role: next(), r#type: next(), level: next() }
}

fn pod(words: &str, trust: Trust) -> PodLabels {
    of_pod(&policy(), &asked(words), trust, &Level::of_pair(1, 2)).unwrap()
}

#[track_caller]
fn check(pod: &PodLabels, words: &str, trust: Trust, command: &str, process: &str, file: &str) {
    let labels = of_container(pod, &asked(words), trust, command).unwrap();
    assert_eq!(labels.process.to_string(), process);
    assert_eq!(labels.file.to_string(), file);
}

const FILE: &str = "system_u:object_r:container_file_t:s0:c1,c2";

#[test]
fn containers_of_a_pod_have_its_label() {
    let pod = pod("", Trust::Confined);
    check(&pod, "", Trust::Confined, "/bin/app", "system_u:system_r:container_t:s0:c1,c2", FILE);
    assert_eq!(pod.file.to_string(), FILE);
    assert_eq!(pod.shared.to_string(), "system_u:object_r:container_file_t:s0");
}

#[test]
fn what_a_pod_and_then_a_container_asks_for_wins() {
    let pod = pod("u r t s0:c9", Trust::Confined);
    let file = "system_u:object_r:container_file_t:s0:c9";
    check(&pod, "", Trust::Confined, "x", "u:r:t:s0:c9", file);
    check(&pod, "", Trust::Host, "/sbin/init", "u:r:t:s0:c9", file);
    check(
        &pod,
        "- - mine_t s0-s0:c0.c1023",
        Trust::Host,
        "x",
        "u:r:mine_t:s0-s0:c0.c1023",
        "system_u:object_r:container_file_t:s0",
    );
}

#[test]
fn privileged_containers_are_unconfined_and_their_files_are_not() {
    let pod = pod("", Trust::Confined);
    check(&pod, "", Trust::Host, "x", "system_u:system_r:spc_t:s0", FILE);
    check(
        &pod,
        "- - - s0:c7",
        Trust::Host,
        "x",
        "system_u:system_r:spc_t:s0:c7",
        &FILE.replace("c1,c2", "c7"),
    );
    check(&pod, "- - a_t -", Trust::Host, "x", "system_u:system_r:a_t:s0:c1,c2", FILE);
}

#[test]
fn a_pod_among_the_hosts_processes_is_unconfined() {
    let pod = pod("", Trust::Host);
    check(&pod, "", Trust::Host, "/sbin/init", "system_u:system_r:spc_t:s0", FILE);
    assert!(of_container(&pod, &asked(""), Trust::Host, "x").unwrap().is_unconfined());
}

#[test]
fn an_init_system_has_a_type_of_its_own_where_the_policy_has_one() {
    let labels = pod("", Trust::Confined);
    check(&labels, "", Trust::Confined, "/sbin/init", "system_u:system_r:container_init_t:s0:c1,c2", FILE);
    check(&labels, "- - a_t -", Trust::Confined, "/sbin/init", "system_u:system_r:a_t:s0:c1,c2", FILE);
    let without = Policy { init: None, ..policy() };
    let labels = of_pod(&without, &asked(""), Trust::Confined, &Level::of_pair(1, 2)).unwrap();
    check(&labels, "", Trust::Confined, "/sbin/init", "system_u:system_r:container_t:s0:c1,c2", FILE);
}

#[test]
fn a_part_that_is_none_is_refused_by_its_name() {
    let refused = |words: &str, part: &str| {
        let wish = asked(words);
        let level = Level::of_pair(1, 2);
        let of_pod = of_pod(&policy(), &wish, Trust::Confined, &level).unwrap_err();
        let of_container = of_container(&pod("", Trust::Confined), &wish, Trust::Host, "x").unwrap_err();
        assert_eq!((of_pod.part, of_container.part), (part, part), "{words}");
        assert!(of_pod.to_string().contains(&format!("selinux_options.{part}: ")), "{of_pod}");
    };
    refused("system_u system_r svirt_lxc_net_t s0,c4,c5", "level");
    refused("a:b - - -", "user");
    refused("- r,x - -", "role");
    refused("- - t,context=y -", "type");
}

#[test]
fn what_is_stored_is_read_again() {
    let pod = pod("- - t_t -", Trust::Confined);
    let text = serde_json::to_string(&pod).unwrap();
    assert_eq!(serde_json::from_str::<PodLabels>(&text).unwrap(), pod);
}
