//! A pod with a user namespace of its own: its other namespaces must be made from inside it, and nobody comes
//! back from there. So a child goes, furnishes, and waits until the monitor has pinned what it made.
//!
//! ```text
//! monitor                       child
//!    ── spawn ─────────────────►  unshare(NEWUSER)
//!    ◄───────────── "u" ────────  waits
//!    writes uid_map, gid_map
//!    ── the plan, end of file ──►  becomes root there, unshares the rest, furnishes
//!    ◄── what came of it ────────  waits for SIGKILL
//!    pins /proc/<child>/ns/*, kills
//! ```

use std::fs;
use std::io::{BufRead as _, Read, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use conmon_protocol::{IdMap, PidSharing, PodPlan, RefusalKind};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{Gid, Uid, setgroups, setresgid, setresuid};
use serde::{Deserialize, Serialize};

use super::{furnish, init, owned, pin};
use crate::error::{Error, Named as _};
use crate::reap::Birth;

pub(crate) const ARGUMENT: &str = "--in-user-namespace";

/// The kernel's bound on lines of a map.
const MAX_MAPS: usize = 340;
const MAX_REPLY: u64 = 64 << 10;

#[derive(Debug, Serialize, Deserialize)]
struct Outcome {
    init: Option<Birth>,
    error: Option<String>,
}

pub(super) fn make(plan: &PodPlan, pins: &Path) -> Result<Option<Birth>, Error> {
    let mut child = Command::new("/proc/self/exe")
        .arg(ARGUMENT)
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .named("starting", "a child for the pod's user namespace")?;
    let result = lead(&mut child, plan, pins);
    let _ = child.kill();
    let _ = child.wait();
    result
}

fn lead(child: &mut Child, plan: &PodPlan, pins: &Path) -> Result<Option<Birth>, Error> {
    let process = PathBuf::from(format!("/proc/{}", child.id()));
    let mut stdout = child.stdout.take().ok_or_else(|| lost("has no stdout"))?;
    let mut said = [0; 1];
    stdout.read_exact(&mut said).named("making a user namespace of", "the pod")?;
    let maps = plan.user.as_ref().ok_or_else(|| lost("has no plan"))?;
    write_map(&process.join("uid_map"), &maps.uids)?;
    write_map(&process.join("gid_map"), &maps.gids)?;
    send_plan(child, plan)?;
    let outcome = hear_outcome(stdout)?;
    if let Some(error) = outcome.error {
        return Err(Error::refused(RefusalKind::Failed, error));
    }
    pin::pin_all(&process.join("ns"), pins, owned(plan) | CloneFlags::CLONE_NEWUSER)?;
    if let Some(init) = outcome.init {
        pin::pin(&PathBuf::from(format!("/proc/{}/ns/pid", init.pid)), &pins.join("pid"))?;
    }
    Ok(outcome.init)
}

fn write_map(path: &Path, maps: &[IdMap]) -> Result<(), Error> {
    if maps.is_empty() || maps.len() > MAX_MAPS {
        let message = format!("a user namespace needs 1 to {MAX_MAPS} maps, not {}", maps.len());
        return Err(Error::refused(RefusalKind::Invalid, message));
    }
    let line = |map: &IdMap| format!("{} {} {}\n", map.container_id, map.host_id, map.length);
    fs::write(path, maps.iter().map(line).collect::<String>()).named("writing", path)
}

fn send_plan(child: &mut Child, plan: &PodPlan) -> Result<(), Error> {
    let mut stdin = child.stdin.take().ok_or_else(|| lost("has no stdin"))?;
    let bytes = serde_json::to_vec(plan).map_err(|source| Error::Json {
        step: "writing",
        object: "the pod's plan".into(),
        source,
    })?;
    stdin.write_all(&bytes).named("sending the plan to", "the pod's user namespace")
}

/// One line; the child stays, so there is no end of file after it.
fn hear_outcome(stdout: impl Read) -> Result<Outcome, Error> {
    let mut line = Vec::new();
    let mut lines = std::io::BufReader::with_capacity(512, stdout.take(MAX_REPLY));
    lines.read_until(b'\n', &mut line).named("hearing from", "the pod's user namespace")?;
    serde_json::from_slice(&line).map_err(|_| lost("ended before it was done"))
}

fn lost(why: &str) -> Error {
    Error::refused(RefusalKind::Failed, format!("the child for the pod's user namespace {why}"))
}

/// What the child does, until it is killed.
pub(crate) fn run() -> ! {
    let outcome = match make_inside() {
        Ok(init) => Outcome { init, error: None },
        Err(error) => Outcome { init: None, error: Some(error.chain()) },
    };
    let mut line = serde_json::to_vec(&outcome).unwrap_or_default();
    line.push(b'\n');
    let mut stdout = std::io::stdout();
    if stdout.write_all(&line).and_then(|()| stdout.flush()).is_err() {
        std::process::exit(1);
    }
    loop {
        rustix::event::pause();
    }
}

fn make_inside() -> Result<Option<Birth>, Error> {
    die_with_the_monitor()?;
    unshare(CloneFlags::CLONE_NEWUSER).named("making a user namespace of", "the pod")?;
    let mut stdout = std::io::stdout();
    stdout.write_all(b"u").and_then(|()| stdout.flush()).named("telling", "the monitor")?;
    let mut bytes = Vec::new();
    std::io::stdin().read_to_end(&mut bytes).named("hearing from", "the monitor")?;
    let plan: PodPlan = serde_json::from_slice(&bytes).map_err(|source| Error::Json {
        step: "reading",
        object: "the pod's plan".into(),
        source,
    })?;
    become_root()?;
    unshare(owned(&plan)).named("making new namespaces of", "the pod")?;
    furnish::furnish(&plan)?;
    match plan.pid {
        PidSharing::Container | PidSharing::Host => Ok(None),
        PidSharing::Pod => {
            unshare(CloneFlags::CLONE_NEWPID).named("making a PID namespace of", "the pod")?;
            init::spawn(&plan).map(Some)
        }
    }
}

fn become_root() -> Result<(), Error> {
    let (uid, gid) = (Uid::from_raw(0), Gid::from_raw(0));
    setgroups(&[]).named("dropping groups in", "the user namespace")?;
    setresgid(gid, gid, gid).named("becoming root in", "the user namespace")?;
    setresuid(uid, uid, uid).named("becoming root in", "the user namespace")?;
    // Other credentials clear it (prctl(2)).
    die_with_the_monitor()
}

/// An orphan would hold the namespaces for ever.
fn die_with_the_monitor() -> Result<(), Error> {
    let death = rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL));
    death.named("watching", "the monitor")
}
