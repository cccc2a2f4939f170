//! checkpoint and restore, with a criu that knows this kernel: BERTH_CRIU names one (`cargo xtask criu`), and where it
//! does nothing is skipped. What is refused without criu needs none.

mod lazy;

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::json;

use crate::bundle::{Bundle, Said, is_root, wait_until};
use crate::terminal::receive;

pub(crate) const COUNTING: &str = "i=0; while true; do i=$((i+1)); echo $i > /tmp/count; sleep 0.02; done";
/// An emulated processor takes its time.
const NOT_YET_AGAIN: u64 = 1000;

/// None, said aloud, where there is no criu to test with.
pub(crate) fn criu() -> Option<String> {
    if !is_root() {
        return None;
    }
    let named = std::env::var("BERTH_CRIU");
    let program = named.clone().unwrap_or_else(|_| "criu".into());
    let check = Command::new(&program).arg("check").output();
    if check.as_ref().is_ok_and(|output| output.status.success()) {
        return Some(program);
    }
    assert!(named.is_err(), "BERTH_CRIU={program} does not know this kernel: {check:?}");
    println!("skipped: {program} does not know this kernel, or is not there; `cargo xtask criu` fetches one");
    None
}

/// A container and the criu that it is checkpointed with.
pub(crate) struct Lab {
    pub(crate) bundle: Bundle,
    criu: String,
    /// Before the command.
    pub(crate) global: Vec<&'static str>,
}

impl Lab {
    pub(crate) fn new(script: &str) -> Option<Lab> {
        Some(Lab { criu: criu()?, bundle: Bundle::new(script), global: Vec::new() })
    }

    fn images(&self) -> PathBuf {
        self.bundle.path().join("images")
    }

    fn command(&self, words: &[&str]) -> Command {
        let words = words.iter().map(|word| if *word == "ID" { self.bundle.id.as_str() } else { word });
        let words: Vec<&str> =
            ["--criu", &self.criu].into_iter().chain(self.global.iter().copied()).chain(words).collect();
        self.bundle.command(&words)
    }

    /// An init that inherited our pipes would never let us go.
    fn detached(&self, words: &[&str]) -> Said {
        let log = self.bundle.path().join("log");
        let mut command = self.command(words);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(fs::File::create(&log).unwrap());
        let code = command.status().unwrap().code().unwrap_or(-1);
        Said { code, out: String::new(), err: fs::read_to_string(log).unwrap() }
    }

    /// Nothing of it may be open outside: criu could not find that again.
    pub(crate) fn run(&self) {
        self.bundle.write();
        let mut command = self.command(&["run", "-d", "ID"]);
        let status = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
        assert!(status.unwrap().success());
    }

    pub(crate) fn checkpoint(&self, options: &[&str]) -> Said {
        let images = self.images();
        let words = [&["checkpoint", "--image-path", images.to_str().unwrap()], options, &["ID"]].concat();
        self.detached(&words)
    }

    pub(crate) fn restore(&self, options: &[&str]) -> Said {
        let images = self.images();
        let words = [&["restore", "-d", "--image-path", images.to_str().unwrap()], options, &["ID"]].concat();
        self.detached(&words)
    }

    fn read(&self, file: &str) -> String {
        fs::read_to_string(self.bundle.rootfs().join("tmp").join(file)).unwrap_or_default().trim().to_owned()
    }

    fn count(&self) -> u64 {
        self.read("count").parse().unwrap_or(0)
    }

    pub(crate) fn wait_until_it_counts(&self) {
        wait_until(|| self.count() > 3, "counting");
    }

    /// It counts on from where it was, and did not begin again.
    #[track_caller]
    pub(crate) fn goes_on_from(&self, before: u64) {
        wait_until(|| self.count() > before, "counting on");
        assert!(self.count() < before + NOT_YET_AGAIN);
        assert_eq!(self.bundle.status(), "running");
    }

    /// It ended with its checkpoint: where it was then.
    #[track_caller]
    pub(crate) fn ended(&self) -> u64 {
        assert_eq!(self.bundle.status(), "none", "it has ended, and is deleted");
        let before = self.count();
        std::thread::sleep(Duration::from_millis(100));
        assert_eq!(self.count(), before);
        before
    }
}

