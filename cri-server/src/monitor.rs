//! The daemon's end of the talk with a pod's monitor.
//!
//! A [`Monitor`] is one connection. It numbers what it asks and gives each answer to the one who asked;
//! events go to all who listen. It notices the monitor's death at once (the socket ends), and is then of
//! no more use: the sandbox's task gets another from [`Monitors`].

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use conmon_protocol::{
    Answer, Ask, Event, ExecPlan, FrameError, Message, PodState, Refusal, RefusalKind, Request, VERSION,
};
use rustix::fs::{Mode, OFlags};
use tokio::net::UnixStream;
use tokio::sync::{broadcast, mpsc, oneshot, watch};

mod link;
mod program;
#[cfg(test)]
pub(crate) mod tests;

/// Events that a slow listener may fall behind; beyond that it asks with Hello for what it missed.
const EVENTS: usize = 256;
/// Asks that wait for the socket.
const ASKS: usize = 64;
/// A monitor answers in milliseconds; one that takes this long is stopped or stuck in the kernel. Less
/// than the kubelet's own deadline of 120 s, so that it hears our words.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(100);
/// How long a monitor that was just started may take to speak.
const HELLO_TIMEOUT: Duration = Duration::from_secs(10);

/// Starts monitors and finds those that are there.
#[derive(Debug)]
pub struct Monitors {
    program: program::Program,
    path: PathBuf,
}

/// A connection to one pod's monitor.
#[derive(Debug, Clone)]
pub struct Monitor {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    asks: mpsc::Sender<Outgoing>,
    pending: Arc<Pending>,
    next_seq: AtomicU64,
    closed: watch::Receiver<bool>,
}

/// A monitor, all that it has, and all that happens from then on.
#[derive(Debug)]
pub struct Reached {
    pub monitor: Monitor,
    pub state: PodState,
    pub events: broadcast::Receiver<Event>,
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
    /// 128 + signal when a signal ended it.
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
    #[error("the pod's monitor gave an answer to something else")]
    Confused,
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error("encoding a request")]
    Encode(#[source] FrameError),
}

impl Monitors {
    /// # Errors
    /// When the program cannot be read.
    pub fn new(path: &Path) -> Result<Self, Error> {
        let program =
            program::Program::load(path).map_err(|source| Error::Program { path: path.into(), source })?;
        Ok(Self { program, path: path.into() })
    }

    /// Starts a monitor on a pod directory; it may be one that a dead monitor left, and is then resumed.
    ///
    /// # Errors
    /// When the process cannot be started. One that dies at once shows as [`Error::Gone`] at the first ask.
    pub fn spawn(&self, pod_dir: &Path) -> Result<Monitor, Error> {
        let spawn_error = |source| Error::Spawn { pod_dir: pod_dir.into(), source };
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().map_err(spawn_error)?;
        let log = std::fs::OpenOptions::new().append(true).create(true).open(pod_dir.join("monitor.log"));
        let log = log.map_err(spawn_error)?;
        let mut command = std::process::Command::new(self.program.path());
        std::os::unix::process::CommandExt::arg0(&mut command, &self.path);
        // The socket is the child's standard input: the one descriptor that std hands on without a step
        // between fork and exec, so that this stays a posix_spawn.
        command.arg("--pod-dir").arg(pod_dir).args(["--daemon-fd", "0"]).args(self.program.sealed_argument());
        command.stdin(Stdio::from(OwnedFd::from(theirs))).stdout(Stdio::null()).stderr(log);
        command.env_clear().env("PATH", SEARCH_PATH).envs([conmon_protocol::HEAP_VARIABLE]);
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let child = tokio::process::Command::from(command).spawn().map_err(spawn_error)?;
        drop(child); // tokio reaps it when it ends.
        Monitor::on(ours).map_err(spawn_error)
    }

    /// Connects to the monitor of a pod directory.
    ///
    /// # Errors
    /// When none listens there.
    pub fn connect(&self, pod_dir: &Path) -> Result<Monitor, Error> {
        let connect_error = |source| Error::Connect { pod_dir: pod_dir.into(), source };
        let stream = connect(pod_dir).map_err(connect_error)?;
        Monitor::on(stream).map_err(connect_error)
    }

