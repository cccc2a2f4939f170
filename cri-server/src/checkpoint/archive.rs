//! A checkpoint as one file: folder to tar, and tar to folder. Whoever wrote the tar may mean harm, so nothing of it
//! becomes anything but a regular file of a known place, in a folder that nobody else has.

use std::fs::{self, File};
use std::io::{self, BufReader, Read as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Component, Path, PathBuf};
use std::time::Instant;

use image_service::unpack::{Limits, files};
use rustix::fs::OFlags;

use super::{BIND_MOUNTS, CONFIG_DUMP, DELETED_FILES, Error, IMAGES, ROOTFS_DIFF, SPEC_DUMP};

/// In this order, so that what is small and telling comes first. The rest is criu's.
const FIRST: [&str; 4] = [CONFIG_DUMP, SPEC_DUMP, BIND_MOUNTS, DELETED_FILES];
/// Files that criu writes beside its images.
const CRIUS: [&str; 2] = ["dump.log", "stats-dump"];
/// criu writes some files for each process; no container has so many.
const MAX_FILES: usize = 100_000;
/// What a checkpoint may hold in all: the memory of the largest nodes.
const MAX_BYTES: u64 = 4 << 40;
/// No text of a checkpoint is longer.
const MAX_TEXT: u64 = 16 << 20;

/// Writes the tar, readable by nobody else: what is in memory is nobody else's.
pub(super) fn pack(dir: &Path, archive: &Path, until: Instant) -> Result<(), Error> {
    let at = || Error::io("writing", archive);
    let file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(archive).map_err(at())?;
    let mut tar = tar::Builder::new(io::BufWriter::with_capacity(256 << 10, file));
    for name in FIRST.into_iter().chain(CRIUS).chain([ROOTFS_DIFF]) {
        add(&mut tar, dir, Path::new(name), until)?;
    }
    let mut header = header();
    header.set_entry_type(tar::EntryType::Directory);
    header.set_mode(0o700);
    header.set_size(0);
    tar.append_data(&mut header, format!("{IMAGES}/"), io::empty()).map_err(at())?;
    for name in images(dir)? {
        add(&mut tar, dir, &Path::new(IMAGES).join(name), until)?;
    }
    let buffered = tar.into_inner().map_err(at())?;
    let file = buffered.into_inner().map_err(|error| error.into_error()).map_err(at())?;
    file.sync_all().map_err(at())
}

fn add(
    tar: &mut tar::Builder<io::BufWriter<File>>,
    dir: &Path,
    name: &Path,
    until: Instant,
) -> Result<(), Error> {
    if Instant::now() >= until {
        return Err(Error::Late);
    }
    let path = dir.join(name);
    let file = match open(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        opened => opened.map_err(Error::io("opening", &path))?,
    };
    let added = file.metadata().and_then(|found| {
        let mut header = header();
        header.set_size(found.len());
        tar.append_data(&mut header, name, file.take(found.len()))
    });
    added.map_err(Error::io("writing down", &path))
}

fn header() -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_mode(0o600);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header
}

/// criu's images in a checkpoint's folder, whoever made that: all of them regular files, so that criu opens nothing else.
pub(super) fn images(dir: &Path) -> Result<Vec<std::ffi::OsString>, Error> {
    let folder = dir.join(IMAGES);
    let at = || Error::io("reading", &folder);
    let mut names = Vec::new();
    if !fs::symlink_metadata(&folder).map_err(at())?.is_dir() {
        return Err(Error::damaged(dir, format!("{IMAGES} is no folder")));
    }
    for entry in fs::read_dir(&folder).map_err(at())? {
        let entry = entry.map_err(at())?;
        if !entry.file_type().map_err(at())?.is_file() {
            let why = format!("{IMAGES}/{} is no regular file", entry.file_name().to_string_lossy());
            return Err(Error::damaged(dir, why));
        }
        names.push(entry.file_name());
        if names.len() > MAX_FILES {
            return Err(Error::damaged(dir, format!("it has more than {MAX_FILES} files")));
        }
    }
    names.sort();
    Ok(names)
}

