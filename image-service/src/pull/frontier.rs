//! How far each part of a blob has come: where those who download, the thread that reads behind them, and
//! what lies on the disk meet.
//!
//! The blob is cut into runs that lie end to end. A run is filled from its start by one download at a time;
//! the reader goes through the runs in order and waits where nothing has come yet. A run with much still to
//! come can be split, so that another connection brings its far half.

use std::fs::File;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use crate::store::{Came, Part};

#[derive(Debug)]
pub(super) struct Frontier {
    part: Arc<Part>,
    size: u64,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    runs: Vec<Run>,
    /// Nothing more will come.
    ended: bool,
    /// The reader had to wait since somebody last asked.
    starved: bool,
}

#[derive(Debug)]
struct Run {
    start: u64,
    end: u64,
    filled: u64,
    /// Being written behind what is filled.
    in_flight: u64,
    claimed: bool,
    file: Arc<File>,
}

/// A run that somebody downloads: its start, which names it, and what of it is still to come.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Claim {
    pub(super) run: u64,
    pub(super) position: u64,
    pub(super) end: u64,
}

/// Room for bytes at the end of what a run has.
#[derive(Debug)]
pub(super) struct Room {
    pub(super) file: Arc<File>,
    pub(super) offset: u64,
    pub(super) bytes: u64,
}

/// Bytes that have come.
#[derive(Debug)]
pub(super) struct Available {
    pub(super) file: Arc<File>,
    pub(super) offset: u64,
    pub(super) bytes: u64,
}

impl Frontier {
    /// The runs of a blob of which some have come already; or, where nothing has, one from `from` on: what lies before
    /// nobody asks for any more.
    pub(super) fn new(part: Arc<Part>, came: Vec<Came>, from: u64, size: u64) -> io::Result<Frontier> {
        let mut runs: Vec<Run> = Vec::new();
        let mut add = |start: u64, filled: u64, file: Arc<File>| {
            if let Some(last) = runs.last_mut() {
                last.end = start;
            }
            runs.push(Run { start, end: size, filled, in_flight: 0, claimed: false, file });
        };
        if came.first().is_none_or(|first| first.start > from) {
            add(from, 0, part.begin(from)?);
        }
        for came in came {
            add(came.start, came.filled, came.file);
        }
        let state = Mutex::new(State { runs, ended: false, starved: false });
        Ok(Frontier { part, size, state, changed: Condvar::new() })
    }

    pub(super) fn part(&self) -> &Part {
        &self.part
    }

    pub(super) fn is_whole(&self) -> bool {
        self.state().runs.iter().all(|run| run.filled == run.end - run.start)
    }

    /// The first run that is neither whole nor anybody's.
    pub(super) fn claim(&self) -> Option<Claim> {
        let mut state = self.state();
        let run = state.runs.iter_mut().find(|run| !run.claimed && run.rest() > 0)?;
        run.claimed = true;
        Some(Claim { run: run.start, position: run.start + run.filled, end: run.end })
    }

    /// A claim given up before its run was whole. What it had room for, and did not write, is still to come.
    pub(super) fn release(&self, run: u64) {
        if let Some(run) = self.state().run(run) {
            run.claimed = false;
            run.in_flight = 0;
        }
    }

    /// Where the run with the most to come could be split, when each half is at least `least` bytes.
    pub(super) fn split_point(&self, least: u64) -> Option<Claim> {
        let state = self.state();
        let run = state.runs.iter().filter(|run| run.claimed).max_by_key(|run| run.rest())?;
        let middle = run.end - run.rest() / 2;
        (run.rest() / 2 >= least).then_some(Claim { run: middle, position: middle, end: run.end })
    }

