//! The policy is asked when a container is made, whenever and for whomever its image came.

#![allow(clippy::large_futures, reason = "a test may have a large future")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use berth_test::fixture::Fixture;
use berth_test::image::{self, Built, Manifest, digest};
use berth_test::node::{Options, container_config};
use berth_test::programs::Programs;
use proto::v1;
use serde_json::{Value, json};

/// A key of openssl's making; files beside each other.
struct Key(PathBuf);

impl Key {
    fn make(dir: &Path, name: &str) -> Result<Key> {
        let key = Key(dir.join(name));
        let private = key.private();
        openssl(&["genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", &private])?;
        openssl(&["pkey", "-in", &private, "-pubout", "-out", &key.public()])?;
        Ok(key)
    }

    fn private(&self) -> String {
        self.0.with_extension("key").display().to_string()
    }

    fn public(&self) -> String {
        self.0.with_extension("pub").display().to_string()
    }

    /// What cosign puts under `sha256-<hex>.sig`: a signature of the manifest for the repository.
    fn sign(&self, repository: &str, manifest: &str) -> Result<Built> {
        let payload = json!({"critical": {"identity": {"docker-reference": repository},
            "image": {"docker-manifest-digest": manifest}, "type": "cosign container image signature"}, "optional": null});
        let payload = serde_json::to_vec(&payload)?;
        let file = self.0.with_extension("payload");
        std::fs::write(&file, &payload)?;
        let signature = openssl(&["dgst", "-sha256", "-sign", &self.private(), &file.display().to_string()])?;
        let config = b"{}".to_vec();
        let layer = json!({"mediaType": "application/vnd.dev.cosign.simplesigning.v1+json", "size": payload.len(),
            "digest": digest(&payload), "annotations": {"dev.cosignproject.cosign/signature": BASE64.encode(signature)}});
        let media_type = "application/vnd.oci.image.manifest.v1+json";
        let config_type = "application/vnd.oci.image.config.v1+json";
        let body = json!({"schemaVersion": 2, "mediaType": media_type, "layers": [layer],
            "config": {"mediaType": config_type, "size": config.len(), "digest": digest(&config)}});
        let top = Manifest { media_type, body: serde_json::to_vec(&body)? };
        let blobs = [payload, config].map(|bytes| (digest(&bytes), bytes));
        Ok(Built { top, children: Vec::new(), blobs: BTreeMap::from(blobs) })
    }
}

