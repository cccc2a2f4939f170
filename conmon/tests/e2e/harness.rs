//! A monitor in a process of its own, and a daemon's end of the talk with it.

use std::collections::{HashMap, VecDeque};
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use conmon_protocol::{
    Answer, Ask, ContainerPlan, Decoder, Event, ExecPlan, Exit, Handler, Kept, KeptExec, Message, Owner,
    Phase, PidSharing, PodPlan, Refusal, Request, Rootfs, Sharing, Stdin, encode,
};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use serde_json::{Value, json};

/// Longer than anything here takes, on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

static NUMBER: AtomicU64 = AtomicU64::new(0);

/// One pod, its monitor, and one connection to it.
pub(crate) struct Pod {
    pub(crate) dir: PathBuf,
    pub(crate) run: tempfile::TempDir,
    pub(crate) monitor: Child,
    pub(crate) daemon: Daemon,
    pub(crate) cgroup_parent: String,
    /// Another runtime than our own.
    pub(crate) foreign: Option<PathBuf>,
}

impl Pod {
    /// `None` for those who are not root, and can't make anything of what is tested here.
    pub(crate) fn new() -> Option<Pod> {
        if !rustix::process::geteuid().is_root() {
            println!("skipped: this needs root");
            return None;
        }
        let run = tempfile::Builder::new().prefix("berth-conmon-").tempdir_in("/run").unwrap();
        // As long as on a node: longer than a socket's path may be.
        let dir = run.path().join("sandboxes").join("5".repeat(64));
        std::fs::create_dir_all(dir.join("containers")).unwrap();
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let cgroup_parent = format!("/berth-conmon-{}-{number}", std::process::id());
        let (monitor, daemon) = spawn(&dir, &Keeping::default());
        // `BERTH_HANDLER=/usr/sbin/runc` tries all tests with another runtime.
        let foreign = std::env::var_os("BERTH_HANDLER").map(PathBuf::from);
        Some(Pod { dir, run, monitor, daemon, cgroup_parent, foreign })
    }

    /// A pod whose namespaces are made.
    pub(crate) fn made() -> Option<Pod> {
        let mut pod = Pod::new()?;
        let plan = pod.plan();
        assert_eq!(pod.daemon.ask(Ask::MakePod(plan)), Ok(Answer::Done));
        Some(pod)
    }

    pub(crate) fn plan(&self) -> PodPlan {
        PodPlan {
            sandbox_id: "s1".into(),
            pod_dir: self.dir.clone(),
            hostname: Some("pod-name".into()),
            network: Sharing::Own,
            ipc: Sharing::Own,
            uts: Sharing::Own,
            pid: PidSharing::Container,
            user: None,
            sysctls: Vec::new(),
            shm_size_bytes: None,
            cgroup_parent: self.cgroup_parent.clone(),
            cgroup_driver: conmon_protocol::CgroupDriver::Cgroupfs,
            monitor_cgroup: None,
            process_label: None,
            file_label: None,
        }
    }

    pub(crate) fn container(&self, id: &str, script: &str) -> ContainerPlan {
        self.container_of(id, self.config(id, &["sh", "-c", script]))
    }

    /// Writes the bundle and plans the container.
    pub(crate) fn container_of(&self, id: &str, config: Value) -> ContainerPlan {
        let container_dir = self.container_dir(id);
        let bundle_dir = container_dir.join("bundle");
        std::fs::create_dir_all(&bundle_dir).unwrap();
        if !bundle_dir.join("rootfs").exists() {
            make_rootfs(&bundle_dir.join("rootfs"));
        }
        std::fs::write(bundle_dir.join("config.json"), config.to_string()).unwrap();
        ContainerPlan {
            container_id: id.into(),
            container_dir,
            rootfs: Rootfs::Dir(bundle_dir.join("rootfs")),
            bundle_dir,
            log_path: Some(self.log_path(id)),
            terminal: false,
            stdin: Stdin::Closed,
            stdio_owner: Owner { uid: 0, gid: 0 },
            file_label: None,
            handler: self.handler(),
            volumes: Vec::new(),
            patience_ms: 0,
        }
    }

