//! Checkpoint and restore through criu (3.17 or newer): a running container becomes a folder of images, and a folder
//! of images a running container.
//!
//! `criu` runs the program and speaks with it, `message` has the bytes, `mounts` what of the container's mounts is the
//! node's, `descriptors` which of its streams are, `restore` the way back.

mod criu;
mod descriptors;
mod message;
mod mounts;
mod names;
mod restore;

pub use criu::check;
pub use restore::{RestoreRequest, Then};

use std::fs::{self, File};
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use kernel::clone_flags as flag;
use rustix::fs::{Mode, OFlags};

use crate::freeze::{cgroup_of, in_cgroup, shown_status};
use crate::spec::Spec;
use crate::state::{Record, StateDir, Status};
use crate::{Error, Force, Runtime};
use criu::{Ask, Criu, Feature};
use message::Message;

/// What both ways need to know.
#[derive(Debug, Clone)]
pub struct Images {
    /// criu's name or path.
    pub program: PathBuf,
    pub dir: PathBuf,
    /// For logs; the images' own when there is none.
    pub work_dir: Option<PathBuf>,
    pub tcp_established: bool,
    /// Connections are neither saved nor restored, but closed (criu 4.0 when dumping).
    pub tcp_close: bool,
    /// Connections that nobody has accepted yet are left out, not a reason to refuse.
    pub tcp_skip_in_flight: bool,
    pub external_unix_sockets: bool,
    /// Open files that lost the name they were opened by, and have another, are linked for the dump.
    pub link_remap: bool,
    pub shell_job: bool,
    pub file_locks: bool,
    pub auto_dedup: bool,
    pub lazy_pages: bool,
    pub cgroups: CgroupMode,
    /// Namespaces whose contents are left out: flags as for clone.
    pub empty_namespaces: u64,
}

/// How criu treats cgroups and their properties.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CgroupMode {
    Ignore = 0,
    Soft = 3,
    Full = 4,
    Strict = 5,
}

/// What becomes of the container once its images are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum After {
    /// It has ended, and is deleted.
    Delete,
    /// It runs on.
    LeaveRunning,
    /// Only its memory was taken, and it runs on: the next checkpoint names this one as its parent.
    PreDump,
}

/// A checkpoint to be made.
#[derive(Debug, Clone)]
pub struct CheckpointRequest {
    pub images: Images,
    pub after: After,
    /// Images of a pre-dump, relative to the images' folder.
    pub parent: Option<PathBuf>,
    /// Memory goes to a page server at this address and port.
    pub page_server: Option<(String, u16)>,
    /// Told a zero byte when lazy pages can be fetched.
    pub status_fd: Option<i32>,
}

const DUMP_LOG: &str = "dump.log";
/// Everything that helps to find out why it failed.
const LOG_LEVEL: u64 = 4;

impl Runtime {
    /// Writes the container's processes to images.
    ///
    /// # Errors
    /// `State` when it does not run, `Criu` with criu's own words, or a step's.
    pub fn checkpoint(&self, id: &str, request: &CheckpointRequest) -> Result<(), Error> {
        let dir = StateDir::of(&self.root, id)?;
        let record = dir.read()?;
        let pid = match (shown_status(&dir, &record), record.init) {
            (Status::Running | Status::Paused, Some(init)) => init.pid,
            (is, _) => return Err(Error::State { id: id.to_owned(), is: is.as_str(), wanted: "running" }),
        };
        let program = &request.images.program;
        criu::check_version(program)?;
        if request.after == After::PreDump {
            criu::check_feature(program, Feature::MemoryTracking)?;
        }
        if request.images.lazy_pages {
            criu::check_feature(program, Feature::LazyPages)?;
        }
        let spec = spec_of(&record)?;
        let opened = Opened::make(&request.images)?;
        let mut options = options(&request.images, &opened, DUMP_LOG);
        describe(&mut options, request, pid);
        if request.after != After::PreDump {
            mounts::add_for_dump(&mut options, &spec, &record, pid)?;
            descriptors::add_for_dump(&mut options, &request.images.dir, pid)?;
        }
        name_namespaces(&mut options, &spec, pid);
        if let Some(freezer) = cgroup_of(&record)?.freezer_dir() {
            options.text(44, &freezer.display().to_string());
        }
        let ask = if request.after == After::PreDump { Ask::PreDump } else { Ask::Dump };
        let log = opened.log(&request.images, DUMP_LOG);
        self.dump(id, &opened, &message(ask, &options), &log)?;
        match request.after {
            After::Delete => self.delete(id, Force::Kill).map(drop),
            After::LeaveRunning | After::PreDump => Ok(()),
        }
    }

    fn dump(&self, id: &str, opened: &Opened, request: &Message, log: &Path) -> Result<(), Error> {
        let cgroup = cgroup_of(&StateDir::of(&self.root, id)?.read()?)?;
        let paused = cgroup.is_frozen().map_err(|e| in_cgroup(id, e))?;
        let criu = Criu::start(&opened.program, None, || opened.keep())?;
        let outcome = criu.ask(request.clone(), Some(log), |_| Ok(())).map(drop);
        if paused {
            // criu leaves one that was paused as it found it, unless it fails early. It has ended or it runs on, and
            // then as it was.
            let _ = cgroup.freeze();
        }
        outcome
    }
}

