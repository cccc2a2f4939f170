//! The ImageService of the CRI.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use base64::Engine;
use futures_util::stream::{self, BoxStream, StreamExt};
use image_service::{Credentials, Image, LayerStage, Progress, PullRequest, Usage};
use proto::v1::image_service_server::ImageService;
use proto::{List, ListImagesResponse, v1};
use tokio::sync::watch;
use tonic::{Request, Status};

use super::lists::Encoded;
use super::{Reply, answer};
use crate::error::Error;
use crate::metrics::Pulled;
use crate::node::Node;

/// Hears for a node.
#[derive(Debug, Clone)]
pub struct Images {
    node: Arc<Node>,
    listed: Arc<Encoded<Image>>,
}

/// Images in one message of a streamed list.
const STREAM_ITEMS: usize = 1000;

#[tonic::async_trait]
impl ImageService for Images {
    type StreamImagesStream = BoxStream<'static, Result<v1::StreamImagesResponse, Status>>;

    async fn list_images(&self, request: Request<v1::ListImagesRequest>) -> Reply<ListImagesResponse> {
        let work = async {
            let all = self.node.images.list();
            let found = self.found(&all, request.into_inner().filter);
            let named = found.iter().map(|image| (image.id.as_str(), image));
            let encoded = self.listed.of(named, all.len(), |image| List::encoded(&words(image)));
            Ok(List { items: Vec::new(), encoded })
        };
        answer(&self.node.metrics, "ListImages", work).await
    }

    async fn stream_images(
        &self,
        request: Request<v1::StreamImagesRequest>,
    ) -> Reply<Self::StreamImagesStream> {
        let work = async {
            let all = self.node.images.list();
            let images = self.found(&all, request.into_inner().filter);
            let all_words = |piece: &[Arc<Image>]| piece.iter().map(|image| words(image)).collect();
            let pieces: Vec<_> = images
                .chunks(STREAM_ITEMS)
                .map(|piece| Ok(v1::StreamImagesResponse { images: all_words(piece) }))
                .collect();
            Ok(stream::iter(pieces).boxed())
        };
        answer(&self.node.metrics, "StreamImages", work).await
    }

    /// A missing image is an empty answer, not an error.
    async fn image_status(&self, request: Request<v1::ImageStatusRequest>) -> Reply<v1::ImageStatusResponse> {
        let request = request.into_inner();
        let work = async {
            let Some(found) = self.node.images.find(&name(request.image)?) else {
                return Ok(v1::ImageStatusResponse::default());
            };
            let info = if request.verbose { info(&found) } else { HashMap::new() };
            Ok(v1::ImageStatusResponse { image: Some(words(&found)), info })
        };
        answer(&self.node.metrics, "ImageStatus", work).await
    }

    async fn pull_image(&self, request: Request<v1::PullImageRequest>) -> Reply<v1::PullImageResponse> {
        let request = request.into_inner();
        let work = async {
            let reference = name(request.image)?;
            let credentials = request.auth.map(credentials).transpose()?.flatten();
            let pod = request.sandbox_config.unwrap_or_default();
            let pod_cgroup = self.pod_cgroup(pod.linux)?;
            let namespace = pod.metadata.map(|metadata| metadata.namespace);
            let (progress, layers) = watch::channel(Progress::default());
            let progress = Some(progress);
            let auth_files = Vec::new();
            let pull = PullRequest { reference, credentials, namespace, auth_files, pod_cgroup, progress };
            let image =
                Box::pin(self.node.images.pull(pull)).await.map_err(|error| self.not_pulled(error))?;
            self.node.metrics.pulled(pulled(&layers.borrow()));
            Ok(v1::PullImageResponse { image_ref: image.id.clone() })
        };
        answer(&self.node.metrics, "PullImage", work).await
    }

    async fn remove_image(&self, request: Request<v1::RemoveImageRequest>) -> Reply<v1::RemoveImageResponse> {
        let request = request.into_inner();
        let work = async {
            self.node.images.remove(&name(request.image)?).await?;
            Ok(v1::RemoveImageResponse {})
        };
        answer(&self.node.metrics, "RemoveImage", work).await
    }

    async fn image_fs_info(&self, _: Request<v1::ImageFsInfoRequest>) -> Reply<v1::ImageFsInfoResponse> {
        let node = self.node.clone();
        let work = async move {
            let at_ns = node.now_ns();
            let images = node.images.clone();
            let used = tokio::task::spawn_blocking(move || (images.usage(), images.container_usage())).await;
            let (images, containers) = used.map_err(|_| Error::Stopping)?;
            let words = |usage: Usage| {
                let path = usage.path.display().to_string();
                crate::stats::filesystem_usage(at_ns, &path, usage.bytes, usage.inodes)
            };
            Ok(v1::ImageFsInfoResponse {
                image_filesystems: vec![words(images)],
                container_filesystems: vec![words(containers)],
            })
        };
        answer(&self.node.metrics, "ImageFsInfo", work).await
    }
}

impl Images {
    pub fn new(node: Arc<Node>) -> Self {
        Self { node, listed: Arc::default() }
    }

    /// Where the pod's cgroup is, when pulls are counted there.
    fn pod_cgroup(&self, pod: Option<v1::LinuxPodSandboxConfig>) -> Result<Option<String>, Error> {
        let parent = pod.map(|linux| linux.cgroup_parent).filter(|parent| !parent.is_empty());
        match parent {
            Some(parent) if self.node.config().image.separate_pull_cgroup == "pod" => {
                let driver = self.node.config().runtime.cgroup_driver;
                Ok(Some(crate::sandbox::plan::cgroup_parent(&parent, driver)?))
            }
            _ => Ok(None),
        }
    }

