//! Why a layer was not unpacked. Whatever concerns one entry names it.

use std::io;

use rustix::io::Errno;

use super::apart::Blame;
use super::window::LARGEST_LOG;
use crate::digest::Digest;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The bytes ended or broke off; also what a cancelled pull looks like from here.
    #[error("the stream is broken")]
    Stream(#[source] io::Error),
    #[error("the archive ends in the middle")]
    Truncated,
    #[error("the archive has a broken header at byte {0}")]
    Header(u64),
    #[error("{entry} is refused: {why}")]
    Refused { entry: String, why: Refusal },
    #[error("{step} of {entry}: {errno}")]
    Step { entry: String, step: &'static str, errno: Errno },
    #[error("the archive is larger than {0} bytes when unpacked")]
    TooLarge(u64),
    #[error("the archive has more than {0} entries")]
    TooMany(u64),
    #[error("{compressed} bytes became more than {unpacked}: this is a decompression bomb")]
    Bomb { compressed: u64, unpacked: u64 },
    /// The next that is tried is larger, where there is one.
    #[error("it is packed by zstd with a window of more than {} MiB", .0 >> 20)]
    Window(u64),
    #[error("its size is {found} where {expected} was announced")]
    Size { expected: u64, found: u64 },
    #[error("its digest is {found} where {expected} was announced")]
    Digest { expected: Digest, found: Digest },
    /// What a process of its own said of it.
    #[error("{why}")]
    Apart { why: String, blame: Blame },
    #[error("its authentication code is wrong: it was changed after it was encrypted")]
    Mac,
    #[error("its diff ID is {found} where the image's configuration says {expected}")]
    DiffId { expected: Digest, found: Digest },
}

/// What an archive may not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("the name goes up by `..`")]
    Upwards,
    #[error("the name is longer than {MAX_NAME} bytes")]
    LongName,
    #[error("the name has a NUL byte")]
    Nul,
    #[error("its extended header is larger than {MAX_EXTENSION} bytes")]
    LargeExtension,
    #[error("its extended header is malformed")]
    BadExtension,
    #[error("the names of its extended attributes have more than {MAX_XATTR_NAMES} bytes")]
    ManyAttributes,
    #[error("a number in it is out of range")]
    Number,
    #[error("entries of type {0:?} are unknown")]
    Type(char),
    #[error("sparse entries are not supported")]
    Sparse,
    #[error("the root of a layer must be a directory")]
    Root,
    #[error("a whiteout must name something")]
    Whiteout,
    #[error("the way to it leads through too many symbolic links")]
    Loop,
    #[error("the way to it leads through something that is no directory")]
    NotDirectory,
}

/// `PATH_MAX` of Linux with its NUL: what is longer can't be opened anyway.
pub(crate) const MAX_NAME: usize = 4095;
/// The limit of Go's archive/tar, which every peer uses.
pub(crate) const MAX_EXTENSION: u64 = 1 << 20;
/// More than that of one file Linux lists to nobody (`XATTR_LIST_MAX`). Names and values together have the bound of
/// the extended header that they came in.
pub(crate) const MAX_XATTR_NAMES: usize = 64 << 10;

impl Error {
    pub(crate) fn refused(entry: &[u8], why: Refusal) -> Error {
        Error::Refused { entry: shown(entry), why }
    }

    pub(crate) fn step<'a>(entry: &'a [u8], step: &'static str) -> impl FnOnce(Errno) -> Error + use<'a> {
        move |errno| Error::Step { entry: shown(entry), step, errno }
    }

    /// Whether the disk, not the layer, is to blame.
    pub(crate) fn is_disk_full(&self) -> bool {
        // ext4 answers ENOSPC to an attribute too large for its block, with terabytes free.
        matches!(self, Error::Apart { blame: Blame::Disk, .. })
            || matches!(self, Error::Step { step, errno: Errno::NOSPC | Errno::DQUOT, .. } if *step != XATTR)
    }

    /// Whether the bytes may have been others than were asked for: their digest was wrong, or was never
    /// reached because they made no archive.
    pub(crate) fn may_be_wrong_bytes(&self) -> bool {
        match self {
            // The digest of the bytes is compared before that of what they unpack to.
            Error::DiffId { .. } | Error::Mac => false,
            // The machine's own trouble.
            Error::Step { .. } => false,
            Error::Apart { blame, .. } => matches!(blame, Blame::Bytes | Blame::Archive),
            Error::Stream(_)
            | Error::Truncated
            | Error::Header(_)
            | Error::Refused { .. }
            | Error::TooLarge(_)
            | Error::TooMany(_)
            | Error::Bomb { .. }
            | Error::Window(_)
            | Error::Size { .. }
            | Error::Digest { .. } => true,
        }
    }

    /// Whether a larger window would have done.
    pub(crate) fn wants_larger_window(&self) -> bool {
        match self {
            Error::Apart { blame, .. } => *blame == Blame::Window,
            Error::Window(given) => *given < 1 << LARGEST_LOG,
            _ => false,
        }
    }

    /// Whether a digest or size was wrong, rather than a rule broken.
    pub(crate) fn is_mismatch(&self) -> bool {
        matches!(self, Error::Apart { blame: Blame::Bytes | Blame::Layer, .. })
            || matches!(self, Error::Size { .. } | Error::Digest { .. } | Error::DiffId { .. } | Error::Mac)
    }
}

/// The step that sets an extended attribute.
pub(crate) const XATTR: &str = "setxattr";

/// A name fit to be shown: no control characters, not endless.
pub(crate) fn shown(name: &[u8]) -> String {
    const SHOWN: usize = 200;
    let cut = &name[..name.len().min(SHOWN)];
    let dots = if name.len() > SHOWN { "…" } else { "" };
    format!("{:?}{dots}", String::from_utf8_lossy(cut))
}
