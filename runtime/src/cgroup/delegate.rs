//! A container's cgroup2 directory given to the user that its process is (config-linux.md, "Cgroup ownership").
//!
//! Only the directory, and those of its files that the kernel says are for the one it is delegated to: whoever owned
//! others could lift the container's limits.

use std::fs;
use std::path::Path;

use rustix::fs::{Uid, chown};
use rustix::io::Errno;

use super::Error;

/// cgroups(7): one name a line.
const LIST: &str = "/sys/kernel/cgroup/delegate";
/// The specification's own, for kernels without that file (before 4.15).
const FALLBACK: &str = "cgroup.procs\ncgroup.subtree_control\ncgroup.threads\n";

pub(super) fn give(dir: &Path, uid: u32) -> Result<(), Error> {
    let list = fs::read_to_string(LIST).unwrap_or_else(|_| FALLBACK.to_owned());
    give_listed(dir, &list, uid)
}

/// Not every cgroup has every file of the list.
fn give_listed(dir: &Path, list: &str, uid: u32) -> Result<(), Error> {
    let to = Some(Uid::from_raw(uid));
    let fail =
        |object: &Path, source| Error::Kernel { doing: "giving away", object: object.to_owned(), source };
    chown(dir, to, None).map_err(|source| fail(dir, source))?;
    for name in list.lines().filter(|name| !name.is_empty() && !name.contains('/')) {
        let file = dir.join(name);
        match chown(&file, to, None) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(source) => return Err(fail(&file, source)),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use super::*;

    #[test]
    fn only_what_is_listed_changes_hands() {
        if !rustix::process::getuid().is_root() {
            return println!("skipped: giving files away needs root");
        }
        let dir = tempfile::tempdir().unwrap();
        for file in ["cgroup.procs", "memory.max"] {
            fs::write(dir.path().join(file), "").unwrap();
        }
        give_listed(dir.path(), "cgroup.procs\ncgroup.threads\nmemory.oom.group\n", 4242).unwrap();
        let owner = |name: &str| fs::metadata(dir.path().join(name)).unwrap().uid();
        assert_eq!([owner(""), owner("cgroup.procs"), owner("memory.max")], [4242, 4242, 0]);
    }
}
