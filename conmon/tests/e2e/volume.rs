//! Containers that mount what others serve, and servers that are away.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use conmon_protocol::{Answer, Ask, ContainerPlan, Phase, RefusalKind, Seen, Stdin, Volume};

use crate::dead_volume::DeadVolume;
use crate::harness::{Pod, exec_plan};

const PATIENCE_MS: u64 = 700;

/// A container that has a volume at /data.
fn with_volume(pod: &Pod, id: &str, volume: &Path, script: &str) -> ContainerPlan {
    let mut config = pod.config(id, &["sh", "-c", script]);
    let mount = serde_json::json!({"destination": "/data", "type": "bind", "source": volume, "options": ["rbind", "rw"]});
    config["mounts"].as_array_mut().unwrap().push(mount);
    let mut plan = pod.container_of(id, config);
    plan.volumes = vec![Volume { path: volume.into(), make: false, label: None }];
    plan.patience_ms = PATIENCE_MS;
    plan
}

fn dead() -> DeadVolume {
    DeadVolume::mount().unwrap()
}

#[test]
fn a_container_with_a_volume_is_made_by_a_child_and_is_as_any_other() {
    let Some(mut pod) = Pod::made() else { return };
    let volume = pod.run.path().join("volume");
    std::fs::create_dir(&volume).unwrap();
    std::fs::write(volume.join("word"), "hello\n").unwrap();
    let mut plan = with_volume(&pod, "c1", &volume, "cat /data/word; read word; echo got $word; exit 3");
    plan.stdin = Stdin::Open;
    let pid = pod.create(plan.clone());
    let refusal = pod.daemon.ask(Ask::Create(plan)).unwrap_err();
    assert_eq!(refusal.kind, RefusalKind::Exists, "{refusal}");
    pod.start("c1");
    pod.wait_log("c1", "hello");
    assert!(matches!(&pod.state()[..], [(_, Phase::Running { pid: same, .. })] if *same == pid));
    let client = crate::container::attach(&mut pod, "c1", true);
    rustix::io::write(&client, b"it\n").unwrap();
    assert_eq!(pod.daemon.exit_of("c1").code, 3, "the monitor is its parent");
    assert_eq!(pod.log("c1"), "stdout F hello\nstdout F got it\n");
    pod.delete("c1");
    let plan = with_volume(&pod, "c2", &pod.run.path().join("nowhere"), "true");
    let refusal = pod.daemon.ask(Ask::Create(plan)).unwrap_err();
    assert!(refusal.message.contains("nowhere"), "{refusal}");
    let mut plan = with_volume(&pod, "c3", &pod.run.path().join("made/for/it"), "true");
    plan.volumes[0].make = true;
    pod.create(plan);
    let mut plan = with_volume(&pod, "c4", &volume, "");
    plan.terminal = true;
    let mut config = pod.config("c4", &["tty"]);
    config["process"]["terminal"] = true.into();
    std::fs::write(plan.bundle_dir.join("config.json"), config.to_string()).unwrap();
    pod.create(plan);
    pod.start("c4");
    assert_eq!(pod.daemon.exit_of("c4").code, 0);
    assert!(pod.log("c4").contains("/dev/pts/0"), "{}", pod.log("c4"));
    pod.unmake();
}

#[test]
fn a_volume_that_does_not_answer_is_named_in_time_and_holds_up_nothing_else() {
    let Some(mut pod) = Pod::made() else { return };
    pod.run("c1", "i=0; while :; do echo $i; i=$((i+1)); sleep 0.01; done");
    pod.wait_log("c1", "stdout F 0");
    let volume = dead();
    let plan = with_volume(&pod, "c2", volume.path(), "sleep 1000");
    let began = Instant::now();
    let asked = pod.daemon.say(Ask::Create(plan.clone()), &[]);
    // Meanwhile all else goes on.
    let lines = || pod.log("c1").lines().count();
    let (before, _) = (lines(), std::thread::sleep(Duration::from_millis(200)));
    assert!(lines() > before + 5, "the log stood still");
    let mut other = crate::harness::Daemon::connect(&pod.dir);
    let mut exec = exec_plan("e1", "c1", "exit 4");
    (exec.stdout, exec.stderr) = (false, false);
    other.ask(Ask::Exec(exec)).unwrap();
    assert_eq!(other.exec_exit("e1"), (4, false));
    assert_eq!(other.ask(Ask::Reopen { container_id: "c1".into() }), Ok(Answer::Done));
    assert!(other.ask(Ask::Delete { container_id: "c1".into() }).is_ok());
    assert!(
        began.elapsed() < Duration::from_millis(PATIENCE_MS),
        "all of that was while the volume was waited for"
    );

    let refusal = pod.daemon.answer_to(asked).unwrap_err();
    assert_eq!(refusal.kind, RefusalKind::TimedOut, "{refusal}");
    assert!(refusal.message.contains(volume.path().to_str().unwrap()), "{refusal}");
    let took = began.elapsed();
    assert!(took < Duration::from_millis(PATIENCE_MS + 1500), "{took:?}");

    let again = Instant::now();
    let refusal = pod.daemon.ask(Ask::Create(plan)).unwrap_err();
    assert!(refusal.message.contains(volume.path().to_str().unwrap()), "{refusal}");
    assert!(again.elapsed() < Duration::from_millis(200), "nobody waits twice for the same");
    pod.unmake();
}