    fn handler(&self) -> Handler {
        let root = self.run.path().join("runtime");
        match self.foreign.clone() {
            Some(path) => {
                Handler::Command { path, root, cgroup_driver: conmon_protocol::CgroupDriver::Cgroupfs }
            }
            None => Handler::InTree {
                root,
                seccomp_cache: None,
                cgroup_driver: conmon_protocol::CgroupDriver::Cgroupfs,
            },
        }
    }

    pub(crate) fn config(&self, id: &str, args: &[&str]) -> Value {
        let ns = |name: &str| self.dir.join("ns").join(name);
        json!({
            "ociVersion": "1.2.0",
            "process": process(args),
            "root": {"path": "rootfs"},
            "mounts": [
                {"destination": "/proc", "type": "proc", "source": "proc"},
                {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"]},
                {"destination": "/dev/pts", "type": "devpts", "source": "devpts",
                 "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]},
            ],
            "linux": {
                "cgroupsPath": format!("{}/berth-{id}", self.cgroup_parent),
                "namespaces": [
                    {"type": "mount"}, {"type": "pid"},
                    {"type": "network", "path": ns("net")},
                    {"type": "ipc", "path": ns("ipc")},
                    {"type": "uts", "path": ns("uts")},
                ],
                "resources": {"devices": [{"allow": true, "access": "rwm"}]},
            },
        })
    }

    pub(crate) fn container_dir(&self, id: &str) -> PathBuf {
        self.dir.join("containers").join(id)
    }

    pub(crate) fn log_path(&self, id: &str) -> PathBuf {
        self.run.path().join(format!("{id}.log"))
    }

    /// The log without its times.
    pub(crate) fn log(&self, id: &str) -> String {
        let text = std::fs::read_to_string(self.log_path(id)).unwrap();
        text.lines().map(|line| format!("{}\n", &line[31..])).collect()
    }

    pub(crate) fn create(&mut self, plan: ContainerPlan) -> i32 {
        match self.daemon.ask(Ask::Create(plan)) {
            Ok(Answer::Created { pid }) => pid,
            other => panic!("creating: {other:?}"),
        }
    }

    pub(crate) fn start(&mut self, id: &str) {
        match self.daemon.ask(Ask::Start { container_id: id.into() }) {
            Ok(Answer::Started { .. }) => {}
            other => panic!("starting: {other:?}"),
        }
    }

    pub(crate) fn run(&mut self, id: &str, script: &str) -> i32 {
        let plan = self.container(id, script);
        let pid = self.create(plan);
        self.start(id);
        pid
    }

    pub(crate) fn delete(&mut self, id: &str) {
        assert_eq!(self.daemon.ask(Ask::Delete { container_id: id.into() }), Ok(Answer::Done));
    }

    pub(crate) fn wait_log(&self, id: &str, what: &str) {
        let path = self.log_path(id);
        eventually(&format!("{what:?} in the log of {id}"), || {
            std::fs::read_to_string(&path).is_ok_and(|text| text.contains(what))
        });
    }

    /// As `kill -9`, and a new monitor in its place.
    pub(crate) fn replace_monitor(&mut self) {
        self.monitor.kill().unwrap();
        self.monitor.wait().unwrap();
        self.start_monitor();
    }

    /// As `kill -9`, until the monitor is gone.
    pub(crate) fn kill_monitor(&mut self) {
        // What it said before, also of what is to be kept, is heard.
        self.state();
        self.monitor.kill().unwrap();
        self.monitor.wait().unwrap();
    }

    /// A new monitor, with what was kept of the last.
    pub(crate) fn start_monitor(&mut self) {
        let keeping = std::mem::take(&mut self.daemon.keeping);
        (self.monitor, self.daemon) = spawn(&self.dir, &keeping);
    }

    /// From now on what would be lost with the monitor is kept here.
    pub(crate) fn keep(&mut self) {
        assert_eq!(self.daemon.ask(Ask::Keep), Ok(Answer::Done));
        self.daemon.keeping.asked = true;
    }

    pub(crate) fn state(&mut self) -> Vec<(String, Phase)> {
        match self.daemon.ask(Ask::Hello { version: conmon_protocol::VERSION }) {
            Ok(Answer::Hello(state)) => {
                state.containers.into_iter().map(|state| (state.container_id, state.phase)).collect()
            }
            other => panic!("hello: {other:?}"),
        }
    }

    /// The same once the kernel has let go of what was killed.
    pub(crate) fn unmake_soon(mut self) {
        let until = Instant::now() + Duration::from_secs(10);
        while let Err(refusal) = self.daemon.ask(Ask::UnmakePod) {
            assert!(Instant::now() < until, "{refusal}");
            std::thread::sleep(Duration::from_millis(10));
        }
        assert!(self.monitor.wait().unwrap().success());
        self.assert_nothing_left();
    }

    /// Takes the pod away, and looks whether anything is left.
    pub(crate) fn unmake(mut self) {
        assert_eq!(self.daemon.ask(Ask::UnmakePod), Ok(Answer::Done));
        assert!(self.monitor.wait().unwrap().success());
        self.assert_nothing_left();
    }

    pub(crate) fn assert_nothing_left(&self) {
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!mounts.contains(self.run.path().to_str().unwrap()), "mounts are left:\n{mounts}");
        let names = |dir: &Path| -> Vec<String> {
            let entries = std::fs::read_dir(dir).unwrap().flatten();
            entries.map(|entry| entry.file_name().into_string().unwrap()).collect()
        };
        let mine: Vec<String> = names(&self.dir).into_iter().filter(|name| name != "containers").collect();
        assert!(mine.is_empty(), "files are left: {mine:?}");
        for container in names(&self.dir.join("containers")) {
            let left = names(&self.dir.join("containers").join(&container));
            assert_eq!(left, ["bundle"], "files of {container} are left");
        }
        if let Ok(records) = std::fs::read_dir(self.run.path().join("runtime")) {
            assert_eq!(records.count(), 0, "the runtime's records are left");
        }
        assert!(pod_inits(&self.dir).is_empty(), "the first process of the pod is left");
        assert_eq!(cgroups(&self.cgroup_parent), Vec::<PathBuf>::new(), "cgroups are left");
    }
}

impl Drop for Pod {
    /// After a failed test: by hand, and without asking the monitor.
    fn drop(&mut self) {
        let _ = self.monitor.kill();
        let _ = self.monitor.wait();
        for dir in cgroups(&self.cgroup_parent) {
            let pids = std::fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
            for pid in pids.lines().filter_map(|pid| rustix::process::Pid::from_raw(pid.parse().ok()?)) {
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            }
            for _ in 0..50 {
                if std::fs::remove_dir(&dir).is_ok() {
                    break;
                }
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        remove_parents(&self.cgroup_parent);
        for init in pod_inits(&self.dir) {
            let _ = rustix::process::kill_process(init, rustix::process::Signal::KILL);
        }
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let mine = mounts.lines().filter_map(|line| line.split(' ').nth(4));
        for mount in mine.filter(|mount| Path::new(mount).starts_with(self.run.path())) {
            let _ = rustix::mount::unmount(mount, rustix::mount::UnmountFlags::DETACH);
        }
    }
}

/// A pod whose containers runc makes, where there is a runc.
pub(crate) fn runc() -> Option<Pod> {
    let runc = ["/usr/sbin/runc", "/usr/bin/runc", "/usr/local/sbin/runc"].map(Path::new);
    let Some(runc) = runc.into_iter().find(|path| path.exists()) else {
        println!("skipped: there is no runc here");
        return None;
    };
    let mut pod = Pod::made()?;
    pod.foreign = Some(PathBuf::from(runc));
    Some(pod)
}

/// The first processes of a pod's shared PID namespace.
fn pod_inits(pod_dir: &Path) -> Vec<rustix::process::Pid> {
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let is_init = |pid: &i32| {
        let line = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        line.contains("--pod-init") && line.contains(pod_dir.to_str().unwrap())
    };
    pids.filter(is_init).filter_map(rustix::process::Pid::from_raw).collect()
}

/// The containers' cgroups below a parent, in all hierarchies.
pub(crate) fn cgroups(parent: &str) -> Vec<PathBuf> {
    let parents = hierarchies().into_iter().map(|dir| dir.join(parent.trim_start_matches('/')));
    let children = parents.filter_map(|dir| std::fs::read_dir(dir).ok()).flatten().flatten();
    children.filter(|entry| entry.path().is_dir()).map(|entry| entry.path()).collect()
}

fn remove_parents(parent: &str) {
    for dir in hierarchies() {
        let _ = std::fs::remove_dir(dir.join(parent.trim_start_matches('/')));
    }
}

fn hierarchies() -> Vec<PathBuf> {
    let root = Path::new("/sys/fs/cgroup");
    if root.join("cgroup.controllers").exists() {
        return vec![root.into()];
    }
    std::fs::read_dir(root).unwrap().flatten().map(|entry| entry.path()).collect()
}

pub(crate) fn process(args: &[&str]) -> Value {
    json!({
        "args": args,
        "cwd": "/",
        "env": ["PATH=/bin"],
        "user": {"uid": 0, "gid": 0},
        "noNewPrivileges": true,
    })
}

/// Busybox under the names that the tests use.
pub(crate) fn make_rootfs(dir: &Path) {
    for name in ["bin", "proc", "dev", "tmp"] {
        std::fs::create_dir_all(dir.join(name)).unwrap();
    }
    std::fs::copy("/bin/busybox", dir.join("bin/busybox")).unwrap();
    for name in [
        "sh", "cat", "echo", "sleep", "true", "false", "kill", "tty", "stty", "ls", "dd", "hostname", "ps",
        "seq", "head", "readlink", "test", "yes", "id", "grep",
    ] {
        std::os::unix::fs::symlink("busybox", dir.join("bin").join(name)).unwrap();
    }
}

/// The monitor under test; `BERTH_CONMON` names another build, such as the static one.
pub(crate) fn program() -> std::ffi::OsString {
    std::env::var_os("BERTH_CONMON").unwrap_or_else(|| env!("CARGO_BIN_EXE_berth-conmon").into())
}

/// What a daemon keeps for the next monitor.
#[derive(Default)]
pub(crate) struct Keeping {
    asked: bool,
    pub(crate) kept: HashMap<String, (Vec<Kept>, Vec<OwnedFd>)>,
    pub(crate) execs: Vec<(KeptExec, Vec<OwnedFd>)>,
}

/// The daemon's socket goes in as descriptor 3, which only a shell can do from here without unsafe code.
fn spawn(dir: &Path, keeping: &Keeping) -> (Child, Daemon) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let mut daemon = Daemon::new(ours);
    for (id, (kept, fds)) in &keeping.kept {
        let fds: Vec<BorrowedFd<'_>> = fds.iter().map(AsFd::as_fd).collect();
        daemon.say(Ask::TakeBack { container_id: id.clone(), kept: kept.clone() }, &fds);
    }
    for (exec, fds) in &keeping.execs {
        let fds: Vec<BorrowedFd<'_>> = fds.iter().map(AsFd::as_fd).collect();
        daemon.say(Ask::TakeBackExec(exec.clone()), &fds);
    }
    let child = Command::new("/bin/sh")
        .args(["-c", "exec \"$0\" --pod-dir \"$1\" --daemon-fd 3 3<&0 7</dev/zero </dev/null"])
        .arg(program())
        .arg(dir)
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .spawn()
        .unwrap();
    if keeping.asked {
        daemon.keeping.asked = true;
        daemon.ask(Ask::Keep).unwrap();
    }
    (child, daemon)
}

pub(crate) struct Daemon {
    socket: UnixStream,
    decoder: Decoder,
    fds: VecDeque<OwnedFd>,
    pub(crate) events: Vec<Event>,
    pub(crate) keeping: Keeping,
    seq: u64,
}

impl Daemon {
    pub(crate) fn new(socket: UnixStream) -> Daemon {
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Daemon {
            socket,
            decoder: Decoder::new(),
            fds: VecDeque::new(),
            events: Vec::new(),
            keeping: Keeping::default(),
            seq: 0,
        }
    }