/// Folders that criu gets by descriptor.
struct Opened {
    program: PathBuf,
    images: OwnedFd,
    work: Option<OwnedFd>,
    paths: Vec<PathBuf>,
}

impl Opened {
    fn make(images: &Images) -> Result<Opened, Error> {
        Ok(Opened {
            program: images.program.clone(),
            images: open_dir(&images.dir)?,
            work: images.work_dir.as_deref().map(open_dir).transpose()?,
            paths: [&images.dir].into_iter().chain(&images.work_dir).cloned().collect(),
        })
    }

    /// In the child: open across exec.
    fn keep(&self) -> rustix::io::Result<()> {
        criu::keep(self.images.as_fd())?;
        self.work.as_ref().map_or(Ok(()), |work| criu::keep(work.as_fd()))
    }

    /// In the child, once it is in another mount namespace: criu mounts in these folders, which the kernel refuses in
    /// a folder of any other namespace.
    fn reopen(&self) -> rustix::io::Result<()> {
        for (path, fd) in self.paths.iter().zip([&self.images].into_iter().chain(&self.work)) {
            let here =
                rustix::fs::open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
            kernel::dup_onto(here.as_fd(), fd.as_raw_fd())?;
        }
        Ok(())
    }

    fn log(&self, images: &Images, name: &str) -> PathBuf {
        images.work_dir.as_ref().unwrap_or(&images.dir).join(name)
    }
}

/// Made where it is missing, for nobody but us: what is in memory is nobody else's.
fn open_dir(path: &Path) -> Result<OwnedFd, Error> {
    let at = |e| Error::step("opening the folder", path.display().to_string(), e);
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(at)?;
    File::open(path).map(OwnedFd::from).map_err(at)
}

fn message(ask: Ask, options: &Message) -> Message {
    let mut request = Message::default();
    request.number(1, ask as u64).message(2, options);
    request
}

/// `criu_opts`, as far as both ways have the same. Numbers are those of criu's rpc.proto.
fn options(images: &Images, opened: &Opened, log: &str) -> Message {
    let mut options = Message::default();
    options.number(1, opened.images.as_raw_fd() as u64);
    if let Some(work) = &opened.work {
        options.number(17, work.as_raw_fd() as u64);
    }
    options
        .flag(4, images.external_unix_sockets)
        .flag(5, images.tcp_established)
        .flag(7, images.shell_job)
        .flag(8, images.file_locks)
        .number(9, LOG_LEVEL)
        .text(10, log)
        .flag(12, true)
        .flag(16, images.auto_dedup)
        .flag(18, images.link_remap)
        .flag(24, images.cgroups != CgroupMode::Ignore)
        .number(34, images.cgroups as u64)
        .flag(46, images.tcp_skip_in_flight)
        .flag(48, images.lazy_pages)
        .flag(52, images.tcp_close)
        // Terminals whose master is the monitor's come to us.
        .flag(50, true);
    if images.empty_namespaces != 0 {
        options.number(38, images.empty_namespaces);
    }
    options
}

fn describe(options: &mut Message, request: &CheckpointRequest, pid: i32) {
    options.number(2, pid as u64).flag(3, request.after == After::LeaveRunning);
    if let Some(parent) = &request.parent {
        options.text(14, &parent.display().to_string()).flag(15, true);
    } else {
        options.flag(15, request.after == After::PreDump);
    }
    if let Some((address, port)) = &request.page_server {
        let mut server = Message::default();
        server.text(1, address).number(2, u64::from(*port));
        options.message(11, &server);
    }
    if let Some(fd) = request.status_fd.and_then(|fd| u64::try_from(fd).ok()) {
        options.number(49, fd);
    }
}

/// Namespaces that a pod has made are not the container's to be restored: criu gets them under these names, runc's.
const EXTERNAL: [(u64, &str, &str); 2] =
    [(flag::NEWNET, "net", "extRootNetNS"), (flag::NEWPID, "pid", "extRootPidNS")];

/// The joined ones.
fn name_namespaces(options: &mut Message, spec: &Spec, pid: i32) {
    let joined = joined(spec);
    for (flag, name, key) in EXTERNAL {
        let link = fs::read_link(format!("/proc/{pid}/ns/{name}")).unwrap_or_default();
        if joined & flag != 0
            && let Some(inode) = inode(&link)
        {
            options.text(37, &format!("{name}[{inode}]:{key}"));
        }
    }
}

/// `net:[4026531840]`.
fn inode(link: &Path) -> Option<String> {
    let text = link.to_str()?;
    Some(text.split_once('[')?.1.trim_end_matches(']').to_owned())
}

fn joined(spec: &Spec) -> u64 {
    let namespaces = spec.linux.iter().flat_map(|linux| &linux.namespaces);
    let joined = namespaces.filter(|one| one.path.is_some());
    joined.fold(0, |flags, one| flags | crate::plan::flag_of(one.kind))
}

/// What the container was made of: the record has no mounts and no namespaces, and the bundle has both still.
fn spec_of(record: &Record) -> Result<Spec, Error> {
    let path = record.bundle.join("config.json");
    let bytes = fs::read(&path).map_err(|e| Error::step("reading", path.display().to_string(), e))?;
    serde_json::from_slice(&bytes).map_err(|source| Error::Config { path, source })
}
