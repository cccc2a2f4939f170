//! The least that a pull can cost: inflate with the same library, write the same files, verify nothing.
//!
//! One thread inflates and one writes for each layer, two layers at once: as many threads as berth has.
//! The packed layers lie in memory, so the network costs nothing either.

use std::io::Read;
use std::path::Path;
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};

use anyhow::{Context, Result, anyhow};

const BLOCK: usize = 256 << 10;
const BLOCKS: usize = 4;
const LAYERS_AT_ONCE: usize = 2;

pub(super) fn pull(layers: &[Vec<u8>], root: &Path) -> Result<()> {
    let todo = Mutex::new(layers.iter().enumerate());
    std::thread::scope(|scope| {
        let work = || -> Result<()> {
            loop {
                let next = todo.lock().map_err(|_| anyhow!("a thread of the floor panicked"))?.next();
                let Some((number, packed)) = next else { return Ok(()) };
                unpack(packed, &root.join(number.to_string()))?;
            }
        };
        let threads: Vec<_> = (0..LAYERS_AT_ONCE).map(|_| scope.spawn(work)).collect();
        threads.into_iter().try_for_each(|thread| thread.join().map_err(|_| anyhow!("panicked"))?)
    })
}

fn unpack(packed: &[u8], root: &Path) -> Result<()> {
    std::fs::create_dir(root)?;
    std::thread::scope(|scope| {
        let (empty, empties) = channel();
        let (fulls, full) = sync_channel(BLOCKS);
        for _ in 0..BLOCKS {
            empty.send(Vec::new())?;
        }
        scope.spawn(move || inflate(packed, &empties, &fulls));
        let mut archive = tar::Archive::new(Blocks { full, empty, block: Vec::new(), at: 0 });
        for entry in archive.entries()? {
            let mut entry = entry?;
            let path = root.join(entry.path()?);
            if entry.header().entry_type().is_dir() {
                std::fs::create_dir(path)?;
            } else {
                std::io::copy(&mut entry, &mut std::fs::File::create(path)?)?;
            }
        }
        // The last block of an archive is read, too, so that the other thread ends.
        std::io::copy(&mut archive.into_inner(), &mut std::io::sink()).context("reading to the end")?;
        Ok(())
    })
}

fn inflate(packed: &[u8], empties: &Receiver<Vec<u8>>, fulls: &SyncSender<Vec<u8>>) {
    let mut reader: Box<dyn Read> = if packed.starts_with(&[0x1f, 0x8b]) {
        Box::new(flate2::bufread::GzDecoder::new(packed))
    } else {
        Box::new(zstd::stream::read::Decoder::with_buffer(packed).expect("zstd reads its own"))
    };
    for mut block in empties {
        block.resize(BLOCK, 0);
        let mut end = 0;
        while end < BLOCK {
            match reader.read(&mut block[end..]) {
                Ok(0) | Err(_) => break,
                Ok(n) => end += n,
            }
        }
        block.truncate(end);
        if fulls.send(block).is_err() || end == 0 {
            return;
        }
    }
}

struct Blocks {
    full: Receiver<Vec<u8>>,
    empty: Sender<Vec<u8>>,
    block: Vec<u8>,
    at: usize,
}

impl Read for Blocks {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if self.at == self.block.len() {
            self.empty.send(std::mem::take(&mut self.block)).ok();
            self.block = self.full.recv().unwrap_or_default();
            self.at = 0;
        }
        let n = buffer.len().min(self.block.len() - self.at);
        buffer[..n].copy_from_slice(&self.block[self.at..self.at + n]);
        self.at += n;
        Ok(n)
    }
}
