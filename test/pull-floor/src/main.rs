//! The least that a pull can cost: the bytes from the same registry, inflated with the same library, the same files
//! written with their modes and times, one flush at the end; nothing verified, kept for later, or bounded.
//!
//! One thread inflates and one writes for each layer, four layers at once: as many threads as berth has. The registry's
//! own work is part of it, since on a small machine nobody pulls without giving it a processor.
//!
//! `pull-floor REGISTRY REPOSITORY ROOT DIGEST...`; optimised as berthd is, or it would be no floor.

use std::fs::{File, FileTimes, Permissions};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, anyhow, bail, ensure};

const BLOCK: usize = 256 << 10;
const BLOCKS: usize = 4;
/// `image.parallel_layers` of berth's settings.
const LAYERS_AT_ONCE: usize = 4;
/// The image's record.
const RECORD_BYTES: usize = 64 << 10;

/// Where the layers are, by their digests.
#[derive(Debug, Clone, Copy)]
struct Source<'a> {
    registry: SocketAddr,
    repository: &'a str,
}

fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [registry, repository, root, digests @ ..] = &words[..] else {
        bail!("pull-floor REGISTRY REPOSITORY ROOT DIGEST...");
    };
    let (source, root) = (Source { registry: registry.parse()?, repository }, Path::new(root));
    layers(source, digests, root)?;
    let mut record = File::create(root.join("record"))?;
    record.write_all(&[7; RECORD_BYTES])?;
    Ok(record.sync_data()?)
}

fn layers(source: Source<'_>, digests: &[String], root: &Path) -> Result<()> {
    let todo = Mutex::new(digests.iter().enumerate());
    std::thread::scope(|scope| {
        let work = || -> Result<()> {
            loop {
                let next = todo.lock().map_err(|_| anyhow!("a thread of the floor panicked"))?.next();
                let Some((number, digest)) = next else { return Ok(()) };
                unpack(source.blob(digest)?, &root.join(number.to_string()))?;
            }
        };
        let threads: Vec<_> = (0..LAYERS_AT_ONCE).map(|_| scope.spawn(work)).collect();
        threads.into_iter().try_for_each(|thread| thread.join().map_err(|_| anyhow!("panicked"))?)
    })
}

impl Source<'_> {
    fn blob(self, digest: &str) -> Result<impl BufRead + Send + 'static> {
        let mut stream = TcpStream::connect(self.registry)?;
        let (registry, repository) = (self.registry, self.repository);
        let path = format!("/v2/{repository}/blobs/{digest}");
        write!(stream, "GET {path} HTTP/1.1\r\nHost: {registry}\r\nConnection: close\r\n\r\n")?;
        let mut answer = BufReader::with_capacity(BLOCK, stream);
        let (mut line, mut length) = (String::new(), 0);
        answer.read_line(&mut line)?;
        ensure!(line.starts_with("HTTP/1.1 200"), "the registry answers {line}");
        while line != "\r\n" {
            line.clear();
            ensure!(answer.read_line(&mut line)? > 0, "the registry's answer ends in its headers");
            if let Some(("content-length", text)) = line.to_ascii_lowercase().split_once(':') {
                length = text.trim().parse()?;
            }
        }
        Ok(answer.take(length))
    }
}

fn unpack(packed: impl BufRead + Send + 'static, root: &Path) -> Result<()> {
    std::fs::create_dir(root)?;
    std::thread::scope(|scope| {
        let (empty, empties) = channel();
        let (fulls, full) = sync_channel(BLOCKS);
        for _ in 0..BLOCKS {
            empty.send(Vec::new())?;
        }
        scope.spawn(move || inflate(packed, &empties, &fulls));
        let mut buffer = vec![0; BLOCK];
        let mut archive = tar::Archive::new(Blocks { full, empty, block: Vec::new(), at: 0 });
        for entry in archive.entries()? {
            let mut entry = entry?;
            let path = root.join(entry.path()?);
            let (mode, time) = (entry.header().mode()?, Duration::from_secs(entry.header().mtime()?));
            if entry.header().entry_type().is_dir() {
                std::fs::create_dir(path)?;
                continue;
            }
            let mut file = File::create(path)?;
            copy(&mut entry, &mut file, &mut buffer)?;
            file.set_permissions(Permissions::from_mode(mode))?;
            let time = SystemTime::UNIX_EPOCH + time;
            file.set_times(FileTimes::new().set_accessed(time).set_modified(time))?;
        }
        // The last block of an archive is read, too, so that the other thread ends.
        std::io::copy(&mut archive.into_inner(), &mut std::io::sink()).context("reading to the end")?;
        Ok(())
    })
}

/// In writes as large as berth's: `std::io::copy` would make thirty of one.
fn copy(from: &mut impl Read, to: &mut File, buffer: &mut [u8]) -> Result<()> {
    loop {
        match from.read(buffer)? {
            0 => return Ok(()),
            n => to.write_all(&buffer[..n])?,
        }
    }
}

fn inflate(mut packed: impl BufRead + 'static, empties: &Receiver<Vec<u8>>, fulls: &SyncSender<Vec<u8>>) {
    let is_gzip = packed.fill_buf().is_ok_and(|start| start.starts_with(&[0x1f, 0x8b]));
    let mut reader: Box<dyn Read> = if is_gzip {
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
