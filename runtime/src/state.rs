//! The record of a container: `state.json` in its directory under the runtime's root, and what it is now.
//!
//! The record says what was made; whether it lives is asked of the kernel. The start FIFO is there until `start`.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use serde::{Deserialize, Serialize};

use crate::cgroup::{self, Cgroup, Scope};
use crate::later::Later;
use crate::listener::Listener;
use crate::plan::MemoryPolicy;
use crate::seccomp::Filter;
use crate::shared_root::SharedRoot;
use crate::spec::{self, Hooks};
use crate::{Error, rdt};

/// What `state` answers: the OCI specification's words.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct State {
    pub oci_version: String,
    pub id: String,
    pub status: Status,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pid: Option<i32>,
    pub bundle: PathBuf,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    Creating,
    Created,
    Running,
    /// Frozen by `pause`. Not one of the specification's words; runc's, and engines know it.
    Paused,
    Stopped,
}

impl Status {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Status::Creating => "creating",
            Status::Created => "created",
            Status::Running => "running",
            Status::Paused => "paused",
            Status::Stopped => "stopped",
        }
    }
}

/// `state.json`: all that `start`, `exec`, `kill` and `delete` need, whichever process they run in.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) id: String,
    pub(crate) bundle: PathBuf,
    #[serde(default)]
    pub(crate) annotations: BTreeMap<String, String>,
    /// None until the init is cloned.
    pub(crate) init: Option<Init>,
    pub(crate) cgroup_path: String,
    /// systemd's unit that the cgroup is in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) scope: Option<Scope>,
    /// Flags of the namespaces that are not the host's.
    pub(crate) namespaces: u64,
    /// Flags of the seccomp filter beside the record.
    pub(crate) seccomp_flags: Option<u32>,
    pub(crate) personality: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) memory_policy: Option<MemoryPolicy>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) listener: Option<Listener>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) shared_root: Option<SharedRoot>,
    /// The container's place in resctrl.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) rdt: Option<rdt::Groups>,
    /// What an exec from the command line takes over.
    pub(crate) process: spec::Process,
    pub(crate) hooks: Hooks,
    /// Seconds since the epoch.
    pub(crate) created_s: u64,
    /// Of the boot that it was made in, where the record may outlive that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) boot_id: Option<String>,
    /// Its processes, and whatever else was of that boot, are gone.
    #[serde(skip)]
    pub(crate) of_earlier_boot: bool,
}

/// A process, told from any later one of the same number by the time of its start.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Init {
    pub(crate) pid: i32,
    /// Clock ticks since boot.
    pub(crate) start_time: u64,
}

/// A container's directory.
#[derive(Debug, Clone)]
pub(crate) struct StateDir {
    pub(crate) path: PathBuf,
    id: String,
}

const RECORD: &str = "state.json";
const RECORD_NEW: &str = "state.json.new";
const FIFO: &str = "start.fifo";
/// Where the init says, between `start` and its program, that a hook failed.
const OUTCOME: &str = "outcome.fifo";
const FILTER: &str = "seccomp.bpf";
const RESOURCES: &str = "resources.json";
const RESOURCES_NEW: &str = "resources.json.new";
/// No record, configuration or filter comes near.
const MAX_READ: u64 = 16 << 20;
const FIRST_READ: usize = 32 << 10;

/// What became of an init after its `start`.
#[derive(Debug)]
pub(crate) struct Outcome(OwnedFd);

impl Outcome {
    /// Waits until the init is its program, or has said that a hook failed. Each hook has its bound.
    pub(crate) fn wait(self) -> Result<(), Error> {
        use rustix::event::{PollFd, PollFlags, poll};
        let at = |e: Errno| Error::step("waiting for", "the startContainer hooks", e);
        let mut text = [0; 4096];
        let length = loop {
            let mut fds = [PollFd::new(&self.0, PollFlags::IN)];
            match poll(&mut fds, None).and_then(|_| rustix::io::read(&self.0, &mut text)) {
                Err(Errno::INTR | Errno::AGAIN) => {}
                other => break other.map_err(at)?,
            }
        };
        let mut parts = text[..length].splitn(2, |&byte| byte == 0);
        let mut part = || String::from_utf8_lossy(parts.next().unwrap_or_default()).into_owned();
        if length == 0 { Ok(()) } else { Err(Error::Hook { path: part().into(), reason: part() }) }
    }
}

