//! Debian's containerd with runc as a private peer: own root, state and socket.

use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::node::{Client, connect};
use crate::stand_ins::MIRRORED;

const START_LIMIT: Duration = Duration::from_secs(30);

/// A running containerd, ended when dropped; its pods must be removed before.
#[derive(Debug)]
pub struct Containerd {
    dir: tempfile::TempDir,
    child: Child,
}

impl Containerd {
    /// Starts it with this CNI configuration and this image for its pause containers.
    pub async fn start(cni_conf_dir: &Path, sandbox_image: &str) -> Result<Containerd> {
        Containerd::start_with_mirror(cni_conf_dir, sandbox_image, None).await
    }

    /// The same, with `mirror` serving the registries of the stand-in images.
    pub async fn start_with_mirror(
        cni_conf_dir: &Path,
        sandbox_image: &str,
        mirror: Option<SocketAddr>,
    ) -> Result<Containerd> {
        Containerd::start_as(cni_conf_dir, sandbox_image, mirror, "").await
    }

    /// The same, with its runc shim running this OCI runtime instead of runc.
    pub async fn start_with_runtime(
        cni_conf_dir: &Path,
        sandbox_image: &str,
        runtime: &Path,
    ) -> Result<Containerd> {
        let runc = "plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.runc";
        let settings = format!(
            "[{runc}]\nruntime_type = \"io.containerd.runc.v2\"\n[{runc}.options]\nBinaryName = \"{}\"\n",
            runtime.display()
        );
        Containerd::start_as(cni_conf_dir, sandbox_image, None, &settings).await
    }

    async fn start_as(
        cni_conf_dir: &Path,
        sandbox_image: &str,
        mirror: Option<SocketAddr>,
        more: &str,
    ) -> Result<Containerd> {
        let dir = tempfile::Builder::new().prefix("berth-containerd-").tempdir()?;
        for name in mirror.iter().flat_map(|_| MIRRORED) {
            let hosts = dir.path().join("certs.d").join(name);
            std::fs::create_dir_all(&hosts)?;
            let mirror = mirror.expect("there is one, or there are no names");
            std::fs::write(
                hosts.join("hosts.toml"),
                format!("[host.\"http://{mirror}\"]\ncapabilities = [\"pull\", \"resolve\"]\n"),
            )?;
        }
        let config_file = dir.path().join("config.toml");
        std::fs::write(&config_file, configuration(dir.path(), cni_conf_dir, sandbox_image) + more)?;
        let log = File::create(dir.path().join("containerd.log"))?;
        let child = Command::new("containerd")
            .arg("--config")
            .arg(&config_file)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("starting containerd (Debian's package of that name)")?;
        let containerd = Containerd { dir, child };
        containerd.wait_until_ready().await?;
        Ok(containerd)
    }

    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("containerd.sock")
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Part of the command lines of its shims.
    pub fn mark(&self) -> String {
        self.socket().display().to_string()
    }

    pub async fn client(&self) -> Result<Client> {
        connect(&self.socket()).await
    }

    async fn wait_until_ready(&self) -> Result<()> {
        let start = Instant::now();
        loop {
            if let Ok(mut client) = self.client().await {
                let request = proto::v1::StatusRequest::default();
                if client.runtime.status(request).await.is_ok() {
                    return Ok(());
                }
            }
            if start.elapsed() > START_LIMIT {
                let log = std::fs::read_to_string(self.dir.path().join("containerd.log"))?;
                bail!("containerd does not answer; its log:\n{log}");
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn configuration(dir: &Path, cni_conf_dir: &Path, sandbox_image: &str) -> String {
    let dir = dir.display();
    let cri = "plugins.\"io.containerd.grpc.v1.cri\"";
    format!(
        "version = 2\nroot = \"{dir}/root\"\nstate = \"{dir}/state\"\n\
         [grpc]\naddress = \"{dir}/containerd.sock\"\n\
         [{cri}]\nsandbox_image = \"{sandbox_image}\"\nrestrict_oom_score_adj = true\n\
         [{cri}.cni]\nbin_dir = \"/usr/lib/cni\"\nconf_dir = \"{}\"\n\
         [{cri}.registry]\nconfig_path = \"{dir}/certs.d\"\n\
         [{cri}.containerd]\nsnapshotter = \"overlayfs\"\n",
        cni_conf_dir.display()
    )
}
