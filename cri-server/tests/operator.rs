//! `berth` as an operator runs it: its words, its exit codes, and what it asks of a real berthd.

#![allow(clippy::unwrap_used, reason = "whoever cannot set a test up fails it")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output};
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};

/// A daemon that starts answers within a fraction of this.
const START_LIMIT: Duration = Duration::from_secs(20);

/// Settings of their own in a folder of their own, and a daemon when one is started.
#[derive(Debug)]
struct Place {
    dir: tempfile::TempDir,
    daemon: Option<Child>,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().display();
        let text = format!(
            "root = '{path}/root'\nrun = '{path}/run'\nmonitor = '/bin/true'\n\
             [network]\nconf_dir = '{path}/cni'\n\
             [image]\nregistries_conf = '{path}/registries.conf'\nregistries_conf_dir = '{path}/registries.d'\n\
             policy = '{path}/policy.json'\nauth_files = []\n"
        );
        fs::create_dir(dir.path().join("cni")).unwrap();
        fs::write(dir.path().join("berth.toml"), text).unwrap();
        Self { dir, daemon: None }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn with_daemon() -> Self {
        let mut place = Self::new();
        let log = fs::File::create(place.path("log")).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_berthd"));
        command.arg("--config").arg(place.path("berth.toml")).stdout(log.try_clone().unwrap()).stderr(log);
        place.daemon = Some(command.spawn().unwrap());
        let since = Instant::now();
        while !place.berth(&["status"]).status.success() {
            let log = fs::read_to_string(place.path("log")).unwrap();
            assert!(since.elapsed() < START_LIMIT, "berthd does not answer: {log}");
            std::thread::sleep(Duration::from_millis(20));
        }
        place
    }

    fn berth(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_berth"));
        command.arg("--config").arg(self.path("berth.toml")).args(arguments).output().unwrap()
    }

    /// What it says when it does its work.
    fn said(&self, arguments: &[&str]) -> String {
        let output = self.berth(arguments);
        assert!(output.status.success(), "berth {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// What it complains of when it cannot.
    fn complained(&self, arguments: &[&str]) -> String {
        let output = self.berth(arguments);
        assert_eq!(output.status.code(), Some(1), "berth {arguments:?}");
        String::from_utf8(output.stderr).unwrap()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(daemon) = &mut self.daemon {
            let _ = daemon.kill();
            let _ = daemon.wait();
        }
    }
}

#[test]
fn the_default_settings_are_settings() {
    let place = Place::new();
    let defaults = place.said(&["config", "default"]);
    fs::write(place.path("berth.toml"), &defaults).unwrap();
    assert!(place.said(&["config", "check"]).contains("is in order"));
    let shown: toml::Table = place.said(&["config", "show"]).parse().unwrap();
    assert_eq!(shown["root"].as_str(), Some("/var/lib/berth"));
}

#[test]
fn settings_that_nobody_knows_are_named_with_their_file() {
    let place = Place::new();
    fs::write(place.path("berth.toml"), "shoe_size = 43\n").unwrap();
    let complaint = place.complained(&["config", "check"]);
    assert!(complaint.contains("shoe_size") && complaint.contains("berth.toml"), "{complaint}");
}

#[test]
fn without_a_daemon_it_says_where_it_looked() {
    let place = Place::new();
    let complaint = place.complained(&["status"]);
    let socket = place.path("run/berth.sock");
    assert!(complaint.contains(&*socket.to_string_lossy()), "{complaint}");
}

#[test]
fn a_reader_that_leaves_early_is_no_failure() {
    let place = Place::new();
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut command = Command::new(env!("CARGO_BIN_EXE_berth"));
    let output =
        command.args(["config", "default"]).stdout(writer).current_dir(place.dir.path()).output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
}

#[test]
fn the_doctor_says_what_is_missing_and_counts() {
    let place = Place::new();
    let output = place.berth(&["doctor"]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("FAIL  CNI") && text.contains("-> put a .conflist into"), "{text}");
    let last = text.trim_end().lines().last().unwrap();
    assert!(last.starts_with("doctor: ") && last.ends_with("failures"), "{last}");
}

#[test]
fn the_doctor_names_the_plugin_that_is_missing() {
    let place = Place::new();
    let list = serde_json::json!({"cniVersion": "1.0.0", "name": "pods", "plugins": [
        {"type": "no-such-plugin", "ipam": {"type": "no-such-allocator"}}]});
    fs::write(place.path("cni/10.conflist"), list.to_string()).unwrap();
    let text = String::from_utf8(place.berth(&["doctor"]).stdout).unwrap();
    assert!(text.contains("network pods"), "{text}");
    assert!(text.contains("FAIL  CNI plugins     no-such-plugin no-such-allocator not in"), "{text}");
}

#[test]
fn a_daemon_is_asked_how_it_is_and_given_images() {
    let place = Place::with_daemon();
    let status = place.said(&["status"]);
    assert!(status.contains("0 pods (0 ready), 0 containers (0 running)"), "{status}");
    assert!(
        status.contains("RuntimeReady    no  MonitorUnusable: the monitor /bin/true")
            && status.contains("NetworkReady    no"),
        "{status}"
    );
    assert_eq!(place.said(&["image", "list"]), "");

    let layout = place.path("layout");
    write_layout(&layout);
    let imported = place.said(&["image", "import", layout.to_str().unwrap(), "--name", "local/empty:1"]);
    assert!(imported.contains("local/empty:1  sha256:"), "{imported}");
    let list = place.said(&["image", "list"]);
    assert!(list.contains("local/empty:1"), "{list}");
}

#[test]
fn images_are_copied_shown_given_out_and_verified() {
    let place = Place::with_daemon();
    let layout = place.path("layout");
    write_layout(&layout);
    let from = format!("oci:{}", layout.display());
    let archive = place.path("copy.tar");
    let to = format!("oci-archive:{}", archive.display());
    assert!(place.said(&["image", "copy", &from, &to]).contains("2 blobs sent, 0 were there"));
    assert!(place.complained(&["image", "copy", &from, &to]).contains("it is there already"));
    assert!(
        place.complained(&["image", "copy", "busybox", &to]).contains("is no place: write docker://NAME")
    );
    let shown: serde_json::Value = place.said(&["image", "inspect", &to]).parse().unwrap();
    assert_eq!(shown["Os"], "linux");
    assert!(place.said(&["image", "inspect", "--config-blob", &to]).contains("/nothing"));
    assert!(place.said(&["image", "inspect", "--raw", &to]).contains("manifest.v1+json"));
    place.said(&["image", "import", archive.to_str().unwrap(), "--name", "local/empty:1"]);
    let shown: serde_json::Value = place.said(&["image", "inspect", "local/empty:1"]).parse().unwrap();
    assert_eq!(shown["RepoTags"][0], "docker.io/local/empty:1");
    let out = place.path("out.tar");
    place.said(&["image", "export", "local/empty:1", &format!("docker-archive:{}", out.display())]);
    assert!(place.said(&["image", "import", out.to_str().unwrap()]).contains("local/empty:1"));
    // The daemon would take what follows the colon for a reference.
    let parted = place.path("a:1");
    fs::create_dir(&parted).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_berth"));
    command.arg("--config").arg(place.path("berth.toml")).current_dir(&parted);
    let output = command.args(["image", "export", "local/empty:1", "oci-archive:out.tar"]).output().unwrap();
    let complaint = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success() && complaint.contains("has a colon"), "{complaint}");
    let said = place.said(&["image", "verify"]);
    assert_eq!(said, "verify: 1 images, 1 layers: 0 damaged, 0 mended, 0 that nobody can tell\n");
    let layers = place.path("root/images/recipes");
    let recipe = fs::read_dir(&layers).unwrap().next().unwrap().unwrap().path();
    fs::write(recipe, "spoilt").unwrap();
    let output = place.berth(&["image", "verify", "local/empty:1"]);
    let said = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("DAMAGED, not mended (") && said.contains("1 damaged"), "{said}");
    assert!(place.complained(&["image", "verify", "nothing"]).contains("nothing"));
    assert!(place.complained(&["image", "export", "nothing", &to]).contains("nothing"));
}

