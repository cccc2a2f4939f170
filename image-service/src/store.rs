//! What this node holds: images in the index, layers in their directories, and who uses which.
//!
//! ```text
//! ROOT/index.redb          records, manifests, configurations
//!      layers/<diff id>/   one unpacked layer each, as overlay's lower directory
//!      recipes/<diff id>    what writes that layer's archive again
//!      parts/<hex>/         what has come of a large blob, for the next try
//!      ingest/<random>/    a layer being unpacked; removed at start
//!      trash/<random>/     what nothing uses any more; removed at start
//!      empty/              the lower directory of an image without layers
//! ```
//! A layer is at its place only when it is whole and verified; an image is in the index only when its
//! layers are on the disk, or on their way there in this boot (see `settle`). Everything here may wait for
//! the disk, except [`Store::snapshot`].

mod index;
mod ingest;
pub(crate) mod judged;
pub(crate) mod layers;
mod load;
mod parts;
pub(crate) mod proof;
mod record;
mod settle;
mod snapshot;
pub(crate) mod writable;

use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::fd::OwnedFd;

pub(crate) use ingest::Ingest;
pub(crate) use layers::{Hold, Layers};
pub(crate) use parts::{Came, Part, Parts};
pub(crate) use record::Name;
pub(crate) use snapshot::Snapshot;

use crate::digest::Digest;
use crate::error::Error;
use crate::gc::{Trash, random_name};
use crate::image::{Accounts, Image, ImageConfig, Layer};
use crate::images::Settings;
use crate::layered::Layered;
use crate::manifest::{self, ArtifactFile, Document};
use crate::policy::Verdict;
use crate::registry::{Fetched, Resolved};
use crate::{mend, mountplan, unpack};
use index::{Change, Index};
use record::Record;

/// The contract of [`Accounts`]: a node needs a few lines of them, not a database.
const MAX_ACCOUNTS_BYTES: u64 = 1 << 20;

#[derive(Debug)]
pub(crate) struct Store {
    root: PathBuf,
    root_dir: OwnedFd,
    index: Index,
    /// The images; held while the index changes. Readers use the snapshot.
    images: Mutex<BTreeMap<Digest, Entry>>,
    published: RwLock<Arc<Snapshot>>,
    pinned: Vec<String>,
    /// Which page cache this is; records of unsynced images name it.
    page_cache: String,
    /// Whether a thread is bringing layers to the disk.
    settling: Mutex<bool>,
    pub(crate) layers: Arc<Layers>,
    pub(crate) parts: Arc<Parts>,
    /// Last, so that it is the last to go: dropping the others fills it.
    trash: Arc<Trash>,
}

#[derive(Debug)]
struct Entry {
    record: Record,
    image: Arc<Image>,
    /// The image's right to its layers.
    hold: Hold,
}

/// An image that is wholly on the disk but not yet in the index.
#[derive(Debug)]
pub(crate) struct Content {
    /// The digest of the configuration.
    pub(crate) id: Digest,
    pub(crate) config: ImageConfig,
    pub(crate) accounts: Accounts,
    pub(crate) hold: Hold,
    /// Manifests, indexes and the configuration.
    pub(crate) documents: Vec<(Digest, Vec<u8>)>,
}

impl Content {
    /// With the documents by which another asker came to it: an index of another name, say.
    pub(crate) fn with(self: Arc<Content>, resolved: &Resolved) -> Arc<Content> {
        let is_new = |one: &&Fetched| !self.documents.iter().any(|(known, _)| *known == one.digest);
        let new: Vec<_> = resolved.documents.iter().filter(is_new).collect();
        if new.is_empty() {
            return self;
        }
        // Before the configuration, which is the last.
        let new = new.into_iter().map(|one| (one.digest.clone(), one.bytes.to_vec()));
        let documents = new.chain(self.documents.iter().cloned()).collect();
        let Content { id, config, accounts, hold, .. } = &*self;
        let (id, config, accounts) = (id.clone(), config.clone(), accounts.clone());
        Arc::new(Content { id, config, accounts, hold: hold.clone(), documents })
    }
}

