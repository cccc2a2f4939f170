//! What containers write: from their streams to their logs and to whoever listens.

use rustix::event::epoll::EventFlags;
use rustix::io::{Errno, ioctl_fionread};

use super::Monitor;
use crate::clock;
use crate::container::{Container, Key};
use crate::journal::Journal;
use crate::logfile::{Change, MAX_TEXT, Stream};
use crate::poll::Token;
use crate::stage::{Batch, Stage};

/// Read from one stream after its container's end.
const MAX_LAST_BYTES: usize = 4 << 20;

/// What a read of a stream came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flow {
    More(usize),
    Dry,
    Ended,
}

impl Monitor {
    /// Reads one stream once.
    pub(crate) fn pump(&mut self, token: Token, key: Key) {
        let more = self.with_stage(|monitor, stage| monitor.read_output(token, key, stage));
        if more == Flow::Ended {
            self.close_output(token, key);
        }
    }

    fn read_output(&mut self, token: Token, key: Key, stage: &mut Stage) -> Flow {
        let Some(container) = self.containers.get_mut(&key) else {
            return Flow::Dry;
        };
        let Some((fd, stream)) = container.output(token) else {
            return Flow::Dry;
        };
        let at_ns = clock::now_ns();
        let room = expect(stage, container, token, stream, at_ns);
        let length = match rustix::io::read(fd, &mut stage.text()[..room]) {
            Ok(0) => return Flow::Ended,
            Ok(length) => length,
            Err(Errno::AGAIN | Errno::INTR) => return Flow::Dry,
            Err(_) => return Flow::Ended,
        };
        let text = &stage.text()[..length];
        let change = container.log.write(stream, text, at_ns);
        tell_change(&self.journal, container.id(), &change);
        self.send_to_clients(key, stream, text);
        Flow::More(length)
    }

    /// Whoever doesn't keep up is let go.
    fn send_to_clients(&mut self, key: Key, stream: Stream, text: &[u8]) {
        let clients = self.attached.iter().filter(|(_, client)| client.container == key);
        let slow: Vec<Key> =
            clients.filter(|(_, client)| !client.send(stream, text)).map(|(client, _)| *client).collect();
        slow.into_iter().for_each(|client| self.drop_attached(client));
    }

    /// Nobody can write to a FIFO any more that has no writer. A terminal may be opened again by whoever is
    /// still in the container, so it stays, watched for changes only.
    fn close_output(&mut self, token: Token, key: Key) {
        let Some(container) = self.containers.get_mut(&key) else {
            return;
        };
        let streams = &mut container.streams;
        let closed = match token {
            Token::Stdout(_) => streams.stdout.take(),
            Token::Stderr(_) => streams.stderr.take(),
            _ => {
                if let Some(console) = &streams.console {
                    // It fails only for a descriptor that is not watched, and this one is.
                    let _ = self.poll.rewatch(console, token, EventFlags::IN | EventFlags::ET);
                }
                None
            }
        };
        if let Some(fd) = closed {
            self.poll.unwatch(&fd);
        }
    }

    /// Reads what a container left behind, to a bound: others may hold its streams and write on for ever.
    pub(super) fn drain(&mut self, key: Key) {
        for token in [Token::Stdout(key), Token::Stderr(key), Token::Console(key)] {
            let mut bytes = 0;
            while bytes < MAX_LAST_BYTES {
                match self.with_stage(|monitor, stage| monitor.read_output(token, key, stage)) {
                    Flow::More(count) => bytes += count,
                    Flow::Dry | Flow::Ended => break,
                }
            }
        }
    }
}

/// Notes what is about to be read, and says how much to read.
fn expect(stage: &mut Stage, container: &Container, token: Token, stream: Stream, at_ns: i64) -> usize {
    let (Some((fd, _)), Some(log)) = (container.output(token), container.log.end_of_file()) else {
        return MAX_TEXT;
    };
    match ioctl_fionread(fd) {
        Ok(waiting @ 1..) => {
            let length = usize::try_from(waiting).map_or(MAX_TEXT, |waiting| waiting.min(MAX_TEXT));
            stage.expect(container.id(), &Batch { stream, length, at_ns, log });
            length
        }
        Ok(_) | Err(_) => MAX_TEXT,
    }
}

fn tell_change(journal: &Journal, id: &str, change: &Change) {
    match change {
        Change::None => {}
        Change::Losing(errno) => journal.note(&format!("losing the log of {id}: {errno}")),
        Change::Recovered { lost_bytes } => journal.note(&format!("the log of {id} lost {lost_bytes} bytes")),
    }
}
