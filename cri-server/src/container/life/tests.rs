//! What each state of a container answers, and that no road leads astray.

use super::*;
use proptest::prelude::*;

const EXIT: Exit = Exit { code: 3, oom_killed: false, finished_at_ns: 9 };

fn running() -> Life {
    Life::Running { pid: 7, started_at_ns: 5 }
}

fn asked(kill_at_ms: u64) -> Life {
    Life::Stopping { pid: 7, started_at_ns: 5, stop: Stop::Asked { kill_at_ms } }
}

fn stop(kill_at_ms: u64) -> Ask {
    Ask::Stop { kill_at_ms, now_ms: 100 }
}

#[test]
fn each_state_answers_each_ask() {
    let check =
        |life: Life, ask: Ask, answer: Answer| assert_eq!(life.answer(ask), answer, "{life:?} {ask:?}");
    let created = Life::Created { pid: 7 };
    let exited = Life::Exited { started_at_ns: 5, exit: EXIT };
    let killed = Life::Stopping { pid: 7, started_at_ns: 5, stop: Stop::Killed };
    let removing = Life::Removing { started_at_ns: 5, exit: None };
    let broken = Life::Broken { started_at_ns: 5, exit: None };

    check(created, Ask::Start, Answer::Do(Deed::Start));
    check(Life::Starting { pid: 7, ended: None }, Ask::Start, Answer::Join);
    check(running(), Ask::Start, Answer::Already);
    check(asked(200), Ask::Start, Answer::No("the container is being stopped"));
    check(exited, Ask::Start, Answer::No("the container has exited"));
    check(removing, Ask::Start, Answer::No("the container is being removed"));

    check(created, stop(200), Answer::Do(Deed::Kill));
    check(Life::Starting { pid: 7, ended: None }, stop(200), Answer::Join);
    check(running(), stop(200), Answer::Do(Deed::AskToEnd { kill_at_ms: 200 }));
    check(running(), stop(100), Answer::Do(Deed::Kill));
    check(asked(200), stop(300), Answer::Join);
    check(asked(200), stop(150), Answer::Do(Deed::Hurry { kill_at_ms: 150 }));
    check(asked(200), stop(100), Answer::Do(Deed::Kill));
    check(killed, stop(100), Answer::Join);
    check(exited, stop(200), Answer::Already);
    check(broken, stop(200), Answer::Already);
    check(removing, stop(200), Answer::Join);

    for life in [created, running(), asked(200), killed, exited, broken] {
        check(life, Ask::Remove, Answer::Do(Deed::Remove));
    }
    for life in [Life::Making, Life::Starting { pid: 7, ended: None }, removing] {
        check(life, Ask::Remove, Answer::Join);
    }
}

#[test]
fn an_end_heard_before_the_answer_to_the_start_waits_for_it() {
    let life = Life::Starting { pid: 7, ended: None }.after(Event::Exited(EXIT)).unwrap();
    assert_eq!((life.answer(Ask::Start), life.ended_early()), (Answer::Join, Some(EXIT)));
    assert_eq!(life.after(Event::Started { started_at_ns: 5 }), Some(running()));
    let never_ran = Some(Life::Exited { started_at_ns: 0, exit: EXIT });
    assert_eq!(life.after(Event::StartFailed), never_ran);
    let lost = Exit { code: 255, ..EXIT };
    assert_eq!(life.after(Event::Lost(lost)), never_ran, "what was heard counts");
}

#[test]
fn a_monitor_asked_anew_corrects_what_was_missed() {
    let lost = Exit { code: 255, oom_killed: false, finished_at_ns: 1 };
    let check = |life: Life, phase, after: Life| assert_eq!(life.corrected(phase, lost), after, "{life:?}");
    let exited = Life::Exited { started_at_ns: 5, exit: EXIT };
    check(running(), Some(Phase::Exited(EXIT)), exited);
    check(running(), None, Life::Exited { started_at_ns: 5, exit: lost });
    check(
        Life::Starting { pid: 7, ended: None },
        Some(Phase::Running { pid: 7, started_at_ns: 5 }),
        running(),
    );
    check(Life::Starting { pid: 7, ended: None }, Some(Phase::Created { pid: 7 }), Life::Created { pid: 7 });
    check(exited, None, exited);
}

fn asks() -> impl Strategy<Value = Option<Ask>> {
    prop_oneof![
        Just(None),
        Just(Some(Ask::Start)),
        (0..200u64).prop_map(|kill_at_ms| Some(stop(kill_at_ms))),
        Just(Some(Ask::Remove)),
    ]
}

/// What a task does with a deed; as `sandbox::task` does it.
fn begin(life: &Life, deed: Deed) -> Option<Life> {
    match deed {
        Deed::Start => life.after(Event::StartBegun),
        Deed::AskToEnd { kill_at_ms } | Deed::Hurry { kill_at_ms } => {
            life.after(Event::StopBegun { kill_at_ms })
        }
        Deed::Kill => life.after(Event::Killed),
        Deed::Remove => life.after(Event::RemovalBegun),
    }
}

/// What the world may bring next, by a throw of dice.
fn happen(life: &Life, dice: u8) -> Option<Event> {
    match (life, dice) {
        (Life::Making, _) => Some(Event::Made { pid: 7 }),
        (Life::Starting { .. }, 0) => Some(Event::Started { started_at_ns: 5 }),
        (Life::Starting { .. }, 1) => Some(Event::StartFailed),
        (Life::Stopping { .. }, 1) => Some(Event::StopFailed),
        (Life::Removing { .. }, 0) => Some(Event::RemovalFailed),
        (_, 2) => Some(Event::Exited(EXIT)),
        (Life::Starting { .. }, 3) => Some(Event::Lost(EXIT)),
        _ => None,
    }
}

proptest! {
    #[test]
    fn no_sequence_reaches_an_impossible_life(turns in prop::collection::vec((asks(), 0..4u8), 0..64)) {
        let mut life = Life::Making;
        for (ask, dice) in turns {
            let next = match ask.map(|ask| life.answer(ask)) {
                Some(Answer::Do(deed)) => begin(&life, deed),
                Some(Answer::Join | Answer::Already | Answer::No(_)) => Some(life),
                None => happen(&life, dice).map_or(Some(life), |event| life.after(event)),
            };
            prop_assert!(next.is_some(), "{life:?} met {ask:?} {dice}");
            let ended = life.exit();
            life = next.unwrap();
            prop_assert!(ended.is_none() || life.exit() == ended, "an end is told once");
        }
    }
}
