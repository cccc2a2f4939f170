//! Sysctls of a pod: which may be set, and setting them.
//!
//! A name must belong to a namespace that the pod owns, else it is the host's (CVE-2022-0532). Names and values
//! are allow-lists of bytes, and a value is written to one file and nowhere parsed (CVE-2022-0811).

use std::os::fd::OwnedFd;

use conmon_protocol::{PodPlan, RefusalKind, Sharing};
use rustix::fs::{CWD, Mode, OFlags, PROC_SUPER_MAGIC, ResolveFlags, fstatfs, openat2};
use rustix::io::Errno;

use crate::error::{Error, Named as _};

const MAX_SYSCTLS: usize = 256;
const MAX_NAME: usize = 256;
const MAX_VALUE: usize = 1024;

const IPC: [&str; 8] = [
    "kernel.msgmax",
    "kernel.msgmnb",
    "kernel.msgmni",
    "kernel.sem",
    "kernel.shmall",
    "kernel.shmmax",
    "kernel.shmmni",
    "kernel.shm_rmid_forced",
];

/// Says no to what a pod may not set. Pure.
pub(crate) fn check(plan: &PodPlan) -> Result<(), Error> {
    let no = |message: String| Err(Error::refused(RefusalKind::Invalid, message));
    if plan.sysctls.len() > MAX_SYSCTLS {
        return no(format!("{} sysctls are more than {MAX_SYSCTLS}", plan.sysctls.len()));
    }
    for (name, value) in &plan.sysctls {
        let Some(path) = path(name) else {
            return no(format!("{name:?} is not the name of a sysctl"));
        };
        if let Err(why) = owner(&path.replace('/', "."), plan) {
            return no(format!("sysctl {name} {why}"));
        }
        if !is_value(value) {
            return no(format!("{value:?} can't be the value of sysctl {name}"));
        }
    }
    Ok(())
}

/// Writes them into the caller's namespaces, after [`check`].
pub(crate) fn write_all(sysctls: &[(String, String)]) -> Result<(), Error> {
    if sysctls.is_empty() {
        return Ok(());
    }
    let root = open_root().named("opening", "/proc/sys")?;
    for (name, value) in sysctls {
        write(&root, name, value).named("setting sysctl", name)?;
    }
    Ok(())
}

fn open_root() -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let root = openat2(CWD, "/proc/sys", flags, Mode::empty(), ResolveFlags::NO_SYMLINKS)?;
    if fstatfs(&root)?.f_type == PROC_SUPER_MAGIC { Ok(root) } else { Err(Errno::XDEV) }
}

fn write(root: &OwnedFd, name: &str, value: &str) -> Result<(), Errno> {
    let path = path(name).ok_or(Errno::INVAL)?;
    let confined = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    let file = openat2(root, path.as_str(), OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty(), confined)?;
    match rustix::io::write(&file, value.as_bytes())? {
        count if count == value.len() => Ok(()),
        _ => Err(Errno::IO),
    }
}

/// The path under /proc/sys. As in sysctl(8), the first separator of the name says which of the two it uses, so
/// `net/ipv4/conf/eth0.100/rp_filter` can name an interface with a dot.
fn path(name: &str) -> Option<String> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'/' | b'_' | b'-' | b'@');
    let separator = name.find(['.', '/']).map(|at| name.as_bytes()[at])?;
    let swapped = |byte: u8| match (separator, byte) {
        (b'.', b'.') => '/',
        (b'.', b'/') => '.',
        (_, byte) => char::from(byte),
    };
    if name.len() > MAX_NAME || !name.bytes().all(allowed) {
        return None;
    }
    let path: String = name.bytes().map(swapped).collect();
    let whole = |part: &str| !matches!(part, "" | "." | "..");
    path.split('/').all(whole).then_some(path)
}

