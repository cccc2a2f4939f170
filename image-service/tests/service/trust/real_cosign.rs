//! sigstore's own cosign signs into Debian's docker-registry, and its signatures hold. By hand, since Debian 12 has no
//! cosign and a test builds none: `test/README.md` says how.

use std::path::Path;
use std::process::Command;

use serde_json::json;

use super::told;
use crate::support::docker_registry::DockerRegistry;
use crate::support::shelf::{Node, image, request, tar};

/// cosign in a directory of its own; what it says when it fails.
fn cosign(dir: &Path, args: &[&str]) {
    let program = std::env::var_os("BERTH_COSIGN").expect("BERTH_COSIGN is the path of cosign");
    let output = Command::new(&program).args(args).current_dir(dir).env("COSIGN_PASSWORD", "").output();
    let output = output.unwrap_or_else(|error| panic!("{}: {error}", program.display()));
    assert!(output.status.success(), "cosign {args:?}: {}", String::from_utf8_lossy(&output.stderr));
}

#[tokio::test]
#[ignore = "needs cosign, which Debian 12 does not have; BERTH_COSIGN says where it is"]
async fn what_cosign_signs_is_pulled_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let registry = DockerRegistry::start(&dir.path().join("storage"), "", "");
    for key in ["ours", "other"] {
        cosign(dir.path(), &["generate-key-pair", "--output-key-prefix", key]);
    }
    for name in ["ours", "other", "nobody"] {
        let picture = image(&[tar(&[("signed-by", name)])], json!({}));
        registry.push(name, "1", &picture);
        let key = format!("{name}.key");
        let place = format!("{}/{name}@{}", registry.host(), picture.top);
        if name != "nobody" {
            let how = ["sign", "--yes", "--tlog-upload=false", "--allow-insecure-registry", "--key", &key];
            cosign(dir.path(), &[&how[..], &[&place]].concat());
        }
    }
    let node = Node::new(&registry.host());
    let rule = format!("[[registry]]\nlocation = \"{}\"\ninsecure = true\n", registry.host());
    std::fs::write(&node.settings.registries_conf, rule).unwrap();
    let ask = json!({"type": "sigstoreSigned", "keyPath": dir.path().join("ours.pub"),
        "signedIdentity": {"type": "matchRepository"}});
    std::fs::write(&node.settings.policy, json!({"default": [ask]}).to_string()).unwrap();
    let images = node.open().await;
    let pull = async |name: &str| {
        let pulled = images.pull(request(&format!("{}/{name}:1", registry.host()))).await;
        pulled.map(drop).map_err(|error| told(&error))
    };
    pull("ours").await.unwrap();
    for (name, why) in
        [("other", "none of the policy's keys made it"), ("nobody", "there is no such signature")]
    {
        let error = pull(name).await.unwrap_err();
        println!("{name}: {error}");
        assert!(error.starts_with("SignatureValidationFailed") && error.contains(why), "{error}");
    }
    assert_eq!(images.list().len(), 1);
}
