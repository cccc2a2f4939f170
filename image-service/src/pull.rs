//! The pull: from a resolved manifest to content on the disk, once for all who ask.
//!
//! ```text
//! resolve ─► join the pull of this manifest, or start it ─► config ─► layers, in parallel ─► syncfs ─► content
//! ```
//! Each asker then gives the content its own name. When the last asker is gone the pull is dropped, and
//! with it everything it had taken. A layer is fetched and unpacked once however many pulls want it.

mod artifact;
mod behind;
mod bring;
mod ciphers;
pub(crate) mod counted;
mod frontier;
mod layer;
mod progress;
mod resumable;
mod source;
mod told;
mod windows;

pub(crate) use self::layer::Sealed;
pub(crate) use self::progress::LayerWatch;
pub use self::progress::{LayerProgress, LayerStage, Progress};
pub use self::told::PullUnderWay;

use std::collections::HashMap;
use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared, WeakShared};
use tokio::sync::{OwnedMutexGuard, Semaphore, watch};
use tracing::Instrument;

use self::counted::{Counted, PullCgroup};
use self::windows::Windows;
use crate::auth::Credentials;
use crate::digest::Digest;
use crate::error::Error;
use crate::image::ImageConfig;
use crate::images::Settings;
use crate::manifest;
use crate::registry::{Repository, Resolved};
use crate::store::{Content, Hold, Store};
use crate::unpack::window::USUAL_LOG;

/// What to pull, with whose credentials, and who watches.
#[derive(Debug, Clone, Default)]
pub struct PullRequest {
    pub reference: String,
    pub credentials: Option<Credentials>,
    /// Of the pod that the image is for: it may have credentials of its own on this node.
    pub namespace: Option<String>,
    /// Looked at before any other, in their order; absolute.
    pub auth_files: Vec<PathBuf>,
    /// Where the cgroup of that pod is, `/kubepods/…`: what the pull costs may be counted there.
    pub pod_cgroup: Option<String>,
    /// Gets the newest state whenever it changes; a slow watcher misses steps, never the end.
    pub progress: Option<watch::Sender<Progress>>,
}

type Fetching = Shared<BoxFuture<'static, Result<Arc<Content>, Error>>>;

/// A pull that others can join for as long as someone waits for it.
#[derive(Debug)]
struct UnderWay {
    name: String,
    began: Instant,
    fetching: WeakShared<BoxFuture<'static, Result<Arc<Content>, Error>>>,
    progress: watch::Receiver<Progress>,
}

/// Whose pull an asker waits for.
#[derive(Debug, PartialEq, Eq)]
enum Whose {
    Ours,
    /// Who began it called the image this.
    AnothersAs(String),
}

impl Whose {
    /// Whether what closed that pull's way may be open to `name`, as its present asker has found it: credentials are an
    /// asker's own, and so is the registry where the names differ.
    fn is_ours_open(&self, name: &str, error: &Error) -> bool {
        let Whose::AnothersAs(other) = self else { return false };
        match error {
            Error::Unauthorized { .. } | Error::NotFound { .. } | Error::Configuration(_) => true,
            Error::RegistryUnavailable { .. } | Error::Unusable { .. } | Error::Verification { .. } => {
                other != name
            }
            _ => false,
        }
    }
}

/// All pulls of the node; cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Pulls {
    pub(crate) store: Arc<Store>,
    decryption_keys_path: PathBuf,
    pub(crate) pull_cgroup: PullCgroup,
    pub(crate) unpacker: Vec<OsString>,
    max_layer_bytes: u64,
    parts_from_bytes: u64,
    parts_after: Duration,
    /// Connections beyond the first for one blob.
    more_connections: Arc<Semaphore>,
    /// Layers in work at once: each takes a thread, and a few buffers.
    slots: Arc<Semaphore>,
    /// All of the slots.
    parallel_layers: usize,
    windows: Arc<Windows>,
    turns: Arc<Mutex<HashMap<Digest, Weak<tokio::sync::Mutex<()>>>>>,
    under_way: Arc<Mutex<HashMap<Digest, UnderWay>>>,
}

impl Pulls {
    pub(crate) fn new(store: Arc<Store>, settings: &Settings) -> Pulls {
        Pulls {
            store,
            decryption_keys_path: settings.decryption_keys_path.clone(),
            pull_cgroup: settings.pull_cgroup.clone(),
            unpacker: settings.unpacker.clone(),
            max_layer_bytes: settings.max_layer_bytes,
            parts_from_bytes: settings.parts_from_bytes,
            parts_after: settings.parts_after,
            more_connections: Arc::new(Semaphore::new(settings.more_connections)),
            slots: Arc::new(Semaphore::new(settings.parallel_layers.max(1))),
            parallel_layers: settings.parallel_layers.max(1),
            windows: Arc::default(),
            turns: Arc::default(),
            under_way: Arc::default(),
        }
    }

