//! One run of one plugin: JSON in, JSON out, bounded in time and in size.

use std::io;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use serde_json::{Map, Value};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, ChildStdin, Command};
use tracing::Instrument;

use crate::conf::{Version, check_kind};
use crate::error::{Error, Refusal};

/// No result is larger.
const STDOUT_MAX_BYTES: usize = 1 << 20;
/// What is kept of a plugin's complaint; the rest is read and dropped.
const STDERR_MAX_BYTES: usize = 16 << 10;
/// How much of what a plugin said goes into an error.
const SAID_MAX_CHARS: usize = 500;
/// A plugin that left a child behind which holds its stdout is given this long to have meant it.
const DRAIN: Duration = Duration::from_millis(500);

/// How often and how long a program that is being written is waited for.
const BUSY_RETRIES: usize = 20;
const BUSY_PAUSE: Duration = Duration::from_millis(25);

/// What a plugin is asked to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verb {
    Add,
    Del,
    Check,
    Status,
    Gc,
    Version,
}

impl Verb {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Verb::Add => "ADD",
            Verb::Del => "DEL",
            Verb::Check => "CHECK",
            Verb::Status => "STATUS",
            Verb::Gc => "GC",
            Verb::Version => "VERSION",
        }
    }
}

/// What the environment tells a plugin about the attachment.
#[derive(Debug, Clone, Default)]
pub(crate) struct Target {
    pub(crate) container_id: String,
    /// Empty when the namespace is gone.
    pub(crate) netns: PathBuf,
    pub(crate) interface: String,
    pub(crate) args: String,
}

/// How plugins are run.
#[derive(Debug, Clone)]
pub(crate) struct Runner {
    pub(crate) bin_dirs: Vec<PathBuf>,
    pub(crate) timeout: Duration,
}

/// One run, named for the errors.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Run<'a> {
    pub(crate) verb: Verb,
    pub(crate) kind: &'a str,
    pub(crate) network: &'a str,
    pub(crate) target: &'a Target,
}

impl Runner {
    /// The program of a plugin.
    pub(crate) fn find(&self, kind: &str) -> Result<PathBuf, Error> {
        check_kind(kind).map_err(|rule| Error::Invalid { field: "plugin type", value: kind.into(), rule })?;
        let is_file = |path: &PathBuf| std::fs::metadata(path).is_ok_and(|meta| meta.is_file());
        self.bin_dirs
            .iter()
            .map(|dir| dir.join(kind))
            .find(is_file)
            .ok_or_else(|| Error::PluginNotFound { plugin: kind.into(), bin_dirs: self.bin_dirs.clone() })
    }

    /// Runs the plugin with this configuration and gives what it printed.
    pub(crate) async fn run(&self, run: Run<'_>, conf: &Map<String, Value>) -> Result<Vec<u8>, Error> {
        let program = self.find(run.kind)?;
        let spawn_failed = |source| Error::Spawn { plugin: run.kind.into(), source };
        let input = serde_json::to_vec(conf).map_err(|error| spawn_failed(error.into()))?;
        let running = Running::of(self.spawn_patiently(&program, run).await.map_err(spawn_failed)?);
        let span = tracing::debug_span!(
            target: "berth::span",
            "plugin",
            otel.name = format!("cni.{}", run.verb.name().to_lowercase()),
            plugin = run.kind,
            network = run.network,
        );
        match tokio::time::timeout(self.timeout, running.converse(input).instrument(span)).await {
            Ok(said) => run.judge(said.map_err(spawn_failed)?),
            Err(_) => Err(run.timed_out(self.timeout)),
        }
    }

    /// A program that is being replaced under us (an installer at work) is busy for a moment.
    async fn spawn_patiently(&self, program: &Path, run: Run<'_>) -> io::Result<Child> {
        for _ in 0..BUSY_RETRIES {
            match self.spawn(program, run) {
                Err(error) if error.kind() == io::ErrorKind::ExecutableFileBusy => {
                    tokio::time::sleep(BUSY_PAUSE).await;
                }
                outcome => return outcome,
            }
        }
        self.spawn(program, run)
    }

    fn spawn(&self, program: &Path, run: Run<'_>) -> io::Result<Child> {
        let path = std::env::join_paths(&self.bin_dirs).map_err(io::Error::other)?;
        Command::new(program)
            .env("CNI_COMMAND", run.verb.name())
            .env("CNI_CONTAINERID", &run.target.container_id)
            .env("CNI_NETNS", &run.target.netns)
            .env("CNI_IFNAME", &run.target.interface)
            .env("CNI_ARGS", &run.target.args)
            .env("CNI_PATH", path)
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
    }

