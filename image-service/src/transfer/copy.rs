//! One image, or all of an index, from a source to a target.

use std::collections::HashSet;
use std::path::PathBuf;

use futures_util::{FutureExt, StreamExt, TryStreamExt, stream};
use tokio::sync::watch;

use super::location::{FileKind, Location};
use super::source::Source;
use super::target::{Taken, Target};
use crate::digest::Digest;
use crate::error::Error;
use crate::images::Settings;
use crate::manifest::{self, ArtifactManifest, Descriptor, MAX_ENTRIES, MAX_INDEX_DEPTH, Outline};
use crate::platform::Platform;
use crate::pull::{LayerProgress, LayerStage, Progress};
use crate::registry::{Raw, Registry};

/// What is to be copied.
#[derive(Debug)]
pub struct Copy {
    pub source: Location,
    pub target: Location,
    /// Every image of an index, and the index; else the one for `platform`.
    pub all: bool,
    pub platform: Platform,
    /// Looked at before the node's own files with credentials.
    pub auth_files: Vec<PathBuf>,
    pub progress: watch::Sender<Progress>,
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Copied {
    /// Of what the target's name means now.
    pub digest: Digest,
    pub sent: usize,
    /// Blobs that the target had.
    pub were_there: usize,
}

/// Copies. Blobs go before the documents that name them, and the name comes last, so whoever looks at the
/// target meanwhile sees the old image or the new one.
///
/// # Errors
/// When the policy refuses the image, something is not what its digest says, or one side fails. What the
/// target then has of it has no name.
pub async fn copy(settings: &Settings, order: Copy) -> Result<Copied, Error> {
    let registry = super::registry(settings, &order.auth_files)?;
    let source = Source::open(&order.source, &registry, settings)?;
    let top = source.top().await?;
    let documents = if order.all {
        all(&source, settings, top).await?
    } else {
        one(&source, settings, &order, top).await?
    };
    pour(&source, &order.target, &registry, &documents, &order.progress).await
}

/// The documents, the top last, and before them all that they name.
pub(super) async fn pour(
    source: &Source,
    to: &Location,
    registry: &Registry,
    documents: &[Raw],
    progress: &watch::Sender<Progress>,
) -> Result<Copied, Error> {
    let one_image = matches!(to, Location::File { kind: FileKind::DockerArchive, .. });
    if one_image && documents.len() > 1 {
        let why = "a docker archive holds one image; leave --all away, or write an oci-archive";
        return Err(Error::invalid(to.to_string(), why));
    }
    let Some(top) = documents.last() else {
        return Err(Error::invalid(to.to_string(), "nothing goes there"));
    };
    let blobs = blobs(documents)?;
    progress.send_replace(Progress { layers: blobs.iter().map(expected).collect() });
    let mut target = Target::open(to, registry)?;
    let taken =
        blobs.iter().enumerate().map(|(at, blob)| take(&target, source, blob, (progress, at)).boxed());
    let taken: Vec<Taken> = stream::iter(taken).buffer_unordered(target.at_once()).try_collect().await?;
    for document in documents {
        target.document(document).await?;
    }
    target.finish(top, source.reference()).await?;
    let sent = taken.iter().filter(|taken| **taken == Taken::Sent).count();
    Ok(Copied { digest: top.digest.clone(), sent, were_there: taken.len() - sent })
}

/// One blob, which is at its place in the progress.
async fn take(
    target: &Target,
    source: &Source,
    blob: &Descriptor,
    (progress, at): (&watch::Sender<Progress>, usize),
) -> Result<Taken, Error> {
    let mut came = |bytes| progress.send_modify(|all| all.layers[at].done_bytes += bytes);
    let taken = target.take(blob, source, &mut came).await?;
    let stage = match taken {
        Taken::Sent => LayerStage::Fetched,
        Taken::WasThere => LayerStage::WasThere,
    };
    progress.send_modify(|all| (all.layers[at].done_bytes, all.layers[at].stage) = (blob.size, stage));
    Ok(taken)
}

fn expected(blob: &Descriptor) -> LayerProgress {
    let digest = blob.digest.clone();
    LayerProgress { digest, size_bytes: blob.size, done_bytes: 0, stage: LayerStage::Coming }
}

/// The image for the platform alone.
async fn one(source: &Source, settings: &Settings, order: &Copy, top: Raw) -> Result<Vec<Raw>, Error> {
    let way = source.follow(top, &order.platform).await?;
    source.verify(settings, &way).await?;
    Ok(way.into_iter().last().into_iter().collect())
}

/// Everything that the top names, each after what it names itself.
async fn all(source: &Source, settings: &Settings, top: Raw) -> Result<Vec<Raw>, Error> {
    let mut done = Vec::new();
    let mut seen = HashSet::from([top.digest.clone()]);
    // The way down to where we are; of each index, which entry is next.
    let mut way = vec![(top, 0)];
    while let Some((here, next)) = way.last_mut() {
        let entry = match &here.outline {
            Outline::Index(index) => index.manifests.get(*next).cloned(),
            Outline::Manifest(_) => None,
        };
        *next += 1;
        match entry {
            None => {
                if matches!(here.outline, Outline::Manifest(_)) {
                    let documents: Vec<Raw> = way.iter().map(|(raw, _)| raw.clone()).collect();
                    source.verify(settings, &documents).await?;
                }
                done.extend(way.pop().map(|(raw, _)| raw));
            }
            Some(entry) if seen.contains(&entry.digest) => {}
            Some(entry) => {
                if way.len() > MAX_INDEX_DEPTH || seen.len() > MAX_ENTRIES {
                    return Err(Error::invalid("the index", "it names too many documents, or too deep"));
                }
                seen.insert(entry.digest.clone());
                way.push((source.document(&entry).await?, 0));
            }
        }
    }
    Ok(done)
}

/// Every blob once, in the order in which they are named. What lies outside the registry is not copied: nobody
/// could say whether it is what it should be.
fn blobs(documents: &[Raw]) -> Result<Vec<Descriptor>, Error> {
    let mut blobs: Vec<Descriptor> = Vec::new();
    let mut seen = HashSet::new();
    for document in documents {
        let Outline::Manifest(ArtifactManifest { config, layers, .. }) = &document.outline else { continue };
        for blob in std::iter::once(config).chain(layers) {
            let kind = blob.media_type.as_str();
            if kind.contains(".nondistributable.") || kind.contains(".foreign.") {
                let foreign = manifest::Error::ForeignLayer(blob.digest.clone());
                return Err(Error::invalid(document.digest.to_string(), foreign));
            }
            if seen.insert(blob.digest.clone()) {
                blobs.push(blob.clone());
            }
        }
    }
    Ok(blobs)
}
