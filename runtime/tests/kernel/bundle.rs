//! A bundle with a busybox root, the command that runs it, and the proof that nothing of it is left.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::symlink;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{LazyLock, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

const APPLETS: &[&str] = &[
    "sh", "cat", "ls", "id", "sleep", "true", "false", "echo", "grep", "readlink", "stat", "touch", "mkdir",
    "hostname", "mount", "umask", "ps", "kill", "tty", "stty", "mknod", "pwd", "test", "head", "env",
    "chmod", "wc", "nc", "ifconfig",
];

static COUNT: AtomicU32 = AtomicU32::new(0);

/// A process that is told of each bundle, and waits for our end: a test that is killed drops nothing.
static KEEPER: LazyLock<Mutex<ChildStdin>> = LazyLock::new(|| {
    let script = r#"
        all=$(cat)
        echo "$all" | while read -r program dir; do
            [ -d "$dir" ] || continue
            for container in "$dir"/state/*; do
                [ -d "$container" ] && "$program" --root "$dir/state" delete --force "${container##*/}"
            done
            rm -rf "$dir"
        done"#;
    let mut command = Command::new("sh");
    // In a group of its own, out of the reach of what ends ours.
    command
        .args(["-c", script])
        .process_group(0)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    Mutex::new(command.spawn().unwrap().stdin.take().unwrap())
});

pub(crate) struct Bundle {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) id: String,
    pub(crate) spec: Value,
    pub(crate) program: PathBuf,
}

/// What a command said.
pub(crate) struct Said {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

/// Root is needed for nearly everything here.
pub(crate) fn is_root() -> bool {
    let root = rustix::process::getuid().is_root();
    if !root {
        println!("skipped: making containers needs root");
    }
    root
}

impl Bundle {
    /// A container that runs a shell script, with all namespaces but those of users and time.
    pub(crate) fn new(script: &str) -> Bundle {
        let dir = tempfile::Builder::new().prefix("berth-rt-").tempdir().unwrap();
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let id = format!("rt-{}-{number}", std::process::id());
        let program = PathBuf::from(env!("CARGO_BIN_EXE_berth-runtime"));
        writeln!(KEEPER.lock().unwrap(), "{} {}", program.display(), dir.path().display()).unwrap();
        make_root(&dir.path().join("rootfs"));
        let spec = spec(&id, script);
        Bundle { dir, id, spec, program }
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn rootfs(&self) -> PathBuf {
        self.path().join("rootfs")
    }

    fn state_root(&self) -> PathBuf {
        self.path().join("state")
    }

    pub(crate) fn write(&self) {
        fs::write(self.path().join("config.json"), serde_json::to_vec_pretty(&self.spec).unwrap()).unwrap();
    }

    pub(crate) fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.arg("--root").arg(self.state_root()).args(words).current_dir(self.path());
        command
    }

    /// `berth-runtime WORDS`, where `ID` stands for the container's.
    pub(crate) fn say(&self, words: &[&str]) -> Said {
        let words: Vec<&str> =
            words.iter().map(|word| if *word == "ID" { self.id.as_str() } else { word }).collect();
        let output = self.command(&words).stdin(std::process::Stdio::null()).output().unwrap();
        Said::from(output)
    }

    pub(crate) fn run(&self) -> Said {
        self.write();
        self.say(&["run", "ID"])
    }

    /// Created and started. Its own output goes nowhere: an init that holds our pipe would never let us go.
    pub(crate) fn start(&self) {
        self.create();
        let said = self.say(&["start", "ID"]);
        assert_eq!(said.code, 0, "{}", said.err);
    }

    pub(crate) fn create(&self) {
        self.write();
        let log = self.path().join("log");
        let (out, err) =
            (fs::File::create(self.path().join("out")).unwrap(), fs::File::create(&log).unwrap());
        let null = std::process::Stdio::null();
        let status =
            self.command(&["create", &self.id]).stdin(null).stdout(out).stderr(err).status().unwrap();
        assert!(status.success(), "{}", fs::read_to_string(&log).unwrap());
    }

    /// What the container that was created has written so far.
    pub(crate) fn output(&self) -> String {
        fs::read_to_string(self.path().join("out")).unwrap()
    }

    pub(crate) fn status(&self) -> String {
        let said = self.say(&["state", "ID"]);
        let state: Value = serde_json::from_str(&said.out).unwrap_or_default();
        state["status"].as_str().unwrap_or("none").to_owned()
    }

    pub(crate) fn pid(&self) -> i32 {
        let state: Value = serde_json::from_str(&self.say(&["state", "ID"]).out).unwrap();
        state["pid"].as_i64().unwrap() as i32
    }

    pub(crate) fn wait_for(&self, status: &str) {
        wait_until(|| self.status() == status, status);
    }

    pub(crate) fn mount(&mut self, mount: Value) {
        self.spec["mounts"].as_array_mut().unwrap().push(mount);
    }

    pub(crate) fn bind(&mut self, source: &Path, destination: &str, options: &[&str]) {
        self.mount(json!({"destination": destination, "type": "bind", "source": source, "options": options}));
    }

