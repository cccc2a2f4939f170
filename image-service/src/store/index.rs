//! The index on disk: records of images and the documents (manifests, configurations) they come from.
//!
//! One redb file. Documents lie in it beside the records, so that one durable transaction, and one
//! fsync, makes an image or takes it away, and no crash can leave a half.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};

use super::record::Record;
use crate::digest::Digest;

const IMAGES: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("images");
const DOCUMENTS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("documents");
/// redb takes 1 GiB by default; this index is read once and then only written.
const CACHE_BYTES: usize = 512 << 10;

/// How long whoever has the index open may take to end, and how often to look.
const LAST_ONE_ENDS: Duration = Duration::from_secs(3);
const PAUSE: Duration = Duration::from_millis(20);

#[derive(Debug)]
pub(crate) struct Index {
    path: PathBuf,
    /// None after an I/O error: redb must then be opened anew, which the next use does.
    database: Mutex<Option<Database>>,
}

/// A record as it was found.
#[derive(Debug)]
pub(crate) struct Read {
    pub(crate) key: String,
    /// The record and its configuration; None when either can't be read.
    pub(crate) found: Option<(Record, Vec<u8>)>,
}

/// A change, all of it or nothing.
#[derive(Debug, Default)]
pub(crate) struct Change {
    pub(crate) put: Vec<Record>,
    pub(crate) put_documents: Vec<(Digest, Vec<u8>)>,
    pub(crate) remove: Vec<Digest>,
    pub(crate) remove_documents: Vec<Digest>,
}

impl Index {
    /// Opens the index; one that is damaged is moved aside and a new one begun.
    pub(crate) fn open(path: PathBuf) -> Result<Index, redb::Error> {
        let database = match open(&path) {
            Err(error) if is_damage(&error) => {
                let aside = path.with_extension("damaged");
                tracing::error!(%error, aside = %aside.display(), "the image index is damaged; images must be pulled again");
                std::fs::rename(&path, aside)?;
                open(&path)?
            }
            other => other?,
        };
        Ok(Index { path, database: Mutex::new(Some(database)) })
    }

    /// Every record with its configuration's bytes.
    pub(crate) fn read_all(&self) -> Result<Vec<Read>, redb::Error> {
        self.with(|database| {
            let transaction = database.begin_read()?;
            let images = transaction.open_table(IMAGES)?;
            let documents = transaction.open_table(DOCUMENTS)?;
            let mut all = Vec::new();
            for item in images.iter()? {
                let (key, value) = item?;
                let record: Option<Record> = serde_json::from_slice(value.value()).ok();
                let config = documents.get(key.value())?.map(|bytes| bytes.value().to_vec());
                all.push(Read { key: key.value().to_owned(), found: record.zip(config) });
            }
            Ok(all)
        })
    }

    pub(crate) fn document(&self, digest: &Digest) -> Result<Option<Vec<u8>>, redb::Error> {
        self.with(|database| {
            let documents = database.begin_read()?.open_table(DOCUMENTS)?;
            Ok(documents.get(digest.as_str())?.map(|bytes| bytes.value().to_vec()))
        })
    }

    /// Makes a change that is on the disk when this returns.
    pub(crate) fn apply(&self, change: &Change) -> Result<(), redb::Error> {
        self.with(|database| {
            let transaction = database.begin_write()?;
            {
                let mut images = transaction.open_table(IMAGES)?;
                let mut documents = transaction.open_table(DOCUMENTS)?;
                for record in &change.put {
                    let json = serde_json::to_vec(record).expect("a record is plain data");
                    images.insert(record.id.as_str(), json.as_slice())?;
                }
                for (digest, bytes) in &change.put_documents {
                    documents.insert(digest.as_str(), bytes.as_slice())?;
                }
                for id in &change.remove {
                    images.remove(id.as_str())?;
                }
                for digest in &change.remove_documents {
                    documents.remove(digest.as_str())?;
                }
            }
            transaction.commit()?;
            Ok(())
        })
    }

    /// Keeps only these records and their documents; for a start that found something damaged.
    pub(crate) fn keep(&self, records: &[&Record]) -> Result<(), redb::Error> {
        let images: BTreeSet<&str> = records.iter().map(|record| record.id.as_str()).collect();
        let documents: BTreeSet<&str> =
            records.iter().flat_map(|record| &record.documents).map(Digest::as_str).collect();
        self.with(|database| {
            let transaction = database.begin_write()?;
            transaction.open_table(IMAGES)?.retain(|key, _| images.contains(key))?;
            transaction.open_table(DOCUMENTS)?.retain(|key, _| documents.contains(key))?;
            transaction.commit()?;
            Ok(())
        })
    }

    fn with<T>(&self, act: impl FnOnce(&Database) -> Result<T, redb::Error>) -> Result<T, redb::Error> {
        let mut slot = self.database.lock().unwrap_or_else(PoisonError::into_inner);
        let database = match slot.take() {
            Some(database) => database,
            None => open(&self.path)?,
        };
        let result = act(&database);
        if !matches!(result, Err(redb::Error::Io(_) | redb::Error::PreviousIo)) {
            *slot = Some(database);
        }
        result
    }
}

/// A file that is no index, as against one that can't be read now.
fn is_damage(error: &redb::Error) -> bool {
    match error {
        redb::Error::Corrupted(_) | redb::Error::UpgradeRequired(_) => true,
        redb::Error::Io(error) => error.kind() == std::io::ErrorKind::InvalidData,
        _ => false,
    }
}

/// The lock of a killed daemon may live on for a moment in a child that it was starting, until that one's exec.
fn open_when_free(path: &std::path::Path) -> Result<Database, redb::DatabaseError> {
    let until = Instant::now() + LAST_ONE_ENDS;
    loop {
        match Database::builder().set_cache_size(CACHE_BYTES).create(path) {
            Err(redb::DatabaseError::DatabaseAlreadyOpen) if Instant::now() < until => {
                std::thread::sleep(PAUSE)
            }
            opened => return opened,
        }
    }
}

fn open(path: &std::path::Path) -> Result<Database, redb::Error> {
    let database = open_when_free(path)?;
    // Tables come to be by being opened for writing.
    let missing = {
        let transaction = database.begin_read()?;
        transaction.open_table(IMAGES).is_err() || transaction.open_table(DOCUMENTS).is_err()
    };
    if missing {
        let transaction = database.begin_write()?;
        transaction.open_table(IMAGES)?;
        transaction.open_table(DOCUMENTS)?;
        transaction.commit()?;
    }
    Ok(database)
}
