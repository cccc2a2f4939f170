//! What a container changed in its image's files: an archive of what it wrote, and a list of what it removed. Read from
//! its writable layer while it stands still.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Instant;

use image_service::RootfsPlan;
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat2};
use rustix::io::Errno;
use tar::{EntryType, Header};

use super::Error;

/// What files may lack on the disk, all together: an archive has zeros for their holes, and a few bytes of a container's
/// would fill the disk that it is written to.
const MAX_HOLES_BYTES: u64 = 8 << 30;
/// More than any attribute's name or value (xattr(7)).
const XATTR_MAX: usize = 64 << 10;
/// `st_blocks` counts in these (stat(2)).
const BLOCK: u64 = 512;
/// overlay's own marks.
const OVERLAY: &str = "trusted.overlay.";
/// Where it is restored it gets the label of its new pod.
const SELINUX: &str = "security.selinux";
const OPAQUE: &str = "trusted.overlay.opaque";
/// With these a file is not what its entry says: overlay looks elsewhere for it.
const ELSEWHERE: [&str; 2] = ["trusted.overlay.redirect", "trusted.overlay.metacopy"];

/// Writes the archive and gives the paths that are gone, from the container's root.
pub(super) fn write(rootfs: &RootfsPlan, archive: impl Write, until: Instant) -> Result<Vec<PathBuf>, Error> {
    let mut changes = Changes {
        rootfs,
        archive: tar::Builder::new(archive),
        links: HashMap::new(),
        gone: Vec::new(),
        todo: VecDeque::new(),
        holes_bytes: 0,
        until,
    };
    changes.directory(&Rc::from(Path::new("")), Below::Shown)?;
    while let Some(Todo { parent, name, above }) = changes.todo.pop_front() {
        changes.directory(&parent.join(name).into(), above)?;
    }
    let written = changes.archive.into_inner().and_then(|mut archive| archive.flush());
    written.map_err(Error::io("writing the changes of", &rootfs.upper))?;
    Ok(changes.gone)
}

struct Changes<'a, W: Write> {
    rootfs: &'a RootfsPlan,
    archive: tar::Builder<W>,
    /// Of files with several names, the one that is in the archive already.
    links: HashMap<(u64, u64), PathBuf>,
    gone: Vec<PathBuf>,
    todo: VecDeque<Todo>,
    holes_bytes: u64,
    until: Instant,
}

/// A directory that is in the archive, and nothing of it yet. A container makes them as deep and as many as it likes.
struct Todo {
    parent: Rc<Path>,
    name: OsString,
    above: Below,
}

/// Ends with an error when the time is over.
struct Timely<R> {
    from: R,
    until: Instant,
}

impl<R: Read> Read for Timely<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if Instant::now() >= self.until {
            return Err(io::ErrorKind::TimedOut.into());
        }
        self.from.read(buffer)
    }
}

/// What the container sees of a directory's namesakes in the layers below. overlay marks only the topmost directory that
/// hides them; those in it hide theirs without a mark.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Below {
    Shown,
    Hidden,
    /// There are none, here and further down.
    Nothing,
}