    /// Which versions the plugin speaks; nothing when it does not say.
    pub(crate) async fn versions(&self, kind: &str, network: &str) -> Vec<Version> {
        let target = Target::default();
        let run = Run { verb: Verb::Version, kind, network, target: &target };
        let conf = Map::from_iter([("cniVersion".to_owned(), Value::from(Version::V1_1_0.to_string()))]);
        let Ok(said) = self.run(run, &conf).await else { return Vec::new() };
        let answer: Value = serde_json::from_slice(&said).unwrap_or_default();
        let versions = answer.get("supportedVersions").and_then(Value::as_array).into_iter().flatten();
        versions.filter_map(Value::as_str).filter_map(Version::parse).collect()
    }
}

/// A run under way. Dropped in this order: the group is killed while its leader is still unreaped.
struct Running {
    group: Group,
    child: Child,
}

/// All processes of a run. They die when nobody waits for the run any more: deadline or cancellation.
struct Group {
    leader: Option<Pid>,
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(leader) = self.leader {
            // It has gone by itself when this fails.
            let _ = kill_process_group(leader, Signal::KILL);
        }
    }
}

struct Said {
    status: ExitStatus,
    stdout: Bounded,
    stderr: Bounded,
}

/// The first bytes of a stream.
#[derive(Default)]
struct Bounded {
    bytes: Vec<u8>,
    overflowed: bool,
}

impl Running {
    fn of(child: Child) -> Running {
        let leader = child.id().and_then(|id| Pid::from_raw(id as i32));
        Running { group: Group { leader }, child }
    }

    async fn converse(mut self, input: Vec<u8>) -> io::Result<Said> {
        let stdin = self.child.stdin.take();
        let (mut out, mut err) = (self.child.stdout.take(), self.child.stderr.take());
        let (mut stdout, mut stderr) = (Bounded::default(), Bounded::default());
        let status = {
            let hear = async {
                tokio::join!(
                    stdout.fill(out.as_mut(), STDOUT_MAX_BYTES),
                    stderr.fill(err.as_mut(), STDERR_MAX_BYTES),
                    give(stdin, &input)
                )
            };
            let mut hear = std::pin::pin!(hear);
            tokio::select! {
                biased;
                status = self.child.wait() => {
                    let _ = tokio::time::timeout(DRAIN, hear).await;
                    status?
                }
                _ = &mut hear => self.child.wait().await?,
            }
        };
        // The leader was reaped, so its number may soon be somebody else's. What it left running was meant to run.
        self.group.leader = None;
        Ok(Said { status, stdout, stderr })
    }
}

/// A plugin may exit without reading; what it says then is what matters.
async fn give(stdin: Option<ChildStdin>, input: &[u8]) {
    if let Some(mut stdin) = stdin {
        let _ = stdin.write_all(input).await;
    }
}

impl Bounded {
    /// Reads to the end, keeping the first `limit` bytes.
    async fn fill(&mut self, stream: Option<&mut (impl AsyncRead + Unpin)>, limit: usize) {
        let Some(stream) = stream else { return };
        let mut chunk = vec![0; 4096];
        while let Ok(count @ 1..) = stream.read(&mut chunk).await {
            let room = limit - self.bytes.len();
            self.bytes.extend_from_slice(&chunk[..count.min(room)]);
            self.overflowed |= count > room;
        }
    }

    fn text(&self) -> String {
        let text = String::from_utf8_lossy(&self.bytes);
        text.trim().chars().take(SAID_MAX_CHARS).collect()
    }
}

impl Run<'_> {
    fn judge(self, said: Said) -> Result<Vec<u8>, Error> {
        if !said.status.success() {
            return Err(self.refused(&said));
        }
        if said.stdout.overflowed {
            return Err(self.garbage(format!("more than {STDOUT_MAX_BYTES} bytes")));
        }
        Ok(said.stdout.bytes)
    }

    fn refused(self, said: &Said) -> Error {
        let (plugin, verb, network) = (self.kind.to_owned(), self.verb.name(), self.network.to_owned());
        match serde_json::from_slice::<Refusal>(&said.stdout.bytes) {
            Ok(refusal) if self.verb == Verb::Add && refusal.is_exhaustion() => {
                Error::NoFreeAddress { network, plugin, refusal }
            }
            Ok(refusal) => Error::Refused { plugin, verb, network, refusal },
            Err(_) => {
                let both = [said.stderr.text(), said.stdout.text()];
                let said_text = both.into_iter().find(|text| !text.is_empty()).unwrap_or("nothing".into());
                Error::Crashed { plugin, verb, network, exit: said.status.to_string(), said: said_text }
            }
        }
    }

    fn timed_out(self, limit: Duration) -> Error {
        let (plugin, verb, network) = (self.kind.to_owned(), self.verb.name(), self.network.to_owned());
        Error::TimedOut { plugin, verb, network, limit }
    }

    pub(crate) fn garbage(self, said: String) -> Error {
        let (plugin, verb, network) = (self.kind.to_owned(), self.verb.name(), self.network.to_owned());
        Error::Garbage { plugin, verb, network, said }
    }
}
