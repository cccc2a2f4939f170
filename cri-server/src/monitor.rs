//! The daemon's end of the talk with a pod's monitor.
//!
//! A [`Monitor`] is one connection. It numbers what it asks and gives each answer to the one who asked;
//! events go to all who listen. It notices the monitor's death at once (the socket ends), and is then of
//! no more use: the sandbox's task gets another from [`Monitors`].

use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use conmon_protocol::{
    Answer, Ask, Event, ExecPlan, FrameError, PodState, Refusal, RefusalKind, Request, VERSION,
};
use tokio::net::UnixStream;
use tokio::sync::{broadcast, mpsc, oneshot, watch};

use keep::Keeping;
use talk::{Forget, Outgoing, Pending, read, write};

mod keep;
mod link;
mod program;
mod reach;
mod talk;
#[cfg(test)]
pub(crate) mod tests;

pub use reach::{Monitors, Reached};

/// Asks that wait for the socket.
const ASKS: usize = 64;
/// A monitor answers in milliseconds; one that takes this long is stopped or stuck in the kernel. Less
/// than the kubelet's own deadline of 120 s, so that it hears our words.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(100);
/// How long who asks something waits for a pod's next monitor, which takes milliseconds.
pub const TAKEOVER_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a monitor that was just started may take to speak.
const HELLO_TIMEOUT: Duration = Duration::from_secs(10);

/// A connection to one pod's monitor.
#[derive(Debug, Clone)]
pub struct Monitor {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    asks: mpsc::Sender<Outgoing>,
    pending: Arc<Pending>,
    keeping: Arc<Keeping>,
    next_seq: AtomicU64,
    closed: watch::Receiver<bool>,
    /// The monitor that took over from this one.
    successor: watch::Sender<Option<Monitor>>,
}

/// A process that the monitor runs in a container on our behalf.
#[derive(Debug)]
pub struct Exec {
    pub pid: i32,
    /// The terminal's master, when there is a terminal.
    pub console: Option<OwnedFd>,
    /// How it ended. An error means the monitor is gone.
    pub ended: oneshot::Receiver<ExecEnd>,
}

/// How an exec ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExecEnd {
    /// 128 + signal when a signal ended it; `Exit::UNSEEN` when nobody can tell.
    pub code: i32,
    pub timed_out: bool,
}

