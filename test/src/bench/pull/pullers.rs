//! Who pulls: berthd and containerd, asked as the kubelet asks; skopeo and the floor, as commands.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::images::Picture;
use super::usage::{self, Usage};
use crate::node::{Client, connect};
use crate::programs::Programs;

const START_LIMIT: Duration = Duration::from_secs(30);
/// How often a command's peak of memory is looked at: it is gone with the process.
const LOOK: Timespec = Timespec { tv_sec: 0, tv_nsec: 10_000_000 };

/// A contender with an empty store on a disk of its own.
#[derive(Debug)]
pub(super) enum Puller<'a> {
    Daemon { daemon: Daemon, registry: SocketAddr },
    Skopeo { root: PathBuf, run: tempfile::TempDir, registry: SocketAddr },
    Floor { root: PathBuf, picture: &'a Picture, registry: SocketAddr },
}

impl Puller<'_> {
    pub(super) async fn start<'a>(
        name: &str,
        root: PathBuf,
        registry: SocketAddr,
        picture: &'a Picture,
    ) -> Result<Puller<'a>> {
        Ok(match name {
            "berth" => Puller::Daemon { daemon: Daemon::berth(&root, registry).await?, registry },
            "containerd" => Puller::Daemon { daemon: Daemon::containerd(&root, registry).await?, registry },
            "skopeo" => Puller::Skopeo { root, run: tempfile::tempdir()?, registry },
            _ => Puller::Floor { root, picture, registry },
        })
    }

    pub(super) fn socket(&self) -> Option<&Path> {
        match self {
            Puller::Daemon { daemon, .. } => Some(&daemon.socket),
            Puller::Skopeo { .. } | Puller::Floor { .. } => None,
        }
    }

    pub(super) async fn client(&self) -> Result<Client> {
        connect(self.socket().context("it has no socket")?).await
    }

    pub(super) async fn pull(&self, repository: &str) -> Result<Usage> {
        match self {
            Puller::Daemon { daemon, registry } => daemon.pull(&format!("{registry}/{repository}:1")).await,
            Puller::Skopeo { root, run, registry } => {
                skopeo(root, run.path(), &format!("{registry}/{repository}:1"))
            }
            Puller::Floor { root, picture, registry } => {
                let mut command = Command::new(Programs::built().pull_floor);
                command.arg(registry.to_string()).arg(repository).arg(root).args(picture.digests());
                measured(&mut command)
            }
        }
    }
}

/// A daemon that speaks CRI, ended when dropped.
#[derive(Debug)]
pub(super) struct Daemon {
    child: Child,
    socket: PathBuf,
    run: tempfile::TempDir,
}

impl Daemon {
    async fn berth(root: &Path, registry: SocketAddr) -> Result<Daemon> {
        let run = tempfile::tempdir()?;
        let (dir, programs) = (run.path().display(), Programs::built());
        std::fs::create_dir(run.path().join("cni"))?;
        let registries = format!("[[registry]]\nlocation = \"{registry}\"\ninsecure = true\n");
        std::fs::write(run.path().join("registries.conf"), registries)?;
        let config = format!(
            "root = \"{}\"\nrun = \"{dir}/run\"\nmonitor = \"{}\"\n[network]\nconf_dir = \"{dir}/cni\"\n\
             [image]\nregistries_conf = \"{dir}/registries.conf\"\nregistries_conf_dir = \"{dir}/none\"\n\
             policy = \"{dir}/policy.json\"\n",
            root.display(),
            programs.conmon.display(),
        );
        std::fs::write(run.path().join("berth.toml"), config)?;
        let mut command = Command::new(programs.berthd);
        command.arg("--config").arg(run.path().join("berth.toml"));
        let socket = run.path().join("run/berth.sock");
        Daemon::spawn(command, socket, run).await
    }