impl StateDir {
    /// An id becomes a directory's name, so it may hold only what runc allows.
    pub(crate) fn of(root: &Path, id: &str) -> Result<StateDir, Error> {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '+' | '-' | '.');
        if id.is_empty() || id.len() > 255 || !id.chars().all(plain) || matches!(id, "." | "..") {
            return Err(Error::invalid(
                "container id",
                format!("{id:?} may hold only letters, digits and _+-."),
            ));
        }
        Ok(StateDir { path: root.join(id), id: id.to_owned() })
    }

    pub(crate) fn make(&self) -> Result<(), Error> {
        let mut builder = fs::DirBuilder::new();
        builder.mode(0o700);
        match builder.create(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let parent = self.path.parent().unwrap_or(Path::new("/"));
                builder.recursive(true).create(parent).map_err(|e| self.step("making", e))?;
                builder.recursive(false).create(&self.path).map_err(|e| self.step("making", e))
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                Err(Error::Exists { id: self.id.clone() })
            }
            other => other.map_err(|e| self.step("making", e)),
        }
    }

    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    pub(crate) fn exists(&self) -> bool {
        self.path.exists()
    }

    /// The first record of a new directory. Whoever dies in the middle of it has made nothing else.
    pub(crate) fn write_first(&self, record: &Record, later: &Later) -> Result<(), Error> {
        self.write_file(RECORD, &self.encode(record)?, later)
    }

    /// In place of the one that is there; a reader finds either.
    pub(crate) fn write(&self, record: &Record, later: &Later) -> Result<(), Error> {
        self.write_file(RECORD_NEW, &self.encode(record)?, later)?;
        fs::rename(self.path.join(RECORD_NEW), self.path.join(RECORD)).map_err(|e| self.step("renaming", e))
    }

    fn encode(&self, record: &Record) -> Result<Vec<u8>, Error> {
        let mut bytes = Vec::with_capacity(4096);
        serde_json::to_writer(&mut bytes, record)
            .map_err(|source| Error::Config { path: self.path.join(RECORD), source })?;
        Ok(bytes)
    }

    fn write_file(&self, name: &str, bytes: &[u8], later: &Later) -> Result<(), Error> {
        let path = self.path.join(name);
        let mut options = fs::OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600);
        options
            .open(&path)
            .and_then(|mut file| {
                io::Write::write_all(&mut file, bytes)?;
                later.close(file);
                Ok(())
            })
            .map_err(|e| Error::step("writing", path.display().to_string(), e))
    }

    pub(crate) fn read(&self) -> Result<Record, Error> {
        match self.read_if_there()? {
            Some(record) => Ok(record),
            None => Err(Error::NotFound { id: self.id.clone() }),
        }
    }

    /// A directory without a record is that of a create which died before it had made anything else.
    pub(crate) fn read_if_there(&self) -> Result<Option<Record>, Error> {
        let path = self.path.join(RECORD);
        let bytes = match fs::File::open(&path).and_then(|mut file| read_whole(&mut file)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other.map_err(|e| self.step("reading the record of", e))?,
        };
        let mut record: Record =
            serde_json::from_slice(&bytes).map_err(|source| Error::Config { path, source })?;
        record.of_earlier_boot = record.boot_id.is_some() && record.boot_id != boot_id();
        Ok(Some(record))
    }

    /// What a record here has to say about the boot: nothing on tmpfs, which ends with it.
    pub(crate) fn boot_id(&self) -> Option<String> {
        /// linux/magic.h.
        const TMPFS_MAGIC: rustix::fs::FsWord = 0x0102_1994;
        let on_tmpfs = rustix::fs::statfs(&self.path).is_ok_and(|fs| fs.f_type == TMPFS_MAGIC);
        if on_tmpfs { None } else { boot_id() }
    }

    /// Made and opened at both ends, so that the one who waits at it neither blocks in open nor sees its end.
    pub(crate) fn make_fifo(&self) -> Result<OwnedFd, Error> {
        use rustix::fs::{CWD, FileType, Mode, OFlags, mknodat, open};
        let path = self.path.join(FIFO);
        mknodat(CWD, &path, FileType::Fifo, Mode::from_raw_mode(0o600), 0)
            .and_then(|()| open(&path, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()))
            .map_err(|e| Error::step("making", path.display().to_string(), e))
    }

    /// The same for whoever still holds the FIFO that it made.
    pub(crate) fn release_by(&self, fifo: &OwnedFd) -> rustix::io::Result<()> {
        rustix::fs::unlink(self.path.join(FIFO))?;
        rustix::io::write(fifo, b"0").map(drop)
    }

    /// Lets the init go on. The FIFO goes first: of two starts only one finds it.
    pub(crate) fn release(&self) -> rustix::io::Result<()> {
        use rustix::fs::{Mode, OFlags, open, unlink};
        let path = self.path.join(FIFO);
        let fifo = open(&path, OFlags::WRONLY | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty())?;
        unlink(&path)?;
        rustix::io::write(fifo, b"0").map(drop)
    }

    /// Made and opened to be written: it ends when the init has become its program, or has ended.
    pub(crate) fn make_outcome(&self) -> Result<OwnedFd, Error> {
        use rustix::fs::{CWD, FileType, Mode, OFlags, mknodat, open};
        let path = self.path.join(OUTCOME);
        let open_for = |flags: OFlags| open(&path, flags | OFlags::CLOEXEC, Mode::empty());
        // Nobody can open it for writing alone before somebody reads.
        let both = mknodat(CWD, &path, FileType::Fifo, Mode::from_raw_mode(0o600), 0)
            .and_then(|()| open_for(OFlags::RDWR));
        both.and_then(|_both| open_for(OFlags::WRONLY))
            .map_err(|e| Error::step("making", path.display().to_string(), e))
    }

    /// To be opened before `release`, and read to its end after it; none where nothing is waited for.
    pub(crate) fn open_outcome(&self) -> Result<Option<Outcome>, Error> {
        use rustix::fs::{Mode, OFlags, open};
        let path = self.path.join(OUTCOME);
        match open(&path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty()) {
            Err(Errno::NOENT) => Ok(None),
            other => other
                .map(|fifo| Some(Outcome(fifo)))
                .map_err(|e| Error::step("opening", path.display().to_string(), e)),
        }
    }

    pub(crate) fn remove_fifo(&self) -> Result<(), Error> {
        fs::remove_file(self.path.join(FIFO)).map_err(|e| self.step("removing the FIFO of", e))
    }

    pub(crate) fn waits_for_start(&self) -> bool {
        self.path.join(FIFO).exists()
    }

    /// Keeps the filter for exec: another name of the cached one where there is one, else a copy.
    pub(crate) fn keep_filter(
        &self,
        filter: &Filter,
        cached: Option<&Path>,
        later: &Later,
    ) -> Result<(), Error> {
        let own = self.path.join(FILTER);
        match cached.map(|cached| fs::hard_link(cached, own)) {
            Some(Ok(())) => Ok(()),
            Some(Err(_)) | None => self.write_file(FILTER, &filter.to_bytes(), later),
        }
    }

    pub(crate) fn read_filter(&self) -> Result<Filter, Error> {
        let bytes = fs::read(self.path.join(FILTER)).map_err(|e| self.step("reading the filter of", e))?;
        let damaged = || self.step("reading the filter of", io::ErrorKind::InvalidData.into());
        Filter::from_bytes(&bytes).ok_or_else(damaged)
    }

    /// What `update` left; none: the configuration's are in force.
    pub(crate) fn read_resources(&self) -> Result<Option<spec::Resources>, Error> {
        let path = self.path.join(RESOURCES);
        let bytes = match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other.map_err(|e| self.step("reading the limits of", e))?,
        };
        serde_json::from_slice(&bytes).map(Some).map_err(|source| Error::Config { path, source })
    }

    pub(crate) fn write_resources(&self, resources: &spec::Resources) -> Result<(), Error> {
        let path = self.path.join(RESOURCES);
        let bytes =
            serde_json::to_vec(resources).map_err(|source| Error::Config { path: path.clone(), source })?;
        self.write_file(RESOURCES_NEW, &bytes, &Later::default())?;
        fs::rename(self.path.join(RESOURCES_NEW), path).map_err(|e| self.step("renaming", e))
    }

    pub(crate) fn remove(&self) -> Result<(), Error> {
        // What is there in nearly every case; the rest takes a look.
        for name in [RECORD, FILTER] {
            let _ = fs::remove_file(self.path.join(name));
        }
        match fs::remove_dir(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => self.remove_all(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other.map_err(|e| self.step("removing", e)),
        }
    }

    fn remove_all(&self) -> Result<(), Error> {
        match fs::remove_dir_all(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other.map_err(|e| self.step("removing", e)),
        }
    }

    fn step(&self, step: &'static str, source: io::Error) -> Error {
        Error::step(step, self.path.display().to_string(), source)
    }
}