    fn not_pulled(&self, error: image_service::Error) -> Error {
        use image_service::Error as E;
        self.node.metrics.pull_failed(match error {
            E::NotFound { .. } => "not_found",
            E::RegistryUnavailable { .. } => "unavailable",
            E::Unauthorized { .. } => "unauthorized",
            E::Policy(_) => "policy",
            E::DiskFull { .. } => "disk_full",
            E::Verification { .. } | E::Layer { .. } | E::Invalid { .. } | E::Unusable { .. } => "unusable",
            _ => "other",
        });
        error.into()
    }

    fn found<'a>(&self, all: &'a [Arc<Image>], filter: Option<v1::ImageFilter>) -> Cow<'a, [Arc<Image>]> {
        let wanted = filter.and_then(|filter| filter.image).map(|image| image.image).unwrap_or_default();
        match wanted.as_str() {
            "" => all.into(),
            wanted => Vec::from_iter(self.node.images.find(wanted)).into(),
        }
    }
}

fn pulled(progress: &Progress) -> Pulled {
    let mut pulled = Pulled::default();
    for layer in &progress.layers {
        match layer.stage {
            LayerStage::WasThere => {
                pulled.skipped_bytes += layer.size_bytes;
                pulled.reused_layers += 1;
            }
            LayerStage::Fetched => pulled.fetched_bytes += layer.size_bytes,
            LayerStage::Coming => {}
        }
    }
    pulled
}

fn name(spec: Option<v1::ImageSpec>) -> Result<String, Error> {
    match spec.map(|spec| spec.image) {
        Some(name) if !name.is_empty() => Ok(name),
        _ => Err(Error::Request("image: is missing".into())),
    }
}

fn words(image: &Image) -> v1::Image {
    let (uid, username) = user(&image.config.user);
    v1::Image {
        id: image.id.clone(),
        repo_tags: image.repo_tags.clone(),
        repo_digests: image.repo_digests.clone(),
        size: image.size_bytes,
        uid,
        username,
        spec: Some(v1::ImageSpec { image: image.id.clone(), ..Default::default() }),
        pinned: image.pinned,
    }
}

/// The user of `USER user[:group]`: a number or a name.
fn user(user: &str) -> (Option<v1::Int64Value>, String) {
    let name = user.split(':').next().unwrap_or_default();
    match name.parse() {
        Ok(value) => (Some(v1::Int64Value { value }), String::new()),
        Err(_) => (None, name.into()),
    }
}

/// What `crictl inspecti` shows.
fn info(image: &Image) -> HashMap<String, String> {
    let config = &image.config;
    let spec = serde_json::json!({
        "created": config.created,
        "author": config.author,
        "architecture": config.architecture,
        "os": config.os,
        "config": {
            "User": config.user,
            "ExposedPorts": config.exposed_ports.iter().map(|port| (port, serde_json::json!({}))).collect::<HashMap<_, _>>(),
            "Env": config.env,
            "Entrypoint": config.entrypoint,
            "Cmd": config.cmd,
            "Volumes": config.volumes.iter().map(|path| (path, serde_json::json!({}))).collect::<HashMap<_, _>>(),
            "WorkingDir": config.working_dir,
            "Labels": config.labels,
            "StopSignal": config.stop_signal,
        },
        "layers": image.layers.iter().map(|layer| serde_json::json!(layer)).collect::<Vec<_>>(),
    });
    HashMap::from([("info".to_string(), serde_json::json!({ "imageSpec": spec }).to_string())])
}

/// The kubelet gives a name and password, or both in `auth`, or a token.
fn credentials(auth: v1::AuthConfig) -> Result<Option<Credentials>, Error> {
    if auth == v1::AuthConfig::default() {
        return Ok(None);
    }
    let (username, password) = match (auth.username.as_str(), auth.auth.as_str()) {
        ("", encoded) if !encoded.is_empty() => decode(encoded)?,
        _ => (auth.username, auth.password),
    };
    Ok(Some(Credentials {
        username,
        password,
        identity_token: auth.identity_token,
        registry_token: auth.registry_token,
        server_address: auth.server_address,
    }))
}

/// `base64(name:password)`. What it says is not repeated in errors.
fn decode(encoded: &str) -> Result<(String, String), Error> {
    let broken = || Error::Request("auth.auth: is not a name and a password in base64".into());
    let bytes = base64::engine::general_purpose::STANDARD.decode(encoded.trim()).map_err(|_| broken())?;
    let text = String::from_utf8(bytes).map_err(|_| broken())?;
    let (name, password) = text.split_once(':').ok_or_else(broken)?;
    Ok((name.into(), password.trim_end_matches('\0').into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_images_user_is_a_number_or_a_name() {
        let check = |text: &str, uid: Option<i64>, name: &str| {
            assert_eq!(user(text), (uid.map(|value| v1::Int64Value { value }), name.to_string()), "{text}");
        };
        check("", None, "");
        check("1002", Some(1002), "");
        check("1003:1004", Some(1003), "");
        check("www-data", None, "www-data");
        check("www-data:1004", None, "www-data");
    }

    #[test]
    fn credentials_come_apart_or_together() {
        let auth = |auth: &str| v1::AuthConfig { auth: auth.into(), ..Default::default() };
        assert!(credentials(v1::AuthConfig::default()).unwrap().is_none());
        let found = credentials(auth("bWU6c2VjcmV0")).unwrap().unwrap();
        assert_eq!((found.username.as_str(), found.password.as_str()), ("me", "secret"));
        let error = credentials(auth("bm9jb2xvbg==")).unwrap_err();
        assert!(error.to_string().contains("auth.auth"));
    }
}
