//! Port-forward: TCP connections made inside a pod's network namespace, carried over the client's streams.
//!
//! Over SPDY each connection is a pair of streams, data and error, that share a request id. Over the old
//! WebSocket protocol each port has one connection, on channels 2n and 2n + 1.

use std::collections::HashMap;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;

use super::PortForwardSession;
use super::spdy::{Feeding, Incoming, STATUS_REFUSED_STREAM, Spdy};
use super::websocket::WebSocket;
use super::wire::{CHUNK, Inlet, Outlet};

/// How long half a pair waits for the other.
const PAIRING: Duration = Duration::from_secs(30);
/// A connection inside a pod is made at once, refused at once, or goes nowhere.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// What of each connection may wait meanwhile; pods' and ours kernels keep a few MiB besides.
const WAITING: usize = 128 << 10;
/// A WebSocket client names its ports beforehand; more are a mistake.
pub(super) const PORTS_MAX: usize = 64;

/// A server may take nothing for so long, with all buffers full; then it holds the client's other connections no more.
pub(super) fn feeding(stuck: Duration) -> Feeding {
    Feeding { bytes: WAITING, patience: Some(stuck) }
}

/// Forwards for as long as the client stays.
pub(super) async fn over_spdy(session: PortForwardSession, mut spdy: Spdy) {
    let session = Arc::new(session);
    let mut pairs = Pairs::default();
    let mut running = JoinSet::new();
    let mut tick = tokio::time::interval(PAIRING);
    let gone = spdy.link.gone.clone();
    loop {
        tokio::select! {
            stream = spdy.incoming.recv() => match stream {
                Some(stream) => if let Some(pair) = pairs.take(stream).await {
                    running.spawn(carry_pair(session.clone(), pair));
                },
                None => break,
            },
            Some(_) = running.join_next() => {}
            _ = tick.tick() => pairs.forget_old().await,
            () = gone.cancelled() => break,
        }
    }
    running.shutdown().await;
    spdy.link.finish().await;
}

/// One connection of one port for each pair of channels.
pub(super) async fn over_websocket(session: PortForwardSession, mut socket: WebSocket) {
    let mut running = JoinSet::new();
    for (index, port) in (0u8..).zip(session.ports.clone()).take(PORTS_MAX) {
        let (data, error) = (socket.outlet(2 * index), socket.outlet(2 * index + 1));
        // The protocol: each channel begins with its port.
        for outlet in [&data, &error] {
            let _ = outlet.send(Bytes::copy_from_slice(&port.to_le_bytes())).await;
        }
        if let Some(inlet) = socket.inlet(2 * index) {
            let session = session.clone();
            running
                .spawn(async move { carry(&session, port, inlet, &data, &error, Until::ServerEnds).await });
        }
    }
    let gone = socket.link.gone.clone();
    let all = async { while running.join_next().await.is_some() {} };
    tokio::select! {
        () = all => {}
        () = gone.cancelled() => {}
    }
    drop(running);
    socket.link.finish().await;
}

/// Streams that wait for the other half of their pair.
#[derive(Default)]
struct Pairs {
    waiting: HashMap<String, (Instant, Kind, Incoming)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Data,
    Error,
}

struct Pair {
    port: u16,
    data: Incoming,
    error: Incoming,
}

impl Pairs {
    async fn take(&mut self, stream: Incoming) -> Option<Pair> {
        let kind = match stream.headers.get("streamtype") {
            Some("data") => Kind::Data,
            Some("error") => Kind::Error,
            _ => {
                stream.outlet.refuse(STATUS_REFUSED_STREAM).await;
                return None;
            }
        };
        let id = request_id(kind, &stream);
        match self.waiting.remove(&id) {
            Some((_, Kind::Error, error)) if kind == Kind::Data => pair(stream, error).await,
            Some((_, Kind::Data, data)) if kind == Kind::Error => pair(data, stream).await,
            Some(same) => {
                self.waiting.insert(id, same);
                stream.outlet.refuse(STATUS_REFUSED_STREAM).await;
                None
            }
            None => {
                self.waiting.insert(id, (Instant::now(), kind, stream));
                None
            }
        }
    }

    async fn forget_old(&mut self) {
        let old = self.waiting.extract_if(|_, (since, _, _)| since.elapsed() >= PAIRING);
        for (_, (_, _, stream)) in old.collect::<Vec<_>>() {
            stream.outlet.refuse(STATUS_REFUSED_STREAM).await;
        }
    }
}