/// Opens a file of a checkpoint's folder, if it is a regular one.
pub(super) fn open(path: &Path) -> io::Result<File> {
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC).bits();
    let file = File::options().read(true).custom_flags(flags as i32).open(path)?;
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(io::Error::other("it is no regular file")),
    }
}

/// Reads a text of a checkpoint's folder; none is an empty answer.
pub(super) fn read(path: &Path) -> Result<Option<Vec<u8>>, Error> {
    let at = || Error::io("reading", path);
    let file = match open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened.map_err(at())?,
    };
    let mut bytes = Vec::new();
    file.take(MAX_TEXT + 1).read_to_end(&mut bytes).map_err(at())?;
    if bytes.len() as u64 > MAX_TEXT {
        return Err(Error::damaged(path, format!("it is longer than {MAX_TEXT} bytes")));
    }
    Ok(Some(bytes))
}

/// Unpacks into an empty folder of our own.
pub(super) fn unpack(archive: &Path, dir: &Path) -> Result<(), Error> {
    let damaged = |why: String| Error::damaged(archive, why);
    let file = open(archive).map_err(Error::io("opening", archive))?;
    fs::DirBuilder::new()
        .mode(0o700)
        .create(dir.join(IMAGES))
        .map_err(Error::io("making", dir.join(IMAGES)))?;
    let limits = Limits { entries: MAX_FILES as u64, ..Limits::new(MAX_BYTES) };
    // Folders are ours; links and devices are nobody's.
    let take = |path: &Path| place(path).map(|place| create(&dir.join(place))).transpose();
    files(BufReader::with_capacity(256 << 10, file), limits, take)
        .map_err(|error| damaged(crate::error::chain(&error)))?;
    if !dir.join(CONFIG_DUMP).exists() || !dir.join(IMAGES).join("inventory.img").exists() {
        let why =
            format!("it is no checkpoint of a container: it lacks {CONFIG_DUMP} or {IMAGES}/inventory.img");
        return Err(damaged(why));
    }
    Ok(())
}

fn create(path: &Path) -> io::Result<File> {
    fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
}

