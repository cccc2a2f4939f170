//! `mounts`: each entry becomes a source, attributes and a propagation.

mod source;
mod words;

use std::ffi::CString;
use std::path::{Path, PathBuf};

use kernel::{Depth, MountAttr, mount_attr as attr, propagation};

use super::namespaces::Maps;
use super::path::c_string;
use super::{Namespaces, inside};
use crate::{Error, spec};
use source::{bind, cgroup, file_system, remount};
use words::Words;

/// One mount of the container.
#[derive(Debug)]
pub(crate) struct Mount {
    /// Relative to the root.
    pub(crate) destination: CString,
    pub(crate) source: Source,
    pub(crate) attr: MountAttr,
    pub(crate) recursive_attr: MountAttr,
    pub(crate) propagation: Option<(u64, Depth)>,
    /// proc and sysfs are where masks and labels are: their mount point may not be a symbolic link
    /// (CVE-2019-19921, CVE-2023-27561).
    pub(crate) strict: bool,
    /// /dev, when it is read-only: filled before it becomes so.
    pub(crate) readonly_at_end: bool,
    /// The SELinux label of its root, where no label can be given to the whole file system.
    pub(crate) root_label: Option<CString>,
}

#[derive(Debug)]
pub(crate) enum Source {
    Bind {
        path: PathBuf,
        depth: Depth,
        idmap: Option<Idmap>,
    },
    Fs {
        kind: CString,
        options: Vec<(CString, Option<CString>)>,
        content: Content,
        /// Ownership as other ids than the file system has it.
        idmap: Option<Maps>,
    },
    /// What is mounted there already, with other attributes; without `bind` its file system takes the options too.
    Remount {
        options: Option<Vec<(CString, Option<CString>)>>,
    },
    /// The container's own cgroups, as the node's hierarchies have them.
    Cgroup,
}

/// What a new file system holds when it is attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Content {
    Own,
    /// What it covers (`tmpcopyup`).
    Copied,
}

/// Ownership shifted for one bind mount.
#[derive(Debug)]
pub(crate) struct Idmap {
    /// The container's own user namespace when absent.
    pub(crate) maps: Option<Maps>,
    pub(crate) depth: Depth,
}

impl Mount {
    pub(crate) fn is_bind(&self) -> bool {
        matches!(self.source, Source::Bind { .. })
    }

    /// A new file system that is made of something on the host: layers, or a device.
    pub(crate) fn names_host_paths(&self) -> bool {
        let Source::Fs { kind, options, .. } = &self.source else { return false };
        let is_path = |(key, value): &(CString, Option<CString>)| {
            key.as_c_str() == c"source"
                && value.as_ref().is_some_and(|value| value.as_bytes().starts_with(b"/"))
        };
        kind.as_c_str() == c"overlay" || options.iter().any(is_path)
    }
}

/// Files that lxcfs and its like put over the kernel's own; nothing else may be mounted inside /proc, where
/// security labels are written (CVE-2019-16884).
const PROC_FILES: &[&[u8]] = &[
    b"proc/cpuinfo",
    b"proc/diskstats",
    b"proc/meminfo",
    b"proc/stat",
    b"proc/swaps",
    b"proc/uptime",
    b"proc/loadavg",
    b"proc/slabinfo",
    b"proc/net/dev",
    b"proc/sys/kernel/ns_last_pid",
    b"proc/sys/crypto/fips_enabled",
];

/// May this be mounted on something inside a procfs?
pub(crate) fn may_cover_proc(destination: &[u8]) -> bool {
    PROC_FILES.contains(&destination)
}

pub(super) fn plan(spec: &spec::Spec, bundle: &Path, namespaces: &Namespaces) -> Result<Vec<Mount>, Error> {
    let mut mounts = Vec::with_capacity(spec.mounts.len());
    let label = spec.linux.as_ref().and_then(|linux| linux.mount_label.as_deref());
    for (i, mount) in spec.mounts.iter().enumerate() {
        let mut mount = one(i, mount, bundle, namespaces)?;
        if let Some(label) = label.filter(|label| !label.is_empty()) {
            add_label(&mut mount, label)?;
        }
        mounts.push(mount);
    }
    Ok(mounts)
}

/// The label of a whole file system (mount(8), `context=`), but for those of the kernel, which have labels of their own,
/// and those that were given one.
fn add_label(mount: &mut Mount, label: &str) -> Result<(), Error> {
    let Source::Fs { kind, options, .. } = &mut mount.source else { return Ok(()) };
    if kind.as_bytes() == b"mqueue" {
        // New queues take their label from it.
        mount.root_label = Some(c_string("linux.mountLabel", label)?);
        return Ok(());
    }
    let own = [&b"proc"[..], b"sysfs", b"cgroup", b"cgroup2", b"devtmpfs", b"securityfs", b"selinuxfs"];
    let is_context = |(key, _): &(CString, Option<CString>)| key.to_bytes().ends_with(b"context");
    if !own.contains(&kind.as_bytes()) && !options.iter().any(is_context) {
        options.push((c"context".to_owned(), Some(c_string("linux.mountLabel", label)?)));
    }
    Ok(())
}