    /// Splits there; false when the run has come too far meanwhile or ends elsewhere by now.
    pub(super) fn split(&self, at: &Claim) -> io::Result<bool> {
        let mut state = self.state();
        let found = state.runs.iter().position(|run| run.claimed && run.start < at.run && run.end == at.end);
        let Some(found) = found.filter(|found| state.runs[*found].end - state.runs[*found].rest() < at.run)
        else {
            return Ok(false);
        };
        let file = self.part.begin(at.run)?;
        state.runs[found].end = at.run;
        let half = Run { start: at.run, end: at.end, filled: 0, in_flight: 0, claimed: true, file };
        state.runs.insert(found + 1, half);
        Ok(true)
    }

    /// Where the next bytes of a run go, at most `bytes` of them; no room when the run is whole.
    pub(super) fn room(&self, run: u64, bytes: u64) -> Option<Room> {
        let mut state = self.state();
        let run = state.run(run)?;
        run.in_flight = bytes.min(run.rest());
        let room = Room { file: run.file.clone(), offset: run.filled, bytes: run.in_flight };
        (room.bytes > 0).then_some(room)
    }

    /// The bytes that there was room for are there.
    pub(super) fn wrote(&self, run: u64) {
        if let Some(run) = self.state().run(run) {
            run.filled += std::mem::take(&mut run.in_flight);
        }
        self.changed.notify_all();
    }

    /// Nothing more will come: the reader gets what is there and then an error, unless that is all.
    pub(super) fn end(&self) {
        self.state().ended = true;
        self.changed.notify_all();
    }

    /// Whether the reader has waited for bytes since the last time somebody asked.
    pub(super) fn was_starved(&self) -> bool {
        std::mem::take(&mut self.state().starved)
    }

    /// Waits for at least `least` bytes at a position, or all there will be. None at the blob's end.
    pub(super) fn wait(&self, position: u64, least: u64) -> io::Result<Option<Available>> {
        if position >= self.size {
            return Ok(None);
        }
        let mut state = self.state();
        loop {
            let at = state.runs.iter().rposition(|run| run.start <= position);
            let run = &state.runs[at.unwrap_or(0)];
            let (offset, there) = (position - run.start, run.start + run.filled);
            let wanted = least.min(run.end - position);
            if there >= position + wanted.max(1) {
                return Ok(Some(Available { file: run.file.clone(), offset, bytes: there - position }));
            }
            if state.ended {
                return Err(io::Error::new(io::ErrorKind::ConnectionAborted, "the download broke off"));
            }
            state.starved = true;
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn run(&mut self, start: u64) -> Option<&mut Run> {
        self.runs.iter_mut().find(|run| run.start == start)
    }
}

impl Run {
    /// What nobody has brought yet, nor is bringing now.
    fn rest(&self) -> u64 {
        (self.end - self.start).saturating_sub(self.filled + self.in_flight)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Digest;
    use crate::gc::Trash;
    use crate::store::Parts;

    #[test]
    fn what_was_not_written_after_all_is_still_to_come() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["parts", "trash"] {
            std::fs::create_dir_all(dir.path().join(name)).unwrap();
        }
        let trash = Arc::new(Trash::open(dir.path().join("trash")).unwrap());
        let parts = Parts::new(dir.path().join("parts"), trash).unwrap();
        let (part, came) = parts.take(&Digest::sha256(b"x"), 100).unwrap().unwrap();
        let frontier = Frontier::new(Arc::new(part), came, 40, 100).unwrap();
        let claimed = |position| Some(Claim { run: 40, position, end: 100 });
        assert_eq!((frontier.claim(), frontier.claim()), (claimed(40), None));
        frontier.room(40, 30).unwrap();
        frontier.wrote(40);
        // The last batch of the run, and the disk takes none of it.
        assert_eq!(frontier.room(40, 1000).unwrap().bytes, 30);
        frontier.release(40);
        assert_eq!(frontier.claim(), claimed(70));
        assert!(!frontier.is_whole());
        frontier.room(40, 30).unwrap();
        frontier.wrote(40);
        assert!(frontier.is_whole() && frontier.room(40, 1).is_none());
    }
}
