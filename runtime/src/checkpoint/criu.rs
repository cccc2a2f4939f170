//! criu as a process of ours: `criu swrk N` serves one request over the socket that is its descriptor N, telling on
//! the way where it is (notices), and waiting for our word each time.

use std::ffi::CString;
use std::fs;
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use kernel::{CStringArray, Child};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};

use rustix::process::{Signal, getpid, getppid, set_parent_process_death_signal};

use super::message::{Message, Value, fields};
use crate::later::Later;
use crate::{Error, make};

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
/// What criu says at the end.
#[derive(Debug, Default)]
pub(super) struct Answer {
    pub(super) pid: Option<i32>,
    version: u64,
    memory_tracking: bool,
    lazy_pages: bool,
}

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

/// `criu_resp`.
#[derive(Debug, Default)]
struct Response {
    success: bool,
    notice: Option<(String, i32)>,
    errno: Option<i32>,
    message: Option<String>,
    answer: Answer,
}

impl Response {
    fn read(bytes: &[u8]) -> Option<Response> {
        let mut response = Response::default();
        let mut is_notice = false;
        for field in fields(bytes)? {
            match field {
                (1, Value::Number(kind)) => is_notice = kind == Ask::Notify as u64,
                (2, Value::Number(success)) => response.success = success != 0,
                (4, Value::Bytes(restored)) => {
                    response.answer.pid = number(restored, 1)?.and_then(|pid| pid.try_into().ok());
                }
                (5, Value::Bytes(notice)) => response.notice = Some(read_notice(notice)?),
                (7, Value::Number(errno)) => response.errno = i32::try_from(errno).ok(),
                (8, Value::Bytes(features)) => {
                    response.answer.memory_tracking = number(features, 1)? == Some(1);
                    response.answer.lazy_pages = number(features, 2)? == Some(1);
                }
                (9, Value::Bytes(text)) => {
                    response.message = Some(String::from_utf8_lossy(text).into_owned());
                }
                (10, Value::Bytes(version)) => response.answer.version = read_version(version)?,
                _ => {}
            }
        }
        if is_notice {
            response.notice.get_or_insert_default();
        }
        Some(response)
    }
}

fn read_notice(bytes: &[u8]) -> Option<(String, i32)> {
    let script = fields(bytes)?.iter().find_map(|field| match field {
        (1, Value::Bytes(script)) => Some(String::from_utf8_lossy(script).into_owned()),
        _ => None,
    });
    let pid = number(bytes, 2)?.unwrap_or(0);
    Some((script.unwrap_or_default(), i32::try_from(pid).unwrap_or(0)))
}

/// As criu counts itself: 3.17.1 is 31701.
fn read_version(bytes: &[u8]) -> Option<u64> {
    let part = |field| number(bytes, field).map(|part| part.unwrap_or(0));
    Some(part(1)? * 10_000 + part(2)? * 100 + part(4)?)
}

/// The outer `None`: what is no message.
fn number(bytes: &[u8], wanted: u64) -> Option<Option<u64>> {
    let found = fields(bytes)?.iter().find_map(|field| match field {
        (field, Value::Number(number)) if *field == wanted => Some(*number),
        _ => None,
    });
    Some(found)
}

/// In the child: nothing of ours but the socket, and signals as they are by default.
fn become_criu(
    socket: &OwnedFd,
    ignored: u64,
    prepare: impl FnOnce() -> rustix::io::Result<()>,
    (candidates, args, env): (&[CString], &CStringArray, &CStringArray),
) {
    kernel::reset_signals(ignored);
    if let Err(errno) = prepare().and_then(|()| own_socket(socket)) {
        complain(&format!("preparing for criu: {errno}"));
        return;
    }
    for candidate in candidates {
        let _ = kernel::execve(candidate, args, env);
    }
}

/// criu opens the folders by the number that they have in whoever made the socket pair: to see those of its own mount
/// namespace it must be itself. The other end goes to the parent, and this one takes the number that criu is told.
fn own_socket(line: &OwnedFd) -> rustix::io::Result<()> {
    let (theirs, own) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    let fds = [theirs.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    control.push(SendAncillaryMessage::ScmRights(&fds));
    sendmsg(line, &[IoSlice::new(b"0")], &mut control, SendFlags::NOSIGNAL)?;
    kernel::dup_onto(own.as_fd(), line.as_raw_fd())
}

/// Open across exec, under its own number.
pub(super) fn keep(fd: BorrowedFd<'_>) -> rustix::io::Result<()> {
    kernel::dup_onto(fd, fd.as_raw_fd())
}

fn complain(text: &str) {
    let line = format!("berth-runtime: {text}\n");
    let _ = rustix::io::write(rustix::stdio::stderr(), line.as_bytes());
}

/// Where it may be; that it is nowhere is said before anything is done.
fn candidates(program: &Path) -> Result<Vec<CString>, Error> {
    let missing = |reason: &str| Error::Criu { program: program.to_owned(), reason: reason.to_owned() };
    let path = std::env::var_os("PATH").unwrap_or_else(|| "/usr/sbin:/usr/bin:/sbin:/bin".into());
    let places: Vec<PathBuf> = if program.components().count() > 1 {
        vec![program.to_owned()]
    } else {
        std::env::split_paths(&path).map(|dir| dir.join(program)).collect()
    };
    let there: Vec<CString> = places
        .into_iter()
        .filter(|place| place.is_file())
        .filter_map(|place| CString::new(place.into_os_string().into_vec()).ok())
        .collect();
    if there.is_empty() {
        return Err(missing("it is not installed (Debian's package criu), or --criu names another place"));
    }
    Ok(there)
}

fn environment() -> Vec<CString> {
    let variable = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
        let mut variable = name.into_vec();
        variable.push(b'=');
        variable.extend(value.into_vec());
        CString::new(variable).ok()
    };
    std::env::vars_os().filter_map(variable).collect()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_response_is_read_with_its_parts() {
        let mut restored = Message::default();
        restored.number(1, 4242);
        let mut version = Message::default();
        version.number(1, 3).number(2, 17).number(4, 1);
        let mut bytes = Message::default();
        bytes.number(1, 2).number(2, 1).message(4, &restored).message(10, &version).text(9, "why");
        let response = Response::read(&bytes.bytes()).unwrap();
        assert!(response.success && response.notice.is_none());
        assert_eq!((response.answer.pid, response.answer.version), (Some(4242), 31_701));
        assert_eq!(response.message.as_deref(), Some("why"));
    }

    #[test]
    fn a_notice_is_told_from_an_answer() {
        let mut notice = Message::default();
        notice.text(1, "post-restore").number(2, 7);
        let mut bytes = Message::default();
        bytes.number(1, 6).number(2, 1).message(5, &notice);
        let response = Response::read(&bytes.bytes()).unwrap();
        assert_eq!(response.notice, Some(("post-restore".into(), 7)));
    }
}
