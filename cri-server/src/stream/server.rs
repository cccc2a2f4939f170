//! The HTTP server: takes connections, finds the session of a URL, and hands the connection over to it.

use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::remote::{Channels, INPUTS, Wanted};
use super::spdy::Feeding;
use super::tls::Tls;
use super::token::Tokens;
use super::upgrade::{Accepted, Purpose, Rejected, Transport, negotiate};
use super::wire::Link;
use super::{PortForwardSession, Session, attach, exec, forward, spdy, websocket};

/// Connections at once. An exec or a port-forward each has one.
const CONNECTIONS_MAX: usize = 4096;
/// How long a client may take to send its request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// After a failed accept (no descriptors left, say) there is no use in trying at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Serves for ever. Its connections end with it.
pub(super) async fn serve(
    listener: TcpListener,
    tokens: Arc<Tokens<Session>>,
    tls: Option<Arc<Tls>>,
    patience: Patience,
) {
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut running = JoinSet::new();
    loop {
        let Ok(permit) = room.clone().acquire_owned().await else { return };
        let stream = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = running.join_next() => continue,
        };
        match stream {
            Ok((stream, _)) => {
                // Keystrokes must not wait for each other. Without it things are slower, no more.
                let _ = stream.set_nodelay(true);
                let (tokens, tls) = (tokens.clone(), tls.clone());
                running.spawn(async move {
                    met(stream, tokens, tls, patience).await;
                    drop(permit);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "accepting a streaming client");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// How long a connection may be idle, and how long a forwarded one may hold the others.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    pub(super) idle: Duration,
    pub(super) stuck: Duration,
}

/// A program reads its input when it likes, and nobody else waits.
const INPUT: Feeding = Feeding { bytes: 32 << 10, patience: None };

/// What follows the answer on a connection that was upgraded.
struct Handover {
    session: Session,
    transport: Transport,
    upgrade: OnUpgrade,
}

/// Plain, or after the handshake of TLS.
async fn met(stream: TcpStream, tokens: Arc<Tokens<Session>>, tls: Option<Arc<Tls>>, patience: Patience) {
    let Some(tls) = tls else { return connection(stream, tokens, patience).await };
    match tokio::time::timeout(REQUEST_TIMEOUT, tls.acceptor().accept(stream)).await {
        Ok(Ok(stream)) => connection(stream, tokens, patience).await,
        Ok(Err(error)) => tracing::debug!(%error, "a streaming client's TLS"),
        Err(_) => tracing::debug!("a streaming client's TLS took too long"),
    }
}

async fn connection<T>(stream: T, tokens: Arc<Tokens<Session>>, patience: Patience)
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let handover = Arc::new(Mutex::new(None));
    let slot = handover.clone();
    let service = hyper::service::service_fn(move |request| {
        let answer = match answer(request, &tokens) {
            Ok((response, next)) => {
                *slot.lock().unwrap_or_else(PoisonError::into_inner) = Some(next);
                response
            }
            Err(rejected) => rejection(rejected),
        };
        std::future::ready(Ok::<_, Infallible>(answer))
    });
    let served = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(REQUEST_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades()
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "a streaming client's request");
    }
    let next = handover.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let Some(Handover { session, transport, upgrade }) = next
        && let Ok(io) = upgrade.await
    {
        run(session, transport, TokioIo::new(io), patience).await;
    }
}

fn answer(
    mut request: Request<Incoming>,
    tokens: &Tokens<Session>,
) -> Result<(Response<Full<Bytes>>, Handover), Rejected> {
    let (purpose, token) = route(request.uri().path()).ok_or_else(Rejected::no_such_session)?;
    let Accepted { transport, headers } = negotiate(purpose, request.headers())?;
    let session = tokens.take(token, Instant::now()).filter(|session| session.purpose() == purpose);
    let session = session.ok_or_else(Rejected::no_such_session)?;
    let mut response = Response::new(Full::default());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    *response.headers_mut() = headers;
    let upgrade = hyper::upgrade::on(&mut request);
    Ok((response, Handover { session, transport, upgrade }))
}

fn route(path: &str) -> Option<(Purpose, &str)> {
    let (kind, token) = path.strip_prefix('/')?.split_once('/')?;
    match kind {
        "exec" | "attach" => Some((Purpose::Remote, token)),
        "portforward" => Some((Purpose::PortForward, token)),
        _ => None,
    }
}

fn rejection(rejected: Rejected) -> Response<Full<Bytes>> {
    let headers = rejected.headers();
    let mut response = Response::new(Full::new(rejected.message.into()));
    *response.status_mut() = rejected.status;
    *response.headers_mut() = headers;
    response
}

async fn run<T>(session: Session, transport: Transport, io: T, patience: Patience)
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    match (session, transport) {
        (Session::PortForward(session), transport) => port_forward(session, transport, io, patience).await,
        (Session::Exec(session), transport) => {
            let wanted = session.wanted();
            if let Some((channels, link)) = remote(wanted, transport, io, patience).await {
                exec::run(*session, channels, link).await;
            }
        }
        (Session::Attach(session), transport) => {
            let wanted = session.wanted();
            if let Some((channels, link)) = remote(wanted, transport, io, patience).await {
                attach::run(session, channels, link).await;
            }
        }
    }
}

async fn remote<T>(
    wanted: Wanted,
    transport: Transport,
    io: T,
    patience: Patience,
) -> Option<(Channels, Link)>
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    match transport {
        Transport::Spdy(telling) => {
            let spdy = spdy::serve(io, patience.idle, INPUT);
            Channels::over_spdy(spdy, wanted, telling).await
        }
        Transport::WebSocket(format, telling) => {
            let socket = websocket::serve(io, format, INPUTS, patience.idle).await;
            Some(Channels::over_websocket(socket, wanted, telling).await)
        }
        // Not among the protocols of exec and attach.
        Transport::Tunnel => None,
    }
}

async fn port_forward<T>(session: PortForwardSession, transport: Transport, io: T, patience: Patience)
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (idle, feeding) = (patience.idle, forward::feeding(patience.stuck));
    match transport {
        Transport::Spdy(_) => forward::over_spdy(session, spdy::serve(io, idle, feeding)).await,
        Transport::Tunnel => {
            let (inner, carrier) = websocket::tunnel(io).await;
            forward::over_spdy(session, spdy::serve(inner, idle, feeding)).await;
            drop(carrier);
        }
        Transport::WebSocket(format, _) => {
            let inputs: Vec<u8> =
                (0..session.ports.len().min(forward::PORTS_MAX) as u8).map(|n| 2 * n).collect();
            let socket = websocket::serve(io, format, &inputs, patience.idle).await;
            forward::over_websocket(session, socket).await;
        }
    }
}
