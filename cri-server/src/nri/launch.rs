//! Plugins that lie in a directory: each is started with the daemon, has its socket as an open descriptor, and is
//! killed when it is cut off or the daemon ends.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;

use tokio::net::UnixStream;
use tokio::process::{Child, Command};
use tokio::sync::Semaphore;

use super::link::Link;
use super::plugin::{self, Identity, Joining, Patience, Plugin};
use crate::bounded::read_text;
use crate::node::Node;

/// What a child of ours is called until it has become the plugin.
const ARG0: &str = "berthd-nri-plugin";
const SOCKET: &str = "NRI_PLUGIN_SOCKET";
/// No plugin's configuration is larger.
const CONFIG_MAX_BYTES: u64 = 1 << 20;

/// A plugin's program and its configuration.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) identity: Identity,
    program: PathBuf,
    config: String,
}

/// The executable files of a directory. What is not named as a plugin is told of and left alone.
pub(super) fn discover(plugin_dir: &Path, config_dir: &Path) -> Vec<Found> {
    let entries = std::fs::read_dir(plugin_dir).into_iter().flatten().flatten();
    let mut found: Vec<Found> = entries.filter_map(|entry| look(&entry.path(), config_dir)).collect();
    found.sort_by(|one, other| one.identity.cmp(&other.identity));
    found
}

fn look(program: &Path, config_dir: &Path) -> Option<Found> {
    let metadata = program.metadata().ok()?;
    if !metadata.is_file() || metadata.permissions().mode() & 0o111 == 0 {
        return None;
    }
    let name = program.file_name()?.to_string_lossy();
    match Identity::parse(&name) {
        Ok(identity) => match config(config_dir, &identity) {
            Ok(config) => Some(Found { identity, program: program.to_path_buf(), config }),
            Err((path, error)) => {
                tracing::error!("NRI plugin {identity} is not started: reading {}: {error}", path.display());
                None
            }
        },
        Err(error) => {
            tracing::error!("{} is not started: {error}", program.display());
            None
        }
    }
}

/// `NN-NAME.conf`, or `NAME.conf`; none is fine.
fn config(dir: &Path, identity: &Identity) -> Result<String, (PathBuf, io::Error)> {
    for name in [format!("{identity}.conf"), format!("{}.conf", identity.name)] {
        let path = dir.join(name);
        match read_text(&path, CONFIG_MAX_BYTES) {
            Ok(config) => return Ok(config),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err((path, error)),
        }
    }
    Ok(String::new())
}

/// Starts one and waits until it is configured. What fails is told of, and killed.
pub(super) async fn launch(
    node: &Arc<Node>,
    found: Found,
    places: &Arc<Semaphore>,
    patience: Patience,
) -> Option<Plugin> {
    let identity = found.identity.clone();
    let Ok(place) = places.clone().try_acquire_owned() else {
        tracing::error!("NRI plugin {identity} is not started: there are too many");
        return None;
    };
    let (socket, mut child) = match spawn(&found) {
        Ok(started) => started,
        Err(error) => {
            tracing::error!("NRI plugin {identity} does not start: {}: {error}", found.program.display());
            return None;
        }
    };
    let joining = Joining { socket, identity: Some(found.identity), config: found.config, place };
    match plugin::join(node, joining, patience).await {
        Ok(plugin) => {
            tokio::spawn(watch(child, plugin.link.clone()));
            Some(plugin)
        }
        Err(error) => {
            tracing::error!("NRI plugin {identity} is killed: {:#}", anyhow::Error::new(error));
            let _ = child.kill().await;
            None
        }
    }
}

fn spawn(found: &Found) -> io::Result<(UnixStream, Child)> {
    let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
    ours.set_nonblocking(true)?;
    let mut command = Command::new("/proc/self/exe");
    command
        .arg0(ARG0)
        .arg(&found.program)
        .env_clear()
        .env("NRI_PLUGIN_NAME", &found.identity.name)
        .env("NRI_PLUGIN_IDX", &found.identity.index)
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .kill_on_drop(true);
    Ok((UnixStream::from_std(ours)?, command.spawn()?))
}

/// Neither outlives the other.
async fn watch(mut child: Child, link: Link) {
    tokio::select! {
        () = link.closed() => {}
        _ = child.wait() => link.close(),
    }
    let _ = child.kill().await;
}

/// The half of starting a plugin that is done in the child: the socket comes as its standard input, and goes on as the
/// descriptor after the standard ones. Comes back when this process is not such a child.
pub fn become_plugin_if_asked() {
    let mut words = std::env::args_os();
    if words.next().is_none_or(|word| word != ARG0) {
        return;
    }
    let error = words.next().map_or_else(
        || io::Error::other("no program is named"),
        |program| become_plugin(&program).unwrap_or_else(|error| error),
    );
    eprintln!("berthd: becoming an NRI plugin: {error}");
    std::process::exit(127);
}

fn become_plugin(program: &std::ffi::OsStr) -> io::Result<io::Error> {
    // The lowest free number: 3, unless whoever started berthd left something open.
    let socket = rustix::io::dup(io::stdin())?;
    rustix::stdio::dup2_stdin(std::fs::File::open("/dev/null")?)?;
    let mut command = std::process::Command::new(program);
    Ok(command.env(SOCKET, socket.as_raw_fd().to_string()).exec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_found_in_order_with_their_configuration() {
        let dir = tempfile::tempdir().unwrap();
        let (plugins, configs) = (dir.path().join("plugins"), dir.path().join("conf"));
        std::fs::create_dir_all(plugins.join("30-dir")).unwrap();
        std::fs::create_dir(&configs).unwrap();
        for (name, mode) in [("20-b", 0o755), ("10-a", 0o700), ("15-data", 0o644), ("nonsense", 0o755)] {
            std::fs::write(plugins.join(name), "").unwrap();
            std::fs::set_permissions(plugins.join(name), PermissionsExt::from_mode(mode)).unwrap();
        }
        std::fs::write(configs.join("a.conf"), "of all a").unwrap();
        std::fs::write(configs.join("b.conf"), "of all b").unwrap();
        std::fs::write(configs.join("20-b.conf"), "of this b").unwrap();
        let found = discover(&plugins, &configs);
        let told: Vec<(String, &str)> =
            found.iter().map(|found| (found.identity.to_string(), found.config.as_str())).collect();
        assert_eq!(told, [("10-a".to_owned(), "of all a"), ("20-b".to_owned(), "of this b")]);
        assert!(discover(Path::new("/nonexistent"), &configs).is_empty());
    }
}
