//! The streaming server: exec, attach and port-forward over SPDY/3.1 and WebSocket.
//!
//! Owns the one-use tokens, the HTTP server and the sessions that run over it.
//! Never decides whether a session is allowed: whoever asks for a URL has
//! decided that, and the URL is worth one connection within a minute.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use conmon_protocol::ExecPlan;

use crate::monitor::Monitor;

/// Where to listen, and how patient to be.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Port 0 takes a free one. The URLs name this address, so it must be one that the kubelet can reach.
    pub address: SocketAddr,
    /// A connection over which nothing moved for this long is closed.
    pub idle: Duration,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings { address: SocketAddr::from(([127, 0, 0, 1], 0)), idle: Duration::from_secs(4 * 3600) }
    }
}

/// A process to run in a container once a client comes. The plan's flags say which streams there are.
#[derive(Debug, Clone)]
pub struct ExecSession {
    pub monitor: Monitor,
    pub plan: ExecPlan,
}

/// A running container to join once a client comes.
#[derive(Debug, Clone)]
pub struct AttachSession {
    pub monitor: Monitor,
    pub container_id: String,
    pub terminal: bool,
    pub stdin: bool,
    pub stdout: bool,
    pub stderr: bool,
}

/// A pod whose ports are to be reached.
#[derive(Debug, Clone)]
pub struct PortForwardSession {
    pub sandbox_id: String,
    /// The pod's network namespace; none is the host's.
    pub netns: Option<PathBuf>,
}

/// More URLs are waiting for their client than there may be.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("too many streaming requests are waiting for their client; connect to one or wait a minute")]
pub struct Full;

/// The streaming server. Cheap to clone; it serves until the process ends.
#[derive(Debug, Clone)]
pub struct Streams {
    address: SocketAddr,
}

impl Streams {
    /// Binds the address and starts serving in a task of its own.
    pub async fn serve(settings: Settings) -> io::Result<Streams> {
        let _ = settings;
        todo!()
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// A URL that runs this exec for the first client that comes within a minute.
    pub fn exec(&self, session: ExecSession) -> Result<String, Full> {
        let _ = session;
        todo!()
    }

    /// A URL that attaches the first client that comes within a minute.
    pub fn attach(&self, session: AttachSession) -> Result<String, Full> {
        let _ = session;
        todo!()
    }

    /// A URL that forwards ports for the first client that comes within a minute.
    pub fn port_forward(&self, session: PortForwardSession) -> Result<String, Full> {
        let _ = session;
        todo!()
    }
}
