//! The root file system: attached, filled, pivoted into.

use std::os::fd::BorrowedFd;

use kernel::{Depth, MountAttr, mount_attr, mount_setattr, mount_setattr_at, propagation};
use rustix::fs::Mode;
use rustix::mount::{MoveMountFlags, UnmountFlags, move_mount, unmount};
use rustix::process::{chdir, chroot, fchdir, pivot_root, umask};

use super::terminal::{self, Terminal};
use super::{Done, Kit, devices, identity, masks, mounts};
use crate::RootChange;
use crate::plan::{Pivot, Within};
use crate::report::{At as _, Failure, Step};

/// The root with everything in it, and ourselves in it.
pub(super) fn make(kit: &Kit<'_>) -> Result<Option<Terminal>, Failure> {
    let plan = kit.plan;
    // Modes of what is made here are what was asked for.
    umask(Mode::empty());
    attach_root(kit)?;
    if plan.root.pivot == Pivot::First {
        pivot(kit)?;
    }
    let fresh = mounts::mount_all(kit)?;
    devices::fill(kit, &fresh)?;
    std::mem::forget(fresh);
    let terminal = open_terminal(kit)?;
    if plan.root.pivot == Pivot::AfterHooks {
        kit.line.before_pivot().at(Step::Report, 0)?;
        kit.line.wait().at(Step::WaitForHooks, 0)?;
        kit.hooks.create_container()?;
    }
    if plan.root.pivot != Pivot::First {
        pivot(kit)?;
    }
    masks::make_readonly(kit)?;
    masks::mask_all(kit)?;
    identity::make_cwd(kit.root, &plan.process)?;
    mounts::seal(kit)?;
    finish_root(kit)?;
    Ok(terminal)
}

/// Private or a slave before anything is attached: nothing that we do may reach the host's mounts.
fn attach_root(kit: &Kit<'_>) -> Done {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    let attach = || {
        move_mount(kit.root, c"", rustix::fs::CWD, kit.attach_at.as_c_str(), flags).at(Step::AttachRoot, 0)
    };
    if kit.plan.root.within == Within::Shared {
        // Its propagation is its owners' affair.
        return attach();
    }
    let wanted = kit.plan.root.propagation;
    let of_host = if wanted == propagation::PRIVATE { propagation::PRIVATE } else { propagation::SLAVE };
    let attr = MountAttr { propagation: of_host, ..MountAttr::default() };
    mount_setattr_at(c"/", Depth::Recursive, &attr).at(Step::Privacy, 0)?;
    attach()
}

/// pivot_root(2), NOTES: the old root ends up below the new one, and is let go of from there.
fn pivot(kit: &Kit<'_>) -> Done {
    if kit.plan.root.within == Within::Shared {
        return enter(kit.root);
    }
    if kit.root_change == RootChange::Chroot {
        return cover_root(kit);
    }
    fchdir(kit.root).at(Step::PivotRoot, 0)?;
    pivot_root(c".", c".").at(Step::PivotRoot, 1)?;
    // The working directory is the new root; where it is to be, `identity::enter` says in the end.
    unmount(c".", UnmountFlags::DETACH).at(Step::PivotRoot, 2)
}

/// The host's root stays mounted underneath. It is what --no-pivot asks for.
fn cover_root(kit: &Kit<'_>) -> Done {
    if kit.attach_at.as_c_str() != c"/" {
        let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
        move_mount(kit.root, c"", rustix::fs::CWD, c"/", flags).at(Step::PivotRoot, 0)?;
    }
    enter(kit.root)
}

pub(super) fn enter(root: BorrowedFd<'_>) -> Done {
    fchdir(root).at(Step::PivotRoot, 1)?;
    chroot(c".").at(Step::PivotRoot, 2)?;
    chdir(c"/").at(Step::PivotRoot, 3)
}

fn open_terminal(kit: &Kit<'_>) -> Result<Option<Terminal>, Failure> {
    if !kit.plan.process.terminal {
        return Ok(None);
    }
    let terminal = terminal::open(kit.root, &kit.plan.process).at(Step::Console, 0)?;
    terminal::bind_console(kit.root, &terminal.slave).at(Step::Console, 1)?;
    Ok(Some(terminal))
}

fn finish_root(kit: &Kit<'_>) -> Done {
    let root = &kit.plan.root;
    if root.propagation != propagation::PRIVATE {
        let attr = MountAttr { propagation: root.propagation, ..MountAttr::default() };
        mount_setattr(kit.root, Depth::One, &attr).at(Step::RootPropagation, 0)?;
    }
    if root.readonly {
        mount_setattr(kit.root, Depth::One, &mounts::set(mount_attr::RDONLY)).at(Step::RootReadonly, 0)?;
    }
    Ok(())
}
