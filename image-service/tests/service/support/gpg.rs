//! Signs with gpg itself, in a home of its own: simple signing as everybody's tools make it.

use std::io::Write;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};

use image_service::digest::Digest;
use serde_json::json;

/// A home with keys; its agent ends with it.
#[derive(Debug)]
pub(crate) struct Gpg(tempfile::TempDir);

pub(crate) fn payload(reference: &str, image: &Digest) -> Vec<u8> {
    let critical = json!({"identity": {"docker-reference": reference}, "image": {"docker-manifest-digest": image},
        "type": "atomic container signature"});
    let optional = json!({"creator": "test", "timestamp": 1_700_000_000});
    serde_json::to_vec(&json!({"critical": critical, "optional": optional})).unwrap()
}

impl Gpg {
    pub(crate) fn new() -> Gpg {
        Gpg(tempfile::tempdir().unwrap())
    }

    pub(crate) fn run(&self, args: &[&str], input: &[u8]) -> Vec<u8> {
        let mut command = Command::new("gpg");
        command.arg("--homedir").arg(self.0.path()).args([
            "--batch",
            "--quiet",
            "--yes",
            "--no-permission-warning",
        ]);
        command
            .args(["--passphrase", "", "--pinentry-mode", "loopback", "--trust-model", "always"])
            .args(args);
        let pipes = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = pipes.spawn().expect("gpg (Debian's package gnupg)");
        child.stdin.take().unwrap().write_all(input).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "gpg {args:?}: {}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    }

    /// A new key for signing, and its fingerprint.
    pub(crate) fn make(&self, algorithm: &str, more: &[&str], expires: &str) -> String {
        static MADE: AtomicUsize = AtomicUsize::new(0);
        let name = format!("test key {}", MADE.fetch_add(1, Ordering::Relaxed));
        self.run(&[more, &["--quick-generate-key", &name, algorithm, "sign", expires]].concat(), b"");
        let listed = self.run(&["--list-keys", "--with-colons", &format!("={name}")], b"");
        let listed = String::from_utf8(listed).unwrap();
        let line = listed.lines().find(|line| line.starts_with("fpr:")).unwrap();
        line.split(':').nth(9).unwrap().to_owned()
    }

    pub(crate) fn export(&self, key: &str) -> Vec<u8> {
        self.run(&["--export", key], b"")
    }

    pub(crate) fn sign(&self, key: &str, more: &[&str], data: &[u8]) -> Vec<u8> {
        self.run(&[more, &["--local-user", key, "--sign"]].concat(), data)
    }

    /// As the owner does who has lost it: by the certificate that gpg made along with the key.
    pub(crate) fn revoke(&self, key: &str) {
        let path = self.0.path().join(format!("openpgp-revocs.d/{key}.rev"));
        let text = std::fs::read_to_string(path).unwrap().replace(":-----BEGIN", "-----BEGIN");
        self.run(&["--import"], text.as_bytes());
    }
}

impl Drop for Gpg {
    fn drop(&mut self) {
        let _ = Command::new("gpgconf").arg("--homedir").arg(self.0.path()).args(["--kill", "all"]).status();
    }
}
