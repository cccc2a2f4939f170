//! Puts the entries of an archive into a tree. A later entry of a name replaces an earlier one.

use std::rc::Rc;

use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::Unpacked;
use super::archive::Archive;
use super::blocks::Blocks;
use super::entry::{Entry, Kind, Time, split};
use super::error::{Error, Refusal};
use super::making::{Made, Making, owner, timestamps};
use super::replaced::Replaced;
use super::tree::{Cleared, Tree, open_child, set_opaque};

/// OCI image-spec, layer.md, "Whiteouts".
const WHITEOUT: &[u8] = b".wh.";
const OPAQUE_MARK: &[u8] = b".wh..wh..opq";
/// Other marks of AUFS, which nobody reads.
const AUFS: &[u8] = b".wh..wh.";
/// Times of directories are set last, since filling them changes them. Beyond this many bytes of names
/// they are set early, and some may come out newer.
const MAX_PENDING: usize = 16 << 20;
/// What a file of any size is rounded up to on disk, nearly everywhere.
const ALLOCATION: u64 = 4096;

pub(crate) struct Placer {
    tree: Tree,
    making: Making,
    pending: Vec<(Vec<u8>, Time)>,
    pending_bytes: usize,
    unpacked: Unpacked,
}

impl Placer {
    pub(crate) fn new(root: OwnedFd, max_entries: u64) -> Placer {
        Placer {
            making: Making::within(&root),
            tree: Tree::new(root, max_entries),
            pending: Vec::new(),
            pending_bytes: 0,
            unpacked: Unpacked::default(),
        }
    }

    pub(crate) fn place<B: Blocks>(&mut self, entry: &Entry, archive: &mut Archive<B>) -> Result<(), Error> {
        if entry.path.is_empty() {
            return self.root(entry);
        }
        let (_, name) = split(&entry.path);
        if name.starts_with(WHITEOUT) {
            return self.hide(entry, name);
        }
        match &entry.kind {
            Kind::File { size } => self.file(entry, *size, archive),
            Kind::Directory => self.directory(entry),
            Kind::Symlink { target } => self.symlink(entry, target),
            Kind::HardLink { target } => self.hard_link(entry, target),
            Kind::Device { character, major, minor } => {
                let kind = if *character { FileType::CharacterDevice } else { FileType::BlockDevice };
                self.node(entry, kind, rustix::fs::makedev(*major, *minor))
            }
            Kind::Fifo => self.node(entry, FileType::Fifo, 0),
        }
    }

    /// What is gone of what entries made, since later ones had its name; None when nothing is.
    pub(super) fn replaced(&mut self) -> Option<Replaced> {
        Some(std::mem::take(&mut self.tree.replaced)).filter(|replaced| !replaced.is_empty())
    }

    /// Sets what had to wait for the end.
    pub(crate) fn finish(mut self) -> Result<Unpacked, Error> {
        self.settle_times()?;
        self.unpacked.inodes += self.tree.implied;
        self.unpacked.bytes += self.tree.implied * ALLOCATION;
        let names = std::mem::take(&mut self.tree.undescribed).into_iter();
        // A name that is no text is kept out of the records; its directory stays as it was made.
        self.unpacked.undescribed = names.filter_map(|name| String::from_utf8(name).ok()).collect();
        Ok(self.unpacked)
    }

    fn root(&mut self, entry: &Entry) -> Result<(), Error> {
        if entry.kind != Kind::Directory {
            return Err(Error::refused(b"/", Refusal::Root));
        }
        self.unpacked.has_root = true;
        self.making.heed(entry);
        self.making.set_attributes(self.tree.root(), entry, Made::Shut, None)?;
        self.set_time_later(entry)
    }

