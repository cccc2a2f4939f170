//! `list`: all containers under a root, also those whose making or whose machine was cut short.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;

use crate::state::{State, StateDir, Status};
use crate::{Error, Runtime, freeze, spec};

/// A container as a list shows it.
#[derive(Debug, Clone)]
pub struct Listed {
    pub state: State,
    /// Seconds since the epoch.
    pub created_s: u64,
    /// Whose container it is.
    pub owner_uid: u32,
}

impl Runtime {
    /// All containers, by id. One whose maker died before its record was written is being created for ever, and one
    /// whose record cannot be read has stopped: both are there to be deleted by force.
    ///
    /// # Errors
    /// When the root can't be read.
    pub fn list(&self) -> Result<Vec<Listed>, Error> {
        let at = |e| Error::step("listing", self.root.display().to_string(), e);
        let entries = match fs::read_dir(&self.root) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other.map_err(at)?,
        };
        let mut containers = Vec::new();
        for entry in entries {
            let name = entry.map_err(at)?.file_name();
            let dir = name.to_str().and_then(|id| StateDir::of(&self.root, id).ok());
            // One that goes away while we look is not there.
            containers.extend(dir.and_then(|dir| listed(&dir)));
        }
        containers.sort_by(|a, b| a.state.id.cmp(&b.state.id));
        Ok(containers)
    }

    /// One container, with what a list says about it.
    ///
    /// # Errors
    /// `NotFound`, or its record cannot be read.
    pub fn listed(&self, id: &str) -> Result<Listed, Error> {
        let dir = StateDir::of(&self.root, id)?;
        dir.read()?;
        listed(&dir).ok_or_else(|| Error::NotFound { id: id.to_owned() })
    }
}

fn listed(dir: &StateDir) -> Option<Listed> {
    let metadata = fs::metadata(&dir.path).ok().filter(fs::Metadata::is_dir)?;
    let made_s = metadata.mtime().try_into().unwrap_or(0);
    let (state, created_s) = match dir.read_if_there() {
        Ok(Some(record)) => (freeze::shown(dir, &record), record.created_s),
        Ok(None) => (without_record(dir, Status::Creating), made_s),
        Err(_) => (without_record(dir, Status::Stopped), made_s),
    };
    Some(Listed { state, created_s, owner_uid: metadata.uid() })
}

fn without_record(dir: &StateDir, status: Status) -> State {
    State {
        oci_version: spec::OCI_VERSION.to_owned(),
        id: dir.id().to_owned(),
        status,
        pid: None,
        bundle: PathBuf::new(),
        annotations: BTreeMap::new(),
    }
}
