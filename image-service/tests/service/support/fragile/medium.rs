//! What is on the disks: sectors that are there for good, and writes that a flush has not reached.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard};

use super::Lost;

const SECTOR: usize = 512;

type Sector = Arc<[u8; SECTOR]>;

/// What becomes of writes that were not flushed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unflushed {
    Lost,
    /// Some are lost, some came to be, and some only in part.
    Some,
    /// What a machine without power finds on a disk without a cache.
    Kept,
}

impl Unflushed {
    pub(super) fn word(self) -> &'static str {
        match self {
            Unflushed::Lost => "lost",
            Unflushed::Some => "some",
            Unflushed::Kept => "kept",
        }
    }

    pub(super) fn of(word: &str) -> Unflushed {
        let all = [Unflushed::Lost, Unflushed::Some, Unflushed::Kept];
        all.into_iter().find(|one| one.word() == word).unwrap()
    }
}

#[derive(Debug, Clone, Default)]
struct Medium {
    bytes: u64,
    /// Those that are not all zero.
    flushed: HashMap<u64, Sector>,
    /// In the order in which they came.
    unflushed: Vec<(u64, Vec<Sector>)>,
    /// The newest of them, which are read.
    newest: HashMap<u64, Sector>,
}

/// All disks; cheap to clone.
#[derive(Debug, Clone, Default)]
pub(super) struct Media(Arc<Mutex<BTreeMap<u64, Medium>>>);

impl Media {
    pub(super) fn make(&self, disk: u64, bytes: u64) {
        self.all().insert(disk, Medium { bytes, ..Medium::default() });
    }

    pub(super) fn forget(&self, disk: u64) {
        if let Some(medium) = self.all().get_mut(&disk) {
            *medium = Medium { bytes: medium.bytes, ..Medium::default() };
        }
    }

    pub(super) fn cut(&self, disk: u64, into: u64, what: Unflushed, seed: u64) -> Lost {
        let mut all = self.all();
        let mut random = Random(seed);
        let from = &all[&disk];
        let mut left = Medium { bytes: from.bytes, flushed: from.flushed.clone(), ..Medium::default() };
        let (mut unflushed, mut lost) = (0, 0);
        for (at, sectors) in &from.unflushed {
            let keep = match what {
                Unflushed::Lost => 0,
                Unflushed::Kept => sectors.len(),
                Unflushed::Some => match random.below(10) {
                    0..=4 => 0,
                    5..=8 => sectors.len(),
                    _ => random.below(sectors.len() as u64 + 1) as usize,
                },
            };
            (unflushed, lost) = (unflushed + 1, lost + u64::from(keep < sectors.len()));
            left.put(*at, &sectors[..keep]);
        }
        all.insert(into, left);
        Lost { unflushed, lost }
    }

    pub(super) fn unflushed(&self, disk: u64) -> usize {
        self.all()[&disk].unflushed.len()
    }

    pub(super) fn bytes(&self, disk: u64) -> Option<u64> {
        self.all().get(&disk).map(|medium| medium.bytes)
    }

    pub(super) fn read(&self, disk: u64, offset: u64, length: usize) -> Vec<u8> {
        let all = self.all();
        let medium = &all[&disk];
        let end = (offset + length as u64).min(medium.bytes).max(offset);
        let first = offset / SECTOR as u64;
        let mut bytes = Vec::with_capacity(length + SECTOR);
        for at in first..end.div_ceil(SECTOR as u64) {
            match medium.newest.get(&at).or_else(|| medium.flushed.get(&at)) {
                Some(sector) => bytes.extend_from_slice(&sector[..]),
                None => bytes.resize(bytes.len() + SECTOR, 0),
            }
        }
        bytes.drain(..(offset - first * SECTOR as u64) as usize);
        bytes.truncate((end - offset) as usize);
        bytes
    }

    /// Loop devices write whole sectors; programs need not.
    pub(super) fn write(&self, disk: u64, offset: u64, bytes: &[u8]) {
        let first = offset / SECTOR as u64 * SECTOR as u64;
        let last = (offset + bytes.len() as u64).next_multiple_of(SECTOR as u64);
        let mut whole = self.read(disk, first, (last - first) as usize);
        whole.resize((last - first) as usize, 0);
        whole[(offset - first) as usize..][..bytes.len()].copy_from_slice(bytes);
        let sectors: Vec<Sector> =
            whole.chunks_exact(SECTOR).map(|sector| Arc::new(sector.try_into().unwrap())).collect();
        let mut all = self.all();
        let medium = all.get_mut(&disk).unwrap();
        for (at, sector) in (first / SECTOR as u64..).zip(&sectors) {
            medium.newest.insert(at, sector.clone());
        }
        medium.unflushed.push((first / SECTOR as u64, sectors));
    }

    pub(super) fn flush(&self, disk: u64) {
        let mut all = self.all();
        let medium = all.get_mut(&disk).unwrap();
        for (at, sectors) in std::mem::take(&mut medium.unflushed) {
            medium.put(at, &sectors);
        }
        medium.newest.clear();
    }

    fn all(&self) -> MutexGuard<'_, BTreeMap<u64, Medium>> {
        self.0.lock().unwrap()
    }
}

impl Medium {
    fn put(&mut self, at: u64, sectors: &[Sector]) {
        for (at, sector) in (at..).zip(sectors) {
            match **sector == [0; SECTOR] {
                true => _ = self.flushed.remove(&at),
                false => _ = self.flushed.insert(at, sector.clone()),
            }
        }
    }
}

/// The same numbers for the same seed.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) % bound.max(1)
    }
}
