//! The owner, the mode and the attributes of what an entry made, in as few calls as give the right ones.

use rustix::fd::{BorrowedFd, OwnedFd};
use rustix::fs::{Gid, Mode, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

use super::entry::{Entry, Time};
use super::error::{Error, XATTR};

const DEFAULT_ACL: &str = "system.posix_acl_default";

/// How what is made here comes into being.
pub(super) struct Making {
    /// What is made belongs to root, whatever it is made in, and has the mode that was asked for but for the
    /// umask: until a directory says otherwise by its group (the mount option `grpid`), its setgid bit or a
    /// default ACL.
    plain: bool,
    umask: u32,
}

/// With what mode something was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Made {
    /// With its own.
    AsAsked,
    /// With one that shuts others out until it is told its own.
    Shut,
}

impl Making {
    pub(super) fn within(root: &OwnedFd) -> Making {
        let mut nothing = [0u8; 0];
        let acl = rustix::fs::fgetxattr(root, DEFAULT_ACL, &mut nothing);
        let is_root = rustix::fs::fstat(root)
            .is_ok_and(|stat| (stat.st_uid, stat.st_gid, stat.st_mode & 0o2000) == (0, 0, 0));
        let plain = is_root && matches!(acl, Err(Errno::NODATA | Errno::NOTSUP));
        Making { plain, umask: umask() }
    }

    /// What is made below this directory may come out differently.
    pub(super) fn heed(&mut self, directory: &Entry) {
        let has_acl = directory.xattrs.iter().any(|(name, _)| name == DEFAULT_ACL.as_bytes());
        self.plain &= !has_acl && directory.gid == 0 && directory.mode & 0o2000 == 0;
    }

    /// The mode to make it with.
    pub(super) fn mode(&self, entry: &Entry, shut: u32) -> (Mode, Made) {
        let exact = self.plain && entry.mode & (self.umask | !0o777) == 0;
        let (mode, made) = if exact { (entry.mode, Made::AsAsked) } else { (shut, Made::Shut) };
        (Mode::from_raw_mode(mode), made)
    }

    /// Whether what was made for the entry belongs to whom it should.
    pub(super) fn owns(&self, entry: &Entry) -> bool {
        self.plain && (entry.uid, entry.gid) == (0, 0)
    }

    /// Owner first: chown clears the setuid bits and the capabilities that follow.
    pub(super) fn set_attributes(
        &self,
        file: BorrowedFd<'_>,
        entry: &Entry,
        made: Made,
        mtime: Option<Time>,
    ) -> Result<(), Error> {
        let step = |step| Error::step(&entry.path, step);
        if !self.owns(entry) || entry.path.is_empty() {
            let (uid, gid) = owner(entry);
            rustix::fs::fchown(file, uid, gid).map_err(step("fchown"))?;
        }
        if made == Made::Shut {
            rustix::fs::fchmod(file, Mode::from_raw_mode(entry.mode)).map_err(step("fchmod"))?;
        }
        for (name, value) in entry.xattrs.iter().filter(|(name, _)| is_welcome(name)) {
            match rustix::fs::fsetxattr(file, name.as_slice(), value, XattrFlags::empty()) {
                // The file system has none, or not for this kind of file; the peers go on, too.
                Ok(()) | Err(Errno::NOTSUP) => {}
                Err(errno) => return Err(step(XATTR)(errno)),
            }
        }
        match mtime {
            Some(mtime) => rustix::fs::futimens(file, &timestamps(mtime)).map_err(step("futimens")),
            None => Ok(()),
        }
    }
}

/// This process's (proc_pid_status(5)); all bits when that is not to be learnt, and then no mode is exact.
fn umask() -> u32 {
    let status = std::fs::read_to_string("/proc/thread-self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("Umask:"));
    line.and_then(|text| u32::from_str_radix(text.trim(), 8).ok()).unwrap_or(0o777)
}

pub(super) fn owner(entry: &Entry) -> (Option<Uid>, Option<Gid>) {
    (Some(Uid::from_raw(entry.uid)), Some(Gid::from_raw(entry.gid)))
}

pub(super) fn timestamps(mtime: Time) -> Timestamps {
    let time = Timespec { tv_sec: mtime.seconds, tv_nsec: mtime.nanoseconds.into() };
    Timestamps { last_access: time, last_modification: time }
}

/// Attributes that mean something inside a container and nothing to the host. Overlay's own are never
/// taken from an image: they would change what a container sees of the layers below.
fn is_welcome(name: &[u8]) -> bool {
    let overlay = name.starts_with(b"user.overlay.") || name.contains(&0);
    !overlay
        && (name == b"security.capability"
            || name.starts_with(b"user.")
            || name.starts_with(b"system.posix_acl_"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::unpack::entry::Kind;

    fn entry(mode: u32, gid: u32) -> Entry {
        let mtime = Time { seconds: 0, nanoseconds: 0 };
        let (kind, path, xattrs) = (Kind::Directory, b"x".to_vec(), Vec::new());
        Entry { kind, mode, uid: 0, gid, mtime, xattrs, path }
    }

    #[test]
    fn a_mode_is_asked_for_at_once_only_where_it_comes_out_so() {
        let check = |plain, umask, mode, answer| {
            let (asked, made) = Making { plain, umask }.mode(&entry(mode, 0), 0o600);
            assert_eq!((asked.as_raw_mode(), made), answer, "{plain} {umask:o} {mode:o}");
        };
        check(true, 0o022, 0o644, (0o644, Made::AsAsked));
        check(true, 0o022, 0o755, (0o755, Made::AsAsked));
        check(true, 0o022, 0o664, (0o600, Made::Shut));
        check(true, 0o077, 0o644, (0o600, Made::Shut));
        check(true, 0, 0o777, (0o777, Made::AsAsked));
        check(true, 0, 0o4755, (0o600, Made::Shut));
        check(true, 0o777, 0o644, (0o600, Made::Shut));
        check(false, 0o022, 0o644, (0o600, Made::Shut));
        assert!(umask() <= 0o777);
        let mut making = Making { plain: true, umask: 0 };
        making.heed(&entry(0o755, 0));
        assert!(making.owns(&entry(0o644, 0)) && !making.owns(&entry(0o644, 8)));
        making.heed(&entry(0o755, 8));
        assert!(!making.owns(&entry(0o644, 0)));
    }
}