/// Why a monitor did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("loading the monitor's program {}", path.display())]
    Program { path: PathBuf, source: io::Error },
    #[error("starting a monitor in {}", pod_dir.display())]
    Spawn { pod_dir: PathBuf, source: io::Error },
    #[error("connecting to the monitor in {}", pod_dir.display())]
    Connect { pod_dir: PathBuf, source: io::Error },
    #[error("the pod's monitor is gone; a new one is being started")]
    Gone,
    #[error("the pod's monitor did not answer within {} s", ANSWER_TIMEOUT.as_secs())]
    Silent,
    #[error("the pod's monitor died, and nobody saw how the command ended")]
    Unseen,
    #[error("the pod's monitor gave an answer to something else")]
    Confused,
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error("copying descriptors for the pod's monitor")]
    Descriptors(#[source] io::Error),
    #[error("encoding a request")]
    Encode(#[source] FrameError),
}

impl Error {
    pub fn is_not_found(&self) -> bool {
        matches!(self, Error::Refused(refusal) if refusal.kind == RefusalKind::NotFound)
    }
}

impl Monitor {
    fn on(stream: std::os::unix::net::UnixStream, keeping: Arc<Keeping>) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        let stream = Arc::new(UnixStream::from_std(stream)?);
        let (asks, outgoing) = mpsc::channel(ASKS);
        let (closing, closed) = watch::channel(false);
        let pending = Arc::new(Pending::new());
        tokio::spawn(write(stream.clone(), outgoing));
        tokio::spawn(read(stream, pending.clone(), keeping.clone(), closing));
        let (next_seq, successor) = (AtomicU64::new(1), watch::Sender::default());
        Ok(Self { inner: Arc::new(Inner { asks, pending, keeping, next_seq, closed, successor }) })
    }

    /// Asks, with descriptors, and waits for the answer and its descriptors.
    ///
    /// # Errors
    /// When the monitor refuses, is gone, or does not answer in time.
    pub async fn ask(&self, ask: Ask, fds: Vec<OwnedFd>) -> Result<(Answer, Vec<OwnedFd>), Error> {
        self.ask_within(ANSWER_TIMEOUT, ask, fds).await
    }

    /// Asks what takes its time; the monitor is told how long, and answers by then.
    ///
    /// # Errors
    /// As [`Monitor::ask`].
    pub async fn ask_patiently(&self, ask: Ask, patience: Duration) -> Result<(Answer, Vec<OwnedFd>), Error> {
        self.ask_within(patience.max(ANSWER_TIMEOUT), ask, Vec::new()).await
    }

    async fn ask_within(
        &self,
        patience: Duration,
        ask: Ask,
        fds: Vec<OwnedFd>,
    ) -> Result<(Answer, Vec<OwnedFd>), Error> {
        let seq = self.inner.next_seq.fetch_add(1, Ordering::Relaxed);
        let bytes = conmon_protocol::encode(&Request { seq, ask }, fds.len() as u8).map_err(Error::Encode)?;
        let answer = self.inner.pending.expect_answer(seq);
        let _forget = Forget { pending: &self.inner.pending, seq };
        self.inner.asks.send(Outgoing { bytes, fds }).await.map_err(|_| Error::Gone)?;
        let answer = tokio::time::timeout(patience, answer).await.map_err(|_| Error::Silent)?;
        let (answer, fds) = answer.map_err(|_| Error::Gone)?;
        Ok((answer?, fds))
    }

    /// Asks what is answered with `Done`.
    ///
    /// # Errors
    /// As [`Monitor::ask`].
    pub async fn order(&self, ask: Ask) -> Result<(), Error> {
        match self.ask(ask, Vec::new()).await?.0 {
            Answer::Done => Ok(()),
            Answer::Hello(_)
            | Answer::Created { .. }
            | Answer::Started { .. }
            | Answer::Looked(_)
            | Answer::ExecStarted { .. } => Err(Error::Confused),
        }
    }

    /// What the monitor has.
    ///
    /// # Errors
    /// As [`Monitor::ask`].
    pub async fn hello(&self) -> Result<PodState, Error> {
        let ask = self.ask(Ask::Hello { version: VERSION }, Vec::new());
        match tokio::time::timeout(HELLO_TIMEOUT, ask).await.map_err(|_| Error::Silent)?? {
            (Answer::Hello(state), _) => Ok(state),
            _ => Err(Error::Confused),
        }
    }

    /// This monitor, or the one that has taken over from it, or soon will: for who asks something new of a pod and does
    /// not care which monitor does it.
    ///
    /// # Errors
    /// When nobody takes over in time.
    pub async fn living(&self) -> Result<Monitor, Error> {
        let mut monitor = self.clone();
        let found = async {
            while monitor.is_closed() {
                let mut successor = monitor.inner.successor.subscribe();
                let next = successor.wait_for(Option::is_some).await.ok().and_then(|next| next.clone());
                monitor = next.ok_or(Error::Gone)?;
            }
            Ok(monitor)
        };
        tokio::time::timeout(TAKEOVER_TIMEOUT, found).await.unwrap_or(Err(Error::Gone))
    }

    /// Tells those who asked for the living one.
    pub fn succeed(&self, next: &Monitor) {
        self.inner.successor.send_replace(Some(next.clone()));
    }

    /// Asks what may be asked twice of the living monitor, and of the next one when that one dies over it.
    ///
    /// # Errors
    /// As [`Monitor::ask`].
    pub async fn insist(&self, ask: Ask) -> Result<(), Error> {
        let mut monitor = self.living().await?;
        loop {
            match monitor.order(ask.clone()).await {
                Err(Error::Gone) => monitor = monitor.living().await?,
                result => return result,
            }
        }
    }

    /// Starts a further process in a container, once, by this monitor or the one that lives. Its end is never missed,
    /// however soon it comes, nor when the monitor is replaced meanwhile.
    ///
    /// # Errors
    /// As [`Monitor::ask`].
    pub async fn exec(&self, plan: ExecPlan, fds: Vec<OwnedFd>) -> Result<Exec, Error> {
        let exec_id = plan.exec_id.clone();
        let keeping = self.inner.keeping.clone();
        let ended = keeping.expect_end(&exec_id);
        let forget = ForgetEnd { keeping: &keeping, exec_id: &exec_id };
        let mut monitor = self.living().await?;
        let (pid, console) = loop {
            let copies =
                fds.iter().map(OwnedFd::try_clone).collect::<io::Result<_>>().map_err(Error::Descriptors)?;
            match monitor.ask(Ask::Exec(plan.clone()), copies).await {
                Ok((Answer::ExecStarted { pid }, mut fds)) => break (pid, fds.pop()),
                Ok(_) => return Err(Error::Confused),
                Err(Error::Gone) => match keeping.begun(&exec_id) {
                    None => monitor = monitor.living().await?,
                    // Its answer died with the monitor; a terminal would have come with it.
                    Some(Some(pid)) if !plan.terminal => break (pid, None),
                    Some(_) => return Err(Error::Gone),
                },
                Err(error) => return Err(error),
            }
        };
        forget.not();
        Ok(Exec { pid, console, ended })
    }

    /// What happens from now on. Who falls behind asks with Hello.
    pub fn events(&self) -> broadcast::Receiver<Event> {
        self.inner.pending.events.subscribe()
    }

    /// Waits until the monitor is gone.
    pub async fn closed(&self) {
        let mut closed = self.inner.closed.clone();
        let _ = closed.wait_for(|closed| *closed).await;
    }

    pub fn is_closed(&self) -> bool {
        *self.inner.closed.borrow()
    }
}

/// Forgets an exec that did not come to be.
struct ForgetEnd<'a> {
    keeping: &'a Keeping,
    exec_id: &'a str,
}

impl ForgetEnd<'_> {
    fn not(self) {
        std::mem::forget(self);
    }
}

impl Drop for ForgetEnd<'_> {
    fn drop(&mut self) {
        self.keeping.forget_end(self.exec_id);
    }
}
