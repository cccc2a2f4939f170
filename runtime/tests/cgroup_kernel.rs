//! Cgroups on the real kernel, whatever layout this machine has. Needs root; each test's cgroup is its own.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::io::Write as _;
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use runtime::cgroup::{Cgroup, Error};
use runtime::spec::Resources;

/// A cgroup path of one test, gone with all below it when the test ends, however it ends.
struct Scratch(String);

impl Scratch {
    fn new(test: &str) -> Option<Scratch> {
        if !rustix::process::geteuid().is_root() || Cgroup::at("/x").is_err() {
            assert!(std::env::var_os("CI").is_none(), "needs root and cgroups");
            println!("skipped: needs root and cgroups");
            return None;
        }
        Some(Scratch(format!("berth-test-{}-{test}", std::process::id())))
    }

    fn path(&self) -> String {
        format!("/{}/pod/c", self.0)
    }

    fn dirs(&self) -> Vec<PathBuf> {
        Cgroup::at(&self.path()).unwrap().places().into_iter().map(|place| place.dir).collect()
    }

    /// The directory of a hierarchy by the name of its mount point.
    fn dir(&self, name: &str) -> Option<PathBuf> {
        let places = Cgroup::at(&self.path()).unwrap().places();
        places.into_iter().find(|place| place.root.ends_with(name)).map(|place| place.dir)
    }

    fn is_gone(&self) -> bool {
        Cgroup::at(&self.0).unwrap().places().iter().all(|place| !place.dir.exists())
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Ok(cgroup) = Cgroup::at(&self.0) {
            let _ = cgroup.kill_all(9);
            let _ = cgroup.remove();
        }
    }
}

fn resources(json: &str) -> Resources {
    serde_json::from_str(json).unwrap()
}

fn read(dir: &Path, file: &str) -> String {
    fs::read_to_string(dir.join(file)).unwrap().trim().to_owned()
}

#[track_caller]
fn check(scratch: &Scratch, hierarchy: &str, file: &str, expected: &str) {
    let Some(dir) = scratch.dir(hierarchy) else { return };
    assert_eq!(read(&dir, file), expected, "{file}");
}

/// The same where cgroup2 is alone, and serves every controller.
#[track_caller]
fn check_v2(scratch: &Scratch, file: &str, expected: &str) {
    check(scratch, "/sys/fs/cgroup", file, expected);
}

/// A shell put into the cgroup from outside, which only a test may take the time for.
fn inside(scratch: &Scratch, command: &str) -> Child {
    let mut child = Command::new("sh")
        .args(["-c", &format!("read line; {command}")])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    for dir in scratch.dirs() {
        fs::write(dir.join("cgroup.procs"), child.id().to_string()).unwrap();
    }
    // It waits for its line until it is inside.
    writeln!(child.stdin.take().unwrap()).unwrap();
    child
}

fn sleeper(scratch: &Scratch) -> Child {
    inside(scratch, "exec sleep 600")
}

const LIMITS: &str = r#"{
    "memory": {"limit": 67108864, "reservation": 33554432},
    "cpu": {"shares": 102, "quota": 50000, "period": 100000}, "pids": {"limit": 100},
    "hugepageLimits": [{"pageSize": "2MB", "limit": 0}, {"pageSize": "1GB", "limit": 0}],
    "devices": [{"allow": false, "access": "rwm"}, {"allow": true, "type": "c", "major": 10, "minor": 229, "access": "rw"}]}"#;