impl Store {
    /// Opens the store, drops what is damaged and removes what a crash left behind.
    /// `in_use` adopts layers that others than images hold, before unheld ones are removed.
    pub(crate) fn open<T>(
        settings: &Settings,
        in_use: impl FnOnce(&Arc<Layers>, &Arc<Trash>, PathBuf) -> Result<T, Error>,
    ) -> Result<(Store, T), Error> {
        let root = settings.root.clone();
        let failed = |error| Error::io("opening the image store", &root, error);
        make_dirs(&root).map_err(failed)?;
        let trash = Arc::new(Trash::open(root.join("trash")).map_err(failed)?);
        empty(&root.join("ingest"), &trash).map_err(failed)?;
        let parts = Parts::new(root.join("parts"), trash.clone()).map_err(failed)?;
        let layers = Layers::new(root.join("layers"), trash.clone());
        let index = Index::open(root.join("index.redb")).map_err(|error| index_error(&root, error))?;
        let root_dir = unpack::open_root(&root).map_err(|errno| failed(errno.into()))?;
        let store = Store {
            index,
            images: Mutex::default(),
            published: RwLock::default(),
            pinned: settings.pinned.clone(),
            page_cache: settle::page_cache(&settings.boot, &root_dir),
            settling: Mutex::default(),
            layers,
            parts,
            trash,
            root,
            root_dir,
        };
        store.load()?;
        let others = in_use(&store.layers, &store.trash, store.root.join("empty"))?;
        store.sweep()?;
        Ok((store, others))
    }

    /// What readers see; never waits for the disk.
    pub(crate) fn snapshot(&self) -> Arc<Snapshot> {
        self.published.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// (bytes, inodes) of all layers, and of what is kept of blobs that are not whole.
    pub(crate) fn usage(&self) -> (u64, u64) {
        let (layers, parts) = (self.layers.usage(), self.parts.usage().unwrap_or_default());
        (layers.0 + parts.0, layers.1 + parts.1)
    }

    /// A document that some image brought along.
    pub(crate) fn document(&self, digest: &Digest) -> Result<Option<Vec<u8>>, Error> {
        self.index.document(digest).map_err(|error| self.index_error(error))
    }

    /// The documents that an image brought along.
    pub(crate) fn documents_of(&self, id: &str) -> Vec<Digest> {
        let images = self.images();
        let found = images.iter().find(|(known, _)| known.as_str() == id);
        found.map(|(_, entry)| entry.record.documents.clone()).unwrap_or_default()
    }

    /// A place to unpack a layer.
    pub(crate) fn ingest(&self) -> Result<Ingest, Error> {
        let path = self.root.join("ingest").join(random_name());
        let failed = |error| Error::io("making", &path, error);
        std::fs::create_dir(&path).map_err(failed)?;
        // A layer whose archive says nothing of `/` has it so; the umask is the daemon's own.
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).map_err(failed)?;
        Ok(Ingest { path, trash: self.trash.clone() })
    }

    /// The hold with one more layer where the layers alone would not make the image (see `mend`).
    pub(crate) fn mended(&self, hold: Hold) -> Result<Hold, Error> {
        let failed = |error| Error::io("mending a layer in", &self.root, error);
        let path = |layer: &Layer| self.layers.path(&layer.diff_id);
        let Some(mending) = mend::needed(hold.layers(), path).map_err(failed)? else { return Ok(hold) };
        let layer = mending.layer();
        let mended = match self.layers.hold([&layer.diff_id]) {
            Some(there) => there,
            None => {
                let ingest = self.ingest()?;
                mending.make(&ingest.path).map_err(failed)?;
                ingest.commit(&self.layers, layer)?
            }
        };
        Ok(Hold::join(&self.layers, vec![hold, mended]))
    }

    /// Puts an image into the index under more names, then shows it; its layers may still be on their way
    /// to the disk.
    pub(crate) fn commit(
        self: &Arc<Store>,
        content: &Content,
        names: &[Name],
        verdict: Option<&Verdict>,
    ) -> Result<Arc<Image>, Error> {
        let image = self.put(content, names, verdict)?;
        self.settle_soon();
        Ok(image)
    }

    fn put(&self, content: &Content, names: &[Name], verdict: Option<&Verdict>) -> Result<Arc<Image>, Error> {
        let mut images = self.images();
        let mut record = merge(images.get(&content.id).map(|entry| &entry.record), content);
        verdict.into_iter().for_each(|verdict| record.remember(verdict));
        record.unsynced_in =
            (!self.layers.all_synced(content.hold.layers())).then(|| self.page_cache.clone());
        let put = record::claim(images.values().map(|entry| &entry.record), record, names);
        if let (Some(entry), [same]) = (images.get(&content.id), &put[..])
            && entry.record == *same
        {
            return Ok(entry.image.clone());
        }
        let change = Change { put, put_documents: content.documents.clone(), ..Change::default() };
        self.index.apply(&change).map_err(|error| self.index_error(error))?;
        for record in change.put {
            match images.get_mut(&record.id) {
                Some(entry) => {
                    let (config, accounts) = (entry.image.config.clone(), entry.image.accounts.clone());
                    entry.image = Arc::new(self.image(&record, config, accounts));
                    entry.record = record;
                }
                None => {
                    let image = self.image(&record, content.config.clone(), content.accounts.clone());
                    let entry = Entry { record, image: Arc::new(image), hold: content.hold.clone() };
                    images.insert(content.id.clone(), entry);
                }
            }
        }
        self.publish(&images);
        Ok(images.get(&content.id).expect("it was just put there").image.clone())
    }

