//! The memory of zstd windows, bounded over all layers of the node. Usual windows share a budget of the daemon's own
//! memory. A layer that asks for more is unpacked by a process of its own, one at a time: what it takes is never the
//! daemon's, and is given back whole.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use crate::unpack::window::{Asked, LARGEST_LOG, USUAL_LOG};

const MIB: u64 = 1 << 20;
/// Three windows of 8 MiB: with all else that a pull takes the daemon stays below 64 MiB.
const WITHIN_MIB: u64 = 24;

#[derive(Debug)]
pub(crate) struct Windows {
    within: Budget,
    large: Budget,
}

impl Default for Windows {
    fn default() -> Windows {
        Windows { within: Budget::new(WITHIN_MIB), large: Budget::new(1) }
    }
}

/// Where a layer is unpacked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Where {
    /// In a thread, after so much of the budget was taken.
    Here {
        mib: u64,
    },
    Apart,
    /// Nowhere: nobody may ask for that much.
    TooMuch,
}

/// Decides by what the first frame asks for, and by what a later one is known to: `log`.
pub(crate) fn decide(asked: Asked, log: u32) -> Where {
    match asked {
        Asked::Bytes(bytes) if bytes > 1 << LARGEST_LOG => Where::TooMuch,
        _ if log > USUAL_LOG => Where::Apart,
        Asked::Bytes(bytes) if bytes > 1 << USUAL_LOG => Where::Apart,
        Asked::Bytes(bytes) => Where::Here { mib: bytes.div_ceil(MIB) },
        Asked::Unknown => Where::Here { mib: (1 << USUAL_LOG) / MIB },
        Asked::Nothing => Where::Here { mib: 0 },
    }
}

impl Windows {
    /// Waits until there is room; for a thread that may wait. Nothing for nothing.
    pub(crate) fn take(&self, place: Where) -> Taken<'_> {
        match place {
            Where::Here { mib } => self.within.take(mib),
            Where::Apart => self.large.take(1),
            Where::TooMuch => self.large.take(0),
        }
    }
}

#[derive(Debug)]
struct Budget {
    left: Mutex<u64>,
    more: Condvar,
}

/// Given back when dropped.
#[derive(Debug)]
pub(crate) struct Taken<'a> {
    of: &'a Budget,
    amount: u64,
}

impl Budget {
    fn new(all: u64) -> Budget {
        Budget { left: Mutex::new(all), more: Condvar::new() }
    }

    fn take(&self, amount: u64) -> Taken<'_> {
        let mut left = self.left();
        while *left < amount {
            left = self.more.wait(left).unwrap_or_else(PoisonError::into_inner);
        }
        *left -= amount;
        Taken { of: self, amount }
    }

    fn left(&self) -> MutexGuard<'_, u64> {
        self.left.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        *self.of.left() += self.amount;
        self.of.more.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_windows_are_for_a_process_and_larger_ones_for_nobody() {
        for (asked, log, place) in [
            (Asked::Nothing, USUAL_LOG, Where::Here { mib: 0 }),
            (Asked::Bytes(1), USUAL_LOG, Where::Here { mib: 1 }),
            (Asked::Bytes(8 << 20), USUAL_LOG, Where::Here { mib: 8 }),
            (Asked::Unknown, USUAL_LOG, Where::Here { mib: 8 }),
            (Asked::Bytes((8 << 20) + 1), USUAL_LOG, Where::Apart),
            (Asked::Bytes(128 << 20), USUAL_LOG, Where::Apart),
            (Asked::Bytes(1), LARGEST_LOG, Where::Apart),
            (Asked::Unknown, LARGEST_LOG, Where::Apart),
            (Asked::Bytes((128 << 20) + 1), USUAL_LOG, Where::TooMuch),
            (Asked::Bytes(u64::MAX), LARGEST_LOG, Where::TooMuch),
        ] {
            assert_eq!(decide(asked, log), place, "{asked:?} {log}");
        }
    }

    #[test]
    fn who_asks_for_more_than_there_is_waits() {
        let windows = Windows::default();
        let three = [(); 3].map(|()| windows.take(Where::Here { mib: 8 }));
        let apart = windows.take(Where::Apart);
        let (sender, receiver) = std::sync::mpsc::channel();
        std::thread::scope(|scope| {
            for place in [Where::Here { mib: 1 }, Where::Apart] {
                let (sender, windows) = (sender.clone(), &windows);
                scope.spawn(move || {
                    let _taken = windows.take(place);
                    sender.send(place).unwrap();
                });
            }
            let soon = std::time::Duration::from_millis(50);
            assert!(receiver.recv_timeout(soon).is_err());
            drop(apart);
            assert_eq!(receiver.recv().unwrap(), Where::Apart);
            assert!(receiver.recv_timeout(soon).is_err());
            drop(three);
            assert_eq!(receiver.recv().unwrap(), Where::Here { mib: 1 });
        });
    }
}
