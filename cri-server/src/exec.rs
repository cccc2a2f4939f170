//! ExecSync: runs a command in a container and gives what it said.
//!
//! The process writes into our pipes itself; nothing passes through the monitor. When it has ended, what
//! the pipes still hold is taken without waiting for others who hold them open (a daemon it started).

use std::io::ErrorKind;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use conmon_protocol::{Ask, ExecPlan, Exit};
use rustix::pipe::PipeFlags;
use tokio::net::unix::pipe;

use crate::container;
use crate::error::Error;
use crate::monitor::{self, Monitor};
use crate::node::new_id;

/// What is kept of each stream; the CRI says to drop the rest in silence.
const OUTPUT_MAX: usize = 16 << 20;
const READ_BYTES: usize = 16 << 10;
/// What is kept of all streams of the node at once: sixteen floods may be as large as they are allowed to be,
/// more share that.
const ALL_OUTPUT_MAX: usize = 256 << 20;

/// What all collectors hold now.
static ALL_OUTPUT: AtomicUsize = AtomicUsize::new(0);

/// What a command said, and how it ended.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Output {
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
    pub exit_code: i32,
}

/// Which of its own streams a process gets.
#[derive(Debug, Clone, Copy, Default)]
pub struct Streams {
    pub terminal: bool,
    pub stdin: bool,
    pub stdout: bool,
    pub stderr: bool,
}

/// The words for the monitor. `timeout_s` of 0 or less is none.
pub fn plan(facts: &container::Facts, command: &[String], streams: Streams, timeout_s: i64) -> ExecPlan {
    ExecPlan {
        exec_id: new_id(),
        container_id: facts.id.to_string(),
        process: container::plan::exec_process(&facts.made.plan, command, streams.terminal),
        terminal: streams.terminal,
        stdin: streams.stdin,
        stdout: streams.stdout,
        stderr: streams.stderr,
        timeout_ms: u64::try_from(timeout_s).ok().filter(|s| *s > 0).map(|s| s.saturating_mul(1000)),
    }
}

/// # Errors
/// When the command cannot be started, or was killed since its time was over.
pub async fn run(monitor: Monitor, plan: ExecPlan) -> Result<Output, Error> {
    let (stdout, stdout_end) = pipe_pair()?;
    let (stderr, stderr_end) = pipe_pair()?;
    let abandoned = Abandoned { monitor: monitor.clone(), exec_id: Some(plan.exec_id.clone()) };
    let timeout = (plan.timeout_ms, plan.process["args"][0].as_str().unwrap_or_default().to_string());
    let exec = monitor.exec(plan, vec![stdout_end, stderr_end]).await?;
    let (mut out, mut err) = (Collector::new(stdout), Collector::new(stderr));
    let mut ended = exec.ended;
    let end = loop {
        tokio::select! {
            biased;
            () = out.collect() => {}
            () = err.collect() => {}
            end = &mut ended => break end.map_err(|_| monitor::Error::Gone)?,
        }
    };
    abandoned.forgive();
    out.take_rest();
    err.take_rest();
    if end.timed_out {
        let timeout_s = timeout.0.map_or(0, |ms| i64::try_from(ms / 1000).unwrap_or(i64::MAX));
        return Err(Error::ExecTimeout { command: timeout.1, timeout_s });
    }
    if end.code == Exit::UNSEEN {
        return Err(monitor::Error::Unseen.into());
    }
    let (stdout, stderr) = (std::mem::take(&mut out.kept), std::mem::take(&mut err.kept));
    Ok(Output { stdout, stderr, exit_code: end.code })
}

fn pipe_pair() -> Result<(pipe::Receiver, OwnedFd), Error> {
    let failed = |source| Error::Io { doing: "making a pipe".into(), source: Arc::new(source) };
    let (read, write) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC).map_err(|e| failed(e.into()))?;
    Ok((pipe::Receiver::from_owned_fd(read).map_err(failed)?, write))
}

/// Takes what a stream brings and keeps the beginning of it.
struct Collector {
    /// None once the stream has ended.
    stream: Option<pipe::Receiver>,
    kept: Vec<u8>,
    /// Its part of [`ALL_OUTPUT`].
    counted: usize,
}

impl Collector {
    fn new(stream: pipe::Receiver) -> Self {
        Self { stream: Some(stream), kept: Vec::new(), counted: 0 }
    }

