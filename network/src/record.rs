//! What is known of each attachment, one file per sandbox: written before ADD with the
//! configuration that will be used, and again with the result.
//!
//! Files come by rename and without fsync: the pod's start must not wait for the disk. A record that
//! a power cut emptied is kept as *damaged*: its sandbox's id, which is the file's name, is enough to
//! give the address back with the configuration of today.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::conf::{Chain, check_name};
use crate::error::Error;

/// One attachment, or one that was begun.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) sandbox_id: String,
    pub(crate) netns: PathBuf,
    pub(crate) interface: String,
    /// `CNI_ARGS` as given to ADD.
    pub(crate) args: String,
    /// `runtimeConfig` by capability, of which each plugin is given its part.
    pub(crate) capabilities: Map<String, Value>,
    pub(crate) chain: Chain,
    /// The last plugin's result; none until ADD has finished.
    pub(crate) result: Option<Value>,
}

/// A sandbox's record, as far as it can be read.
#[derive(Debug, Clone)]
pub(crate) enum Kept {
    Whole(Arc<Record>),
    /// The file is there but cannot be read.
    Damaged,
}

/// All records of this node: in memory for readers, in files for the next start.
#[derive(Debug)]
pub(crate) struct Records {
    dir: PathBuf,
    kept: Mutex<BTreeMap<String, Kept>>,
}

impl Records {
    /// Reads the directory, making it when it is not there, and drops half-written files.
    pub(crate) fn open(dir: &Path) -> Result<Records, Error> {
        let failed = |source| Error::Record { doing: "reading the records in", path: dir.into(), source };
        make_dir(dir).map_err(failed)?;
        let mut kept = BTreeMap::new();
        for entry in std::fs::read_dir(dir).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            match id_of(&path) {
                Some(id) => drop(kept.insert(id, read(&path))),
                None if path.extension().is_some_and(|ext| ext == "tmp") => drop(std::fs::remove_file(&path)),
                None => {}
            }
        }
        Ok(Records { dir: dir.into(), kept: Mutex::new(kept) })
    }

    pub(crate) fn get(&self, sandbox_id: &str) -> Option<Kept> {
        self.map().get(sandbox_id).cloned()
    }

    pub(crate) fn ids(&self) -> Vec<String> {
        self.map().keys().cloned().collect()
    }

    pub(crate) fn put(&self, record: Record) -> Result<(), Error> {
        let path = self.path(&record.sandbox_id);
        let failed = |source| Error::Record { doing: "writing record", path: path.clone(), source };
        let text = serde_json::to_vec(&record).map_err(|error| failed(error.into()))?;
        let unfinished = path.with_extension("tmp");
        let written = std::fs::write(&unfinished, text).and_then(|()| std::fs::rename(&unfinished, &path));
        if let Err(error) = written {
            // On a full disk, half a file helps nobody.
            let _ = std::fs::remove_file(&unfinished);
            return Err(failed(error));
        }
        self.map().insert(record.sandbox_id.clone(), Kept::Whole(Arc::new(record)));
        Ok(())
    }

    /// Forgets a sandbox; one that is not known is forgotten already.
    pub(crate) fn forget(&self, sandbox_id: &str) -> Result<(), Error> {
        let path = self.path(sandbox_id);
        match std::fs::remove_file(&path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(Error::Record { doing: "removing record", path, source })
            }
            _ => {
                self.map().remove(sandbox_id);
                Ok(())
            }
        }
    }

    fn path(&self, sandbox_id: &str) -> PathBuf {
        self.dir.join(format!("{sandbox_id}.json"))
    }

    fn map(&self) -> MutexGuard<'_, BTreeMap<String, Kept>> {
        self.kept.lock().expect("no holder of this lock panics")
    }
}

/// Records hold pod names and addresses: for root's eyes.
fn make_dir(dir: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)
}

fn id_of(path: &Path) -> Option<String> {
    let id = path.file_name()?.to_str()?.strip_suffix(".json")?;
    check_name(id).ok().map(|()| id.to_owned())
}

fn read(path: &Path) -> Kept {
    let record = std::fs::read(path).ok().and_then(|text| serde_json::from_slice::<Record>(&text).ok());
    match record {
        Some(record) if id_of(path).as_ref() == Some(&record.sandbox_id) => Kept::Whole(Arc::new(record)),
        _ => Kept::Damaged,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conf::Version;

    fn record(id: &str) -> Record {
        Record {
            sandbox_id: id.into(),
            netns: "/run/n".into(),
            interface: "eth0".into(),
            args: String::new(),
            capabilities: Map::new(),
            chain: Chain {
                name: "n".into(),
                version: Version(1, 0, 0),
                offered: vec![Version(1, 0, 0)],
                disable_check: false,
                disable_gc: false,
                plugins: vec![],
            },
            result: None,
        }
    }

    #[test]
    fn records_outlive_the_process() {
        let dir = tempfile::tempdir().unwrap();
        let records = Records::open(&dir.path().join("cni")).unwrap();
        records.put(record("a")).unwrap();
        records.put(Record { result: Some(serde_json::json!({"ips": []})), ..record("a") }).unwrap();
        records.put(record("b")).unwrap();
        records.forget("b").unwrap();
        records.forget("b").unwrap();
        let again = Records::open(&dir.path().join("cni")).unwrap();
        assert_eq!(again.ids(), ["a"]);
        let Some(Kept::Whole(found)) = again.get("a") else { panic!("not whole") };
        assert_eq!(found.result, Some(serde_json::json!({"ips": []})));
    }

    #[test]
    fn a_damaged_record_still_names_its_sandbox() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("a.json"), "").unwrap();
        std::fs::write(dir.path().join("half.tmp"), "{").unwrap();
        std::fs::write(dir.path().join("README"), "hello").unwrap();
        let swapped = serde_json::to_vec(&record("other")).unwrap();
        std::fs::write(dir.path().join("b.json"), swapped).unwrap();
        let records = Records::open(dir.path()).unwrap();
        assert_eq!(records.ids(), ["a", "b"]);
        assert!(matches!(records.get("a"), Some(Kept::Damaged)));
        assert!(matches!(records.get("b"), Some(Kept::Damaged)));
        assert!(!dir.path().join("half.tmp").exists());
    }
}
