//! The daemon's side: what an operator asks and CRI has no words for.

use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::stream::{self, Stream};
use image_service::{Image, Images, Progress, PullRequest};
use proto::operator::operator_server::{Operator, OperatorServer};
use proto::operator::{
    DaemonRequest, DaemonResponse, ExportImageRequest, ImageProgress, ImportImageRequest,
    InspectImageRequest, InspectImageResponse, LayerProgress, ListPullsRequest, ListPullsResponse,
    PullImageRequest, PullUnderWay, StoredImage, VerifyImagesRequest,
};
use tokio::sync::watch;
use tonic::{Request, Response, Status};

use super::work;
use crate::error::Error;

/// More often than this no eye follows.
pub(super) const PROGRESS_EVERY: Duration = Duration::from_millis(100);

/// Answers `berth`.
#[derive(Debug)]
pub struct Service {
    images: Images,
    daemon: DaemonResponse,
}

/// Who the daemon says it is.
#[derive(Debug, Clone)]
pub struct Daemon {
    pub started_at_ns: i64,
    /// The settings that were read, when there were any.
    pub config_file: Option<PathBuf>,
    pub root: PathBuf,
    pub run: PathBuf,
}

/// The service, to be added to the CRI server.
pub fn server(images: Images, daemon: &Daemon) -> OperatorServer<Service> {
    let text = |path: &Path| path.display().to_string();
    let daemon = DaemonResponse {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        started_at_ns: daemon.started_at_ns,
        pid: std::process::id(),
        config_file: daemon.config_file.as_deref().map(text).unwrap_or_default(),
        root: text(&daemon.root),
        run: text(&daemon.run),
    };
    OperatorServer::new(Service { images, daemon })
}

type Answers = Pin<Box<dyn Stream<Item = Result<ImageProgress, Status>> + Send>>;
pub(super) type Work = BoxFuture<'static, Result<Vec<Arc<Image>>, image_service::Error>>;

#[tonic::async_trait]
impl Operator for Service {
    type ImportImageStream = Answers;
    type PullImageStream = Answers;
    type ExportImageStream = Answers;
    type VerifyImagesStream = work::Verifications;

    async fn inspect_image(
        &self,
        request: Request<InspectImageRequest>,
    ) -> Result<Response<InspectImageResponse>, Status> {
        work::inspect(self.images.clone(), request.into_inner().name).await.map(Response::new)
    }

    async fn export_image(&self, request: Request<ExportImageRequest>) -> Result<Response<Answers>, Status> {
        let ExportImageRequest { name, target } = request.into_inner();
        let (work, progress) = work::export(self.images.clone(), name, &target)?;
        Ok(Response::new(follow(work, progress)))
    }

    async fn verify_images(
        &self,
        request: Request<VerifyImagesRequest>,
    ) -> Result<Response<Self::VerifyImagesStream>, Status> {
        Ok(Response::new(work::verify(self.images.clone(), request.into_inner())))
    }

    async fn list_pulls(&self, _: Request<ListPullsRequest>) -> Result<Response<ListPullsResponse>, Status> {
        let word = |pull: image_service::PullUnderWay| PullUnderWay {
            layers: layers(&pull.progress),
            name: pull.name,
            digest: pull.digest.to_string(),
            age_ms: pull.age.as_millis() as u64,
        };
        let pulls = self.images.pulls().into_iter().map(word).collect();
        Ok(Response::new(ListPullsResponse { pulls }))
    }

    async fn daemon(&self, _: Request<DaemonRequest>) -> Result<Response<DaemonResponse>, Status> {
        Ok(Response::new(self.daemon.clone()))
    }

    async fn import_image(&self, request: Request<ImportImageRequest>) -> Result<Response<Answers>, Status> {
        let ImportImageRequest { path, name } = request.into_inner();
        let path = PathBuf::from(path);
        if !path.is_absolute() {
            return Err(Error::Request(format!("path: {} is not absolute", path.display())).into());
        }
        let images = self.images.clone();
        let work = async move {
            let name = Some(name).filter(|name| !name.is_empty());
            images.import(&path, name.as_deref()).await
        };
        Ok(Response::new(follow(Box::pin(work), watch::channel(Progress::default()).1)))
    }

    async fn pull_image(&self, request: Request<PullImageRequest>) -> Result<Response<Answers>, Status> {
        let PullImageRequest { reference, auth_files } = request.into_inner();
        let auth_files = auth_files.into_iter().map(PathBuf::from).collect();
        let (sender, progress) = watch::channel(Progress::default());
        let images = self.images.clone();
        let work = async move {
            let progress = Some(sender);
            let request = PullRequest { reference, auth_files, progress, ..PullRequest::default() };
            images.pull(request).await.map(|image| vec![image])
        };
        Ok(Response::new(follow(Box::pin(work), progress)))
    }
}

/// Progress while the work goes on, then its end. A client that leaves ends it.
fn follow(work: Work, progress: watch::Receiver<Progress>) -> Answers {
    Box::pin(stream::unfold(Some((work::by_a_worker(work), progress)), |state| async {
        let (mut work, mut progress) = state?;
        tokio::select! {
            done = &mut work => Some((done.map(ended).map_err(|e| Error::from(e).into()), None)),
            () = next(&mut progress) => {
                let message = seen(&progress.borrow_and_update());
                Some((Ok(message), Some((work, progress))))
            }
        }
    }))
}

/// Waits for news; for ever when there is none to come.
pub(super) async fn next<T>(progress: &mut watch::Receiver<T>) {
    tokio::time::sleep(PROGRESS_EVERY).await;
    if progress.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
}

fn seen(progress: &Progress) -> ImageProgress {
    ImageProgress { layers: layers(progress), images: Vec::new() }
}

/// How far each layer is, in the words of the service.
pub(super) fn layers(progress: &Progress) -> Vec<LayerProgress> {
    let layer = |layer: &image_service::LayerProgress| LayerProgress {
        digest: layer.digest.to_string(),
        size_bytes: layer.size_bytes,
        done_bytes: layer.done_bytes,
        finished: layer.stage.is_finished(),
    };
    progress.layers.iter().map(layer).collect()
}

fn ended(images: Vec<Arc<Image>>) -> ImageProgress {
    let image = |image: &Arc<Image>| StoredImage {
        id: image.id.clone(),
        repo_tags: image.repo_tags.clone(),
        repo_digests: image.repo_digests.clone(),
        size_bytes: image.size_bytes,
    };
    ImageProgress { layers: Vec::new(), images: images.iter().map(image).collect() }
}
