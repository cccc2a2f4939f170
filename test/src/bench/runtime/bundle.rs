//! The bundle that all of them run: what the kubelet would ask for, on an overlay, with the containers' default seccomp
//! profile.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rustix::mount::{
    MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_bind, mount_change, unmount,
};
use serde_json::{Value, json};

use crate::programs::target_dir;

const PROFILE: &str = "/usr/share/containers/seccomp.json";
const CGROUPS: &str = "/sys/fs/cgroup";
const NEIGHBOUR: &str = "neighbour";
const CAPABILITIES: &[&str] = &[
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FSETID",
    "CAP_FOWNER",
    "CAP_MKNOD",
    "CAP_NET_RAW",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETFCAP",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
    "CAP_KILL",
    "CAP_AUDIT_WRITE",
];

/// Two bundles with one root file system, `true` and `sleep`, and what is around them. Gone when dropped.
#[derive(Debug)]
pub(super) struct Bundle {
    dir: tempfile::TempDir,
    /// In every hierarchy, above the containers' own.
    pub(super) cgroup: String,
}

impl Bundle {
    /// Makes it, in a mount namespace that is ours alone.
    pub(super) fn make() -> Result<Bundle> {
        mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
            .context("making the mounts private")?;
        let dir = tempfile::Builder::new().prefix("berth-bench-").tempdir()?;
        let bundle = Bundle { dir, cgroup: format!("berth-bench-{}", std::process::id()) };
        bundle.hide_controllers()?;
        bundle.make_rootfs()?;
        bundle.make_volumes()?;
        bundle.mount_state()?;
        bundle.make_cgroups()?;
        for (name, args) in [("true", &["/bin/true"][..]), ("sleep", &["/bin/sleep", "1000"][..])] {
            fs::create_dir(bundle.at(name))?;
            let config = serde_json::to_vec(&bundle.config(name, args)?)?;
            fs::write(bundle.at(name).join("config.json"), config)?;
        }
        Ok(bundle)
    }

    pub(super) fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A copy of a program on this disk, where the peers' are too: cargo's output may be another machine's.
    pub(super) fn local(&self, program: &Path) -> Result<PathBuf> {
        let copy = self.at("programs").join(program.file_name().context("a program has a name")?);
        fs::create_dir_all(self.at("programs"))?;
        fs::copy(program, &copy).with_context(|| format!("copying {}", program.display()))?;
        Ok(copy)
    }

    /// Where each runtime has its state: a tmpfs, as /run is.
    pub(super) fn state(&self, of: &str) -> PathBuf {
        self.at("state").join(of)
    }

