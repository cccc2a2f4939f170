//! A descriptor that the monitor or a process holds the other end of: pipe, terminal or packet socket.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use tokio::io::unix::AsyncFd;

#[derive(Debug)]
pub(super) struct Descriptor {
    fd: AsyncFd<OwnedFd>,
}

impl Descriptor {
    pub(super) fn new(fd: OwnedFd) -> io::Result<Descriptor> {
        rustix::io::ioctl_fionbio(&fd, true)?;
        #[expect(
            deprecated,
            reason = "its successor is unsafe for the sake of types that may swap their descriptor"
        )]
        let fd = AsyncFd::new(fd)?;
        Ok(Descriptor { fd })
    }

    /// Nothing more to read is 0. A terminal whose last process is gone says EIO, which means just that.
    pub(super) async fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let mut ready = self.fd.readable().await?;
            match ready.try_io(|fd| Ok(rustix::io::read(fd, &mut *buffer)?)) {
                Ok(Err(error)) if is(&error, Errno::IO) => return Ok(0),
                Ok(Err(error)) if is(&error, Errno::INTR) => {}
                Ok(outcome) => return outcome,
                Err(_not_ready) => {}
            }
        }
    }

    pub(super) async fn write_all(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let mut ready = self.fd.writable().await?;
            match ready.try_io(|fd| Ok(rustix::io::write(fd, bytes)?)) {
                Ok(Err(error)) if is(&error, Errno::INTR) => {}
                Ok(outcome) => bytes = &bytes[outcome?..],
                Err(_not_ready) => {}
            }
        }
        Ok(())
    }
}

impl AsFd for Descriptor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.get_ref().as_fd()
    }
}

fn is(error: &io::Error, errno: Errno) -> bool {
    error.raw_os_error() == Some(errno.raw_os_error())
}