    pub(crate) fn connect(pod_dir: &Path) -> Daemon {
        let dir = std::fs::File::open(pod_dir).unwrap();
        let path = format!("/proc/self/fd/{}/monitor.sock", std::os::fd::AsRawFd::as_raw_fd(&dir));
        Daemon::new(UnixStream::connect(path).unwrap())
    }

    pub(crate) fn ask(&mut self, ask: Ask) -> Result<Answer, Refusal> {
        self.ask_with(ask, &[]).0
    }

    pub(crate) fn ask_with(
        &mut self,
        ask: Ask,
        fds: &[BorrowedFd<'_>],
    ) -> (Result<Answer, Refusal>, Vec<OwnedFd>) {
        let seq = self.say(ask, fds);
        self.answer_with(seq)
    }

    /// The answer to what was said before.
    pub(crate) fn answer_to(&mut self, seq: u64) -> Result<Answer, Refusal> {
        self.answer_with(seq).0
    }

    fn answer_with(&mut self, seq: u64) -> (Result<Answer, Refusal>, Vec<OwnedFd>) {
        loop {
            match self.hear() {
                (Message::Event(event), _) => self.events.push(event),
                (Message::Answer { seq: of, answer }, fds) if of == seq => return (answer, fds),
                (other, _) => panic!("an answer nobody asked for: {other:?}"),
            }
        }
    }

    /// Asks and does not wait.
    pub(crate) fn say(&mut self, ask: Ask, fds: &[BorrowedFd<'_>]) -> u64 {
        self.seq += 1;
        let bytes = encode(&Request { seq: self.seq, ask }, fds.len() as u8).unwrap();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() {
            control.push(SendAncillaryMessage::ScmRights(fds));
        }
        let sent = sendmsg(&self.socket, &[IoSlice::new(&bytes)], &mut control, SendFlags::empty()).unwrap();
        assert_eq!(sent, bytes.len());
        self.seq
    }

    pub(crate) fn hear(&mut self) -> (Message, Vec<OwnedFd>) {
        loop {
            if let Some(frame) = self.decoder.next_frame().unwrap() {
                let fds = self.fds.drain(..usize::from(frame.fd_count)).collect();
                match frame.parse().unwrap() {
                    Message::Keep { container_id, kept } => {
                        self.keeping.kept.insert(container_id, (kept, fds));
                    }
                    Message::ExecBegins { .. } => {}
                    Message::KeepExec(exec) => self.keeping.execs.push((exec, fds)),
                    message => return (message, fds),
                }
                continue;
            }
            let mut buffer = [0; 4096];
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
            let mut control = RecvAncillaryBuffer::new(&mut space);
            let slices = &mut [IoSliceMut::new(&mut buffer)];
            let received = recvmsg(&self.socket, slices, &mut control, RecvFlags::CMSG_CLOEXEC)
                .expect("the monitor is silent");
            for message in control.drain() {
                if let RecvAncillaryMessage::ScmRights(fds) = message {
                    self.fds.extend(fds);
                }
            }
            assert!(received.bytes > 0, "the monitor hung up");
            self.decoder.push(&buffer[..received.bytes]);
        }
    }

    /// The first event, heard already or next, that fits.
    pub(crate) fn event<T>(&mut self, fits: impl Fn(&Event) -> Option<T>) -> T {
        loop {
            if let Some(at) = self.events.iter().position(|event| fits(event).is_some()) {
                return fits(&self.events.remove(at)).unwrap();
            }
            match self.hear() {
                (Message::Event(event), _) => self.events.push(event),
                (other, _) => panic!("an answer nobody asked for: {other:?}"),
            }
        }
    }

    pub(crate) fn exit_of(&mut self, id: &str) -> Exit {
        self.event(|event| match event {
            Event::Exited { container_id, exit } if container_id == id => Some(*exit),
            _ => None,
        })
    }

    pub(crate) fn exec_exit(&mut self, id: &str) -> (i32, bool) {
        self.event(|event| match event {
            Event::ExecExited { exec_id, code, timed_out } if exec_id == id => Some((*code, *timed_out)),
            _ => None,
        })
    }
}

pub(crate) fn exec_plan(exec_id: &str, container_id: &str, script: &str) -> ExecPlan {
    ExecPlan {
        exec_id: exec_id.into(),
        container_id: container_id.into(),
        process: process(&["sh", "-c", script]),
        terminal: false,
        stdin: false,
        stdout: true,
        stderr: true,
        timeout_ms: None,
    }
}

pub(crate) fn pipe() -> (OwnedFd, OwnedFd) {
    rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap()
}

/// Reads until the end.
pub(crate) fn read_all(fd: impl AsFd) -> String {
    let mut file = std::fs::File::from(fd.as_fd().try_clone_to_owned().unwrap());
    let mut text = String::new();
    std::io::Read::read_to_string(&mut file, &mut text).unwrap();
    text
}

pub(crate) fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < until, "never: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

pub(crate) fn open_fds(pid: u32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count()
}
