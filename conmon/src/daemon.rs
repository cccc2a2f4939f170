//! One connection to berthd: requests in, answers and events out. Daemons come and go; old ones die.

use std::collections::VecDeque;
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use conmon_protocol::{Ask, Decoder, Frame, MAX_FDS, Message, Request, encode};
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use serde::Deserialize;

use crate::keep::{AllReturned, Returned};

/// What may wait for a daemon that doesn't read. One that is further behind is given up: it will ask for the
/// state when it connects again.
const MAX_UNSENT: usize = 1 << 20;
/// Read at once of what was said before we were born.
const EARLY_BYTES: usize = 2048;
/// Descriptors received ahead of their frames.
const MAX_EARLY_FDS: usize = 4 * MAX_FDS as usize;

/// The connection is of no more use.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Gone;

#[derive(Debug)]
pub(crate) struct Daemon {
    pub(crate) socket: OwnedFd,
    decoder: Decoder,
    early_fds: VecDeque<OwnedFd>,
    /// Taken out of the stream and not answered yet.
    early: Option<Asked>,
    unsent: VecDeque<Unsent>,
    unsent_bytes: usize,
    /// It keeps what would be lost with this monitor.
    pub(crate) keeps: bool,
}

/// What a daemon asked.
#[derive(Debug)]
pub(crate) enum Asked {
    /// With the descriptors that came with it.
    Request(Box<Request>, Vec<OwnedFd>),
    /// A newer daemon may ask what this monitor has never heard of; it is told so, and goes on.
    Unknown { seq: u64, why: String },
}

#[derive(Debug, Deserialize)]
struct Numbered {
    seq: u64,
}

#[derive(Debug)]
struct Unsent {
    bytes: Vec<u8>,
    sent: usize,
    /// Ride with the first byte.
    fds: Vec<OwnedFd>,
}

impl Daemon {
    pub(crate) fn new(socket: OwnedFd) -> Daemon {
        Daemon {
            socket,
            decoder: Decoder::new(),
            early_fds: VecDeque::new(),
            early: None,
            unsent: VecDeque::new(),
            unsent_bytes: 0,
            keeps: false,
        }
    }

    /// What was kept for us, which is said before anything else and before we were born: there is nothing to wait for.
    pub(crate) fn take_back(&mut self) -> AllReturned {
        let mut all = AllReturned::default();
        let mut buffer = [0; EARLY_BYTES];
        loop {
            match self.next_request() {
                Ok(Some(Asked::Request(request, fds))) => match request.ask {
                    Ask::TakeBack { container_id, kept } => {
                        all.containers.insert(container_id, Returned::of(kept, fds));
                    }
                    Ask::TakeBackExec(kept) => all.execs.extend(fds.into_iter().next().map(|fd| (kept, fd))),
                    _ => {
                        self.early = Some(Asked::Request(request, fds));
                        return all;
                    }
                },
                Ok(early @ Some(Asked::Unknown { .. })) => {
                    self.early = early;
                    return all;
                }
                Ok(None) if matches!(self.receive(&mut buffer), Ok(1..)) => {}
                // Whoever is gone or talks nonsense is found out by the turn.
                Ok(None) | Err(Gone) => return all,
            }
        }
    }

    /// Reads once; says how much there was. Take all requests out before the next read.
    pub(crate) fn receive(&mut self, buffer: &mut [u8]) -> Result<usize, Gone> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS as usize))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
        let received = recvmsg(&self.socket, &mut [IoSliceMut::new(buffer)], &mut control, flags);
        let received = match received {
            Ok(received) => received,
            Err(Errno::AGAIN | Errno::INTR) => return Ok(0),
            Err(_) => return Err(Gone),
        };
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(fds) = message {
                self.early_fds.extend(fds);
            }
        }
        let cut = received.flags.contains(ReturnFlags::CTRUNC) || self.early_fds.len() > MAX_EARLY_FDS;
        if received.bytes == 0 || cut {
            return Err(Gone);
        }
        self.decoder.push(&buffer[..received.bytes]);
        Ok(received.bytes)
    }

    /// What was asked next, if it is there whole.
    pub(crate) fn next_request(&mut self) -> Result<Option<Asked>, Gone> {
        if let Some(early) = self.early.take() {
            return Ok(Some(early));
        }
        let Some(frame) = self.decoder.next_frame().map_err(|_| Gone)? else {
            return Ok(None);
        };
        let fds = self.fds_of(&frame)?;
        match frame.parse() {
            Ok(request) => Ok(Some(Asked::Request(Box::new(request), fds))),
            Err(error) => {
                let Numbered { seq } = frame.parse().map_err(|_| Gone)?;
                let mut why = error.to_string();
                if let Some(cause) = std::error::Error::source(&error) {
                    why = format!("{why}: {cause}");
                }
                Ok(Some(Asked::Unknown { seq, why }))
            }
        }
    }

    fn fds_of(&mut self, frame: &Frame) -> Result<Vec<OwnedFd>, Gone> {
        let count = usize::from(frame.fd_count);
        if self.early_fds.len() < count {
            return Err(Gone);
        }
        Ok(self.early_fds.drain(..count).collect())
    }

    pub(crate) fn send(&mut self, message: &Message, fds: Vec<OwnedFd>) -> Result<(), Gone> {
        let bytes = encode(message, fds.len() as u8).map_err(|_| Gone)?;
        self.unsent_bytes += bytes.len();
        if self.unsent_bytes > MAX_UNSENT {
            return Err(Gone);
        }
        self.unsent.push_back(Unsent { bytes, sent: 0, fds });
        self.flush()
    }

    /// Sends what the socket takes.
    pub(crate) fn flush(&mut self) -> Result<(), Gone> {
        while let Some(first) = self.unsent.front_mut() {
            match first.send_some(self.socket.as_fd()) {
                Ok(()) if first.sent == first.bytes.len() => {
                    self.unsent_bytes -= first.bytes.len();
                    self.unsent.pop_front();
                }
                Ok(()) | Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Ok(()),
                Err(_) => return Err(Gone),
            }
        }
        Ok(())
    }

    pub(crate) fn has_unsent(&self) -> bool {
        !self.unsent.is_empty()
    }
}