#[test]
fn a_cgroup_is_made_everywhere_with_its_limits_and_removed() {
    let Some(scratch) = Scratch::new("make") else { return };
    let cgroup = Cgroup::create(&scratch.path(), &resources(LIMITS)).unwrap();
    assert!(scratch.dirs().iter().all(|dir| dir.is_dir()));
    check(&scratch, "memory", "memory.limit_in_bytes", "67108864");
    check(&scratch, "memory", "memory.soft_limit_in_bytes", "33554432");
    check(&scratch, "cpu", "cpu.shares", "102");
    check(&scratch, "cpu", "cpu.cfs_quota_us", "50000");
    check(&scratch, "pids", "pids.max", "100");
    check_v2(&scratch, "memory.max", "67108864");
    check_v2(&scratch, "memory.low", "33554432");
    check_v2(&scratch, "cpu.weight", "17");
    check_v2(&scratch, "cpu.max", "50000 100000");
    check_v2(&scratch, "pids.max", "100");
    if let Some(dir) = scratch.dir("devices") {
        let list = read(&dir, "devices.list");
        assert!(
            list.contains("c 1:3 rwm") && list.contains("c 10:229 rw") && !list.contains("a *:*"),
            "{list}"
        );
    }
    if let Some(dir) = scratch.dir("cpuset") {
        assert!(!read(&dir, "cpuset.cpus").is_empty() && !read(&dir, "cpuset.mems").is_empty());
    }
    let v1 = cgroup.places().iter().filter(|place| !place.unified).count();
    assert_eq!(cgroup.task_files().len(), v1);
    assert_eq!(cgroup.unified_dir().is_some(), cgroup.places().iter().any(|place| place.unified));
    cgroup.remove().unwrap();
    assert!(scratch.dirs().iter().all(|dir| !dir.exists()));
    cgroup.remove().unwrap();
}

#[test]
fn a_thread_joins_by_writing_zero_to_the_task_files() {
    let Some(scratch) = Scratch::new("join") else { return };
    let cgroup = Cgroup::create(&scratch.path(), &Resources::default()).unwrap();
    let path = format!("/{}", scratch.path().trim_start_matches('/'));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for file in cgroup.task_files() {
                rustix::io::write(file, b"0").unwrap();
            }
            let own = fs::read_to_string("/proc/thread-self/cgroup").unwrap();
            let v1 = own.lines().filter(|line| !line.starts_with("0::"));
            assert!(v1.clone().count() > 0 || cgroup.task_files().is_empty());
            assert!(v1.clone().all(|line| line.ends_with(&path)), "{own}");
        });
    });
    cgroup.remove().unwrap();
}

#[test]
fn what_was_made_is_taken_back_when_a_limit_is_refused() {
    let Some(scratch) = Scratch::new("undo") else { return };
    for refused in [
        r#"{"cpu": {"cpus": "4000"}}"#,
        r#"{"cpu": {"period": 1}}"#,
        r#"{"devices": [{"allow": true, "type": "p"}]}"#,
        r#"{"unified": {"nonsense.max": "1"}}"#,
    ] {
        Cgroup::create(&scratch.path(), &resources(refused)).unwrap_err();
        assert!(scratch.is_gone(), "{refused}");
    }
}

