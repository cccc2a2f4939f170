//! An artifact becomes an image whose one layer is a directory with its files. It has nothing to run; it is for
//! image volumes.

use std::fs::File;
use std::io::{BufRead, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures_util::future::BoxFuture;
use futures_util::{FutureExt, StreamExt, TryStreamExt, stream};
use tokio::sync::watch;

use super::layer::{Permission, Unmade, WantedBlob};
use super::{LayerStage, LayerWatch, Progress, Pulls, blocking};
use crate::digest::{Digest, Hasher};
use crate::error::Error;
use crate::image::{Accounts, ImageConfig, Layer};
use crate::manifest::ArtifactFile;
use crate::registry::{Repository, Resolved};
use crate::store::{Content, Hold, Ingest};

/// Files on their way at once; a large one may have more than one connection.
const FILES_AT_ONCE: usize = 3;
/// What a file of any size is rounded up to on disk, nearly everywhere.
const ALLOCATION: u64 = 4096;

impl Pulls {
    /// The content of an artifact. Its id is its manifest's digest: many artifacts share one empty configuration.
    pub(super) async fn artifact(
        self,
        name: String,
        repository: Repository,
        resolved: Resolved,
        progress: watch::Sender<Progress>,
    ) -> Result<Arc<Content>, Error> {
        let id = resolved.documents.last().map_or_else(|| resolved.digest(), |last| &last.digest).clone();
        let files = &resolved.manifest.files;
        let (hold, stage) = match self.permission(&id).await? {
            Ok(hold) => (hold, LayerStage::WasThere),
            Err(permission) => {
                let fetch = Fetch { name: &name, repository: &repository, progress: &progress };
                (self.make_files(&fetch, &id, files, permission).await?, LayerStage::Fetched)
            }
        };
        for at in 0..files.len() {
            LayerWatch { progress: &progress, at }.finished(stage);
        }
        let documents = resolved.documents.iter();
        let documents = documents.map(|one| (one.digest.clone(), one.bytes.to_vec())).collect();
        let (config, accounts) = (ImageConfig::default(), Accounts::default());
        Ok(Arc::new(Content { id, config, accounts, hold, documents }))
    }

    async fn make_files(
        &self,
        fetch: &Fetch<'_>,
        id: &Digest,
        files: &[ArtifactFile],
        permission: Permission,
    ) -> Result<Hold, Error> {
        let total = files.iter().try_fold(0u64, |sum, file| sum.checked_add(file.blob.size));
        if total.is_none_or(|total| total > self.max_layer_bytes) {
            let why = format!("its files are larger than {} bytes", self.max_layer_bytes);
            return Err(Error::invalid(fetch.name, why));
        }
        let store = self.store.clone();
        let ingest: Ingest = blocking(move || store.ingest()).await?;
        let mut layer = Layer {
            diff_id: id.clone(),
            bytes: 0,
            inodes: 0,
            has_root: true,
            opaque_root: false,
            undescribed: Vec::new(),
        };
        for file in files {
            let place = ingest.path().join(&file.path);
            let made = make_directories(ingest.path(), &place);
            let directories = made.map_err(|error| Error::io("making", &place, error))?;
            layer.inodes += 1 + directories;
            layer.bytes += file.blob.size.next_multiple_of(ALLOCATION) + directories * ALLOCATION;
        }
        let mut fetching: Vec<BoxFuture<'_, Result<(), Error>>> = Vec::with_capacity(files.len());
        for (at, file) in files.iter().enumerate() {
            fetching.push(self.file(fetch, file, at, ingest.path().join(&file.path)).boxed());
        }
        stream::iter(fetching).buffer_unordered(FILES_AT_ONCE).try_collect::<()>().await?;
        let layers = self.store.layers.clone();
        blocking(move || {
            let made = ingest.commit(&layers, layer);
            drop(permission);
            made
        })
        .await
    }
}

/// What all files of one artifact share.
struct Fetch<'a> {
    name: &'a str,
    repository: &'a Repository,
    progress: &'a watch::Sender<Progress>,
}

impl Pulls {
    /// Fetches and verifies one file, by the way of a layer's blob; wrong bytes are asked for again of whoever else has
    /// them.
    async fn file(
        &self,
        fetch: &Fetch<'_>,
        file: &ArtifactFile,
        at: usize,
        place: PathBuf,
    ) -> Result<(), Error> {
        let watch = LayerWatch { progress: fetch.progress, at };
        let (name, repository, descriptor) = (fetch.name, fetch.repository, &file.blob);
        let wanted = WantedBlob { name, repository, descriptor, watch };
        loop {
            let (place, blob) = (place.clone(), file.blob.clone());
            let what = format!("file {} of {name}", file.path);
            let kept = self.fetch_blob(wanted, |pipe, give_up| {
                blocking(move || {
                    let kept = keep(pipe, &place, &blob.digest, what);
                    if kept.is_err() {
                        give_up();
                    }
                    Ok(kept)
                })
                .map(|done| done.map_err(Unmade::from).flatten())
            });
            match kept.await {
                Ok(()) => return Ok(()),
                // What was kept is gone by now, and each endpoint is distrusted once, so this ends.
                Err(unmade) if unmade.resumed => watch.again(),
                Err(unmade) if unmade.wrong_bytes && repository.distrust(&descriptor.digest) => watch.again(),
                Err(unmade) => return Err(unmade.error),
            }
        }
    }
}

/// Writes what comes and holds it against its digest; for a thread that may wait.
fn keep(mut bytes: impl BufRead, place: &Path, digest: &Digest, what: String) -> Result<(), Unmade> {
    let mut file = begin(place)?;
    let mut hasher = Hasher::new(digest.algorithm());
    loop {
        let piece = bytes.fill_buf().map_err(|error| Error::io("bringing the bytes of", place, error))?;
        if piece.is_empty() {
            break;
        }
        file.write_all(piece).map_err(|error| Error::io("writing", place, error))?;
        hasher.update(piece);
        let length = piece.len();
        bytes.consume(length);
    }
    let found = hasher.finish();
    if found == *digest {
        return Ok(());
    }
    let error = Error::Verification { what, why: format!("its digest is {found}") };
    Err(Unmade { wrong_bytes: true, ..Unmade::from(error) })
}

/// Nobody else writes there, and no title can lead outside; still no link is followed.
fn begin(path: &Path) -> Result<File, Error> {
    let nofollow = rustix::fs::OFlags::NOFOLLOW.bits() as i32;
    let mut options = File::options();
    options.write(true).create(true).truncate(true).mode(0o644).custom_flags(nofollow);
    let opened = options.open(path).and_then(|file| {
        // The umask is the daemon's own.
        file.set_permissions(std::fs::Permissions::from_mode(0o644))?;
        Ok(file)
    });
    opened.map_err(|error| Error::io("making", path, error))
}

/// The directories of a title, which is plain. Says how many were made.
fn make_directories(root: &Path, place: &Path) -> std::io::Result<u64> {
    let parent = place.parent().unwrap_or(root);
    let inside = parent.strip_prefix(root).unwrap_or(Path::new(""));
    let (mut here, mut made) = (root.to_owned(), 0);
    for part in inside.components() {
        here.push(part);
        match std::fs::DirBuilder::new().mode(0o755).create(&here) {
            Ok(()) => {
                std::fs::set_permissions(&here, std::fs::Permissions::from_mode(0o755))?;
                made += 1;
            }
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
    Ok(made)
}
