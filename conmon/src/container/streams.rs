//! What goes into a container and comes out of it.

use std::os::fd::OwnedFd;

use conmon_protocol::{RefusalKind, Stdin};
use rustix::event::epoll::EventFlags;
use rustix::io::Errno;

use super::Container;
use crate::error::{Error, Named as _};
use crate::logfile::Stream;
use crate::poll::{Poll, Token};

impl Container {
    /// Gives input to the container; what it doesn't take at once is the rest, and it is asked again.
    pub(crate) fn feed(&mut self, bytes: &[u8], poll: &Poll) {
        let taken = match self.input() {
            None => bytes.len(),
            Some((fd, _)) => match rustix::io::write(fd, bytes) {
                Ok(count) => count,
                Err(Errno::AGAIN | Errno::INTR) => 0,
                // Nobody reads any more, so nobody misses it.
                Err(_) => bytes.len(),
            },
        };
        self.stdin_rest = bytes[taken..].to_vec();
        self.watch_stdin(poll);
        if self.stdin_ends {
            self.end_stdin(poll);
        }
    }

    /// Asks to be told when the rest may be written. A FIFO with no reader is always ready to fail, so it is watched
    /// only while something is to be written; a terminal is watched for its output all the time.
    fn watch_stdin(&self, poll: &Poll) {
        let has_rest = !self.stdin_rest.is_empty();
        // It fails for what is already as wanted.
        let _ = match self.input() {
            Some((fd, token @ Token::Console(_))) if has_rest => {
                poll.rewatch(fd, token, EventFlags::IN | EventFlags::OUT)
            }
            Some((fd, token @ Token::Console(_))) => poll.rewatch(fd, token, EventFlags::IN),
            Some((fd, token)) if has_rest => poll.watch(fd, token, EventFlags::OUT),
            Some((fd, _)) => {
                poll.unwatch(fd);
                Ok(())
            }
            None => Ok(()),
        };
    }

    /// A client has no more input. Where stdin is for one client only, that is its end for the container too.
    pub(crate) fn end_stdin(&mut self, poll: &Poll) {
        if self.record.plan.stdin != Stdin::Once {
            return;
        }
        self.stdin_ends = true;
        if self.stdin_rest.is_empty()
            && let Some(fd) = self.streams.stdin.take()
        {
            poll.unwatch(&fd);
        }
    }

    fn input(&self) -> Option<(&OwnedFd, Token)> {
        let stdin = self.streams.stdin.as_ref().map(|fd| (fd, Token::Stdin(self.key)));
        stdin.or_else(|| self.streams.console.as_ref().map(|fd| (fd, Token::Console(self.key))))
    }

    /// A stream's descriptor, while it is open.
    pub(crate) fn output(&self, token: Token) -> Option<(&OwnedFd, Stream)> {
        match token {
            Token::Stdout(_) => Some((self.streams.stdout.as_ref()?, Stream::Stdout)),
            Token::Stderr(_) => Some((self.streams.stderr.as_ref()?, Stream::Stderr)),
            Token::Console(_) => Some((self.streams.console.as_ref()?, Stream::Stdout)),
            _ => None,
        }
    }

    pub(crate) fn resize(&self, columns: u16, rows: u16) -> Result<(), Error> {
        let Some(console) = &self.streams.console else {
            let message = format!("container {} has no terminal", self.id());
            return Err(Error::refused(RefusalKind::Invalid, message));
        };
        resize(console, columns, rows).named("resizing the terminal of", self.id())
    }
}

fn resize(console: &OwnedFd, columns: u16, rows: u16) -> Result<(), Errno> {
    let size = rustix::termios::Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    rustix::termios::tcsetwinsize(console, size)
}
