//! Where mounts come from, and what the host's own mounts pass on.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use conmon_protocol::Seen;
use proto::v1;

use super::super::Invalid;
use super::{MountSource, Propagation, SourceKind, unreachable};

/// Whether an image is to be mounted, not something of the host's.
pub(in super::super) fn is_image(mount: &v1::Mount) -> bool {
    mount.image.as_ref().is_some_and(|image| !image.image.is_empty())
}

pub(super) fn mount_sources(mounts: &[v1::Mount], seen: Vec<Seen>) -> Result<Vec<MountSource>, Invalid> {
    let private = v1::MountPropagation::PropagationPrivate as i32;
    let table =
        if mounts.iter().any(|mount| mount.propagation != private) { mount_table() } else { Vec::new() };
    let sources = mounts.iter().zip(seen).enumerate();
    sources.map(|(index, (mount, seen))| mount_source(index, mount, seen, &table)).collect()
}

fn mount_source(
    index: usize,
    mount: &v1::Mount,
    seen: Seen,
    table: &[MountPoint],
) -> Result<MountSource, Invalid> {
    if is_image(mount) {
        // Its source is where it will be mounted.
        let (path, propagation) = (PathBuf::new(), Propagation::Private);
        return Ok(MountSource { path, kind: SourceKind::Other, propagation });
    }
    let (path, kind) = match seen {
        Seen::Directory(path) => (path, SourceKind::Directory),
        Seen::Other(path) => (path, SourceKind::Other),
        Seen::Missing => (PathBuf::from(&mount.host_path), SourceKind::Missing),
        Seen::Failed(number) => {
            let error = io::Error::from_raw_os_error(number);
            return Err(unreachable(&format!("mounts[{index}].host_path"), &mount.host_path, error));
        }
    };
    Ok(MountSource { propagation: propagation_of(&path, table), path, kind })
}

/// Of the mount that a path of the host lies on.
pub fn propagation(path: &Path) -> Propagation {
    propagation_of(path, &mount_table())
}

/// A line of /proc/self/mountinfo, as far as it matters here.
#[derive(Debug)]
struct MountPoint {
    path: PathBuf,
    propagation: Propagation,
}

fn mount_table() -> Vec<MountPoint> {
    mount_points(&fs::read("/proc/self/mountinfo").unwrap_or_default())
}

/// A place whose name is no UTF-8, as any pod may make one that mounts on the host, hides no other.
fn mount_points(table: &[u8]) -> Vec<MountPoint> {
    String::from_utf8_lossy(table).lines().filter_map(mount_point).collect()
}

/// proc(5): the fifth field is the mount point; optional fields follow the sixth up to a lone hyphen.
fn mount_point(line: &str) -> Option<MountPoint> {
    let mut fields = line.split(' ');
    let path = fields.nth(4)?;
    let optional: Vec<&str> = fields.skip(1).take_while(|field| *field != "-").collect();
    let has = |prefix: &str| optional.iter().any(|field| field.starts_with(prefix));
    let propagation = match () {
        () if has("shared:") => Propagation::Shared,
        () if has("master:") => Propagation::Slave,
        () => Propagation::Private,
    };
    Some(MountPoint { path: unescape(path), propagation })
}

/// The kernel writes blank, tab, newline and backslash as a backslash and three octal digits.
fn unescape(text: &str) -> PathBuf {
    let escapes = [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")];
    let plain = escapes.iter().fold(text.to_owned(), |text, (code, plain)| text.replace(code, plain));
    PathBuf::from(plain)
}

/// Of the last mounted among the deepest mounts that hold the path: that is the one a lookup ends on.
fn propagation_of(path: &Path, table: &[MountPoint]) -> Propagation {
    let holding = table.iter().filter(|mount| path.starts_with(&mount.path));
    let deepest = holding.max_by_key(|mount| mount.path.components().count());
    deepest.map_or(Propagation::Private, |mount| mount.propagation)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mountinfo_line_gives_its_path_and_propagation() {
        let check = |line: &str, path: &str, propagation: Propagation| {
            let found = mount_point(line).unwrap();
            assert_eq!((found.path, found.propagation), (PathBuf::from(path), propagation), "{line}");
        };
        check("31 23 0:28 / /a\\040b rw - tmpfs tmpfs rw", "/a b", Propagation::Private);
        check("31 23 0:28 / /x rw shared:7 - ext4 /dev/sda rw", "/x", Propagation::Shared);
        check("31 23 0:28 / /x rw master:7 - ext4 /dev/sda rw", "/x", Propagation::Slave);
        check("31 23 0:28 / /x rw shared:9 master:7 - ext4 /dev/sda rw", "/x", Propagation::Shared);
    }

    #[test]
    fn a_name_that_is_no_text_hides_no_other_mount() {
        let table =
            b"31 23 0:28 / /\xff rw - tmpfs tmpfs rw\n32 23 0:29 / /x rw shared:7 - ext4 /dev/sda rw\n";
        assert_eq!(propagation_of(Path::new("/x/y"), &mount_points(table)), Propagation::Shared);
    }
}
