//! Pulls by way of proxies that the environment names, each in a process whose environment that is.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use serde_json::json;

use crate::support::fake::Fake;
use crate::support::proxy::Proxy;
use crate::support::shelf::{Node, Shelf, image, request, tar};
use crate::support::tls::Authority;

const ROOT: &str = "BERTH_TEST_PROXY_ROOT";
const NAME: &str = "BERTH_TEST_PROXY_NAME";

/// The process that pulls.
#[tokio::test]
#[ignore = "it is what the other test starts"]
async fn pulls_for_another() {
    let Some(root) = std::env::var_os(ROOT).map(PathBuf::from) else { return };
    let mut settings = image_service::Settings::new(&tempfile::tempdir_in(&root).unwrap().keep());
    settings.registries_conf = root.join("registries.conf");
    settings.registries_conf_dir = root.join("none");
    settings.policy = root.join("none");
    settings.certs_dirs = vec![root.join("certs.d")];
    let images = image_service::Images::open(settings).await.unwrap();
    match images.pull(request(&std::env::var(NAME).unwrap())).await {
        Ok(image) => println!("told:{}", image.id),
        Err(error) => {
            let all = std::iter::successors(Some(&error as &dyn std::error::Error), |error| error.source());
            println!("told:{}", all.map(ToString::to_string).collect::<Vec<_>>().join(": "));
        }
    }
}

fn pull(node: &Node, name: &str, environment: &[(&str, &str)]) -> String {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "proxies::pulls_for_another", "--ignored", "--nocapture", "--test-threads=1"]);
    for word in ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"] {
        command.env_remove(word).env_remove(word.to_lowercase());
    }
    command.env(ROOT, node.dir.path()).env(NAME, name).envs(environment.iter().copied());
    let output = command.stdin(Stdio::null()).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let told = text.lines().find_map(|line| line.split_once("told:")).map(|(_, rest)| rest.to_owned());
    told.unwrap_or_else(|| panic!("{text}\n{}", String::from_utf8_lossy(&output.stderr)))
}

/// What was asked since the last look.
fn since(proxy: &Proxy, seen: &mut usize) -> Vec<String> {
    let asked = proxy.asked().split_off(*seen);
    *seen += asked.len();
    asked
}

#[tokio::test(flavor = "multi_thread")]
async fn the_environment_says_which_proxy_leads_where() {
    let picture = image(&[tar(&[("a", "x")])], json!({}));
    let shelf = Shelf::default();
    shelf.put("a:1", &picture);
    let authority = Authority::new();
    let (whole, served) = (shelf.clone(), shelf.clone());
    let plain = Fake::start(move |seen| {
        let mut seen = seen.clone();
        seen.path = seen.path.trim_start_matches("http://plain.test").to_owned();
        whole.answer(&seen)
    });
    let secure = Fake::start_tls(authority.server_of("far.test", &[]), move |seen| served.answer(seen));
    let addresses = |fake: &Fake| -> SocketAddr { fake.address };
    let open = Proxy::start(None, addresses(&secure), addresses(&plain)).await;
    let behind = authority.server(&[], false);
    let behind = Proxy::start(Some(behind), addresses(&secure), addresses(&plain)).await;
    let node = Node::new("none.test");
    std::fs::write(
        node.dir.path().join("registries.conf"),
        "[[registry]]\nlocation = \"plain.test\"\ninsecure = true\n",
    )
    .unwrap();
    let certs = node.dir.path().join("certs.d");
    authority.install(&certs, "far.test");
    let good = picture.config.digest.as_str();
    let pull = async |name: &str, environment: &[(&str, &str)]| {
        let (node, name) = (&node, name.to_owned());
        tokio::task::block_in_place(|| pull(node, &name, environment))
    };
    let (mut seen, http) = (0, format!("http://user:pass@{}", open.address));
    // https goes through a tunnel, with the proxy's password; the name is the proxy's to look up.
    assert_eq!(pull("far.test/a:1", &[("HTTPS_PROXY", &http)]).await, good);
    assert_eq!(since(&open, &mut seen), ["CONNECT far.test:443+"]);
    // What is not secure: https is tried first, then whole URLs, which never have the password.
    let both = [("HTTPS_PROXY", "http://127.0.0.1:1"), ("http_proxy", http.as_str())];
    assert_eq!(pull("plain.test/a:1", &both).await, good);
    let asked = since(&open, &mut seen);
    assert!(asked.contains(&"GET http://plain.test/v2/a/manifests/1".to_owned()), "{asked:?}");
    assert!(asked.iter().all(|line| line.starts_with("GET ") && !line.ends_with('+')), "{asked:?}");
    // NO_PROXY: nobody asks the proxy, and nobody else knows the name.
    for no in ["far.test", ".test", "*"] {
        let told = pull("far.test/a:1", &[("HTTPS_PROXY", &http), ("NO_PROXY", no)]).await;
        assert!(told.starts_with("RegistryUnavailable"), "{no}: {told}");
        assert_eq!(since(&open, &mut seen), Vec::<String>::new(), "{no}");
    }
    // SOCKS, for both, with and without a password.
    for (proxy, who) in [
        (format!("socks5://{}", open.address), ""),
        (format!("socks5h://user:pass@{}", open.address), "user@pass@"),
    ] {
        assert_eq!(pull("far.test/a:1", &[("ALL_PROXY", &proxy)]).await, good, "{proxy}");
        assert_eq!(since(&open, &mut seen)[0], format!("SOCKS {who}far.test:443"));
        assert_eq!(pull("plain.test/a:1", &[("HTTP_PROXY", &proxy)]).await, good, "{proxy}");
        assert_eq!(since(&open, &mut seen)[0], format!("SOCKS {who}plain.test:80"));
    }
    // A proxy behind TLS: believed by its own certs.d, or by the host's roots.
    let (mut seen, https) = (0, format!("https://user:pass@{}", behind.address));
    let told = pull("far.test/a:1", &[("HTTPS_PROXY", &https)]).await;
    assert!(told.contains("UnknownIssuer"), "{told}");
    assert_eq!(since(&behind, &mut seen), Vec::<String>::new());
    authority.install(&certs, &behind.address.to_string());
    assert_eq!(pull("far.test/a:1", &[("HTTPS_PROXY", &https)]).await, good);
    assert_eq!(since(&behind, &mut seen), ["CONNECT far.test:443+"]);
    assert_eq!(pull("plain.test/a:1", &[("HTTP_PROXY", &https)]).await, good);
    assert!(since(&behind, &mut seen).contains(&"GET http://plain.test/v2/a/manifests/1".to_owned()));
    // What no client speaks is said.
    let told = pull("far.test/a:1", &[("HTTPS_PROXY", "socks4://127.0.0.1:1")]).await;
    assert!(told.contains("is none of http, https, socks5 and socks5h"), "{told}");
}
