//! Hearing of processes that the kernel killed for want of memory.

use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::OFlags;
use rustix::fs::inotify;

use super::layout::Version;
use super::{Cgroup, Error, files, open};

/// Ready to be read when there may be news.
#[derive(Debug)]
pub struct OomWatch {
    fd: OwnedFd,
    /// The kernel goes on telling v1's as long as this is open.
    _told_about: Option<OwnedFd>,
    seen: u64,
}

impl Cgroup {
    /// Watches from now on.
    ///
    /// # Errors
    /// The node has no memory controller, or the kernel's answer.
    pub fn watch_oom(&self) -> Result<OomWatch, Error> {
        let Some(hierarchy) = self.layout.serving("memory") else {
            return Err(Error::MissingController { field: "memory", controller: "memory".to_owned() });
        };
        let dir = self.dir(hierarchy);
        let (fd, told_about) = match hierarchy.version {
            Version::V1 => eventfd_of(&dir)?,
            Version::V2 => (inotify_of(&dir)?, None),
        };
        Ok(OomWatch { fd, _told_about: told_about, seen: self.oom_kills() })
    }
}

impl OomWatch {
    /// When it is ready: whether one was killed since the last call. v1 tells before it kills, and so does this.
    pub fn ran_out(&mut self, cgroup: &Cgroup) -> bool {
        if self._told_about.is_some() {
            return rustix::io::read(&self.fd, &mut [0; 8]).is_ok();
        }
        self.take(cgroup) > 0
    }

    /// How many were seen at the last call. v1 has no say in that: it tells before it kills.
    #[must_use]
    pub fn seen(&self) -> u64 {
        self.seen
    }

    /// How many there were since the last call. A cgroup that is gone has no more.
    pub fn take(&mut self, cgroup: &Cgroup) -> u64 {
        let mut news = [0; 4096];
        // It is only for its readiness; not being ready is no news.
        let _ = rustix::io::read(&self.fd, &mut news);
        let now = cgroup.oom_kills();
        let more = now.saturating_sub(self.seen);
        self.seen = self.seen.max(now);
        more
    }
}

impl AsFd for OomWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Documentation/admin-guide/cgroup-v1/memory.rst, section 10.
fn eventfd_of(dir: &Path) -> Result<(OwnedFd, Option<OwnedFd>), Error> {
    let fail = |doing, file: &str| {
        let object = dir.join(file);
        move |source| Error::Kernel { doing, object, source }
    };
    let control = open(&dir.join("memory.oom_control"), OFlags::RDONLY)?;
    let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
        .map_err(fail("making an event for", "memory.oom_control"))?;
    let line = format!("{} {}", event.as_raw_fd(), control.as_raw_fd());
    files::write(dir, "cgroup.event_control", &line).map_err(fail("writing", "cgroup.event_control"))?;
    Ok((event, Some(control)))
}

/// v2 says that memory.events has changed.
fn inotify_of(dir: &Path) -> Result<OwnedFd, Error> {
    let file = dir.join("memory.events");
    let watch = || {
        let fd = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
        inotify::add_watch(&fd, &file, inotify::WatchFlags::MODIFY)?;
        Ok(fd)
    };
    watch().map_err(|source| Error::Kernel { doing: "watching", object: file.clone(), source })
}
