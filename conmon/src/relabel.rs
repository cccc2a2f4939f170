//! SELinux labels of files: of one, and of a volume with all that is in it.
//!
//! A volume is other containers' too, who may move things about meanwhile. So each directory is held by descriptor, no
//! symbolic link is followed, and a name is looked up in the directory that is held: nothing outside of the volume can
//! be reached (CVE-2021-43816 was about a path that was looked up again). The volume's own path was judged by the daemon
//! with all links followed, so one that has a link now was changed since, and is refused. A file that has the label already costs one
//! read, so that a volume too large for one attempt is done after some.

use std::ffi::CStr;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{
    CWD, Dir, FileType, Mode, OFlags, ResolveFlags, XattrFlags, fstat, getxattr, lgetxattr, lsetxattr,
    openat, openat2, setxattr,
};
use rustix::io::Errno;

use crate::error::{Error, Named as _};

const ATTRIBUTE: &str = "security.selinux";
/// One descriptor each; deeper trees than the longest path can name are nobody's data.
const MAX_DEPTH: usize = 512;
/// The kernel's labels fit in a page.
const MAX_LABEL: usize = 4096;

/// Gives one file its label; a symbolic link is not followed.
pub(crate) fn set(path: &Path, label: &str) -> Result<(), Errno> {
    let mut now = [0; MAX_LABEL];
    match lgetxattr(path, ATTRIBUTE, &mut now[..]) {
        Ok(length) if is(&now[..length], label) => Ok(()),
        Ok(_) | Err(_) => lsetxattr(path, ATTRIBUTE, label.as_bytes(), XattrFlags::empty()),
    }
}

/// The same by descriptor: the magic link leads to the very file that was opened.
fn set_open(fd: BorrowedFd<'_>, label: &str) -> Result<(), Errno> {
    let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
    let mut now = [0; MAX_LABEL];
    match getxattr(&path, ATTRIBUTE, &mut now[..]) {
        Ok(length) if is(&now[..length], label) => Ok(()),
        Ok(_) | Err(_) => setxattr(&path, ATTRIBUTE, label.as_bytes(), XattrFlags::empty()),
    }
}

/// The kernel tells it with the NUL of C, or without.
fn is(told: &[u8], label: &str) -> bool {
    told.strip_suffix(b"\0").unwrap_or(told) == label.as_bytes()
}

/// Gives a file or directory, and all that is below it, their label. A file system that has no labels is left as it
/// is: there the policy speaks for all of it (`genfs_context`), or its mount did (`context=`).
pub(crate) fn all(path: &Path, label: &str) -> Result<(), Error> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let top = match openat2(CWD, path, flags, Mode::empty(), ResolveFlags::NO_SYMLINKS) {
        Err(Errno::NOENT) => return Ok(()),
        top => top.named("opening the volume", path)?,
    };
    match set_open(top.as_fd(), label) {
        Err(Errno::NOTSUP) => return Ok(()),
        done => done.named("labelling the volume", path)?,
    }
    let kind = FileType::from_raw_mode(fstat(&top).named("looking at the volume", path)?.st_mode);
    if kind != FileType::Directory {
        return Ok(());
    }
    let mut walk = Walk { label, path: path.to_path_buf(), open: Vec::new() };
    walk.enter(open_dir(top.as_fd(), c".").named("opening the volume", path)?)?;
    walk.run()
}

fn open_dir(parent: BorrowedFd<'_>, name: &CStr) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(parent, name, flags, Mode::empty())
}

/// Directories from the top down to where the walk is; each knows how far it has been read.
struct Walk<'a> {
    label: &'a str,
    path: PathBuf,
    open: Vec<(OwnedFd, Dir)>,
}

