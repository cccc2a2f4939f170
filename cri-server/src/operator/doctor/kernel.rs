//! The kernel: its version, and each call that making a container cannot do without.

use oci_spec::runtime::Capability;
use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::mount::FsOpenFlags;
use rustix::process::PidfdFlags;

use super::{Finding, fact};
use crate::container::plan::Machine;

/// CLONE_INTO_CGROUP is 5.7, mount_setattr 5.12, cgroup.kill 5.14; below the first nothing works.
const OLDEST: (u32, u32) = (5, 7);
const WISHED: (u32, u32) = (5, 14);
const UPGRADE: &str = "run a newer kernel; Debian 12's 6.1 has everything";

pub(super) fn findings() -> Vec<Finding> {
    let mut findings =
        vec![version(), overlay(), mount_api(), openat2(), pidfd(), namespaces(), users(), seccomp()];
    findings.extend(capabilities(&Machine::read()));
    findings.push(lsm(&Machine::read()));
    findings.push(limits());
    findings
}

fn version() -> Finding {
    let name = rustix::system::uname();
    let release = name.release().to_string_lossy().into_owned();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|number| number.parse().unwrap_or(0));
    let version: (u32, u32) = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    match version {
        version if version < OLDEST => Finding::broken("kernel", release, UPGRADE),
        version if version < WISHED => Finding::poor("kernel", release, UPGRADE),
        _ => Finding::fine("kernel", release),
    }
}

/// A module that is not loaded yet will be when the first container is made.
fn overlay() -> Finding {
    let known = fact("/proc/filesystems");
    if known.lines().any(|line| line.trim_start_matches("nodev").trim() == "overlay") {
        return Finding::fine("overlay", "in the kernel");
    }
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let modules = fact(format!("/lib/modules/{release}/modules.dep"));
    let loadable = modules.lines().any(|line| names_module(line, "overlay"));
    Finding::needed("overlay", loadable, "module for overlay", "build the kernel with CONFIG_OVERLAY_FS")
}

/// A line of modules.dep(5): `kernel/fs/overlayfs/overlay.ko.xz: …`.
fn names_module(line: &str, name: &str) -> bool {
    let path = line.split(':').next().unwrap_or_default();
    let file = path.rsplit('/').next().unwrap_or_default();
    file.strip_prefix(name).is_some_and(|rest| rest.starts_with(".ko"))
}

fn mount_api() -> Finding {
    let opened = rustix::mount::fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC);
    match opened {
        Ok(_) => Finding::fine("mount API", "fsopen, fsmount, move_mount"),
        Err(rustix::io::Errno::PERM) => Finding::broken("mount API", "not allowed to mount", "run as root"),
        Err(e) => Finding::broken("mount API", format!("fsopen: {e}"), UPGRADE),
    }
}

fn openat2() -> Finding {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let opened = rustix::fs::openat2(rustix::fs::CWD, "/", flags, Mode::empty(), ResolveFlags::NO_SYMLINKS);
    Finding::needed("openat2", opened.is_ok(), "confined path lookup", UPGRADE)
}

fn pidfd() -> Finding {
    let opened = rustix::process::pidfd_open(rustix::process::getpid(), PidfdFlags::empty());
    Finding::needed("pidfd", opened.is_ok(), "pidfd_open", UPGRADE)
}

fn namespaces() -> Finding {
    let names = ["cgroup", "ipc", "mnt", "net", "pid", "uts"];
    let missing: Vec<&str> =
        names.into_iter().filter(|name| !std::path::Path::new("/proc/self/ns").join(name).exists()).collect();
    if missing.is_empty() {
        return Finding::fine("namespaces", names.join(" "));
    }
    Finding::broken(
        "namespaces",
        format!("without {}", missing.join(" ")),
        "build the kernel with these namespaces",
    )
}

fn users() -> Finding {
    let limit: u64 = fact("/proc/sys/user/max_user_namespaces").parse().unwrap_or(0);
    let advice = "sysctl user.max_user_namespaces=15000; until then pods with hostUsers: false fail";
    Finding::wished("user ns", limit > 0, "user namespaces", advice)
}

fn seccomp() -> Finding {
    let actions = fact("/proc/sys/kernel/seccomp/actions_avail");
    Finding::needed(
        "seccomp",
        actions.contains("errno"),
        "seccomp filters",
        "build the kernel with CONFIG_SECCOMP_FILTER",
    )
}

fn capabilities(machine: &Machine) -> Vec<Finding> {
    let has = |capability| machine.capabilities.contains(&capability);
    let needed = [
        (Capability::SysAdmin, "SYS_ADMIN"),
        (Capability::NetAdmin, "NET_ADMIN"),
        (Capability::Setuid, "SETUID"),
        (Capability::Setgid, "SETGID"),
        (Capability::SysChroot, "SYS_CHROOT"),
        (Capability::Mknod, "MKNOD"),
    ];
    let missing: Vec<&str> =
        needed.into_iter().filter(|(capability, _)| !has(*capability)).map(|(_, name)| name).collect();
    let mut findings = vec![if missing.is_empty() {
        Finding::fine("capabilities", format!("{} held", machine.capabilities.len()))
    } else {
        Finding::broken(
            "capabilities",
            format!("without {}", missing.join(" ")),
            "run as root, outside of a container",
        )
    }];
    let advice = "grant CAP_SYS_RESOURCE; until then oom_score_adj is never below berthd's own";
    findings.push(Finding::wished("OOM scores", has(Capability::SysResource), "CAP_SYS_RESOURCE", advice));
    findings
}

fn lsm(machine: &Machine) -> Finding {
    match (machine.apparmor, machine.selinux) {
        (_, true) => selinux_policy(),
        (true, false) => Finding::fine("LSM", "AppArmor"),
        (false, false) => Finding::fine("LSM", "neither AppArmor nor SELinux"),
    }
}

fn selinux_policy() -> Finding {
    match crate::selinux::Policy::read() {
        Ok(policy) => Finding::fine("LSM", format!("SELinux, containers are {}", policy.process.kind)),
        Err(error) => Finding::broken("LSM", "SELinux, and no labels for containers", error.to_string()),
    }
}

/// A pod costs berthd a handful of descriptors.
fn limits() -> Finding {
    const WISHED_FILES: u64 = 65_536;
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let files = limit.maximum.unwrap_or(u64::MAX);
    if files >= WISHED_FILES {
        return Finding::fine(
            "open files",
            if files == u64::MAX { "unlimited".to_owned() } else { files.to_string() },
        );
    }
    Finding::poor("open files", files.to_string(), format!("LimitNOFILE={WISHED_FILES} or more in the unit"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_is_known_by_its_files_name() {
        assert!(names_module("kernel/fs/overlayfs/overlay.ko.xz: kernel/x.ko", "overlay"));
        assert!(names_module("kernel/fs/overlayfs/overlay.ko:", "overlay"));
        assert!(!names_module("kernel/fs/other.ko: kernel/fs/overlayfs/overlay.ko", "overlay"));
    }
}