fn boot_id() -> Option<String> {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").ok().map(|id| id.trim_end().to_owned())
}

/// A JSON file, in one read if that ends as JSON does.
///
/// # Errors
/// The kernel's.
pub fn read_whole(file: &mut fs::File) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; FIRST_READ];
    let length = io::Read::read(file, &mut bytes)?;
    bytes.truncate(length);
    if length == FIRST_READ || bytes.trim_ascii_end().last() != Some(&b'}') {
        // A large one, or a pipe that had not yet all of it.
        io::Read::read_to_end(&mut io::Read::take(file, MAX_READ), &mut bytes)?;
    }
    Ok(bytes)
}

impl Record {
    /// Its cgroup, opened for nothing yet.
    pub(crate) fn cgroup(&self) -> Result<Cgroup, cgroup::Error> {
        Ok(Cgroup::at(&self.cgroup_path)?.in_scope(self.scope.clone()))
    }

    pub(crate) fn state(&self, status: Status) -> State {
        State {
            oci_version: spec::OCI_VERSION.to_owned(),
            id: self.id.clone(),
            status,
            pid: self.init.filter(|_| status != Status::Stopped).map(|init| init.pid),
            bundle: self.bundle.clone(),
            annotations: self.annotations.clone(),
        }
    }

    /// Without a PID namespace of its own the kernel ends nobody when the init ends.
    pub(crate) fn outlives_its_init(&self) -> bool {
        self.namespaces & kernel::clone_flags::NEWPID == 0 && !self.of_earlier_boot
    }