    /// Waits for more and takes it. Never ready once the stream has ended.
    async fn collect(&mut self) {
        match &self.stream {
            Some(stream) if stream.readable().await.is_ok() => {
                self.take_some(|stream, bytes| stream.try_read(bytes));
            }
            Some(_) => self.stream = None,
            None => std::future::pending().await,
        }
    }

    /// Takes what is there without waiting, and no more than a pipe holds: others may write on for ever.
    ///
    /// The kernel is asked, and not tokio, which has perhaps not heard of it yet: news of the process's end overtake
    /// those of its output when both are there at once.
    fn take_rest(&mut self) {
        let Some(stream) = &self.stream else { return };
        let mut room = rustix::pipe::fcntl_getpipe_size(stream).unwrap_or(0);
        while let Some(count @ 1..) = self.take_some(|stream, bytes| Ok(rustix::io::read(stream, bytes)?)) {
            room = room.saturating_sub(count);
            if room == 0 {
                return;
            }
        }
    }

    fn keep(&mut self, bytes: &[u8]) {
        let wanted = bytes.len().min(OUTPUT_MAX - self.kept.len());
        let before = ALL_OUTPUT.fetch_add(wanted, Ordering::Relaxed);
        let room = wanted.min(ALL_OUTPUT_MAX.saturating_sub(before));
        ALL_OUTPUT.fetch_sub(wanted - room, Ordering::Relaxed);
        self.counted += room;
        self.kept.extend_from_slice(&bytes[..room]);
    }

    /// How many bytes came; none when there are none now, or no more.
    fn take_some(
        &mut self,
        read: impl FnOnce(&pipe::Receiver, &mut [u8]) -> std::io::Result<usize>,
    ) -> Option<usize> {
        let stream = self.stream.as_ref()?;
        let mut bytes = [0; READ_BYTES];
        match read(stream, &mut bytes) {
            Ok(count @ 1..) => {
                self.keep(&bytes[..count]);
                Some(count)
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => None,
            Ok(0) | Err(_) => {
                self.stream = None;
                None
            }
        }
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        ALL_OUTPUT.fetch_sub(self.counted, Ordering::Relaxed);
    }
}

/// Kills a process whose asker went away.
struct Abandoned {
    monitor: Monitor,
    exec_id: Option<String>,
}

impl Abandoned {
    fn forgive(mut self) {
        self.exec_id = None;
    }
}

impl Drop for Abandoned {
    fn drop(&mut self) {
        if let Some(exec_id) = self.exec_id.take() {
            let monitor = self.monitor.clone();
            tokio::spawn(async move { monitor.insist(Ask::KillExec { exec_id }).await });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[tokio::test]
    async fn what_is_left_in_a_pipe_is_taken_while_others_hold_it_open() {
        let (read, write) = pipe_pair().unwrap();
        let held = write.try_clone().unwrap();
        std::fs::File::from(write).write_all(b"hello").unwrap();
        let mut collector = Collector::new(read);
        collector.collect().await;
        collector.take_rest();
        assert_eq!(collector.kept, b"hello");
        drop(held);
    }

    #[tokio::test]
    async fn what_a_process_said_is_taken_though_only_its_end_was_heard_of() {
        let (read, write) = pipe_pair().unwrap();
        let mut collector = Collector::new(read);
        std::fs::File::from(write).write_all(b"hello").unwrap();
        collector.take_rest();
        assert_eq!(collector.kept, b"hello");
    }

    #[tokio::test]
    async fn who_writes_on_for_ever_is_not_waited_for() {
        let (read, write) = pipe_pair().unwrap();
        let mut collector = Collector::new(read);
        let flood = std::thread::spawn(move || {
            let mut write = std::fs::File::from(write);
            while write.write_all(&[b'x'; 4096]).is_ok() {}
        });
        while collector.kept.is_empty() {
            collector.take_rest();
        }
        // Some of it came while the rest was taken.
        assert!(collector.kept.len() < OUTPUT_MAX / 2, "{}", collector.kept.len());
        drop(collector);
        flood.join().unwrap();
    }

    #[tokio::test]
    async fn more_than_the_limit_is_dropped_in_silence() {
        let (read, write) = pipe_pair().unwrap();
        let mut collector = Collector::new(read);
        collector.kept = vec![0; OUTPUT_MAX - 2];
        std::fs::File::from(write).write_all(b"hello").unwrap();
        collector.collect().await;
        assert_eq!(collector.kept.len(), OUTPUT_MAX);
        assert!(collector.kept.ends_with(b"he"));
    }
}