    /// Takes an image out of the index. Its layers go with it unless others hold them. Gone is done.
    pub(crate) fn remove(&self, id: &Digest) -> Result<(), Error> {
        let mut images = self.images();
        let Some(entry) = images.get(id) else { return Ok(()) };
        let others = images.values().map(|entry| &entry.record);
        let remove_documents = record::orphans(others, &entry.record);
        let change = Change { remove: vec![id.clone()], remove_documents, ..Change::default() };
        self.index.apply(&change).map_err(|error| self.index_error(error))?;
        let gone = images.remove(id);
        self.publish(&images);
        drop(images);
        drop(gone);
        Ok(())
    }

    /// `/etc/passwd` and `/etc/group` as the layers have them.
    pub(crate) fn accounts(&self, layers: &[Layer]) -> Accounts {
        let paths: Vec<_> = mountplan::lower(layers).into_iter().map(|id| self.layers.path(id)).collect();
        let mut accounts = Accounts::default();
        let layered = match Layered::open(&paths) {
            Ok(layered) => layered,
            Err(errno) => return Accounts { unusable: Some(errno.to_string()), ..accounts },
        };
        let mut read = |path: &str| {
            layered.read(path, MAX_ACCOUNTS_BYTES).unwrap_or_else(|why| {
                accounts.unusable = Some(format!("{path} of the image can't be used: {why}"));
                None
            })
        };
        let (passwd, group) = (read("/etc/passwd"), read("/etc/group"));
        Accounts { passwd, group, ..accounts }
    }

    fn images(&self) -> MutexGuard<'_, BTreeMap<Digest, Entry>> {
        self.images.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn publish(&self, images: &BTreeMap<Digest, Entry>) {
        let snapshot = Arc::new(Snapshot::new(images.values().map(|entry| entry.image.clone())));
        *self.published.write().unwrap_or_else(PoisonError::into_inner) = snapshot;
    }

    fn image(&self, record: &Record, config: ImageConfig, accounts: Accounts) -> Image {
        let names = || record.repo_tags.iter().chain(&record.repo_digests);
        Image {
            id: record.id.to_string(),
            repo_tags: record.repo_tags.clone(),
            repo_digests: record.repo_digests.clone(),
            size_bytes: record.size_bytes(),
            pulled_at: UNIX_EPOCH + Duration::from_millis(record.pulled_at_ms),
            pinned: names().any(|name| self.pinned.iter().any(|pattern| matches(pattern, name))),
            config,
            accounts,
            layers: record.layers.clone(),
        }
    }

    fn index_error(&self, error: redb::Error) -> Error {
        index_error(&self.root, error)
    }
}

/// The files of an artifact, by its manifest.
fn artifact_files(bytes: &[u8]) -> Option<Vec<ArtifactFile>> {
    match manifest::parse(bytes, None).ok()? {
        Document::Manifest(manifest) if !manifest.files.is_empty() => Some(manifest.files),
        Document::Manifest(_) | Document::Index(_) => None,
    }
}

/// The record of a content, with the names an older record of it has.
fn merge(old: Option<&Record>, content: &Content) -> Record {
    let mut record = old.cloned().unwrap_or_else(|| Record {
        id: content.id.clone(),
        repo_tags: Vec::new(),
        repo_digests: Vec::new(),
        layers: content.hold.layers().to_vec(),
        documents: Vec::new(),
        documents_bytes: 0,
        unsynced_in: None,
        verdicts: Vec::new(),
        pulled_at_ms: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_millis() as u64),
    });
    for (digest, bytes) in &content.documents {
        if !record.documents.contains(digest) {
            record.documents.push(digest.clone());
            record.documents_bytes += bytes.len() as u64;
        }
    }
    record
}

/// `registry.k8s.io/pause:3.9`, or with a `*` at the end.
fn matches(pattern: &str, name: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(start) => name.starts_with(start),
        None => name == pattern,
    }
}

/// Nobody but the daemon may reach what images brought: setuid programs, device nodes.
fn make_dirs(root: &Path) -> io::Result<()> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(root)?;
    std::fs::set_permissions(root, PermissionsExt::from_mode(0o700))?;
    for name in ["layers", "recipes", "ingest", "parts", "trash", "empty"] {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(root.join(name))?;
    }
    std::fs::set_permissions(root.join("empty"), PermissionsExt::from_mode(0o755))
}

fn empty(dir: &Path, trash: &Trash) -> io::Result<()> {
    for left in std::fs::read_dir(dir)? {
        trash.take(&left?.path())?;
    }
    Ok(())
}

fn index_error(root: &Path, error: redb::Error) -> Error {
    let path = root.join("index.redb");
    match error {
        redb::Error::Io(error) => Error::io("writing the image index", &path, error),
        error => Error::Index { path, source: Arc::new(error) },
    }
}