    pub(crate) fn status(&self, dir: &StateDir) -> Status {
        match &self.init {
            // Whoever made it did not live to tell.
            _ if self.of_earlier_boot => Status::Stopped,
            None => Status::Creating,
            Some(init) if !init.is_alive() => Status::Stopped,
            Some(_) if dir.waits_for_start() => Status::Created,
            Some(_) => Status::Running,
        }
    }
}

impl Init {
    pub(crate) fn of(pid: i32, later: &Later) -> Result<Init, Error> {
        let stat =
            read_stat(pid, later).map_err(|e| Error::step("reading", format!("/proc/{pid}/stat"), e))?;
        Ok(Init { pid, start_time: stat.start_time })
    }

    /// A zombie has ended, whether or not its parent has looked.
    pub(crate) fn is_alive(&self) -> bool {
        read_stat(self.pid, &Later::default())
            .is_ok_and(|stat| stat.start_time == self.start_time && !stat.is_dead)
    }

    /// Gone, number and all. A number that is another's by now counts as its own: who cares takes a closer look.
    pub(crate) fn has_ended(&self) -> bool {
        Pid::from_raw(self.pid).is_none_or(|pid| rustix::process::test_kill_process(pid) == Err(Errno::SRCH))
    }

    /// Its pidfd, or `None` when it has ended. Opened first and compared after, so it cannot be another's.
    pub(crate) fn open(&self) -> Option<OwnedFd> {
        let pidfd = pidfd_open(Pid::from_raw(self.pid)?, PidfdFlags::empty()).ok()?;
        self.is_alive().then_some(pidfd)
    }
}

pub(crate) struct Stat {
    is_dead: bool,
    start_time: u64,
}

/// proc_pid_stat(5). The command's name may hold anything, so fields are counted from its last parenthesis.
fn read_stat(pid: i32, later: &Later) -> io::Result<Stat> {
    // In one go: procfs has no size to plan by. A line is half as long at most.
    let mut text = [0; 1024];
    let mut file = fs::File::open(format!("/proc/{pid}/stat"))?;
    let length = io::Read::read(&mut file, &mut text)?;
    later.close(file);
    parse_stat(&text[..length]).ok_or_else(|| io::Error::from(Errno::INVAL))
}

pub(crate) fn parse_stat(text: &[u8]) -> Option<Stat> {
    let after_name = text.iter().rposition(|&byte| byte == b')')? + 2;
    let rest = std::str::from_utf8(text.get(after_name..)?).ok()?;
    let mut fields = rest.split(' ');
    let is_dead = matches!(fields.next()?, "Z" | "X");
    // Field 22; the state is field 3.
    let start_time = fields.nth(18)?.parse().ok()?;
    Some(Stat { is_dead, start_time })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_parentheses_does_not_mislead() {
        let line = b"7 (a) Z 1 (b)) S 1 7 7 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 4242 5 6";
        let stat = parse_stat(line).unwrap();
        assert!(!stat.is_dead);
        assert_eq!(stat.start_time, 4242);
    }

    #[test]
    fn an_id_cannot_leave_the_root() {
        for id in ["", ".", "..", "a/b", "a b", "ä"] {
            assert!(StateDir::of(Path::new("/r"), id).is_err(), "{id:?}");
        }
        assert!(StateDir::of(Path::new("/r"), "a-1_B.c+d").is_ok());
    }
}
