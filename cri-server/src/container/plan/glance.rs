//! Looks at paths of the host without ever waiting for who serves them.
//!
//! A thread that asks a server which is away is kept by the kernel for ever, and with it the daemon: not even SIGKILL ends
//! it. So only what the kernel has at hand is looked at here (openat2(2), RESOLVE_CACHED, Linux 5.12; statx(2),
//! AT_STATX_DONT_SYNC). The rest is for a child of the pod's monitor.

use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use conmon_protocol::Seen;
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags, StatxFlags, openat2, statx};
use rustix::io::Errno;

/// `None`: it would have to be asked for.
pub fn glance(path: &Path) -> Option<Seen> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let found = match openat2(CWD, path, flags, Mode::empty(), ResolveFlags::CACHED) {
        Ok(found) => found,
        Err(Errno::NOENT) => return Some(Seen::Missing),
        Err(_) => return None,
    };
    let stat = statx(&found, "", AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC, StatxFlags::TYPE).ok()?;
    let real = real_path(found.as_raw_fd())?;
    match FileType::from_raw_mode(stat.stx_mode.into()) {
        FileType::Directory => Some(Seen::Directory(real)),
        _ => Some(Seen::Other(real)),
    }
}

/// The kernel marks what is no longer there; that is looked at again, with time.
fn real_path(fd: i32) -> Option<PathBuf> {
    let path = std::fs::read_link(format!("/proc/self/fd/{fd}")).ok()?;
    let is_plain = path.is_absolute() && !path.as_os_str().as_encoded_bytes().ends_with(b" (deleted)");
    is_plain.then_some(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_at_hand_is_seen_with_links_followed() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().canonicalize().unwrap();
        std::fs::write(dir.join("file"), "").unwrap();
        std::os::unix::fs::symlink("file", dir.join("link")).unwrap();
        // The kernel has at hand what was just asked for.
        let look = |name: &str| {
            let _ = std::fs::metadata(dir.join(name));
            glance(&dir.join(name))
        };
        assert_eq!(look("link"), Some(Seen::Other(dir.join("file"))));
        assert_eq!(look("."), Some(Seen::Directory(dir.clone())));
        assert!(matches!(look("none"), Some(Seen::Missing) | None));
        assert_eq!(glance(&dir.join("file/below")), None, "why not is for who has time to say");
    }
}
