//! User namespaces from outside: writing maps, and namespaces that exist only for their maps.

use std::fs;
use std::os::fd::{AsFd as _, OwnedFd};

use kernel::clone_flags as flag;
use rustix::fs::{Mode, OFlags, open};

use crate::Error;
use crate::make::end;
use crate::plan::{Maps, Plan, Source};
use crate::report::lines;
use crate::sources::idmap;

/// Gives the process's new user namespace its ids.
pub(crate) fn write_maps(pid: i32, maps: &Maps) -> Result<(), Error> {
    for (file, text) in [("gid_map", &maps.gids), ("uid_map", &maps.uids)] {
        let path = format!("/proc/{pid}/{file}");
        fs::write(&path, text).map_err(|e| Error::step("writing", path, e))?;
    }
    Ok(())
}

/// Shifts the ownership of those bind mounts that ask for it, before the child attaches them.
pub(crate) fn idmap_all(plan: &Plan, trees: &[Option<OwnedFd>], init: i32) -> Result<(), Error> {
    for (mount, tree) in plan.mounts.iter().zip(trees) {
        let (Source::Bind { idmap: Some(wish), path, .. }, Some(tree)) = (&mount.source, tree) else {
            continue;
        };
        let userns = match &wish.maps {
            Some(maps) => of_maps(maps)?,
            None => of_process(init)?,
        };
        idmap(tree.as_fd(), wish.depth, userns.as_fd())
            .map_err(|e| Error::step("mapping the ids of", path.display().to_string(), e))?;
    }
    Ok(())
}

/// A user namespace with these maps: a child is born into it, mapped, and ended; the descriptor keeps it.
fn of_maps(maps: &Maps) -> Result<OwnedFd, Error> {
    let (ours, theirs) = lines().map_err(|e| Error::step("making", "a socket pair", e))?;
    let child = kernel::clone3(flag::NEWUSER, None, || {
        // Until our end closes or a word comes.
        let _ = theirs.wait();
        0
    })
    .map_err(|e| Error::step("making", "a user namespace", e))?;
    let userns = write_maps(child.pid, maps).and_then(|()| of_process(child.pid));
    drop(ours);
    end(&child);
    userns
}

fn of_process(pid: i32) -> Result<OwnedFd, Error> {
    let path = format!("/proc/{pid}/ns/user");
    open(&path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).map_err(|e| Error::step("opening", path, e))
}
