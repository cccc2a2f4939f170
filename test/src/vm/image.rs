//! The guest's disk: a Debian made by mmdebstrap, with its own kernel, and an agent that waits for a command.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::tools::mirror;

const SUITE: &str = "trixie";
/// What a node has, and what tests ask for.
const PACKAGES: &[&str] = &[
    "linux-image-amd64",
    "initramfs-tools",
    "systemd-sysv",
    "dbus",
    "udev",
    "libpam-systemd",
    "procps",
    "util-linux",
    "kmod",
    "iproute2",
    "iptables",
    "ca-certificates",
    "uidmap",
    "attr",
    "strace",
    "sudo",
    "busybox-static",
    "apparmor",
    "selinux-policy-default",
    "policycoreutils",
    "selinux-utils",
    "containernetworking-plugins",
    "docker-registry",
    "runc",
    "crun",
    "criu",
    "dbus-user-session",
];
/// Slow to start where the processor is emulated, and of no use to a guest of minutes.
const MASKED: &[&str] = &[
    "apparmor.service",
    "systemd-timesyncd.service",
    "getty.target",
    "serial-getty@ttyS0.service",
    "systemd-random-seed.service",
    "e2scrub_reap.service",
    "ldconfig.service",
    "docker-registry.service",
    "apt-daily.timer",
    "apt-daily-upgrade.timer",
    "dpkg-db-backup.timer",
    "fstrim.timer",
    "e2scrub_all.timer",
    "logrotate.timer",
    "man-db.timer",
    "systemd-tmpfiles-clean.timer",
];

/// Takes one line with a script in base64 and answers with all that the script says, a NUL, and its status.
const AGENT: &str = r#"#!/bin/bash
port=/dev/virtio-ports/berth.port
# Before the snapshot: the shares are there from the first moment on.
modprobe -a 9p 9pnet_virtio
exec 3<>"$port"
echo ready >&3
IFS= read -r line <&3
base64 -d <<<"$line" >/run/berth-vm.sh
cd /root
# Through a pipe: the port can be opened but once, and commands may leave somebody behind who holds it.
env -i HOME=/root USER=root PATH="$PATH:/usr/sbin:/sbin" LANG=C.UTF-8 bash /run/berth-vm.sh </dev/null \
  > >(exec cat >&3) 2>&1 3>&-
status=$?
sleep 0.2
printf '\0%s\n' "$status" >&3
sleep infinity
"#;
const UNIT: &str = "\
[Unit]
Description=Runs one command
After=basic.target dbus.socket systemd-logind.service
Requires=dbus.socket
[Service]
ExecStart=/usr/local/sbin/berth-vm-agent
Delegate=yes
KillMode=process
TasksMax=infinity
LimitNOFILE=1048576
OOMPolicy=continue
[Install]
WantedBy=multi-user.target
";
/// Room for images and layers; the file is sparse.
const FREE_MIB: u64 = 8192;

/// What a guest is started from.
#[derive(Debug)]
pub(super) struct Image {
    pub(super) root: PathBuf,
    pub(super) kernel: PathBuf,
    pub(super) initrd: PathBuf,
    /// Changes with everything that it is made of.
    pub(super) key: String,
}

/// Makes it where it is missing; some minutes, once.
pub(super) fn ensure(cache: &Path) -> Result<Image> {
    let key = key();
    let at = |name: &str| cache.join(format!("{name}-{key}"));
    let image = Image { root: at("root"), kernel: at("kernel"), initrd: at("initrd"), key: key.clone() };
    if image.root.exists() {
        return Ok(image);
    }
    println!("making the guest's disk: Debian {SUITE} (once, some minutes)");
    let dir = tempfile::Builder::new().prefix("root-").tempdir_in(cache)?;
    let tree = dir.path().join("tree");
    debootstrap(&tree)?;
    furnish(&tree)?;
    label(&tree)?;
    std::fs::copy(tree.join("vmlinuz"), &image.kernel).context("the guest's kernel")?;
    std::fs::copy(tree.join("initrd.img"), &image.initrd).context("the guest's initrd")?;
    pack(&tree, &image.root)?;
    Ok(image)
}

fn key() -> String {
    use std::hash::{Hash as _, Hasher as _};
    let mut hasher = std::hash::DefaultHasher::new();
    (SUITE, PACKAGES, MASKED, AGENT, UNIT, FREE_MIB).hash(&mut hasher);
    format!("{:016x}", hasher.finish())
}

fn debootstrap(tree: &Path) -> Result<()> {
    let mut command = Command::new("mmdebstrap");
    command.args(["--variant=minbase", "--mode=root"]).arg(format!("--include={}", PACKAGES.join(",")));
    command.args(["--aptopt=APT::Install-Recommends \"false\"", "--dpkgopt=path-exclude=/usr/share/doc/*"]);
    command.arg(SUITE).arg(tree).arg(mirror());
    run(command.stdout(Stdio::null()))
}

fn furnish(tree: &Path) -> Result<()> {
    let write =
        |path: &str, text: &str| std::fs::write(tree.join(path), text).with_context(|| path.to_owned());
    write("etc/hostname", "berth-vm\n")?;
    write("etc/hosts", "127.0.0.1 localhost berth-vm\n::1 localhost\n")?;
    write("etc/fstab", "")?;
    write("usr/local/sbin/berth-vm-agent", AGENT)?;
    std::fs::set_permissions(
        tree.join("usr/local/sbin/berth-vm-agent"),
        std::fs::Permissions::from_mode(0o755),
    )?;
    let units = tree.join("etc/systemd/system");
    write("etc/systemd/system/berth-vm.service", UNIT)?;
    std::fs::create_dir_all(units.join("multi-user.target.wants"))?;
    link("../berth-vm.service", &units.join("multi-user.target.wants/berth-vm.service"))?;
    MASKED.iter().try_for_each(|unit| link("/dev/null", &units.join(unit)))
}

fn link(target: &str, at: &Path) -> Result<()> {
    std::fs::remove_file(at).ok();
    std::os::unix::fs::symlink(target, at).with_context(|| at.display().to_string())
}

/// Labels are attributes of files to a kernel without SELinux, and mke2fs takes them along.
fn label(tree: &Path) -> Result<()> {
    let contexts = "/etc/selinux/default/contexts/files/file_contexts";
    run(Command::new("chroot").arg(tree).args(["setfiles", "-F", contexts, "/"]).stdout(Stdio::null()))
}

fn pack(tree: &Path, root: &Path) -> Result<()> {
    let unfinished = root.with_extension("new");
    let used = Command::new("du").args(["-sm"]).arg(tree).output().context("running du")?;
    let used = String::from_utf8_lossy(&used.stdout);
    let used: u64 =
        used.split_whitespace().next().and_then(|n| n.parse().ok()).context("du said no number")?;
    let size = used + used / 4 + FREE_MIB;
    let mut command = Command::new("mke2fs");
    command
        .args(["-q", "-F", "-t", "ext4", "-m", "0", "-d"])
        .arg(tree)
        .arg(&unfinished)
        .arg(format!("{size}M"));
    run(&mut command)?;
    std::fs::rename(&unfinished, root).context("the guest's disk")
}

fn run(command: &mut Command) -> Result<()> {
    let output = command.stderr(Stdio::piped()).output().with_context(|| format!("running {command:?}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    let tail: Vec<&str> = said.lines().rev().take(20).collect();
    let tail = tail.into_iter().rev().collect::<Vec<_>>().join("\n");
    ensure!(output.status.success(), "{command:?} failed:\n{tail}");
    Ok(())
}
