//! One connection to a monitor: frames and their descriptors over a Unix stream.

use std::collections::VecDeque;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use conmon_protocol::{Decoder, Frame, MAX_FDS};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags,
};
use tokio::io::Interest;
use tokio::net::UnixStream;

/// Room for the control message with as many descriptors as a frame may carry.
const ANCILLARY: usize = rustix::cmsg_space!(ScmRights(MAX_FDS as usize));
/// Bytes taken from the socket at once.
const READ_BYTES: usize = 8 << 10;

/// Writes one frame; its descriptors go with the first byte.
pub(super) async fn send(stream: &UnixStream, bytes: &[u8], fds: &[OwnedFd]) -> io::Result<()> {
    let mut sent = 0;
    while sent < bytes.len() {
        let fds = if sent == 0 { fds } else { &[] };
        let fds: Vec<&OwnedFd> = fds.iter().collect();
        sent += stream.async_io(Interest::WRITABLE, || send_some(stream, &bytes[sent..], &fds)).await?;
    }
    Ok(())
}

pub(super) fn send_some(stream: impl AsFd, bytes: &[u8], fds: &[&OwnedFd]) -> io::Result<usize> {
    let borrowed: Vec<BorrowedFd<'_>> = fds.iter().map(|fd| fd.as_fd()).collect();
    let mut space = [MaybeUninit::uninit(); ANCILLARY];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !borrowed.is_empty() {
        control.push(SendAncillaryMessage::ScmRights(&borrowed));
    }
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    Ok(rustix::net::sendmsg(stream, &[IoSlice::new(bytes)], &mut control, flags)?)
}

/// Takes frames off the stream, each with its descriptors.
#[derive(Debug, Default)]
pub(super) struct Receiver {
    decoder: Decoder,
    fds: VecDeque<OwnedFd>,
}

impl Receiver {
    /// The next frame; `None` once the peer is gone.
    pub(super) async fn next(&mut self, stream: &UnixStream) -> io::Result<Option<(Frame, Vec<OwnedFd>)>> {
        loop {
            if let Some(frame) = self.decoder.next_frame().map_err(io::Error::other)? {
                let fds = self.take_fds(usize::from(frame.fd_count))?;
                return Ok(Some((frame, fds)));
            }
            if stream.async_io(Interest::READABLE, || self.receive_some(stream)).await? == 0 {
                return Ok(None);
            }
        }
    }

    fn take_fds(&mut self, count: usize) -> io::Result<Vec<OwnedFd>> {
        if count > self.fds.len() {
            return Err(io::Error::other("a message names descriptors that did not come"));
        }
        Ok(self.fds.drain(..count).collect())
    }

    fn receive_some(&mut self, stream: &UnixStream) -> io::Result<usize> {
        let mut bytes = [0; READ_BYTES];
        let mut space = [MaybeUninit::uninit(); ANCILLARY];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
        let message = rustix::net::recvmsg(stream, &mut [IoSliceMut::new(&mut bytes)], &mut control, flags)?;
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(fds) = message {
                self.fds.extend(fds);
            }
        }
        self.decoder.push(&bytes[..message.bytes]);
        Ok(message.bytes)
    }
}
