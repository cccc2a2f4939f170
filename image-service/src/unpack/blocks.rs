//! Inflated blocks: made by whoever asks for them, or ahead of time by a thread beside.
//!
//! Inflating takes most of a gzip layer's time. For a layer that is not small a second thread inflates
//! while the first hashes and writes; a few blocks go round between them, so neither waits for memory.

use std::io::{self, BufRead, Read};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::thread::{Scope, ScopedJoinHandle};

use super::decrypt::Packed;
use super::stream::Inflater;

/// One write of a large file, and what one step of inflating fills.
const BLOCK_BYTES: usize = 256 << 10;
/// Blocks that go round between the threads.
const BLOCKS: usize = 4;

/// A run of inflated bytes. An empty one is the end.
#[derive(Debug, Default)]
pub(crate) struct Block {
    pub(crate) bytes: Vec<u8>,
    /// How many bytes had come in when this was made.
    pub(crate) compressed: u64,
}

/// Where blocks come from.
pub(crate) trait Blocks {
    type Source: BufRead;

    /// Gives the next block for one that is done with.
    fn next(&mut self, done: Block) -> io::Result<Block>;

    /// What was packed, for its digest. After the last block only.
    fn finish(self) -> io::Result<Packed<Self::Source>>;
}

impl<R: BufRead> Blocks for Inflater<R> {
    type Source = R;

    fn next(&mut self, mut done: Block) -> io::Result<Block> {
        done.bytes.resize(BLOCK_BYTES, 0);
        let mut end = 0;
        // Filled as far as it goes: small reads would become small writes.
        while end < BLOCK_BYTES {
            match self.read(&mut done.bytes[end..]) {
                Ok(0) => break,
                Ok(n) => end += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        done.bytes.truncate(end);
        done.compressed = self.compressed();
        Ok(done)
    }

    fn finish(self) -> io::Result<Packed<R>> {
        Ok(self.into_packed())
    }
}

/// The receiving end of a thread that inflates. When it is dropped the thread ends at its next block.
pub(crate) struct Beside<'scope, R: BufRead> {
    full: Receiver<io::Result<Block>>,
    empty: Sender<Block>,
    thread: ScopedJoinHandle<'scope, Inflater<R>>,
}

impl<'scope, R: BufRead + Send + 'scope> Beside<'scope, R> {
    pub(crate) fn start(scope: &'scope Scope<'scope, '_>, inflater: Inflater<R>) -> io::Result<Self> {
        let (empty, empties) = channel();
        let (fulls, full) = sync_channel(BLOCKS);
        for _ in 0..BLOCKS {
            _ = empty.send(Block::default());
        }
        let thread = std::thread::Builder::new()
            .name("image-inflate".to_owned())
            .spawn_scoped(scope, move || inflate(inflater, &empties, &fulls))?;
        Ok(Beside { full, empty, thread })
    }
}

impl<R: BufRead + Send> Blocks for Beside<'_, R> {
    type Source = R;

    fn next(&mut self, done: Block) -> io::Result<Block> {
        if !done.bytes.is_empty() {
            _ = self.empty.send(done);
        }
        self.full.recv().unwrap_or_else(|_| Ok(Block::default()))
    }

    fn finish(self) -> io::Result<Packed<R>> {
        drop((self.full, self.empty));
        let inflater = self.thread.join().map_err(|_| io::Error::other("the inflating thread panicked"))?;
        Ok(inflater.into_packed())
    }
}

fn inflate<R: BufRead>(
    mut inflater: Inflater<R>,
    empties: &Receiver<Block>,
    fulls: &SyncSender<io::Result<Block>>,
) -> Inflater<R> {
    for empty in empties {
        let next = inflater.next(empty);
        let last = !next.as_ref().is_ok_and(|block| !block.bytes.is_empty());
        if fulls.send(next).is_err() || last {
            break;
        }
    }
    inflater
}
