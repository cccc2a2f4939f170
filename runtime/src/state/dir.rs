//! A container's directory under the runtime's root: its record, its filter, its limits. A reader finds each whole.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use rustix::buffer::spare_capacity;

use super::Record;
use crate::later::Later;
use crate::seccomp::Filter;
use crate::{Error, spec};

const RECORD: &str = "state.json";
const RECORD_NEW: &str = "state.json.new";
const FILTER: &str = "seccomp.bpf";
const NETWORK: &str = "netns";
const NOTIFY: &str = "notify";
const RESOURCES: &str = "resources.json";
const RESOURCES_NEW: &str = "resources.json.new";
/// No record, configuration or filter comes near.
const MAX_READ: u64 = 16 << 20;
const FIRST_READ: usize = 32 << 10;

/// A container's directory.
#[derive(Debug, Clone)]
pub(crate) struct StateDir {
    pub(crate) path: PathBuf,
    pub(super) id: String,
}

impl StateDir {
    /// An id becomes a directory's name, so it may hold only what runc allows.
    pub(crate) fn of(root: &Path, id: &str) -> Result<StateDir, Error> {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '+' | '-' | '.');
        if id.is_empty() || id.len() > 255 || !id.chars().all(plain) || matches!(id, "." | "..") {
            return Err(Error::invalid(
                "container id",
                format!("{id:?} may hold only letters, digits and _+-."),
            ));
        }
        Ok(StateDir { path: root.join(id), id: id.to_owned() })
    }

    pub(crate) fn make(&self) -> Result<(), Error> {
        let mut builder = fs::DirBuilder::new();
        builder.mode(0o700);
        match builder.create(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let parent = self.path.parent().unwrap_or(Path::new("/"));
                builder.recursive(true).create(parent).map_err(|e| self.step("making", e))?;
                builder.recursive(false).create(&self.path).map_err(|e| self.step("making", e))
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                Err(Error::Exists { id: self.id.clone() })
            }
            other => other.map_err(|e| self.step("making", e)),
        }
    }

    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    /// Where the container's network namespace is held while interfaces move into it.
    pub(crate) fn pinned_network(&self) -> PathBuf {
        self.path.join(NETWORK)
    }

    /// A directory of the container's own, which it finds at another place: its users may go through it.
    pub(crate) fn make_notify(&self) -> Result<(), Error> {
        let path = self.notify();
        fs::create_dir(&path)
            .and_then(|()| fs::set_permissions(&path, fs::Permissions::from_mode(0o755)))
            .map_err(|e| Error::step("making", path.display().to_string(), e))
    }

    pub(crate) fn notify(&self) -> PathBuf {
        self.path.join(NOTIFY)
    }

    pub(crate) fn exists(&self) -> bool {
        self.path.exists()
    }

    /// The first record of a new directory. Whoever dies in the middle of it has made nothing else.
    pub(crate) fn write_first(&self, record: &Record, later: &Later) -> Result<(), Error> {
        self.write_file(RECORD, &self.encode(record)?, later)
    }

    /// In place of the one that is there; a reader finds either.
    pub(crate) fn write(&self, record: &Record, later: &Later) -> Result<(), Error> {
        self.write_file(RECORD_NEW, &self.encode(record)?, later)?;
        fs::rename(self.path.join(RECORD_NEW), self.path.join(RECORD)).map_err(|e| self.step("renaming", e))
    }

    fn encode(&self, record: &Record) -> Result<Vec<u8>, Error> {
        let mut bytes = Vec::with_capacity(4096);
        serde_json::to_writer(&mut bytes, record)
            .map_err(|source| Error::Config { path: self.path.join(RECORD), source })?;
        Ok(bytes)
    }

    fn write_file(&self, name: &str, bytes: &[u8], later: &Later) -> Result<(), Error> {
        let path = self.path.join(name);
        let mut options = fs::OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600);
        options
            .open(&path)
            .and_then(|mut file| {
                io::Write::write_all(&mut file, bytes)?;
                later.close(file);
                Ok(())
            })
            .map_err(|e| Error::step("writing", path.display().to_string(), e))
    }

    pub(crate) fn read(&self) -> Result<Record, Error> {
        match self.read_if_there()? {
            Some(record) => Ok(record),
            None => Err(Error::NotFound { id: self.id.clone() }),
        }
    }

    /// A directory without a record is that of a create which died before it had made anything else.
    pub(crate) fn read_if_there(&self) -> Result<Option<Record>, Error> {
        let path = self.path.join(RECORD);
        let bytes = match fs::File::open(&path).and_then(|mut file| read_whole(&mut file)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other.map_err(|e| self.step("reading the record of", e))?,
        };
        let mut record: Record =
            serde_json::from_slice(&bytes).map_err(|source| Error::Config { path, source })?;
        record.of_earlier_boot = record.boot_id.is_some() && record.boot_id != boot_id();
        Ok(Some(record))
    }

    /// What a record here has to say about the boot: nothing on tmpfs, which ends with it.
    pub(crate) fn boot_id(&self) -> Option<String> {
        /// linux/magic.h.
        const TMPFS_MAGIC: rustix::fs::FsWord = 0x0102_1994;
        let on_tmpfs = rustix::fs::statfs(&self.path).is_ok_and(|fs| fs.f_type == TMPFS_MAGIC);
        if on_tmpfs { None } else { boot_id() }
    }

    /// Keeps the filter for exec: another name of the cached one where there is one, else a copy.
    pub(crate) fn keep_filter(
        &self,
        filter: &Filter,
        cached: Option<&Path>,
        later: &Later,
    ) -> Result<(), Error> {
        let own = self.path.join(FILTER);
        match cached.map(|cached| fs::hard_link(cached, own)) {
            Some(Ok(())) => Ok(()),
            Some(Err(_)) | None => self.write_file(FILTER, &filter.to_bytes(), later),
        }
    }

    pub(crate) fn read_filter(&self) -> Result<Filter, Error> {
        let bytes = fs::read(self.path.join(FILTER)).map_err(|e| self.step("reading the filter of", e))?;
        let damaged = || self.step("reading the filter of", io::ErrorKind::InvalidData.into());
        Filter::from_bytes(&bytes).ok_or_else(damaged)
    }

    /// What `update` left; none: the configuration's are in force.
    pub(crate) fn read_resources(&self) -> Result<Option<spec::Resources>, Error> {
        let path = self.path.join(RESOURCES);
        let bytes = match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other.map_err(|e| self.step("reading the limits of", e))?,
        };
        serde_json::from_slice(&bytes).map(Some).map_err(|source| Error::Config { path, source })
    }

    pub(crate) fn write_resources(&self, resources: &spec::Resources) -> Result<(), Error> {
        let path = self.path.join(RESOURCES);
        let bytes =
            serde_json::to_vec(resources).map_err(|source| Error::Config { path: path.clone(), source })?;
        self.write_file(RESOURCES_NEW, &bytes, &Later::default())?;
        fs::rename(self.path.join(RESOURCES_NEW), path).map_err(|e| self.step("renaming", e))
    }

    pub(crate) fn remove(&self) -> Result<(), Error> {
        // What is there in nearly every case; the rest takes a look.
        for name in [RECORD, FILTER] {
            let _ = fs::remove_file(self.path.join(name));
        }
        match fs::remove_dir(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => self.remove_all(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other.map_err(|e| self.step("removing", e)),
        }
    }

    fn remove_all(&self) -> Result<(), Error> {
        match fs::remove_dir_all(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other.map_err(|e| self.step("removing", e)),
        }
    }

    pub(super) fn step(&self, step: &'static str, source: io::Error) -> Error {
        Error::step(step, self.path.display().to_string(), source)
    }
}

fn boot_id() -> Option<String> {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").ok().map(|id| id.trim_end().to_owned())
}

/// A JSON file, in one read if that ends as JSON does.
///
/// # Errors
/// The kernel's.
pub fn read_whole(file: &mut fs::File) -> io::Result<Vec<u8>> {
    // Not cleared: what no file fills is no memory.
    let mut bytes = Vec::with_capacity(FIRST_READ);
    let length = rustix::io::read(&mut *file, spare_capacity(&mut bytes))?;
    if length == FIRST_READ || bytes.trim_ascii_end().last() != Some(&b'}') {
        // A large one, or a pipe that had not yet all of it.
        io::Read::read_to_end(&mut io::Read::take(file, MAX_READ), &mut bytes)?;
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_cannot_leave_the_root() {
        for id in ["", ".", "..", "a/b", "a b", "ä"] {
            assert!(StateDir::of(Path::new("/r"), id).is_err(), "{id:?}");
        }
        assert!(StateDir::of(Path::new("/r"), "a-1_B.c+d").is_ok());
    }
}
