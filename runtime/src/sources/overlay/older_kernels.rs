//! Layers on older kernels: 6.5 was the first to be told of them one by one, 6.13 by descriptor.
//!
//! A child mounts them by mount(2) in a mount namespace of its own and hands a clone of that back. The host sees
//! nothing of it, as with the newer way.

use std::ffi::CString;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use kernel::{Depth, MountAttr, clone_flags as flag, mount_setattr_at, propagation};
use rustix::fs::CWD;
use rustix::io::{Errno, Result};
use rustix::mount::{MountFlags, MoveMountFlags, move_mount};
use rustix::process::{WaitId, WaitIdOptions, chdir, fchdir, waitid};

use super::{Layers, Shifted, common_parent, give_to_root_of};
use crate::report::{At as _, Failure, Step, Word, lines};
use crate::sources::clone_tree;

pub(super) fn mount(layers: &Layers<'_>) -> Result<OwnedFd> {
    let base = common_parent(layers.lower.iter().map(std::path::PathBuf::as_path));
    let data = options(layers, &base)?;
    let (ours, theirs) = lines()?;
    let child = kernel::clone3(flag::NEWNS, None, || {
        match mount_here(layers, &base, &data).at(Step::AttachRoot, 0) {
            Ok(tree) => drop(theirs.ready(Some(tree.as_fd()))),
            Err(failure) => theirs.failed(failure),
        }
        0
    })?;
    drop(theirs);
    let word = ours.hear();
    while let Err(Errno::INTR) = waitid(WaitId::PidFd(child.pidfd.as_fd()), WaitIdOptions::EXITED) {}
    match word? {
        Some(Word::Ready { console: Some(tree) }) => Ok(tree),
        Some(Word::Failed(Failure { errno, .. })) => Err(errno),
        Some(
            Word::Ready { console: None } | Word::Cloned { .. } | Word::BeforePivot | Word::Listening { .. },
        )
        | None => Err(Errno::CHILD),
    }
}

/// On top of the upper directory: it exists, and nobody in this namespace looks for what is below.
fn mount_here(layers: &Layers<'_>, base: &Path, data: &CString) -> Result<OwnedFd> {
    let private = MountAttr { propagation: propagation::PRIVATE, ..MountAttr::default() };
    mount_setattr_at(c"/", Depth::Recursive, &private)?;
    // Names relative to it: all options together may have no more than a page.
    match layers.userns {
        None => chdir(base)?,
        Some(userns) => enter_shifted(layers, base, userns)?,
    }
    rustix::mount::mount(c"overlay", layers.upper, c"overlay", MountFlags::empty(), Some(data.as_c_str()))?;
    clone_tree(layers.upper, Depth::One)
}

/// Attached on the root, where paths from the root do not meet it: the upper may well be below `base` too.
fn enter_shifted(layers: &Layers<'_>, base: &Path, userns: BorrowedFd<'_>) -> Result<()> {
    give_to_root_of(layers.upper, userns)?;
    let shifted = Shifted::of(base.to_owned(), userns)?;
    move_mount(&shifted.tree, c"", CWD, c"/", MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
    fchdir(&shifted.tree)
}

fn options(layers: &Layers<'_>, base: &Path) -> Result<CString> {
    let mut data = b"volatile,lowerdir=".to_vec();
    for (i, layer) in layers.lower.iter().enumerate() {
        if i > 0 {
            data.push(b':');
        }
        let inside = layer.strip_prefix(base).map_err(|_| Errno::INVAL)?;
        escape(if inside.as_os_str().is_empty() { Path::new(".") } else { inside }, &mut data);
    }
    data.extend_from_slice(b",upperdir=");
    escape(layers.upper, &mut data);
    data.extend_from_slice(b",workdir=");
    escape(layers.work, &mut data);
    if let Some(label) = layers.label {
        // Quoted for the commas of its categories.
        data.extend_from_slice(b",context=\"");
        data.extend_from_slice(label.to_bytes());
        data.push(b'"');
    }
    CString::new(data).map_err(|_| Errno::INVAL)
}

/// Commas end an option, colons a layer.
fn escape(path: &Path, to: &mut Vec<u8>) {
    for &byte in path.as_os_str().as_bytes() {
        if matches!(byte, b',' | b':' | b'\\') {
            to.push(b'\\');
        }
        to.push(byte);
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    #[test]
    fn options_are_short_and_escaped() {
        let lower = [PathBuf::from("/l/2"), PathBuf::from("/l/a:b,c")];
        let layers = Layers {
            lower: &lower,
            upper: Path::new("/u,p"),
            work: Path::new("/w"),
            userns: None,
            label: None,
        };
        let data = options(&layers, Path::new("/l")).unwrap();
        assert_eq!(data.to_str().unwrap(), r"volatile,lowerdir=2:a\:b\,c,upperdir=/u\,p,workdir=/w");
        let labelled = Layers { label: Some(c"u:r:t:s0:c1,c2"), ..layers };
        let data = options(&labelled, Path::new("/l")).unwrap();
        assert!(data.to_str().unwrap().ends_with(r#",workdir=/w,context="u:r:t:s0:c1,c2""#));
    }
}
