//! User namespaces from outside: writing maps, and namespaces that exist only for their maps.

use std::fs;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;

use kernel::clone_flags as flag;
use rustix::fs::{Mode, OFlags, open};
use rustix::process::getpid;

use crate::Error;
use crate::make::{end, stay};
use crate::plan::{Idmap, Maps, Plan, Source};
use crate::sources::idmap;

/// Gives the process's new user namespace its ids.
pub(crate) fn write_maps(pid: i32, maps: &Maps) -> Result<(), Error> {
    for (file, text) in [("gid_map", &maps.gids), ("uid_map", &maps.uids)] {
        let path = format!("/proc/{pid}/{file}");
        fs::write(&path, text).map_err(|e| Error::step("writing", path, e))?;
    }
    Ok(())
}

/// Shifts the ownership of the bind mounts whose maps are known before the init is cloned: their own, or those of a
/// user namespace that is joined. A mount can be shifted only until it is attached, so the init must not have it yet.
pub(crate) fn shift_early(
    plan: &Plan,
    trees: &[Option<OwnedFd>],
    joined: Option<&OwnedFd>,
) -> Result<(), Error> {
    for (tree, wish, path) in wishes(plan, trees) {
        match (&wish.maps, joined) {
            (Some(maps), _) => shift(tree, wish, path, &of_maps(maps)?)?,
            (None, Some(joined)) => shift(tree, wish, path, joined)?,
            (None, None) => {}
        }
    }
    Ok(())
}

/// Those that are to be as the container's new user namespace has it, while its init waits for its maps.
pub(crate) fn shift_to_own(plan: &Plan, trees: &[Option<OwnedFd>], init: i32) -> Result<(), Error> {
    for (tree, wish, path) in wishes(plan, trees).filter(|(_, wish, _)| wish.maps.is_none()) {
        shift(tree, wish, path, &of_process(init)?)?;
    }
    Ok(())
}

fn wishes<'a>(
    plan: &'a Plan,
    trees: &'a [Option<OwnedFd>],
) -> impl Iterator<Item = (&'a OwnedFd, &'a Idmap, &'a Path)> {
    plan.mounts.iter().zip(trees).filter_map(|(mount, tree)| match (&mount.source, tree) {
        (Source::Bind { idmap: Some(wish), path, .. }, Some(tree)) => Some((tree, wish, path.as_path())),
        _ => None,
    })
}

fn shift(tree: &OwnedFd, wish: &Idmap, path: &Path, userns: &OwnedFd) -> Result<(), Error> {
    idmap(tree.as_fd(), wish.depth, userns.as_fd())
        .map_err(|e| Error::step("mapping the ids of", path.display().to_string(), e))
}

/// A user namespace with these maps: a child is born into it, mapped, and ended; the descriptor keeps it.
pub(crate) fn of_maps(maps: &Maps) -> Result<OwnedFd, Error> {
    let maker = getpid();
    let child = kernel::clone3(flag::NEWUSER, None, || stay(maker))
        .map_err(|e| Error::step("making", "a user namespace", e))?;
    let userns = write_maps(child.pid, maps).and_then(|()| of_process(child.pid));
    end(&child);
    userns
}

fn of_process(pid: i32) -> Result<OwnedFd, Error> {
    let path = format!("/proc/{pid}/ns/user");
    open(&path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).map_err(|e| Error::step("opening", path, e))
}
