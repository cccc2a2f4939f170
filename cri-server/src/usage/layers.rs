//! What writable layers take on the disk, as it was found last.
//!
//! To find out is to walk through a layer's files, and nobody bounds how many a container writes: they must not hold up a
//! list of all. So a list says what the last walk found, and when (the reading's own `timestamp`); those of the next
//! list are walked behind the answer. Who asks for one container alone waits for its walk.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use proto::v1;

/// A layer is not walked again before; kubelets ask every 10 s.
const FRESH: Duration = Duration::from_secs(5);
/// What is older is not told any more, as after nobody has asked for long.
const STALE: Duration = Duration::from_secs(60);

/// The last reading of each layer, by container.
#[derive(Debug, Default)]
pub struct Layers {
    known: Mutex<HashMap<Arc<str>, v1::FilesystemUsage>>,
    /// Walks of lists are done one after the other, by whoever holds this.
    renewing: Mutex<()>,
}

impl Layers {
    /// Walks the layer. Blocking.
    pub fn read(&self, id: &Arc<str>, walk: impl FnOnce(&str) -> v1::FilesystemUsage) -> v1::FilesystemUsage {
        let usage = walk(id);
        self.known().insert(id.clone(), usage.clone());
        usage
    }

    /// What the last walk found; blocking only where there was none for long.
    pub fn last(
        &self,
        id: &Arc<str>,
        now_ns: i64,
        walk: impl FnOnce(&str) -> v1::FilesystemUsage,
    ) -> v1::FilesystemUsage {
        let last = self.known().get(id).filter(|usage| is_younger(usage, STALE, now_ns)).cloned();
        last.unwrap_or_else(|| self.read(id, walk))
    }

    /// Walks those whose reading is not fresh, and forgets those that are not there any more. Blocking.
    pub fn renew(
        &self,
        is_there: impl Fn(&str) -> bool,
        now_ns: i64,
        walk: impl Fn(&str) -> v1::FilesystemUsage,
    ) {
        let Ok(_renewing) = self.renewing.try_lock() else { return };
        self.known().retain(|id, _| is_there(id));
        let aged = |(id, usage): (&Arc<str>, &v1::FilesystemUsage)| {
            (!is_younger(usage, FRESH, now_ns)).then(|| id.clone())
        };
        let due: Vec<Arc<str>> = self.known().iter().filter_map(aged).collect();
        for id in due {
            self.read(&id, &walk);
        }
    }

    fn known(&self) -> MutexGuard<'_, HashMap<Arc<str>, v1::FilesystemUsage>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A clock that was set back makes none of them older than it is.
fn is_younger(usage: &v1::FilesystemUsage, age: Duration, now_ns: i64) -> bool {
    (0..age.as_nanos() as i64).contains(&(now_ns - usage.timestamp))
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    const SECOND: i64 = 1_000_000_000;

    /// Layers, the clock, and who was walked.
    #[derive(Default)]
    struct Disk {
        layers: Layers,
        now_ns: i64,
        walked: RefCell<Vec<String>>,
    }

    impl Disk {
        fn walk(&self, id: &str) -> v1::FilesystemUsage {
            self.walked.borrow_mut().push(id.to_owned());
            v1::FilesystemUsage { timestamp: self.now_ns, ..Default::default() }
        }

        /// When what a list says was read.
        fn listed(&self, id: &str) -> i64 {
            self.layers.last(&id.into(), self.now_ns, |id| self.walk(id)).timestamp / SECOND
        }

        fn renew(&self, there: &[&str]) {
            self.layers.renew(|id| there.contains(&id), self.now_ns, |id| self.walk(id));
        }

        fn walks(&self) -> Vec<String> {
            let mut walks = self.walked.take();
            walks.sort();
            walks
        }
    }

    #[test]
    fn a_list_says_what_was_found_last_and_when() {
        let mut disk = Disk { now_ns: 100 * SECOND, ..Disk::default() };
        assert_eq!((disk.listed("a"), disk.walks().len()), (100, 1), "nothing was known");
        disk.now_ns = 130 * SECOND;
        assert_eq!((disk.listed("a"), disk.walks().len()), (100, 0), "the last reading");
        disk.renew(&["a"]);
        assert_eq!((disk.listed("a"), disk.walks().len()), (130, 1), "walked behind the answer");
        disk.now_ns = 190 * SECOND;
        assert_eq!((disk.listed("a"), disk.walks().len()), (190, 1), "a minute is too old");
        disk.now_ns = 180 * SECOND;
        assert_eq!((disk.listed("a"), disk.walks().len()), (180, 1), "a reading from the future is none");
    }

    #[test]
    fn only_what_has_aged_is_walked_again_and_who_is_gone_is_forgotten() {
        let mut disk = Disk { now_ns: 100 * SECOND, ..Disk::default() };
        disk.listed("a");
        disk.listed("gone");
        disk.now_ns = 104 * SECOND;
        disk.listed("b");
        disk.walks();
        disk.renew(&["a", "b"]);
        assert!(disk.walks().is_empty(), "all are fresh");
        disk.now_ns = 106 * SECOND;
        disk.renew(&["a", "b"]);
        assert_eq!(disk.walks(), ["a"]);
        assert_eq!(disk.layers.known().len(), 2, "the third is gone");
        let busy = disk.layers.renewing.lock().unwrap();
        disk.now_ns = 130 * SECOND;
        disk.renew(&["a", "b"]);
        assert!(disk.walks().is_empty(), "somebody does it already");
        drop(busy);
    }

    #[test]
    fn who_asks_for_one_gets_a_reading_of_now() {
        let mut disk = Disk { now_ns: 100 * SECOND, ..Disk::default() };
        disk.listed("a");
        disk.now_ns = 101 * SECOND;
        assert_eq!(disk.layers.read(&"a".into(), |id| disk.walk(id)).timestamp, 101 * SECOND);
        assert_eq!(disk.listed("a"), 101, "and lists have it too");
    }
}