#[test]
fn without_criu_it_is_said_what_is_missing() {
    if !is_root() {
        return;
    }
    let bundle = Bundle::new("exec sleep 100");
    bundle.start();
    bundle.say(&["--criu", "/nosuch/criu", "checkpoint", "ID"]).refused(&["/nosuch/criu", "not installed"]);
    bundle.say(&["--criu", "true", "checkpoint", "ID"]).refused(&["true", "without an answer"]);
    bundle.say(&["checkpoint", "--manage-cgroups-mode", "x", "ID"]).refused(&["--manage-cgroups-mode"]);
    bundle.say(&["checkpoint", "--parent-path", "/x", "ID"]).refused(&["--parent-path", "relative"]);
    assert_eq!(bundle.status(), "running");
    bundle.say(&["--criu", "/nosuch/criu", "restore", "other"]).refused(&["not installed"]);
    // With or without, what it would not do is refused.
    for (field, value) in
        [("intelRdt", json!({"closID": "/"})), ("netDevices", json!({"nosuch0": {"name": "eth0"}}))]
    {
        let mut other = bundle.spec.clone();
        other["linux"][field] = value;
        let dir = bundle.path().join(field);
        fs::create_dir(&dir).unwrap();
        std::os::unix::fs::symlink(bundle.rootfs(), dir.join("rootfs")).unwrap();
        fs::write(dir.join("config.json"), other.to_string()).unwrap();
        bundle
            .say(&["--criu", "/nosuch/criu", "restore", "--bundle", field, "other"])
            .refused(&[&format!("linux.{field} is not supported: restore")]);
    }
    bundle.say(&["state", "other"]).refused(&["does not exist"]);
}

#[test]
fn a_container_goes_on_where_it_was() {
    let Some(lab) = Lab::new(COUNTING) else { return };
    lab.run();
    lab.wait_until_it_counts();
    lab.checkpoint(&["--file-locks"]).ok();
    let before = lab.ended();
    lab.restore(&[]).ok();
    lab.goes_on_from(before);
    assert_eq!(lab.bundle.say(&["exec", "ID", "hostname"]).ok(), "berth-test");
    let cgroups = fs::read_to_string(format!("/proc/{}/cgroup", lab.bundle.pid())).unwrap();
    assert!(cgroups.lines().all(|line| line.ends_with(&format!("/{}", lab.bundle.id))), "{cgroups}");
}

#[test]
fn one_that_is_left_running_is_not_disturbed_and_can_be_restored_later() {
    let Some(lab) = Lab::new(COUNTING) else { return };
    lab.run();
    lab.wait_until_it_counts();
    let pid = lab.bundle.pid();
    lab.checkpoint(&["--leave-running"]).ok();
    let then = lab.count();
    lab.goes_on_from(then + 3);
    assert_eq!(lab.bundle.pid(), pid);
    lab.bundle.say(&["delete", "--force", "ID"]).ok();
    fs::remove_file(lab.bundle.rootfs().join("tmp/count")).unwrap();
    lab.restore(&[]).ok();
    lab.goes_on_from(3);
    assert!(lab.count() <= then + NOT_YET_AGAIN);
    assert_ne!(lab.bundle.pid(), pid);
}

#[test]
fn a_paused_container_stays_paused_when_it_is_left_running() {
    let Some(lab) = Lab::new(COUNTING) else { return };
    lab.run();
    lab.wait_until_it_counts();
    lab.bundle.say(&["pause", "ID"]).ok();
    lab.checkpoint(&["--leave-running"]).ok();
    assert_eq!(lab.bundle.status(), "paused");
    lab.bundle.say(&["resume", "ID"]).ok();
    lab.goes_on_from(lab.count());
}

#[test]
fn memory_taken_before_is_the_parent_of_the_checkpoint() {
    let Some(lab) = Lab::new(COUNTING) else { return };
    lab.run();
    lab.wait_until_it_counts();
    let before = lab.bundle.path().join("before");
    let said = lab.detached(&["checkpoint", "--pre-dump", "--image-path", before.to_str().unwrap(), "ID"]);
    if said.code != 0 && said.err.contains("memory tracking") {
        println!("skipped: {}", said.err.trim());
        return;
    }
    said.ok();
    lab.goes_on_from(lab.count());
    lab.checkpoint(&["--parent-path", "../before"]).ok();
    assert_eq!(fs::read_link(lab.images().join("parent")).unwrap(), PathBuf::from("../before"));
    let pages = |dir: PathBuf| {
        let files = fs::read_dir(dir).unwrap().flatten();
        let pages = files.filter(|file| file.file_name().to_string_lossy().starts_with("pages-"));
        pages.map(|file| file.metadata().unwrap().len()).sum::<u64>()
    };
    assert!(pages(lab.images()) < pages(before), "what had not changed was written again");
    let before = lab.ended();
    lab.restore(&[]).ok();
    lab.goes_on_from(before);
}

