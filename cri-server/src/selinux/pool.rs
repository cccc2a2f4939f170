//! Which pod has which categories: pairs out of 1024, so that no pod may touch another's files or processes.
//!
//! Each pod's level is in its stored plan too, from where a daemon that was started again fills this anew.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::rand::{GetRandomFlags, getrandom};

use super::label::CATEGORIES;
use super::{Level, PodLabels};

/// Half a million pairs, and a node has hundreds of pods: the first draw is nearly always free.
const DRAWS: usize = 64;

/// Levels of pods that are there or are being made.
#[derive(Debug, Default)]
pub struct Pool {
    taken: Mutex<HashMap<Arc<str>, Level>>,
}

impl Pool {
    /// A level that no pod has. It is not taken by that; callers of this and of [`Pool::take`] exclude each other.
    pub fn free(&self) -> Level {
        let taken = self.lock();
        let taken: HashSet<&Level> = taken.values().collect();
        let is_free = |level: &Level| !taken.contains(level);
        let drawn = std::iter::repeat_with(draw).take(DRAWS).find(is_free);
        // All pairs are taken only where somebody has half a million pods; then two share one.
        drawn.or_else(|| all().find(is_free)).unwrap_or_else(draw)
    }

    /// The pod has this level from now on, whether drawn here or asked for.
    pub fn take(&self, sandbox_id: Arc<str>, labels: &PodLabels) {
        if let Some(level) = &labels.file.level {
            self.insert(sandbox_id, level.clone());
        }
    }

    fn insert(&self, sandbox_id: Arc<str>, level: Level) {
        self.lock().insert(sandbox_id, level);
    }

    /// The pod is gone. Safe twice.
    pub fn release(&self, sandbox_id: &str) {
        self.lock().remove(sandbox_id);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Arc<str>, Level>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn all() -> impl Iterator<Item = Level> {
    (0..CATEGORIES).flat_map(|low| (low + 1..CATEGORIES).map(move |high| Level::of_pair(low, high)))
}

/// Two different categories, the lower one first: the kernel would tell them in that order anyhow.
fn draw() -> Level {
    loop {
        let (one, other) = (category(), category());
        if one != other {
            return Level::of_pair(one.min(other), one.max(other));
        }
    }
}

fn category() -> u16 {
    let mut bytes = [0; 2];
    let filled = getrandom(&mut bytes[..], GetRandomFlags::empty());
    assert!(filled == Ok(bytes.len()), "the kernel gives so few random bytes at once (getrandom(2))");
    u16::from_ne_bytes(bytes) % CATEGORIES
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_pods_have_one_level_until_it_is_released() {
        let pool = Pool::default();
        for pod in 0..500 {
            let level = pool.free();
            assert!(pool.lock().values().all(|other| *other != level), "{level}");
            pool.insert(pod.to_string().into(), level);
        }
        assert_eq!(pool.lock().len(), 500);
        pool.release("7");
        pool.release("7");
        assert_eq!(pool.lock().len(), 499);
    }

    #[test]
    fn the_last_free_pair_is_found() {
        let pool = Pool::default();
        let last = Level::of_pair(3, 900);
        for (pod, level) in all().filter(|level| *level != last).enumerate() {
            pool.insert(pod.to_string().into(), level);
        }
        assert_eq!(pool.free(), last);
    }
}