/// Clients before Kubernetes 1.4 send none: their error stream comes first, and data has the next number.
fn request_id(kind: Kind, stream: &Incoming) -> String {
    match (stream.headers.get("requestid"), kind) {
        (Some(id), _) => id.to_owned(),
        (None, Kind::Error) => format!("stream {}", stream.id),
        (None, Kind::Data) => format!("stream {}", stream.id.saturating_sub(2)),
    }
}

async fn pair(data: Incoming, error: Incoming) -> Option<Pair> {
    let port = data.headers.get("port").and_then(|port| port.parse().ok()).filter(|port| *port != 0);
    let Some(port) = port else {
        let said = data.headers.get("port").unwrap_or("none");
        complain(&error.outlet, &format!("{said:?} is not a port")).await;
        data.outlet.close().await;
        return None;
    };
    Some(Pair { port, data, error })
}

async fn carry_pair(session: Arc<PortForwardSession>, pair: Pair) {
    let Pair { port, data, error } = pair;
    tokio::select! {
        () = carry(&session, port, data.inlet, &data.outlet, &error.outlet, Until::BothEnd) => {}
        () = data.outlet.thrown_away() => {}
    }
    if data.outlet.is_given_up() {
        let words = format!(
            "forwarding port {port} to sandbox {}: its server took nothing for so long that the connection was closed, since \
             it held all others of this client",
            session.sandbox_id
        );
        let _ = error.outlet.send(Bytes::from(words)).await;
    }
    data.outlet.close().await;
    error.outlet.close().await;
}

/// Which end ends a connection.
enum Until {
    BothEnd,
    /// The client has no way to say that it will send no more.
    ServerEnds,
}

async fn carry(
    session: &PortForwardSession,
    port: u16,
    inlet: Inlet,
    data: &Outlet,
    error: &Outlet,
    until: Until,
) {
    match connect(session.netns.as_deref(), port).await {
        Ok(stream) => {
            let (read, write) = stream.into_split();
            let (outward, inward) = (outward(read, data), inward(inlet, write));
            match until {
                Until::BothEnd => drop(tokio::join!(outward, inward)),
                Until::ServerEnds => {
                    let forever = async { (inward.await, std::future::pending::<()>().await) };
                    tokio::select! { () = outward => {}, _ = forever => {} }
                }
            }
        }
        Err(cause) => {
            let sandbox_id = &session.sandbox_id;
            complain(error, &format!("forwarding port {port} to sandbox {sandbox_id}: {cause}")).await;
        }
    }
}

async fn complain(error: &Outlet, message: &str) {
    let _ = error.send(Bytes::copy_from_slice(message.as_bytes())).await;
    error.close().await;
}

/// Pods listen on IPv4, IPv6, or both; a server on one of them is enough.
async fn connect(netns: Option<&Path>, port: u16) -> io::Result<TcpStream> {
    match connect_to(netns, SocketAddr::from((Ipv4Addr::LOCALHOST, port))).await {
        Ok(stream) => Ok(stream),
        Err(error) => {
            connect_to(netns, SocketAddr::from((Ipv6Addr::LOCALHOST, port))).await.map_err(|_| error)
        }
    }
}

async fn connect_to(netns: Option<&Path>, address: SocketAddr) -> io::Result<TcpStream> {
    let Some(netns) = netns.map(Path::to_owned) else { return TcpStream::connect(address).await };
    let make = tokio::task::spawn_blocking(move || network::netns::socket(&netns, address));
    // A pod may leave us waiting, which must not cost a thread: others need those.
    let socket = TcpSocket::from_std_stream(make.await.map_err(io::Error::other)??.into());
    tokio::time::timeout(CONNECT_TIMEOUT, socket.connect(address)).await?
}

async fn outward(mut from: OwnedReadHalf, to: &Outlet) {
    let mut chunk = BytesMut::with_capacity(CHUNK);
    while let Ok(1..) = from.read_buf(&mut chunk).await {
        if to.send(chunk.split().freeze()).await.is_err() {
            return;
        }
        chunk.reserve(CHUNK);
    }
    to.close().await;
}

async fn inward(mut from: Inlet, mut to: OwnedWriteHalf) {
    let mut chunk = vec![0; CHUNK];
    while let Ok(count @ 1..) = from.read(&mut chunk).await {
        if to.write_all(&chunk[..count]).await.is_err() {
            return;
        }
    }
    // The pod's server sees that the client will say no more.
    let _ = to.shutdown().await;
}
