//! Other people's programs: Debian packages, Go, and what Go builds for us.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

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
    // Signs images in tests of the policy.
    ("/usr/bin/gpg", "gnupg"),
    // Encrypts images, for keys that openssl makes.
    ("/usr/bin/skopeo", "skopeo"),
    ("/usr/bin/openssl", "openssl"),
    // Other runtimes, as handlers.
    ("/usr/sbin/runc", "runc"),
    ("/usr/bin/crun", "crun"),
    // A file system that can clone a disk at one moment, for power cuts.
    ("/sbin/mkfs.xfs", "xfsprogs"),
    ("/sbin/mkfs.ext4", "e2fsprogs"),
    // The k8s-cri crate generates its code when it is built.
    ("/usr/bin/protoc", "protobuf-compiler"),
];

/// The peer that benchmarks measure beside berth.
pub const PEER_PACKAGES: &[(&str, &str)] =
    &[("/usr/bin/containerd", "containerd"), ("/usr/sbin/runc", "runc")];

/// What the benchmark of pulls measures beside berth, and makes its file systems with.
pub const PULL_PACKAGES: &[(&str, &str)] = &[
    ("/usr/bin/containerd", "containerd"),
    ("/usr/bin/skopeo", "skopeo"),
    ("/sbin/mkfs.ext4", "e2fsprogs"),
    ("/sbin/losetup", "mount"),
];

/// What the OCI suite needs: two peers, a shell's tools for test bundles, and namespaces to run in.
pub const OCI_PACKAGES: &[(&str, &str)] = &[
    ("/usr/sbin/runc", "runc"),
    ("/usr/bin/crun", "crun"),
    ("/bin/busybox", "busybox-static"),
    ("/usr/bin/unshare", "util-linux"),
    ("/sbin/ip", "iproute2"),
];

/// Other people's engines, which run berth-runtime and take our archives.
pub const ENGINE_PACKAGES: &[(&str, &str)] = &[
    ("/usr/bin/podman", "podman"),
    ("/usr/bin/newuidmap", "uidmap"),
    ("/usr/bin/containerd", "containerd"),
    ("/usr/bin/setpriv", "util-linux"),
    ("/usr/sbin/useradd", "passwd"),
    ("/bin/ps", "procps"),
];

/// What the benchmark of the runtime needs.
pub const RUNTIME_BENCH_PACKAGES: &[(&str, &str)] = &[
    ("/bin/busybox", "busybox-static"),
    ("/usr/bin/crun", "crun"),
    ("/usr/sbin/runc", "runc"),
    ("/usr/bin/strace", "strace"),
    ("/usr/share/containers/seccomp.json", "golang-github-containers-common"),
    ("/usr/bin/cc", "gcc"),
];

/// What counting the cost of a container needs.
pub const COST_PACKAGES: &[(&str, &str)] = &[
    ("/usr/bin/strace", "strace"),
    ("/usr/share/containers/seccomp.json", "golang-github-containers-common"),
];

/// What comparisons of verdicts need.
pub const COMPARISON_PACKAGES: &[(&str, &str)] = &[
    ("/usr/share/containers/seccomp.json", "golang-github-containers-common"),
    ("/usr/include/seccomp.h", "libseccomp-dev"),
    // Kills the runtime's commands at each of their calls.
    ("/usr/bin/strace", "strace"),
    ("/usr/bin/setpriv", "util-linux"),
];

/// What the virtual machine is made with and runs on.
pub const VM_PACKAGES: &[(&str, &str)] = &[
    ("/usr/bin/qemu-system-x86_64", "qemu-system-x86"),
    ("/usr/bin/qemu-img", "qemu-utils"),
    ("/usr/bin/mmdebstrap", "mmdebstrap"),
    ("/usr/sbin/mke2fs", "e2fsprogs"),
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
    // sudo keeps no environment, so env sets it on the other side.
    let status = as_root("env")
        .args([
            "DEBIAN_FRONTEND=noninteractive",
            "apt-get",
            "install",
            "-y",
            "-qq",
            "--no-install-recommends",
        ])
        .args(&missing)
        .stdout(Stdio::null())
        .status()
        .context("running apt-get")?;
    ensure!(status.success(), "apt-get install {} failed: install them by hand", missing.join(" "));
    Ok(())
}

const MIRROR: &str = "http://deb.debian.org/debian";

/// The archive that this machine's apt uses, or Debian's own.
pub fn mirror() -> String {
    let said = Command::new("apt-get")
        .args(["indextargets", "--format", "$(REPO_URI)", "Created-By: Packages"])
        .output();
    let said = said.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    let own = said.lines().find(|line| line.contains("debian") && !line.contains("security"));
    own.unwrap_or(MIRROR).trim_end_matches('/').to_owned()
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

/// A critest after the last release, whose specs no release has yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NewerCritest {
    /// Of the commit [`NEWER_CRITEST`], by the Go proxy.
    Proxy,
    /// Of a checkout of cri-tools, for where the proxy does not give that commit.
    Checkout(PathBuf),
}

/// Has specs for NRI plugins, image volumes and pod metrics that v1.36.0 lacks.
const NEWER_CRITEST: &str = "sigs.k8s.io/cri-tools@v1.36.1-0.20260813070737-ba03eabc1450";

