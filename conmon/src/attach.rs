//! Clients on a container's streams, each over a SOCK_SEQPACKET of its own.
//!
//! Output is sent without waiting: a client that doesn't keep up is let go, and the container never waits for
//! one. Input is taken one packet at a time: the next is read once the container has taken the last.

use std::io::IoSlice;
use std::os::fd::OwnedFd;

use conmon_protocol::{ATTACH_PACKET, STREAM_STDERR, STREAM_STDOUT};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendAncillaryBuffer, SendFlags, Shutdown, recv, sendmsg, shutdown, sockopt};

use crate::container::Key;
use crate::logfile::Stream;

/// On one container at once; more are refused.
pub(crate) const MAX_ATTACHED: usize = 64;
/// How far a client may be behind: what the kernel keeps for it, and takes only when it is.
const BEHIND_BYTES: usize = 1 << 20;

#[derive(Debug)]
pub(crate) struct Attached {
    pub(crate) socket: OwnedFd,
    pub(crate) container: Key,
    pub(crate) stdin: bool,
    stdout: bool,
    stderr: bool,
}

/// What came from a client.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Input {
    Nothing,
    Bytes(usize),
    /// No more stdin from it; it may still listen.
    End,
    Gone,
}

/// Which streams a client wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub(crate) stdin: bool,
    pub(crate) stdout: bool,
    pub(crate) stderr: bool,
}

impl Attached {
    pub(crate) fn new(socket: OwnedFd, container: Key, wanted: Wanted) -> Attached {
        // Without the right to force it, the default bound holds.
        let _ = sockopt::set_socket_send_buffer_size_force(&socket, BEHIND_BYTES);
        let Wanted { stdin, stdout, stderr } = wanted;
        Attached { socket, container, stdin, stdout, stderr }
    }

    /// False when the client is to be let go.
    pub(crate) fn send(&self, stream: Stream, bytes: &[u8]) -> bool {
        let (wanted, tag) = match stream {
            Stream::Stdout => (self.stdout, STREAM_STDOUT),
            Stream::Stderr => (self.stderr, STREAM_STDERR),
        };
        !wanted || self.send_packet(tag, bytes).is_ok()
    }

    fn send_packet(&self, tag: u8, bytes: &[u8]) -> Result<(), Errno> {
        let packet = [IoSlice::new(std::slice::from_ref(&tag)), IoSlice::new(bytes)];
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        sendmsg(&self.socket, &packet, &mut SendAncillaryBuffer::default(), flags)?;
        Ok(())
    }

    /// Takes one packet. A longer one than was agreed on is a mistake that would lose bytes.
    pub(crate) fn receive(&self, buffer: &mut [u8]) -> Input {
        match recv(&self.socket, &mut *buffer, RecvFlags::DONTWAIT | RecvFlags::TRUNC) {
            Ok((_, 0)) => Input::End,
            Ok((_, length)) if length > buffer.len().min(ATTACH_PACKET) => Input::Gone,
            Ok((_, length)) => Input::Bytes(length),
            Err(Errno::AGAIN | Errno::INTR) => Input::Nothing,
            Err(_) => Input::Gone,
        }
    }
}

impl Drop for Attached {
    /// Others may hold a copy for a moment (a child between clone and exec); the client shall hear now.
    fn drop(&mut self) {
        let _ = shutdown(&self.socket, Shutdown::Both);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

    fn pair(wanted: Wanted) -> (Attached, OwnedFd) {
        let (a, b) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
        (Attached::new(a, 1, wanted), b)
    }

    const ALL: Wanted = Wanted { stdin: true, stdout: true, stderr: true };

    fn packet(client: &OwnedFd) -> Vec<u8> {
        let mut buffer = [0; 64];
        let (_, length) = recv(client, &mut buffer, RecvFlags::DONTWAIT).unwrap();
        buffer[..length].to_vec()
    }

    #[test]
    fn packets_say_which_stream_they_are_of() {
        let (attached, client) = pair(ALL);
        assert!(attached.send(Stream::Stdout, b"out"));
        assert!(attached.send(Stream::Stderr, b"err"));
        assert_eq!(packet(&client), b"\x01out");
        assert_eq!(packet(&client), b"\x02err");
        let (attached, client) = pair(Wanted { stderr: false, ..ALL });
        assert!(attached.send(Stream::Stderr, b"err"));
        drop(attached);
        assert_eq!(packet(&client), b"", "not wanted");
    }

    #[test]
    fn a_slow_client_is_let_go() {
        let (attached, _client) = pair(ALL);
        let sent = (0..100_000).take_while(|_| attached.send(Stream::Stdout, &[b'x'; 1000])).count();
        assert!(sent > 10 && sent < 10_000, "{sent} packets");
    }

    #[test]
    fn input_comes_in_packets_and_has_an_end() {
        let (attached, client) = pair(ALL);
        let mut buffer = [0; ATTACH_PACKET];
        assert_eq!(attached.receive(&mut buffer), Input::Nothing);
        rustix::io::write(&client, b"typed").unwrap();
        shutdown(&client, Shutdown::Write).unwrap();
        assert_eq!(attached.receive(&mut buffer), Input::Bytes(5));
        assert_eq!(attached.receive(&mut buffer), Input::End);
        assert!(attached.send(Stream::Stdout, b"still heard"));
        let (attached, client) = pair(ALL);
        rustix::io::write(&client, &[0; ATTACH_PACKET + 1]).unwrap();
        assert_eq!(attached.receive(&mut buffer), Input::Gone, "too long a packet");
    }
}
