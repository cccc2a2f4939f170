//! Which namespaces are made and which are joined.

use std::fmt::Write as _;
use std::path::PathBuf;

use kernel::clone_flags as flag;

use crate::Error;
use crate::spec::{IdMapping, Linux, NamespaceKind};

#[derive(Debug, Default)]
pub(crate) struct Namespaces {
    /// For clone3.
    pub(crate) new: u64,
    /// For unshare in a child: a cgroup namespace takes the joined cgroup as its root, and a time namespace takes
    /// its offsets, only so.
    pub(crate) late: u64,
    pub(crate) joined: Vec<Joined>,
    /// We are in a user namespace ourselves, where nobody may go back to the PID namespace that he came from.
    pub(crate) no_way_back: bool,
    /// Maps of a new user namespace, as the kernel reads them.
    pub(crate) maps: Option<Maps>,
}

#[derive(Debug)]
pub(crate) struct Joined {
    pub(crate) flag: u64,
    pub(crate) path: PathBuf,
}

/// The contents of `uid_map` and `gid_map`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Maps {
    pub(crate) uids: String,
    pub(crate) gids: String,
}

impl Namespaces {
    /// Is this one other than the host's?
    pub(crate) fn has(&self, flag: u64) -> bool {
        self.all() & flag != 0
    }

    pub(crate) fn all(&self) -> u64 {
        self.joined.iter().fold(self.new | self.late, |flags, joined| flags | joined.flag)
    }

    /// New namespaces belong to the user namespace of whoever makes them, and others can only be joined from
    /// outside of a new one: with a joined user namespace, or a new one beside joined ones, a first child joins
    /// and a second is made from there. A time namespace as well is for the children of who makes it; that exec
    /// enters it too is Linux 6.3.
    pub(crate) fn needs_two_steps(&self) -> bool {
        let joins_other = self.joined.iter().any(|joined| joined.flag != flag::NEWPID);
        self.joined.iter().any(|joined| joined.flag == flag::NEWUSER)
            || (self.no_way_back && self.joined.iter().any(|joined| joined.flag == flag::NEWPID))
            || (self.new & flag::NEWUSER != 0 && joins_other)
            || self.late & flag::NEWTIME != 0
    }
}

pub(super) fn plan(linux: &Linux) -> Result<Namespaces, Error> {
    let mut namespaces = Namespaces::default();
    for (i, namespace) in linux.namespaces.iter().enumerate() {
        let flag = flag_of(namespace.kind);
        if namespaces.has(flag) {
            return Err(Error::invalid(format!("linux.namespaces[{i}].type"), "is given twice"));
        }
        match namespace.path.as_ref().filter(|path| !path.as_os_str().is_empty()) {
            Some(path) => namespaces.joined.push(Joined { flag, path: absolute(i, path)? }),
            None if flag & (flag::NEWCGROUP | flag::NEWTIME) != 0 => namespaces.late |= flag,
            None => namespaces.new |= flag,
        }
    }
    // The user namespace last: whoever has joined it has no say over the others any more.
    namespaces.joined.sort_by_key(|joined| joined.flag == flag::NEWUSER);
    namespaces.maps = maps(linux, &namespaces)?;
    Ok(namespaces)
}

fn absolute(i: usize, path: &std::path::Path) -> Result<PathBuf, Error> {
    if path.is_absolute() {
        return Ok(path.to_owned());
    }
    Err(Error::invalid(format!("linux.namespaces[{i}].path"), "must be absolute"))
}

fn maps(linux: &Linux, namespaces: &Namespaces) -> Result<Option<Maps>, Error> {
    let given = !linux.uid_mappings.is_empty() || !linux.gid_mappings.is_empty();
    if namespaces.new & flag::NEWUSER != 0 {
        if linux.uid_mappings.is_empty() || linux.gid_mappings.is_empty() {
            return Err(Error::invalid(
                "linux.uidMappings",
                "a new user namespace needs uid and gid mappings",
            ));
        }
        check_map("linux.uidMappings", &linux.uid_mappings)?;
        check_map("linux.gidMappings", &linux.gid_mappings)?;
        return Ok(Some(Maps { uids: map(&linux.uid_mappings), gids: map(&linux.gid_mappings) }));
    }
    // A joined user namespace has its maps; they may be repeated for those who read the configuration.
    if given && !namespaces.has(flag::NEWUSER) {
        return Err(Error::invalid("linux.uidMappings", "needs a user namespace"));
    }
    Ok(None)
}

