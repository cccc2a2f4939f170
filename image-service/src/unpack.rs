//! Unpacks one layer: compressed bytes in, a directory for overlay out, verified.
//!
//! source → [digest] → (decrypt) → inflate → [diff ID] → archive → tree, in one thread or, up to the inflating, in
//! one beside it. Every path is opened relative to the layer's own directory and confined to it by the kernel (openat2), so
//! an archive can't name anything outside. A layer is unpacked alone: whiteouts and opaque directories
//! become overlay's marks. The caller shows the directory to others only after [`unpack`] said yes.

pub(crate) mod apart;
pub(crate) mod archive;
mod blocks;
pub(crate) mod decrypt;
pub(crate) mod entry;
mod error;
mod files;
mod gzip;
mod making;
mod place;
pub(crate) mod prove;
pub(crate) mod recipe;
pub(crate) mod remove;
mod replaced;
pub(crate) mod stream;
pub(crate) mod tree;
pub(crate) mod usage;
pub(crate) mod window;

use std::io::BufRead;

use rustix::fd::OwnedFd;
use serde::{Deserialize, Serialize};

pub use error::{Error, Refusal};
pub use files::files;
pub(crate) use tree::open_root;

use crate::digest::{Algorithm, Digest};
use archive::Archive;
use blocks::{Beside, Blocks};
use decrypt::{Cipher, Packed};
use place::Placer;
use recipe::{Recorded, Tape};
use stream::{Diff, Inflater, Source};

/// What the layer must turn out to be.
#[derive(Debug, Clone)]
pub struct Expected {
    /// Of the bytes as they came; None when nobody said (docker archives).
    pub digest: Option<Digest>,
    pub size: Option<u64>,
    pub diff_id: Digest,
}

/// What an archive may take.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Bytes after inflating.
    pub bytes: u64,
    pub entries: u64,
    /// Up to so many bytes nobody asks how few they were before inflating.
    pub unsuspicious: u64,
}

impl Limits {
    /// The node's, for layers of at most `bytes`.
    pub fn new(bytes: u64) -> Limits {
        Limits { bytes, entries: MAX_ENTRIES, unsuspicious: 1 << 30 }
    }
}

/// What was made.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unpacked {
    pub bytes: u64,
    pub inodes: u64,
    /// The archive has an entry for `/`.
    pub has_root: bool,
    /// The archive hides everything below it.
    pub opaque_root: bool,
    /// Directories that the archive puts something into without saying what they are like, sorted.
    pub undescribed: Vec<String>,
    /// What writes the archive again. A process that unpacks for the daemon writes it to its standard output.
    #[serde(skip)]
    pub recorded: Recorded,
}

/// More files than any image has; an archive with more is there to use up inodes.
pub const MAX_ENTRIES: u64 = 4_000_000;

/// A layer smaller than this is done before a second thread pays.
pub(crate) const SMALL_BYTES: u64 = 2 << 20;

/// Unpacks `source` into the empty directory `root`. After an error the directory holds anything or
/// nothing, and is for the caller to remove. `give_up` is called on an error while another thread may
/// still wait for `source`: it must make that end.
pub fn unpack(
    source: impl BufRead + Send,
    root: OwnedFd,
    expected: &Expected,
    limits: Limits,
    give_up: impl FnOnce(),
) -> Result<Unpacked, Error> {
    let way = Way { cipher: None, alone_below: SMALL_BYTES, window_log: window::LARGEST_LOG };
    unpack_sealed(source, root, expected, way, limits, |_| give_up())
}

/// How a layer's bytes are gone through.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Way<'a> {
    /// What decrypts them; then their digest and size are those of the encrypted ones.
    pub(crate) cipher: Option<&'a Cipher>,
    /// A layer smaller than this gets no second thread.
    pub(crate) alone_below: u64,
    /// zstd's windows are no larger than two to the power of this.
    pub(crate) window_log: u32,
}

/// The same, by a way that may be another.
pub(crate) fn unpack_sealed(
    source: impl BufRead + Send,
    root: OwnedFd,
    expected: &Expected,
    way: Way<'_>,
    limits: Limits,
    give_up: impl FnOnce(&Error),
) -> Result<Unpacked, Error> {
    let algorithm = expected.digest.as_ref().map_or(Algorithm::Sha256, Digest::algorithm);
    let packed = Packed::new(Source::new(source, algorithm), way.cipher);
    let inflater = Inflater::within(packed, way.window_log).map_err(Error::Stream)?;
    if inflater.is_plain() || expected.size.is_some_and(|size| size < way.alone_below) {
        return unpack_blocks(inflater, root, expected, limits);
    }
    std::thread::scope(|scope| {
        let beside = Beside::start(scope, inflater).map_err(Error::Stream)?;
        unpack_blocks(beside, root, expected, limits).inspect_err(|error| give_up(error))
    })
}

fn unpack_blocks(
    blocks: impl Blocks,
    root: OwnedFd,
    expected: &Expected,
    limits: Limits,
) -> Result<Unpacked, Error> {
    let mut diff = Diff::new(blocks, expected.diff_id.algorithm(), limits);
    diff.record(Tape::beside(&root));
    let mut archive = Archive::new(diff, limits.entries);
    let again = root.try_clone();
    let mut placer = Placer::new(root, limits.entries);
    while let Some(entry) = archive.next_entry()? {
        placer.place(&entry, &mut archive)?;
    }
    let replaced = placer.replaced();
    let mut unpacked = placer.finish()?;
    let recorded = verify(archive.into_inner(), expected)?;
    unpacked.recorded = match (replaced, again) {
        (None, _) => recorded,
        (Some(replaced), Ok(root)) => replaced.join(&recorded, root, &expected.diff_id),
        (Some(_), Err(_)) => Recorded::default(),
    };
    Ok(unpacked)
}

/// Unpacks an archive that nobody has announced, so there is nothing to hold it against: changes to a container's files,
/// over what is in `root`. The bounds and the confinement are those of a layer.
pub fn unpack_changes(source: impl BufRead, root: OwnedFd, limits: Limits) -> Result<Unpacked, Error> {
    let algorithm = Algorithm::Sha256;
    let packed = Packed::new(Source::new(source, algorithm), None);
    let inflater = Inflater::new(packed).map_err(Error::Stream)?;
    let mut archive = Archive::new(Diff::new(inflater, algorithm, limits), limits.entries);
    let mut placer = Placer::new(root, limits.entries);
    while let Some(entry) = archive.next_entry()? {
        placer.place(&entry, &mut archive)?;
    }
    placer.finish()
}

/// Reads whatever follows the archive's end, since the digests cover it, and compares.
fn verify(mut diff: Diff<impl Blocks>, expected: &Expected) -> Result<Recorded, Error> {
    diff.drain().map_err(stream::error)?;
    let recorded = diff.recorded();
    let (diff_id, packed) = diff.finish().map_err(Error::Stream)?;
    if let Some(size) = expected.size
        && packed.count() != size
    {
        return Err(Error::Size { expected: size, found: packed.count() });
    }
    let authentic = packed.is_authentic();
    let digest = packed.finish();
    if let Some(expected) = &expected.digest
        && *expected != digest
    {
        return Err(Error::Digest { expected: expected.clone(), found: digest });
    }
    if !authentic {
        return Err(Error::Mac);
    }
    if expected.diff_id != diff_id {
        return Err(Error::DiffId { expected: expected.diff_id.clone(), found: diff_id });
    }
    Ok(recorded)
}

#[cfg(test)]
mod tests;
