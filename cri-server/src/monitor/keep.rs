//! What would be lost with a monitor, kept for the next one: pidfds, FIFOs and terminals of the containers that live.
//!
//! The daemon never reads from any of them. It has them from the monitor as it connects and as containers are made, lets
//! go of a container's when it has ended, and gives copies to a new monitor before that one is born.

use std::collections::{HashMap, HashSet};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use conmon_protocol::{Answer, Ask, Event, Kept, KeptExec, Message, Phase, PodState, Request, encode};
use tokio::sync::oneshot;

use super::{ExecEnd, link};

/// Room for what a pod of a thousand containers has to give back; the kernel's default would do for two hundred.
const GIFT_BYTES: usize = 1 << 20;
/// Nobody waits for the answers to what is said before a monitor is born.
const UNASKED: u64 = 0;

/// Of one pod. All connections to its monitors share it.
#[derive(Debug, Default)]
pub(super) struct Keeping {
    held: Mutex<Held>,
}

#[derive(Debug, Default)]
struct Held {
    containers: HashMap<String, Vec<(Kept, OwnedFd)>>,
    execs: HashMap<String, (KeptExec, OwnedFd)>,
    /// Execs whose processes may be there, as far as was heard.
    begun: HashSet<String>,
    /// Who waits for the end of which exec.
    ends: HashMap<String, oneshot::Sender<ExecEnd>>,
}

/// Of all pods, by their directories.
#[derive(Debug, Default)]
pub(super) struct Keepings {
    pods: Mutex<HashMap<PathBuf, Arc<Keeping>>>,
}

impl Keepings {
    /// That of a pod, and forgets those that hold nothing and that nobody uses.
    pub(super) fn of(&self, pod_dir: &Path) -> Arc<Keeping> {
        let mut pods = self.pods.lock().unwrap_or_else(PoisonError::into_inner);
        pods.retain(|_, keeping| Arc::strong_count(keeping) > 1 || !keeping.lock().is_empty());
        pods.entry(pod_dir.into()).or_default().clone()
    }

    /// Lets go of all that is kept of a pod that is gone.
    pub(super) fn forget(&self, pod_dir: &Path) {
        let keeping = self.pods.lock().unwrap_or_else(PoisonError::into_inner).remove(pod_dir);
        // Dead connections may share it, and somebody may wait for what nobody will tell any more.
        keeping.into_iter().for_each(|keeping| *keeping.lock() = Held::default());
    }
}

impl Held {
    fn is_empty(&self) -> bool {
        self.containers.is_empty() && self.execs.is_empty() && self.ends.is_empty()
    }

    /// What a monitor does not have any more has ended unheard.
    fn keep_only(&mut self, state: &PodState) {
        let lives = |id: &String| {
            let same = state.containers.iter().filter(|container| container.container_id == *id);
            same.into_iter().any(|container| !matches!(container.phase, Phase::Exited(_)))
        };
        self.containers.retain(|id, _| lives(id));
        let gone = self.execs.extract_if(|id, _| !state.execs.contains(id));
        gone.for_each(|(id, _)| drop(self.ends.remove(&id)));
    }
}

impl Keeping {
    /// Takes what a message says is to be kept, and lets go of what it says is over.
    pub(super) fn hear(&self, message: &Message, fds: &mut Vec<OwnedFd>) {
        let mut held = self.lock();
        match message {
            Message::Keep { container_id, kept } => {
                held.containers
                    .insert(container_id.clone(), kept.iter().copied().zip(fds.drain(..)).collect());
            }
            // Of one that nobody waits for any more nobody will ask.
            Message::ExecBegins { exec_id } if held.ends.contains_key(exec_id) => {
                held.begun.insert(exec_id.clone());
            }
            Message::ExecBegins { .. } => {}
            Message::KeepExec(exec) => {
                held.execs.extend(fds.pop().map(|pidfd| (exec.exec_id.clone(), (exec.clone(), pidfd))));
            }
            Message::Event(Event::Exited { container_id, .. }) => {
                held.containers.remove(container_id);
            }
            Message::Event(Event::ExecExited { exec_id, code, timed_out }) => {
                held.execs.remove(exec_id);
                held.begun.remove(exec_id);
                if let Some(waiting) = held.ends.remove(exec_id) {
                    let _ = waiting.send(ExecEnd { code: *code, timed_out: *timed_out });
                }
            }
            Message::Answer { answer: Ok(Answer::Hello(state)), .. } => held.keep_only(state),
            Message::Answer { .. } | Message::Event(Event::Oom { .. }) => {}
        }
    }

    /// Who asks for an exec hears of its end, however soon it comes and whichever monitor tells it.
    pub(super) fn expect_end(&self, exec_id: &str) -> oneshot::Receiver<ExecEnd> {
        let (sender, receiver) = oneshot::channel();
        self.lock().ends.insert(exec_id.into(), sender);
        receiver
    }

    pub(super) fn forget_end(&self, exec_id: &str) {
        let mut held = self.lock();
        held.ends.remove(exec_id);
        held.begun.remove(exec_id);
    }

    /// Whether a monitor that died may have begun an exec, and whose process it is if that was heard.
    pub(super) fn begun(&self, exec_id: &str) -> Option<Option<i32>> {
        let held = self.lock();
        let pid = held.execs.get(exec_id).map(|(exec, _)| exec.pid);
        (pid.is_some() || held.begun.contains(exec_id)).then_some(pid)
    }

    /// Says to a monitor that is yet to be born what was kept of the last one, and asks it to give the same to keep. What
    /// does not fit in the socket is left out: nobody reads it yet.
    pub(super) fn give(&self, stream: &UnixStream) -> io::Result<()> {
        // Without the right to force it, the default bound holds.
        let _ = rustix::net::sockopt::set_socket_send_buffer_size_force(stream, GIFT_BYTES);
        let held = self.lock();
        for (container_id, kept) in &held.containers {
            let fds = kept.iter().map(|(_, fd)| fd).collect::<Vec<_>>();
            let kept = kept.iter().map(|(kept, _)| *kept).collect();
            let ask = Ask::TakeBack { container_id: container_id.clone(), kept };
            say(stream, ask, &fds)?;
        }
        for (exec, pidfd) in held.execs.values() {
            say(stream, Ask::TakeBackExec(exec.clone()), &[pidfd])?;
        }
        say(stream, Ask::Keep, &[])
    }

    fn lock(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Asks a monitor that lives to give what is to be kept.
pub(super) fn ask_to_keep(stream: &UnixStream) -> io::Result<()> {
    say(stream, Ask::Keep, &[])
}

/// A frame of ours is short, so it goes into the socket whole or not at all.
fn say(stream: &UnixStream, ask: Ask, fds: &[&OwnedFd]) -> io::Result<()> {
    let request = Request { seq: UNASKED, ask };
    let bytes = encode(&request, fds.len() as u8).map_err(io::Error::other)?;
    match link::send_some(stream, &bytes, fds)? {
        sent if sent == bytes.len() => Ok(()),
        _ => Err(io::ErrorKind::WriteZero.into()),
    }
}