fn one(i: usize, mount: &spec::Mount, bundle: &Path, namespaces: &Namespaces) -> Result<Mount, Error> {
    let field = format!("mounts[{i}]");
    let destination = inside(&format!("{field}.destination"), &mount.destination)?;
    if destination.is_empty() {
        return Err(Error::invalid(format!("{field}.destination"), "is the root itself"));
    }
    let words = Words::read(&field, &mount.options)?;
    let kind = mount.kind.as_deref().unwrap_or("");
    let source = match (words.bind, kind) {
        _ if words.remount => remount(&field, mount, &words)?,
        (Some(depth), _) => bind(&field, mount, bundle, depth, &words, namespaces)?,
        (None, "bind") => bind(&field, mount, bundle, Depth::One, &words, namespaces)?,
        (None, "") => {
            return Err(Error::invalid(format!("{field}.type"), "is required unless it is a bind mount"));
        }
        (None, "cgroup" | "cgroup2") => cgroup(&field, mount, &words)?,
        (None, _) => file_system(&field, mount, kind, &words)?,
    };
    refuse_over_proc(&field, destination.as_bytes(), &source)?;
    Ok(finish(destination, source, words))
}

fn finish(destination: CString, source: Source, words: Words) -> Mount {
    let is_bind = matches!(source, Source::Bind { .. });
    let is_new = !matches!(source, Source::Remount { .. });
    let strict = matches!(&source, Source::Fs { kind, .. } if matches!(kind.as_bytes(), b"proc" | b"sysfs"));
    let readonly_at_end =
        !is_bind && is_new && destination.as_bytes() == b"dev" && words.attr.set & attr::RDONLY != 0;
    let mut attr = words.attr;
    if readonly_at_end {
        attr.set &= !attr::RDONLY;
    }
    // A clone of a shared mount of the host is shared with it until told otherwise.
    let default = is_bind.then_some((propagation::PRIVATE, Depth::Recursive));
    Mount {
        destination,
        source,
        attr,
        recursive_attr: words.recursive_attr,
        propagation: words.propagation.or(default),
        strict,
        readonly_at_end,
        root_label: None,
    }
}

