//! A layer unpacked by a process of its own, so that its processor time, its memory and what it writes are counted
//! in a cgroup that isn't the daemon's.
//!
//! A thread won't do: version 2 counts memory by process, and version 1 a thread's pages with its process. The
//! process is the daemon's program run again with another word. It hears what to do in a line of JSON and then the
//! packed bytes, on its standard input; it answers on its standard error, where a panic's words go, too. When the
//! daemon dies the bytes end early, their digest is wrong, and it ends. Its standard output is a file without a
//! name, for the layer's recipe; the daemon keeps that only when the answer says that it is one.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, ExitCode, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fd::AsFd;
use serde::{Deserialize, Serialize};

use super::decrypt::Cipher;
use super::recipe::{Recorded, nameless};
use super::{Error, Expected, Limits, Unpacked, Way, open_root, unpack_sealed};
use crate::digest::Digest;
use crate::error::chain;

const READ_BYTES: usize = 256 << 10;
/// As many names of directories as are remembered of one layer, at their longest.
const MAX_ANSWER_BYTES: u64 = 32 << 20;
const MAX_JOB_BYTES: u64 = 64 << 10;
/// Of what a process says that answers nothing.
const TOLD_CHARS: usize = 300;

/// What the process is to do.
#[derive(Debug, Serialize, Deserialize)]
struct Job {
    dir: PathBuf,
    digest: Option<Digest>,
    size: Option<u64>,
    diff_id: Digest,
    bytes: u64,
    entries: u64,
    unsuspicious: u64,
    alone_below: u64,
    window_log: u32,
    cipher: Option<Cipher>,
}

#[derive(Debug, Serialize, Deserialize)]
enum Answer {
    Made { unpacked: Unpacked, recorded: bool },
    Failed { why: String, blame: Blame },
}

/// What to do about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Blame {
    Disk,
    /// A digest or a size is wrong, and the bytes may be others than were asked for.
    Bytes,
    /// A digest is wrong of bytes that were asked for.
    Layer,
    /// The bytes made no archive; they may be others than were asked for.
    Archive,
    /// A later frame asks for a larger window than the first.
    Window,
    Machine,
}

/// Runs the process. `enter` puts it where it is to be counted, before it is told anything. `dir` is empty.
/// `give_up` is called when it wants no more of `source`, which may be waiting.
pub(crate) fn unpack_apart(
    mut source: impl BufRead,
    program: &[OsString],
    enter: impl FnOnce(u32) -> io::Result<()>,
    (dir, expected): (&Path, &Expected),
    way: Way<'_>,
    limits: Limits,
    give_up: &(impl Fn() + Sync),
) -> Result<Unpacked, Error> {
    let recipe = place_for_recipe(dir);
    let mut running =
        Running::start(program, recipe.as_ref()).map_err(machine("starting the process that unpacks"))?;
    enter(running.0.id()).map_err(machine("putting the process that unpacks into its cgroup"))?;
    let job = Job {
        dir: dir.to_owned(),
        digest: expected.digest.clone(),
        size: expected.size,
        diff_id: expected.diff_id.clone(),
        bytes: limits.bytes,
        entries: limits.entries,
        unsuspicious: limits.unsuspicious,
        alone_below: way.alone_below,
        window_log: way.window_log,
        cipher: way.cipher.cloned(),
    };
    let job = serde_json::to_vec(&job).map_err(|error| machine("telling it what to do")(error.into()))?;
    let said = running.0.stderr.take();
    let has_ended = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let hearing = scope.spawn(|| {
            let answer = hear(said);
            if !matches!(answer, Ok(Answer::Made { .. })) {
                has_ended.store(true, Ordering::SeqCst);
                give_up();
            }
            answer
        });
        let fed = running.feed(&[&job[..], b"\n"].concat(), &mut source, &has_ended);
        let answer = hearing.join().unwrap_or_else(|_| Err(b"hearing it panicked".to_vec()));
        let status = running.0.wait().map_err(machine("waiting for the process that unpacks"))?;
        match (answer, fed) {
            (Ok(Answer::Failed { why, blame }), _) => Err(Error::Apart { why, blame }),
            (_, Err(error)) => Err(error),
            (Ok(Answer::Made { unpacked, recorded }), Ok(())) => {
                let recorded = Recorded(recipe.filter(|_| recorded).map(Arc::new));
                Ok(Unpacked { recorded, ..unpacked })
            }
            (Err(text), Ok(())) => Err(Error::Apart { why: ended(status, &text), blame: Blame::Machine }),
        }
    })
}

/// Without one the layer is made all the same, and can't be proven later.
fn place_for_recipe(dir: &Path) -> Option<File> {
    nameless(&open_root(dir).ok()?).ok()
}

/// The answer, or whatever else was said.
fn hear(from: Option<ChildStderr>) -> Result<Answer, Vec<u8>> {
    let mut text = Vec::new();
    if let Some(from) = from {
        // What came before a failed read is no answer.
        _ = from.take(MAX_ANSWER_BYTES).read_to_end(&mut text);
    }
    serde_json::from_slice(&text).map_err(|_| text)
}

