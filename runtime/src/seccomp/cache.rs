//! Compiled filters on disk, found again by what they were compiled from.
//!
//! A file is trusted only when it is ours alone and says that it was compiled from this very profile, by this
//! compiler, on this architecture. It is written beside its name and renamed, so a reader never sees half.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use kernel::SockFilter;
use rustix::process::{geteuid, getpid};
use sha2::{Digest as _, Sha256};

use crate::later::Later;
use crate::spec;

use super::{Arch, Filter, MAX_INSTRUCTIONS};

const MAGIC: [u8; 8] = *b"berthbp1";
const INSTRUCTION_BYTES: usize = 8;
const HEADER_BYTES: usize = 8 + 32 + 4 * 4;
const MAX_BYTES: usize = HEADER_BYTES + MAX_INSTRUCTIONS * INSTRUCTION_BYTES;

/// The hash of a profile and of what else the program depends on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Key([u8; 32]);

impl Key {
    pub(super) fn of(profile: &spec::Seccomp) -> Key {
        let mut hash = Hasher(Sha256::new());
        serde_json::to_writer(&mut hash, profile).expect("a profile has only strings and numbers");
        // Another version may know more system calls.
        hash.0.update(env!("CARGO_PKG_VERSION"));
        hash.0.update(Arch::NATIVE.audit().to_le_bytes());
        Key(hash.0.finalize().into())
    }

    /// Of a filter that nobody will look for.
    pub(super) fn none() -> Key {
        Key([0; 32])
    }

    pub(super) fn path(&self, dir: &Path) -> PathBuf {
        let name: String = self.0.iter().map(|byte| format!("{byte:02x}")).collect();
        dir.join(name + ".bpf")
    }
}

/// Feeds what is written to it to the hash.
struct Hasher(Sha256);

impl io::Write for Hasher {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

pub(super) fn load(dir: &Path, key: &Key, later: &Later) -> Option<Filter> {
    let mut file = fs::OpenOptions::new()
        .read(true)
        .custom_flags((rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK).bits() as i32)
        .open(key.path(dir))
        .ok()?;
    let metadata = file.metadata().ok()?;
    // Root's own may be trusted by everybody.
    let is_ours = metadata.uid() == 0 || metadata.uid() == geteuid().as_raw();
    if !metadata.is_file() || !is_ours || metadata.mode() & 0o022 != 0 {
        return None;
    }
    let mut bytes = vec![0; usize::try_from(metadata.len()).ok().filter(|len| *len <= MAX_BYTES)?];
    file.read_exact(&mut bytes).ok()?;
    later.close(file);
    decode(&bytes).filter(|(of, _)| of == key).map(|(_, filter)| filter)
}

/// Whether it is there now.
pub(super) fn store(dir: &Path, key: &Key, filter: &Filter) -> bool {
    // Nobody else's: others may have our number in PID namespaces of their own.
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos());
    let draft = dir.join(format!(".draft-{}-{now:x}", getpid().as_raw_nonzero()));
    let written = write(dir, &draft, &encode(filter, key)).and_then(|()| fs::rename(&draft, key.path(dir)));
    if written.is_err() {
        // The next container compiles again; a draft must not stay behind.
        let _ = fs::remove_file(&draft);
    }
    written.is_ok()
}

fn write(dir: &Path, draft: &Path, bytes: &[u8]) -> io::Result<()> {
    let open = || File::options().write(true).create_new(true).mode(0o600).open(draft);
    let mut file = match open() {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            fs::DirBuilder::new().mode(0o700).recursive(true).create(dir)?;
            open()?
        }
        other => other?,
    };
    file.write_all(bytes)
}

pub(super) fn encode(filter: &Filter, key: &Key) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER_BYTES + filter.program.len() * INSTRUCTION_BYTES);
    bytes.extend(MAGIC);
    bytes.extend(key.0);
    for word in [Arch::NATIVE.audit(), filter.flags, u32::from(filter.listener), filter.program.len() as u32]
    {
        bytes.extend(word.to_le_bytes());
    }
    for step in &filter.program {
        bytes.extend(step.code.to_le_bytes());
        bytes.extend([step.jt, step.jf]);
        bytes.extend(step.k.to_le_bytes());
    }
    bytes
}

