//! Registries to pull from: Debian's `docker-registry` as a process, and a small
//! read-only one inside this process for the demo.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use http_body_util::Full;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use oci_client::client::{Client, ClientConfig, ClientProtocol};
use oci_client::secrets::RegistryAuth;
use oci_client::{Reference, RegistryOperation};

use crate::image::{Built, Manifest};

/// How long Debian's registry may take to answer its first request.
const START_LIMIT: Duration = Duration::from_secs(20);

/// A running `docker-registry`, ended when dropped.
#[derive(Debug)]
pub struct DockerRegistry {
    child: Child,
    address: SocketAddr,
}

impl DockerRegistry {
    /// Starts it on a free port of 127.0.0.1 with its storage in `dir`.
    pub fn start(dir: &Path) -> Result<DockerRegistry> {
        let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
        DockerRegistry::start_at(dir, address)
    }

    pub fn start_at(dir: &Path, address: SocketAddr) -> Result<DockerRegistry> {
        let config_file = dir.join("registry.yml");
        std::fs::create_dir_all(dir)?;
        std::fs::write(&config_file, configuration(&dir.join("storage"), address))?;
        let log = std::fs::File::create(dir.join("registry.log"))?;
        let child = Command::new("docker-registry")
            .arg("serve")
            .arg(&config_file)
            .env("OTEL_TRACES_EXPORTER", "none")
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("starting docker-registry (Debian's package of that name)")?;
        let registry = DockerRegistry { child, address };
        registry.wait_until_ready()?;
        Ok(registry)
    }

    fn wait_until_ready(&self) -> Result<()> {
        let start = Instant::now();
        while std::net::TcpStream::connect(self.address).is_err() {
            if start.elapsed() > START_LIMIT {
                bail!("docker-registry does not listen on {} after {START_LIMIT:?}", self.address);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Nobody answers any more.
    pub fn stop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }

    /// Pushes an image under `repository`, with these tags, through the registry's own API.
    pub async fn push(&self, repository: &str, tags: &[&str], image: &Built) -> Result<()> {
        // The client wants a TLS provider even for plain HTTP; a second installation is refused, and fine.
        rustls::crypto::ring::default_provider().install_default().ok();
        let client = Client::new(ClientConfig { protocol: ClientProtocol::Http, ..Default::default() });
        let at = |tag: &str| Reference::with_tag(self.address.to_string(), repository.into(), tag.into());
        let target = at("push");
        client.auth(&target, &RegistryAuth::Anonymous, RegistryOperation::Push).await?;
        for (digest, blob) in &image.blobs {
            client.push_blob(&target, Bytes::from(blob.clone()), digest).await?;
        }
        for child in &image.children {
            let by_digest =
                Reference::with_digest(self.address.to_string(), repository.into(), child.digest());
            push_manifest(&client, &by_digest, child).await?;
        }
        if tags.is_empty() {
            let by_digest =
                Reference::with_digest(self.address.to_string(), repository.into(), image.top.digest());
            push_manifest(&client, &by_digest, &image.top).await?;
        }
        for tag in tags {
            push_manifest(&client, &at(tag), &image.top).await?;
        }
        Ok(())
    }
}

async fn push_manifest(client: &Client, target: &Reference, manifest: &Manifest) -> Result<()> {
    let media_type = http::HeaderValue::from_static(manifest.media_type);
    client
        .push_manifest_raw(target, manifest.body.clone(), media_type)
        .await
        .with_context(|| format!("pushing {target}"))?;
    Ok(())
}

impl Drop for DockerRegistry {
    fn drop(&mut self) {
        self.stop();
    }
}

fn configuration(storage: &Path, address: SocketAddr) -> String {
    format!(
        "version: 0.1\n\
         log:\n  level: warn\n  accesslog:\n    disabled: true\n\
         storage:\n  delete:\n    enabled: true\n  filesystem:\n    rootdirectory: {}\n\
         http:\n  addr: {address}\n  secret: berth-tests\n",
        storage.display()
    )
}

/// A read-only registry in this process, over plain HTTP on 127.0.0.1.
#[derive(Debug)]
pub struct EmbeddedRegistry {
    address: SocketAddr,
    task: tokio::task::JoinHandle<()>,
}

type Content = Arc<BTreeMap<String, (String, Bytes)>>;

impl EmbeddedRegistry {
    /// Serves `image` as `repository`, by tag and by digest.
    pub async fn serve(repository: &str, tag: &str, image: &Built) -> Result<EmbeddedRegistry> {
        let content = Arc::new(contents(repository, tag, image));
        let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let task = tokio::spawn(accept(listener, content));
        Ok(EmbeddedRegistry { address, task })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for EmbeddedRegistry {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn contents(repository: &str, tag: &str, image: &Built) -> BTreeMap<String, (String, Bytes)> {
    let mut content = BTreeMap::new();
    content.insert("/v2/".to_owned(), ("application/json".to_owned(), Bytes::from_static(b"{}")));
    let manifests = image.children.iter().chain([&image.top]);
    for manifest in manifests {
        let value = (manifest.media_type.to_owned(), Bytes::from(manifest.body.clone()));
        content.insert(format!("/v2/{repository}/manifests/{}", manifest.digest()), value);
    }
    let top = (image.top.media_type.to_owned(), Bytes::from(image.top.body.clone()));
    content.insert(format!("/v2/{repository}/manifests/{tag}"), top);
    for (digest, blob) in &image.blobs {
        let value = ("application/octet-stream".to_owned(), Bytes::from(blob.clone()));
        content.insert(format!("/v2/{repository}/blobs/{digest}"), value);
    }
    content
}

async fn accept(listener: tokio::net::TcpListener, content: Content) {
    while let Ok((stream, _)) = listener.accept().await {
        let content = content.clone();
        tokio::spawn(async move {
            let service = service_fn(|request| {
                let answer = answer(&content, &request);
                async move { Ok::<_, std::convert::Infallible>(answer) }
            });
            hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .await
                .ok();
        });
    }
}

fn answer<B>(content: &Content, request: &hyper::Request<B>) -> hyper::Response<Full<Bytes>> {
    let response = hyper::Response::builder();
    let Some((media_type, body)) = content.get(request.uri().path()) else {
        return response.status(404).body(Full::default()).expect("a plain response");
    };
    let sent = if request.method() == hyper::Method::HEAD { Bytes::new() } else { body.clone() };
    response
        .header("content-type", media_type)
        .header("content-length", body.len())
        .header("docker-content-digest", crate::image::digest(body))
        .body(Full::new(sent))
        .expect("a plain response")
}
