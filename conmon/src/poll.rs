//! The one place a monitor waits in, and the names of what it waits for.

use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};

use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::io::Errno;

/// Events taken per wait; more are taken by the next.
const EVENTS: usize = 32;

/// What became ready. The number is a key that is never used twice, so a late event finds nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Token {
    Listener,
    Children,
    Daemon(u32),
    Stdin(u32),
    Stdout(u32),
    Stderr(u32),
    Console(u32),
    /// A container's process that an earlier monitor started.
    Inherited(u32),
    /// The same of an exec.
    InheritedExec(u32),
    /// What a child that works for us says.
    Job(u32),
    Attached(u32),
    /// A container's memory.
    Memory(u32),
    /// Of a kind this monitor never registers.
    Unknown,
}

impl Token {
    fn encode(self) -> u64 {
        let (kind, key) = match self {
            Token::Listener => (1, 0),
            Token::Children => (2, 0),
            Token::Daemon(key) => (3, key),
            Token::Stdin(key) => (4, key),
            Token::Stdout(key) => (5, key),
            Token::Stderr(key) => (6, key),
            Token::Console(key) => (7, key),
            Token::Inherited(key) => (8, key),
            Token::Attached(key) => (9, key),
            Token::Memory(key) => (10, key),
            Token::InheritedExec(key) => (11, key),
            Token::Job(key) => (12, key),
            Token::Unknown => (0, 0),
        };
        kind << 32 | u64::from(key)
    }

    fn decode(data: u64) -> Token {
        let key = data as u32;
        match data >> 32 {
            1 => Token::Listener,
            2 => Token::Children,
            3 => Token::Daemon(key),
            4 => Token::Stdin(key),
            5 => Token::Stdout(key),
            6 => Token::Stderr(key),
            7 => Token::Console(key),
            8 => Token::Inherited(key),
            9 => Token::Attached(key),
            10 => Token::Memory(key),
            11 => Token::InheritedExec(key),
            12 => Token::Job(key),
            _ => Token::Unknown,
        }
    }
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Ready {
    pub(crate) token: Token,
    pub(crate) flags: EventFlags,
}

/// What was ready after one wait.
pub(crate) type Batch = [Option<Ready>; EVENTS];

#[derive(Debug)]
pub(crate) struct Poll {
    epoll: OwnedFd,
}

impl Poll {
    pub(crate) fn new() -> Result<Poll, Errno> {
        Ok(Poll { epoll: epoll::create(CreateFlags::CLOEXEC)? })
    }

    pub(crate) fn watch(&self, fd: impl AsFd, token: Token, flags: EventFlags) -> Result<(), Errno> {
        epoll::add(&self.epoll, fd, EventData::new_u64(token.encode()), flags)
    }

    pub(crate) fn rewatch(&self, fd: impl AsFd, token: Token, flags: EventFlags) -> Result<(), Errno> {
        epoll::modify(&self.epoll, fd, EventData::new_u64(token.encode()), flags)
    }

    /// A descriptor that others may hold too must be taken out by hand; closing ours would not.
    pub(crate) fn unwatch(&self, fd: impl AsFd) {
        // Not watched is what was asked for.
        let _ = epoll::delete(&self.epoll, fd);
    }

    /// Waits for something, at most for so long; a signal in between is an empty batch.
    pub(crate) fn wait(&self, timeout_ns: Option<u64>) -> Result<Batch, Errno> {
        let timeout = timeout_ns
            .map(|ns| Timespec { tv_sec: (ns / 1_000_000_000) as i64, tv_nsec: (ns % 1_000_000_000) as i64 });
        let mut room = [MaybeUninit::<epoll::Event>::uninit(); EVENTS];
        let ready = match epoll::wait(&self.epoll, &mut room, timeout.as_ref()) {
            Ok((ready, _)) => &*ready,
            Err(Errno::INTR) => &[],
            Err(errno) => return Err(errno),
        };
        let mut batch = [None; EVENTS];
        for (place, event) in batch.iter_mut().zip(ready) {
            let (flags, data) = (event.flags, event.data);
            *place = Some(Ready { token: Token::decode(data.u64()), flags });
        }
        Ok(batch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_survives_the_kernel() {
        let check = |token: Token| assert_eq!(Token::decode(token.encode()), token);
        check(Token::Listener);
        check(Token::Children);
        check(Token::Unknown);
        for key in [0, 1, u32::MAX] {
            check(Token::Daemon(key));
            check(Token::Stdin(key));
            check(Token::Stdout(key));
            check(Token::Stderr(key));
            check(Token::Console(key));
            check(Token::Inherited(key));
            check(Token::Attached(key));
            check(Token::Memory(key));
            check(Token::InheritedExec(key));
            check(Token::Job(key));
        }
    }
}
