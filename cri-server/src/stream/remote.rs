//! Remote command: the streams of exec and attach, alike over SPDY and WebSocket, and how the end is told.

use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::json;
use tokio::io::{AsyncReadExt, DuplexStream};
use tokio::sync::mpsc;

use super::spdy::{Incoming, STATUS_REFUSED_STREAM, Spdy};
use super::websocket::WebSocket;
use super::wire::{Inlet, Link, Outlet};

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const ERROR: u8 = 3;
const RESIZE: u8 = 4;
/// Channels that a WebSocket client writes to.
pub(super) const INPUTS: &[u8] = &[STDIN, RESIZE];
/// How long a SPDY client may take to open its streams.
const OPENING: Duration = Duration::from_secs(30);
/// A terminal's size is some 30 bytes of JSON.
const SIZE_MAX_BYTES: usize = 1024;

/// The streams that a session has.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted {
    pub(super) terminal: bool,
    pub(super) stdin: bool,
    pub(super) stdout: bool,
    pub(super) stderr: bool,
}

/// How the end is told: version 4 and later as a `Status` object, before that in plain words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Telling {
    Status,
    Words,
}

/// The streams of a session with its client.
#[derive(Debug)]
pub(super) struct Channels {
    pub(super) stdin: Option<Inlet>,
    pub(super) stdout: Option<Outlet>,
    pub(super) stderr: Option<Outlet>,
    pub(super) resize: Option<Sizes>,
    pub(super) end: End,
}

/// Where the end is told.
#[derive(Debug)]
pub(super) struct End {
    error: Outlet,
    telling: Telling,
    /// Every stream that the client waits to see closed.
    streams: Vec<Outlet>,
}

/// How a session ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Outcome {
    Done,
    /// The process ended with another code than 0.
    Exit(i32),
    /// It could not be begun or carried on.
    Failed(String),
}

impl Channels {
    /// Takes the streams as the client opens them. None when it goes away before, or takes too long.
    pub(super) async fn over_spdy(
        mut spdy: Spdy,
        wanted: Wanted,
        telling: Telling,
    ) -> Option<(Channels, Link)> {
        // Version 1 and 2 know no resizing, and some clients of later ones do not open its stream: it may come
        // late or never, and nothing waits for it.
        let mut names = vec!["error"];
        names.extend(wanted.stdin.then_some("stdin"));
        names.extend(wanted.stdout.then_some("stdout"));
        names.extend(wanted.stderr.then_some("stderr"));
        let mut streams = HashMap::new();
        let opening = async {
            while !names.iter().all(|name| streams.contains_key(*name)) {
                accept(&mut streams, spdy.incoming.recv().await?, wanted).await;
            }
            Some(())
        };
        tokio::time::timeout(OPENING, opening).await.ok()??;
        let resize = match streams.remove("resize") {
            None if wanted.terminal => Some(Sizes::late(spdy.incoming)),
            resize => {
                refuse_rest(spdy.incoming).await;
                resize.map(|stream| Sizes::of(stream.inlet))
            }
        };
        let closing = streams.values().map(|stream| stream.outlet.clone()).collect();
        let mut take = |name: &str| streams.remove(name);
        let error = take("error")?.outlet;
        let channels = Channels {
            stdin: take("stdin").map(|stream| stream.inlet),
            stdout: take("stdout").map(|stream| stream.outlet),
            stderr: take("stderr").map(|stream| stream.outlet),
            resize,
            end: End { error, telling, streams: closing },
        };
        Some((channels, spdy.link))
    }

    pub(super) async fn over_websocket(
        mut socket: WebSocket,
        wanted: Wanted,
        telling: Telling,
    ) -> (Channels, Link) {
        let out = |on: bool, channel| on.then(|| socket.outlet(channel));
        let (stdout, stderr) = (out(wanted.stdout, STDOUT), out(wanted.stderr, STDERR));
        let error = socket.outlet(ERROR);
        // The lowest channel that is written to says that the connection is there.
        let _ = stdout.as_ref().or(stderr.as_ref()).unwrap_or(&error).greet().await;
        let channels = Channels {
            stdin: socket.inlet(STDIN).filter(|_| wanted.stdin),
            stdout,
            stderr,
            resize: socket.inlet(RESIZE).filter(|_| wanted.terminal).map(Sizes::of),
            end: End { error, telling, streams: Vec::new() },
        };
        (channels, socket.link)
    }
}

/// Keeps a stream that the session has a use for, once.
async fn accept(streams: &mut HashMap<String, Incoming>, stream: Incoming, wanted: Wanted) {
    let name = stream.headers.get("streamtype").unwrap_or_default().to_ascii_lowercase();
    let useful = match name.as_str() {
        "error" => true,
        "stdin" => wanted.stdin,
        "stdout" => wanted.stdout,
        "stderr" => wanted.stderr,
        "resize" => wanted.terminal,
        _ => false,
    };
    if useful && !streams.contains_key(&name) {
        streams.insert(name, stream);
    } else {
        stream.outlet.refuse(STATUS_REFUSED_STREAM).await;
    }
}

