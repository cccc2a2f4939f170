//! The library as a monitor uses it: layers, descriptors as standard streams, exec, and many in a row, all from a
//! process of one thread. Also says how long each takes.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on may as well stop")]

use std::fs::{self, File};
use std::io::Read as _;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use runtime::spec::Spec;
use runtime::{CreateRequest, Error, Force, Process, Rootfs, Runtime, Scope, Stdio};
use rustix::process::{WaitId, WaitIdOptions, waitid};
use serde_json::json;

fn main() {
    if !rustix::process::getuid().is_root() {
        println!("skipped: making containers needs root");
        return;
    }
    let node = Node::new();
    node.layers_are_stacked_and_the_upper_is_written();
    node.a_create_that_is_tried_again_finds_its_layer();
    node.layers_show_the_ids_of_a_user_namespace();
    node.an_init_in_joined_namespaces_is_told_by_our_number();
    node.exec_says_at_once_what_cannot_run();
    node.an_init_that_waits_holds_nothing_of_ours();
    node.deleting_twice_and_unknown_is_fine();
    node.nothing_grows();
    println!("library: 8 passed, 0 failed");
}

struct Node {
    dir: tempfile::TempDir,
    runtime: Runtime,
}

impl Node {
    fn new() -> Node {
        // Not on a tmpfs, whose ids could not be mapped before Linux 6.3.
        let dir = tempfile::Builder::new().prefix("berth-lib-").tempdir_in("/var/tmp").unwrap();
        let mut runtime = Runtime::new(dir.path().join("state"));
        runtime.seccomp_cache = Some(dir.path().join("seccomp"));
        let base = dir.path().join("base");
        for name in ["bin", "dev", "proc", "sys", "etc", "tmp"] {
            fs::create_dir_all(base.join(name)).unwrap();
        }
        fs::copy("/bin/busybox", base.join("bin/busybox")).unwrap();
        for applet in ["sh", "cat", "true", "sleep", "echo", "touch", "stat", "id"] {
            symlink("busybox", base.join("bin").join(applet)).unwrap();
        }
        fs::write(base.join("etc/which"), "base").unwrap();
        fs::create_dir_all(dir.path().join("top/etc")).unwrap();
        fs::write(dir.path().join("top/etc/which"), "top").unwrap();
        Node { dir, runtime }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn overlay(&self, id: &str) -> Rootfs {
        let (upper, work) = (self.path(&format!("{id}/upper")), self.path(&format!("{id}/work")));
        fs::create_dir_all(&upper).unwrap();
        fs::create_dir_all(&work).unwrap();
        Rootfs::Overlay { lower: vec![self.path("top"), self.path("base")], upper, work }
    }

    fn create(&self, id: &str, args: &[&str]) -> (Result<Process, Error>, File) {
        self.create_as(id, spec(id, args))
    }

    fn create_as(&self, id: &str, spec: Spec) -> (Result<Process, Error>, File) {
        let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
        let request = CreateRequest {
            id,
            bundle: self.dir.path(),
            spec,
            rootfs: self.overlay(id),
            stdio: stdio(&write),
            preserve_fds: 0,
        };
        let made = self.runtime.create(request);
        (made, read.into())
    }

    fn run(&self, id: &str, args: &[&str]) -> (i32, String) {
        let (made, out) = self.create(id, args);
        self.finish(id, made, out)
    }

    fn finish(&self, id: &str, made: Result<Process, Error>, mut out: File) -> (i32, String) {
        let process = made.unwrap_or_else(|error| panic!("{}", runtime::chain(&error)));
        self.runtime.start(id).unwrap();
        let code = wait(&process);
        self.runtime.delete(id, Force::Refuse).unwrap();
        let mut text = String::new();
        out.read_to_string(&mut text).unwrap();
        (code, text)
    }

    fn layers_are_stacked_and_the_upper_is_written(&self) {
        let id = name("layers");
        assert_eq!(self.run(&id, &["sh", "-c", "cat /etc/which; touch /new; exit 3"]), (3, "top".into()));
        assert!(self.path(&format!("{id}/upper/new")).exists());
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!mounts.contains(self.dir.path().to_str().unwrap()), "nothing shows on the host");
    }

    fn a_create_that_is_tried_again_finds_its_layer(&self) {
        let id = name("again");
        let (made, _) = self.create(&id, &["nosuch"]);
        assert!(matches!(made, Err(Error::NoSuchCommand { .. })), "{made:?}");
        assert_eq!(self.run(&id, &["true"]).0, 0);
        assert_eq!(self.run(&id, &["true"]).0, 0);
    }