impl Walk<'_> {
    fn enter(&mut self, dir: OwnedFd) -> Result<(), Error> {
        let entries = Dir::read_from(&dir).named("reading the directory", &self.path)?;
        self.open.push((dir, entries));
        Ok(())
    }

    fn run(&mut self) -> Result<(), Error> {
        while let Some((_, entries)) = self.open.last_mut() {
            match entries.read() {
                Some(entry) => {
                    let entry = entry.named("reading the directory", &self.path)?;
                    self.visit(entry.file_name(), entry.file_type())?;
                }
                None => {
                    self.open.pop();
                    self.path.pop();
                }
            }
        }
        Ok(())
    }

    fn visit(&mut self, name: &CStr, kind: FileType) -> Result<(), Error> {
        let Some((dir, _)) = self.open.last() else { return Ok(()) };
        if matches!(name.to_bytes(), b"." | b"..") {
            return Ok(());
        }
        let below = std::ffi::OsStr::from_bytes(name.to_bytes());
        let file = Path::new("/proc/self/fd").join(dir.as_raw_fd().to_string()).join(below);
        match set(&file, self.label) {
            // Taken away meanwhile, or of a file system mounted in the volume that has no labels.
            Ok(()) | Err(Errno::NOENT | Errno::NOTSUP) => {}
            failed => failed.named("labelling", self.path.join(below))?,
        }
        if !matches!(kind, FileType::Directory | FileType::Unknown) {
            return Ok(());
        }
        match open_dir(dir.as_fd(), name) {
            // Another thing by now, or it was none.
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(()),
            dir => {
                let dir = dir.named("opening", self.path.join(below))?;
                self.path.push(below);
                if self.open.len() >= MAX_DEPTH {
                    return Err(Errno::NAMETOOLONG).named("labelling what is so deep as", &self.path);
                }
                self.enter(dir)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn label_of(path: &Path) -> Option<String> {
        let mut label = [0; 256];
        let length = lgetxattr(path, ATTRIBUTE, &mut label[..]).ok()?;
        Some(String::from_utf8_lossy(&label[..length]).trim_end_matches('\0').to_owned())
    }

    /// Without SELinux the kernel keeps the attribute as any other of root's.
    #[test]
    fn all_of_a_volume_is_labelled_and_nothing_that_it_links_to() {
        let dir = tempfile::tempdir().unwrap();
        let (volume, outside) = (dir.path().join("volume"), dir.path().join("outside"));
        std::fs::create_dir_all(volume.join("a/b")).unwrap();
        std::fs::create_dir(&outside).unwrap();
        std::fs::write(outside.join("secret"), "").unwrap();
        std::fs::write(volume.join("a/b/file"), "").unwrap();
        symlink(&outside, volume.join("a/link")).unwrap();
        rustix::fs::mkfifoat(CWD, volume.join("fifo"), Mode::from_raw_mode(0o600)).unwrap();
        let label = "system_u:object_r:container_file_t:s0:c1,c2";
        if let Err(errno) = set(&outside.join("secret"), "system_u:object_r:tmp_t:s0") {
            println!("skipped: labels need root and a file system with attributes: {errno}");
            return;
        }
        all(&volume, label).unwrap();
        for path in ["", "a", "a/b", "a/b/file", "a/link", "fifo"] {
            assert_eq!(label_of(&volume.join(path)).as_deref(), Some(label), "{path}");
        }
        assert_ne!(label_of(&outside).as_deref(), Some(label));
        assert_eq!(label_of(&outside.join("secret")).as_deref(), Some("system_u:object_r:tmp_t:s0"));
        all(&volume.join("a/b/file"), "system_u:object_r:container_file_t:s0").unwrap();
        assert_eq!(
            label_of(&volume.join("a/b/file")).as_deref(),
            Some("system_u:object_r:container_file_t:s0")
        );
        all(&volume.join("nothing"), label).unwrap();
    }

    #[test]
    fn a_volume_whose_way_became_a_link_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().canonicalize().unwrap();
        std::fs::create_dir_all(dir.join("hosts/volume")).unwrap();
        symlink(dir.join("hosts"), dir.join("users")).unwrap();
        symlink(dir.join("hosts"), dir.join("volume")).unwrap();
        for path in ["users/volume", "volume"] {
            let refused = all(&dir.join(path), "system_u:object_r:container_file_t:s0").unwrap_err();
            assert!(refused.chain().contains("symbolic links"), "{}", refused.chain());
        }
        assert_eq!(label_of(&dir.join("hosts/volume")), None);
        assert_eq!(label_of(&dir.join("volume")), None);
    }
}
