//! The container's 0, 1 and 2, as far as their other ends are the node's: pipes, and files that are in no mount of the
//! container's, such as FIFOs. criu leaves those out of the images, and gets others in their place.

use std::fs;
use std::os::fd::{AsRawFd as _, BorrowedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use super::message::Message;
use super::mounts;
use crate::Error;

/// Which ones they were: named as runc names it, and with its contents where they are pipes.
const FILE: &str = "descriptors.json";
/// `external` of criu_opts.
const EXTERNAL: u64 = 37;
/// criu's name of a file that is none of the container's begins so.
const OUTSIDE: &str = "file[";

/// Tells criu of those that are files, and writes all of them down for the restore.
pub(super) fn add_for_dump(options: &mut Message, dir: &Path, pid: i32) -> Result<(), Error> {
    let mounts = mounts::ids(pid);
    let names: Vec<String> = (0..3).map(|fd| name(pid, fd, &mounts)).collect();
    for name in names.iter().filter(|name| name.starts_with(OUTSIDE)) {
        options.text(EXTERNAL, name);
    }
    let path = dir.join(FILE);
    let text = serde_json::to_vec(&names).map_err(|source| Error::Config { path: path.clone(), source })?;
    fs::write(&path, text).map_err(|e| Error::step("writing", path.display().to_string(), e))
}

/// What criu is to be given for each: the number, and the name in the images.
pub(super) fn to_give(dir: &Path) -> Vec<(i32, String)> {
    let bytes = fs::read(dir.join(FILE)).unwrap_or_default();
    let names: Vec<String> = serde_json::from_slice(&bytes).unwrap_or_default();
    let outside = |name: &String| name.starts_with("pipe:") || name.starts_with(OUTSIDE);
    (0..3).zip(names).filter(|(_, name)| outside(name)).collect()
}

/// In the child: ours take their numbers.
pub(super) fn take_numbers(fds: [BorrowedFd<'_>; 3]) -> rustix::io::Result<()> {
    // None of the first three is one of ours: those are open since we began.
    fds.into_iter()
        .zip(0..)
        .filter(|(fd, number)| fd.as_raw_fd() != *number)
        .try_for_each(|(fd, number)| kernel::dup_onto(fd, number))
}

/// `pipe:[INODE]`, a path, or `file[MOUNT:INODE]` in hexadecimal where the path would mean nothing inside.
fn name(pid: i32, fd: i32, mounts: &[u64]) -> String {
    let place = format!("/proc/{pid}/fd/{fd}");
    let link = fs::read_link(&place).unwrap_or_default().to_string_lossy().into_owned();
    let outside = || {
        let mount = mount_of(pid, fd).filter(|mount| !mounts.contains(mount))?;
        let inode = fs::metadata(&place).ok()?.ino();
        Some(format!("{OUTSIDE}{mount:x}:{inode:x}]"))
    };
    if link.starts_with('/') { outside().unwrap_or(link) } else { link }
}

fn mount_of(pid: i32, fd: i32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/fdinfo/{fd}")).ok()?;
    text.lines().find_map(|line| line.strip_prefix("mnt_id:"))?.trim().parse().ok()
}