    fn layers_show_the_ids_of_a_user_namespace(&self) {
        if !kernel_is_at_least(6, 3) {
            println!("skipped: user namespaces need Linux 6.3, as Kubernetes says too");
            return;
        }
        let id = name("userns");
        let mut spec = spec(&id, &["sh", "-c", "stat -c %u /etc/which /bin; touch /new /etc/new && id -u"]);
        let linux = spec.linux.as_mut().unwrap();
        let map = runtime::spec::IdMapping { container_id: 0, host_id: 200_000, size: 65536 };
        (linux.uid_mappings, linux.gid_mappings) = (vec![map], vec![map]);
        linux
            .namespaces
            .push(runtime::spec::Namespace { kind: runtime::spec::NamespaceKind::User, path: None });
        let (made, out) = self.create_as(&id, spec);
        assert_eq!(self.finish(&id, made, out), (0, "0\n0\n0\n".into()));
        let new = fs::metadata(self.path(&format!("{id}/upper/new"))).unwrap();
        assert_eq!(std::os::unix::fs::MetadataExt::uid(&new), 200_000);
    }

    /// As in a pod with a user and a PID namespace of its own. A number of in there is another process out here.
    fn an_init_in_joined_namespaces_is_told_by_our_number(&self) {
        if !kernel_is_at_least(6, 3) {
            return;
        }
        let holder = ["--user", "--map-root-user", "--pid", "--fork", "--kill-child", "sleep", "100"];
        let mut unshare = std::process::Command::new("unshare").args(holder).spawn().unwrap();
        let pin = first_child(unshare.id());
        let id = name("joined");
        let mut spec = spec(&id, &["sh", "-c", "echo $$"]);
        let linux = spec.linux.as_mut().unwrap();
        linux.namespaces.retain(|namespace| namespace.kind != runtime::spec::NamespaceKind::Pid);
        for (kind, file) in
            [(runtime::spec::NamespaceKind::User, "user"), (runtime::spec::NamespaceKind::Pid, "pid")]
        {
            let path = Some(format!("/proc/{pin}/ns/{file}").into());
            linux.namespaces.push(runtime::spec::Namespace { kind, path });
        }
        let (made, out) = self.create_as(&id, spec);
        let inside = fs::read_to_string(format!("/proc/{}/status", made.as_ref().unwrap().pid)).unwrap();
        let numbers = inside.lines().find(|line| line.starts_with("NSpid:")).unwrap();
        assert_eq!(numbers.split_whitespace().count(), 3, "ours and theirs: {numbers}");
        assert_eq!(self.finish(&id, made, out).0, 0);
        unshare.kill().unwrap();
        unshare.wait().unwrap();
    }

    fn exec_says_at_once_what_cannot_run(&self) {
        let id = name("exec");
        let (made, _out) = self.create(&id, &["sleep", "100"]);
        let init = made.unwrap();
        self.runtime.start(&id).unwrap();
        let exec = |args: &[&str]| {
            let process = spec(&id, args).process.unwrap();
            let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
            self.runtime.exec(&id, &process, stdio(&write)).map(|process| (process, File::from(read)))
        };
        let (process, mut out) = exec(&["echo", "hi"]).unwrap();
        assert_eq!(wait(&process), 0);
        let mut text = String::new();
        out.read_to_string(&mut text).unwrap();
        assert_eq!(text, "hi\n");
        assert!(matches!(exec(&["nosuch"]), Err(Error::NoSuchCommand { .. })));
        let mut times = Vec::new();
        for _ in 0..30 {
            std::thread::sleep(Duration::from_millis(60));
            let begin = Instant::now();
            let (process, _out) = exec(&["true"]).unwrap();
            assert_eq!(wait(&process), 0);
            times.push(begin.elapsed());
        }
        report("exec true and wait", &mut times);
        self.runtime.kill(&id, 9, Scope::All).unwrap();
        assert_eq!(wait(&init), -9);
        self.runtime.delete(&id, Force::Refuse).unwrap();
    }

    fn an_init_that_waits_holds_nothing_of_ours(&self) {
        let id = name("holds");
        let (mut read, write) = std::io::pipe().unwrap();
        let (made, _out) = self.create(&id, &["true"]);
        drop(write);
        // Would wait for ever if the init had the other end.
        assert_eq!(read.read(&mut [0]).unwrap(), 0);
        let init = made.unwrap();
        let fds = fs::read_dir(format!("/proc/{}/fd", init.pid)).unwrap().count();
        assert_eq!(fds, 4, "standard streams and the start FIFO");
        self.runtime.delete(&id, Force::Kill).unwrap();
        wait(&init);
    }

