//! Credentials: how they are asked for, and who gets to see them.

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use rcgen::SigningKey;
use serde_json::{Value, json};

use super::*;
use crate::support::docker_registry::DockerRegistry;
use crate::support::fake::{Fake, Reply, Seen};
use crate::support::picture::{Picture, noise};
use crate::support::tls::{Authority, Signed};

/// bcrypt of `pass`, made once by crypt(3).
const HTPASSWD: &str = "user:$2b$05$abcdefghijklmnopqrstuuZFBUbfXoM8LFiPx8LYlO/sXZB/Cwk3K\n";

fn authorization(seen: &Seen) -> &str {
    seen.header("authorization").unwrap_or_default()
}

fn basic(name: &str, password: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{name}:{password}")))
}

/// A registry that wants this token, and sends others to the realm for it.
fn wanting(
    token: &'static str,
    realm: &str,
    picture: &Picture,
) -> impl Fn(&Seen) -> Reply + Send + Sync + use<> {
    let (realm, served) = (realm.to_owned(), picture.clone());
    move |seen| {
        if authorization(seen) == format!("Bearer {token}") {
            return served.answer(seen);
        }
        let challenge = format!(r#"Bearer realm="{realm}",service="svc",scope="repository:a:pull,push""#);
        Reply::new(401, r#"{"errors":[{"code":"UNAUTHORIZED","message":"login"}]}"#)
            .header("WWW-Authenticate", challenge)
    }
}

fn token(token: &str, life: u64) -> Reply {
    Reply::new(200, json!({"token": token, "expires_in": life}).to_string())
}

#[tokio::test]
async fn the_real_registry_takes_a_password() {
    let dir = tempfile::tempdir().unwrap();
    let (storage, htpasswd) = (dir.path().join("storage"), dir.path().join("htpasswd"));
    std::fs::write(&htpasswd, HTPASSWD).unwrap();
    let layer = noise(100_000);
    DockerRegistry::start(&storage, "", "").push("a/b", "v1", &Picture::oci(&layer));
    let auth = format!("auth:\n  htpasswd:\n    realm: test\n    path: {}\n", htpasswd.display());
    let server = DockerRegistry::start(&storage, "", &auth);
    let registry = client(&[&server.host()]);
    let reference = format!("{}/a/b:v1", server.host());
    assert!(pull(&registry, &reference, Some(&user("user", "pass"))).await.unwrap().layer == layer);
    let wrong = pull(&registry, &reference, Some(&user("user", "wrong"))).await.unwrap_err();
    assert!(matches!(wrong, Error::Unauthorized(_)), "{wrong}");
    assert!(!format!("{wrong} {wrong:?}").contains("wrong"), "{wrong:?}");
    let none = pull(&registry, &reference, None).await.unwrap_err();
    assert!(matches!(none, Error::Unauthorized(_)) && none.to_string().contains("no credentials"), "{none}");
    let elsewhere = Credentials { server_address: "other.io".to_owned(), ..user("user", "pass") };
    assert!(matches!(pull(&registry, &reference, Some(&elsewhere)).await, Err(Error::Unauthorized(_))));
    // The same by the node's files, for this namespace only.
    let file = dir.path().join("auth.json");
    let key = STANDARD.encode("user:pass");
    std::fs::write(&file, json!({"auths": {format!("{}/a", server.host()): {"auth": key}}}).to_string())
        .unwrap();
    let files = vec![dir.path().join("missing.json"), file];
    let registry =
        Registry::new(Settings { auth_files: files, ..settings(&insecure_conf(&[&server.host()])) });
    pull(&registry, &reference, None).await.unwrap();
    let other = pull(&registry, &format!("{}/c/b:v1", server.host()), None).await.unwrap_err();
    assert!(matches!(other, Error::Unauthorized(_)), "{other}");
}

/// The part of a token server that distribution's specification asks for, signing as docker-registry
/// verifies: ES256 with the certificate in the header.
struct TokenServer {
    signed: Signed,
}

impl TokenServer {
    fn answer(&self, seen: &Seen) -> Reply {
        if authorization(seen) != basic("user", "pass") {
            return Reply::new(401, r#"{"details":"wrong password"}"#);
        }
        assert!(seen.path.contains("scope=repository%3Aa%2Fb%3Apull&"), "{}", seen.path);
        let part = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let head =
            part(json!({"typ": "JWT", "alg": "ES256", "x5c": [STANDARD.encode(self.signed.cert.der())]}));
        let access = json!([{"type": "repository", "name": "a/b", "actions": ["pull"]}]);
        let claims = part(json!({"iss": "issuer", "sub": "user", "aud": "svc", "exp": 4_000_000_000_u64,
            "nbf": 1, "iat": 1, "jti": "1", "access": access}));
        let text = format!("{head}.{claims}");
        let signature = URL_SAFE_NO_PAD.encode(raw(&self.signed.key.sign(text.as_bytes()).unwrap()));
        token(&format!("{text}.{signature}"), 300)
    }
}

/// The two numbers of an ECDSA signature without their DER: JWS wants 32 bytes each.
fn raw(der: &[u8]) -> Vec<u8> {
    let number =
        |at: usize| (&der[at + 2..at + 2 + usize::from(der[at + 1])], at + 2 + usize::from(der[at + 1]));
    let (r, next) = number(2);
    let (s, _) = number(next);
    let pad = |n: &[u8]| {
        let n: Vec<u8> = n.iter().copied().skip_while(|byte| *byte == 0).collect();
        [vec![0; 32 - n.len()], n].concat()
    };
    [pad(r), pad(s)].concat()
}

#[tokio::test]
async fn the_real_registry_takes_a_token() {
    let dir = tempfile::tempdir().unwrap();
    let storage = dir.path().join("storage");
    let authority = Authority::new();
    let signed = authority.sign("issuer");
    let bundle = dir.path().join("bundle.pem");
    std::fs::write(&bundle, authority.pem()).unwrap();
    let server = TokenServer { signed };
    let tokens = Fake::start(move |seen| server.answer(seen));
    let layer = noise(100_000);
    DockerRegistry::start(&storage, "", "").push("a/b", "v1", &Picture::oci(&layer));
    let auth = format!(
        "auth:\n  token:\n    realm: http://{}/token\n    service: svc\n    issuer: issuer\n    rootcertbundle: {}\n",
        tokens.host(),
        bundle.display(),
    );
    let server = DockerRegistry::start(&storage, "", &auth);
    let registry = client(&[&server.host()]);
    let reference = format!("{}/a/b:v1", server.host());
    assert!(pull(&registry, &reference, Some(&user("user", "pass"))).await.unwrap().layer == layer);
    assert_eq!(tokens.seen().len(), 1);
    // The token serves the next pull of the same user, and nobody else's.
    pull(&registry, &reference, Some(&user("user", "pass"))).await.unwrap();
    assert_eq!(tokens.seen().len(), 1);
    let wrong = pull(&registry, &reference, Some(&user("user", "no"))).await.unwrap_err();
    assert!(
        matches!(wrong, Error::Unauthorized(_)) && wrong.to_string().contains("wrong password"),
        "{wrong}"
    );
    assert!(matches!(pull(&registry, &reference, None).await, Err(Error::Unauthorized(_))));
}

#[tokio::test]
async fn only_a_pull_is_asked_for_and_a_short_life_is_a_minute() {
    // Less than a minute is what no server may say (token specification, `expires_in`).
    let answer = json!({"token": null, "access_token": "t", "expires_in": 5.0}).to_string();
    let tokens = Fake::start(move |_| Reply::new(200, answer.clone()));
    let realm = format!("http://{}/token?x=1", tokens.host());
    let server = Fake::start(wanting("t", &realm, &Picture::oci(b"layer")));
    let registry = client(&[&server.host()]);
    pull(&registry, &format!("{}/a:1", server.host()), None).await.unwrap();
    assert_eq!(tokens.paths(), ["/token?x=1&service=svc&scope=repository%3Aa%3Apull"]);
    assert!(tokens.seen().iter().all(|seen| authorization(seen).is_empty()));
}

#[tokio::test]
async fn a_token_that_is_refused_ends_the_matter() {
    let tokens = Fake::start(|_| token("other", 300));
    let server = Fake::start(wanting("t", &format!("http://{}/", tokens.host()), &Picture::oci(b"layer")));
    let error = pull(&client(&[&server.host()]), &format!("{}/a:1", server.host()), None).await.unwrap_err();
    assert!(
        matches!(error, Error::Unauthorized(_)) && error.to_string().contains("UNAUTHORIZED: login"),
        "{error}"
    );
    assert_eq!(server.paths().iter().filter(|path| path.starts_with("/v2")).count(), 2);
}

#[tokio::test]
async fn refresh_and_registry_tokens_are_used_as_what_they_are() {
    let tokens = Fake::start(|seen| {
        if seen.method == "POST" && seen.body.contains("refresh_token=re%2Ffresh") {
            assert!(seen.body.starts_with("grant_type=refresh_token&service=svc&"), "{}", seen.body);
            return Reply::new(200, json!({"access_token": "t"}).to_string());
        }
        Reply::new(401, "")
    });
    let server =
        Fake::start(wanting("t", &format!("http://{}/token", tokens.host()), &Picture::oci(b"layer")));
    let registry = client(&[&server.host()]);
    let reference = format!("{}/a:1", server.host());
    let identity = Credentials { identity_token: "re/fresh".to_owned(), ..Credentials::default() };
    pull(&registry, &reference, Some(&identity)).await.unwrap();
    let asked = tokens.seen().len();
    let ready = Credentials { registry_token: "t".to_owned(), ..Credentials::default() };
    pull(&registry, &reference, Some(&ready)).await.unwrap();
    assert_eq!(tokens.seen().len(), asked);
    let stale = Credentials { registry_token: "old".to_owned(), ..Credentials::default() };
    assert!(matches!(pull(&registry, &reference, Some(&stale)).await, Err(Error::Unauthorized(_))));
}

#[tokio::test]
async fn a_redirect_carries_no_credentials() {
    let picture = Picture::oci(b"layer");
    let served = picture.clone();
    let storage = Fake::start(move |seen| served.answer(seen));
    let (target, served) = (storage.host(), picture.clone());
    let server = Fake::start(move |seen| {
        if authorization(seen) != basic("user", "pass") {
            return Reply::new(401, "").header("WWW-Authenticate", "Basic realm=x");
        }
        if seen.path.contains("/blobs/") {
            return Reply::new(307, "").header("Location", format!("http://{target}{}", seen.path));
        }
        served.answer(seen)
    });
    let registry = client(&[&server.host()]);
    pull(&registry, &format!("{}/a:1", server.host()), Some(&user("user", "pass"))).await.unwrap();
    assert_eq!(storage.seen().len(), 2);
    assert!(storage.seen().iter().all(|seen| authorization(seen).is_empty()));
}

#[tokio::test]
async fn a_redirect_s_target_cannot_ask_for_credentials() {
    let thief = Fake::start(|_| Reply::new(401, "").header("WWW-Authenticate", "Basic realm=x"));
    let target = thief.host();
    let server = Fake::start(move |seen| {
        Reply::new(302, "").header("Location", format!("http://{target}{}", seen.path))
    });
    let registry = client(&[&server.host()]);
    let error =
        pull(&registry, &format!("{}/a:1", server.host()), Some(&user("user", "pass"))).await.unwrap_err();
    assert!(matches!(error, Error::Unauthorized(_)), "{error}");
    for seen in thief.seen().iter().chain(&server.seen()) {
        assert!(authorization(seen).is_empty(), "{seen:?}");
    }
}

#[tokio::test]
async fn home_by_way_of_a_stranger_is_not_home() {
    let stranger = Fake::start(|seen| Reply::new(302, "").header("Location", seen.path[1..].to_owned()));
    let away = stranger.host();
    let server = Fake::start(move |seen| {
        let host = seen.header("host").unwrap();
        if seen.path.starts_with("/secret") {
            return Reply::new(200, "secret");
        }
        if authorization(seen).is_empty() {
            return Reply::new(401, "").header("WWW-Authenticate", "Basic realm=x");
        }
        Reply::new(302, "").header("Location", format!("http://{away}/http://{host}/secret"))
    });
    let registry = client(&[&server.host()]);
    let reference = format!("{}/a:1", server.host());
    pull(&registry, &reference, Some(&user("user", "pass"))).await.unwrap_err();
    let last = server.seen().pop().unwrap();
    assert_eq!((last.path.as_str(), authorization(&last)), ("/secret", ""));
}

#[tokio::test]
async fn the_caller_s_credentials_are_not_for_mirrors() {
    let picture = Picture::oci(b"layer");
    let mirror = Fake::start(|_| Reply::new(401, "").header("WWW-Authenticate", "Basic realm=x"));
    let served = picture.clone();
    let primary = Fake::start(move |seen| {
        if authorization(seen) == basic("user", "pass") {
            return served.answer(seen);
        }
        Reply::new(401, "").header("WWW-Authenticate", "Basic realm=x")
    });
    let conf = format!(
        "[[registry]]\nprefix='registry.test'\nlocation='{}'\ninsecure=true\n\
         [[registry.mirror]]\nlocation='{}'\ninsecure=true\n",
        primary.host(),
        mirror.host(),
    );
    let registry = Registry::new(settings(&conf));
    pull(&registry, "registry.test/a:1", Some(&user("user", "pass"))).await.unwrap();
    assert!(mirror.seen().iter().all(|seen| authorization(seen).is_empty()));
    // A mirror has its own, in the node's files.
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("auth.json");
    std::fs::write(&file, json!({"auths": {mirror.host(): {"auth": STANDARD.encode("m:m")}}}).to_string())
        .unwrap();
    let registry = Registry::new(Settings { auth_files: vec![file], ..settings(&conf) });
    pull(&registry, "registry.test/a:1", Some(&user("user", "pass"))).await.unwrap();
    assert!(mirror.seen().iter().any(|seen| authorization(seen) == basic("m", "m")));
}

/// An https registry, a token server, and what becomes of a pull with a password.
async fn with_realm(dir: &Path, authority: &Authority, realm: &str) -> Result<Pulled, Error> {
    let server = Fake::start_tls(authority.server(&[], false), wanting("t", realm, &Picture::oci(b"layer")));
    authority.install(dir, &server.host());
    let registry = Registry::new(Settings { certs_dirs: vec![dir.to_owned()], ..settings("") });
    pull(&registry, &format!("{}/a:1", server.host()), Some(&user("user", "pass"))).await
}

#[tokio::test]
async fn a_token_server_must_be_as_good_as_the_registry() {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    let plain = Fake::start(|_| token("t", 300));
    let error =
        with_realm(dir.path(), &authority, &format!("http://{}/token", plain.host())).await.unwrap_err();
    assert!(matches!(error, Error::Unauthorized(_)) && error.to_string().contains("plain http"), "{error}");
    assert!(plain.seen().is_empty());
    for realm in ["", "file:///etc/passwd", "https://user:pw@127.0.0.1/", "/token", "https://"] {
        let error = with_realm(dir.path(), &authority, realm).await.unwrap_err();
        assert!(matches!(error, Error::Unauthorized(_)), "{realm}: {error}");
    }
    let known = Fake::start_tls(authority.server(&[], false), |_| token("t", 300));
    with_realm(dir.path(), &authority, &format!("https://{}/token", known.host())).await.unwrap();
    let unknown = Fake::start_tls(Authority::new().server(&[], false), |_| token("t", 300));
    let error =
        with_realm(dir.path(), &authority, &format!("https://{}/token", unknown.host())).await.unwrap_err();
    assert!(error.to_string().contains("invalid peer certificate"), "{error}");
    assert!(unknown.seen().is_empty());
}

#[tokio::test]
async fn an_insecure_registry_does_not_make_its_token_server_insecure() {
    let tokens = Fake::start_tls(Authority::new().server(&[], false), |_| token("t", 300));
    let realm = format!("https://{}/token", tokens.host());
    let server =
        Fake::start_tls(Authority::new().server(&[], false), wanting("t", &realm, &Picture::oci(b"layer")));
    let reference = format!("{}/a:1", server.host());
    let password = user("user", "pass");
    let error = pull(&client(&[&server.host()]), &reference, Some(&password)).await.unwrap_err();
    assert!(error.to_string().contains("UnknownIssuer"), "{error}");
    assert!(tokens.seen().is_empty());
    // Unless the operator says the same of it.
    pull(&client(&[&server.host(), &tokens.host()]), &reference, Some(&password)).await.unwrap();
}

#[tokio::test]
async fn a_token_server_s_redirect_is_not_followed() {
    let thief = Fake::start(|_| token("t", 300));
    let target = format!("http://{}/", thief.host());
    let tokens = Fake::start(move |_| Reply::new(302, "").header("Location", target.clone()));
    let server = Fake::start(wanting("t", &format!("http://{}/", tokens.host()), &Picture::oci(b"layer")));
    let registry = client(&[&server.host()]);
    let error =
        pull(&registry, &format!("{}/a:1", server.host()), Some(&user("user", "pass"))).await.unwrap_err();
    assert!(error.to_string().contains("302"), "{error}");
    assert!(thief.seen().is_empty());
}

#[tokio::test]
async fn layers_that_start_together_share_one_token() {
    let tokens = Fake::start(|_| {
        std::thread::sleep(Duration::from_millis(100));
        token("t", 300)
    });
    let picture = Picture::oci(&noise(1000));
    let server = Fake::start(wanting("t", &format!("http://{}/", tokens.host()), &picture));
    let registry = client(&[&server.host()]);
    let repository = repository(&registry, &format!("{}/a:1", server.host()), None);
    let (layer, config, rest) = tokio::join!(
        fetch(&repository, &picture.layer, 0),
        fetch(&repository, &picture.config, 0),
        fetch(&repository, &picture.layer, 500),
    );
    assert!(layer.is_ok() && config.is_ok() && rest.is_ok());
    assert_eq!(tokens.seen().len(), 1);
}

/// The test `name` again, in a process of its own that finds these helpers (name and script) on its PATH: the
/// environment of this one is shared by all tests. False in that process.
fn again_with_helpers(name: &str, helpers: &[(&str, &str)]) -> bool {
    const CHILD: &str = "BERTH_TEST_HAS_HELPERS";
    if std::env::var_os(CHILD).is_some() {
        return false;
    }
    let dir = tempfile::tempdir().unwrap();
    for (helper, script) in helpers {
        let path = dir.path().join(format!("docker-credential-{helper}"));
        std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    }
    let path = format!("{}:{}", dir.path().display(), std::env::var("PATH").unwrap());
    let test = format!("registry::auth::{name}");
    let mut command = std::process::Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", &test, "--nocapture"]).env(CHILD, "1").env("PATH", path);
    let output = command.output().unwrap();
    let told = String::from_utf8_lossy(&output.stdout);
    let why = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && told.contains("1 passed"), "{told}{why}");
    true
}

/// What a helper says of the registry that it is asked about.
const SPEAKING: &str = r#"test "$1" = get || exit 9; read s; echo "{\"ServerURL\":\"$s\",\"Username\":\"user\",\"Secret\":\"for $s\"}""#;
const HELPERS: [(&str, &str); 3] = [
    ("speaking", SPEAKING),
    ("locked", "echo the keyring is locked; exit 1"),
    ("empty", "echo credentials not found in native keychain; exit 1"),
];

#[tokio::test]
async fn a_credential_helper_serves_a_pull_past_those_that_can_t() {
    if again_with_helpers("a_credential_helper_serves_a_pull_past_those_that_can_t", &HELPERS) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let picture = Picture::oci(b"layer");
    let server = Fake::start(move |seen| {
        if authorization(seen) == basic("user", &format!("for {}", seen.header("host").unwrap())) {
            return picture.answer(seen);
        }
        Reply::new(401, "").header("WWW-Authenticate", "Basic realm=x")
    });
    let reference = format!("{}/a:1", server.host());
    let file = |name: &str, text: String| {
        std::fs::write(dir.path().join(name), text).unwrap();
        dir.path().join(name)
    };
    let naming = |helper: &str| json!({"credHelpers": {server.host(): helper}}).to_string();
    let (speaking, locked) =
        (file("speaking.json", naming("speaking")), file("locked.json", naming("locked")));
    let broken = file("broken.json", "{".to_owned());
    let wrong = file("wrong.json", json!({"auths": {server.host(): {"auth": "dTpw"}}}).to_string());
    let with = |files: &[&std::path::PathBuf], line: &str| {
        let conf = format!("{line}\n{}", insecure_conf(&[&server.host()]));
        let auth_files = files.iter().map(|file| (*file).clone()).collect();
        Registry::new(Settings { auth_files, ..settings(&conf) })
    };
    for (files, line) in [
        (vec![&speaking], ""),
        (vec![&broken, &locked, &speaking], ""),
        // registries.conf names helpers for all registries, and where among them the files come.
        (vec![&wrong], "credential-helpers = ['speaking']"),
        (vec![&wrong], "credential-helpers = ['locked', 'empty', 'speaking', 'containers-auth.json']"),
        (vec![&speaking], "credential-helpers = ['empty', 'containers-auth.json']"),
    ] {
        pull(&with(&files, line), &reference, None)
            .await
            .unwrap_or_else(|why| panic!("{files:?} {line}: {why}"));
    }
    // Where nobody has any, who could not be asked is named.
    let error = pull(&with(&[&locked], ""), &reference, None).await.unwrap_err();
    assert!(
        matches!(error, Error::Configuration(_)) && error.to_string().contains("keyring is locked"),
        "{error}"
    );
    let error =
        pull(&with(&[&speaking], "credential-helpers = ['empty']"), &reference, None).await.unwrap_err();
    assert!(matches!(error, Error::Unauthorized(_)), "{error}");
    let error = pull(&with(&[&wrong, &speaking], ""), &reference, None).await.unwrap_err();
    assert!(matches!(error, Error::Unauthorized(_)), "{error}");
}