impl Unsent {
    fn send_some(&mut self, socket: BorrowedFd<'_>) -> Result<(), Errno> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS as usize))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let fds: Vec<BorrowedFd<'_>> = self.fds.iter().map(|fd| fd.as_fd()).collect();
        if !fds.is_empty() {
            control.push(SendAncillaryMessage::ScmRights(&fds));
        }
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        self.sent += sendmsg(socket, &[IoSlice::new(&self.bytes[self.sent..])], &mut control, flags)?;
        drop(fds);
        self.fds.clear();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use conmon_protocol::Answer;
    use std::os::unix::net::UnixStream;

    fn pair() -> (Daemon, Daemon) {
        let (a, b) = UnixStream::pair().unwrap();
        (Daemon::new(a.into()), Daemon::new(b.into()))
    }

    fn answer(seq: u64) -> Message {
        Message::Answer { seq, answer: Ok(Answer::Done) }
    }

    #[test]
    fn descriptors_arrive_with_their_own_message() {
        let (mut monitor, daemon) = pair();
        let file = || std::fs::File::open("/dev/null").unwrap().into();
        let mut stream = Vec::new();
        for seq in 0..3u64 {
            let request = Request { seq, ask: Ask::UnmakePod };
            stream.push((encode(&request, seq as u8).unwrap(), (0..seq).map(|_| file()).collect::<Vec<_>>()));
        }
        for (bytes, fds) in stream {
            let mut unsent = Unsent { bytes, sent: 0, fds };
            unsent.send_some(daemon.socket.as_fd()).unwrap();
        }
        let mut seen = Vec::new();
        let mut buffer = [0; 7];
        while seen.len() < 3 {
            monitor.receive(&mut buffer).unwrap();
            while let Some(asked) = monitor.next_request().unwrap() {
                let Asked::Request(request, fds) = asked else { panic!("{asked:?}") };
                seen.push((request.seq, fds.len()));
            }
        }
        assert_eq!(seen, [(0, 0), (1, 1), (2, 2)]);
    }

    #[test]
    fn a_daemon_that_does_not_read_is_given_up_at_the_bound() {
        let (mut monitor, _daemon) = pair();
        let gone = (0..1_000_000).find_map(|seq| monitor.send(&answer(seq), Vec::new()).err());
        assert_eq!(gone, Some(Gone));
        assert!(monitor.unsent_bytes <= MAX_UNSENT + 64);
    }

    #[test]
    fn what_a_newer_daemon_asks_is_answered_too() {
        let (mut monitor, daemon) = pair();
        let newer = serde_json::json!({"seq": 7, "ask": {"Teleport": {"container_id": "c"}}});
        rustix::io::write(&daemon.socket, &encode(&newer, 0).unwrap()).unwrap();
        monitor.receive(&mut [0; 256]).unwrap();
        let asked = monitor.next_request().unwrap();
        let Some(Asked::Unknown { seq: 7, why }) = asked else { panic!("{asked:?}") };
        assert!(why.contains("Teleport"), "{why}");
    }

    #[test]
    fn a_daemon_that_is_gone_or_talks_nonsense_is_given_up() {
        let (mut monitor, daemon) = pair();
        drop(daemon);
        assert_eq!(monitor.receive(&mut [0; 64]), Err(Gone));

        let (mut monitor, daemon) = pair();
        rustix::io::write(&daemon.socket, b"\x02\0\0\0\0{}").unwrap();
        monitor.receive(&mut [0; 64]).unwrap();
        assert_eq!(monitor.next_request().unwrap_err(), Gone);

        let (mut monitor, daemon) = pair();
        rustix::io::write(&daemon.socket, &encode(&Request { seq: 0, ask: Ask::UnmakePod }, 1).unwrap())
            .unwrap();
        monitor.receive(&mut [0; 64]).unwrap();
        assert_eq!(monitor.next_request().unwrap_err(), Gone, "it promised a descriptor");
    }
}