    async fn containerd(root: &Path, registry: SocketAddr) -> Result<Daemon> {
        let run = tempfile::tempdir()?;
        let dir = run.path().display();
        let hosts = run.path().join("certs.d").join(registry.to_string());
        std::fs::create_dir_all(&hosts)?;
        let table = format!("[host.\"http://{registry}\"]\ncapabilities = [\"pull\", \"resolve\"]\n");
        std::fs::write(hosts.join("hosts.toml"), table)?;
        let cri = "plugins.\"io.containerd.grpc.v1.cri\"";
        let config = format!(
            "version = 2\nroot = \"{}\"\nstate = \"{dir}/state\"\n[grpc]\naddress = \"{dir}/containerd.sock\"\n\
             [{cri}]\nrestrict_oom_score_adj = true\n[{cri}.cni]\nconf_dir = \"{dir}/none\"\n\
             [{cri}.registry]\nconfig_path = \"{dir}/certs.d\"\n[{cri}.containerd]\nsnapshotter = \"overlayfs\"\n",
            root.display(),
        );
        std::fs::write(run.path().join("config.toml"), config)?;
        let mut command = Command::new("containerd");
        command.arg("--config").arg(run.path().join("config.toml"));
        let socket = run.path().join("containerd.sock");
        Daemon::spawn(command, socket, run).await
    }

    async fn spawn(mut command: Command, socket: PathBuf, run: tempfile::TempDir) -> Result<Daemon> {
        let log = std::fs::File::create(run.path().join("log"))?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let child = command.spawn().with_context(|| format!("starting {command:?}"))?;
        let daemon = Daemon { child, socket, run };
        let start = Instant::now();
        loop {
            if let Ok(mut client) = connect(&daemon.socket).await
                && client.images.list_images(proto::v1::ListImagesRequest::default()).await.is_ok()
            {
                return Ok(daemon);
            }
            let log = || std::fs::read_to_string(daemon.run.path().join("log")).unwrap_or_default();
            ensure!(start.elapsed() < START_LIMIT, "{command:?} does not answer; its log:\n{}", log());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    async fn pull(&self, image: &str) -> Result<Usage> {
        let mut client = connect(&self.socket).await?;
        let pid = self.child.id();
        usage::forget_peak(pid)?;
        let (cpu, start) = (usage::cpu(pid)?, Instant::now());
        client.pull(image).await?;
        let wall = start.elapsed();
        let cpu = usage::cpu(pid)?.saturating_sub(cpu);
        Ok(Usage { wall, cpu, peak_rss_bytes: usage::peak_rss_bytes(pid)? })
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// Pulls into a store of containers/storage. It unpacks in children of its own, which the time includes.
fn skopeo(root: &Path, run: &Path, image: &str) -> Result<Usage> {
    let store = format!(
        "containers-storage:[overlay@{}/containers+{}]localhost/bench:1",
        root.display(),
        run.display()
    );
    let mut command = Command::new("skopeo");
    command.args(["--insecure-policy", "copy", "--quiet", "--src-tls-verify=false"]);
    command.args([&format!("docker://{image}"), &store]);
    measured(&mut command)
}

/// What a command takes from its start to its end; the memory is the largest that it had itself.
fn measured(command: &mut Command) -> Result<Usage> {
    let start = Instant::now();
    let mut child = command.stdout(Stdio::null()).spawn().with_context(|| format!("starting {command:?}"))?;
    let pidfd = pidfd_open(Pid::from_child(&child), PidfdFlags::empty())?;
    let (mut dead, mut wall, mut peak_rss_bytes) = (false, Duration::ZERO, 0);
    while !dead {
        dead = poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&LOOK))? > 0;
        wall = start.elapsed();
        peak_rss_bytes = peak_rss_bytes.max(usage::peak_rss_bytes(child.id()).unwrap_or(0));
    }
    // It is dead and not yet waited for.
    let cpu = usage::cpu(child.id())?;
    let status = child.wait()?;
    ensure!(status.success(), "{command:?} {status}");
    Ok(Usage { wall, cpu, peak_rss_bytes })
}
