//! The registry client against Debian's docker-registry and against servers that misbehave.

mod auth;
mod good;
mod hostile;
mod hosts;
mod mirrors;
mod referrers;
mod secure;

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use image_service::auth::Credentials;
use image_service::manifest::Descriptor;
use image_service::platform::Platform;
use image_service::reference::Reference;
use image_service::registries_conf::RegistriesConf;
use image_service::registry::{Error, Patience, Proxies, Registry, Repository, Resolved, Settings};

/// Settings in which nothing waits long and nothing comes from this machine.
fn settings(registries_conf: &str) -> Settings {
    let mut registries = RegistriesConf::default();
    registries.add(registries_conf, Path::new("test.conf")).unwrap();
    let patience = Patience {
        connect: Duration::from_secs(5),
        answer: Duration::from_secs(2),
        idle: Duration::from_millis(500),
        window: Duration::from_millis(1500),
        floor_bytes: 1000,
        attempts: 3,
        pause: Duration::from_millis(10),
        retry_after: Duration::from_secs(2),
    };
    let none = String::new;
    let proxies = Proxies::Given { http: none(), https: none(), no: none() };
    Settings { registries, patience, proxies, ..Settings::default() }
}

/// A client that takes these hosts without TLS.
fn client(insecure: &[&str]) -> Registry {
    Registry::new(settings(&insecure_conf(insecure)))
}

fn insecure_conf(hosts: &[&str]) -> String {
    hosts.iter().map(|host| format!("[[registry]]\nlocation='{host}'\ninsecure=true\n")).collect()
}

fn repository(registry: &Registry, reference: &str, credentials: Option<&Credentials>) -> Repository {
    registry.repository(&Reference::parse(reference).unwrap(), credentials).unwrap()
}

fn amd64() -> Platform {
    Platform::parse("linux/amd64").unwrap()
}

#[derive(Debug)]
struct Pulled {
    resolved: Resolved,
    config: Bytes,
    layer: Vec<u8>,
}

/// What a pull asks for, in its order.
async fn pull(
    registry: &Registry,
    reference: &str,
    credentials: Option<&Credentials>,
) -> Result<Pulled, Error> {
    let repository = registry.repository(&Reference::parse(reference).unwrap(), credentials)?;
    let resolved = repository.resolve(&amd64()).await?;
    let config = repository.config(&resolved.manifest.config).await?;
    let layer = fetch(&repository, &resolved.manifest.layers[0].descriptor, 0).await?;
    Ok(Pulled { resolved, config, layer })
}

async fn fetch(repository: &Repository, descriptor: &Descriptor, offset: u64) -> Result<Vec<u8>, Error> {
    let mut blob = repository.blob(descriptor, offset).await?;
    let mut bytes = Vec::new();
    while let Some(more) = blob.next().await? {
        bytes.extend_from_slice(&more);
    }
    Ok(bytes)
}

fn user(name: &str, password: &str) -> Credentials {
    Credentials { username: name.to_owned(), password: password.to_owned(), ..Credentials::default() }
}
