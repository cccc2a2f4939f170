//! What the daemon knows of each sandbox and container, on a tmpfs so that it outlives the daemon.
//!
//! A directory each: `request` (what was asked, as it came), `plan` (what was decided) and `life` (how far
//! it is). Written by temporary file and rename, so a reader finds the old or the new; never synced, since
//! a reboot takes away all that it tells of.

use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use prost::Message;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Where sandboxes are kept.
#[derive(Debug, Clone)]
pub struct Store {
    sandboxes: PathBuf,
}

/// One sandbox's or container's directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    dir: PathBuf,
}

/// What could not be written or read.
#[derive(Debug, thiserror::Error)]
#[error("{doing} {}", path.display())]
pub struct Error {
    doing: &'static str,
    path: PathBuf,
    source: io::Error,
}

impl Store {
    /// # Errors
    /// When the directories cannot be made.
    pub fn open(run: &Path) -> Result<Self, Error> {
        let sandboxes = run.join("sandboxes");
        make_dir(&sandboxes)?;
        Ok(Self { sandboxes })
    }

    pub fn sandbox(&self, sandbox_id: &str) -> Record {
        Record { dir: self.sandboxes.join(sandbox_id) }
    }

    /// The ids of all sandboxes that left something.
    pub fn list(&self) -> Vec<String> {
        names(&self.sandboxes)
    }
}

impl Record {
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    pub fn container(&self, container_id: &str) -> Record {
        Record { dir: self.dir.join("containers").join(container_id) }
    }

    /// The ids of a sandbox's containers that left something.
    pub fn containers(&self) -> Vec<String> {
        names(&self.dir.join("containers"))
    }

    /// Makes the directory and those in it that are named.
    ///
    /// # Errors
    /// When one cannot be made.
    pub fn make(&self, inner: &[&str]) -> Result<(), Error> {
        make_dir(&self.dir)?;
        inner.iter().try_for_each(|name| make_dir(&self.dir.join(name)))
    }

    /// Takes the directory away with all in it. One that is gone is fine.
    ///
    /// # Errors
    /// When something in it cannot be removed; a mount, perhaps.
    pub fn unmake(&self) -> Result<(), Error> {
        match fs::remove_dir_all(&self.dir) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(Error { doing: "removing", path: self.dir.clone(), source })
            }
            _ => Ok(()),
        }
    }

    /// # Errors
    /// When the file cannot be written.
    pub fn write_request(&self, request: &impl Message) -> Result<(), Error> {
        self.write_message("request", request)
    }

    /// # Errors
    /// When the file cannot be written.
    pub fn write_message(&self, name: &str, message: &impl Message) -> Result<(), Error> {
        self.write(name, &message.encode_to_vec())
    }

    /// # Errors
    /// When the file is not there or is not such a request.
    pub fn read_request<M: Message + Default>(&self) -> Result<M, Error> {
        self.read_message("request")
    }

    /// # Errors
    /// When the file is not there or is not such a message.
    pub fn read_message<M: Message + Default>(&self, name: &str) -> Result<M, Error> {
        let (bytes, path) = self.read(name)?;
        M::decode(&bytes[..]).map_err(|error| Error {
            doing: "decoding",
            path,
            source: io::Error::other(error),
        })
    }

    /// # Errors
    /// When the file cannot be written.
    pub fn write_json(&self, name: &str, value: &impl Serialize) -> Result<(), Error> {
        let bytes = serde_json::to_vec(value);
        let bytes = bytes.map_err(|error| self.error("encoding", name, io::Error::other(error)))?;
        self.write(name, &bytes)
    }

    /// # Errors
    /// When the file is not there or does not hold such a value.
    pub fn read_json<T: DeserializeOwned>(&self, name: &str) -> Result<T, Error> {
        let (bytes, path) = self.read(name)?;
        serde_json::from_slice(&bytes).map_err(|error| Error {
            doing: "decoding",
            path,
            source: error.into(),
        })
    }

    /// # Errors
    /// When the file cannot be written.
    pub fn write(&self, name: &str, bytes: &[u8]) -> Result<(), Error> {
        let temporary = self.dir.join(format!(".{}.new", name.replace('/', "-")));
        let written = fs::write(&temporary, bytes).and_then(|()| fs::rename(&temporary, self.dir.join(name)));
        written.map_err(|source| self.error("writing", name, source))
    }

    fn read(&self, name: &str) -> Result<(Vec<u8>, PathBuf), Error> {
        let path = self.dir.join(name);
        match fs::read(&path) {
            Ok(bytes) => Ok((bytes, path)),
            Err(source) => Err(Error { doing: "reading", path, source }),
        }
    }

    fn error(&self, doing: &'static str, name: &str, source: io::Error) -> Error {
        Error { doing, path: self.dir.join(name), source }
    }
}

impl Error {
    pub fn is_missing(&self) -> bool {
        self.source.kind() == io::ErrorKind::NotFound
    }
}

fn make_dir(path: &Path) -> Result<(), Error> {
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.map_err(|source| Error { doing: "making", path: path.into(), source })
}

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::v1;

    #[test]
    fn what_is_written_is_read_and_taken_away_twice() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let record = store.sandbox("s").container("c");
        record.make(&["bundle"]).unwrap();
        record.write_json("life", &[1, 2]).unwrap();
        record.write("bundle/config.json", b"{}").unwrap();
        let request = v1::StopContainerRequest { container_id: "c".into(), timeout: 3 };
        record.write_request(&request).unwrap();
        assert_eq!(record.read_json::<Vec<i32>>("life").unwrap(), [1, 2]);
        assert_eq!(record.read_request::<v1::StopContainerRequest>().unwrap(), request);
        assert!(record.read_json::<i32>("plan").unwrap_err().is_missing());
        assert_eq!(store.list(), ["s"]);
        assert_eq!(store.sandbox("s").containers(), ["c"]);
        store.sandbox("s").unmake().unwrap();
        store.sandbox("s").unmake().unwrap();
        assert!(store.list().is_empty());
    }
}