    /// The content of a manifest; joins whoever fetches it already.
    pub(crate) async fn content(
        &self,
        name: &str,
        repository: Repository,
        resolved: Resolved,
        counted: Option<Counted>,
        watcher: Option<watch::Sender<Progress>>,
    ) -> Result<Arc<Content>, Error> {
        loop {
            let (whose, fetching, progress) = self.join(name, &repository, &resolved, counted.as_ref());
            let done = match &watcher {
                None => fetching.await,
                Some(watcher) => watched(fetching, progress, watcher).await,
            };
            match done {
                // Another's way to the image was closed. This one is ours, and each asker goes its own once.
                Err(error) if whose.is_ours_open(name, &error) => {
                    tracing::debug!(image = name, %error, "another's pull failed; this one is tried by itself");
                }
                done => return done.map(|content| content.with(&resolved)),
            }
        }
    }

    /// All that go on, the oldest first.
    pub(crate) fn under_way(&self) -> Vec<PullUnderWay> {
        let under_way = lock(&self.under_way);
        let goes_on = |other: &UnderWay| other.fetching.upgrade().is_some_and(|one| one.peek().is_none());
        let going = under_way.iter().filter(|(_, other)| goes_on(other));
        let mut all: Vec<_> = going
            .map(|(digest, other)| PullUnderWay {
                name: other.name.clone(),
                digest: digest.clone(),
                age: other.began.elapsed(),
                progress: other.progress.borrow().clone(),
            })
            .collect();
        all.sort_by_key(|one| std::cmp::Reverse(one.age));
        all
    }

    fn join(
        &self,
        name: &str,
        repository: &Repository,
        resolved: &Resolved,
        counted: Option<&Counted>,
    ) -> (Whose, Fetching, watch::Receiver<Progress>) {
        let mut under_way = lock(&self.under_way);
        under_way.retain(|_, other| other.fetching.upgrade().is_some());
        let digest = resolved.documents.last().map(|document| document.digest.clone());
        let digest = digest.unwrap_or_else(|| resolved.digest().clone());
        if let Some(other) = under_way.get(&digest)
            && let Some(fetching) = other.fetching.upgrade()
            // One that has failed is nothing to join, however many have yet to hear of it.
            && !matches!(fetching.peek(), Some(Err(_)))
        {
            return (Whose::AnothersAs(other.name.clone()), fetching, other.progress.clone());
        }
        let (sender, progress) = watch::channel(Progress::of(&resolved.manifest));
        let (pulls, own, seen) = (self.clone(), name.to_owned(), progress.clone());
        let (repository, resolved) = (repository.clone(), resolved.clone());
        let counted = counted.cloned();
        let fetching = async move {
            let fetching = pulls.fetch(own.clone(), repository, resolved, counted, sender);
            told::told(&own, seen, told::EVERY, fetching).await
        };
        let fetching = fetching.in_current_span().boxed().shared();
        if let Some(weak) = fetching.downgrade() {
            let (name, began) = (name.to_owned(), Instant::now());
            under_way.insert(digest, UnderWay { name, began, fetching: weak, progress: progress.clone() });
        }
        (Whose::Ours, fetching, progress)
    }