/// Where an entry goes, if it is of a checkpoint.
fn place(path: &Path) -> Option<PathBuf> {
    let parts = path.components().filter(|part| *part != Component::CurDir);
    let names: Option<Vec<&str>> = parts
        .map(|part| match part {
            Component::Normal(name) => name.to_str(),
            _ => None,
        })
        .collect();
    match names?[..] {
        [name] if FIRST.contains(&name) || CRIUS.contains(&name) || name == ROOTFS_DIFF => Some(name.into()),
        [IMAGES, name] => Some(Path::new(IMAGES).join(name)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn raw(entries: &[(&str, tar::EntryType, &str)]) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut tar = tar::Builder::new(file.reopen().unwrap());
        for (path, kind, text) in entries {
            let mut header = header();
            header.set_entry_type(*kind);
            header.as_gnu_mut().unwrap().name[..path.len()].copy_from_slice(path.as_bytes());
            if *kind == tar::EntryType::Symlink {
                header.set_link_name(text).unwrap();
            }
            let text = if *kind == tar::EntryType::Regular { *text } else { "" };
            header.set_size(text.len() as u64);
            header.set_cksum();
            tar.append(&header, text.as_bytes()).unwrap();
        }
        tar.finish().unwrap();
        file
    }

    const FILE: tar::EntryType = tar::EntryType::Regular;
    const WHOLE: [(&str, tar::EntryType, &str); 2] =
        [("config.dump", FILE, "{}"), ("checkpoint/inventory.img", FILE, "x")];

    #[test]
    fn what_is_packed_is_unpacked() {
        let (from, to, out) =
            (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::create_dir(from.path().join(IMAGES)).unwrap();
        for name in ["config.dump", "spec.dump", "rootfs-diff.tar", "stats-dump", "checkpoint/inventory.img"]
        {
            fs::write(from.path().join(name), name).unwrap();
        }
        let archive = out.path().join("a.tar");
        pack(from.path(), &archive, Instant::now() + Duration::from_secs(60)).unwrap();
        unpack(&archive, to.path()).unwrap();
        for name in ["config.dump", "spec.dump", "rootfs-diff.tar", "stats-dump", "checkpoint/inventory.img"]
        {
            assert_eq!(fs::read_to_string(to.path().join(name)).unwrap(), name);
        }
        let late = pack(from.path(), &out.path().join("b.tar"), Instant::now()).unwrap_err();
        assert!(matches!(late, Error::Late), "{late}");
    }

    #[test]
    fn an_archive_gets_nothing_but_its_own_files() {
        let outer = tempfile::tempdir().unwrap();
        for (path, kind, text) in [
            ("/escaped", FILE, "x"),
            ("checkpoint/deep/er", FILE, "x"),
            ("checkpoint/link", tar::EntryType::Symlink, "/etc/shadow"),
            ("rootfs-diff.tar", tar::EntryType::Symlink, "/etc/shadow"),
            ("checkpoint/device", tar::EntryType::Char, ""),
            ("unknown", FILE, "x"),
        ] {
            let dir = outer.path().join("dir");
            fs::create_dir(&dir).unwrap();
            let archive = raw(&[&WHOLE[..], &[(path, kind, text)]].concat());
            unpack(archive.path(), &dir).unwrap();
            let names: Vec<_> = fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().file_name()).collect();
            assert_eq!(names.len(), 2, "{path}: {names:?}");
            assert_eq!(images(&dir).unwrap(), ["inventory.img"], "{path}");
            fs::remove_dir_all(&dir).unwrap();
            assert_eq!(fs::read_dir(outer.path()).unwrap().count(), 0, "{path} is outside");
        }
    }

    /// A sparse file: a few bytes on the disk, told to be a name of a terabyte.
    #[test]
    fn a_name_without_end_is_refused_and_not_read() {
        let (dir, archive) = (tempfile::tempdir().unwrap(), tempfile::NamedTempFile::new().unwrap());
        let mut endless = header();
        endless.set_entry_type(tar::EntryType::GNULongName);
        endless.set_size(1 << 40);
        endless.set_cksum();
        fs::write(archive.path(), endless.as_bytes()).unwrap();
        archive.as_file().set_len(1 << 40).unwrap();
        let refused = unpack(archive.path(), dir.path()).unwrap_err().to_string();
        assert!(refused.contains("the name is longer"), "{refused}");
    }

    #[test]
    fn what_is_no_checkpoint_is_refused() {
        let check = |entries: &[(&str, tar::EntryType, &str)], words: &str| {
            let dir = tempfile::tempdir().unwrap();
            let error = unpack(raw(entries).path(), dir.path()).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        };
        check(&WHOLE[..1], "is no checkpoint");
        check(&WHOLE[1..], "is no checkpoint");
        check(&[WHOLE[0], WHOLE[0], WHOLE[1]], "config.dump\": File exists");
        check(&[WHOLE[0], ("../escaped", FILE, "x"), WHOLE[1]], "goes up");
        check(&[WHOLE[0], ("checkpoint/../../escaped", FILE, "x"), WHOLE[1]], "goes up");
        let (dir, junk) = (tempfile::tempdir().unwrap(), tempfile::NamedTempFile::new().unwrap());
        fs::write(junk.path(), [7; 4096]).unwrap();
        assert!(unpack(junk.path(), dir.path()).is_err());
    }

    #[test]
    fn a_folder_with_a_link_among_its_images_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join(IMAGES)).unwrap();
        std::os::unix::fs::symlink("/etc/shadow", dir.path().join(IMAGES).join("pages-1.img")).unwrap();
        let error = images(dir.path()).unwrap_err().to_string();
        assert!(error.contains("pages-1.img is no regular file"), "{error}");
        std::os::unix::fs::symlink("/etc/passwd", dir.path().join(CONFIG_DUMP)).unwrap();
        assert!(read(&dir.path().join(CONFIG_DUMP)).is_err());
    }
}
