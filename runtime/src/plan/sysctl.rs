//! Sysctls: only those that belong to a namespace of the container's own.

use std::ffi::CString;

use kernel::clone_flags as flag;

use super::Namespaces;
use super::path::c_string;
use crate::Error;
use crate::spec::Linux;

#[derive(Debug)]
pub(crate) struct Sysctl {
    /// Relative to the root of a procfs.
    pub(crate) path: CString,
    pub(crate) value: Vec<u8>,
    pub(crate) name: String,
    /// The flag of the namespace that it belongs to.
    pub(crate) namespace: u64,
}

const IPC: &[&str] = &["msgmax", "msgmnb", "msgmni", "sem", "shmall", "shmmax", "shmmni", "shm_rmid_forced"];

pub(super) fn plan(linux: &Linux, namespaces: &Namespaces) -> Result<Vec<Sysctl>, Error> {
    linux.sysctl.iter().map(|(name, value)| one(name, value, namespaces)).collect()
}

fn one(name: &str, value: &str, namespaces: &Namespaces) -> Result<Sysctl, Error> {
    let field = format!("linux.sysctl[{name:?}]");
    let path = file(name);
    if path.split('/').any(|part| matches!(part, "" | "." | "..")) {
        return Err(Error::invalid(field, "is no name of a sysctl"));
    }
    // The kernel reads the first line and takes the rest for nothing (CVE-2022-0811).
    if value.trim_end_matches('\n').contains('\n') {
        return Err(Error::invalid(field, "is more than one line"));
    }
    let Some(owner) = namespace_of(&path) else {
        return Err(Error::invalid(field, "does not belong to a namespace and would change the host"));
    };
    if !namespaces.has(owner) {
        return Err(Error::invalid(field, "belongs to a namespace that the container shares with the host"));
    }
    Ok(Sysctl {
        path: c_string(&field, format!("sys/{path}"))?,
        value: value.into(),
        name: name.into(),
        namespace: owner,
    })
}

/// sysctl.d(5): when the first separator is a slash, dots are just dots; else the two are exchanged.
fn file(name: &str) -> String {
    if name.find(['.', '/']).is_some_and(|at| name.as_bytes()[at] == b'/') {
        return name.to_owned();
    }
    let exchange = |c| match c {
        '.' => '/',
        '/' => '.',
        other => other,
    };
    name.chars().map(exchange).collect()
}

/// The host's name is set by `hostname`, never by a sysctl.
fn namespace_of(path: &str) -> Option<u64> {
    if path.starts_with("net/") {
        return Some(flag::NEWNET);
    }
    if path.starts_with("fs/mqueue/") {
        return Some(flag::NEWIPC);
    }
    match path.strip_prefix("kernel/")? {
        "domainname" => Some(flag::NEWUTS),
        name if IPC.contains(&name) => Some(flag::NEWIPC),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn separators_are_exchanged_as_sysctl_d_says() {
        assert_eq!(file("net.ipv4.ip_forward"), "net/ipv4/ip_forward");
        assert_eq!(file("net/ipv4/conf/eth0.5/rp_filter"), "net/ipv4/conf/eth0.5/rp_filter");
        assert_eq!(file("net.ipv4.conf.eth0/5.rp_filter"), "net/ipv4/conf/eth0.5/rp_filter");
    }

    #[test]
    fn what_belongs_to_the_host_has_no_namespace() {
        assert_eq!(namespace_of("kernel/core_pattern"), None);
        assert_eq!(namespace_of("vm/swappiness"), None);
        assert_eq!(namespace_of("kernel/shmmax"), Some(flag::NEWIPC));
    }
}
