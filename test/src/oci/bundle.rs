//! A bundle with the probe as its program, and the container made of it.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use super::Lab;
use super::runtime::{Said, say, say_into};
use super::verdict::{Outcome, fails, that};

static COUNT: AtomicU32 = AtomicU32::new(0);

/// One bundle and its container, taken away when dropped.
pub(crate) struct Bundle<'a> {
    lab: &'a Lab<'a>,
    dir: tempfile::TempDir,
    pub(crate) id: String,
    pub(crate) config: Value,
}

impl Lab<'_> {
    /// A container like an engine's, that reports.
    pub(crate) fn bundle(&self) -> Result<Bundle<'_>> {
        let dir = tempfile::Builder::new().prefix("berth-oci-").tempdir()?;
        let id = format!("oci-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let rootfs = dir.path().join("rootfs");
        for name in ["dev", "etc", "proc", "sys", "tmp", "out"] {
            fs::create_dir_all(rootfs.join(name))?;
        }
        fs::copy(&self.probe, rootfs.join("probe")).context("copying the probe")?;
        fs::copy("/bin/busybox", rootfs.join("busybox")).context("copying busybox")?;
        // The command line may be searched by others than root.
        fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
        let config = config(&self.runtime.cgroups_path(&id));
        Ok(Bundle { lab: self, dir, id, config })
    }
}

