//! A terminal of the container's own devpts.

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use rustix::fs::{Gid, Mode, OFlags, ResolveFlags, Uid, fchown, openat2};
use rustix::io::Result;
use rustix::mount::{OpenTreeFlags, open_tree};
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

use super::mounts::attach;
use super::place::{Kind, Links, find_or_make};
use crate::plan::ProcessPlan;

/// Both ends.
pub(super) struct Terminal {
    pub(super) master: OwnedFd,
    pub(super) slave: OwnedFd,
}

/// Opens a pair. The slave comes from the master itself, so that no exchanged /dev/pts/N can stand in for it
/// (CVE-2025-52565).
pub(super) fn open(root: BorrowedFd<'_>, process: &ProcessPlan) -> Result<Terminal> {
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_SYMLINKS;
    let master = openat2(root, c"dev/pts/ptmx", flags, Mode::empty(), resolve)?;
    unlockpt(&master)?;
    let slave = ioctl_tiocgptpeer(&master, OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    if let Some(size) = process.console_size {
        let size = Winsize { ws_row: size.height, ws_col: size.width, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(&slave, size)?;
    }
    if process.uid != 0 {
        fchown(&slave, Some(Uid::from_raw(process.uid)), None::<Gid>)?;
    }
    Ok(Terminal { master, slave })
}

/// /dev/console is the terminal of a container that has one.
pub(super) fn bind_console(root: BorrowedFd<'_>, slave: &OwnedFd) -> Result<()> {
    let place = find_or_make(root, c"dev/console", Kind::File, Links::Refuse)?;
    let flags =
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    let tree = open_tree(slave, c"", flags)?;
    attach(tree.as_fd(), place.as_fd())
}
