//! Debian's podman with berth-runtime as its runtime: own storage, own settings, an image of busybox; and an account
//! of an ordinary user for it.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, ensure};

use crate::programs::Programs;
use crate::tools::{self, ENGINE_PACKAGES};

const APPLETS: &[&str] =
    &["sh", "cat", "echo", "false", "grep", "id", "ls", "pwd", "sleep", "stty", "touch", "true", "tty"];

/// Everything of it is in one folder, and gone with it.
#[derive(Debug)]
pub struct Podman {
    dir: tempfile::TempDir,
    user: Option<String>,
}

impl Podman {
    /// The node's root's.
    pub fn of_root() -> Result<Podman> {
        Podman::make(None)
    }

    /// An ordinary user's.
    pub fn of_user(account: &Account) -> Result<Podman> {
        Podman::make(Some(account))
    }

    fn make(account: Option<&Account>) -> Result<Podman> {
        tools::ensure_packages(ENGINE_PACKAGES)?;
        let dir = tempfile::Builder::new().prefix("berth-podman-").tempdir()?;
        std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o755))?;
        let podman = Podman { dir, user: account.map(|account| account.name.clone()) };
        for folder in ["home", "xdg", "root"] {
            std::fs::create_dir(podman.path(folder))?;
        }
        std::fs::set_permissions(podman.path("xdg"), PermissionsExt::from_mode(0o700))?;
        // Who builds may keep others out of the build's folder.
        copy(&Programs::built().runtime, &podman.path("berth-runtime"))?;
        std::fs::write(podman.path("containers.conf"), SETTINGS)?;
        std::fs::write(podman.path("storage.conf"), podman.storage())?;
        std::fs::write(podman.path("policy.json"), r#"{"default": [{"type": "insecureAcceptAnything"}]}"#)?;
        podman.write_image()?;
        if let Some(account) = account {
            let owner = format!("{}:", account.name);
            run(Command::new("chown").args(["-R", &owner]).arg(podman.dir.path()))?;
        }
        let image = podman.path("image.tar").display().to_string();
        podman.ok(&["import", "-q", &image, "test"])?;
        Ok(podman)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Overlay for root; whether an ordinary user may mount one depends on the kernel, so there files are copied.
    fn storage(&self) -> String {
        let driver = if self.user.is_some() { "vfs" } else { "overlay" };
        let (graph, run) = (self.path("root/graph"), self.path("root/run"));
        format!(
            "[storage]\ndriver = \"{driver}\"\ngraphroot = \"{0}\"\nrunroot = \"{1}\"\nrootless_storage_path = \"{0}\"\n",
            graph.display(),
            run.display()
        )
    }

    fn write_image(&self) -> Result<()> {
        let rootfs = self.path("image");
        for folder in ["bin", "etc", "tmp", "run"] {
            std::fs::create_dir_all(rootfs.join(folder))?;
        }
        copy(Path::new("/bin/busybox"), &rootfs.join("bin/busybox"))?;
        for applet in APPLETS {
            symlink("busybox", rootfs.join("bin").join(applet))?;
        }
        run(Command::new("tar").arg("-cf").arg(self.path("image.tar")).arg("-C").arg(rootfs).arg("."))
    }

    /// Runs it; what came of it.
    pub fn say(&self, args: &[&str]) -> Result<Output> {
        let mut command = match &self.user {
            None => Command::new("podman"),
            Some(user) => {
                let mut command = Command::new("setpriv");
                command.args(["--reuid", user, "--regid", user, "--init-groups", "podman"]);
                command
            }
        };
        command
            .arg("--runtime")
            .arg(self.path("berth-runtime"))
            .args(args)
            .env("HOME", self.path("home"))
            .env("XDG_RUNTIME_DIR", self.path("xdg"))
            .env("CONTAINERS_CONF", self.path("containers.conf"))
            .env("CONTAINERS_STORAGE_CONF", self.path("storage.conf"))
            .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
            // podman believes it before it asks the kernel, and sudo leaves root's.
            .env("USER", self.user.as_deref().unwrap_or("root"))
            .current_dir(self.path("home"))
            .stdin(Stdio::null());
        command.output().context("running podman")
    }

    /// Runs it; what it printed.
    pub fn ok(&self, args: &[&str]) -> Result<String> {
        let output = self.say(args)?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let complaint = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "podman {args:?}: {said}{complaint}");
        Ok(said)
    }

    pub fn inspect(&self, name: &str, format: &str) -> Result<String> {
        Ok(self.ok(&["inspect", "--format", format, name])?.trim().to_owned())
    }

    /// A file of the container's cgroup: of a v1 controller, or of the one cgroup there is.
    pub fn cgroup_file(&self, name: &str, controller: &str, file: &str) -> Result<String> {
        let pid = self.inspect(name, "{{.State.Pid}}")?;
        let lines = std::fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
        let of = |line: &str| line.split_once(&format!(":{controller}:")).map(|(_, path)| path.to_owned());
        let path =
            lines.lines().find_map(of).with_context(|| format!("no controller {controller} in {lines}"))?;
        Ok(std::fs::read_to_string(format!("/sys/fs/cgroup/{controller}{path}/{file}"))?.trim().to_owned())
    }
}