impl<W: Write> Changes<'_, W> {
    fn directory(&mut self, relative: &Rc<Path>, above: Below) -> Result<(), Error> {
        let dir = self.rootfs.upper.join(relative);
        let mut names = BTreeSet::new();
        for entry in fs::read_dir(&dir).map_err(Error::io("reading", &dir))? {
            names.insert(entry.map_err(Error::io("reading", &dir))?.file_name());
        }
        let is_opaque = || xattr(&dir, OPAQUE).is_some_and(|value| value == b"y");
        let below = match above {
            Below::Shown if is_opaque() => self.hide(relative, &names)?,
            Below::Hidden => self.hide(relative, &names)?,
            Below::Shown | Below::Nothing => above,
        };
        names.into_iter().try_for_each(|name| self.entry(relative, name, below))
    }

    /// What the layers below have in a directory, and the container has not, is gone.
    fn hide(&mut self, relative: &Path, names: &BTreeSet<OsString>) -> Result<Below, Error> {
        let Some(below) = self.below(relative)? else { return Ok(Below::Nothing) };
        self.gone.extend(below.difference(names).map(|name| relative.join(name)));
        Ok(Below::Hidden)
    }

    fn entry(&mut self, parent: &Rc<Path>, name: OsString, below: Below) -> Result<(), Error> {
        if self.is_late() {
            return Err(Error::Late);
        }
        let relative = &parent.join(&name);
        let path = self.rootfs.upper.join(relative);
        let at = || Error::io("writing down", &path);
        let found = fs::symlink_metadata(&path).map_err(at())?;
        let kind = found.file_type();
        if kind.is_char_device() && found.rdev() == 0 {
            self.gone.push(relative.to_owned());
            return Ok(());
        }
        if kind.is_socket() {
            // criu makes those again that somebody listens at.
            return Ok(());
        }
        self.attributes(&path).map_err(at())?;
        let mut header = Header::new_gnu();
        header.set_metadata(&found);
        header.set_size(0);
        if kind.is_dir() {
            self.todo.push_back(Todo { parent: parent.clone(), name, above: below });
            return self.archive.append_data(&mut header, relative, io::empty()).map_err(at());
        }
        if kind.is_file() {
            let written = self.file(relative, &path, &found, header);
            return written.map_err(|error| if self.is_late() { Error::Late } else { at()(error) });
        }
        if kind.is_symlink() {
            let target = fs::read_link(&path).map_err(at())?;
            return self.link(relative, &target, header).map_err(at());
        }
        header.set_device_major(rustix::fs::major(found.rdev())).map_err(at())?;
        header.set_device_minor(rustix::fs::minor(found.rdev())).map_err(at())?;
        self.archive.append_data(&mut header, relative, io::empty()).map_err(at())
    }

    fn file(
        &mut self,
        relative: &Path,
        path: &Path,
        found: &fs::Metadata,
        mut header: Header,
    ) -> io::Result<()> {
        if found.nlink() > 1 {
            if let Some(first) = self.links.get(&(found.dev(), found.ino())) {
                header.set_entry_type(EntryType::Link);
                return self.archive.append_link(&mut header, relative, first);
            }
            self.links.insert((found.dev(), found.ino()), relative.to_owned());
        }
        self.holes_bytes += found.len().saturating_sub(found.blocks() * BLOCK);
        if self.holes_bytes > MAX_HOLES_BYTES {
            return Err(io::Error::other(format!(
                "the files so far have holes of more than {MAX_HOLES_BYTES} bytes, which an archive would have in full"
            )));
        }
        let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits();
        let file = File::options().read(true).custom_flags(flags as i32).open(path)?;
        header.set_size(found.len());
        let content = Timely { from: file.take(found.len()), until: self.until };
        self.archive.append_data(&mut header, relative, content)
    }

    /// Word for word; a path would be made a plain one.
    fn link(&mut self, relative: &Path, target: &Path, mut header: Header) -> io::Result<()> {
        if header.set_link_name_literal(target.as_os_str().as_bytes()).is_ok() {
            return self.archive.append_data(&mut header, relative, io::empty());
        }
        // It is too long for a header, and goes before it as it is.
        self.archive.append_link(&mut header, relative, target)
    }

    fn is_late(&self) -> bool {
        Instant::now() >= self.until
    }

    /// What a file has besides, as a header of its own (pax).
    fn attributes(&mut self, path: &Path) -> io::Result<()> {
        let names = xattr_names(path)?;
        if let Some(name) = names.iter().find(|name| ELSEWHERE.contains(&name.as_str())) {
            return Err(io::Error::other(format!(
                "it has {name}; overlay's redirect_dir and metacopy can't be checkpointed"
            )));
        }
        let kept = names.iter().filter(|name| !name.starts_with(OVERLAY) && *name != SELINUX);
        let kept: Vec<(String, Vec<u8>)> =
            kept.filter_map(|name| Some((format!("SCHILY.xattr.{name}"), xattr(path, name)?))).collect();
        if kept.is_empty() {
            return Ok(());
        }
        self.archive.append_pax_extensions(kept.iter().map(|(name, value)| (name.as_str(), &value[..])))
    }

    /// The names in a directory of the layers below, followed through no link; `None` when no layer has it.
    fn below(&self, relative: &Path) -> Result<Option<BTreeSet<OsString>>, Error> {
        let mut names: Option<BTreeSet<_>> = None;
        let inside = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        for layer in &self.rootfs.lower {
            let read = || -> rustix::io::Result<Vec<OsString>> {
                let root = rustix::fs::openat(CWD, layer, flags, Mode::empty())?;
                let dir = openat2(&root, relative, flags, Mode::empty(), inside)?;
                let entries = rustix::fs::Dir::read_from(&dir)?.collect::<rustix::io::Result<Vec<_>>>()?;
                let name = |entry: &rustix::fs::DirEntry| {
                    std::ffi::OsStr::from_bytes(entry.file_name().to_bytes()).to_owned()
                };
                Ok(entries.iter().map(name).filter(|name| name != "." && name != "..").collect())
            };
            match read() {
                Ok(found) => names.get_or_insert_default().extend(found),
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {}
                Err(errno) => return Err(Error::io("reading", layer.join(relative))(errno.into())),
            }
        }
        Ok(names)
    }
}

