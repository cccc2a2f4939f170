//! A client on a running container's own streams, which the monitor sends and takes over a packet socket.

use std::convert::Infallible;
use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use bytes::Bytes;
use conmon_protocol::{ATTACH_PACKET, Ask, STREAM_STDERR, STREAM_STDOUT};
use rustix::net::{AddressFamily, Shutdown, SocketFlags, SocketType, shutdown, socketpair};
use tokio::io::AsyncReadExt;

use super::AttachSession;
use super::descriptor::Descriptor;
use super::remote::{Channels, Outcome, Sizes, Wanted};
use super::wire::{Inlet, Link, Outlet};
use crate::error::chain;
use crate::monitor::Monitor;

/// Between the ends of a client's socket and of the daemon's, when a monitor dies with both.
const DEATH_TIMEOUT: Duration = Duration::from_millis(50);

impl AttachSession {
    pub(super) fn wanted(&self) -> Wanted {
        let AttachSession { terminal, stdin, stdout, stderr, .. } = *self;
        Wanted { terminal, stdin, stdout, stderr: stderr && !terminal }
    }
}

pub(super) async fn run(session: AttachSession, channels: Channels, link: Link) {
    let Channels { stdin, stdout, stderr, resize, end } = channels;
    let gone = link.gone.clone();
    let talk = async {
        let mut input = Input { inlet: stdin, rest: Vec::new() };
        let outcome = tokio::select! {
            outcome = pass(&session, &mut input, stdout.as_ref(), stderr.as_ref()) => outcome,
            never = forever(pass_sizes(resize, &session)) => match never {},
        };
        end.tell(&outcome).await;
    };
    tokio::select! {
        () = talk => {}
        () = gone.cancelled() => {}
    }
    link.finish().await;
}

/// What the client says, and what of it was taken and not passed on yet.
struct Input {
    inlet: Option<Inlet>,
    rest: Vec<u8>,
}

/// Until the container has ended, through as many monitors as that takes. What is written between two of them is in the
/// log, and not told here.
async fn pass(
    session: &AttachSession,
    input: &mut Input,
    stdout: Option<&Outlet>,
    stderr: Option<&Outlet>,
) -> Outcome {
    let mut monitor = match session.monitor.living().await {
        Ok(monitor) => monitor,
        Err(error) => return Outcome::Failed(chain(&error)),
    };
    let mut joined = match join(session, &monitor).await {
        Ok(socket) => socket,
        Err(message) => return Outcome::Failed(message),
    };
    loop {
        tokio::select! {
            () = listen(&joined, stdout, stderr) => {}
            never = forever(feed(input, &joined)) => match never {},
        }
        if !died(&monitor).await {
            return Outcome::Done;
        }
        let Ok(next) = monitor.living().await else { return Outcome::Done };
        // A container that ended meanwhile has nobody to attach to.
        let Ok(socket) = join(session, &next).await else { return Outcome::Done };
        (monitor, joined) = (next, socket);
    }
}

/// The socket of a client ends a moment before the monitor's own does.
async fn died(monitor: &Monitor) -> bool {
    tokio::time::timeout(DEATH_TIMEOUT, monitor.closed()).await.is_ok()
}

async fn forever(work: impl Future<Output = ()>) -> Infallible {
    work.await;
    std::future::pending().await
}

async fn join(session: &AttachSession, monitor: &Monitor) -> Result<Descriptor, String> {
    let (ours, theirs) = pair().map_err(|error| format!("making a socket to attach with: {error}"))?;
    let Wanted { stdin, stdout, stderr, .. } = session.wanted();
    let ask = Ask::Attach { container_id: session.container_id.clone(), stdin, stdout, stderr };
    monitor.ask(ask, vec![theirs]).await.map_err(|error| chain(&error))?;
    Ok(ours)
}

fn pair() -> io::Result<(Descriptor, OwnedFd)> {
    let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    Ok((Descriptor::new(ours)?, theirs))
}

/// Until the container has ended, or the monitor lets go.
async fn listen(socket: &Descriptor, stdout: Option<&Outlet>, stderr: Option<&Outlet>) {
    let mut packet = vec![0; 1 + ATTACH_PACKET];
    while let Ok(count @ 1..) = socket.read(&mut packet).await {
        let outlet = match packet[0] {
            STREAM_STDOUT => stdout,
            STREAM_STDERR => stderr,
            _ => None,
        };
        if let Some(outlet) = outlet {
            // A stream that the client has thrown away does not end the others.
            let _ = outlet.send(Bytes::copy_from_slice(&packet[1..count])).await;
        }
    }
}

/// From the client to the container; the end of one is told to the other.
async fn feed(input: &mut Input, socket: &Descriptor) {
    let Input { inlet: Some(inlet), rest } = input else { return };
    loop {
        if !rest.is_empty() {
            if socket.write_all(rest).await.is_err() {
                return;
            }
            rest.clear();
        }
        let mut chunk = vec![0; ATTACH_PACKET];
        match inlet.read(&mut chunk).await {
            Ok(count @ 1..) => rest.extend_from_slice(&chunk[..count]),
            Ok(_) | Err(_) => break,
        }
    }
    // It fails when the monitor has let go, which is the end as well.
    let _ = shutdown(socket, Shutdown::Write);
}

async fn pass_sizes(sizes: Option<Sizes>, session: &AttachSession) {
    let Some(mut sizes) = sizes else { return };
    while let Some(size) = sizes.next().await {
        let container_id = session.container_id.clone();
        let ask = Ask::Resize { container_id, columns: size.width, rows: size.height };
        if let Err(error) = resize(&session.monitor, ask).await {
            tracing::debug!(container = session.container_id, %error, "resizing a terminal");
        }
    }
}

async fn resize(monitor: &Monitor, ask: Ask) -> Result<(), crate::monitor::Error> {
    monitor.insist(ask).await
}
