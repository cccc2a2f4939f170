//! The socket that plugins come to by themselves.

use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::UnixListener;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::plugin::{self, Joining, Patience};
use crate::node::Node;

/// After an accept that failed, since most such failures last.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Only root may come: a plugin can do to containers what berth can.
///
/// # Errors
/// When there is no such place, or another runtime serves there.
pub(super) fn listen(socket: &Path) -> io::Result<UnixListener> {
    if let Some(dir) = socket.parent() {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    }
    if std::os::unix::net::UnixStream::connect(socket).is_ok() {
        return Err(io::Error::new(io::ErrorKind::AddrInUse, "another runtime serves plugins there"));
    }
    match std::fs::remove_file(socket) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(socket)?;
    std::fs::set_permissions(socket, PermissionsExt::from_mode(0o600))?;
    Ok(listener)
}

/// Lets come who comes, as many at once as there are places.
pub(super) async fn serve(
    node: Arc<Node>,
    listener: UnixListener,
    places: Arc<Semaphore>,
    patience: Patience,
) {
    loop {
        let socket = match listener.accept().await {
            Ok((socket, _)) => socket,
            Err(error) => {
                tracing::warn!("accepting an NRI plugin: {error}");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        match places.clone().try_acquire_owned() {
            Ok(place) => drop(tokio::spawn(welcome(node.clone(), socket, place, patience))),
            Err(_) => tracing::warn!("an NRI plugin is turned away: there are too many"),
        }
    }
}

async fn welcome(
    node: Arc<Node>,
    socket: tokio::net::UnixStream,
    place: OwnedSemaphorePermit,
    patience: Patience,
) {
    let joining = Joining { socket, identity: None, config: String::new(), place };
    match plugin::join(&node, joining, patience).await {
        Ok(plugin) => super::take_in(&node, plugin).await,
        Err(error) => tracing::warn!("an NRI plugin is turned away: {:#}", anyhow::Error::new(error)),
    }
}
