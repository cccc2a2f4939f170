//! The road to the daemon.

use std::error::Error as _;
use std::io;
use std::path::Path;
use std::time::Duration;

use tonic::transport::{Channel, Endpoint};

use super::Error;

/// A daemon on this machine answers at once or not at all.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

pub(super) async fn connect(socket: &Path) -> Result<Channel, Error> {
    let no_daemon = |source| match is_forbidden(&source) {
        true => Error::NotRoot { socket: socket.to_owned() },
        false => Error::NoDaemon { socket: socket.to_owned(), source },
    };
    let endpoint = Endpoint::from_shared(format!("unix://{}", socket.display())).map_err(no_daemon)?;
    endpoint.connect_timeout(CONNECT_TIMEOUT).connect().await.map_err(no_daemon)
}

fn is_forbidden(error: &tonic::transport::Error) -> bool {
    let mut cause = error.source();
    while let Some(error) = cause {
        if error.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == io::ErrorKind::PermissionDenied) {
            return true;
        }
        cause = error.source();
    }
    false
}