impl NewerCritest {
    /// Builds it anew: a checkout may have changed.
    ///
    /// # Errors
    /// When the proxy does not give the commit, or Go cannot build it.
    pub fn build(&self) -> Result<PathBuf> {
        let go = find_go()?;
        let source = match self {
            NewerCritest::Checkout(dir) => dir.clone(),
            NewerCritest::Proxy => module_dir(&go, NEWER_CRITEST)?,
        };
        let critest = target_dir().join("tools/critest-main");
        println!("building critest of {} with Go", source.display());
        go_build_in(&source, &go, &["test", "-c", "-o"], &critest, "./cmd/critest")?;
        Ok(critest)
    }
}

/// Where Go keeps the source of a module.
fn module_dir(go: &Path, module: &str) -> Result<PathBuf> {
    let told = Command::new(go).args(["mod", "download", "-json", module]).output().context("running go")?;
    let told: serde_json::Value = serde_json::from_slice(&told.stdout).context("what go says of a module")?;
    let dir = told["Dir"].as_str().with_context(|| {
        format!("{module} cannot be had: {}; give a checkout of it with --source DIR", told["Error"])
    })?;
    Ok(dir.into())
}

/// The plugin over containerd's NRI stub, built from `test/nri-plugin` where it is missing or has changed.
pub fn build_nri_plugin() -> Result<PathBuf> {
    let source = workspace().join("test/nri-plugin");
    let dir = target_dir().join("tools");
    let (plugin, stamp) = (dir.join("nri-plugin"), dir.join("nri-plugin-built-from"));
    let mut wanted = std::fs::read(source.join("go.sum"))?;
    wanted.extend(std::fs::read(source.join("main.go"))?);
    if plugin.exists() && std::fs::read(&stamp).is_ok_and(|built_from| built_from == wanted) {
        return Ok(plugin);
    }
    println!("building the NRI plugin with Go (once)");
    std::fs::create_dir_all(&dir)?;
    go_build_in(&source, &find_go()?, &["build", "-o"], &plugin, ".")?;
    std::fs::write(stamp, wanted)?;
    Ok(plugin)
}

fn go_build(go: &Path, verb: &[&str], output: &Path, package: &str) -> Result<()> {
    go_build_in(&workspace().join("test/tools"), go, verb, output, package)
}

fn go_build_in(module: &Path, go: &Path, verb: &[&str], output: &Path, package: &str) -> Result<()> {
    let status = Command::new(go)
        .args(verb)
        .arg(output)
        .arg(package)
        .current_dir(module)
        .env("GOFLAGS", "-mod=readonly -trimpath")
        .env("CGO_ENABLED", "0")
        .env("GOTOOLCHAIN", "auto")
        .status()
        .context("running go")?;
    ensure!(status.success(), "building {package} failed");
    Ok(())
}

/// The Go that builds the tools where the machine has none, or too old a one.
const GO: &str = "1.26.2";

/// Go of the machine, if it is new enough to fetch what `go.mod` asks for; else our own.
fn find_go() -> Result<PathBuf> {
    let present = ["/usr/local/go/bin/go", "go"].into_iter().find(|go| fetches_toolchains(go));
    present.map_or_else(install_go, |go| Ok(go.into()))
}

/// Since 1.21 Go gets the toolchain that a module asks for by itself.
fn fetches_toolchains(go: &str) -> bool {
    let Ok(version) = Command::new(go).args(["env", "GOVERSION"]).output() else { return false };
    let version = String::from_utf8_lossy(&version.stdout);
    let minor =
        version.trim().strip_prefix("go1.").and_then(|rest| rest.split('.').next()?.parse::<u32>().ok());
    minor.is_some_and(|minor| minor >= 21)
}

/// Debian's Go is too old to build the tools, but not to fetch a newer one, which is a module like any other.
fn install_go() -> Result<PathBuf> {
    let cache = target_dir().join("go");
    let root = cache.join(format!("golang.org/toolchain@v0.0.1-go{GO}.linux-amd64"));
    let go = root.join("bin/go");
    if !go.exists() {
        ensure_packages(&[("/usr/lib/go-1.19/bin/go", "golang-1.19-go")])?;
        println!("fetching Go {GO} from the module proxy");
        download_toolchain(&cache)?;
        make_executable(&root.join("bin"))?;
        make_executable(&root.join("pkg/tool/linux_amd64"))?;
    }
    Ok(go)
}

fn download_toolchain(cache: &Path) -> Result<()> {
    let module = cache.join("fetch");
    std::fs::create_dir_all(&module)?;
    std::fs::write(module.join("go.mod"), "module fetch\n\ngo 1.19\n")?;
    let status = Command::new("/usr/lib/go-1.19/bin/go")
        .args(["mod", "download", &format!("golang.org/toolchain@v0.0.1-go{GO}.linux-amd64")])
        .current_dir(&module)
        .env("GOFLAGS", "-mod=mod -modcacherw")
        .env("GOMODCACHE", cache)
        // Old Go asks no checksum database about toolchains.
        .env("GONOSUMDB", "golang.org/toolchain")
        .status()
        .context("running Debian's go")?;
    ensure!(status.success(), "no Go {GO}: install it by hand (https://go.dev/dl) and try again");
    Ok(())
}

/// A module's files have no modes, so its programs must be made ones.
fn make_executable(dir: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    for entry in std::fs::read_dir(dir)? {
        std::fs::set_permissions(entry?.path(), PermissionsExt::from_mode(0o755))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[ignore = "builds for minutes where the tools are missing; cargo xtask node has built them"]
    fn the_tools_are_there_or_built() {
        let tools = CriTools::build().unwrap();
        for tool in [tools.crictl, tools.critest, tools.ginkgo] {
            assert!(tool.exists(), "{}", tool.display());
        }
    }
}
