//! Where an image goes. Blobs come first, then the documents that name them, then the name.

use std::path::Path;

use bytes::{Bytes, BytesMut};
use tokio::sync::Mutex;

use super::docker_archive::DockerArchive;
use super::layout::Layout;
use super::location::{FileKind, Location};
use super::source::Source;
use super::tarfile::OciArchive;
use crate::digest::{Digest, Hasher};
use crate::error::Error;
use crate::manifest::Descriptor;
use crate::reference::Reference;
use crate::registry::{Raw, Registry, Repository};

/// What is sent at once. A broken connection costs no more; registries take at least this much.
const PIECE_BYTES: usize = 4 << 20;
/// Blobs on their way side by side. Each has a piece or two in memory; more hardly help, since they share the way.
const BLOBS_AT_ONCE: usize = 4;

#[derive(Debug)]
pub(super) enum Target {
    Registry {
        repository: Repository,
        reference: Reference,
    },
    Layout(Layout),
    /// One stream, into which one at a time writes.
    OciArchive(Mutex<OciArchive>),
    DockerArchive(Box<Mutex<DockerArchive>>),
}

/// What became of a blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Taken {
    WasThere,
    Sent,
}

impl Target {
    pub(super) fn open(location: &Location, registry: &Registry) -> Result<Target, Error> {
        let (kind, path, reference) = match location {
            Location::Registry { name } => {
                let reference = Reference::parse(name)?;
                let opened = registry.repository_to_push(&reference, None, &[]);
                let repository = opened.map_err(|error| Error::pushed(name, error))?;
                return Ok(Target::Registry { repository, reference });
            }
            Location::File { kind, path, reference } => (kind, path, reference.clone()),
        };
        match kind {
            FileKind::Layout => Layout::open(path, reference).map(Target::Layout),
            FileKind::OciArchive => {
                OciArchive::create(path, reference).map(|archive| Target::OciArchive(Mutex::new(archive)))
            }
            FileKind::DockerArchive => DockerArchive::create(path, reference)
                .map(|archive| Target::DockerArchive(Box::new(Mutex::new(archive)))),
        }
    }

    /// How many blobs it takes side by side.
    pub(super) fn at_once(&self) -> usize {
        match self {
            Target::Registry { .. } | Target::Layout(_) => BLOBS_AT_ONCE,
            Target::OciArchive(_) | Target::DockerArchive(_) => 1,
        }
    }

    /// Takes a blob unless it is there. `came` hears of each piece that is safe on the other side.
    pub(super) async fn take(
        &self,
        blob: &Descriptor,
        source: &Source,
        came: &mut (dyn FnMut(u64) + Send),
    ) -> Result<Taken, Error> {
        match self {
            Target::Registry { repository, reference } => {
                let pushed = |error| Error::pushed(&reference.to_string(), error);
                if repository.has_blob(blob).await.map_err(pushed)? {
                    return Ok(Taken::WasThere);
                }
                let beside = source.reference().filter(|from| from.domain() == reference.domain());
                if let (Source::Registry { .. }, Some(from)) = (source, beside)
                    && from.path() != reference.path()
                    && repository.mount_blob(&blob.digest, from.path()).await.map_err(pushed)?
                {
                    return Ok(Taken::WasThere);
                }
                upload(repository, reference, blob, source, came).await?;
            }
            Target::Layout(layout) => {
                if layout.has(blob)? {
                    return Ok(Taken::WasThere);
                }
                let mut file = layout.begin(blob)?;
                pour(blob, source, came, |bytes| file.write(bytes)).await?;
                file.commit()?;
            }
            Target::OciArchive(archive) => {
                let mut archive = archive.lock().await;
                archive.begin(blob)?;
                pour(blob, source, came, |bytes| archive.write(bytes)).await?;
                archive.end(blob)?;
            }
            Target::DockerArchive(archive) => {
                let mut archive = archive.lock().await;
                archive.begin(blob)?;
                pour(blob, source, came, |bytes| archive.write(bytes)).await?;
                archive.end(blob)?;
            }
        }
        Ok(Taken::Sent)
    }

    /// Takes a document by its digest; the top gets its name by [`Target::finish`].
    pub(super) async fn document(&mut self, raw: &Raw) -> Result<(), Error> {
        match self {
            Target::Registry { repository, reference } => {
                let (digest, kind) = (raw.digest.as_str(), raw.outline.media_type());
                let put = repository.put_document(digest, kind, &raw.bytes).await;
                put.map_err(|error| Error::pushed(&reference.to_string(), error))
            }
            Target::Layout(layout) => layout.document(raw),
            Target::OciArchive(archive) => archive.get_mut().document(raw),
            Target::DockerArchive(archive) => archive.get_mut().document(raw),
        }
    }