impl Bundle<'_> {
    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn rootfs(&self) -> PathBuf {
        self.path().join("rootfs")
    }

    /// A place outside of the root file system.
    pub(crate) fn outside(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }

    /// Sets what a JSON pointer names, making what is missing above it.
    pub(crate) fn set(&mut self, pointer: &str, value: impl Into<Value>) -> &mut Self {
        let mut at = &mut self.config;
        for part in pointer.trim_start_matches('/').split('/') {
            at = match at {
                Value::Array(list) => &mut list[part.parse::<usize>().unwrap_or(0)],
                _ => &mut at[part.replace("~1", "/")],
            };
        }
        *at = value.into();
        self
    }

    /// Takes away the last part of a JSON pointer.
    pub(crate) fn unset(&mut self, pointer: &str) -> &mut Self {
        let (parent, name) = pointer.rsplit_once('/').unwrap_or(("", pointer));
        if let Some(Value::Object(parent)) = self.config.pointer_mut(parent) {
            parent.remove(name);
        }
        self
    }

    /// Adds to a list, making it where it is missing.
    pub(crate) fn push(&mut self, pointer: &str, value: impl Into<Value>) -> &mut Self {
        if self.config.pointer(pointer).is_none() {
            self.set(pointer, json!([]));
        }
        if let Some(Value::Array(list)) = self.config.pointer_mut(pointer) {
            list.push(value.into());
        }
        self
    }

    pub(crate) fn mount(&mut self, destination: &str, kind: &str, options: &[&str]) -> &mut Self {
        self.push(
            "/mounts",
            json!({"destination": destination, "type": kind, "source": kind, "options": options}),
        )
    }

    pub(crate) fn bind(&mut self, source: &Path, destination: &str, options: &[&str]) -> &mut Self {
        let options: Vec<&str> = std::iter::once("bind").chain(options.iter().copied()).collect();
        self.push(
            "/mounts",
            json!({"destination": destination, "type": "bind", "source": source, "options": options}),
        )
    }

    /// What the probe tries besides reporting.
    pub(crate) fn tries(&mut self, tries: &[&str]) -> &mut Self {
        let args: Vec<&str> = ["/probe", "report"].iter().chain(tries).copied().collect();
        self.args(&args)
    }

    pub(crate) fn args(&mut self, args: &[&str]) -> &mut Self {
        self.set("/process/args", json!(args))
    }

    /// Takes a namespace away from the list, so that the container shares ours.
    pub(crate) fn without_namespace(&mut self, kind: &str) -> &mut Self {
        if let Some(list) = self.config["linux"]["namespaces"].as_array_mut() {
            list.retain(|namespace| namespace["type"] != kind);
        }
        self
    }

    pub(crate) fn write(&self) -> Result<()> {
        fs::write(self.path().join("config.json"), serde_json::to_vec_pretty(&self.config)?)?;
        Ok(())
    }

    fn state_root(&self) -> PathBuf {
        self.path().join("state")
    }

    pub(crate) fn command(&self, words: &[&str]) -> Command {
        let mut command = self.lab.runtime.command(&self.state_root());
        command.args(words).current_dir(self.path());
        command
    }

    /// Any command; `ID` stands for the container's.
    pub(crate) fn say(&self, words: &[&str]) -> Result<Said> {
        let words: Vec<&str> = words.iter().map(|&word| if word == "ID" { &self.id } else { word }).collect();
        say(&mut self.command(&words))
    }

    /// Runs to the end.
    pub(crate) fn run(&self) -> Result<Said> {
        self.write()?;
        self.say(&["run", "ID"])
    }

    /// Runs to the end, and what the probe saw.
    pub(crate) fn report(&self) -> Result<Value> {
        let said = self.run()?;
        ensure!(said.is_ok(), "run: {}", said.last_words());
        let text = said.out.lines().last().unwrap_or_default();
        serde_json::from_str(text).with_context(|| format!("the probe's report {text:?}"))
    }

    /// What came of one try.
    pub(crate) fn attempt(&mut self, what: &str) -> Result<String> {
        let report = self.tries(&[what]).report()?;
        Ok(tried(&report, what).to_owned())
    }

    /// Creating; what the container prints goes to a file.
    pub(crate) fn try_create(&self) -> Result<Said> {
        self.write()?;
        let out = File::options()
            .create(true)
            .truncate(true)
            .read(true)
            .write(true)
            .open(self.path().join("out.log"))?;
        say_into(&mut self.command(&["create", &self.id]), out, tempfile::tempfile()?)
    }

    pub(crate) fn create(&self) -> Result<()> {
        let said = self.try_create()?;
        ensure!(said.is_ok(), "create: {}", said.last_words());
        Ok(())
    }

    pub(crate) fn start(&self) -> Result<()> {
        let said = self.say(&["start", "ID"])?;
        ensure!(said.is_ok(), "start: {}", said.last_words());
        Ok(())
    }

    /// Created and started with a program that waits for signals, and does wait by now.
    pub(crate) fn running(&mut self) -> Result<()> {
        self.args(&["/probe", "wait"]);
        self.create()?;
        self.start()?;
        self.until("it says that it waits", || Ok(self.output()?.contains("waiting")))
    }

    /// What the created container has printed.
    pub(crate) fn output(&self) -> Result<String> {
        Ok(fs::read_to_string(self.path().join("out.log"))?)
    }

    pub(crate) fn state(&self) -> Result<Value> {
        let said = self.say(&["state", "ID"])?;
        ensure!(said.is_ok(), "state: {}", said.last_words());
        serde_json::from_str(&said.out).with_context(|| format!("the state {:?}", said.out))
    }

    pub(crate) fn status(&self) -> Result<String> {
        Ok(self.state()?["status"].as_str().unwrap_or_default().to_owned())
    }

    pub(crate) fn pid(&self) -> Result<i64> {
        self.state()?["pid"].as_i64().context("the state has no pid")
    }

    pub(crate) fn until(&self, what: &str, mut is_so: impl FnMut() -> Result<bool>) -> Result<()> {
        let end = Instant::now() + Duration::from_secs(10);
        while !is_so()? {
            ensure!(Instant::now() < end, "waited in vain until {what}");
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    pub(crate) fn until_stopped(&self) -> Result<()> {
        self.until("it is stopped", || Ok(self.status()? == "stopped"))
    }

    /// Killed and waited for.
    pub(crate) fn stop(&self) -> Result<()> {
        let said = self.say(&["kill", "ID", "KILL"])?;
        ensure!(said.is_ok(), "kill: {}", said.last_words());
        self.until_stopped()
    }

    /// The configuration is an error, at create or at start, and nothing of it stays.
    pub(crate) fn refused(&self) -> Outcome {
        let said = self.run()?;
        if said.is_ok() {
            return fails("it ran");
        }
        that(said.code != -1, || "it hung".into())?;
        let left = self.say(&["state", "ID"])?;
        that(!left.is_ok(), || format!("it is {} after the error", left.out.trim()))?;
        that(self.cgroups().is_empty(), || format!("after the error, cgroups stay: {:?}", self.cgroups()))
    }

    /// Directories in cgroup file systems that bear the container's name.
    pub(crate) fn cgroups(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        let hierarchies = fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten();
        let mut roots: Vec<PathBuf> = hierarchies.map(|entry| entry.path()).collect();
        roots.push("/sys/fs/cgroup".into());
        for root in roots {
            let names = ["", "berth-oci", "system.slice"];
            for parent in names.map(|name| root.join(name)) {
                let entries = fs::read_dir(parent).into_iter().flatten().flatten();
                let ours = entries.filter(|entry| entry.file_name().to_string_lossy().contains(&self.id));
                found.extend(ours.map(|entry| entry.path()).filter(|path| path.is_dir()));
            }
        }
        found
    }

    /// A file of the container's cgroup, by controller; on cgroup v2 the controller is of no matter.
    pub(crate) fn cgroup_file(&self, controller: &str, file: &str) -> Result<String> {
        let path = self.cgroup_dir(controller)?.join(file);
        let text = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
        Ok(text.trim_end().to_owned())
    }

    pub(crate) fn cgroup_dir(&self, controller: &str) -> Result<PathBuf> {
        let pid = self.pid()?;
        let text = fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
        for line in text.lines() {
            let mut fields = line.splitn(3, ':').skip(1);
            let (names, path) = (fields.next().unwrap_or_default(), fields.next().unwrap_or_default());
            let path = path.trim_start_matches('/');
            if names.is_empty() && self.lab.host.unified {
                return Ok(Path::new("/sys/fs/cgroup").join(path));
            }
            if names.is_empty() && controller == "unified" {
                return Ok(Path::new("/sys/fs/cgroup/unified").join(path));
            }
            if names.split(',').any(|name| name == controller) {
                return Ok(Path::new("/sys/fs/cgroup").join(controller).join(path));
            }
        }
        anyhow::bail!("no hierarchy has the controller {controller}")
    }

    /// Lines that `probe note` wrote.
    pub(crate) fn notes(&self) -> Result<Vec<Value>> {
        let text = fs::read_to_string(self.notes_file()).unwrap_or_default();
        text.lines().map(|line| serde_json::from_str(line).context("a note")).collect()
    }

    /// On the host; containers see it as /out/notes.
    pub(crate) fn notes_file(&self) -> PathBuf {
        self.rootfs().join("out/notes")
    }
}

impl Drop for Bundle<'_> {
    /// Whatever the runtime did or did not do, nothing stays on the machine.
    fn drop(&mut self) {
        let _ = self.say(&["delete", "--force", "ID"]);
        for dir in self.cgroups() {
            let processes = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
            for pid in processes.lines().filter_map(|line| rustix::process::Pid::from_raw(line.parse().ok()?))
            {
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            }
            std::thread::sleep(Duration::from_millis(20));
            let _ = fs::remove_dir(dir);
        }
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let here = self.path().display().to_string();
        let inside =
            mounts.lines().filter_map(|line| line.split(' ').nth(4)).filter(|at| at.starts_with(&here));
        for target in inside.collect::<Vec<_>>().into_iter().rev() {
            let _ = rustix::mount::unmount(target, rustix::mount::UnmountFlags::DETACH);
        }
    }
}