/// The session has all that it has a use for; from now on the connection refuses what is opened.
async fn refuse_rest(mut incoming: mpsc::Receiver<Incoming>) {
    incoming.close();
    while let Some(stream) = incoming.recv().await {
        stream.outlet.refuse(STATUS_REFUSED_STREAM).await;
    }
}

impl End {
    /// Tells the client how it ended, and that nothing more will come.
    pub(super) async fn tell(&self, outcome: &Outcome) {
        if let Some(text) = self.telling.text(outcome) {
            let _ = self.error.send(text).await;
        }
        for stream in &self.streams {
            stream.close().await;
        }
    }
}

impl Telling {
    fn text(self, outcome: &Outcome) -> Option<Bytes> {
        match self {
            Telling::Status => Some(status(outcome).to_string().into()),
            Telling::Words => words(outcome).map(Bytes::from),
        }
    }
}

/// A Kubernetes `Status` object.
fn status(outcome: &Outcome) -> serde_json::Value {
    match outcome {
        Outcome::Done => json!({ "metadata": {}, "status": "Success" }),
        Outcome::Exit(code) => json!({
            "metadata": {},
            "status": "Failure",
            "message": format!("command terminated with non-zero exit code: exit status {code}"),
            "reason": "NonZeroExitCode",
            "details": { "causes": [{ "reason": "ExitCode", "message": code.to_string() }] },
        }),
        Outcome::Failed(message) => json!({
            "metadata": {},
            "status": "Failure",
            "message": message,
            "reason": "InternalError",
            "details": { "causes": [{ "message": message }] },
            "code": 500,
        }),
    }
}

fn words(outcome: &Outcome) -> Option<String> {
    match outcome {
        Outcome::Done => None,
        Outcome::Exit(code) => {
            Some(format!("command terminated with non-zero exit code: exit status {code}"))
        }
        Outcome::Failed(message) => Some(message.clone()),
    }
}

/// The sizes that a client wishes its terminal to have.
#[derive(Debug)]
pub(super) struct Sizes {
    source: Source,
    text: Vec<u8>,
}

#[derive(Debug)]
enum Source {
    Open(DuplexStream),
    /// The SPDY client did not open the stream yet.
    Late(mpsc::Receiver<Incoming>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Size {
    pub(super) width: u16,
    pub(super) height: u16,
}

impl Sizes {
    fn of(inlet: DuplexStream) -> Sizes {
        Sizes { source: Source::Open(inlet), text: Vec::new() }
    }

    fn late(incoming: mpsc::Receiver<Incoming>) -> Sizes {
        Sizes { source: Source::Late(incoming), text: Vec::new() }
    }

    /// The next size; none when no more will come.
    pub(super) async fn next(&mut self) -> Option<Size> {
        loop {
            if let Some(size) = self.parse() {
                return Some(size);
            }
            if self.text.len() > SIZE_MAX_BYTES {
                return None;
            }
            match &mut self.source {
                Source::Open(inlet) => match inlet.read_buf(&mut self.text).await {
                    Ok(0) | Err(_) => return None,
                    Ok(_) => {}
                },
                Source::Late(incoming) => {
                    let stream = incoming.recv().await?;
                    if stream.headers.get("streamtype") == Some("resize") {
                        self.source = Source::Open(stream.inlet);
                    } else {
                        stream.outlet.refuse(STATUS_REFUSED_STREAM).await;
                    }
                }
            }
        }
    }

    /// Takes one JSON object off the front.
    fn parse(&mut self) -> Option<Size> {
        let mut objects = serde_json::Deserializer::from_slice(&self.text).into_iter::<Size>();
        let size = objects.next()?.ok()?;
        let taken = objects.byte_offset();
        self.text.drain(..taken);
        Some(size)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;

    use super::*;

    #[test]
    fn the_end_is_told_in_the_words_of_the_version() {
        let text = |telling: Telling, outcome| {
            telling.text(&outcome).map(|text| String::from_utf8_lossy(&text).into_owned())
        };
        assert_eq!(text(Telling::Words, Outcome::Done), None);
        assert!(text(Telling::Words, Outcome::Exit(3)).unwrap().ends_with("exit status 3"));
        let done: serde_json::Value =
            serde_json::from_str(&text(Telling::Status, Outcome::Done).unwrap()).unwrap();
        assert_eq!(done["status"], "Success");
        let exit = status(&Outcome::Exit(137));
        assert_eq!(
            (&exit["reason"], &exit["details"]["causes"][0]),
            (&json!("NonZeroExitCode"), &json!({"reason": "ExitCode", "message": "137"}))
        );
        assert_eq!(status(&Outcome::Failed("no".into()))["reason"], "InternalError");
    }

    #[tokio::test]
    async fn sizes_are_read_however_they_are_cut() {
        let (mut client, inlet) = tokio::io::duplex(4096);
        let mut sizes = Sizes::of(inlet);
        client.write_all(b"{\"Width\":80,\"Height\":24}\n{\"Width\":1").await.unwrap();
        assert_eq!(sizes.next().await, Some(Size { width: 80, height: 24 }));
        client.write_all(b"00,\"Height\":30}").await.unwrap();
        assert_eq!(sizes.next().await, Some(Size { width: 100, height: 30 }));
        client.write_all(&[b'x'; 2000]).await.unwrap();
        assert_eq!(sizes.next().await, None);
    }
}
