//! An artifact becomes an image whose one layer is a directory with its files. It has nothing to run; it is for
//! image volumes.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::watch;

use super::layer::Permission;
use super::{LayerStage, LayerWatch, Progress, Pulls, blocking};
use crate::digest::{Digest, Hasher};
use crate::error::Error;
use crate::image::{Accounts, ImageConfig, Layer};
use crate::manifest::ArtifactFile;
use crate::registry::{Repository, Resolved};
use crate::store::{Content, Hold, Ingest};

/// What is written at once.
const BATCH_BYTES: usize = 256 << 10;
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
        for (at, file) in files.iter().enumerate() {
            let place = ingest.path().join(&file.path);
            let directories = fetch.file(file, at, ingest.path(), &place).await?;
            layer.inodes += 1 + directories;
            layer.bytes += file.blob.size.next_multiple_of(ALLOCATION) + directories * ALLOCATION;
        }
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

impl Fetch<'_> {
    /// Fetches and verifies one file; wrong bytes are asked for again of whoever else has them. Says how many
    /// directories it needed.
    async fn file(&self, file: &ArtifactFile, at: usize, root: &Path, place: &Path) -> Result<u64, Error> {
        let directories = make_directories(root, place).map_err(|error| Error::io("making", place, error))?;
        let watch = LayerWatch { progress: self.progress, at };
        loop {
            let found = self.fetch(file, watch, place).await?;
            if found == file.blob.digest {
                return Ok(directories);
            }
            if !self.repository.distrust(&file.blob.digest) {
                let what = format!("file {} of {}", file.path, self.name);
                return Err(Error::Verification { what, why: format!("its digest is {found}") });
            }
            watch.again();
        }
    }

    async fn fetch(&self, file: &ArtifactFile, watch: LayerWatch<'_>, place: &Path) -> Result<Digest, Error> {
        let failed = |error| Error::registry(self.name, error);
        let mut blob = self.repository.blob(&file.blob, 0).await.map_err(failed)?;
        let path = place.to_owned();
        let mut written = blocking(move || Written::begin(path)).await?;
        let mut hasher = Hasher::new(file.blob.digest.algorithm());
        while let Some(bytes) = blob.next().await.map_err(failed)? {
            hasher.update(&bytes);
            watch.came(bytes.len());
            written.batch.extend_from_slice(&bytes);
            if written.batch.len() >= BATCH_BYTES {
                written = blocking(move || written.flush()).await?;
            }
        }
        blocking(move || written.flush()).await?;
        Ok(hasher.finish())
    }
}

/// A file that is being written, a batch at a time.
struct Written {
    file: File,
    path: PathBuf,
    batch: Vec<u8>,
}

impl Written {
    /// Nobody else writes there, and no title can lead outside; still no link is followed.
    fn begin(path: PathBuf) -> Result<Written, Error> {
        let nofollow = rustix::fs::OFlags::NOFOLLOW.bits() as i32;
        let mut options = File::options();
        options.write(true).create(true).truncate(true).mode(0o644).custom_flags(nofollow);
        let opened = options.open(&path).and_then(|file| {
            // The umask is the daemon's own.
            file.set_permissions(std::fs::Permissions::from_mode(0o644))?;
            Ok(file)
        });
        let file = opened.map_err(|error| Error::io("making", &path, error))?;
        Ok(Written { file, path, batch: Vec::with_capacity(BATCH_BYTES) })
    }

    fn flush(mut self) -> Result<Written, Error> {
        self.file.write_all(&self.batch).map_err(|error| Error::io("writing", &self.path, error))?;
        self.batch.clear();
        Ok(self)
    }
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
