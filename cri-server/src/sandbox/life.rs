//! How far a sandbox is, and what may be asked of it there.
//!
//! ```text
//! Making ──► Ready ──► Stopping ──► Stopped ──► Removing ──► (gone)
//!    │         │           │           ▲            ▲
//!    │         │           └► Broken ──┘────────────┤
//!    └─────────┴────────────────────────────────────┘
//! ```
//! Broken is where a taking away that failed half-way leaves it; any asking tries again.

use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Life {
    Making,
    Ready,
    Stopping,
    Stopped,
    Broken,
    Removing,
}

/// What can be asked of a sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ask {
    /// Make a container in it.
    Create,
    Stop,
    Remove,
}

/// Do it, wait for work in flight and ask again, it is so already, or no and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    Do,
    Join,
    Already,
    No(&'static str),
}

/// What can happen to a sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    Made,
    /// The making failed; it is being taken away.
    MakingFailed,
    StopBegun,
    /// Its processes and its network are gone.
    Stopped,
    StopFailed,
    RemovalBegun,
    RemovalFailed,
}

impl Life {
    /// Decides what an ask comes to.
    pub fn answer(self, ask: Ask) -> Answer {
        match (self, ask) {
            (Life::Making, Ask::Create | Ask::Stop | Ask::Remove) => Answer::Join,
            (Life::Ready, Ask::Create | Ask::Stop | Ask::Remove) => Answer::Do,
            (Life::Stopping, Ask::Create) => Answer::No("the sandbox is being stopped"),
            (Life::Stopping, Ask::Stop | Ask::Remove) => Answer::Join,
            (Life::Stopped, Ask::Create) => Answer::No("the sandbox is not ready"),
            (Life::Stopped, Ask::Stop) => Answer::Already,
            (Life::Stopped, Ask::Remove) => Answer::Do,
            (Life::Broken, Ask::Create) => Answer::No("the sandbox is half taken away"),
            (Life::Broken, Ask::Stop | Ask::Remove) => Answer::Do,
            (Life::Removing, Ask::Create) => Answer::No("the sandbox is being removed"),
            (Life::Removing, Ask::Stop | Ask::Remove) => Answer::Join,
        }
    }

    /// What it is after an event; `None` where the event cannot happen.
    pub fn after(self, event: Event) -> Option<Life> {
        match (self, event) {
            (Life::Making, Event::Made) => Some(Life::Ready),
            (Life::Making, Event::MakingFailed) => Some(Life::Removing),
            (Life::Ready | Life::Broken, Event::StopBegun) => Some(Life::Stopping),
            (Life::Stopping, Event::Stopped) => Some(Life::Stopped),
            (Life::Stopping, Event::StopFailed) => Some(Life::Broken),
            (Life::Stopped | Life::Broken, Event::RemovalBegun) => Some(Life::Removing),
            (Life::Removing, Event::RemovalFailed) => Some(Life::Broken),
            (
                Life::Making | Life::Ready | Life::Stopping | Life::Stopped | Life::Broken | Life::Removing,
                Event::Made
                | Event::MakingFailed
                | Event::StopBegun
                | Event::Stopped
                | Event::StopFailed
                | Event::RemovalBegun
                | Event::RemovalFailed,
            ) => None,
        }
    }

    /// Ready in the words of the CRI: it has its network and may get containers.
    pub fn is_ready(self) -> bool {
        match self {
            Life::Ready => true,
            Life::Making | Life::Stopping | Life::Stopped | Life::Broken | Life::Removing => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn each_state_answers_each_ask() {
        let check = |life: Life, create: &str, stop: Answer, remove: Answer| {
            let word = match life.answer(Ask::Create) {
                Answer::Do => "do",
                Answer::Join => "join",
                Answer::Already => "already",
                Answer::No(why) => why,
            };
            assert!(word.contains(create), "{life:?}: {word}");
            assert_eq!(life.answer(Ask::Stop), stop, "{life:?}");
            assert_eq!(life.answer(Ask::Remove), remove, "{life:?}");
        };
        check(Life::Making, "join", Answer::Join, Answer::Join);
        check(Life::Ready, "do", Answer::Do, Answer::Do);
        check(Life::Stopping, "being stopped", Answer::Join, Answer::Join);
        check(Life::Stopped, "not ready", Answer::Already, Answer::Do);
        check(Life::Broken, "half taken away", Answer::Do, Answer::Do);
        check(Life::Removing, "being removed", Answer::Join, Answer::Join);
    }

    /// What a task does with an ask that is to be done; as `sandbox::task` does it.
    fn begin(life: Life, ask: Ask) -> Option<Life> {
        match (ask, life) {
            (Ask::Create, life) => Some(life),
            (Ask::Remove, Life::Stopped | Life::Broken) => life.after(Event::RemovalBegun),
            (Ask::Stop | Ask::Remove, life) => life.after(Event::StopBegun),
        }
    }

    /// How the work of a state may end.
    fn end(life: Life, well: bool) -> Option<Event> {
        match (life, well) {
            (Life::Making, true) => Some(Event::Made),
            (Life::Making, false) => Some(Event::MakingFailed),
            (Life::Stopping, true) => Some(Event::Stopped),
            (Life::Stopping, false) => Some(Event::StopFailed),
            (Life::Removing, false) => Some(Event::RemovalFailed),
            (Life::Removing, true) | (Life::Ready | Life::Stopped | Life::Broken, _) => None,
        }
    }

    proptest! {
        #[test]
        fn no_sequence_reaches_an_impossible_life(turns in prop::collection::vec((0..5u8, any::<bool>()), 0..64)) {
            let mut life = Life::Making;
            for (turn, well) in turns {
                let ask = [Ask::Create, Ask::Stop, Ask::Remove].get(usize::from(turn)).copied();
                let next = match ask {
                    Some(ask) if life.answer(ask) == Answer::Do => begin(life, ask),
                    Some(_) => Some(life),
                    None => match end(life, well) {
                        Some(event) => life.after(event),
                        None => Some(life),
                    },
                };
                prop_assert!(next.is_some(), "{life:?} met turn {turn}");
                life = next.unwrap();
            }
        }
    }
}
