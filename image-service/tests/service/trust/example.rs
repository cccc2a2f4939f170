//! The policy in `contrib/images` means what the README says of it.

use std::path::Path;

use serde_json::json;

use super::{Case, told};
use crate::support::cosign::{self, CERTIFICATE, Signature, key};
use crate::support::gpg::{self, Gpg};
use crate::support::shelf::{image, tar};

#[tokio::test]
async fn the_example_trusts_whom_it_names() {
    let (case, gpg) = (Case::new(), Gpg::new());
    let (cosign_key, log, signer, authority) = (key(), key(), key(), cosign::Authority::new());
    let release = gpg.make("ed25519", &[], "never");
    case.file("cosign.pub", cosign_key.public_key_pem());
    case.file("fulcio.pem", authority.pem());
    case.file("rekor.pub", log.public_key_pem());
    case.file("release.gpg", gpg.export(&release));
    let here = case.node.dir.path().to_str().unwrap();
    let example = |name: &str| {
        let text = Path::new(env!("CARGO_MANIFEST_DIR")).join("../contrib/images").join(name);
        let text = std::fs::read_to_string(text).unwrap().replace("registry.example.com", "one.test");
        text.replace("/etc/berth/keys", here)
            .replace("https://signatures.example.com", &format!("file://{here}/sigs"))
    };
    std::fs::write(&case.node.settings.policy, example("policy.json")).unwrap();
    std::fs::create_dir(&case.node.settings.registries_d).unwrap();
    std::fs::write(case.node.settings.registries_d.join("example.yaml"), example("registries.d.yaml"))
        .unwrap();

    let images = case.node.open().await;
    let pull = async |name: &str| {
        let request = crate::support::shelf::request(&format!("one.test/{name}:1"));
        images.pull(request).await.map(drop).map_err(|error| told(&error))
    };
    for name in ["apps/a", "ci/a", "base/a", "other/a"] {
        let picture = image(&[tar(&[("name", name)])], json!({}));
        let (tag, place) = (format!("{name}:sha256-{}.sig", picture.top.hex()), format!("one.test/{name}"));
        case.shelf.put(&format!("{name}:1"), &picture);
        let why = if name == "other/a" { "the policy rejects" } else { "there is no such signature" };
        assert!(pull(name).await.unwrap_err().contains(why), "{name}");
        let cert =
            authority.certify(&signer, "ci@example.com", Some("https://login.example.com"), (2026, 2030));
        let by_cert = Signature::new(&signer, &place, &picture.top).annotated(CERTIFICATE, &cert);
        let signatures =
            [by_cert.logged(&log, &cert, 1_800_000_000), Signature::new(&cosign_key, &place, &picture.top)];
        case.shelf.put(&tag, &cosign::tagged(&signatures));
        let dir = format!("{here}/sigs/base/{name}@sha256={}", picture.top.hex());
        std::fs::create_dir_all(&dir).unwrap();
        let signature = gpg.sign(&release, &[], &gpg::payload(&format!("{place}:1"), &picture.top));
        std::fs::write(format!("{dir}/signature-1"), signature).unwrap();
        assert_eq!(pull(name).await.is_ok(), name != "other/a", "{name}");
    }
}
