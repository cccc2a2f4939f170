//! A monitor played by the test, over a real socket.

use super::*;
use conmon_protocol::{Decoder, Exit, Message};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream as Stream;

/// The other end: hears requests and says what it is told to.
pub(crate) struct Fake {
    stream: Stream,
    decoder: Decoder,
}

impl Fake {
    pub(crate) fn pair() -> (Monitor, Fake) {
        let (ours, theirs) = Stream::pair().unwrap();
        (Monitor::on(ours, Arc::default()).unwrap(), Fake { stream: theirs, decoder: Decoder::new() })
    }

    pub(crate) fn hear(&mut self) -> Request {
        self.hear_or_end().expect("the daemon hung up")
    }

    /// Nothing once the daemon has hung up.
    pub(crate) fn hear_or_end(&mut self) -> Option<Request> {
        loop {
            if let Some(frame) = self.decoder.next_frame().unwrap() {
                return Some(frame.parse().unwrap());
            }
            let mut bytes = [0; 4096];
            let count = self.stream.read(&mut bytes).ok().filter(|count| *count > 0)?;
            self.decoder.push(&bytes[..count]);
        }
    }

    pub(crate) fn say(&mut self, message: &Message) {
        self.stream.write_all(&conmon_protocol::encode(message, 0).unwrap()).unwrap();
    }

    pub(crate) fn answer(&mut self, seq: u64, answer: Answer) {
        self.say(&Message::Answer { seq, answer: Ok(answer) });
    }
}

fn start(id: &str) -> Ask {
    Ask::Start { container_id: id.into() }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_answer_finds_its_question() {
    let (monitor, mut fake) = Fake::pair();
    let played = std::thread::spawn(move || {
        let (first, second) = (fake.hear(), fake.hear());
        let at = |request: &Request| if request.ask == start("a") { 1 } else { 2 };
        fake.answer(second.seq, Answer::Started { started_at_ns: at(&second) });
        fake.answer(first.seq, Answer::Started { started_at_ns: at(&first) });
        fake
    });
    let (a, b) = tokio::join!(monitor.ask(start("a"), vec![]), monitor.ask(start("b"), vec![]));
    assert_eq!(a.unwrap().0, Answer::Started { started_at_ns: 1 });
    assert_eq!(b.unwrap().0, Answer::Started { started_at_ns: 2 });
    drop(played.join());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_is_an_error_with_its_words() {
    let (monitor, mut fake) = Fake::pair();
    let played = std::thread::spawn(move || {
        let seq = fake.hear().seq;
        let refusal = Refusal { kind: RefusalKind::NotFound, message: "no container x".into() };
        fake.say(&Message::Answer { seq, answer: Err(refusal) });
        fake
    });
    let error = monitor.order(start("x")).await.unwrap_err();
    assert_eq!(error.to_string(), "no container x");
    drop(played.join());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_death_is_told_to_all_who_wait_and_to_all_who_ask_later() {
    let (monitor, mut fake) = Fake::pair();
    let played = std::thread::spawn(move || {
        fake.hear();
    });
    assert!(matches!(monitor.order(Ask::UnmakePod).await, Err(Error::Gone)));
    monitor.closed().await;
    assert!(matches!(monitor.order(Ask::UnmakePod).await, Err(Error::Gone)));
    drop(played.join());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exec_that_ends_before_its_start_is_answered_is_not_missed() {
    let (monitor, mut fake) = Fake::pair();
    let mut events = monitor.events();
    let played = std::thread::spawn(move || {
        let request = fake.hear();
        let exit = Exit { code: 0, oom_killed: false, finished_at_ns: 1 };
        fake.say(&Message::Event(Event::Exited { container_id: "c".into(), exit }));
        fake.say(&Message::Event(Event::ExecExited { exec_id: "e".into(), code: 3, timed_out: false }));
        fake.answer(request.seq, Answer::ExecStarted { pid: 9 });
        fake
    });
    let plan = ExecPlan {
        exec_id: "e".into(),
        container_id: "c".into(),
        process: serde_json::Value::Null,
        terminal: false,
        stdin: false,
        stdout: false,
        stderr: false,
        timeout_ms: None,
    };
    let exec = monitor.exec(plan, vec![]).await.unwrap();
    assert_eq!(exec.pid, 9);
    assert_eq!(exec.ended.await.unwrap(), ExecEnd { code: 3, timed_out: false });
    assert!(matches!(events.recv().await, Ok(Event::Exited { container_id, .. }) if container_id == "c"));
    drop(played.join());
}

#[tokio::test(flavor = "multi_thread")]
async fn nonsense_ends_the_connection() {
    let (monitor, mut fake) = Fake::pair();
    fake.stream.write_all(&[0xff; 64]).unwrap();
    monitor.closed().await;
    assert!(monitor.is_closed());
}
