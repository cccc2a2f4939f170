//! `hosts.toml`: where it sends us, and what it has us say there.

use std::path::{Path, PathBuf};

use super::*;
use crate::support::fake::{Fake, Reply};
use crate::support::picture::Picture;
use crate::support::tls::Authority;

/// A client whose registry.test has this hosts.toml; the directory must outlive it.
fn with_hosts(text: &str, conf: &str) -> (tempfile::TempDir, Registry) {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("registry.test")).unwrap();
    std::fs::write(dir.path().join("registry.test/hosts.toml"), text).unwrap();
    let mut settings = settings(conf);
    settings.certs_dirs = vec![PathBuf::from(dir.path())];
    (dir, Registry::new(settings))
}

fn serving(picture: &Picture, base: &'static str) -> Fake {
    let served = picture.clone();
    Fake::start(move |seen| match seen.path.strip_prefix(base) {
        Some(path) => {
            let mut seen = seen.clone();
            seen.path = path.split('?').next().unwrap().to_owned();
            served.answer(&seen)
        }
        None => Reply::new(404, ""),
    })
}

#[tokio::test]
async fn mirrors_are_asked_as_it_says_and_told_which_registry_is_meant() {
    let picture = Picture::oci(b"layer");
    let (gone, mirror) = (Fake::start(|_| Reply::new(404, "")), serving(&picture, "/cache"));
    let text = format!(
        "server = 'https://127.0.0.1:1'\n[host.'http://{}']\n[host.'http://{}/cache/v2']\noverride_path = true\n\
         [host.'http://{}/cache/v2'.header]\nx-cache = ['a', 'b']\n",
        gone.host(),
        mirror.host(),
        mirror.host(),
    );
    let (_dir, registry) = with_hosts(&text, "");
    pull(&registry, "registry.test/team/app:1", None).await.unwrap();
    assert_eq!(gone.paths(), ["/v2/team/app/manifests/1?ns=registry.test"]);
    assert_eq!(mirror.paths()[0], "/cache/v2/team/app/manifests/1?ns=registry.test");
    assert!(mirror.seen().iter().all(|seen| seen.header("x-cache") == Some("a")));
}

#[tokio::test]
async fn its_headers_and_keys_are_for_its_host_alone() {
    let picture = Picture::oci(b"layer");
    let served = picture.clone();
    let stranger = Fake::start(move |seen| served.answer(seen));
    let to = stranger.host();
    let authority = Authority::new();
    let server = Fake::start_tls(authority.server(&[], true), move |seen| {
        Reply::new(307, "").header("Location", format!("http://{to}{}", seen.path.split('?').next().unwrap()))
    });
    let dir = tempfile::tempdir().unwrap();
    let client = authority.sign("client");
    let write = |name: &str, text: String| std::fs::write(dir.path().join(name), text).unwrap();
    write("ca.pem", authority.pem());
    write("client.pem", client.cert.pem() + &client.key.serialize_pem());
    let at = |name: &str| dir.path().join(name).display().to_string();
    let text = format!(
        "server = 'https://{}'\nca = '{}'\nclient = '{}'\n[header]\nx-secret = 's'",
        server.host(),
        at("ca.pem"),
        at("client.pem")
    );
    let (_dir, registry) = with_hosts(&text, "");
    // The redirect from https to http is what refuses it: the server itself was reached with our key.
    let error = pull(&registry, "registry.test/app:1", None).await.unwrap_err();
    assert!(error.to_string().contains("from https to http"), "{error}");
    assert_eq!(server.seen()[0].header("x-secret"), Some("s"));
    assert!(stranger.seen().is_empty());
    // Without the authority nobody is believed; told to skip that, anybody is.
    for (line, reached) in [("", false), ("skip_verify = true\n", true)] {
        let text = format!("{line}server = 'https://{}'\nclient = '{}'", server.host(), at("client.pem"));
        let (_dir, registry) = with_hosts(&text, "");
        let error = pull(&registry, "registry.test/app:1", None).await.unwrap_err();
        assert_eq!(error.to_string().contains("from https to http"), reached, "{error}");
    }
}