    /// Names the top. Before this nobody sees anything of it. `name` is what it was called where it came from.
    pub(super) async fn finish(&mut self, top: &Raw, name: Option<&Reference>) -> Result<(), Error> {
        match self {
            Target::Registry { repository, reference } => {
                let pushed = |error| Error::pushed(&reference.to_string(), error);
                if let Some(pinned) = reference.digest().filter(|pinned| **pinned != top.digest) {
                    let why = format!("what is copied has the digest {}, and not {pinned}", top.digest);
                    return Err(Error::invalid(reference.to_string(), why));
                }
                let put =
                    repository.put_document(reference.selector(), top.outline.media_type(), &top.bytes).await;
                put.map_err(pushed)
            }
            Target::Layout(layout) => layout.finish(top, name),
            Target::OciArchive(archive) => archive.get_mut().finish(top, name),
            Target::DockerArchive(archive) => archive.get_mut().finish(name),
        }
    }
}

/// Hands a blob on to a file, against its digest and size.
async fn pour(
    blob: &Descriptor,
    source: &Source,
    came: &mut (dyn FnMut(u64) + Send),
    mut write: impl FnMut(&[u8]) -> Result<(), Error>,
) -> Result<(), Error> {
    let mut stream = source.blob(blob, 0).await?;
    let mut hasher = Hasher::new(blob.digest.algorithm());
    let mut count = 0;
    while let Some(bytes) = stream.next().await? {
        hasher.update(&bytes);
        count += bytes.len() as u64;
        write(&bytes)?;
        came(bytes.len() as u64);
    }
    let found = hasher.finish();
    check(blob, count, &found)
}

pub(super) fn check(blob: &Descriptor, count: u64, found: &Digest) -> Result<(), Error> {
    let what = || format!("blob {}", blob.digest);
    if count != blob.size {
        let why = format!("it has {count} bytes and not {}", blob.size);
        return Err(Error::Verification { what: what(), why });
    }
    if *found != blob.digest {
        return Err(Error::Verification { what: what(), why: format!("its digest is {found}") });
    }
    Ok(())
}

/// Sends a blob piece by piece, and goes back to wherever the registry says that it is. It is the registry
/// that compares the digest at the end, since only it knows what it has.
async fn upload(
    repository: &Repository,
    reference: &Reference,
    blob: &Descriptor,
    source: &Source,
    came: &mut (dyn FnMut(u64) + Send),
) -> Result<(), Error> {
    let pushed = |error| Error::pushed(&reference.to_string(), error);
    let mut upload = repository.upload(&blob.digest).await.map_err(pushed)?;
    let mut pieces = Pieces::new(source, blob);
    let mut told = 0;
    loop {
        let length = PIECE_BYTES.max(usize::try_from(upload.min_piece()).unwrap_or(PIECE_BYTES));
        let piece = pieces.at(upload.position(), length).await?;
        if piece.is_empty() {
            if upload.finish().await.map_err(pushed)? {
                return Ok(());
            }
            continue;
        }
        upload.send(piece).await.map_err(pushed)?;
        came(upload.position().saturating_sub(told));
        told = told.max(upload.position());
    }
}

/// Pieces of a blob from wherever they are wanted: the one in hand, the one after it, or the source opened
/// anew at another place.
struct Pieces<'a> {
    source: &'a Source,
    blob: &'a Descriptor,
    stream: Option<super::source::Stream>,
    /// Where the piece in hand begins.
    start: u64,
    piece: Bytes,
    /// What came beyond it.
    rest: Bytes,
}

impl<'a> Pieces<'a> {
    fn new(source: &'a Source, blob: &'a Descriptor) -> Pieces<'a> {
        Pieces { source, blob, stream: None, start: 0, piece: Bytes::new(), rest: Bytes::new() }
    }

    /// At most `length` bytes from `position` on; empty at the end.
    async fn at(&mut self, position: u64, length: usize) -> Result<Bytes, Error> {
        let end = self.start + self.piece.len() as u64;
        if (self.start..end).contains(&position) {
            let skip = usize::try_from(position - self.start).unwrap_or(usize::MAX);
            return Ok(self.piece.slice(skip..));
        }
        if position >= self.blob.size {
            return Ok(Bytes::new());
        }
        if position != end || self.stream.is_none() {
            self.stream = Some(self.source.blob(self.blob, position).await?);
            self.rest = Bytes::new();
        }
        let Some(stream) = &mut self.stream else { return Ok(Bytes::new()) };
        let mut piece = BytesMut::from(&self.rest[..]);
        while piece.len() < length {
            match stream.next().await? {
                Some(bytes) => piece.extend_from_slice(&bytes),
                None => break,
            }
        }
        let mut piece = piece.freeze();
        self.rest = if piece.len() > length { piece.split_off(length) } else { Bytes::new() };
        if piece.is_empty() {
            let why = format!("it ends at byte {position} of {}", self.blob.size);
            return Err(Error::Verification { what: format!("blob {}", self.blob.digest), why });
        }
        (self.start, self.piece) = (position, piece.clone());
        Ok(piece)
    }
}

/// A file that must not be there yet: an archive is written anew, and none is replaced.
pub(super) fn refuse_existing(path: &Path) -> Result<(), Error> {
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(Error::io("looking at", path, error)),
        Ok(_) => Err(Error::invalid(path.display().to_string(), "it is there already; remove it first")),
    }
}