#[test]
fn what_cannot_be_had_is_told_with_the_daemons_words() {
    let place = Place::with_daemon();
    let complaint = place.complained(&["image", "import", "/no/such/archive"]);
    assert!(complaint.contains("/no/such/archive"), "{complaint}");
    fs::write(place.path("rubbish"), "not an archive").unwrap();
    let complaint = place.complained(&["image", "import", place.path("rubbish").to_str().unwrap()]);
    assert!(complaint.contains("rubbish"), "{complaint}");
    let complaint = place.complained(&["image", "pull", "127.0.0.1:1/nothing:1"]);
    assert!(complaint.contains("RegistryUnavailable") && complaint.contains("127.0.0.1:1"), "{complaint}");
}

/// An OCI layout with one image of one empty layer.
fn write_layout(layout: &Path) {
    fs::create_dir_all(layout.join("blobs/sha256")).unwrap();
    let put = |bytes: &[u8]| {
        let hex: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
        fs::write(layout.join("blobs/sha256").join(&hex), bytes).unwrap();
        format!("sha256:{hex}")
    };
    // Two blocks of zeros are an archive with nothing in it.
    let layer = [0_u8; 1024];
    let layer_digest = put(&layer);
    let config = serde_json::json!({
        "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" }, "os": "linux",
        "config": {"Cmd": ["/nothing"]}, "rootfs": {"type": "layers", "diff_ids": [layer_digest]},
    });
    let config = config.to_string();
    let manifest_type = "application/vnd.oci.image.manifest.v1+json";
    let manifest = serde_json::json!({
        "schemaVersion": 2, "mediaType": manifest_type,
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": put(config.as_bytes()), "size": config.len()},
        "layers": [{"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": layer_digest, "size": layer.len()}],
    });
    let manifest = manifest.to_string();
    let index = serde_json::json!({"schemaVersion": 2, "manifests": [
        {"mediaType": manifest_type, "digest": put(manifest.as_bytes()), "size": manifest.len()}]});
    fs::write(layout.join("index.json"), index.to_string()).unwrap();
    fs::write(layout.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
}
