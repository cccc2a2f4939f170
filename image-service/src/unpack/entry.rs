//! One entry of an archive, its names made plain.

use super::error::{Error, MAX_NAME, Refusal};

/// What an archive says of one file. `path` and the targets of hard links are normalised: relative, no
/// `.` or `..`, no doubled slash; empty means the root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) path: Vec<u8>,
    pub(crate) kind: Kind,
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mtime: Time,
    pub(crate) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Kind {
    File {
        size: u64,
    },
    Directory,
    /// The target is kept as it is: it means something only inside a container.
    Symlink {
        target: Vec<u8>,
    },
    HardLink {
        target: Vec<u8>,
    },
    Device {
        character: bool,
        major: u32,
        minor: u32,
    },
    Fifo,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Time {
    pub(crate) seconds: i64,
    pub(crate) nanoseconds: u32,
}

/// Makes a name of the archive relative to the layer's root.
pub(crate) fn normalise(name: &[u8]) -> Result<Vec<u8>, Error> {
    let refuse = |why| Err(Error::refused(name, why));
    if name.len() > MAX_NAME {
        return refuse(Refusal::LongName);
    }
    if name.contains(&0) {
        return refuse(Refusal::Nul);
    }
    let mut path = Vec::with_capacity(name.len());
    for part in name.split(|b| *b == b'/') {
        match part {
            b"" | b"." => {}
            b".." => return refuse(Refusal::Upwards),
            part => {
                if !path.is_empty() {
                    path.push(b'/');
                }
                path.extend_from_slice(part);
            }
        }
    }
    Ok(path)
}

/// The directory and the last part of a normalised path that is not the root.
pub(crate) fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|b| *b == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (&[], path),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_relative_to_the_root() {
        let check = |name: &str, path: &str| assert_eq!(normalise(name.as_bytes()).unwrap(), path.as_bytes());
        check("./", "");
        check("/", "");
        check("a//b/./c/", "a/b/c");
        check("/etc/passwd", "etc/passwd");
        check("...", "...");
        for bad in ["..", "../a", "a/../b", "a/..", "/../a", "a\0b"] {
            assert!(normalise(bad.as_bytes()).is_err(), "{bad:?}");
        }
        assert!(normalise(&[b'a'; 65536]).is_err());
    }

    #[test]
    fn a_path_splits_at_its_last_slash() {
        assert_eq!(split(b"a/b/c"), (&b"a/b"[..], &b"c"[..]));
        assert_eq!(split(b"a"), (&b""[..], &b"a"[..]));
    }
}
