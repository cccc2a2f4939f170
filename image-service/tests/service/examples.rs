//! The examples in `contrib/images` mean what their comments say.

use std::path::Path;

use image_service::{Images, Settings, explain};
use serde_json::json;

use crate::support::fake::{Fake, Reply};
use crate::support::shelf::{image, request, tar};
use crate::support::tls::Authority;

fn check(name: &str, lines: &[&str]) {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../contrib/images");
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(dir.path().join("certs.d/ghcr.io")).unwrap();
    std::fs::copy(examples.join("hosts.toml"), dir.path().join("certs.d/ghcr.io/hosts.toml")).unwrap();
    let mut settings = Settings::new(dir.path());
    settings.registries_conf = examples.join("registries.conf");
    settings.registries_conf_dir = dir.path().join("none");
    settings.certs_dirs = vec![dir.path().join("certs.d")];
    settings.auth_files = vec![examples.join("auth.json")];
    settings.policy = dir.path().join("none");
    let told = match explain(&settings, name, None) {
        Ok(found) => found.iter().map(ToString::to_string).collect::<String>(),
        Err(error) => {
            let source = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
            format!("{error}: {source}")
        }
    };
    let mut rest = told.as_str();
    for line in lines {
        let at = rest.find(line);
        assert!(at.is_some(), "{name}: {line:?} is not said, or not in this order:\n{told}");
        rest = &rest[at.unwrap()..];
    }
}

#[test]
fn the_examples_send_pulls_where_they_say() {
    let digest =
        "registry.k8s.io/pause@sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    check(
        "registry.k8s.io/pause:3.9",
        &[
            "1. mirror mirror.example.com:5000/k8s/pause by https, credentials for mirror.example.com:5000",
            "2. registry registry.k8s.io/pause by https, no credentials",
        ],
    );
    check(digest, &["1. mirror mirror.example.com", "2. mirror cache.example.com/k8s/pause", "3. registry"]);
    check("lab.example.com:5000/x", &["1. registry lab.example.com:5000/x by https unverified, then http"]);
    check("evil.example.com/x", &["blocked"]);
    check(
        "ghcr.io/a/b:1",
        &["1. mirror mirror.example.com:5000/a/b by https", "hosts.toml says so", "2. registry ghcr.io/a/b"],
    );
    check(
        "busybox",
        &["docker.io/library/busybox", "1. registry docker.io/library/busybox by https, no credentials"],
    );
    check("team/app", &["1. registry docker.io/team/app by https, credentials for docker.io/team"]);
    check("123456789012.dkr.ecr.eu-west-1.amazonaws.com/x", &["credentials by docker-credential-ecr-login"]);
}

/// Two mirrors over TLS stand for those that the examples name; nobody stands for the registry itself.
#[tokio::test]
async fn by_the_examples_the_mirror_gives_images_to_whom_it_knows_and_policy_allows() {
    let (dir, authority) = (tempfile::tempdir().unwrap(), Authority::new());
    let picture = image(&[tar(&[("pause", "")])], json!({}));
    let [first, second] = [picture.clone(), picture.clone()];
    let mirror =
        Fake::start_tls(authority.server(&[], false), move |seen| match seen.header("authorization") {
            None => Reply::new(401, "{}").header("WWW-Authenticate", "Basic realm=\"mirror\""),
            Some("Basic bm9kZTpzZWNyZXQ=") if seen.path.starts_with("/v2/k8s/pause/") => first.answer(seen),
            Some("Basic bm9kZTpzZWNyZXQ=") => Reply::new(404, "{}"),
            Some(_) => Reply::new(403, "{}"),
        });
    let cache = Fake::start_tls(authority.server(&[], false), move |seen| second.answer(seen));
    let example = |name: &str| {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../contrib/images").join(name);
        let text = std::fs::read_to_string(path).unwrap().replace("mirror.example.com:5000", &mirror.host());
        std::fs::write(dir.path().join(name), text.replace("cache.example.com", &cache.host())).unwrap();
        dir.path().join(name)
    };
    let mut settings = Settings::new(&dir.path().join("root"));
    settings.registries_conf = example("registries.conf");
    settings.registries_conf_dir = dir.path().join("none");
    settings.auth_files = vec![example("auth.json")];
    settings.policy = example("policy.json");
    settings.policy_dir = dir.path().join("none");
    settings.certs_dirs = vec![dir.path().join("certs.d")];
    for host in [&mirror, &cache] {
        authority.install(&settings.certs_dirs[0], &host.host());
    }
    let images = Images::open(settings).await.unwrap();

    let pulled = images.pull(request("registry.k8s.io/pause:3.9")).await.unwrap();
    assert_eq!(pulled.repo_tags, ["registry.k8s.io/pause:3.9"]);
    assert!(cache.paths().is_empty(), "it is asked for digests only");
    images.remove(&pulled.id).await.unwrap();
    // What the first does not have the second gives, and hears nothing of the first one's password.
    let by_digest = format!("registry.k8s.io/other@{}", picture.top);
    images.pull(request(&by_digest)).await.unwrap();
    let asked = cache.seen();
    assert!(asked.iter().any(|seen| seen.path.starts_with("/v2/k8s/other/blobs/")), "{asked:?}");
    assert!(asked.iter().all(|seen| seen.header("authorization").is_none()), "{asked:?}");
    // Nobody is asked for what the policy does not let in.
    let (before, refused) = (mirror.paths().len(), images.pull(request("busybox")).await.unwrap_err());
    assert_eq!(refused.to_string(), "SignatureValidationFailed");
    assert_eq!(mirror.paths().len(), before);
}