    /// Cgroups, mounts and records of it that are still there.
    pub(crate) fn leftovers(&self) -> Vec<String> {
        let mut left = Vec::new();
        for hierarchy in fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten() {
            let path = hierarchy.path().join(&self.id);
            if path.exists() {
                left.push(path.display().to_string());
            }
        }
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let here = self.path().display().to_string();
        left.extend(mounts.lines().filter(|line| line.contains(&here)).map(str::to_owned));
        if self.state_root().join(&self.id).exists() {
            left.push("its record".into());
        }
        left
    }
}

impl Drop for Bundle {
    fn drop(&mut self) {
        let said = self.say(&["delete", "--force", "ID"]);
        if !std::thread::panicking() {
            assert_eq!(said.code, 0, "{}", said.err);
            assert_eq!(self.leftovers(), Vec::<String>::new());
        }
    }
}

impl From<Output> for Said {
    fn from(output: Output) -> Said {
        Said {
            code: output.status.code().unwrap_or(-1),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

impl Said {
    /// It went well; its output, trimmed.
    #[track_caller]
    pub(crate) fn ok(&self) -> &str {
        assert_eq!(self.code, 0, "out: {} err: {}", self.out, self.err);
        self.out.trim_end()
    }

    /// It went wrong, and its complaint names all of these.
    #[track_caller]
    pub(crate) fn refused(&self, words: &[&str]) {
        assert_ne!(self.code, 0, "out: {}", self.out);
        for word in words {
            assert!(self.err.contains(word), "no {word:?} in {}", self.err);
        }
    }
}

#[track_caller]
pub(crate) fn wait_until(mut done: impl FnMut() -> bool, what: &str) {
    let end = Instant::now() + Duration::from_secs(10);
    while !done() {
        assert!(Instant::now() < end, "never became {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn make_root(root: &Path) {
    for dir in ["bin", "dev", "etc", "proc", "sys", "tmp"] {
        fs::create_dir_all(root.join(dir)).unwrap();
    }
    fs::copy("/bin/busybox", root.join("bin/busybox")).unwrap();
    for applet in APPLETS {
        symlink("busybox", root.join("bin").join(applet)).unwrap();
    }
}

fn spec(id: &str, script: &str) -> Value {
    json!({
        "ociVersion": "1.3.0",
        "process": {
            "args": ["sh", "-c", script],
            "env": ["PATH=/bin"],
            "cwd": "/",
            "user": {"uid": 0, "gid": 0},
            "capabilities": {
                "bounding": ["CAP_KILL", "CAP_CHOWN"],
                "effective": ["CAP_KILL", "CAP_CHOWN"],
                "permitted": ["CAP_KILL", "CAP_CHOWN"]
            },
            "noNewPrivileges": true
        },
        "root": {"path": "rootfs", "readonly": false},
        "hostname": "berth-test",
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755", "size=65536k"]},
            {"destination": "/dev/pts", "type": "devpts", "source": "devpts",
             "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]},
            {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"]}
        ],
        "linux": {
            "cgroupsPath": format!("/{id}"),
            "resources": {"devices": [{"allow": false, "access": "rwm"}]},
            "namespaces": [
                {"type": "pid"}, {"type": "network"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"},
                {"type": "cgroup"}
            ],
            "maskedPaths": ["/proc/kcore", "/proc/keys", "/proc/acpi", "/sys/firmware", "/nosuch"],
            "readonlyPaths": ["/proc/sys", "/proc/sysrq-trigger", "/nosuch"]
        }
    })
}

/// Set in the process that is to be killed.
const HANGS: &str = "BERTH_TEST_HANGS";

#[test]
fn a_test_that_is_killed_leaves_no_container() {
    if !is_root() {
        return;
    }
    if std::env::var_os(HANGS).is_some() {
        let bundle = Bundle::new("while true; do sleep 1; done");
        bundle.start();
        println!("made {} {}", bundle.id, bundle.path().display());
        std::thread::sleep(Duration::from_secs(600));
    }
    let name = "bundle::a_test_that_is_killed_leaves_no_container";
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", name, "--nocapture"]).env(HANGS, "1").stdout(Stdio::piped());
    let mut test = command.spawn().unwrap();
    let mut lines = BufReader::new(test.stdout.take().unwrap()).lines().map_while(Result::ok);
    let made = lines.find(|line| line.contains("made ")).unwrap();
    let mut words = made.rsplit(' ');
    let (dir, id) = (PathBuf::from(words.next().unwrap()), words.next().unwrap());
    // In each hierarchy of v1, or in the only one.
    let has_cgroup = || {
        let hierarchies = fs::read_dir("/sys/fs/cgroup").unwrap().flatten().map(|one| one.path());
        hierarchies.chain([PathBuf::from("/sys/fs/cgroup")]).any(|one| one.join(id).exists())
    };
    assert!(dir.exists() && has_cgroup());
    test.kill().unwrap();
    test.wait().unwrap();
    wait_until(|| !dir.exists() && !has_cgroup(), "cleared away");
}