fn openssl(args: &[&str]) -> Result<Vec<u8>> {
    let output = Command::new("openssl").args(args).output().context("openssl")?;
    ensure!(output.status.success(), "openssl {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(output.stdout)
}

/// A node with a policy of its own for each namespace that has one, and what the tests ask of it.
struct Judged {
    fixture: Fixture,
    dir: tempfile::TempDir,
    pods: usize,
}

impl Judged {
    async fn new() -> Result<Judged> {
        let dir = tempfile::tempdir()?;
        let config = format!("policy_dir = \"{}\"\n", dir.path().display());
        let fixture = Fixture::with(Options { config, ..Options::default() }).await?;
        Ok(Judged { fixture, dir, pods: 0 })
    }

    /// Pods of the namespace run what the key signed, of our registry, and nothing else.
    fn wants(&self, namespace: &str, key: &Key) -> Result<()> {
        let ask = json!([{"type": "sigstoreSigned", "keyPath": key.public(),
            "signedIdentity": {"type": "matchRepository"}}]);
        let registry = self.fixture.registry.address().to_string();
        self.policy(
            namespace,
            &json!({"default": [{"type": "reject"}], "transports": {"docker": {registry: ask}}}),
        )
    }

    fn policy(&self, namespace: &str, policy: &Value) -> Result<()> {
        Ok(std::fs::write(self.dir.path().join(format!("{namespace}.json")), policy.to_string())?)
    }

    fn pod_config(&mut self, namespace: &str) -> v1::PodSandboxConfig {
        self.pods += 1;
        let mut config = self.fixture.pod_config(&format!("pod{}", self.pods));
        config.metadata.get_or_insert_default().namespace = namespace.into();
        config
    }

    /// Runs `true` in a pod of the namespace, as the kubelet asks for it: by id, with the user's word beside it. Why it
    /// was refused, if it was.
    async fn run(
        &mut self,
        namespace: &str,
        image: &str,
        mounts: Vec<v1::Mount>,
    ) -> Result<Result<(), String>> {
        let status = v1::ImageStatusRequest {
            image: Some(v1::ImageSpec { image: image.into(), ..Default::default() }),
            ..Default::default()
        };
        let found = self.fixture.client.images.image_status(status).await?.into_inner().image;
        let id = found.with_context(|| format!("{image} is not on the node"))?.id;
        let pod_config = self.pod_config(namespace);
        let mut config = container_config("main", &id, &["true"]);
        config.image.get_or_insert_default().user_specified_image = image.into();
        config.mounts = mounts;
        let client = &mut self.fixture.client;
        let pod = client.run_pod(&pod_config).await?;
        let ran = match client.create(&pod, &config, &pod_config).await {
            Ok(container) => {
                client.start(&container).await?;
                let status = client.wait_for_exit(&container).await?;
                ensure!(status.exit_code == 0, "{status:?}");
                Ok(())
            }
            Err(status) => {
                // The kubelet knows it by its first word, and pulls fail so, too.
                ensure!(status.code() == tonic::Code::Unknown, "{status:?}");
                ensure!(status.message().starts_with("SignatureValidationFailed: "), "{status:?}");
                Err(status.message().to_owned())
            }
        };
        self.fixture.remove(&pod).await?;
        Ok(ran)
    }

    async fn runs(&mut self, namespace: &str, image: &str) -> Result<()> {
        let ran = self.run(namespace, image, Vec::new()).await?;
        ran.map_err(|why| anyhow::anyhow!("{image} for {namespace}: {why}"))
    }

    async fn refused(&mut self, namespace: &str, image: &str, why: &str) -> Result<()> {
        match self.run(namespace, image, Vec::new()).await? {
            Ok(()) => anyhow::bail!("{image} runs in {namespace}, where it should be refused since {why}"),
            Err(told) => ensure!(told.contains(why), "{why:?} is not in {told:?}"),
        }
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and a network namespace: cargo xtask node"]
async fn each_namespace_runs_what_its_own_policy_lets_it_whoever_pulled_that() -> Result<()> {
    let mut node = Judged::new().await?;
    let (ours, other) = (Key::make(node.dir.path(), "ours")?, Key::make(node.dir.path(), "other")?);
    let image = node.fixture.image.clone();
    let repository = image.split(":test").next().unwrap_or_default().to_owned();
    let before = node.fixture.node.inventory();
    node.wants("strict", &ours)?;
    node.runs("lax", &image).await?;
    node.refused("strict", &image, "there is no such signature").await?;

    // An image volume is judged like what runs.
    let model = format!("{}/model:1", node.fixture.registry.address());
    node.fixture.registry.push("model", &["1"], &image::artifact(&[("model.bin", b"1 2 3")])).await?;
    let id = node.fixture.client.pull(&model).await?;
    let spec = v1::ImageSpec { image: id, user_specified_image: model.clone(), ..Default::default() };
    let volume = v1::Mount {
        container_path: "/model".into(),
        image: Some(spec),
        readonly: true,
        ..Default::default()
    };
    assert_eq!(node.run("lax", &image, vec![volume.clone()]).await?, Ok(()));

    // Busybox is signed, the model not yet.
    let built = berth_test::stand_ins::busybox(&Programs::built())?;
    let manifest = built.children.first().unwrap_or(&built.top).digest();
    let tag = manifest.replace(':', "-") + ".sig";
    node.fixture.registry.push("busybox", &[&tag], &other.sign(&repository, &manifest)?).await?;
    node.refused("strict", &image, "none of the policy's keys made it").await?;
    node.fixture.registry.push("busybox", &[&tag], &ours.sign(&repository, &manifest)?).await?;
    node.runs("strict", &image).await?;
    let told = node.run("strict", &image, vec![volume]).await?.expect_err("the volume is not signed");
    assert!(told.contains(&format!("the policy wants {model} to be sigstoreSigned")), "{told}");

    // What the node as a whole may run is another policy, and it counts from the next container on.
    let node_policy = node.fixture.node.dir().join("policy.json");
    std::fs::write(&node_policy, json!({"default": [{"type": "reject"}]}).to_string())?;
    node.refused("lax", &image, "the policy rejects").await?;
    node.runs("strict", &image).await?;
    std::fs::remove_file(&node_policy)?;
    node.runs("lax", &image).await?;

    // A name that an archive claims.
    let (archive, claimed) = (node.dir.path().join("x.tar"), format!("{repository}-not:1"));
    let berth = |args: &[&str]| {
        let socket = node.fixture.node.socket();
        let output = Command::new(Programs::built().berth).arg("--socket").arg(socket).args(args).output()?;
        ensure!(output.status.success(), "{args:?}: {output:?}");
        anyhow::Ok(())
    };
    let path = archive.display().to_string();
    berth(&["image", "export", &image, &format!("oci-archive:{path}")])?;
    berth(&["image", "import", &path, "--name", &claimed])?;
    node.runs("lax", &claimed).await?;
    node.refused("strict", &claimed, "there is no such signature").await?;

    node.fixture.node.remove_all_pods().await?;
    assert_eq!(node.fixture.node.leaks_since(&before), Vec::<String>::new());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and a network namespace: cargo xtask node"]
async fn what_was_judged_good_runs_on_a_node_without_its_registry() -> Result<()> {
    let mut node = Judged::new().await?;
    let (ours, other) = (Key::make(node.dir.path(), "ours")?, Key::make(node.dir.path(), "other")?);
    let image = node.fixture.image.clone();
    let repository = image.split(":test").next().unwrap_or_default().to_owned();
    let built = berth_test::stand_ins::busybox(&Programs::built())?;
    let manifest = built.children.first().unwrap_or(&built.top).digest();
    let tag = manifest.replace(':', "-") + ".sig";
    node.fixture.registry.push("busybox", &[&tag], &ours.sign(&repository, &manifest)?).await?;
    node.wants("strict", &ours)?;
    // As a kubelet pulls for a pod, so that the verdict is the pull's.
    let request = v1::PullImageRequest {
        image: Some(v1::ImageSpec { image: image.clone(), ..Default::default() }),
        sandbox_config: Some(node.pod_config("strict")),
        ..Default::default()
    };
    node.fixture.client.images.pull_image(request).await?;
    node.fixture.registry.stop();
    node.fixture.restart_daemon().await?;
    node.runs("strict", &image).await?;
    node.wants("strict", &other)?;
    let why = "this node knows of no signature, and nobody can be asked for one: RegistryUnavailable";
    node.refused("strict", &image, why).await
}