#[test]
fn what_is_made_on_a_dead_volume_can_be_taken_away_meanwhile() {
    let Some(mut pod) = Pod::made() else { return };
    let volume = dead();
    let mut plan = with_volume(&pod, "c1", volume.path(), "true");
    plan.patience_ms = 60_000;
    let asked = pod.daemon.say(Ask::Create(plan), &[]);
    std::thread::sleep(Duration::from_millis(100));
    let mut other = crate::harness::Daemon::connect(&pod.dir);
    let began = Instant::now();
    assert_eq!(other.ask(Ask::Delete { container_id: "c1".into() }), Ok(Answer::Done));
    assert!(pod.daemon.answer_to(asked).unwrap_err().message.contains("taken away"));
    let look = Ask::Look { paths: vec![volume.path().join("below")], patience_ms: 60_000 };
    let asked = pod.daemon.say(look, &[]);
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(other.ask(Ask::UnmakePod), Ok(Answer::Done));
    drop((asked, other));
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    assert!(pod.monitor.wait().unwrap().success());
    pod.assert_nothing_left();
}

#[test]
fn paths_are_looked_up_and_one_that_hangs_is_named() {
    let Some(mut pod) = Pod::made() else { return };
    let dir = pod.run.path().join("dir");
    std::fs::create_dir(&dir).unwrap();
    std::fs::write(dir.join("file"), "").unwrap();
    std::os::unix::fs::symlink("dir", pod.run.path().join("link")).unwrap();
    let path = |name: &str| -> PathBuf { pod.run.path().join(name) };
    let paths = vec![path("link"), path("dir/file"), path("none"), path("dir/file/below")];
    let looked = pod.daemon.ask(Ask::Look { paths, patience_ms: 0 });
    let not_a_directory = Seen::Failed(rustix::io::Errno::NOTDIR.raw_os_error());
    let expected =
        vec![Seen::Directory(dir.clone()), Seen::Other(dir.join("file")), Seen::Missing, not_a_directory];
    assert_eq!(looked, Ok(Answer::Looked(expected)));

    let volume = dead();
    let paths = vec![dir, volume.path().join("below")];
    let refusal = pod.daemon.ask(Ask::Look { paths, patience_ms: PATIENCE_MS }).unwrap_err();
    assert_eq!(refusal.kind, RefusalKind::TimedOut);
    assert!(refusal.message.contains("/below"), "{refusal}");
    pod.unmake();
}

#[test]
fn a_monitor_killed_while_a_child_makes_leaves_nothing_behind() {
    let Some(mut pod) = Pod::made() else { return };
    let volume = dead();
    pod.daemon.say(Ask::Create(with_volume(&pod, "c1", volume.path(), "true")), &[]);
    std::thread::sleep(Duration::from_millis(100));
    let began = Instant::now();
    pod.replace_monitor();
    assert_eq!(pod.state(), []);
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    pod.unmake();
}

/// A directory that answers, with a dead volume mounted in it: what mounts it looks no further.
struct DeadBelow {
    dir: PathBuf,
    _volume: DeadVolume,
}

impl DeadBelow {
    fn of(pod: &Pod) -> DeadBelow {
        let dir = pod.run.path().join("volume");
        std::fs::create_dir_all(dir.join("dead")).unwrap();
        let volume = dead();
        rustix::mount::mount_bind(volume.path(), dir.join("dead")).unwrap();
        DeadBelow { dir, _volume: volume }
    }
}

impl Drop for DeadBelow {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(self.dir.join("dead"), rustix::mount::UnmountFlags::DETACH);
    }
}

