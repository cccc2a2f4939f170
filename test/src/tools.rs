//! Other people's programs: Debian packages, Go, and what Go builds for us.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

use crate::programs::{target_dir, workspace};

/// Debian packages by what needs them.
pub const NODE_PACKAGES: &[(&str, &str)] = &[
    ("/usr/lib/cni/bridge", "containernetworking-plugins"),
    ("/usr/bin/docker-registry", "docker-registry"),
    ("/bin/busybox", "busybox-static"),
    ("/usr/sbin/iptables", "iptables"),
    ("/sbin/ip", "iproute2"),
    ("/usr/bin/cc", "gcc"),
    ("/usr/bin/ipcmk", "util-linux"),
    // The k8s-cri crate generates its code when it is built.
    ("/usr/bin/protoc", "protobuf-compiler"),
];

/// The peer that benchmarks measure beside berth.
pub const PEER_PACKAGES: &[(&str, &str)] =
    &[("/usr/bin/containerd", "containerd"), ("/usr/sbin/runc", "runc")];

/// What comparisons of verdicts need.
pub const COMPARISON_PACKAGES: &[(&str, &str)] = &[
    ("/usr/share/containers/seccomp.json", "golang-github-containers-common"),
    ("/usr/include/seccomp.h", "libseccomp-dev"),
];

/// Installs the packages whose file is missing, saying so first. As root it just does; others are asked by sudo.
pub fn ensure_packages(wanted: &[(&str, &str)]) -> Result<()> {
    let missing: Vec<&str> =
        wanted.iter().filter(|(file, _)| !Path::new(file).exists()).map(|(_, package)| *package).collect();
    if missing.is_empty() {
        return Ok(());
    }
    println!("installing from Debian: {}", missing.join(" "));
    as_root("apt-get").args(["update", "-qq"]).stdout(Stdio::null()).status().context("running apt-get")?;
    let status = as_root("apt-get")
        .args(["install", "-y", "-qq", "--no-install-recommends"])
        .args(&missing)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .stdout(Stdio::null())
        .status()
        .context("running apt-get")?;
    ensure!(status.success(), "apt-get install {} failed: install them by hand", missing.join(" "));
    Ok(())
}

/// A command that runs as root: itself for root, through sudo for others.
pub fn as_root(program: &str) -> Command {
    if rustix::process::geteuid().is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("sudo");
    command.arg(program);
    command
}

/// crictl, critest and ginkgo, built from the Go module under `test/tools`.
#[derive(Debug, Clone)]
pub struct CriTools {
    pub crictl: PathBuf,
    pub critest: PathBuf,
    pub ginkgo: PathBuf,
}

impl CriTools {
    /// Builds them where they are missing or their pinned versions have changed.
    pub fn build() -> Result<CriTools> {
        let dir = target_dir().join("tools");
        let tools =
            CriTools { crictl: dir.join("crictl"), critest: dir.join("critest"), ginkgo: dir.join("ginkgo") };
        let pinned = std::fs::read(workspace().join("test/tools/go.mod"))?;
        let stamp = dir.join("built-from");
        let fresh = std::fs::read(&stamp).is_ok_and(|built_from| built_from == pinned);
        if fresh && tools.crictl.exists() && tools.critest.exists() && tools.ginkgo.exists() {
            return Ok(tools);
        }
        println!("building crictl, critest and ginkgo with Go (once)");
        std::fs::create_dir_all(&dir)?;
        let go = find_go()?;
        go_build(&go, &["build", "-o"], &tools.crictl, "sigs.k8s.io/cri-tools/cmd/crictl")?;
        go_build(&go, &["test", "-c", "-o"], &tools.critest, "sigs.k8s.io/cri-tools/cmd/critest")?;
        go_build(&go, &["build", "-o"], &tools.ginkgo, "github.com/onsi/ginkgo/v2/ginkgo")?;
        std::fs::write(stamp, pinned)?;
        Ok(tools)
    }
}

fn go_build(go: &Path, verb: &[&str], output: &Path, package: &str) -> Result<()> {
    let status = Command::new(go)
        .args(verb)
        .arg(output)
        .arg(package)
        .current_dir(workspace().join("test/tools"))
        .env("GOFLAGS", "-mod=readonly -trimpath")
        .env("CGO_ENABLED", "0")
        .env("GOTOOLCHAIN", "auto")
        .status()
        .context("running go")?;
    ensure!(status.success(), "building {package} failed");
    Ok(())
}

/// Go from the path or its usual place; else Debian's, which fetches the pinned toolchain by itself.
fn find_go() -> Result<PathBuf> {
    for candidate in ["/usr/local/go/bin/go", "/usr/lib/go/bin/go"] {
        if Path::new(candidate).exists() {
            return Ok(candidate.into());
        }
    }
    if Command::new("go").arg("version").stdout(Stdio::null()).status().is_ok() {
        return Ok("go".into());
    }
    install_go()
}

/// Installs Go from the module proxy by way of Debian's older Go.
fn install_go() -> Result<PathBuf> {
    ensure_packages(&[("/usr/lib/go-1.21/bin/go", "golang-1.21-go"), ("/usr/lib/go/bin/go", "golang-go")])
        .or_else(|_| ensure_packages(&[("/usr/bin/go", "golang-go")]))?;
    for candidate in ["/usr/lib/go-1.21/bin/go", "/usr/lib/go/bin/go", "/usr/bin/go"] {
        if Path::new(candidate).exists() {
            return Ok(candidate.into());
        }
    }
    bail!("no Go: install Go 1.26 or newer (https://go.dev/dl) and try again")
}