    /// The monitor of a pod directory, started if it is not there, and what it has.
    ///
    /// # Errors
    /// When there is neither one to connect to nor one to start.
    pub async fn reach(&self, pod_dir: &Path) -> Result<Reached, Error> {
        if let Ok(monitor) = self.connect(pod_dir) {
            match Reached::by(monitor).await {
                Err(Error::Gone) => {}
                reached => return reached,
            }
        }
        Reached::by(self.spawn(pod_dir)?).await
    }
}

impl Reached {
    /// Listens before it asks, so that nothing falls between the answer and the first event.
    ///
    /// # Errors
    /// As [`Monitor::ask`].
    pub async fn by(monitor: Monitor) -> Result<Self, Error> {
        let events = monitor.events();
        let state = monitor.hello().await?;
        Ok(Self { monitor, state, events })
    }
}

impl Error {
    pub fn is_not_found(&self) -> bool {
        matches!(self, Error::Refused(refusal) if refusal.kind == RefusalKind::NotFound)
    }
}

/// For other OCI runtimes and their hooks, which look for programs.
const SEARCH_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

impl Monitor {
    fn on(stream: std::os::unix::net::UnixStream) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        let stream = Arc::new(UnixStream::from_std(stream)?);
        let (asks, outgoing) = mpsc::channel(ASKS);
        let (closing, closed) = watch::channel(false);
        let pending = Arc::new(Pending::new());
        tokio::spawn(write(stream.clone(), outgoing));
        tokio::spawn(read(stream, pending.clone(), closing));
        Ok(Self { inner: Arc::new(Inner { asks, pending, next_seq: AtomicU64::new(1), closed }) })
    }

    /// Asks, with descriptors, and waits for the answer and its descriptors.
    ///
    /// # Errors
    /// When the monitor refuses, is gone, or does not answer in time.
    pub async fn ask(&self, ask: Ask, fds: Vec<OwnedFd>) -> Result<(Answer, Vec<OwnedFd>), Error> {
        let seq = self.inner.next_seq.fetch_add(1, Ordering::Relaxed);
        let bytes = conmon_protocol::encode(&Request { seq, ask }, fds.len() as u8).map_err(Error::Encode)?;
        let answer = self.inner.pending.expect_answer(seq);
        let _forget = Forget { pending: &self.inner.pending, seq };
        self.inner.asks.send(Outgoing { bytes, fds }).await.map_err(|_| Error::Gone)?;
        let answer = tokio::time::timeout(ANSWER_TIMEOUT, answer).await.map_err(|_| Error::Silent)?;
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

    /// Starts a further process in a container. Its end is never missed, however soon it comes.
    ///
    /// # Errors
    /// As [`Monitor::ask`].
    pub async fn exec(&self, plan: ExecPlan, fds: Vec<OwnedFd>) -> Result<Exec, Error> {
        let exec_id = plan.exec_id.clone();
        let ended = self.inner.pending.expect_end(&exec_id);
        match self.ask(Ask::Exec(plan), fds).await {
            Ok((Answer::ExecStarted { pid }, mut fds)) => Ok(Exec { pid, console: fds.pop(), ended }),
            other => {
                self.inner.pending.forget_end(&exec_id);
                Err(other.err().unwrap_or(Error::Confused))
            }
        }
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

type Answered = (Result<Answer, Refusal>, Vec<OwnedFd>);

#[derive(Debug)]
struct Outgoing {
    bytes: Vec<u8>,
    fds: Vec<OwnedFd>,
}

/// Who waits for what. Emptied when the connection ends, which tells them that the monitor is gone.
#[derive(Debug)]
struct Pending {
    answers: Mutex<Waiting<u64, Answered>>,
    ends: Mutex<Waiting<String, ExecEnd>>,
    events: broadcast::Sender<Event>,
}

/// `None` once the connection has ended.
type Waiting<K, V> = Option<HashMap<K, oneshot::Sender<V>>>;

impl Pending {
    fn new() -> Self {
        let (events, _) = broadcast::channel(EVENTS);
        Self { answers: Mutex::new(Some(HashMap::new())), ends: Mutex::new(Some(HashMap::new())), events }
    }

    fn expect_answer(&self, seq: u64) -> oneshot::Receiver<Answered> {
        expect(&self.answers, seq)
    }

    fn expect_end(&self, exec_id: &str) -> oneshot::Receiver<ExecEnd> {
        expect(&self.ends, exec_id.to_string())
    }

    fn forget_end(&self, exec_id: &str) {
        take(&self.ends, &exec_id.to_string());
    }

    fn hear(&self, message: Message, fds: Vec<OwnedFd>) {
        match message {
            Message::Answer { seq, answer } => {
                if let Some(waiting) = take(&self.answers, &seq) {
                    let _ = waiting.send((answer, fds));
                }
            }
            Message::Event(event) => self.hear_event(event),
        }
    }

    fn hear_event(&self, event: Event) {
        if let Event::ExecExited { exec_id, code, timed_out } = &event
            && let Some(waiting) = take(&self.ends, exec_id)
        {
            let _ = waiting.send(ExecEnd { code: *code, timed_out: *timed_out });
        }
        // Nobody listening is fine: what matters is asked for with Hello.
        let _ = self.events.send(event);
    }

    fn end(&self) {
        self.answers.lock().unwrap_or_else(PoisonError::into_inner).take();
        self.ends.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}

fn expect<K: std::hash::Hash + Eq, V>(waiting: &Mutex<Waiting<K, V>>, key: K) -> oneshot::Receiver<V> {
    let (sender, receiver) = oneshot::channel();
    if let Some(map) = waiting.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
        map.insert(key, sender);
    }
    receiver
}

fn take<K: std::hash::Hash + Eq, V>(waiting: &Mutex<Waiting<K, V>>, key: &K) -> Option<oneshot::Sender<V>> {
    waiting.lock().unwrap_or_else(PoisonError::into_inner).as_mut()?.remove(key)
}

/// Forgets a question whose asker went away before the answer came.
struct Forget<'a> {
    pending: &'a Pending,
    seq: u64,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        take(&self.pending.answers, &self.seq);
    }
}

