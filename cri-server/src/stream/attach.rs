//! A client on a running container's own streams, which the monitor sends and takes over a packet socket.

use std::convert::Infallible;
use std::io;
use std::os::fd::OwnedFd;

use bytes::Bytes;
use conmon_protocol::{ATTACH_PACKET, Ask, STREAM_STDERR, STREAM_STDOUT};
use rustix::net::{AddressFamily, Shutdown, SocketFlags, SocketType, shutdown, socketpair};
use tokio::io::AsyncReadExt;

use super::AttachSession;
use super::descriptor::Descriptor;
use super::exec::chain;
use super::remote::{Channels, Outcome, Sizes, Wanted};
use super::wire::{Inlet, Link, Outlet};
use crate::monitor::Monitor;

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
        let outcome = match join(&session).await {
            Ok(socket) => {
                let input = async {
                    tokio::join!(feed(stdin, &socket), pass_sizes(resize, &session));
                    std::future::pending::<Infallible>().await
                };
                tokio::select! {
                    () = listen(&socket, stdout.as_ref(), stderr.as_ref()) => Outcome::Done,
                    never = input => match never {},
                }
            }
            Err(message) => Outcome::Failed(message),
        };
        end.tell(&outcome).await;
    };
    tokio::select! {
        () = talk => {}
        () = gone.cancelled() => {}
    }
    link.finish().await;
}

async fn join(session: &AttachSession) -> Result<Descriptor, String> {
    let (ours, theirs) = pair().map_err(|error| format!("making a socket to attach with: {error}"))?;
    let Wanted { stdin, stdout, stderr, .. } = session.wanted();
    let ask = Ask::Attach { container_id: session.container_id.clone(), stdin, stdout, stderr };
    session.monitor.ask(ask, vec![theirs]).await.map_err(|error| chain(&error))?;
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
async fn feed(inlet: Option<Inlet>, socket: &Descriptor) {
    let Some(mut inlet) = inlet else { return };
    let mut chunk = vec![0; ATTACH_PACKET];
    while let Ok(count @ 1..) = inlet.read(&mut chunk).await {
        if socket.write_all(&chunk[..count]).await.is_err() {
            return;
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
    monitor.order(ask).await
}
