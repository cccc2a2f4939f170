//! What the store can prove of itself: documents against their digests, layers against their diff IDs, by
//! writing the archive again from its recipe (`unpack::recipe`) and hashing that.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{FileType, Mode, OFlags, ResolveFlags, Stat};

use super::index::Change;
use super::{Store, record};
use crate::digest::{Algorithm, Digest, Hasher};
use crate::error::Error;
use crate::image::Layer;
use crate::unpack::archive::Archive;
use crate::unpack::decrypt::Packed;
use crate::unpack::entry::{Entry, Kind, split};
use crate::unpack::recipe::{Rebuilt, Recorded};
use crate::unpack::stream::{Diff, Inflater, Source};
use crate::unpack::{Limits, open_root};

const READ_BYTES: usize = 256 << 10;

/// What was found of one thing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Proof {
    Whole,
    /// It may be whole; why nobody can tell.
    Unknown(&'static str),
    Damaged(String),
}

impl Store {
    /// Where the recipe of a layer lies.
    pub(crate) fn recipe(&self, diff_id: &Digest) -> PathBuf {
        self.layers.recipe(diff_id)
    }

    /// Gives a recipe its name, before the layer has its own.
    pub(crate) fn keep_recipe(&self, diff_id: &Digest, recorded: &Recorded) {
        let place = self.recipe(diff_id);
        let kept = self.trash.take(&place).and_then(|()| match &recorded.0 {
            None => Ok(()),
            Some(file) => Ok(link(file, &place)?),
        });
        if let Err(error) = kept {
            tracing::warn!(layer = %diff_id, %error, "a layer is kept without what could prove it later");
        }
    }

    /// Looks at all that lies on the disk of a layer.
    pub(crate) fn prove(&self, diff_id: &Digest) -> Proof {
        if let Some(proof) = self.prove_artifact(diff_id) {
            return proof;
        }
        let recipe = match File::open(self.recipe(diff_id)) {
            Ok(recipe) => recipe,
            Err(_) if self.is_mended(diff_id) => return Proof::Unknown("berth made it itself"),
            Err(_) => {
                return Proof::Unknown("it was unpacked without a record, or its archive has a file twice");
            }
        };
        let proved = open_root(&self.layers.path(diff_id))
            .map_err(|errno| format!("its directory can't be opened: {errno}"))
            .and_then(|root| prove(recipe, root, diff_id));
        proved.map_or_else(Proof::Damaged, |()| Proof::Whole)
    }

    /// The files of an artifact against their digests; None when the layer is of no artifact.
    fn prove_artifact(&self, id: &Digest) -> Option<Proof> {
        let manifest = self.document(id).ok().flatten()?;
        let files = super::artifact_files(&manifest)?;
        let root = self.layers.path(id);
        let damaged = files.iter().find(|file| !is_whole(&root.join(&file.path), &file.blob.digest));
        Some(damaged.map_or(Proof::Whole, |file| Proof::Damaged(format!("{} has changed", file.path))))
    }

    /// Whether no configuration names the layer: it was added to make an image whole (`mend`).
    fn is_mended(&self, diff_id: &Digest) -> bool {
        let images = self.images();
        let last = |layers: &[Layer]| layers.last().is_some_and(|layer| layer.diff_id == *diff_id);
        images.values().any(|entry| last(&entry.record.layers))
            && !images.values().any(|entry| {
                let config = self.index.document(&entry.record.id).ok().flatten().unwrap_or_default();
                crate::image::ImageConfig::parse(&config).is_ok_and(|(_, ids)| ids.contains(diff_id))
            })
    }

    /// An image's documents that are not what their digests say, or not there.
    pub(crate) fn damaged_documents(&self, id: &Digest) -> Result<Vec<Digest>, Error> {
        let documents = match self.images().get(id) {
            Some(entry) => entry.record.documents.clone(),
            None => return Ok(Vec::new()),
        };
        let mut damaged = Vec::new();
        for digest in documents {
            let bytes = self.document(&digest)?;
            if bytes.is_none_or(|bytes| Digest::of(digest.algorithm(), &bytes) != digest) {
                damaged.push(digest);
            }
        }
        Ok(damaged)
    }

    /// All documents of an image that are what their digests say.
    pub(crate) fn documents(&self, id: &Digest) -> Result<Vec<(Digest, Vec<u8>)>, Error> {
        let names = self.images().get(id).map(|entry| entry.record.documents.clone()).unwrap_or_default();
        let mut found = Vec::new();
        for digest in names {
            if let Some(bytes) = self.document(&digest)?
                && Digest::of(digest.algorithm(), &bytes) == digest
            {
                found.push((digest, bytes));
            }
        }
        Ok(found)
    }

    /// Writes documents anew.
    pub(crate) fn rewrite(&self, documents: Vec<(Digest, Vec<u8>)>) -> Result<(), Error> {
        let change = Change { put_documents: documents, ..Change::default() };
        self.index.apply(&change).map_err(|error| self.index_error(error))
    }