    fn hide(&mut self, entry: &Entry, name: &[u8]) -> Result<(), Error> {
        if name == OPAQUE_MARK {
            return self.hide_below(entry);
        }
        if name.starts_with(AUFS) {
            return Ok(());
        }
        let hidden = &name[WHITEOUT.len()..];
        if matches!(hidden, b"" | b"." | b"..") {
            return Err(Error::refused(&entry.path, Refusal::Whiteout));
        }
        let parent = self.tree.parent(&entry.path)?;
        match mknod(&parent, hidden, FileType::CharacterDevice, 0) {
            Ok(()) => self.count(0),
            // What this layer has itself stays; only what lies below it is hidden.
            Err(Errno::EXIST) => match open_child(&parent, hidden) {
                Ok(directory) => set_opaque(directory.as_fd(), &entry.path)?,
                Err(Errno::NOTDIR | Errno::LOOP) => {}
                Err(errno) => return Err(Error::step(&entry.path, "openat")(errno)),
            },
            Err(errno) => return Err(Error::step(&entry.path, "mknodat")(errno)),
        }
        Ok(())
    }

    fn hide_below(&mut self, entry: &Entry) -> Result<(), Error> {
        let (parent, _) = split(&entry.path);
        // Overlay does not look for the mark on the root of a layer: the mount plan heeds this one.
        self.unpacked.opaque_root |= parent.is_empty();
        let directory = self.tree.parent(&entry.path)?;
        set_opaque(directory.as_fd(), &entry.path)
    }

    fn file<B: Blocks>(&mut self, entry: &Entry, size: u64, archive: &mut Archive<B>) -> Result<(), Error> {
        let parent = self.tree.parent(&entry.path)?;
        let (mode, made) = self.making.mode(entry, 0o600);
        let file = self.make(&parent, entry, "openat", |parent, name| {
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            rustix::fs::openat(parent, name, flags, mode)
        })?;
        archive.content(&entry.path, |mut bytes| {
            while !bytes.is_empty() {
                match rustix::io::write(&file, bytes) {
                    Ok(n) => bytes = &bytes[n..],
                    Err(Errno::INTR) => {}
                    Err(errno) => return Err(Error::step(&entry.path, "write")(errno)),
                }
            }
            Ok(())
        })?;
        self.making.set_attributes(file.as_fd(), entry, made, Some(entry.mtime))?;
        self.count(size.div_ceil(ALLOCATION) * ALLOCATION);
        Ok(())
    }

    fn directory(&mut self, entry: &Entry) -> Result<(), Error> {
        let parent = self.tree.parent(&entry.path)?;
        let (_, name) = split(&entry.path);
        let (mode, made) = self.making.mode(entry, 0o700);
        let (directory, made) = match rustix::fs::mkdirat(&parent, name, mode) {
            Ok(()) => {
                self.count(ALLOCATION);
                (open_child(&parent, name).map_err(Error::step(&entry.path, "openat"))?, made)
            }
            Err(Errno::EXIST) => (self.existing_directory(entry, &parent, name)?, Made::Shut),
            Err(errno) => return Err(Error::step(&entry.path, "mkdirat")(errno)),
        };
        self.making.heed(entry);
        self.making.set_attributes(directory.as_fd(), entry, made, None)?;
        self.tree.undescribed.remove(&entry.path);
        self.tree.remember(&entry.path, directory);
        self.set_time_later(entry)
    }

    /// A directory said twice is one directory; anything else that has its name makes way.
    fn existing_directory(&mut self, entry: &Entry, parent: &OwnedFd, name: &[u8]) -> Result<OwnedFd, Error> {
        match open_child(parent, name) {
            Err(Errno::NOTDIR | Errno::LOOP) => {}
            other => return other.map_err(Error::step(&entry.path, "openat")),
        }
        let cleared = self.tree.clear(parent, name, &entry.path)?;
        let mode = Mode::from_raw_mode(0o700);
        rustix::fs::mkdirat(parent, name, mode).map_err(Error::step(&entry.path, "mkdirat"))?;
        let made = open_child(parent, name).map_err(Error::step(&entry.path, "openat"))?;
        if cleared == Cleared::Whiteout {
            set_opaque(made.as_fd(), &entry.path)?;
        }
        self.count(ALLOCATION);
        Ok(made)
    }

    fn symlink(&mut self, entry: &Entry, target: &[u8]) -> Result<(), Error> {
        let parent = self.tree.parent(&entry.path)?;
        self.make(&parent, entry, "symlinkat", |parent, name| rustix::fs::symlinkat(target, parent, name))?;
        self.set_by_name(&parent, entry)?;
        self.count(0);
        Ok(())
    }

