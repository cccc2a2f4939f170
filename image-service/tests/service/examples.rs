//! The examples in `contrib/images` mean what their comments say.

use std::path::Path;

use image_service::{Settings, explain};

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
