//! How far a container is, what may be asked of it there, and what its events make of it. Pure.
//!
//! ```text
//!            Started              Ended
//! Created ───────────► Running ───────────► Exited ──► (taken away)
//!    │                    │                    ▲
//!    └──── DeleteAsked ───┴──► Dying ── Ended ─┘
//! ```
//! Created ends in Exited as well: a container may be killed before it is started.

use conmon_protocol::{Exit, Phase};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Life {
    Created {
        pid: i32,
    },
    Running {
        pid: i32,
        started_at_ns: i64,
    },
    /// Killed, because somebody asked to take it away; it is taken away when it has ended.
    Dying {
        was: Was,
        pid: i32,
    },
    Exited(Exit),
}

/// What a dying container was, for those who ask how it is meanwhile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Was {
    Created,
    Running { started_at_ns: i64 },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Asked {
    Start,
    Signal,
    Exec,
    Attach,
    Resize,
    Update,
    Reopen,
    Checkpoint,
    Delete,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    Do,
    Already,
    No(&'static str),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Heard {
    Started { at_ns: i64 },
    DeleteAsked,
    Ended(Exit),
}

impl Life {
    pub(crate) fn answer(self, asked: Asked) -> Answer {
        match self {
            Life::Created { .. } => match asked {
                Asked::Start
                | Asked::Signal
                | Asked::Attach
                | Asked::Resize
                | Asked::Update
                | Asked::Reopen
                | Asked::Delete => Answer::Do,
                Asked::Exec | Asked::Checkpoint => Answer::No("has not been started"),
            },
            Life::Running { .. } => match asked {
                Asked::Start => Answer::Already,
                Asked::Signal
                | Asked::Exec
                | Asked::Attach
                | Asked::Resize
                | Asked::Update
                | Asked::Reopen
                | Asked::Checkpoint
                | Asked::Delete => Answer::Do,
            },
            Life::Dying { .. } => match asked {
                Asked::Signal | Asked::Reopen => Answer::Do,
                Asked::Delete => Answer::Already,
                Asked::Start
                | Asked::Exec
                | Asked::Attach
                | Asked::Resize
                | Asked::Update
                | Asked::Checkpoint => Answer::No("is being taken away"),
            },
            Life::Exited(_) => match asked {
                Asked::Signal => Answer::Already,
                Asked::Delete => Answer::Do,
                Asked::Start
                | Asked::Exec
                | Asked::Attach
                | Asked::Resize
                | Asked::Update
                | Asked::Reopen
                | Asked::Checkpoint => Answer::No("has exited"),
            },
        }
    }

    #[must_use]
    pub(crate) fn hear(self, heard: Heard) -> Life {
        match (self, heard) {
            (Life::Created { pid }, Heard::Started { at_ns }) => Life::Running { pid, started_at_ns: at_ns },
            (Life::Running { .. } | Life::Dying { .. }, Heard::Started { .. }) => self,
            (Life::Created { pid }, Heard::DeleteAsked) => Life::Dying { was: Was::Created, pid },
            (Life::Running { pid, started_at_ns }, Heard::DeleteAsked) => {
                Life::Dying { was: Was::Running { started_at_ns }, pid }
            }
            (Life::Dying { .. }, Heard::DeleteAsked) => self,
            (Life::Created { .. } | Life::Running { .. } | Life::Dying { .. }, Heard::Ended(exit)) => {
                Life::Exited(exit)
            }
            // The first ending is the true one.
            (Life::Exited(_), Heard::Started { .. } | Heard::DeleteAsked | Heard::Ended(_)) => self,
        }
    }

    /// The process, while it lives.
    pub(crate) fn pid(self) -> Option<i32> {
        match self {
            Life::Created { pid } | Life::Running { pid, .. } | Life::Dying { pid, .. } => Some(pid),
            Life::Exited(_) => None,
        }
    }

    pub(crate) fn phase(self) -> Phase {
        match self {
            Life::Created { pid } | Life::Dying { was: Was::Created, pid } => Phase::Created { pid },
            Life::Running { pid, started_at_ns }
            | Life::Dying { was: Was::Running { started_at_ns }, pid } => {
                Phase::Running { pid, started_at_ns }
            }
            Life::Exited(exit) => Phase::Exited(exit),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const CREATED: Life = Life::Created { pid: 7 };
    const RUNNING: Life = Life::Running { pid: 7, started_at_ns: 1 };
    const DYING: Life = Life::Dying { was: Was::Running { started_at_ns: 1 }, pid: 7 };
    const EXIT: Exit = Exit { code: 0, oom_killed: false, finished_at_ns: 2 };
    const EXITED: Life = Life::Exited(EXIT);
    const GOING: Answer = Answer::No("is being taken away");
    const OVER: Answer = Answer::No("has exited");

    #[test]
    fn each_state_answers_each_question() {
        let check = |life: Life, asked: Asked, answer: Answer| {
            assert_eq!(life.answer(asked), answer, "{life:?} asked to {asked:?}");
        };
        check(CREATED, Asked::Start, Answer::Do);
        check(CREATED, Asked::Exec, Answer::No("has not been started"));
        check(CREATED, Asked::Delete, Answer::Do);
        check(RUNNING, Asked::Start, Answer::Already);
        check(RUNNING, Asked::Exec, Answer::Do);
        check(RUNNING, Asked::Attach, Answer::Do);
        check(DYING, Asked::Start, GOING);
        check(DYING, Asked::Exec, GOING);
        check(DYING, Asked::Delete, Answer::Already);
        check(DYING, Asked::Signal, Answer::Do);
        check(EXITED, Asked::Signal, Answer::Already);
        check(EXITED, Asked::Delete, Answer::Do);
        check(EXITED, Asked::Reopen, OVER);
        check(EXITED, Asked::Start, OVER);
        check(CREATED, Asked::Update, Answer::Do);
        check(RUNNING, Asked::Update, Answer::Do);
        check(DYING, Asked::Update, GOING);
        check(EXITED, Asked::Update, OVER);
        check(CREATED, Asked::Checkpoint, Answer::No("has not been started"));
        check(RUNNING, Asked::Checkpoint, Answer::Do);
        check(DYING, Asked::Checkpoint, GOING);
        check(EXITED, Asked::Checkpoint, OVER);
    }

    #[test]
    fn each_event_leads_on() {
        let check = |life: Life, heard: Heard, then: Life| {
            assert_eq!(life.hear(heard), then, "{life:?} hears {heard:?}");
        };
        check(CREATED, Heard::Started { at_ns: 1 }, RUNNING);
        check(CREATED, Heard::Ended(EXIT), EXITED);
        check(RUNNING, Heard::Started { at_ns: 9 }, RUNNING);
        check(RUNNING, Heard::DeleteAsked, DYING);
        check(DYING, Heard::Ended(EXIT), EXITED);
        check(EXITED, Heard::DeleteAsked, EXITED);
        check(EXITED, Heard::Ended(Exit { code: 9, ..EXIT }), EXITED);
    }

    #[test]
    fn a_dying_container_still_shows_what_it_was() {
        assert_eq!(DYING.phase(), RUNNING.phase());
        assert_eq!(CREATED.hear(Heard::DeleteAsked).phase(), CREATED.phase());
    }

    fn heard() -> impl Strategy<Value = Heard> {
        prop_oneof![
            any::<i64>().prop_map(|at_ns| Heard::Started { at_ns }),
            Just(Heard::DeleteAsked),
            any::<i32>().prop_map(|code| Heard::Ended(Exit { code, ..EXIT })),
        ]
    }

    proptest! {
        #[test]
        fn an_exit_is_final_and_a_living_process_keeps_its_pid(events in prop::collection::vec(heard(), 0..20)) {
            let mut life = CREATED;
            for event in events {
                let next = life.hear(event);
                if let Life::Exited(_) = life {
                    prop_assert_eq!(next, life);
                }
                prop_assert!(next.pid().is_none_or(|pid| pid == 7));
                life = next;
            }
        }
    }
}
