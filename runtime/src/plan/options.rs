//! Mount options: the words of mount(8) and the specification, as attributes, propagation and data.

use kernel::{Depth, MountAttr, mount_attr as attr, propagation};

/// What a word changes about a mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    Set(u64),
    Clear(u64),
    /// Access time: one of four, replacing the former.
    Atime(u64),
    RecursiveSet(u64),
    RecursiveClear(u64),
    RecursiveAtime(u64),
    Propagate(u64, Depth),
    Bind(Depth),
    Idmap(Depth),
    /// Known and meaningless here: it is the default, or the new mount API has no such thing.
    Nothing,
    /// Concerns the file system rather than the mount, and goes to it as a flag.
    Flag,
    /// The file system is to be without a flag, that of an earlier word or its own.
    Unflag(&'static str),
    /// A mount that is there already changes.
    Remount,
    /// A tmpfs begins with what it covers.
    CopyUp,
}

/// Every word that is not data for the file system.
const WORDS: &[(&str, Change)] = &[
    ("async", Change::Unflag("sync")),
    ("atime", Change::Atime(attr::RELATIME)),
    ("bind", Change::Bind(Depth::One)),
    ("defaults", Change::Nothing),
    ("dev", Change::Clear(attr::NODEV)),
    ("diratime", Change::Clear(attr::NODIRATIME)),
    ("dirsync", Change::Flag),
    ("exec", Change::Clear(attr::NOEXEC)),
    ("idmap", Change::Idmap(Depth::One)),
    // Kernels since 4.16 count by themselves where they can, and the new mount API knows no such word.
    ("iversion", Change::Nothing),
    ("lazytime", Change::Flag),
    ("loud", Change::Nothing),
    ("mand", Change::Flag),
    ("noatime", Change::Atime(attr::NOATIME)),
    ("nodev", Change::Set(attr::NODEV)),
    ("nodiratime", Change::Set(attr::NODIRATIME)),
    ("noexec", Change::Set(attr::NOEXEC)),
    ("noiversion", Change::Nothing),
    ("nolazytime", Change::Unflag("lazytime")),
    ("nomand", Change::Unflag("mand")),
    ("norelatime", Change::Atime(attr::STRICTATIME)),
    ("nostrictatime", Change::Atime(attr::RELATIME)),
    ("nosuid", Change::Set(attr::NOSUID)),
    ("nosymfollow", Change::Set(attr::NOSYMFOLLOW)),
    ("private", Change::Propagate(propagation::PRIVATE, Depth::One)),
    ("ratime", Change::RecursiveAtime(attr::RELATIME)),
    ("rbind", Change::Bind(Depth::Recursive)),
    ("rdev", Change::RecursiveClear(attr::NODEV)),
    ("rdiratime", Change::RecursiveClear(attr::NODIRATIME)),
    ("relatime", Change::Atime(attr::RELATIME)),
    ("remount", Change::Remount),
    ("rexec", Change::RecursiveClear(attr::NOEXEC)),
    ("ridmap", Change::Idmap(Depth::Recursive)),
    ("rnoatime", Change::RecursiveAtime(attr::NOATIME)),
    ("rnodev", Change::RecursiveSet(attr::NODEV)),
    ("rnodiratime", Change::RecursiveSet(attr::NODIRATIME)),
    ("rnoexec", Change::RecursiveSet(attr::NOEXEC)),
    ("rnorelatime", Change::RecursiveAtime(attr::STRICTATIME)),
    ("rnostrictatime", Change::RecursiveAtime(attr::RELATIME)),
    ("rnosuid", Change::RecursiveSet(attr::NOSUID)),
    ("rnosymfollow", Change::RecursiveSet(attr::NOSYMFOLLOW)),
    ("ro", Change::Set(attr::RDONLY)),
    ("rprivate", Change::Propagate(propagation::PRIVATE, Depth::Recursive)),
    ("rrelatime", Change::RecursiveAtime(attr::RELATIME)),
    ("rro", Change::RecursiveSet(attr::RDONLY)),
    ("rrw", Change::RecursiveClear(attr::RDONLY)),
    ("rshared", Change::Propagate(propagation::SHARED, Depth::Recursive)),
    ("rslave", Change::Propagate(propagation::SLAVE, Depth::Recursive)),
    ("rstrictatime", Change::RecursiveAtime(attr::STRICTATIME)),
    ("rsuid", Change::RecursiveClear(attr::NOSUID)),
    ("rsymfollow", Change::RecursiveClear(attr::NOSYMFOLLOW)),
    ("runbindable", Change::Propagate(propagation::UNBINDABLE, Depth::Recursive)),
    ("rw", Change::Clear(attr::RDONLY)),
    ("shared", Change::Propagate(propagation::SHARED, Depth::One)),
    ("silent", Change::Nothing),
    ("slave", Change::Propagate(propagation::SLAVE, Depth::One)),
    ("strictatime", Change::Atime(attr::STRICTATIME)),
    ("suid", Change::Clear(attr::NOSUID)),
    ("symfollow", Change::Clear(attr::NOSYMFOLLOW)),
    ("sync", Change::Flag),
    ("tmpcopyup", Change::CopyUp),
    ("unbindable", Change::Propagate(propagation::UNBINDABLE, Depth::One)),
];

/// The words that `features` lists.
pub const NAMES: [&str; WORDS.len()] = names();

const fn names() -> [&'static str; WORDS.len()] {
    let mut names = [""; WORDS.len()];
    let mut i = 0;
    while i < WORDS.len() {
        names[i] = WORDS[i].0;
        i += 1;
    }
    names
}

/// What a word means; `None`: it is data for the file system.
pub(super) fn change(word: &str) -> Option<Change> {
    let at = WORDS.binary_search_by(|(name, _)| (*name).cmp(word)).ok()?;
    Some(WORDS[at].1)
}

/// `rslave` and its kin.
pub(crate) fn parse_propagation(word: &str) -> Option<(u64, Depth)> {
    match change(word) {
        Some(Change::Propagate(propagation, depth)) => Some((propagation, depth)),
        _ => None,
    }
}

/// Later words win over earlier ones.
pub(super) fn apply(to: &mut MountAttr, set: u64, clear: u64) {
    to.set = to.set & !clear | set;
    to.clear = to.clear & !set | clear;
}

/// The kernel wants all of `ATIME` cleared by whoever sets one of it.
pub(super) fn apply_atime(to: &mut MountAttr, atime: u64) {
    to.set = to.set & !attr::ATIME | atime;
    to.clear |= attr::ATIME;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_are_sorted_for_the_search() {
        assert!(WORDS.is_sorted_by_key(|(name, _)| *name));
    }

    #[test]
    fn later_words_win() {
        let mut attrs = MountAttr::default();
        apply(&mut attrs, attr::RDONLY, 0);
        apply(&mut attrs, 0, attr::RDONLY);
        assert_eq!((attrs.set, attrs.clear), (0, attr::RDONLY));
    }
}
