//! What is known of each attachment, one file each: written before ADD with the
//! configuration that will be used, and again with the result.
//!
//! A sandbox's first attachment is `<id>.json`, as it was when there was one alone; the others are
//! `<id>@<interface>.json`. No id has an `@`.
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
use crate::network::INTERFACE;

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

/// Whose record: a sandbox has one for each network that it joins.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Key {
    pub(crate) sandbox_id: String,
    pub(crate) interface: String,
}

impl Key {
    pub(crate) fn first(sandbox_id: &str) -> Key {
        Key { sandbox_id: sandbox_id.into(), interface: INTERFACE.into() }
    }

    pub(crate) fn of(record: &Record) -> Key {
        Key { sandbox_id: record.sandbox_id.clone(), interface: record.interface.clone() }
    }

    fn of_file(path: &Path) -> Option<Key> {
        let name = path.file_name()?.to_str()?.strip_suffix(".json")?;
        let (sandbox_id, interface) = name.split_once('@').unwrap_or((name, INTERFACE));
        let good = check_name(sandbox_id).is_ok() && check_name(interface).is_ok();
        good.then(|| Key { sandbox_id: sandbox_id.into(), interface: interface.into() })
    }

    fn file(&self) -> String {
        match self.interface.as_str() {
            INTERFACE => format!("{}.json", self.sandbox_id),
            interface => format!("{}@{interface}.json", self.sandbox_id),
        }
    }
}

/// A record, as far as it can be read.
#[derive(Debug, Clone)]
pub(crate) enum Kept {
    Whole(Arc<Record>),
    /// The file is there but cannot be read.
    Damaged,
}

impl Kept {
    pub(crate) fn whole(self) -> Option<Arc<Record>> {
        match self {
            Kept::Whole(record) => Some(record),
            Kept::Damaged => None,
        }
    }
}

/// All records of this node: in memory for readers, in files for the next start.
#[derive(Debug)]
pub(crate) struct Records {
    dir: PathBuf,
    kept: Mutex<BTreeMap<Key, Kept>>,
}

impl Records {
    /// Reads the directory, making it when it is not there, and drops half-written files.
    pub(crate) fn open(dir: &Path) -> Result<Records, Error> {
        let failed = |source| Error::Record { doing: "reading the records in", path: dir.into(), source };
        make_dir(dir).map_err(failed)?;
        let mut kept = BTreeMap::new();
        for entry in std::fs::read_dir(dir).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            match Key::of_file(&path) {
                Some(key) => drop(kept.insert(key.clone(), read(&path, &key))),
                None if path.extension().is_some_and(|ext| ext == "tmp") => drop(std::fs::remove_file(&path)),
                None => {}
            }
        }
        Ok(Records { dir: dir.into(), kept: Mutex::new(kept) })
    }

    pub(crate) fn get(&self, key: &Key) -> Option<Kept> {
        self.map().get(key).cloned()
    }

    /// A sandbox's attachments, in the order in which they were made.
    pub(crate) fn of_sandbox(&self, sandbox_id: &str) -> Vec<(Key, Kept)> {
        let map = self.map();
        let own = map.iter().filter(|(key, _)| key.sandbox_id == sandbox_id);
        let mut own: Vec<_> = own.map(|(key, kept)| (key.clone(), kept.clone())).collect();
        // `eth10` comes after `eth9`.
        own.sort_by_key(|(key, _)| (key.interface.len(), key.interface.clone()));
        own
    }

    pub(crate) fn all(&self) -> Vec<(Key, Kept)> {
        self.map().iter().map(|(key, kept)| (key.clone(), kept.clone())).collect()
    }

    /// Every sandbox that has a record.
    pub(crate) fn ids(&self) -> Vec<String> {
        let mut ids: Vec<String> = self.map().keys().map(|key| key.sandbox_id.clone()).collect();
        ids.dedup();
        ids
    }

    pub(crate) fn put(&self, record: Record) -> Result<(), Error> {
        let key = Key::of(&record);
        let path = self.path(&key);
        let failed = |source| Error::Record { doing: "writing record", path: path.clone(), source };
        let text = serde_json::to_vec(&record).map_err(|error| failed(error.into()))?;
        let unfinished = path.with_extension("tmp");
        let written = std::fs::write(&unfinished, text).and_then(|()| std::fs::rename(&unfinished, &path));
        if let Err(error) = written {
            // On a full disk, half a file helps nobody.
            let _ = std::fs::remove_file(&unfinished);
            return Err(failed(error));
        }
        self.map().insert(key, Kept::Whole(Arc::new(record)));
        Ok(())
    }

    /// Forgets an attachment; one that is not known is forgotten already.
    pub(crate) fn forget(&self, key: &Key) -> Result<(), Error> {
        let path = self.path(key);
        match std::fs::remove_file(&path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(Error::Record { doing: "removing record", path, source })
            }
            _ => {
                self.map().remove(key);
                Ok(())
            }
        }
    }

    fn path(&self, key: &Key) -> PathBuf {
        self.dir.join(key.file())
    }

    fn map(&self) -> MutexGuard<'_, BTreeMap<Key, Kept>> {
        self.kept.lock().expect("no holder of this lock panics")
    }
}