fn xattr_names(path: &Path) -> io::Result<Vec<String>> {
    let mut bytes = vec![0; XATTR_MAX];
    let length = match rustix::fs::llistxattr(path, &mut bytes[..]) {
        Ok(length) => length,
        Err(Errno::NOTSUP) => 0,
        Err(errno) => return Err(errno.into()),
    };
    let names = bytes[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty());
    Ok(names.map(|name| String::from_utf8_lossy(name).into_owned()).collect())
}

fn xattr(path: &Path, name: &str) -> Option<Vec<u8>> {
    let mut bytes = vec![0; XATTR_MAX];
    let length = rustix::fs::lgetxattr(path, name, &mut bytes[..]).ok()?;
    bytes.truncate(length);
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{FileType, XattrFlags, makedev, mknodat, setxattr};
    use std::collections::BTreeMap;
    use std::time::Duration;

    fn later() -> Instant {
        Instant::now() + Duration::from_secs(60)
    }

    /// A layer below and a writable one; `None` for those who may not make overlay's marks.
    fn layers() -> Option<(tempfile::TempDir, RootfsPlan)> {
        if !rustix::process::geteuid().is_root() {
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        let (lower, upper) = (dir.path().join("lower"), dir.path().join("upper"));
        for path in [lower.join("hidden/deep"), lower.join("etc"), upper.join("hidden"), upper.join("etc")] {
            fs::create_dir_all(path).unwrap();
        }
        fs::write(lower.join("hidden/old"), "old").unwrap();
        let plan = RootfsPlan { lower: vec![lower], upper, work: dir.path().join("work") };
        Some((dir, plan))
    }

    fn entries(bytes: &[u8]) -> BTreeMap<String, (EntryType, String)> {
        let mut archive = tar::Archive::new(bytes);
        let read = |entry: io::Result<tar::Entry<'_, &[u8]>>| {
            let mut entry = entry.unwrap();
            let link = entry.link_name().unwrap().map(|link| link.display().to_string());
            let mut text = String::new();
            io::Read::read_to_string(&mut entry, &mut text).unwrap();
            let path = entry.path().unwrap().display().to_string();
            (path, (entry.header().entry_type(), link.unwrap_or(text)))
        };
        archive.entries().unwrap().map(read).collect()
    }

    #[test]
    fn what_was_written_is_in_the_archive_and_what_was_removed_is_in_the_list() {
        let Some((_dir, plan)) = layers() else { return };
        let upper = &plan.upper;
        fs::write(upper.join("etc/new"), "text").unwrap();
        fs::hard_link(upper.join("etc/new"), upper.join("etc/other")).unwrap();
        std::os::unix::fs::symlink("/nowhere", upper.join("etc/way")).unwrap();
        fs::write(upper.join("hidden/kept"), "kept").unwrap();
        setxattr(upper.join("hidden"), OPAQUE, b"y", XattrFlags::empty()).unwrap();
        let whiteout = upper.join("etc/gone");
        mknodat(CWD, whiteout, FileType::CharacterDevice, Mode::empty(), makedev(0, 0)).unwrap();
        setxattr(upper.join("etc/new"), "user.note", b"seen", XattrFlags::empty()).unwrap();
        let mut bytes = Vec::new();
        let gone = write(&plan, &mut bytes, later()).unwrap();
        assert_eq!(gone, ["etc/gone", "hidden/deep", "hidden/old"].map(PathBuf::from));
        let entries = entries(&bytes);
        assert_eq!(entries["etc/new"], (EntryType::Regular, "text".into()));
        assert_eq!(entries["etc/other"], (EntryType::Link, "etc/new".into()));
        assert_eq!(entries["etc/way"], (EntryType::Symlink, "/nowhere".into()));
        assert_eq!(entries["hidden/kept"], (EntryType::Regular, "kept".into()));
        assert!(!entries.contains_key("etc/gone") && !entries.contains_key("hidden/old"));
        let text = String::from_utf8_lossy(&bytes);
        assert!(text.contains("SCHILY.xattr.user.note=seen") && !text.contains("trusted.overlay"));
    }

    #[test]
    fn a_deep_tree_is_written_down_to_its_end() {
        let Some((_dir, plan)) = layers() else { return };
        let depth = 1900;
        let mut path = plan.upper.clone();
        for _ in 0..depth {
            path.push("d");
            fs::create_dir(&path).unwrap();
        }
        fs::write(path.join("f"), "deep").unwrap();
        let mut bytes = Vec::new();
        assert!(write(&plan, &mut bytes, later()).unwrap().is_empty());
        let entries = entries(&bytes);
        assert_eq!(entries[&format!("{}f", "d/".repeat(depth))], (EntryType::Regular, "deep".into()));
        fs::remove_file(path.join("f")).unwrap();
        while path != plan.upper {
            fs::remove_dir(&path).unwrap();
            path.pop();
        }
    }

    #[test]
    fn a_link_leads_word_for_word_where_it_led() {
        let Some((_dir, plan)) = layers() else { return };
        let long = format!("http://x//{}/", "y/".repeat(100));
        for (name, target) in [("short", "http://x/./"), ("long", &long)] {
            std::os::unix::fs::symlink(target, plan.upper.join(name)).unwrap();
        }
        let mut bytes = Vec::new();
        write(&plan, &mut bytes, later()).unwrap();
        let mut archive = tar::Archive::new(&bytes[..]);
        let links = archive
            .entries()
            .unwrap()
            .filter_map(|entry| Some(entry.unwrap().link_name_bytes()?.into_owned()));
        assert_eq!(links.collect::<Vec<_>>(), [long.as_bytes(), b"http://x/./"]);
    }

    /// It takes a few bytes on the disk, and would fill another one.
    #[test]
    fn a_file_that_is_mostly_holes_is_refused() {
        let Some((_dir, plan)) = layers() else { return };
        let check = |bytes: u64| {
            File::create(plan.upper.join("sparse")).unwrap().set_len(bytes).unwrap();
            write(&plan, io::sink(), later())
        };
        assert!(check(1 << 20).is_ok());
        let refused = crate::error::chain(&check(16 << 30).unwrap_err());
        assert!(refused.contains("sparse") && refused.contains("holes"), "{refused}");
    }

    #[test]
    fn time_is_kept_within_a_file_as_well() {
        struct Slow;
        impl Write for Slow {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                std::thread::sleep(Duration::from_millis(20));
                Ok(bytes.len())
            }

            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let Some((_dir, plan)) = layers() else { return };
        File::create(plan.upper.join("hidden/large")).unwrap().set_len(2 << 20).unwrap();
        let written = write(&plan, Slow, Instant::now() + Duration::from_millis(500));
        assert!(matches!(written, Err(Error::Late)), "{written:?}");
    }

    /// As `rm -rf /app; mkdir -p /app/lib` leaves it: only the first of both has a mark.
    #[test]
    fn what_a_directory_hid_that_was_made_anew_stays_gone_further_down() {
        let Some((_dir, plan)) = layers() else { return };
        let (lower, upper) = (&plan.lower[0], &plan.upper);
        for path in ["app/lib/deep/er", "app/bin", "app/file"] {
            fs::create_dir_all(lower.join(path)).unwrap();
        }
        for path in ["app/lib/old", "app/lib/deep/old", "app/bin/tool", "etc/kept"] {
            fs::write(lower.join(path), "old").unwrap();
        }
        for path in ["app/lib/deep", "app/new/er"] {
            fs::create_dir_all(upper.join(path)).unwrap();
        }
        fs::write(upper.join("app/file"), "new").unwrap();
        setxattr(upper.join("app"), OPAQUE, b"y", XattrFlags::empty()).unwrap();
        let gone = write(&plan, Vec::new(), later()).unwrap();
        let expected = ["app/bin", "app/lib/old", "app/lib/deep/er", "app/lib/deep/old"];
        assert_eq!(gone, expected.map(PathBuf::from));
    }

    #[test]
    fn a_way_out_of_the_layers_is_not_followed_and_time_is_kept() {
        let Some((dir, plan)) = layers() else { return };
        fs::create_dir(dir.path().join("outside")).unwrap();
        fs::write(dir.path().join("outside/secret"), "x").unwrap();
        fs::remove_dir_all(plan.lower[0].join("hidden")).unwrap();
        std::os::unix::fs::symlink(dir.path().join("outside"), plan.lower[0].join("hidden")).unwrap();
        setxattr(plan.upper.join("hidden"), OPAQUE, b"y", XattrFlags::empty()).unwrap();
        assert!(write(&plan, Vec::new(), later()).unwrap().is_empty());
        assert!(matches!(write(&plan, Vec::new(), Instant::now()), Err(Error::Late)));
        let redirect = ELSEWHERE[0];
        setxattr(plan.upper.join("etc"), redirect, b"/x", XattrFlags::empty()).unwrap();
        let refused = write(&plan, Vec::new(), later()).unwrap_err();
        assert!(crate::error::chain(&refused).contains(redirect), "{refused}");
    }
}
