//! The daemon's side of `berth image export`, `inspect` and `verify`.

use std::path::PathBuf;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use futures_util::stream;
use image_service::transfer::{self, Inspected, Location};
use image_service::{Images, Outcome, Progress, Repair, Verified, Verifying};
use proto::operator::{
    Finding, InspectImageResponse, Outcome as Word, VerifyImagesRequest, VerifyProgress, VerifyReport,
};
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;
use tonic::Status;
use tracing::Instrument as _;

use super::service::{Work, next};
use crate::error::Error;

/// Has a worker do it, until the client goes away. What a stream does by itself is done where it is sent, by the
/// one thread that hears: there it would keep everybody waiting, and may not wait itself.
pub(super) fn by_a_worker<T: Send + 'static>(
    work: impl Future<Output = Result<T, image_service::Error>> + Send + 'static,
) -> BoxFuture<'static, Result<T, image_service::Error>> {
    let work = AbortOnDropHandle::new(tokio::spawn(work.in_current_span()));
    Box::pin(async { work.await.unwrap_or(Err(image_service::Error::Cancelled)) })
}

/// Writes an image to a layout or an archive, in a thread that may wait for the disk. A client that leaves does
/// not stop it: half an archive is removed in any case, and a whole one is what was asked for.
pub(super) fn export(
    images: Images,
    name: String,
    target: &str,
) -> Result<(Work, watch::Receiver<Progress>), Error> {
    let location = Location::read(target).map_err(|error| Error::Request(format!("target: {error}")))?;
    if let Location::File { path, .. } = &location
        && !path.is_absolute()
    {
        return Err(Error::Request(format!("target: {} is not absolute", path.display())));
    }
    let (sender, progress) = watch::channel(Progress::default());
    let write = move || transfer::export(&images, &name, &location, &sender).map(|_| Vec::new());
    let work =
        async { tokio::task::spawn_blocking(write).await.unwrap_or(Err(image_service::Error::Cancelled)) };
    Ok((Box::pin(work), progress))
}

/// What the node has of an image.
pub(super) async fn inspect(images: Images, name: String) -> Result<InspectImageResponse, Status> {
    let look = move || transfer::inspect_stored(&images, &name);
    let found: Inspected =
        tokio::task::spawn_blocking(look).await.map_err(|_| Error::Stopping)?.map_err(Error::from)?;
    Ok(InspectImageResponse {
        name: found.name,
        digest: found.digest.map(|digest| digest.to_string()).unwrap_or_default(),
        tags: found.tags,
        raw: found.raw.into(),
        manifest: found.manifest.into(),
        config: found.config.into(),
    })
}

pub(super) type Verifications =
    std::pin::Pin<Box<dyn futures_util::Stream<Item = Result<VerifyProgress, Status>> + Send>>;

/// Progress while images are verified, then what was found. A client that leaves ends it.
pub(super) fn verify(images: Images, request: VerifyImagesRequest) -> Verifications {
    let (sender, progress) = watch::channel(Verifying::default());
    let images = Arc::new(images);
    let work = async move {
        let repair = match request.repair {
            true => Repair::Mend { auth_files: request.auth_files.iter().map(PathBuf::from).collect() },
            false => Repair::Leave,
        };
        images.verify(&request.names, &repair, sender).await
    };
    Box::pin(stream::unfold(Some((by_a_worker(work), progress)), |state| async {
        let (mut work, mut progress) = state?;
        tokio::select! {
            done = &mut work => Some((done.map(reported).map_err(|error| Error::from(error).into()), None)),
            () = next(&mut progress) => {
                let now = progress.borrow_and_update().clone();
                let message = VerifyProgress { done: now.done as u64, all: now.all as u64, report: None };
                Some((Ok(message), Some((work, progress))))
            }
        }
    }))
}

fn reported(verified: Verified) -> VerifyProgress {
    let (images, layers) = (verified.images as u64, verified.layers as u64);
    let findings = verified.findings.into_iter().map(word).collect();
    let report = VerifyReport { images, layers, findings };
    VerifyProgress { done: images + layers, all: images + layers, report: Some(report) }
}

fn word(finding: image_service::Finding) -> Finding {
    let (outcome, hindrance) = match finding.outcome {
        Outcome::Unknown => (Word::Unknown, String::new()),
        Outcome::Left => (Word::Left, String::new()),
        Outcome::Mended => (Word::Mended, String::new()),
        Outcome::Not(why) => (Word::NotMended, why),
    };
    let (image, object, why) = (finding.image, finding.object, finding.why);
    Finding { image, object, why, outcome: outcome.into(), hindrance }
}
