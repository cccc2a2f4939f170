//! A process in a container, its streams a client's.
//!
//! The process writes into our pipes, or into its terminal whose other side the monitor hands us; nothing
//! goes through the monitor. When the client goes away, pipes and terminal close: a process on a terminal is
//! hung up, another is left to find out (SIGPIPE), as with every other runtime.

use std::convert::Infallible;
use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use bytes::Bytes;
use conmon_protocol::{ExecPlan, Exit};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::termios::{Winsize, tcsetwinsize};
use tokio::io::AsyncReadExt;
use tokio_util::sync::CancellationToken;

use super::ExecSession;
use super::descriptor::Descriptor;
use super::remote::{Channels, Outcome, Sizes, Wanted};
use super::wire::{CHUNK, Inlet, Link, Outlet};
use crate::error::chain;
use crate::monitor::{self, Exec};

/// After the process has ended, its output is over when nothing has come for this long: a daemon that it
/// left behind may hold the pipes for ever.
const QUIET: Duration = Duration::from_millis(100);

impl ExecSession {
    pub(super) fn wanted(&self) -> Wanted {
        let ExecPlan { terminal, stdin, stdout, stderr, .. } = self.plan;
        Wanted { terminal, stdin, stdout, stderr: stderr && !terminal }
    }
}

pub(super) async fn run(session: ExecSession, channels: Channels, link: Link) {
    let Channels { stdin, stdout, stderr, resize, end } = channels;
    let gone = link.gone.clone();
    let talk = async {
        let outcome = match begin(session).await {
            Ok(Begun { exec, ends }) => carry(exec, ends, Client { stdin, stdout, stderr, resize }).await,
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

/// The client's side.
struct Client {
    stdin: Option<Inlet>,
    stdout: Option<Outlet>,
    stderr: Option<Outlet>,
    resize: Option<Sizes>,
}

/// Our ends of the process's pipes.
struct Ends {
    stdin: Option<Descriptor>,
    stdout: Option<Descriptor>,
    stderr: Option<Descriptor>,
}

struct Begun {
    exec: Exec,
    ends: Ends,
}

async fn begin(session: ExecSession) -> Result<Begun, String> {
    let (ends, theirs) = pipes(&session.plan).map_err(|error| format!("making pipes for exec: {error}"))?;
    let exec = session.monitor.exec(session.plan, theirs).await.map_err(|error| chain(&error))?;
    Ok(Begun { exec, ends })
}

/// With a terminal there are none: its one side is the process's, the other comes from the monitor.
fn pipes(plan: &ExecPlan) -> io::Result<(Ends, Vec<OwnedFd>)> {
    let mut ends = Ends { stdin: None, stdout: None, stderr: None };
    let mut theirs = Vec::new();
    if plan.terminal {
        return Ok((ends, theirs));
    }
    if plan.stdin {
        let (read, write) = pipe_with(PipeFlags::CLOEXEC)?;
        ends.stdin = Some(Descriptor::new(write)?);
        theirs.push(read);
    }
    for (wanted, end) in [(plan.stdout, &mut ends.stdout), (plan.stderr, &mut ends.stderr)] {
        if wanted {
            let (read, write) = pipe_with(PipeFlags::CLOEXEC)?;
            *end = Some(Descriptor::new(read)?);
            theirs.push(write);
        }
    }
    Ok((ends, theirs))
}

/// Carries bytes until the process has ended and all it said is sent.
async fn carry(exec: Exec, ends: Ends, client: Client) -> Outcome {
    let exited = CancellationToken::new();
    let ended = async {
        let end = exec.ended.await;
        exited.cancel();
        end
    };
    let end = match exec.console {
        Some(console) => match Descriptor::new(console) {
            Ok(console) => on_terminal(&console, client, &exited, ended).await,
            Err(error) => return Outcome::Failed(format!("the terminal of exec: {error}")),
        },
        None => on_pipes(ends, client, &exited, ended).await,
    };
    match end {
        Ok(end) if end.code == 0 => Outcome::Done,
        Ok(end) if end.code == Exit::UNSEEN => Outcome::Failed(chain(&monitor::Error::Unseen)),
        Ok(end) => Outcome::Exit(end.code),
        Err(_) => Outcome::Failed(chain(&monitor::Error::Gone)),
    }
}

async fn on_terminal<T>(
    console: &Descriptor,
    client: Client,
    exited: &CancellationToken,
    ended: impl Future<Output = T>,
) -> T {
    let input = async {
        tokio::join!(feed(client.stdin, Some(console)), resize(client.resize, console));
        std::future::pending::<Infallible>().await
    };
    let output = async { tokio::join!(ended, pump(Some(console), client.stdout, exited)).0 };
    tokio::select! {
        end = output => end,
        never = input => match never {},
    }
}

async fn on_pipes<T>(
    ends: Ends,
    client: Client,
    exited: &CancellationToken,
    ended: impl Future<Output = T>,
) -> T {
    let input = async {
        feed(client.stdin, ends.stdin.as_ref()).await;
        // The process sees the end of its input.
        drop(ends.stdin);
        std::future::pending::<Infallible>().await
    };
    let output = async {
        let stdout = pump(ends.stdout.as_ref(), client.stdout, exited);
        let stderr = pump(ends.stderr.as_ref(), client.stderr, exited);
        tokio::join!(ended, stdout, stderr).0
    };
    tokio::select! {
        end = output => end,
        never = input => match never {},
    }
}

/// From the client to the process, until either wants no more.
async fn feed(inlet: Option<Inlet>, to: Option<&Descriptor>) {
    let (Some(mut inlet), Some(to)) = (inlet, to) else { return };
    let mut chunk = vec![0; CHUNK];
    while let Ok(count @ 1..) = inlet.read(&mut chunk).await {
        if to.write_all(&chunk[..count]).await.is_err() {
            return;
        }
    }
}

/// From the process to the client. A client that has thrown the stream away does not stop the process:
/// what it says is read and dropped.
async fn pump(from: Option<&Descriptor>, to: Option<Outlet>, exited: &CancellationToken) {
    let Some(from) = from else { return };
    let mut chunk = vec![0; CHUNK];
    loop {
        let count = tokio::select! {
            biased;
            count = from.read(&mut chunk) => count,
            () = quiet(exited) => return,
        };
        let Ok(count @ 1..) = count else { break };
        if let Some(to) = &to {
            let _ = to.send(Bytes::copy_from_slice(&chunk[..count])).await;
        }
    }
    if let Some(to) = to {
        to.close().await;
    }
}

async fn quiet(exited: &CancellationToken) {
    exited.cancelled().await;
    tokio::time::sleep(QUIET).await;
}

async fn resize(sizes: Option<Sizes>, console: &Descriptor) {
    let Some(mut sizes) = sizes else { return };
    while let Some(size) = sizes.next().await {
        let size = Winsize { ws_col: size.width, ws_row: size.height, ws_xpixel: 0, ws_ypixel: 0 };
        // A terminal whose process is gone has no size.
        let _ = tcsetwinsize(console, size);
    }
}