pub(super) fn decode(bytes: &[u8]) -> Option<(Key, Filter)> {
    let (magic, rest) = bytes.split_first_chunk::<8>()?;
    let (hash, rest) = rest.split_first_chunk::<32>()?;
    let (audit, rest) = word(rest)?;
    let (flags, rest) = word(rest)?;
    let (listener, rest) = word(rest)?;
    let (count, body) = word(rest)?;
    let whole = body.len() == count as usize * INSTRUCTION_BYTES && count > 0;
    if *magic != MAGIC || audit != Arch::NATIVE.audit() || listener > 1 || !whole {
        return None;
    }
    let program = body.chunks_exact(INSTRUCTION_BYTES).map(instruction).collect::<Option<_>>()?;
    Some((Key(*hash), Filter { program, flags, listener: listener == 1 }))
}

fn instruction(bytes: &[u8]) -> Option<SockFilter> {
    let [a, b, jt, jf, k @ ..]: [u8; INSTRUCTION_BYTES] = bytes.try_into().ok()?;
    Some(SockFilter { code: u16::from_le_bytes([a, b]), jt, jf, k: u32::from_le_bytes(k) })
}

fn word(bytes: &[u8]) -> Option<(u32, &[u8])> {
    let (word, rest) = bytes.split_first_chunk::<4>()?;
    Some((u32::from_le_bytes(*word), rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(dir: &Path, key: &Key) -> Option<Filter> {
        super::load(dir, key, &Later::default())
    }

    fn filter() -> Filter {
        let step = SockFilter { code: 0x15, jt: 1, jf: 255, k: 0xc000_003e };
        Filter { program: vec![step, SockFilter { code: 6, jt: 0, jf: 0, k: 7 }], flags: 4, listener: true }
    }

    #[test]
    fn a_stored_filter_is_found_again_under_its_key_only() {
        let dir = tempfile::tempdir().unwrap();
        let cache = dir.path().join("a/b");
        store(&cache, &Key([7; 32]), &filter());
        assert_eq!(load(&cache, &Key([7; 32])), Some(filter()));
        assert_eq!(load(&cache, &Key([8; 32])), None);
        assert_eq!(fs::metadata(&cache).unwrap().mode() & 0o777, 0o700);
        assert_eq!(fs::read_dir(&cache).unwrap().count(), 1);
    }

    #[test]
    fn a_file_that_was_laid_in_the_way_is_nobodys_draft() {
        let dir = tempfile::tempdir().unwrap();
        let victim = dir.path().join("victim");
        fs::write(&victim, "precious").unwrap();
        let cache = dir.path().join("cache");
        fs::create_dir(&cache).unwrap();
        let draft = cache.join(format!(".draft-{}", getpid().as_raw_nonzero()));
        std::os::unix::fs::symlink(&victim, draft).unwrap();
        assert!(store(&cache, &Key([7; 32]), &filter()));
        assert_eq!(fs::read_to_string(&victim).unwrap(), "precious");
        assert_eq!(load(&cache, &Key([7; 32])), Some(filter()));
    }

    #[test]
    fn a_damaged_file_is_as_good_as_none() {
        let (key, whole) = (Key([7; 32]), encode(&filter(), &Key([7; 32])));
        let decode = |bytes: &[u8]| decode(bytes).filter(|(of, _)| *of == key).map(|(_, filter)| filter);
        assert_eq!(decode(&whole), Some(filter()));
        for length in 0..whole.len() {
            assert_eq!(decode(&whole[..length]), None, "cut at {length}");
        }
        for place in 0..44 {
            let mut bad = whole.clone();
            bad[place] ^= 0x40;
            assert_eq!(decode(&bad), None, "flipped at {place}");
        }
        assert_eq!(decode(&[&whole[..], &[0; 8]].concat()), None);
    }

    #[test]
    fn a_file_that_others_can_write_is_not_trusted() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let key = Key([7; 32]);
        store(dir.path(), &key, &filter());
        fs::set_permissions(key.path(dir.path()), fs::Permissions::from_mode(0o622)).unwrap();
        assert_eq!(load(dir.path(), &key), None);
    }
}
