//! The FIFOs in a container's directory: at one the init waits for `start`, through the other it says what became of
//! its hooks.

use std::fs;
use std::os::fd::OwnedFd;

use rustix::io::Errno;

use super::StateDir;
use crate::Error;

const FIFO: &str = "start.fifo";
/// Where the init says, between `start` and its program, that a hook failed.
const OUTCOME: &str = "outcome.fifo";

/// What became of an init after its `start`.
#[derive(Debug)]
pub(crate) struct Outcome(OwnedFd);

impl Outcome {
    /// Waits until the init is its program, or has said that a hook failed. Each hook has its bound.
    pub(crate) fn wait(self) -> Result<(), Error> {
        use rustix::event::{PollFd, PollFlags, poll};
        let at = |e: Errno| Error::step("waiting for", "the startContainer hooks", e);
        let mut text = [0; 4096];
        let length = loop {
            let mut fds = [PollFd::new(&self.0, PollFlags::IN)];
            match poll(&mut fds, None).and_then(|_| rustix::io::read(&self.0, &mut text)) {
                Err(Errno::INTR | Errno::AGAIN) => {}
                other => break other.map_err(at)?,
            }
        };
        let mut parts = text[..length].splitn(2, |&byte| byte == 0);
        let mut part = || String::from_utf8_lossy(parts.next().unwrap_or_default()).into_owned();
        if length == 0 { Ok(()) } else { Err(Error::Hook { path: part().into(), reason: part() }) }
    }
}

impl StateDir {
    /// Made and opened at both ends, so that the one who waits at it neither blocks in open nor sees its end.
    pub(crate) fn make_fifo(&self) -> Result<OwnedFd, Error> {
        use rustix::fs::{CWD, FileType, Mode, OFlags, mknodat, open};
        let path = self.path.join(FIFO);
        mknodat(CWD, &path, FileType::Fifo, Mode::from_raw_mode(0o600), 0)
            .and_then(|()| open(&path, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()))
            .map_err(|e| Error::step("making", path.display().to_string(), e))
    }

    /// The same for whoever still holds the FIFO that it made.
    pub(crate) fn release_by(&self, fifo: &OwnedFd) -> rustix::io::Result<()> {
        rustix::fs::unlink(self.path.join(FIFO))?;
        rustix::io::write(fifo, b"0").map(drop)
    }

    /// Lets the init go on. The FIFO goes first: of two starts only one finds it.
    pub(crate) fn release(&self) -> rustix::io::Result<()> {
        use rustix::fs::{Mode, OFlags, open, unlink};
        let path = self.path.join(FIFO);
        let fifo = open(&path, OFlags::WRONLY | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty())?;
        unlink(&path)?;
        rustix::io::write(fifo, b"0").map(drop)
    }

    /// Made and opened to be written: it ends when the init has become its program, or has ended.
    pub(crate) fn make_outcome(&self) -> Result<OwnedFd, Error> {
        use rustix::fs::{CWD, FileType, Mode, OFlags, mknodat, open};
        let path = self.path.join(OUTCOME);
        let open_for = |flags: OFlags| open(&path, flags | OFlags::CLOEXEC, Mode::empty());
        // Nobody can open it for writing alone before somebody reads.
        let both = mknodat(CWD, &path, FileType::Fifo, Mode::from_raw_mode(0o600), 0)
            .and_then(|()| open_for(OFlags::RDWR));
        both.and_then(|_both| open_for(OFlags::WRONLY))
            .map_err(|e| Error::step("making", path.display().to_string(), e))
    }

    /// To be opened before `release`, and read to its end after it; none where nothing is waited for.
    pub(crate) fn open_outcome(&self) -> Result<Option<Outcome>, Error> {
        use rustix::fs::{Mode, OFlags, open};
        let path = self.path.join(OUTCOME);
        match open(&path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty()) {
            Err(Errno::NOENT) => Ok(None),
            other => other
                .map(|fifo| Some(Outcome(fifo)))
                .map_err(|e| Error::step("opening", path.display().to_string(), e)),
        }
    }

    pub(crate) fn remove_fifo(&self) -> Result<(), Error> {
        fs::remove_file(self.path.join(FIFO)).map_err(|e| self.step("removing the FIFO of", e))
    }

    pub(crate) fn waits_for_start(&self) -> bool {
        self.path.join(FIFO).exists()
    }
}