#[test]
fn an_error_names_the_field_and_the_file() {
    let Some(scratch) = Scratch::new("error") else { return };
    let Some(cpu) = scratch.dir("cpu") else { return };
    let error = Cgroup::create(&scratch.path(), &resources(r#"{"cpu": {"period": 1}}"#)).unwrap_err();
    let file = cpu.join("cpu.cfs_period_us");
    let expected =
        format!("linux.resources.cpu.period: writing 1 to {} (OCI config-linux.md, CPU)", file.display());
    assert_eq!(error.to_string(), expected);
}

#[test]
fn limits_are_raised_and_lowered() {
    let Some(scratch) = Scratch::new("update") else { return };
    let cgroup = Cgroup::create(&scratch.path(), &resources(LIMITS)).unwrap();
    for (limit, swap) in [(64, 64), (256, 512), (32, 32), (128, 128), (-1, -1), (16, 32)] {
        let bytes = |mib: i64| if mib < 0 { -1 } else { mib << 20 };
        let (limit, swap) = (bytes(limit), bytes(swap));
        let json = format!(r#"{{"memory": {{"limit": {limit}, "swap": {swap}}}}}"#);
        cgroup.update(&resources(&json)).unwrap();
        if limit > 0 {
            check(&scratch, "memory", "memory.limit_in_bytes", &limit.to_string());
            check_v2(&scratch, "memory.max", &limit.to_string());
        }
    }
    for (quota, period, burst) in
        [(100_000, 50_000, 90_000), (10_000, 20_000, 0), (-1, 1_000_000, 0), (5000, 5000, 5000)]
    {
        let json = format!(r#"{{"cpu": {{"quota": {quota}, "period": {period}, "burst": {burst}}}}}"#);
        cgroup.update(&resources(&json)).unwrap();
        check(&scratch, "cpu", "cpu.cfs_quota_us", &quota.to_string());
    }
    // What is not named stays.
    check(&scratch, "pids", "pids.max", "100");
    check(&scratch, "cpu", "cpu.shares", "102");
    check_v2(&scratch, "cpu.max", "5000 5000");
    check_v2(&scratch, "cpu.weight", "17");
    cgroup.update(&resources(r#"{"devices": [{"allow": true, "type": "a"}]}"#)).unwrap();
    check(&scratch, "devices", "devices.list", "a *:* rwm");
    cgroup.remove().unwrap();
}

#[test]
fn processes_are_listed_killed_and_waited_for() {
    let Some(scratch) = Scratch::new("kill") else { return };
    let cgroup = Cgroup::create(&scratch.path(), &Resources::default()).unwrap();
    let mut child = sleeper(&scratch);
    assert_eq!(cgroup.pids().unwrap(), [child.id() as i32]);
    assert!(matches!(Cgroup::create(&scratch.path(), &Resources::default()), Err(Error::Busy { .. })));
    assert!(matches!(cgroup.remove(), Err(Error::Busy { pids, .. }) if pids == [child.id() as i32]));
    cgroup.kill_all(9).unwrap();
    child.wait().unwrap();
    cgroup.remove().unwrap();
    cgroup.kill_all(9).unwrap();
    assert!(cgroup.pids().unwrap().is_empty());
}

#[test]
fn other_signals_reach_every_process() {
    let Some(scratch) = Scratch::new("signal") else { return };
    let cgroup = Cgroup::create(&scratch.path(), &Resources::default()).unwrap();
    let mut children = [sleeper(&scratch), sleeper(&scratch)];
    // A real-time signal, with which systemd in a container is stopped.
    cgroup.kill_all(37).unwrap();
    for child in &mut children {
        use std::os::unix::process::ExitStatusExt as _;
        assert_eq!(child.wait().unwrap().signal(), Some(37));
    }
    cgroup.remove().unwrap();
}

#[test]
fn a_frozen_cgroup_runs_no_more_until_thawed_or_killed() {
    let Some(scratch) = Scratch::new("freeze") else { return };
    let cgroup = Cgroup::create(&scratch.path(), &Resources::default()).unwrap();
    let mut child = inside(&scratch, "exec sleep 0.1");
    cgroup.freeze().unwrap();
    std::thread::sleep(Duration::from_millis(300));
    assert!(child.try_wait().unwrap().is_none(), "a frozen process ran on");
    cgroup.thaw().unwrap();
    child.wait().unwrap();

    let mut child = sleeper(&scratch);
    cgroup.freeze().unwrap();
    let begun = Instant::now();
    cgroup.kill_all(9).unwrap();
    child.wait().unwrap();
    assert!(begun.elapsed() < Duration::from_secs(1));
    cgroup.remove().unwrap();
    cgroup.thaw().unwrap();
}

#[test]
fn cgroups_made_by_the_container_go_with_it() {
    let Some(scratch) = Scratch::new("nested") else { return };
    let cgroup = Cgroup::create(&scratch.path(), &Resources::default()).unwrap();
    for dir in scratch.dirs() {
        fs::create_dir_all(dir.join("system.slice/a.service")).unwrap();
    }
    let inner = Cgroup::at(&format!("{}/system.slice/a.service", scratch.path())).unwrap();
    let mut child = Command::new("sleep").arg("600").spawn().unwrap();
    for place in inner.places().iter().filter(|place| !place.dir.starts_with("/sys/fs/cgroup/cpuset")) {
        fs::write(place.dir.join("cgroup.procs"), child.id().to_string()).unwrap();
    }
    assert_eq!(cgroup.pids().unwrap(), [child.id() as i32]);
    if cgroup.unified_dir().is_some() {
        let now = cgroup.unified_dir_of(child.id() as i32).unwrap();
        let expected = inner.places().into_iter().find(|place| place.unified).unwrap().dir;
        assert_eq!(fs::read_link(format!("/proc/self/fd/{}", now.as_raw_fd())).unwrap(), expected);
        cgroup.unified_dir_of(1).unwrap_err();
    }
    cgroup.kill_all(9).unwrap();
    child.wait().unwrap();
    cgroup.remove().unwrap();
    assert!(scratch.dirs().iter().all(|dir| !dir.exists()));
}

#[test]
fn kills_for_want_of_memory_are_counted() {
    let Some(scratch) = Scratch::new("oom") else { return };
    let cgroup =
        Cgroup::create(&scratch.path(), &resources(r#"{"memory": {"limit": 8388608, "swap": 8388608}}"#))
            .unwrap();
    assert_eq!(cgroup.oom_kills(), 0);
    let mut child = inside(&scratch, "tail -c 100000000 /dev/zero | tail -c 100000000");
    child.wait().unwrap();
    assert!(cgroup.oom_kills() > 0);
    cgroup.kill_all(9).unwrap();
    cgroup.remove().unwrap();
}

#[test]
fn its_processes_reach_the_devices_allowed_and_no_others() {
    let Some(scratch) = Scratch::new("devices") else { return };
    let cgroup = Cgroup::create(&scratch.path(), &resources(LIMITS)).unwrap();
    let reaches = |device: &str| inside(&scratch, &format!(": < {device}")).wait().unwrap().success();
    assert!(reaches("/dev/null") && reaches("/dev/urandom"));
    assert!(!reaches("/dev/kmsg"), "what is not allowed can be opened");
    let all = resources(r#"{"devices": [{"allow": false}, {"allow": true, "type": "a"}]}"#);
    cgroup.update(&all).unwrap();
    assert!(reaches("/dev/kmsg"));
    cgroup.update(&resources(LIMITS)).unwrap();
    assert!(!reaches("/dev/kmsg"));
    cgroup.remove().unwrap();
}

#[test]
fn without_a_list_its_processes_have_the_default_devices_alone() {
    let Some(scratch) = Scratch::new("no-devices") else { return };
    let reaches = |device: &str| inside(&scratch, &format!(": < {device}")).wait().unwrap().success();
    for none in [r#"{}"#, r#"{"devices": []}"#] {
        let cgroup = Cgroup::create(&scratch.path(), &resources(none)).unwrap();
        assert!(reaches("/dev/null") && reaches("/dev/urandom"));
        assert!(!reaches("/dev/kmsg"), "{none}: no list is no permission");
        // A limit that changes gives no device back.
        cgroup.update(&resources(r#"{"pids": {"limit": 50}}"#)).unwrap();
        assert!(!reaches("/dev/kmsg"));
        cgroup.remove().unwrap();
    }
}

#[test]
fn an_absent_cgroup_cannot_be_joined_but_can_be_removed() {
    let Some(scratch) = Scratch::new("absent") else { return };
    assert!(Cgroup::open(&scratch.path()).is_err());
    let absent = Cgroup::at(&scratch.path()).unwrap();
    absent.kill_all(15).unwrap();
    absent.remove().unwrap();
    assert_eq!(absent.oom_kills(), 0);
}

#[test]
fn an_empty_parent_is_removed_and_a_used_one_is_not() {
    let Some(scratch) = Scratch::new("parent") else { return };
    let cgroup = Cgroup::create(&scratch.path(), &Resources::default()).unwrap();
    let parent = Cgroup::at(&format!("/{}/pod", scratch.0)).unwrap();
    parent.remove_if_empty();
    assert!(scratch.dirs().iter().all(|dir| dir.is_dir()));
    cgroup.remove().unwrap();
    parent.remove_if_empty();
    assert!(parent.places().iter().all(|place| !place.dir.exists()));
}