#[tokio::test]
async fn a_redirect_to_a_stranger_carries_no_header_of_it() {
    let picture = Picture::oci(b"layer");
    let served = picture.clone();
    let stranger = Fake::start(move |seen| served.answer(seen));
    let to = stranger.host();
    let server =
        Fake::start(move |seen| Reply::new(307, "").header("Location", format!("http://{to}{}", seen.path)));
    let text = format!("server = 'http://{}'\n[header]\nx-secret = 's'", server.host());
    let (_dir, registry) = with_hosts(&text, "");
    pull(&registry, "registry.test/app:1", None).await.unwrap();
    assert!(server.seen().iter().all(|seen| seen.header("x-secret") == Some("s")));
    assert!(
        !stranger.seen().is_empty() && stranger.seen().iter().all(|seen| seen.header("x-secret").is_none())
    );
}

#[tokio::test]
async fn registries_conf_has_the_first_word_and_a_broken_file_is_named() {
    let picture = Picture::oci(b"layer");
    let (by_conf, by_hosts) = (serving(&picture, ""), serving(&picture, ""));
    let conf = format!("[[registry]]\nprefix='registry.test'\nlocation='{}'\ninsecure=true", by_conf.host());
    let text = format!("server = 'http://{}'", by_hosts.host());
    let (dir, registry) = with_hosts(&text, &conf);
    pull(&registry, "registry.test/app:1", None).await.unwrap();
    assert!(!by_conf.seen().is_empty() && by_hosts.seen().is_empty());
    // The rule goes, as on a reload; the file is read at each pull.
    registry.set_registries(RegistriesConf::default());
    pull(&registry, "registry.test/app:1", None).await.unwrap();
    assert!(!by_hosts.seen().is_empty());
    write_broken(dir.path());
    let error = pull(&registry, "registry.test/app:1", None).await.unwrap_err();
    assert!(matches!(error, Error::Hosts(_)), "{error}");
}

fn write_broken(dir: &Path) {
    std::fs::write(dir.join("registry.test/hosts.toml"), "server = ").unwrap();
}

#[tokio::test]
async fn a_namespace_has_credentials_of_its_own() {
    let picture = Picture::oci(b"layer");
    let served = picture.clone();
    let server = Fake::start(move |seen| match seen.header("authorization") {
        // own:p
        Some("Basic b3duOnA=") => served.answer(seen),
        _ => Reply::new(401, "").header("WWW-Authenticate", "Basic realm=\"x\""),
    });
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, auth: &str| {
        let path = dir.path().join(name);
        let text = format!(r#"{{"auths":{{"{}":{{"auth":"{auth}"}}}}}}"#, server.host());
        std::fs::write(&path, text).unwrap();
        path
    };
    let (node, own) = (file("node.json", "bm9kZTpw"), file("team.json", "b3duOnA="));
    let mut settings = settings(&insecure_conf(&[&server.host()]));
    settings.auth_files = vec![node];
    let registry = Registry::new(settings);
    let reference = Reference::parse(&format!("{}/a:1", server.host())).unwrap();
    let resolve = |own: Vec<PathBuf>| {
        let repository = registry.repository_for(&reference, None, &own).unwrap();
        async move { repository.resolve(&amd64()).await }
    };
    assert!(matches!(resolve(Vec::new()).await.unwrap_err(), Error::Unauthorized(_)));
    resolve(vec![own]).await.unwrap();
    assert!(matches!(resolve(vec![dir.path().join("none.json")]).await.unwrap_err(), Error::Unauthorized(_)));
}

#[tokio::test]
async fn who_may_not_resolve_gives_what_the_tag_led_to() {
    let picture = Picture::oci(b"layer");
    let (mirror, server) = (serving(&picture, ""), serving(&picture, ""));
    let text = format!(
        "server = 'http://{}'\n[host.'http://{}']\ncapabilities = ['pull']\n",
        server.host(),
        mirror.host()
    );
    let (_dir, registry) = with_hosts(&text, "");
    pull(&registry, "registry.test/app:1", None).await.unwrap();
    assert_eq!(server.paths(), ["/v2/app/manifests/1"]);
    let paths = mirror.paths();
    assert!(paths.len() == 2 && paths.iter().all(|path| path.starts_with("/v2/app/blobs/")), "{paths:?}");
}