/// Records hold pod names and addresses: for root's eyes.
fn make_dir(dir: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)
}

fn read(path: &Path, key: &Key) -> Kept {
    let record = std::fs::read(path).ok().and_then(|text| serde_json::from_slice::<Record>(&text).ok());
    match record {
        Some(record) if Key::of(&record) == *key => Kept::Whole(Arc::new(record)),
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
        records.forget(&Key::first("b")).unwrap();
        records.forget(&Key::first("b")).unwrap();
        let again = Records::open(&dir.path().join("cni")).unwrap();
        assert_eq!(again.ids(), ["a"]);
        let Some(Kept::Whole(found)) = again.get(&Key::first("a")) else { panic!("not whole") };
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
        assert!(matches!(records.get(&Key::first("a")), Some(Kept::Damaged)));
        assert!(matches!(records.get(&Key::first("b")), Some(Kept::Damaged)));
        assert!(!dir.path().join("half.tmp").exists());
    }

    #[test]
    fn a_sandbox_has_a_record_for_each_interface() {
        let dir = tempfile::tempdir().unwrap();
        let records = Records::open(dir.path()).unwrap();
        for interface in ["eth10", "eth9", "eth0"] {
            records.put(Record { interface: interface.into(), ..record("a.b") }).unwrap();
        }
        records.put(record("c")).unwrap();
        let again = Records::open(dir.path()).unwrap();
        assert_eq!(again.ids(), ["a.b", "c"]);
        let interfaces = |records: &Records| -> Vec<String> {
            records.of_sandbox("a.b").into_iter().map(|(key, _)| key.interface).collect()
        };
        assert_eq!(interfaces(&again), ["eth0", "eth9", "eth10"]);
        assert!(dir.path().join("a.b.json").exists(), "the first is where it was when there was one alone");
        again.forget(&Key { sandbox_id: "a.b".into(), interface: "eth9".into() }).unwrap();
        assert_eq!(interfaces(&Records::open(dir.path()).unwrap()), ["eth0", "eth10"]);
    }

    #[test]
    fn a_record_from_before_there_were_several_networks_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let text = r#"{"sandbox_id":"old","netns":"/run/n","interface":"eth0","args":"","capabilities":{},"chain":
            {"name":"n","version":"1.0.0","offered":["1.0.0"],"disable_check":false,"disable_gc":false,"plugins":[]},
            "result":{"ips":[{"address":"10.1.0.2/24"}]}}"#;
        std::fs::write(dir.path().join("old.json"), text).unwrap();
        let records = Records::open(dir.path()).unwrap();
        let Some(Kept::Whole(found)) = records.get(&Key::first("old")) else { panic!("not whole") };
        assert_eq!(found.result.as_ref().unwrap()["ips"][0]["address"], "10.1.0.2/24");
    }
}
