//! criu as a process of ours: `criu swrk N` serves one request over the socket that is its descriptor N, telling on
//! the way where it is (notices), and waiting for our word each time.

mod program;
mod response;

use std::ffi::CString;
use std::fs;
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use kernel::{CStringArray, Child};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendFlags,
    SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};

use rustix::process::{Signal, getpid, getppid, set_parent_process_death_signal};

use super::message::Message;
use crate::later::Later;
use crate::{Error, make};
use program::{become_criu, candidates, environment};
use response::{Answer, Response};

/// `criu_req_type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ask {
    Dump = 1,
    Restore = 2,
    Check = 3,
    PreDump = 4,
    Notify = 6,
    FeatureCheck = 9,
    Version = 10,
}

/// The oldest that is asked at all: 3.17.
const OLDEST: u64 = 31_700;
/// How many errors of its log: what failed, in what, and that it failed.
const SHOWN: usize = 4;
/// How long a restore without its memory may say nothing and write nothing in its log: what it waits for then is who
/// serves the memory, and criu itself waits for ever.
pub(super) const SILENCE: Duration = Duration::from_secs(20);
/// criu's own limit on a message.
const MAX_MESSAGE: usize = 64 << 10;
/// A place on criu's way, at which it waits.
#[derive(Debug)]
pub(super) struct Notice {
    pub(super) script: String,
    pub(super) pid: i32,
    pub(super) fd: Option<OwnedFd>,
}

/// criu running, with what the child does before it becomes criu.
pub(super) struct Criu {
    socket: OwnedFd,
    child: Child,
    program: PathBuf,
}

/// A message, and the descriptor that came with it.
type Received = (Vec<u8>, Option<OwnedFd>);

impl Criu {
    /// Starts it. `prepare` runs in the child.
    pub(super) fn start(
        program: &Path,
        cgroup: Option<BorrowedFd<'_>>,
        prepare: impl FnOnce() -> rustix::io::Result<()>,
    ) -> Result<Criu, Error> {
        let candidates = candidates(program)?;
        let (ours, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
                .map_err(|e| Error::step("making", "a socket pair", e))?;
        let number = CString::new(theirs.as_raw_fd().to_string()).unwrap_or_default();
        let args = CStringArray::new(vec![c"criu".to_owned(), c"swrk".to_owned(), number]);
        let env = CStringArray::new(environment());
        let us = getpid();
        let ignored = make::ignored_signals(&Later::default());
        let child = kernel::clone3(0, cgroup, || {
            // It would go on for nobody, and hold the processes that it looks into.
            let _ = set_parent_process_death_signal(Some(Signal::KILL));
            if getppid() != Some(us) {
                return 127;
            }
            become_criu(&theirs, ignored, prepare, (&candidates, &args, &env));
            127
        })
        .map_err(|e| Error::step("cloning", "a process for criu", e))?;
        drop(theirs);
        let mut criu = Criu { socket: ours, child, program: program.to_owned() };
        match criu.receive()? {
            Some((_, Some(socket))) => criu.socket = socket,
            Some((_, None)) | None => {
                make::reap(criu.child.pidfd.as_fd());
                return Err(Error::Criu {
                    program: criu.program,
                    reason: "its process could not be prepared (standard error has said why)".to_owned(),
                });
            }
        }
        Ok(criu)
    }

    /// Its number, while it is not heard out.
    pub(super) fn pid(&self) -> i32 {
        self.child.pid
    }

    /// Asks, answers its notices, and hears it out; `log` is what criu wrote about it.
    pub(super) fn ask(
        self,
        request: Message,
        log: Option<&Path>,
        notice: impl FnMut(Notice) -> Result<(), Error>,
    ) -> Result<Answer, Error> {
        self.ask_for(None, request, log, notice)
    }

    /// The same, with a bound on the time for which it may be silent; then it is killed, and the error says so.
    pub(super) fn ask_for(
        self,
        silence: Option<Duration>,
        request: Message,
        log: Option<&Path>,
        mut notice: impl FnMut(Notice) -> Result<(), Error>,
    ) -> Result<Answer, Error> {
        self.send(request.bytes())?;
        let mut complaint = None;
        loop {
            silence
                .map_or(Ok(()), |silence| self.wait(silence, log))
                .inspect_err(|_| make::end(&self.child))?;
            let Some((bytes, fd)) = self.receive()? else { break };
            let response = Response::read(&bytes).ok_or_else(|| self.at(Errno::PROTO))?;
            if let Some((script, pid)) = response.notice {
                let heard = match complaint {
                    None => notice(Notice { script, pid, fd }),
                    Some(_) => Ok(()),
                };
                complaint = complaint.or(heard.err());
                self.go_on(complaint.is_none())?;
                continue;
            }
            make::reap(self.child.pidfd.as_fd());
            if let Some(error) = complaint {
                return Err(error);
            }
            return if response.success { Ok(response.answer) } else { Err(self.failed(&response, log)) };
        }
        make::reap(self.child.pidfd.as_fd());
        Err(complaint.unwrap_or_else(|| Error::Criu {
            program: self.program.clone(),
            reason: format!("it ended without an answer{}", last_words(log)),
        }))
    }

    /// Until it says something. A log that grows is a sign of life.
    fn wait(&self, silence: Duration, log: Option<&Path>) -> Result<(), Error> {
        let second = Timespec { tv_sec: 1, tv_nsec: 0 };
        let length = || log.and_then(|log| fs::metadata(log).ok()).map_or(0, |log| log.len());
        let (mut since, mut written) = (Instant::now(), length());
        loop {
            match poll(&mut [PollFd::from_borrowed_fd(self.socket.as_fd(), PollFlags::IN)], Some(&second)) {
                Ok(0) | Err(Errno::INTR) => {}
                other => return other.map(drop).map_err(|e| self.at(e)),
            }
            let now = length();
            if now != written {
                (since, written) = (Instant::now(), now);
            }
            if since.elapsed() >= silence {
                let seconds = silence.as_secs();
                let reason = format!(
                    "it has said nothing for {seconds} s and was killed; does `criu lazy-pages` run on these images, \
                     and the page server behind it?{}",
                    last_words(log)
                );
                return Err(Error::Criu { program: self.program.clone(), reason });
            }
        }
    }

    fn go_on(&self, success: bool) -> Result<(), Error> {
        let mut answer = Message::default();
        answer.number(1, Ask::Notify as u64).number(3, u64::from(success));
        self.send(answer.bytes())
    }

    fn send(&self, bytes: Vec<u8>) -> Result<(), Error> {
        let mut none = SendAncillaryBuffer::default();
        match sendmsg(&self.socket, &[IoSlice::new(&bytes)], &mut none, SendFlags::NOSIGNAL) {
            // It is not there: what it says, or does not say, tells more.
            Ok(_) | Err(Errno::PIPE | Errno::CONNRESET) => Ok(()),
            Err(errno) => Err(self.at(errno)),
        }
    }

    /// `None` when it is not there any more.
    fn receive(&self) -> Result<Option<Received>, Error> {
        let mut bytes = vec![0; MAX_MESSAGE];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let received = loop {
            let mut slices = [IoSliceMut::new(&mut bytes)];
            match recvmsg(&self.socket, &mut slices, &mut control, RecvFlags::CMSG_CLOEXEC) {
                Err(Errno::INTR) => {}
                Err(Errno::CONNRESET) => return Ok(None),
                other => break other.map_err(|e| self.at(e))?,
            }
        };
        let fd = control.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
            _ => None,
        });
        bytes.truncate(received.bytes);
        Ok((received.bytes > 0).then_some((bytes, fd)))
    }

    fn at(&self, errno: Errno) -> Error {
        Error::step("talking to", self.program.display().to_string(), errno)
    }

    fn failed(&self, response: &Response, log: Option<&Path>) -> Error {
        let why = response.message.clone().unwrap_or_else(|| {
            let errno = response.errno.filter(|errno| *errno != 0);
            errno.map_or("it says no more".into(), |errno| Errno::from_raw_os_error(errno).to_string())
        });
        Error::Criu { program: self.program.clone(), reason: format!("{why}{}", last_words(log)) }
    }
}