/// What came of a try in a report.
pub(crate) fn tried<'a>(report: &'a Value, what: &str) -> &'a str {
    report["tries"][what].as_str().unwrap_or("not tried")
}

/// An engine's configuration, without what single tests are about.
fn config(cgroups_path: &str) -> Value {
    let capabilities =
        ["CAP_CHOWN", "CAP_KILL", "CAP_MKNOD", "CAP_NET_BIND_SERVICE", "CAP_SETUID", "CAP_SETGID"];
    json!({
        "ociVersion": "1.0.2",
        "process": {
            "args": ["/probe", "report"],
            "env": ["PATH=/bin:/"],
            "cwd": "/",
            "user": {"uid": 0, "gid": 0},
            "capabilities": {
                "bounding": capabilities, "effective": capabilities, "permitted": capabilities
            }
        },
        "root": {"path": "rootfs"},
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs",
             "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]},
            {"destination": "/dev/pts", "type": "devpts", "source": "devpts",
             "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]},
            {"destination": "/dev/shm", "type": "tmpfs", "source": "shm",
             "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]},
            {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"]}
        ],
        "linux": {
            "cgroupsPath": cgroups_path,
            "resources": {"devices": [{"allow": false, "access": "rwm"}]},
            "namespaces": [
                {"type": "pid"}, {"type": "network"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"}
            ]
        }
    })
}