/// Sends until all handles are gone or the socket is, and then ends the connection.
async fn write(stream: Arc<UnixStream>, mut outgoing: mpsc::Receiver<Outgoing>) {
    while let Some(Outgoing { bytes, fds }) = outgoing.recv().await {
        if link::send(&stream, &bytes, &fds).await.is_err() {
            break;
        }
    }
    let _ = rustix::net::shutdown(&stream, rustix::net::Shutdown::Both);
}

/// Hears until the socket ends, and then tells all who wait.
async fn read(stream: Arc<UnixStream>, pending: Arc<Pending>, closing: watch::Sender<bool>) {
    let mut receiver = link::Receiver::default();
    while let Ok(Some((frame, fds))) = receiver.next(&stream).await {
        match frame.parse::<Message>() {
            Ok(message) => pending.hear(message, fds),
            Err(error) => {
                tracing::warn!(%error, "a monitor spoke nonsense; leaving it");
                break;
            }
        }
    }
    let _ = rustix::net::shutdown(&stream, rustix::net::Shutdown::Both);
    // First, so that whoever hears of the death from an answer finds it so.
    let _ = closing.send(true);
    pending.end();
}

/// Through the directory's descriptor, since a pod's path may be longer than the 107 bytes of unix(7). A Unix
/// connect does not wait for the other side to accept, so it may be done on any thread.
fn connect(pod_dir: &Path) -> io::Result<std::os::unix::net::UnixStream> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let dir = rustix::fs::open(pod_dir, flags, Mode::empty())?;
    std::os::unix::net::UnixStream::connect(format!("/proc/self/fd/{}/monitor.sock", dir.as_raw_fd()))
}