    /// The target's own name is not followed (linkat without AT_SYMLINK_FOLLOW), the way to it is confined.
    fn hard_link(&mut self, entry: &Entry, target: &[u8]) -> Result<(), Error> {
        if target.is_empty() {
            return Err(Error::refused(&entry.path, Refusal::Root));
        }
        let (target_parent, target_name) = split(target);
        let target_parent = self
            .tree
            .open_directory(or_root(target_parent), OFlags::empty())
            .map_err(Error::step(&entry.path, "opening the target of the hard link"))?;
        let parent = self.tree.parent(&entry.path)?;
        if entry.path == target {
            return Ok(());
        }
        self.make(&parent, entry, "linkat", |parent, name| {
            rustix::fs::linkat(&target_parent, target_name, parent, name, AtFlags::empty())
        })
    }

    fn node(&mut self, entry: &Entry, kind: FileType, device: u64) -> Result<(), Error> {
        let parent = self.tree.parent(&entry.path)?;
        self.make(&parent, entry, "mknodat", |parent, name| mknod(parent, name, kind, device))?;
        self.set_by_name(&parent, entry)?;
        self.count(0);
        Ok(())
    }

    /// Makes something under the entry's name; what had the name makes way.
    fn make<T>(
        &mut self,
        parent: &Rc<OwnedFd>,
        entry: &Entry,
        step: &'static str,
        make: impl Fn(&OwnedFd, &[u8]) -> Result<T, Errno>,
    ) -> Result<T, Error> {
        let (_, name) = split(&entry.path);
        match make(parent, name) {
            Err(Errno::EXIST) => {
                self.tree.clear(parent, name, &entry.path)?;
                make(parent, name).map_err(Error::step(&entry.path, step))
            }
            other => other.map_err(Error::step(&entry.path, step)),
        }
    }

    /// The attributes of what can't be opened: links, devices, FIFOs.
    fn set_by_name(&mut self, parent: &OwnedFd, entry: &Entry) -> Result<(), Error> {
        let (_, name) = split(&entry.path);
        let step = |step| Error::step(&entry.path, step);
        if !self.making.owns(entry) {
            let (uid, gid) = owner(entry);
            rustix::fs::chownat(parent, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)
                .map_err(step("chownat"))?;
        }
        if !matches!(entry.kind, Kind::Symlink { .. }) {
            // fchmodat follows links, but this name was just made as something else.
            let mode = Mode::from_raw_mode(entry.mode);
            rustix::fs::chmodat(parent, name, mode, AtFlags::empty()).map_err(step("fchmodat"))?;
        }
        let times = timestamps(entry.mtime);
        rustix::fs::utimensat(parent, name, &times, AtFlags::SYMLINK_NOFOLLOW).map_err(step("utimensat"))
    }

    fn set_time_later(&mut self, entry: &Entry) -> Result<(), Error> {
        self.pending_bytes += entry.path.len() + size_of::<(Vec<u8>, Time)>();
        self.pending.push((entry.path.clone(), entry.mtime));
        if self.pending_bytes > MAX_PENDING { self.settle_times() } else { Ok(()) }
    }

    fn settle_times(&mut self) -> Result<(), Error> {
        self.pending_bytes = 0;
        for (path, mtime) in std::mem::take(&mut self.pending) {
            let times = timestamps(mtime);
            let directory = match self.tree.open_directory(or_root(&path), OFlags::NOFOLLOW) {
                // A later entry replaced it.
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => continue,
                other => other.map_err(Error::step(&path, "openat2"))?,
            };
            rustix::fs::futimens(&directory, &times).map_err(Error::step(&path, "futimens"))?;
        }
        Ok(())
    }

    fn count(&mut self, bytes: u64) {
        self.unpacked.inodes += 1;
        self.unpacked.bytes += bytes;
    }
}

/// The root by the name that openat2 knows it by.
fn or_root(path: &[u8]) -> &[u8] {
    if path.is_empty() { b"." } else { path }
}

fn mknod(parent: &OwnedFd, name: &[u8], kind: FileType, device: u64) -> Result<(), Errno> {
    rustix::fs::mknodat(parent, name, kind, Mode::empty(), device)
}