fn refuse_over_proc(field: &str, destination: &[u8], source: &Source) -> Result<(), Error> {
    let field = format!("{field}.destination");
    match destination {
        b"proc" => match source {
            Source::Fs { kind, .. } if kind.as_bytes() == b"proc" => Ok(()),
            Source::Bind { path, .. } if path == Path::new("/proc") => Ok(()),
            Source::Remount { .. } => Ok(()),
            Source::Fs { .. } | Source::Bind { .. } | Source::Cgroup => {
                Err(Error::invalid(field, "only a procfs may be mounted on /proc"))
            }
        },
        inner if inner.starts_with(b"proc/") && !may_cover_proc(inner) => {
            Err(Error::invalid(field, "nothing may be mounted inside /proc, but for the files of lxcfs"))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(mount: &str) -> Result<Mount, Error> {
        let mount: spec::Mount = serde_json::from_str(mount).unwrap();
        one(0, &mount, Path::new("/bundle"), &Namespaces::default())
    }

    #[test]
    fn a_bind_mount_is_private_unless_told_otherwise() {
        let mount =
            check(r#"{"destination": "/data/../x", "source": "vol", "options": ["rbind", "ro"]}"#).unwrap();
        assert_eq!(mount.destination.as_bytes(), b"x");
        assert!(
            matches!(&mount.source, Source::Bind { path, depth: Depth::Recursive, .. } if path == Path::new("/bundle/vol"))
        );
        assert_eq!(mount.attr.set, attr::RDONLY);
        assert_eq!(mount.propagation, Some((propagation::PRIVATE, Depth::Recursive)));
    }

    #[test]
    fn data_and_flags_go_to_the_file_system() {
        let mount = check(
            r#"{"destination": "/t", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755", "size=64k"]}"#,
        )
        .unwrap();
        let Source::Fs { options, .. } = mount.source else { panic!("a file system") };
        assert_eq!(options.len(), 3);
        assert_eq!(mount.attr.set, attr::NOSUID);
    }

    #[test]
    fn nothing_hides_proc() {
        for destination in ["/proc", "/proc/self/attr", "/x/../proc/self"] {
            let mount = format!(r#"{{"destination": "{destination}", "type": "tmpfs"}}"#);
            assert!(matches!(check(&mount), Err(Error::Invalid { .. })), "{destination}");
        }
        assert!(check(r#"{"destination": "/proc/meminfo", "source": "/x", "options": ["bind"]}"#).is_ok());
        assert!(check(r#"{"destination": "/proc", "type": "proc"}"#).is_ok());
    }

    #[test]
    fn a_mount_without_a_type_must_be_a_bind() {
        assert!(check(r#"{"destination": "/x", "source": "/y"}"#).is_err());
        assert!(check(r#"{"destination": "/", "source": "/y", "type": "bind"}"#).is_err());
    }

    #[test]
    fn a_remount_changes_what_is_there() {
        let options = |words: &str| {
            let mount =
                check(&format!(r#"{{"destination": "/x", "options": ["remount", {words}]}}"#)).unwrap();
            let Source::Remount { options } = mount.source else { panic!("a remount") };
            (mount.attr.set, options.map(|all| all.into_iter().map(|(key, _)| key).collect::<Vec<_>>()))
        };
        assert_eq!(options(r#""bind", "ro""#), (attr::RDONLY, None));
        assert_eq!(options(r#""ro", "size=1m""#), (attr::RDONLY, Some(vec![c"size".into(), c"ro".into()])));
        assert_eq!(options(r#""nosuid""#), (attr::NOSUID, Some(vec![])));
        assert!(check(r#"{"destination": "/x", "options": ["remount", "idmap"]}"#).is_err());
    }

    #[test]
    fn only_a_tmpfs_is_filled_with_what_it_covers() {
        let mount = check(r#"{"destination": "/x", "type": "tmpfs", "options": ["tmpcopyup"]}"#).unwrap();
        assert!(matches!(mount.source, Source::Fs { content: Content::Copied, .. }));
        assert!(check(r#"{"destination": "/x", "type": "ramfs", "options": ["tmpcopyup"]}"#).is_err());
    }

    #[test]
    fn what_only_other_kinds_of_mounts_can_be_is_refused() {
        let map = r#"[{"containerID": 0, "hostID": 1, "size": 1}]"#;
        for rest in [
            format!(r#""type": "tmpfs", "gidMappings": {map}"#),
            r#""type": "tmpfs", "options": ["idmap"]"#.into(),
            format!(r#""options": ["remount"], "gidMappings": {map}"#),
            format!(r#""type": "cgroup", "gidMappings": {map}"#),
            r#""type": "cgroup", "options": ["idmap"]"#.into(),
            r#""type": "cgroup2", "options": ["tmpcopyup"]"#.into(),
            r#""type": "bind", "source": "/x", "options": ["tmpcopyup"]"#.into(),
        ] {
            let error = check(&format!(r#"{{"destination": "/x", {rest}}}"#)).unwrap_err().to_string();
            assert!(error.starts_with("mounts[0]."), "{rest}: {error}");
        }
        check(r#"{"destination": "/x", "type": "cgroup", "options": ["ro", "nosuid"]}"#).unwrap();
    }

    #[test]
    fn a_flag_of_a_file_system_goes_with_the_word_that_takes_it_back() {
        let flags = |words: &str| {
            let mount = check(&format!(r#"{{"destination": "/x", "type": "tmpfs", "options": [{words}]}}"#));
            let Source::Fs { options, .. } = mount.unwrap().source else { panic!("a file system") };
            options.into_iter().map(|(key, _)| key.into_string().unwrap()).collect::<Vec<_>>()
        };
        assert_eq!(flags(r#""sync", "async""#), ["async"]);
        assert_eq!(flags(r#""async", "sync""#), ["async", "sync"]);
        assert_eq!(flags(r#""lazytime", "nolazytime", "size=1m""#), ["nolazytime", "size"]);
    }

    #[test]
    fn file_systems_without_labels_of_their_own_get_the_containers() {
        let labelled = |kind: &str, options: &str| {
            let mut mount = check(
                &format!(r#"{{"destination": "/proc", "type": "{kind}", "options": [{options}]}}"#)
                    .replace("/proc", if kind == "proc" { "/proc" } else { "/x" }),
            )
            .unwrap();
            add_label(&mut mount, "l:s0").unwrap();
            let Source::Fs { options, .. } = mount.source else { panic!("a file system") };
            options
                .into_iter()
                .any(|(key, value)| key.as_c_str() == c"context" && value.as_deref() == Some(c"l:s0"))
        };
        assert!(labelled("tmpfs", "") && labelled("devpts", ""));
        assert!(!labelled("proc", "") && !labelled("mqueue", "") && !labelled("tmpfs", r#""context=other""#));
    }
}