/// Whether criu is there, new enough, and knows this kernel; its version as it says it.
///
/// # Errors
/// `Criu` with criu's own words.
pub fn check(program: &Path) -> Result<String, Error> {
    let version = version(program)?;
    let mut request = Message::default();
    request.number(1, Ask::Check as u64);
    Criu::start(program, None, || Ok(()))?.ask(request, None, |_| Ok(()))?;
    let (major, minor, sublevel) = (version / 10_000, version / 100 % 100, version % 100);
    Ok(format!("{major}.{minor}.{sublevel}"))
}

/// Whether criu is there, and new enough.
pub(super) fn check_version(program: &Path) -> Result<(), Error> {
    version(program).map(drop)
}

fn version(program: &Path) -> Result<u64, Error> {
    let mut request = Message::default();
    request.number(1, Ask::Version as u64);
    let answer = Criu::start(program, None, || Ok(()))?.ask(request, None, |_| Ok(()))?;
    if answer.version >= OLDEST {
        return Ok(answer.version);
    }
    let (major, minor) = (answer.version / 10_000, answer.version / 100 % 100);
    Err(Error::Criu {
        program: program.to_owned(),
        reason: format!("it is {major}.{minor}, and 3.17 or newer is needed"),
    })
}

/// A feature that depends on the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Feature {
    MemoryTracking = 1,
    LazyPages = 2,
}

pub(super) fn check_feature(program: &Path, feature: Feature) -> Result<(), Error> {
    let mut features = Message::default();
    features.flag(feature as u64, true);
    let mut request = Message::default();
    request.number(1, Ask::FeatureCheck as u64).message(5, &features);
    let answer = Criu::start(program, None, || Ok(()))?.ask(request, None, |_| Ok(()))?;
    let (has, name) = match feature {
        Feature::MemoryTracking => (answer.memory_tracking, "memory tracking"),
        Feature::LazyPages => (answer.lazy_pages, "lazy pages"),
    };
    if has {
        return Ok(());
    }
    let reason = format!("this kernel has no {name}, which the options need");
    Err(Error::Criu { program: program.to_owned(), reason })
}

/// The last errors of criu's log, which say what its answer does not. Those before them are of attempts that it can do
/// without, such as a tun device.
fn last_words(log: Option<&Path>) -> String {
    let Some(log) = log else { return String::new() };
    let text = fs::read(log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    let errors: Vec<&str> = text.lines().filter(|line| line.contains("Error (")).collect();
    let last = &errors[errors.len().saturating_sub(SHOWN)..];
    let last = last.iter().map(|line| line.trim()).collect::<Vec<_>>().join("; ");
    format!(" ({last}; all of it is in {})", log.display())
}

/// Open across exec, under its own number.
pub(super) fn keep(fd: BorrowedFd<'_>) -> rustix::io::Result<()> {
    kernel::dup_onto(fd, fd.as_raw_fd())
}