/// Killed unless it has ended.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        _ = self.0.kill();
        _ = self.0.wait();
    }
}

impl Running {
    fn start(program: &[OsString], recipe: Option<&File>) -> io::Result<Running> {
        let (first, rest) = program.split_first().ok_or(io::ErrorKind::NotFound)?;
        let recipe = recipe.map(File::try_clone).transpose()?.map_or_else(Stdio::null, Stdio::from);
        let mut command = Command::new(first);
        command.args(rest).current_dir("/");
        command.stdin(Stdio::piped()).stdout(recipe).stderr(Stdio::piped()).spawn().map(Running)
    }

    /// Hands the bytes on until there are no more or they are not wanted. Only whole bytes have a good end: when
    /// they break off the process goes.
    fn feed(&mut self, job: &[u8], source: &mut impl BufRead, has_ended: &AtomicBool) -> Result<(), Error> {
        let Some(mut input) = self.0.stdin.take() else { return Ok(()) };
        if input.write_all(job).is_err() {
            return Ok(());
        }
        loop {
            let bytes = match source.fill_buf() {
                Ok(bytes) => bytes,
                // They broke off because it had ended: it is for that to say why.
                Err(_) if has_ended.load(Ordering::SeqCst) => return Ok(()),
                Err(error) => {
                    // First, or it takes the cut for the end.
                    _ = self.0.kill();
                    return Err(Error::Stream(error));
                }
            };
            let length = bytes.len();
            // Whoever ends early says why.
            if length == 0 || input.write_all(bytes).is_err() {
                return Ok(());
            }
            source.consume(length);
        }
    }
}

fn ended(status: ExitStatus, text: &[u8]) -> String {
    let said: String = String::from_utf8_lossy(text).trim().chars().take(TOLD_CHARS).collect();
    match status.signal() {
        Some(9) => {
            "the process that unpacks it was killed; is the memory of its cgroup too little?".to_owned()
        }
        _ => format!("the process that unpacks it ended by {status}: {said}"),
    }
}

fn machine(step: &'static str) -> impl FnOnce(io::Error) -> Error {
    move |error| Error::Apart { why: format!("{step}: {error}"), blame: Blame::Machine }
}

/// What the process does.
pub fn work() -> ExitCode {
    let answer = match worked(&mut BufReader::with_capacity(READ_BYTES, io::stdin())) {
        Ok(unpacked) => {
            let recorded = hand_over(&unpacked.recorded).unwrap_or(false);
            Answer::Made { unpacked, recorded }
        }
        Err(error) => failed(&error),
    };
    say(&answer)
}

fn worked(input: &mut (impl BufRead + Send)) -> Result<Unpacked, Error> {
    let mut line = Vec::new();
    input.by_ref().take(MAX_JOB_BYTES).read_until(b'\n', &mut line).map_err(machine("hearing what to do"))?;
    let job: Job =
        serde_json::from_slice(&line).map_err(|error| machine("hearing what to do")(error.into()))?;
    let root =
        open_root(&job.dir).map_err(|errno| machine("opening the place for the layer")(errno.into()))?;
    let expected = Expected { digest: job.digest, size: job.size, diff_id: job.diff_id };
    let limits = Limits { bytes: job.bytes, entries: job.entries, unsuspicious: job.unsuspicious };
    let way = Way { cipher: job.cipher.as_ref(), alone_below: job.alone_below, window_log: job.window_log };
    // A second thread may wait for bytes that may never come, and ends with this process.
    unpack_sealed(input, root, &expected, way, limits, |error| {
        say(&failed(error));
        std::process::exit(0);
    })
}

/// Writes the recipe where the daemon looks for it; whatever the program said there before goes.
fn hand_over(recorded: &Recorded) -> io::Result<bool> {
    let Some(recipe) = &recorded.0 else { return Ok(false) };
    let (mut recipe, mut place) =
        (recipe.try_clone()?, File::from(io::stdout().as_fd().try_clone_to_owned()?));
    recipe.rewind()?;
    place.set_len(0)?;
    place.rewind()?;
    io::copy(&mut recipe, &mut place)?;
    Ok(true)
}

fn failed(error: &Error) -> Answer {
    Answer::Failed { blame: error.blame(), why: chain(error) }
}

fn say(answer: &Answer) -> ExitCode {
    let text = serde_json::to_vec(answer).unwrap_or_default();
    if io::stderr().write_all(&text).is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

impl Error {
    fn blame(&self) -> Blame {
        if self.wants_larger_window() {
            return Blame::Window;
        }
        match (self.is_disk_full(), self.is_mismatch(), self.may_be_wrong_bytes()) {
            (true, ..) => Blame::Disk,
            (false, true, true) => Blame::Bytes,
            (false, true, false) => Blame::Layer,
            (false, false, true) => Blame::Archive,
            (false, false, false) => Blame::Machine,
        }
    }
}