    async fn fetch(
        self,
        name: String,
        repository: Repository,
        resolved: Resolved,
        counted: Option<Counted>,
        progress: watch::Sender<Progress>,
    ) -> Result<Arc<Content>, Error> {
        let manifest = &resolved.manifest;
        if !manifest.files.is_empty() {
            let content = Box::pin(self.clone().artifact(name, repository, resolved, progress)).await;
            if let Err(Error::DiskFull { .. }) = &content {
                self.free_parts().await;
            }
            return content;
        }
        // Before anything is asked for: who has no key has no use for the rest, whoever has it on this node.
        let encrypted = manifest.layers.iter().map(|layer| layer.encrypted.then_some(&layer.descriptor));
        let ciphers = self.ciphers(encrypted).await?;
        let bytes = self.config(&name, &repository, manifest).await?;
        let (config, diff_ids) = parse_config(&name, &bytes, manifest)?;
        let layers = manifest.layers.iter().zip(diff_ids).zip(ciphers).enumerate();
        let layers = layers.map(|(at, ((layer, diff_id), cipher))| {
            let watch = LayerWatch { progress: &progress, at };
            let (name, repository, descriptor) = (name.as_str(), &repository, &layer.descriptor);
            let (counted, window_log) = (counted.as_ref(), USUAL_LOG);
            let blob = layer::WantedBlob { name, repository, descriptor, watch };
            layer::Wanted { blob, diff_id, cipher, counted, window_log }
        });
        let holds = match self.layers(layers.collect()).await {
            Err(error @ Error::DiskFull { .. }) => {
                self.free_parts().await;
                return Err(error);
            }
            other => other?,
        };
        let hold = Hold::join(&self.store.layers, holds);
        let mut documents: Vec<_> = resolved
            .documents
            .iter()
            .map(|document| (document.digest.clone(), document.bytes.to_vec()))
            .collect();
        documents.push((manifest.config.digest.clone(), bytes));
        let id = manifest.config.digest.clone();
        let store = self.store.clone();
        blocking(move || {
            let hold = store.mended(hold)?;
            let accounts = store.accounts(hold.layers());
            Ok(Arc::new(Content { id, config, accounts, hold, documents }))
        })
        .await
    }

    /// What is kept to save a download is worth less than space.
    async fn free_parts(&self) {
        let parts = self.store.parts.clone();
        let cleared = tokio::task::spawn_blocking(move || parts.clear()).await;
        if let Ok(Err(error)) = cleared {
            tracing::warn!(%error, "parts of blobs can't be removed; they go when they are old");
        }
    }

    /// The configuration, from the index when another pull brought it.
    async fn config(
        &self,
        name: &str,
        repository: &Repository,
        manifest: &manifest::Manifest,
    ) -> Result<Vec<u8>, Error> {
        let (store, digest) = (self.store.clone(), manifest.config.digest.clone());
        let known = digest.clone();
        let kept = blocking(move || store.document(&digest)).await?;
        // One that the disk has spoilt is fetched like one that is not there.
        if let Some(bytes) = kept.filter(|bytes| Digest::of(known.algorithm(), bytes) == known) {
            return Ok(bytes);
        }
        let fetched = repository.config(&manifest.config).await;
        fetched.map(|bytes| bytes.to_vec()).map_err(|error| Error::registry(name, error))
    }

    /// The right to be the one who makes a layer.
    pub(crate) async fn turn(&self, diff_id: &Digest) -> OwnedMutexGuard<()> {
        let turn = {
            let mut turns = lock(&self.turns);
            turns.retain(|_, turn| turn.strong_count() > 0);
            match turns.get(diff_id).and_then(Weak::upgrade) {
                Some(turn) => turn,
                None => {
                    let turn = Arc::new(tokio::sync::Mutex::new(()));
                    turns.insert(diff_id.clone(), Arc::downgrade(&turn));
                    turn
                }
            }
        };
        turn.lock_owned().await
    }
}

/// Reads the configuration and checks that it has a diff ID for each layer.
pub(crate) fn parse_config(
    name: &str,
    bytes: &[u8],
    manifest: &manifest::Manifest,
) -> Result<(ImageConfig, Vec<Digest>), Error> {
    let what = || format!("the configuration of {name}");
    let (config, diff_ids) = ImageConfig::parse(bytes).map_err(|bad| Error::invalid(what(), bad))?;
    if diff_ids.len() != manifest.layers.len() {
        let why = format!("it has {} diff IDs for {} layers", diff_ids.len(), manifest.layers.len());
        return Err(Error::invalid(what(), why));
    }
    Ok((config, diff_ids))
}

/// Waits for the pull and passes its progress on meanwhile.
async fn watched(
    mut fetching: Fetching,
    mut progress: watch::Receiver<Progress>,
    watcher: &watch::Sender<Progress>,
) -> Result<Arc<Content>, Error> {
    loop {
        let now = progress.borrow_and_update().clone();
        watcher.send_replace(now);
        tokio::select! {
            biased;
            done = &mut fetching => {
                watcher.send_replace(progress.borrow().clone());
                return done;
            }
            // Once the sender is gone the pull is about to be done.
            changed = progress.changed() => if changed.is_err() { return fetching.await },
        }
    }
}

/// Runs what waits for the disk where it may.
pub(crate) async fn blocking<T: Send + 'static>(
    act: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    match tokio::task::spawn_blocking(act).await {
        Ok(result) => result,
        Err(failed) => match failed.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => Err(Error::Cancelled),
        },
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