/// user_namespaces(7): the kernel takes 340 ranges, none empty, none past the last id, none overlapping another on
/// either side.
const MAX_RANGES: usize = 340;

pub(super) fn check_map(field: &str, mappings: &[IdMapping]) -> Result<(), Error> {
    if mappings.len() > MAX_RANGES {
        return Err(Error::invalid(field, format!("has more than {MAX_RANGES} ranges")));
    }
    for (i, one) in mappings.iter().enumerate() {
        let refuse = |reason: &str| Err(Error::invalid(format!("{field}[{i}]"), reason));
        if one.size == 0 {
            return refuse("maps no ids: size is 0");
        }
        if one.container_id.checked_add(one.size).is_none() || one.host_id.checked_add(one.size).is_none() {
            return refuse("goes past the last id");
        }
        let meet = |a: u32, b: &IdMapping, b_at: u32| a < b_at + b.size && b_at < a + one.size;
        if mappings[..i]
            .iter()
            .any(|b| meet(one.container_id, b, b.container_id) || meet(one.host_id, b, b.host_id))
        {
            return refuse("overlaps an earlier one");
        }
    }
    Ok(())
}

/// Mappings as lines of `uid_map`.
pub(super) fn map(mappings: &[IdMapping]) -> String {
    mappings.iter().fold(String::new(), |mut text, m| {
        // Writing to a `String` cannot fail.
        let _ = writeln!(text, "{} {} {}", m.container_id, m.host_id, m.size);
        text
    })
}

/// Lines of `/proc/self/timens_offsets`.
pub(super) fn time_offsets(linux: &Linux, namespaces: &Namespaces) -> Result<Option<Vec<u8>>, Error> {
    if linux.time_offsets.is_empty() {
        return Ok(None);
    }
    if namespaces.late & flag::NEWTIME == 0 {
        return Err(Error::invalid("linux.timeOffsets", "needs a new time namespace"));
    }
    let mut lines = String::new();
    for (clock, offset) in &linux.time_offsets {
        if !matches!(clock.as_str(), "monotonic" | "boottime") {
            return Err(Error::invalid(
                "linux.timeOffsets",
                format!("{clock:?} is no clock of a time namespace"),
            ));
        }
        if offset.nanosecs >= 1_000_000_000 {
            return Err(Error::invalid(format!("linux.timeOffsets.{clock}.nanosecs"), "is a second or more"));
        }
        // Writing to a `String` cannot fail.
        let _ = writeln!(lines, "{clock} {} {}", offset.secs, offset.nanosecs);
    }
    Ok(Some(lines.into_bytes()))
}

pub(crate) fn flag_of(kind: NamespaceKind) -> u64 {
    match kind {
        NamespaceKind::Pid => flag::NEWPID,
        NamespaceKind::Network => flag::NEWNET,
        NamespaceKind::Mount => flag::NEWNS,
        NamespaceKind::Ipc => flag::NEWIPC,
        NamespaceKind::Uts => flag::NEWUTS,
        NamespaceKind::User => flag::NEWUSER,
        NamespaceKind::Cgroup => flag::NEWCGROUP,
        NamespaceKind::Time => flag::NEWTIME,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_are_checked_before_the_kernel_says_only_einval() {
        let check = |ranges: &[(u32, u32, u32)]| {
            let one = |&(container_id, host_id, size): &_| IdMapping { container_id, host_id, size };
            check_map("m", &ranges.iter().map(one).collect::<Vec<_>>()).map_err(|e| e.to_string())
        };
        assert!(check(&[(0, 1000, 1), (1, 2000, 10), (11, 1001, 5)]).is_ok());
        assert_eq!(check(&[(0, 0, 0)]).unwrap_err(), "m[0]: maps no ids: size is 0");
        assert_eq!(check(&[(0, 1, 1), (5, u32::MAX, 1)]).unwrap_err(), "m[1]: goes past the last id");
        assert_eq!(check(&[(0, 100, 10), (9, 200, 1)]).unwrap_err(), "m[1]: overlaps an earlier one");
        assert_eq!(check(&[(0, 100, 10), (10, 109, 1)]).unwrap_err(), "m[1]: overlaps an earlier one");
        assert!(check(&vec![(0, 0, 1); 341]).unwrap_err().contains("more than 340"));
    }
}