    /// The names of an image, as a commit takes them.
    pub(crate) fn names(&self, id: &Digest) -> Vec<record::Name> {
        let images = self.images();
        let Some(entry) = images.get(id) else { return Vec::new() };
        let tags = entry.record.repo_tags.iter().cloned().map(record::Name::Tag);
        tags.chain(entry.record.repo_digests.iter().cloned().map(record::Name::Digest)).collect()
    }
}

fn is_whole(path: &Path, digest: &Digest) -> bool {
    let mut hasher = Hasher::new(digest.algorithm());
    let (mut piece, file) = (vec![0; READ_BYTES], File::open(path));
    let Ok(mut file) = file else { return false };
    loop {
        match file.read(&mut piece) {
            Ok(0) => return hasher.finish() == *digest,
            Ok(read) => hasher.update(&piece[..read]),
            Err(_) => return false,
        }
    }
}

/// linkat(2) by way of `/proc`, as open(2) says under O_TMPFILE.
fn link(file: &File, place: &Path) -> rustix::io::Result<()> {
    use std::os::fd::AsRawFd;
    let name = format!("/proc/self/fd/{}", file.as_raw_fd());
    rustix::fs::linkat(rustix::fs::CWD, name, rustix::fs::CWD, place, rustix::fs::AtFlags::SYMLINK_FOLLOW)
}

/// Reads the archive that the layer is said to be, compares each entry with what lies there, and the whole with
/// the diff ID.
fn prove(recipe: File, root: OwnedFd, diff_id: &Digest) -> Result<(), String> {
    let told = |error: std::io::Error| crate::unpack::stream::error(error).to_string();
    let own = root.try_clone().map_err(|error| error.to_string())?;
    let rebuilt = Rebuilt::open(recipe, own).map_err(told)?;
    let source = Source::new(BufReader::with_capacity(READ_BYTES, rebuilt), Algorithm::Sha256);
    let inflater = Inflater::new(Packed::new(source, None)).map_err(told)?;
    let diff = Diff::new(inflater, diff_id.algorithm(), Limits::new(u64::MAX));
    let mut archive = Archive::new(diff, u64::MAX);
    while let Some(entry) = archive.next_entry().map_err(|error| told_all(&error))? {
        compare(&root, &entry)?;
    }
    let mut diff = archive.into_inner();
    diff.drain().map_err(told)?;
    let (found, _) = diff.finish().map_err(told)?;
    if found == *diff_id {
        Ok(())
    } else {
        Err(format!("a file's content has changed: its digest is {found}"))
    }
}

fn told_all(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// Of a directory only that it is one: an archive may say it twice, and the last word counts. Whiteouts are
/// overlay's marks by now, and a hard link has its target's owner.
fn compare(root: &OwnedFd, entry: &Entry) -> Result<(), String> {
    let (_, name) = split(&entry.path);
    if entry.path.is_empty() || name.starts_with(b".wh.") {
        return Ok(());
    }
    let shown = String::from_utf8_lossy(&entry.path);
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let inside = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV;
    let opened = rustix::fs::openat2(root.as_fd(), entry.path.as_slice(), flags, Mode::empty(), inside);
    let opened = opened.map_err(|errno| format!("{shown} can't be found: {errno}"))?;
    let stat = rustix::fs::fstat(&opened).map_err(|errno| format!("{shown}: {errno}"))?;
    let kind = FileType::from_raw_mode(stat.st_mode);
    let (same_kind, has_owner) = match &entry.kind {
        Kind::File { .. } => (kind == FileType::RegularFile, true),
        Kind::HardLink { .. } => (kind != FileType::Directory, false),
        Kind::Directory => (kind == FileType::Directory, false),
        Kind::Symlink { target } => {
            let found = rustix::fs::readlinkat(&opened, "", Vec::new());
            if kind == FileType::Symlink && found.is_ok_and(|found| found.as_bytes() != target.as_slice()) {
                return Err(format!("{shown} leads elsewhere"));
            }
            (kind == FileType::Symlink, true)
        }
        Kind::Device { character: true, .. } => (kind == FileType::CharacterDevice, true),
        Kind::Device { character: false, .. } => (kind == FileType::BlockDevice, true),
        Kind::Fifo => (kind == FileType::Fifo, true),
    };
    match () {
        () if !same_kind => Err(format!("{shown} is something else")),
        () if has_owner && (stat.st_uid, stat.st_gid) != (entry.uid, entry.gid) => {
            Err(format!("{shown} has another owner"))
        }
        () if has_owner && kind != FileType::Symlink && mode(&stat) != entry.mode => {
            Err(format!("{shown} has another mode"))
        }
        () => Ok(()),
    }
}

fn mode(stat: &Stat) -> u32 {
    stat.st_mode & 0o7777
}