    fn deleting_twice_and_unknown_is_fine(&self) {
        let id = name("twice");
        let (made, _out) = self.create(&id, &["true"]);
        let init = made.unwrap();
        assert!(matches!(self.runtime.start("nosuch"), Err(Error::NotFound { .. })));
        self.runtime.delete(&id, Force::Kill).unwrap();
        assert_eq!(wait(&init), -9);
        self.runtime.delete(&id, Force::Kill).unwrap();
        self.runtime.delete("nosuch", Force::Kill).unwrap();
    }

    fn nothing_grows(&self) {
        let before = open_descriptors();
        let (mut create, mut rest) = (Vec::new(), Vec::new());
        for number in 0..30 {
            std::thread::sleep(Duration::from_millis(60));
            let id = name(&format!("many{number}"));
            let begin = Instant::now();
            let (made, _out) = self.create(&id, &["true"]);
            let process = made.unwrap();
            create.push(begin.elapsed());
            let begin = Instant::now();
            self.runtime.start(&id).unwrap();
            assert_eq!(wait(&process), 0);
            self.runtime.delete(&id, Force::Refuse).unwrap();
            rest.push(begin.elapsed());
        }
        report("create", &mut create);
        report("start, wait and delete", &mut rest);
        assert_eq!(open_descriptors(), before);
        assert_eq!(fs::read_dir(&self.runtime.root).unwrap().count(), 0);
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!mounts.contains(self.dir.path().to_str().unwrap()));
    }
}

fn kernel_is_at_least(major: u32, minor: u32) -> bool {
    let uname = rustix::system::uname();
    let release = uname.release().to_str().unwrap();
    let mut parts = release.split(['.', '-']).map(|part| part.parse::<u32>().unwrap_or(0));
    (parts.next().unwrap(), parts.next().unwrap()) >= (major, minor)
}

fn report(what: &str, times: &mut [Duration]) {
    times.sort();
    println!("{what}: p50 {:?}, min {:?}", times[times.len() / 2], times[0]);
}

fn name(suffix: &str) -> String {
    format!("lib-{}-{suffix}", std::process::id())
}

fn open_descriptors() -> usize {
    fs::read_dir("/proc/self/fd").unwrap().count()
}

fn stdio(out: &OwnedFd) -> Stdio {
    let null = || OwnedFd::from(File::options().read(true).write(true).open("/dev/null").unwrap());
    Stdio::Fds { stdin: null(), stdout: out.try_clone().unwrap(), stderr: null() }
}

/// The exit code, or the signal as a negative number.
fn wait(process: &Process) -> i32 {
    let status = waitid(WaitId::PidFd(process.pidfd.as_fd()), WaitIdOptions::EXITED).unwrap().unwrap();
    status.exit_status().unwrap_or_else(|| -status.terminating_signal().unwrap())
}

fn spec(id: &str, args: &[&str]) -> Spec {
    let kept = json!(["CAP_CHOWN", "CAP_KILL", "CAP_SETUID", "CAP_SETGID", "CAP_NET_BIND_SERVICE"]);
    let spec = json!({
        "ociVersion": "1.3.0",
        "process": {
            "args": args, "cwd": "/", "env": ["PATH=/bin", "HOME=/"],
            "capabilities": {"bounding": kept, "effective": kept, "permitted": kept},
            "noNewPrivileges": true
        },
        "root": {"path": "unused", "readonly": false},
        "hostname": "lib",
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"]},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"]},
            {"destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666"]},
            {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": ["nosuid", "noexec", "nodev"]},
            {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"]},
            {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["nosuid", "noexec", "nodev", "ro"]}
        ],
        "linux": {
            "cgroupsPath": format!("/{id}"),
            "namespaces": [{"type": "pid"}, {"type": "network"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"}, {"type": "cgroup"}],
            "maskedPaths": ["/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/timer_list", "/sys/firmware"],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
            "resources": {
                "devices": [{"allow": false, "access": "rwm"}],
                "memory": {"limit": 104_857_600}, "cpu": {"shares": 512, "quota": 50000, "period": 100_000}, "pids": {"limit": 100}
            },
            "seccomp": {
                "defaultAction": "SCMP_ACT_ALLOW",
                "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
                "syscalls": [{"names": ["mount", "umount2", "bpf", "reboot"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1}]
            }
        }
    });
    serde_json::from_value(spec).unwrap()
}

/// The process that lives in the namespaces which `unshare` made.
fn first_child(pid: u32) -> String {
    loop {
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
        if let Some(child) = children.split_whitespace().next() {
            return child.to_owned();
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}
