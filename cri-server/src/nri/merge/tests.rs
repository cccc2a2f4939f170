//! Two plugins, one container: what comes out, and what is refused.

use super::*;
use proto::nri::{
    HugepageLimit, KeyValue, LinuxContainerUpdate, LinuxCpu, LinuxMemory, Mount, OptionalInt64,
    OptionalUInt64, PosixRlimit,
};

fn env(key: &str, value: &str) -> ContainerAdjustment {
    let env = vec![KeyValue { key: key.into(), value: value.into() }];
    ContainerAdjustment { env, ..Default::default() }
}

fn mount(destination: &str, source: &str) -> ContainerAdjustment {
    let mount = Mount { destination: destination.into(), source: source.into(), ..Default::default() };
    ContainerAdjustment { mounts: vec![mount], ..Default::default() }
}

fn linux(resources: LinuxResources) -> ContainerAdjustment {
    let linux = LinuxContainerAdjustment { resources: Some(resources), ..Default::default() };
    ContainerAdjustment { linux: Some(linux), ..Default::default() }
}

fn shares(value: u64) -> LinuxResources {
    let cpu = LinuxCpu { shares: Some(OptionalUInt64 { value }), ..Default::default() };
    LinuxResources { cpu: Some(cpu), ..Default::default() }
}

fn memory(value: i64) -> LinuxResources {
    let memory = LinuxMemory { limit: Some(OptionalInt64 { value }), ..Default::default() };
    LinuxResources { memory: Some(memory), ..Default::default() }
}

fn update(id: &str, resources: LinuxResources, ignore_failure: bool) -> ContainerUpdate {
    let linux = Some(LinuxContainerUpdate { resources: Some(resources) });
    ContainerUpdate { container_id: id.into(), linux, ignore_failure }
}

/// What two plugins come to, the first by the name of 10-a, the other 20-b.
fn both(one: &ContainerAdjustment, other: &ContainerAdjustment) -> Result<ContainerAdjustment, Error> {
    let mut wishes = Wishes::of_making("c");
    wishes.adjust("10-a", one)?;
    wishes.adjust("20-b", other)?;
    Ok(wishes.adjust)
}

#[track_caller]
fn check_conflict(one: &ContainerAdjustment, other: &ContainerAdjustment, field: &str) {
    let error = both(one, other).unwrap_err().to_string();
    assert!(error.contains("10-a and 20-b") && error.contains(field), "{error}");
}

#[test]
fn wishes_for_different_fields_add_up() {
    let merged = both(&env("A", "1"), &env("B", "2")).unwrap();
    assert_eq!(merged.env.len(), 2);
    let merged = both(&linux(shares(7)), &linux(memory(9))).unwrap();
    let resources = merged.linux.unwrap().resources.unwrap();
    assert_eq!(resources.cpu.unwrap().shares.unwrap().value, 7);
    assert_eq!(resources.memory.unwrap().limit.unwrap().value, 9);
}

#[test]
fn two_plugins_that_want_the_same_are_both_named() {
    check_conflict(&env("A", "1"), &env("A", "1"), "Env \"A\"");
    check_conflict(&mount("/m", "a"), &mount("/m", "b"), "Mounts \"/m\"");
    check_conflict(&linux(shares(1)), &linux(shares(2)), "CPUShares");
    check_conflict(&linux(memory(1)), &linux(memory(2)), "MemLimit");
    let huge = |limit| {
        linux(LinuxResources {
            hugepage_limits: vec![HugepageLimit { page_size: "2MB".into(), limit }],
            ..Default::default()
        })
    };
    check_conflict(&huge(1), &huge(2), "HugepageLimits \"2MB\"");
    let rlimit = |hard| ContainerAdjustment {
        rlimits: vec![PosixRlimit { r#type: "RLIMIT_NOFILE".into(), hard, soft: 1 }],
        ..Default::default()
    };
    check_conflict(&rlimit(1), &rlimit(2), "Rlimits \"RLIMIT_NOFILE\"");
    let args = |word: &str| ContainerAdjustment { args: vec![word.into()], ..Default::default() };
    check_conflict(&args("a"), &args("b"), "Args");
}

#[test]
fn what_is_taken_away_first_may_be_set_anew() {
    let mut replace = env("-A", "");
    replace.env.extend(env("A", "2").env);
    let merged = both(&env("A", "1"), &replace).unwrap();
    assert_eq!(merged.env, env("A", "2").env);
    let merged = both(&env("A", "1"), &env("-A", "")).unwrap();
    assert_eq!(merged.env, env("-A", "").env, "the container's own is to go as well");
    let args = |words: &[&str]| ContainerAdjustment {
        args: words.iter().map(|word| (*word).to_owned()).collect(),
        ..Default::default()
    };
    assert_eq!(both(&args(&["a"]), &args(&["", "b"])).unwrap().args, ["b"]);
}

#[test]
fn the_next_plugin_sees_what_the_one_before_wished() {
    let mut container = Container { env: vec!["A=0".into(), "B=0".into()], ..Default::default() };
    show(&mut container, &env("A", "1"));
    show(&mut container, &env("-B", ""));
    show(&mut container, &mount("/m", "s"));
    show(&mut container, &linux(shares(5)));
    assert_eq!(container.env, ["A=1"]);
    assert_eq!(container.mounts[0].source, "s");
    assert_eq!(container.linux.unwrap().resources.unwrap(), shares(5));
}

#[test]
fn updates_of_others_are_collected_by_container() {
    let mut wishes = Wishes::of_making("c");
    wishes.update("10-a", vec![update("x", shares(1), true), update("y", shares(1), false)]).unwrap();
    wishes.update("20-b", vec![update("x", memory(2), false), update("x", shares(9), true)]).unwrap();
    let error = wishes.update("20-b", vec![update("y", shares(2), false)]).unwrap_err().to_string();
    assert!(error.contains("10-a and 20-b") && error.contains("container y"), "{error}");
    let error = wishes.update("20-b", vec![update("c", shares(2), false)]).unwrap_err().to_string();
    assert!(error.contains("while it is made"), "{error}");
    let (others, own) = wishes.updates_beside("y");
    assert_eq!(own, shares(1));
    let [x] = others.as_slice() else { panic!("{others:?}") };
    let resources = x.linux.clone().unwrap().resources.unwrap();
    assert_eq!(resources.cpu, shares(1).cpu, "the second wish may fail in silence, and does");
    assert_eq!(resources.memory, memory(2).memory);
    assert!(!x.ignore_failure);
}
