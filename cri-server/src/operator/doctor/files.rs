//! What lies on the disk: directories, the socket, the monitor, registries and policy.

use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use image_service::policy::Policy;
use image_service::registries_conf::RegistriesConf;

use super::Finding;
use crate::config::{Config, ImageSection};

/// A node with less than this free soon fails to pull.
const FREE_MIN_BYTES: u64 = 1 << 30;

pub(super) fn findings(config: &Config, socket: Option<&Path>) -> Vec<Finding> {
    let socket = socket.map_or_else(|| config.socket(), Path::to_path_buf);
    vec![
        directory("root", &config.root),
        space(&config.root),
        directory("run", &config.run),
        on_tmpfs(&config.run),
        daemon(&socket),
        monitor(&config.monitor),
        registries(&config.image),
        policy(&config.image.policy),
    ]
}

/// The directory itself, or the nearest one above it that is there.
fn existing(path: &Path) -> &Path {
    path.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"))
}

/// Threats: what the daemon keeps is for root alone (CVE-2021-41103).
fn directory(what: &'static str, path: &Path) -> Finding {
    let shown = path.display().to_string();
    let Ok(metadata) = path.metadata() else {
        let there = rustix::fs::access(existing(path), rustix::fs::Access::WRITE_OK).is_ok();
        let is = format!("{shown} (berthd will make it)");
        let advice = format!("run as root, or set {what} to a place that can be written");
        return if there {
            Finding::fine(what, is)
        } else {
            Finding::broken(what, format!("{shown} cannot be made"), advice)
        };
    };
    match metadata.mode() & 0o777 {
        _ if !metadata.is_dir() => {
            Finding::broken(what, format!("{shown} is not a directory"), "move it away")
        }
        mode if mode & 0o022 != 0 => Finding::broken(
            what,
            format!("{shown} can be written by others ({mode:o})"),
            format!("chmod 0711 {shown}"),
        ),
        mode => Finding::fine(what, format!("{shown} ({mode:o})")),
    }
}

fn space(root: &Path) -> Finding {
    let Ok(system) = rustix::fs::statvfs(existing(root)) else {
        return Finding::broken(
            "disk",
            format!("{} cannot be asked", root.display()),
            "look at the kernel's log",
        );
    };
    let free = system.f_bavail.saturating_mul(system.f_frsize);
    let is = format!("{} free", super::super::measure::size(free));
    if free < FREE_MIN_BYTES {
        return Finding::poor("disk", is, "make room, or move `root`; images need it");
    }
    Finding::fine("disk", is)
}

fn on_tmpfs(run: &Path) -> Finding {
    const TMPFS_MAGIC: i64 = 0x0102_1994;
    let kind =
        rustix::fs::statfs(existing(run)).map(|system| i64::from(system.f_type as i32)).unwrap_or_default();
    let advice =
        "put `run` on a tmpfs; elsewhere each pod start waits for the disk, and a reboot leaves stale state";
    Finding::wished("run on tmpfs", kind == TMPFS_MAGIC, "tmpfs", advice)
}

fn daemon(socket: &Path) -> Finding {
    let shown = socket.display();
    let advice = "systemctl start berth";
    let Ok(metadata) = socket.symlink_metadata() else {
        return Finding::poor("berthd", format!("not running ({shown} is not there)"), advice);
    };
    let mode = metadata.mode() & 0o777;
    match UnixStream::connect(socket) {
        _ if !metadata.file_type().is_socket() => {
            Finding::broken("berthd", format!("{shown} is not a socket"), "move it away")
        }
        Err(e) => Finding::poor("berthd", format!("{shown}: {e}"), advice),
        Ok(_) if mode & 0o077 != 0 => Finding::broken(
            "berthd",
            format!("{shown} is open to others ({mode:o})"),
            format!("chmod 0600 {shown}"),
        ),
        Ok(_) => Finding::fine("berthd", format!("listens on {shown}")),
    }
}

/// As berthd looks for it: the setting, beside itself, in PATH.
fn monitor(setting: &Path) -> Finding {
    let beside = std::env::current_exe().ok().map(|program| program.with_file_name("berth-conmon"));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let in_path = std::env::split_paths(&path).map(|dir| dir.join("berth-conmon"));
    let candidates: Vec<PathBuf> = match setting.as_os_str().is_empty() {
        true => beside.into_iter().chain(in_path).collect(),
        false => vec![setting.to_path_buf()],
    };
    match candidates.iter().find(|path| path.is_file()) {
        Some(path) => Finding::fine("monitor", path.display().to_string()),
        None => Finding::broken(
            "monitor",
            "berth-conmon is nowhere",
            "install it beside berthd, or set `monitor`",
        ),
    }
}

fn registries(settings: &ImageSection) -> Finding {
    let file = &settings.registries_conf;
    match RegistriesConf::load(file, &settings.registries_conf_dir) {
        Ok(_) if file.exists() => Finding::fine("registries", file.display().to_string()),
        Ok(_) => Finding::fine("registries", format!("defaults ({} is not there)", file.display())),
        Err(error) => Finding::broken(
            "registries",
            crate::error::chain(&error),
            "correct it (containers-registries.conf(5)); no image is pulled until then",
        ),
    }
}

fn policy(file: &Path) -> Finding {
    let shown = file.display().to_string();
    let advice = "write one (containers-policy.json(5)); without it every image is accepted";
    match Policy::load(file) {
        Ok(_) if file.exists() => Finding::fine("policy", shown),
        Ok(_) => Finding::poor("policy", format!("{shown} is not there"), advice),
        Err(error) => Finding::broken(
            "policy",
            crate::error::chain(&error),
            "correct it (containers-policy.json(5)); no image is pulled until then",
        ),
    }
}
