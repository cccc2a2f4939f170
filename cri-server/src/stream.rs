//! The streaming server: exec, attach and port-forward over SPDY/3.1 and WebSocket.
//!
//! Owns the one-use tokens, the HTTP server and the sessions that run over it.
//! Never decides whether a session is allowed: whoever asks for a URL has
//! decided that, and the URL is worth one connection within a minute.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use conmon_protocol::ExecPlan;
use tokio::net::TcpListener;
use tokio_util::task::AbortOnDropHandle;

pub(crate) use self::tls::Tls;
use self::token::Tokens;
use self::upgrade::Purpose;
use crate::monitor::Monitor;

pub use self::tls::Files as TlsFiles;

mod attach;
mod descriptor;
mod exec;
mod forward;
mod remote;
mod server;
mod spdy;
#[cfg(test)]
mod tests;
mod tls;
mod token;
mod upgrade;
mod websocket;
mod wire;

/// Where to listen, and how patient to be.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Port 0 takes a free one. The URLs name this address, so it must be one that the kubelet can reach.
    pub address: SocketAddr,
    /// A connection over which nothing moved for this long is closed.
    pub idle: Duration,
    /// A forwarded connection whose server takes nothing for this long is reset when it holds the others.
    pub stuck: Duration,
    /// The URLs are https then.
    pub tls: Option<TlsFiles>,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            address: SocketAddr::from(([127, 0, 0, 1], 0)),
            idle: Duration::from_secs(4 * 3600),
            stuck: Duration::from_secs(30),
            tls: None,
        }
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
    /// The ports of the request; only the old WebSocket protocol needs them beforehand.
    pub ports: Vec<u16>,
}

/// More URLs are waiting for their client than there may be.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("too many streaming requests are waiting for their client; connect to one or wait a minute")]
pub struct Full;

/// What a URL stands for.
#[derive(Debug)]
enum Session {
    Exec(Box<ExecSession>),
    Attach(AttachSession),
    PortForward(PortForwardSession),
}

impl Session {
    fn purpose(&self) -> Purpose {
        match self {
            Session::Exec(_) | Session::Attach(_) => Purpose::Remote,
            Session::PortForward(_) => Purpose::PortForward,
        }
    }
}

/// The streaming server. Cheap to clone; it serves for as long as a clone is there.
#[derive(Debug, Clone)]
pub struct Streams {
    address: SocketAddr,
    scheme: &'static str,
    tokens: Arc<Tokens<Session>>,
    _server: Arc<AbortOnDropHandle<()>>,
}

impl Streams {
    /// Binds the address and starts serving in a task of its own.
    ///
    /// # Errors
    /// When the address cannot be had, or the certificate cannot be used.
    pub async fn serve(settings: Settings) -> io::Result<Streams> {
        let tls = settings.tls.map(Tls::load).transpose().map_err(io::Error::other)?.map(Arc::new);
        let scheme = if tls.is_some() { "https" } else { "http" };
        let listener = TcpListener::bind(settings.address).await?;
        let address = reachable(listener.local_addr()?);
        let tokens = Arc::new(Tokens::new());
        let patience = server::Patience { idle: settings.idle, stuck: settings.stuck };
        let server = tokio::spawn(server::serve(listener, tokens.clone(), tls, patience));
        Ok(Streams { address, scheme, tokens, _server: Arc::new(AbortOnDropHandle::new(server)) })
    }

    /// Where it is reached.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// A URL that runs this exec for the first client that comes within a minute.
    ///
    /// # Errors
    /// When too many wait for their client.
    pub fn exec(&self, session: ExecSession) -> Result<String, Full> {
        self.url("exec", Session::Exec(Box::new(session)))
    }

    /// A URL that attaches the first client that comes within a minute.
    ///
    /// # Errors
    /// When too many wait for their client.
    pub fn attach(&self, session: AttachSession) -> Result<String, Full> {
        self.url("attach", Session::Attach(session))
    }

    /// A URL that forwards ports for the first client that comes within a minute.
    ///
    /// # Errors
    /// When too many wait for their client.
    pub fn port_forward(&self, session: PortForwardSession) -> Result<String, Full> {
        self.url("portforward", Session::PortForward(session))
    }

    fn url(&self, kind: &str, session: Session) -> Result<String, Full> {
        let token = self.tokens.give(session, Instant::now())?;
        Ok(format!("{}://{}/{kind}/{token}", self.scheme, self.address))
    }
}

/// A URL needs a host: whoever listens everywhere is reached on loopback.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}