fn owner(name: &str, plan: &PodPlan) -> Result<(), &'static str> {
    let owned = |sharing: Sharing, why: &'static str| match sharing {
        Sharing::Own => Ok(()),
        Sharing::Host => Err(why),
    };
    if name.starts_with("net.") {
        owned(plan.network, "is the host's: the pod has no network namespace of its own")
    } else if IPC.contains(&name) || name.starts_with("fs.mqueue.") {
        owned(plan.ipc, "is the host's: the pod has no IPC namespace of its own")
    } else if name == "kernel.domainname" {
        owned(plan.uts, "is the host's: the pod has no UTS namespace of its own")
    } else {
        Err("belongs to no namespace; setting it would change the host")
    }
}

fn is_value(value: &str) -> bool {
    let allowed = |byte: u8| {
        byte.is_ascii_alphanumeric() || matches!(byte, b' ' | b'\t' | b'.' | b',' | b':' | b'-' | b'_' | b'/')
    };
    !value.is_empty() && value.len() <= MAX_VALUE && value.bytes().all(allowed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use conmon_protocol::PidSharing;
    use proptest::prelude::*;

    fn plan(network: Sharing, ipc: Sharing, name: &str, value: &str) -> PodPlan {
        PodPlan {
            sandbox_id: "s".into(),
            pod_dir: "/p".into(),
            hostname: None,
            network,
            ipc,
            uts: Sharing::Own,
            pid: PidSharing::Container,
            user: None,
            sysctls: vec![(name.into(), value.into())],
            shm_size_bytes: None,
            cgroup_parent: String::new(),
            cgroup_driver: conmon_protocol::CgroupDriver::Cgroupfs,
            monitor_cgroup: None,
            process_label: None,
            file_label: None,
        }
    }

    #[test]
    fn only_sysctls_of_the_pods_own_namespaces_are_set() {
        use Sharing::{Host, Own};
        let check = |network, ipc, name: &str, value: &str, allowed: bool| {
            let result = check(&plan(network, ipc, name, value));
            assert_eq!(result.is_ok(), allowed, "{name}={value:?}: {result:?}");
        };
        check(Own, Own, "net.ipv4.ip_forward", "1", true);
        check(Own, Own, "net/ipv4/conf/eth0.100/rp_filter", "1", true);
        check(Own, Own, "net.ipv4.ip_local_port_range", "1024\t65535", true);
        check(Own, Own, "kernel.shm_rmid_forced", "1", true);
        check(Own, Own, "kernel/shm_rmid_forced", "1", true);
        check(Own, Own, "fs.mqueue.msg_max", "100", true);
        check(Host, Own, "net.ipv4.ip_forward", "1", false);
        check(Own, Host, "kernel.shmmax", "1", false);
        check(Own, Own, "kernel.core_pattern", "x", false);
        check(Own, Own, "kernel.hostname", "x", false);
        check(Own, Own, "vm.swappiness", "1", false);
        check(Own, Own, "net.ipv4/../../kernel/core_pattern", "x", false);
        check(Own, Own, "net..ipv4", "1", false);
        check(Own, Own, "net/../kernel/core_pattern", "x", false);
        check(Own, Own, "netfoo", "1", false);
        check(Own, Own, "", "1", false);
        check(Own, Own, "kernel.shm_rmid_forced", "1+kernel.core_pattern=|/bin/sh", false);
        check(Own, Own, "kernel.shm_rmid_forced", "1\nx", false);
        check(Own, Own, "kernel.shm_rmid_forced", "1\0", false);
        check(Own, Own, "kernel.shm_rmid_forced", "", false);
        check(Own, Own, "kernel.shm_rmid_forced=1\nkernel.core_pattern", "1", false);
    }

    proptest! {
        #[test]
        fn no_name_leads_out(name in "[a-z./_-]{0,40}") {
            if let Some(path) = path(&name) {
                prop_assert!(!path.starts_with('/'));
                prop_assert!(path.split('/').all(|part| !part.is_empty() && part != ".." && part != "."));
            }
        }
    }
}