impl Drop for Podman {
    fn drop(&mut self) {
        self.say(&["rm", "--all", "--force", "--time", "0"]).ok();
        self.say(&["rmi", "--all", "--force"]).ok();
        if self.user.is_some() {
            // Files of ids that only its user namespace has, and the process that keeps that.
            self.say(&["system", "migrate"]).ok();
        }
        for mount in mounts_below(self.dir.path()) {
            Command::new("umount").args(["-l", &mount]).status().ok();
        }
        for hierarchy in std::fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten() {
            // podman leaves it; one that is in use, or another podman's, stays.
            let parent = hierarchy.path().join("libpod_parent");
            let below = std::fs::read_dir(&parent).into_iter().flatten().flatten().map(|entry| entry.path());
            below.chain([parent.clone()]).for_each(|dir| drop(std::fs::remove_dir(dir)));
        }
    }
}

/// The last one mounted first.
fn mounts_below(dir: &Path) -> Vec<String> {
    let dir = dir.display().to_string();
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let mut below: Vec<String> = mounts
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .filter(|place| place.starts_with(&dir))
        .map(str::to_owned)
        .collect();
    below.reverse();
    below
}

/// No seccomp or limits of podman's own choice that this machine may not give; a network of none.
const SETTINGS: &str = "\
[containers]
default_ulimits = [\"nofile=1024:1024\", \"nproc=4096:4096\"]
netns = \"none\"
[engine]
cgroup_manager = \"cgroupfs\"
events_logger = \"file\"
";

/// An account of an ordinary user with subordinate ids, removed when dropped.
#[derive(Debug)]
pub struct Account {
    name: String,
    uid: u32,
}

impl Account {
    pub fn make() -> Result<Account> {
        tools::ensure_packages(ENGINE_PACKAGES)?;
        let name = format!("berth-t{}", std::process::id());
        run(Command::new("useradd").args(["--no-create-home", "--shell", "/bin/sh", &name]))?;
        let id = Command::new("id").args(["-u", &name]).output()?;
        let uid = String::from_utf8_lossy(&id.stdout).trim().parse().context("the new user's id")?;
        Ok(Account { name, uid })
    }

    pub fn uid(&self) -> u32 {
        self.uid
    }

    /// Of the whole machine, but of a user that nobody else has: what podman left running for it.
    fn end_processes(&self) {
        for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            let status = std::fs::read_to_string(entry.path().join("status")).unwrap_or_default();
            if status.lines().any(|line| line.starts_with(&format!("Uid:\t{}\t", self.uid)))
                && let Some(pid) = rustix::process::Pid::from_raw(pid)
            {
                rustix::process::kill_process(pid, rustix::process::Signal::KILL).ok();
            }
        }
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        self.end_processes();
        Command::new("userdel").args(["--force", &self.name]).stderr(Stdio::null()).status().ok();
    }
}

/// By another process: one that is cloned here meanwhile would hold a program open for writing.
fn copy(from: &Path, to: &Path) -> Result<()> {
    run(Command::new("cp").arg(from).arg(to))
}

fn run(command: &mut Command) -> Result<()> {
    let output = command.output().with_context(|| format!("running {command:?}"))?;
    ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}