fn exec_in(directory: &str, id: &str, timeout_ms: Option<u64>) -> conmon_protocol::ExecPlan {
    let mut plan = exec_plan(id, "c1", "exit 4");
    (plan.stdout, plan.stderr, plan.timeout_ms) = (false, false, timeout_ms);
    plan.process["cwd"] = directory.into();
    plan
}

#[test]
fn a_process_that_hangs_on_a_dead_volume_is_given_up_and_holds_up_nothing_else() {
    let Some(mut pod) = Pod::made() else { return };
    let below = DeadBelow::of(&pod);
    let plan = with_volume(&pod, "c1", &below.dir, "i=0; while :; do echo $i; i=$((i+1)); sleep 0.01; done");
    pod.create(plan);
    pod.start("c1");
    pod.wait_log("c1", "stdout F 0");

    let began = Instant::now();
    let asked = pod.daemon.say(Ask::Exec(exec_in("/data/dead", "hangs", None)), &[]);
    let lines = || pod.log("c1").lines().count();
    let (before, _) = (lines(), std::thread::sleep(Duration::from_millis(200)));
    assert!(lines() > before + 5, "the log stood still");
    let mut other = crate::harness::Daemon::connect(&pod.dir);
    let refusal = other.ask(Ask::Exec(exec_in("/", "hangs", None))).unwrap_err();
    assert_eq!(refusal.kind, RefusalKind::Exists, "{refusal}");
    other.ask(Ask::Exec(exec_in("/", "well", None))).unwrap();
    assert_eq!(other.exec_exit("well"), (4, false));
    assert!(began.elapsed() < Duration::from_millis(PATIENCE_MS), "all of that was while the first one hung");
    let refusal = pod.daemon.answer_to(asked).unwrap_err();
    assert_eq!(refusal.kind, RefusalKind::TimedOut, "{refusal}");
    assert!(refusal.message.contains("container c1") && refusal.message.contains("volume"), "{refusal}");

    // Its own time counts when it is shorter, and so does being killed.
    let began = Instant::now();
    let refusal = pod.daemon.ask(Ask::Exec(exec_in("/data/dead", "late", Some(100)))).unwrap_err();
    assert_eq!(refusal.kind, RefusalKind::TimedOut, "{refusal}");
    assert!(began.elapsed() < Duration::from_millis(PATIENCE_MS), "{:?}", began.elapsed());
    let asked = pod.daemon.say(Ask::Exec(exec_in("/data/dead", "killed", None)), &[]);
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(other.ask(Ask::KillExec { exec_id: "killed".into() }), Ok(Answer::Done));
    assert!(pod.daemon.answer_to(asked).is_err());
    assert!(began.elapsed() < Duration::from_millis(2 * PATIENCE_MS), "{:?}", began.elapsed());

    // What comes again and again does not leave more and more to the kernel.
    let _ = pod.daemon.ask(Ask::Exec(exec_in("/data/dead", "fourth", Some(50))));
    let again = Instant::now();
    let refusal = pod.daemon.ask(Ask::Exec(exec_in("/data/dead", "fifth", None))).unwrap_err();
    assert!(refusal.message.contains("4 times"), "{refusal}");
    assert!(again.elapsed() < Duration::from_millis(200), "{:?}", again.elapsed());
    drop(below);
    pod.unmake_soon();
}

#[test]
fn a_command_on_a_dead_volume_fails_its_container_and_holds_up_nothing_else() {
    let Some(mut pod) = Pod::made() else { return };
    let below = DeadBelow::of(&pod);
    let plan = with_volume(&pod, "c1", &below.dir, "");
    let file = plan.bundle_dir.join("config.json");
    let mut config: serde_json::Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    config["process"]["args"] = serde_json::json!(["/data/dead/program"]);
    std::fs::write(&file, config.to_string()).unwrap();
    let asked = pod.daemon.say(Ask::Create(plan), &[]);
    std::thread::sleep(Duration::from_millis(100));
    let mut other = crate::harness::Daemon::connect(&pod.dir);
    let began = Instant::now();
    assert!(other.ask(Ask::Reopen { container_id: "c1".into() }).is_err());
    assert!(began.elapsed() < Duration::from_millis(300), "{:?}", began.elapsed());
    let refusal = pod.daemon.answer_to(asked).unwrap_err();
    assert_eq!(refusal.kind, RefusalKind::TimedOut, "{refusal}");
    drop(below);
    pod.unmake_soon();
}