#[test]
fn a_terminal_is_handed_over_again() {
    let Some(mut lab) = Lab::new("n=0; while read line; do n=$((n+1)); echo $n:$line; done") else { return };
    lab.bundle.spec["process"]["terminal"] = json!(true);
    lab.bundle.write();
    let socket = lab.bundle.path().join("console.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    let socket = ["--console-socket", socket.to_str().unwrap()];
    lab.detached(&[&["run", "-d"], &socket[..], &["ID"]].concat()).ok();
    let master = fs::File::from(receive(&listener.accept().unwrap().0));
    says(&master, "one", "1:one");
    lab.checkpoint(&[]).ok();
    drop(master);
    assert_eq!(lab.bundle.status(), "none");
    lab.restore(&socket).ok();
    let master = fs::File::from(receive(&listener.accept().unwrap().0));
    says(&master, "two", "2:two");
    assert_eq!(lab.bundle.say(&["exec", "ID", "test", "-c", "/dev/console"]).code, 0);
    lab.bundle.say(&["delete", "--force", "ID"]).ok();
    lab.restore(&[]).refused(&["--console-socket"]);
    assert_eq!(lab.bundle.status(), "none");
}

#[track_caller]
fn says(mut terminal: &fs::File, word: &str, answer: &str) {
    writeln!(terminal, "{word}").unwrap();
    let mut text = String::new();
    while !text.contains(&format!("{answer}\r\n")) {
        let mut bytes = [0; 256];
        let length = terminal.read(&mut bytes).unwrap();
        text += &String::from_utf8_lossy(&bytes[..length]);
    }
}

/// A process that ends with its test.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A process with namespaces of its own, as a pod's pause has.
struct Namespaces(Killed);

impl Namespaces {
    fn new() -> Namespaces {
        let script = "ip link set lo up; echo there; exec sleep 600";
        let mut command = Command::new("unshare");
        command.args(["--net", "--uts", "--ipc", "sh", "-c", script]).stdin(Stdio::null());
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut word = [0; 6];
        child.stdout.take().unwrap().read_exact(&mut word).unwrap();
        Namespaces(Killed(child))
    }

    fn path(&self, kind: &str) -> String {
        format!("/proc/{}/ns/{kind}", self.0.0.id())
    }
}

#[test]
fn a_joined_network_is_joined_again_and_not_made() {
    let Some(mut lab) = Lab::new(COUNTING) else { return };
    let first = Namespaces::new();
    join(&mut lab, &first);
    lab.run();
    lab.wait_until_it_counts();
    lab.checkpoint(&[]).ok();
    let before = lab.ended();
    drop(first);
    // That of a new pod, on another node perhaps.
    let second = Namespaces::new();
    join(&mut lab, &second);
    lab.bundle.write();
    lab.restore(&[]).ok();
    lab.goes_on_from(before);
    let of = |path: String| fs::read_link(path).unwrap();
    assert_eq!(of(format!("/proc/{}/ns/net", lab.bundle.pid())), of(second.path("net")));
}

fn join(lab: &mut Lab, namespaces: &Namespaces) {
    let list = lab.bundle.spec["linux"]["namespaces"].as_array_mut().unwrap();
    list.retain(|one| one["type"] != "network");
    list.push(json!({"type": "network", "path": namespaces.path("net")}));
}

/// What criu 4.1 and older say of newer kernels.
const NO_PASSCRED: &str = "Can't get 1:16 opt: Operation not supported";

/// A server and a client of one container, which send each other a line now and then.
const TALKING: &str = "echo 'while read l; do echo $l; done' > /tmp/echo
    nc -l -p 7777 -e sh /tmp/echo & sleep 0.5
    (i=0; while true; do i=$((i+1)); echo $i; sleep 0.02; done) | nc 127.0.0.1 7777 |
    while read l; do echo $l > /tmp/count; done";

#[test]
fn an_open_connection_is_kept_when_it_is_asked_for() {
    let Some(mut lab) = Lab::new(TALKING) else { return };
    for set in ["bounding", "effective", "permitted"] {
        lab.bundle.spec["process"]["capabilities"][set] = json!(["CAP_NET_ADMIN", "CAP_NET_BIND_SERVICE"]);
    }
    lab.run();
    lab.wait_until_it_counts();
    lab.checkpoint(&[]).refused(&["criu"]);
    assert_eq!(lab.bundle.status(), "running", "a checkpoint that failed changes nothing");
    lab.goes_on_from(lab.count());
    let said = lab.checkpoint(&["--tcp-established"]);
    if said.err.contains(NO_PASSCRED) {
        println!(
            "skipped: {NO_PASSCRED}: since 6.16 the kernel does not tell SO_PASSCRED of TCP (cargo xtask vm)"
        );
        return;
    }
    said.ok();
    let before = lab.ended();
    lab.restore(&["--tcp-established"]).ok();
    lab.goes_on_from(before);
}

/// What is open has another name still, so it is no ghost that criu would carry along.
const RENAMED: &str = "echo > /tmp/a; exec 3< /tmp/a; ln /tmp/a /tmp/b; rm /tmp/a
    i=0; while true; do i=$((i+1)); echo $i > /tmp/count; sleep 0.02; done";

#[test]
fn a_file_that_lost_the_name_it_was_opened_by_is_linked_when_it_is_asked_for() {
    let Some(lab) = Lab::new(RENAMED) else { return };
    lab.run();
    lab.wait_until_it_counts();
    lab.checkpoint(&[]).refused(&["criu"]);
    lab.goes_on_from(lab.count());
    lab.checkpoint(&["--link-remap", "--tcp-skip-in-flight"]).ok();
    let before = lab.ended();
    lab.restore(&["--link-remap"]).ok();
    lab.goes_on_from(before);
}

#[test]
fn logs_and_pid_files_are_where_they_were_asked_for() {
    let Some(lab) = Lab::new(COUNTING) else { return };
    lab.run();
    lab.wait_until_it_counts();
    let path = |name: &str| lab.bundle.path().join(name).to_str().unwrap().to_owned();
    let (dumped, restored, pid_file) = (path("dumped"), path("restored"), path("restored.pid"));
    let both =
        ["--ext-unix-sk", "--shell-job", "--file-locks", "--auto-dedup", "--manage-cgroups-mode", "soft"];
    lab.checkpoint(&[&both[..], &["--work-path", &dumped]].concat()).ok();
    let before = lab.ended();
    let own = ["--work-path", &restored, "--pid-file", &pid_file, "--no-pivot", "--no-subreaper"];
    lab.restore(&[&both[..], &own].concat()).ok();
    lab.goes_on_from(before);
    assert!(fs::metadata(format!("{dumped}/dump.log")).unwrap().len() > 0);
    assert!(fs::metadata(format!("{restored}/restore.log")).unwrap().len() > 0);
    assert!(!lab.images().join("dump.log").exists());
    assert_eq!(fs::read_to_string(pid_file).unwrap(), lab.bundle.pid().to_string());
}

#[test]
fn a_network_namespace_may_come_back_empty() {
    let Some(lab) = Lab::new(COUNTING) else { return };
    lab.run();
    lab.wait_until_it_counts();
    let inside = format!("/proc/{}/ns/net", lab.bundle.pid());
    let ip = |words: &[&str]| {
        let net = format!("--net={inside}");
        Command::new("nsenter").arg(net).arg("ip").args(words).output().unwrap()
    };
    assert!(ip(&["link", "add", "berth-ve0", "type", "veth", "peer", "name", "berth-ve1"]).status.success());
    lab.checkpoint(&["--empty-ns", "network"]).ok();
    let before = lab.ended();
    lab.restore(&["--empty-ns", "network"]).ok();
    lab.goes_on_from(before);
    let links = lab.bundle.say(&["exec", "ID", "sh", "-c", "cat /proc/net/dev"]);
    assert!(!links.ok().contains("berth-ve0"), "{}", links.out);
}

#[test]
fn a_restore_of_nothing_leaves_nothing() {
    let Some(lab) = Lab::new(COUNTING) else { return };
    lab.bundle.write();
    fs::create_dir(lab.images()).unwrap();
    lab.restore(&[]).refused(&["criu", "restore.log"]);
    assert_eq!(lab.bundle.status(), "none");
    assert_eq!(lab.bundle.leftovers(), Vec::<String>::new());
}

#[test]
fn it_is_restored_into_the_cgroup_that_it_is_to_have_now() {
    let Some(mut lab) = Lab::new(COUNTING) else { return };
    lab.run();
    lab.wait_until_it_counts();
    lab.checkpoint(&[]).ok();
    let before = lab.ended();
    let elsewhere = format!("/{}-elsewhere", lab.bundle.id);
    lab.bundle.spec["linux"]["cgroupsPath"] = json!(elsewhere);
    lab.bundle.write();
    lab.restore(&[]).ok();
    lab.goes_on_from(before);
    let cgroups = fs::read_to_string(format!("/proc/{}/cgroup", lab.bundle.pid())).unwrap();
    assert!(cgroups.lines().all(|line| line.ends_with(&elsewhere)), "{cgroups}");
}
