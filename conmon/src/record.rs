//! What a monitor writes down so that the next one can go on after a `kill -9`, and how a container ended.
//!
//! Everything here lies on a tmpfs: a temporary file and a rename, and no fsync. A reboot ends all of it.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use conmon_protocol::{ContainerPlan, Exit, PodPlan};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Named as _};
use crate::reap::Birth;

/// No record of ours is longer.
const MAX_RECORD: u64 = 4 << 20;

/// A container, as far as it can't be asked of the kernel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ContainerRecord {
    pub(crate) plan: ContainerPlan,
    /// `None` while it is being made: written down before anything else is, so that it can be taken away.
    pub(crate) process: Option<Birth>,
    /// Set before the process is let go.
    pub(crate) started_at_ns: Option<i64>,
    pub(crate) cgroup: Option<String>,
    pub(crate) owns_pid_namespace: bool,
    /// It was made of images, and waits frozen for its start.
    #[serde(default)]
    pub(crate) restored: bool,
}

/// A pod whose namespaces are made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PodRecord {
    pub(crate) plan: PodPlan,
    /// The first process of a shared PID namespace.
    pub(crate) init: Option<Birth>,
}

impl ContainerRecord {
    pub(crate) fn path(container_dir: &Path) -> PathBuf {
        container_dir.join("monitor")
    }

    pub(crate) fn write(&self) -> Result<(), Error> {
        write(&Self::path(&self.plan.container_dir), self)
    }
}

impl PodRecord {
    pub(crate) fn path(pod_dir: &Path) -> PathBuf {
        pod_dir.join("monitor.pod")
    }

    pub(crate) fn write(&self) -> Result<(), Error> {
        write(&Self::path(&self.plan.pod_dir), self)
    }

    pub(crate) fn read(pod_dir: &Path) -> Result<Option<PodRecord>, Error> {
        read(&Self::path(pod_dir))
    }
}

pub(crate) fn exit_path(container_dir: &Path) -> PathBuf {
    container_dir.join("exit")
}

pub(crate) fn write_exit(container_dir: &Path, exit: &Exit) -> Result<(), Error> {
    write(&exit_path(container_dir), exit)
}

pub(crate) fn read_exit(container_dir: &Path) -> Result<Option<Exit>, Error> {
    read(&exit_path(container_dir))
}

/// The records of all containers of a pod, and why some could not be read.
pub(crate) fn containers(pod_dir: &Path) -> (Vec<ContainerRecord>, Vec<Error>) {
    let (mut records, mut errors) = (Vec::new(), Vec::new());
    let Ok(entries) = fs::read_dir(pod_dir.join("containers")) else {
        return (records, errors);
    };
    for entry in entries.flatten() {
        match read(&ContainerRecord::path(&entry.path())) {
            Ok(Some(record)) => records.push(record),
            Ok(None) => {}
            Err(error) => errors.push(error),
        }
    }
    (records, errors)
}

pub(crate) fn write<T: Serialize>(path: &Path, value: &T) -> Result<(), Error> {
    let bytes = serde_json::to_vec(value).map_err(|source| Error::Json {
        step: "writing",
        object: path.display().to_string(),
        source,
    })?;
    let new = path.with_extension("new");
    let mut options = fs::OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    options.open(&new).and_then(|mut file| file.write_all(&bytes)).named("writing", &new)?;
    fs::rename(&new, path).named("writing", path)
}

/// `None` when there is no such file.
pub(crate) fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, Error> {
    let metadata = match fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).named("reading", path),
    };
    if metadata.len() > MAX_RECORD {
        return Err(std::io::Error::from(rustix::io::Errno::FBIG)).named("reading", path);
    }
    let bytes = fs::read(path).named("reading", path)?;
    serde_json::from_slice(&bytes).map(Some).map_err(|source| Error::Json {
        step: "reading",
        object: path.display().to_string(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXIT: Exit = Exit { code: 3, oom_killed: false, finished_at_ns: 9 };

    #[test]
    fn an_exit_is_read_back_and_none_is_no_error() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(read_exit(dir.path()).unwrap(), None);
        write_exit(dir.path(), &EXIT).unwrap();
        write_exit(dir.path(), &EXIT).unwrap();
        assert_eq!(read_exit(dir.path()).unwrap(), Some(EXIT));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "no temporary file is left");
    }

    #[test]
    fn a_damaged_record_is_told_and_the_others_are_read() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["a", "b"] {
            fs::create_dir_all(dir.path().join("containers").join(name)).unwrap();
        }
        fs::write(dir.path().join("containers/a/monitor"), b"{").unwrap();
        let (records, errors) = containers(dir.path());
        assert!(records.is_empty());
        assert_eq!(errors.len(), 1);
        assert!(errors[0].chain().contains("containers/a/monitor"));
    }
}