    /// The names of the hierarchies under /sys/fs/cgroup; `.` where there is but the one of cgroup2.
    pub(super) fn hierarchies() -> Result<Vec<String>> {
        if Path::new(CGROUPS).join("cgroup.controllers").exists() {
            return Ok(vec![".".into()]);
        }
        let mut names = Vec::new();
        for entry in fs::read_dir(CGROUPS)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                names.push(entry.file_name().to_string_lossy().into_owned());
            }
        }
        Ok(names)
    }

    /// crun takes a controller in the cgroup2 beside v1 for a reason not to run.
    fn hide_controllers(&self) -> Result<()> {
        let file = Path::new(CGROUPS).join("unified/cgroup.controllers");
        if !file.exists() {
            return Ok(());
        }
        let empty = self.at("empty");
        fs::write(&empty, "")?;
        mount_bind(&empty, &file).with_context(|| format!("binding over {}", file.display()))
    }

    fn make_rootfs(&self) -> Result<()> {
        for dir in ["bin", "data", "dev", "etc", "proc", "root", "run", "sys", "tmp", "var/run/secrets"] {
            fs::create_dir_all(self.at("lower").join(dir))?;
        }
        fs::copy("/bin/busybox", self.at("lower/bin/busybox"))
            .context("copying /bin/busybox (busybox-static)")?;
        for name in ["sh", "true", "sleep"] {
            std::os::unix::fs::symlink("busybox", self.at("lower/bin").join(name))?;
        }
        for name in ["hosts", "hostname", "resolv.conf"] {
            fs::write(self.at("lower/etc").join(name), "")?;
        }
        for dir in ["upper", "work", "rootfs"] {
            fs::create_dir(self.at(dir))?;
        }
        let path = |name: &str| self.at(name).display().to_string();
        let layers = format!(
            "lowerdir={},upperdir={},workdir={},volatile",
            path("lower"),
            path("upper"),
            path("work")
        );
        let layers = std::ffi::CString::new(layers)?;
        mount("overlay", self.at("rootfs"), "overlay", MountFlags::empty(), Some(layers.as_c_str()))
            .context("mounting the overlay")
    }

    fn make_volumes(&self) -> Result<()> {
        for name in ["hosts", "hostname", "resolv.conf", "termination-log"] {
            fs::create_dir_all(self.at("volumes"))?;
            fs::write(self.at("volumes").join(name), "\n")?;
        }
        for name in ["data", "token"] {
            fs::create_dir(self.at("volumes").join(name))?;
        }
        Ok(())
    }

    fn mount_state(&self) -> Result<()> {
        fs::create_dir(self.at("state"))?;
        mount("tmpfs", self.at("state"), "tmpfs", MountFlags::empty(), Some(c"mode=755"))
            .context("mounting a tmpfs for the states")
    }

    /// What the kubelet makes before any container: a parent, with a cpuset on v1 and controllers on v2.
    fn make_cgroups(&self) -> Result<()> {
        for name in Self::hierarchies()? {
            let root = Path::new(CGROUPS).join(&name);
            let dir = root.join(&self.cgroup);
            if name == "." {
                fs::write(root.join("cgroup.subtree_control"), "+cpu +memory +pids")?;
            }
            fs::create_dir(&dir).with_context(|| format!("making {}", dir.display()))?;
            if name == "." {
                fs::write(dir.join("cgroup.subtree_control"), "+cpu +memory +pids")?;
            }
            // The pod's other container: its cgroup does not come and go with ours.
            fs::create_dir(dir.join(NEIGHBOUR))?;
            for file in ["cpuset.cpus", "cpuset.mems"] {
                if name == "cpuset" {
                    fs::copy(root.join(file), dir.join(file))?;
                }
            }
        }
        Ok(())
    }

    /// The node's CPUs and memory nodes, in a cpuset's words; empty on v2.
    pub(super) fn cpuset(&self) -> [String; 2] {
        ["cpuset.cpus", "cpuset.mems"].map(|file| {
            let path = Path::new(CGROUPS).join("cpuset").join(&self.cgroup).join(file);
            fs::read_to_string(path).unwrap_or_default().trim().to_owned()
        })
    }

    fn config(&self, name: &str, args: &[&str]) -> Result<Value> {
        let rootfs = self.at("rootfs");
        let cgroup = format!("/{}/{name}", self.cgroup);
        let namespaces =
            ["pid", "network", "ipc", "uts", "mount", "cgroup"].map(|kind| json!({"type": kind}));
        Ok(json!({
            "ociVersion": "1.0.2",
            "process": {
                "args": args, "cwd": "/", "user": {"uid": 0, "gid": 0},
                "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOSTNAME=bench", "HOME=/root"],
                "capabilities": {"bounding": CAPABILITIES, "effective": CAPABILITIES, "permitted": CAPABILITIES},
                "noNewPrivileges": true, "oomScoreAdj": 999
            },
            "root": {"path": rootfs},
            "hostname": "bench",
            "mounts": self.mounts(),
            "linux": {
                "cgroupsPath": cgroup,
                "resources": {
                    "devices": [{"allow": false, "access": "rwm"}],
                    "memory": {"limit": 268_435_456, "swap": 268_435_456},
                    "cpu": {"shares": 102, "quota": 50_000, "period": 100_000},
                    "pids": {"limit": 1000}
                },
                "namespaces": namespaces,
                "maskedPaths": [
                    "/proc/asound", "/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
                    "/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware",
                    "/sys/devices/virtual/powercap", "/sys/devices/system/cpu/cpu0/thermal_throttle",
                    "/sys/devices/system/cpu/cpu1/thermal_throttle", "/proc/interrupts"
                ],
                "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
                "seccomp": seccomp()?
            }
        }))
    }

    fn mounts(&self) -> Value {
        let safe = ["nosuid", "noexec", "nodev"];
        let volume = |name: &str, place: &str, mode: &str| {
            let source = self.at("volumes").join(name);
            json!({"destination": place, "type": "bind", "source": source, "options": ["rbind", "rprivate", mode]})
        };
        json!([
            {"destination": "/proc", "type": "proc", "source": "proc", "options": safe},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs",
             "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]},
            {"destination": "/dev/pts", "type": "devpts", "source": "devpts",
             "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]},
            {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": safe},
            {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"]},
            {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
             "options": ["nosuid", "noexec", "nodev", "relatime", "ro"]},
            volume("hosts", "/etc/hosts", "rw"),
            volume("termination-log", "/dev/termination-log", "rw"),
            volume("hostname", "/etc/hostname", "ro"),
            volume("resolv.conf", "/etc/resolv.conf", "ro"),
            volume("data", "/data", "rw"),
            volume("token", "/var/run/secrets", "ro")
        ])
    }
}

impl Drop for Bundle {
    fn drop(&mut self) {
        for name in ["state", "rootfs"] {
            let _ = unmount(self.at(name), UnmountFlags::DETACH);
        }
        for name in Self::hierarchies().unwrap_or_default() {
            let dir = Path::new(CGROUPS).join(name).join(&self.cgroup);
            for container in ["true", "sleep", NEIGHBOUR] {
                let _ = fs::remove_dir(dir.join(container));
            }
            let _ = fs::remove_dir(dir);
        }
    }
}

/// Keeps the profile with cargo's output, for a guest that lacks the package.
pub(super) fn keep_profile() -> Result<()> {
    fs::copy(PROFILE, kept_profile()).with_context(|| format!("keeping {PROFILE}")).map(drop)
}

fn kept_profile() -> PathBuf {
    target_dir().join("containers-seccomp.json")
}

/// The profile as engines hand it to a runtime: without the rules for capabilities and machines that these are not.
fn seccomp() -> Result<Value> {
    let kept = kept_profile();
    let path = if Path::new(PROFILE).exists() { Path::new(PROFILE) } else { &kept };
    let profile =
        fs::read(path).with_context(|| format!("{PROFILE} (Debian's golang-github-containers-common)"))?;
    let profile: Value = serde_json::from_slice(&profile)?;
    let rules = profile["syscalls"].as_array().context("a profile has rules")?;
    let rules: Vec<Value> = rules.iter().filter(|rule| applies(rule)).map(plain).collect();
    Ok(json!({
        "defaultAction": profile["defaultAction"],
        "defaultErrnoRet": profile["defaultErrnoRet"].as_u64().unwrap_or(1),
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
        "syscalls": rules
    }))
}

fn applies(rule: &Value) -> bool {
    let names = |of: &str, what: &str| {
        let list = rule[of][what].as_array().cloned().unwrap_or_default();
        list.iter().filter_map(|name| name.as_str().map(str::to_owned)).collect::<Vec<_>>()
    };
    let is_ours = |arch: &String| matches!(arch.as_str(), "amd64" | "x32");
    let includes = names("includes", "arches");
    names("includes", "caps").iter().all(|name| CAPABILITIES.contains(&name.as_str()))
        && !names("excludes", "caps").iter().any(|name| CAPABILITIES.contains(&name.as_str()))
        && (includes.is_empty() || includes.iter().any(is_ours))
        && !names("excludes", "arches").iter().any(is_ours)
}

fn plain(rule: &Value) -> Value {
    let mut plain = json!({"names": rule["names"], "action": rule["action"]});
    for name in ["args", "errnoRet"] {
        if !rule[name].is_null() {
            plain[name] = rule[name].clone();
        }
    }
    plain
}
