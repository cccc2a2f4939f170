//! Where an image is or is to go, in containers/image's words: `docker://NAME`, `oci:DIR[:REF]`,
//! `oci-archive:FILE[:REF]`, `docker-archive:FILE[:NAME]` (containers-transports(5)).

use std::fmt;
use std::path::PathBuf;

/// One place, which may have nothing yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Location {
    Registry {
        name: String,
    },
    File {
        kind: FileKind,
        path: PathBuf,
        /// Which image of several, or what it is to be called there.
        reference: Option<String>,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileKind {
    Layout,
    OciArchive,
    DockerArchive,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no place: write docker://NAME, oci:DIR[:REF], oci-archive:FILE[:REF] or docker-archive:FILE[:NAME]"
)]
pub struct InvalidLocation(String);

impl Location {
    /// Reads `transport:rest`; None when the text names no transport, so that it may be a plain name.
    pub fn parse(text: &str) -> Option<Result<Location, InvalidLocation>> {
        let (transport, rest) = text.split_once(':')?;
        let kind = match transport {
            "docker" => {
                let name = rest.strip_prefix("//").filter(|name| !name.is_empty());
                let location = name.map(|name| Location::Registry { name: name.to_owned() });
                return Some(location.ok_or_else(|| InvalidLocation(text.to_owned())));
            }
            "oci" => FileKind::Layout,
            "oci-archive" => FileKind::OciArchive,
            "docker-archive" => FileKind::DockerArchive,
            _ => return None,
        };
        let (path, reference) = match rest.split_once(':') {
            Some((path, reference)) => (path, Some(reference.to_owned())),
            None => (rest, None),
        };
        if path.is_empty() || reference.as_ref().is_some_and(String::is_empty) {
            return Some(Err(InvalidLocation(text.to_owned())));
        }
        Some(Ok(Location::File { kind, path: PathBuf::from(path), reference }))
    }

    /// The same, of a text that must name a transport.
    ///
    /// # Errors
    /// When it does not, or has nothing after it.
    pub fn read(text: &str) -> Result<Location, InvalidLocation> {
        Location::parse(text).unwrap_or_else(|| Err(InvalidLocation(text.to_owned())))
    }
}

impl FileKind {
    pub fn transport(self) -> &'static str {
        match self {
            FileKind::Layout => "oci",
            FileKind::OciArchive => "oci-archive",
            FileKind::DockerArchive => "docker-archive",
        }
    }
}

impl fmt::Display for Location {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Location::Registry { name } => write!(out, "docker://{name}"),
            Location::File { kind, path, reference } => {
                write!(out, "{}:{}", kind.transport(), path.display())?;
                reference.as_ref().map_or(Ok(()), |reference| write!(out, ":{reference}"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_a_transport_and_what_it_needs() {
        let file = |kind, path: &str, reference: Option<&str>| Location::File {
            kind,
            path: path.into(),
            reference: reference.map(str::to_owned),
        };
        for (text, place) in [
            ("docker://a.io/b:1", Location::Registry { name: "a.io/b:1".to_owned() }),
            ("oci:/d", file(FileKind::Layout, "/d", None)),
            ("oci:d:v1", file(FileKind::Layout, "d", Some("v1"))),
            ("oci-archive:/f.tar:a/b:1", file(FileKind::OciArchive, "/f.tar", Some("a/b:1"))),
            ("docker-archive:f", file(FileKind::DockerArchive, "f", None)),
        ] {
            assert_eq!(Location::read(text).as_ref(), Ok(&place), "{text}");
            assert_eq!(place.to_string(), text);
        }
        for bad in ["docker:a", "docker://", "oci:", "oci::x", "oci:d:", "docker-archive:"] {
            assert!(Location::parse(bad).unwrap().is_err(), "{bad}");
        }
        for name in ["busybox", "busybox:1", "a.io:5000/b", "dir:/x"] {
            assert_eq!(Location::parse(name), None, "{name}");
        }
    }
}
