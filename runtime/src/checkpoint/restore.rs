//! The way back: a container whose processes criu makes, with the record, the cgroup and the mounts that we make.

use std::fs;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::path::PathBuf;

use kernel::{Depth, MountAttr, clone_flags as flag, mount_setattr_at, propagation};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::mount::{MoveMountFlags, move_mount};
use rustix::process::{Signal, pidfd_send_signal};

use super::Message;
use super::criu::{self, Ask, Criu, Feature, Notice};
use super::mounts::{self, External};
use super::names::Names;
use super::{EXTERNAL, Images, Opened, descriptors, options};
use crate::cgroup::Cgroup;
use crate::freeze::{cgroup_of, in_cgroup, shown_status};
use crate::later::Later;
use crate::make::{self, Making};
use crate::plan::Plan;
use crate::state::{Init, Record, State, StateDir, Status};
use crate::{CreateRequest, Error, Process, Runtime, Scope, Stdio, hooks, sources, unmake};

/// A container to be restored from images. Of `container`, the streams that were pipes take the place of those that
/// the checkpoint found, and a terminal is handed back.
#[derive(Debug)]
pub struct RestoreRequest<'a> {
    pub container: CreateRequest<'a>,
    pub images: Images,
    /// `TYPE:NAME`, instead of the LSM profile that the images name.
    pub lsm_profile: Option<String>,
    pub lsm_mount_context: Option<String>,
    pub then: Then,
}

/// What becomes of the container once its processes are there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Then {
    /// It runs.
    Run,
    /// It is frozen before any of its processes runs: created, until [`Runtime::start_restored`].
    Hold,
}

const RESTORE_LOG: &str = "restore.log";
/// Where criu finds the root file system, in a mount namespace that ends with it.
const ROOT: &str = "criu-root";

impl Runtime {
    /// Makes a running container of images. Undone on any failure.
    ///
    /// # Errors
    /// `Exists`, `Invalid`, `Criu` with criu's own words, or a step's.
    pub fn restore(&self, request: &RestoreRequest<'_>) -> Result<Process, Error> {
        let container = &request.container;
        let plan = make::decide(self, container)?;
        refuse_what_is_not_restored(&plan)?;
        let program = &request.images.program;
        criu::check_version(program)?;
        if request.images.lazy_pages {
            criu::check_feature(program, Feature::LazyPages)?;
        }
        let dir = StateDir::of(&self.root, container.id)?;
        dir.make()?;
        let making = Making::begin(self, container, plan, &dir);
        let restored = Restoring { request, making: &making }.restore();
        if restored.is_err() {
            // Why it failed is what the caller wants to know.
            let _ = unmake::unmake(&dir);
        }
        restored
    }

    /// Whether it was restored and waits for [`Runtime::start_restored`].
    #[must_use]
    pub fn is_held(&self, id: &str) -> bool {
        StateDir::of(&self.root, id).is_ok_and(|dir| dir.waits_for_start())
    }

    /// Lets a container go on that was restored and held.
    ///
    /// # Errors
    /// `State` when it is not held, `NotFound`, or a step's.
    pub fn start_restored(&self, id: &str) -> Result<(), Error> {
        let dir = StateDir::of(&self.root, id)?;
        let record = dir.read()?;
        if !dir.waits_for_start() {
            let is = shown_status(&dir, &record).as_str();
            return Err(Error::State { id: id.to_owned(), is, wanted: Status::Created.as_str() });
        }
        cgroup_of(&record)?.thaw().map_err(|e| in_cgroup(id, e))?;
        dir.remove_fifo()?;
        hooks::run_all("poststart", &record.hooks.poststart, &record.state(Status::Running)).inspect_err(
            |_| {
                // As for one that was made anew.
                let _ = self.kill(id, Signal::KILL.as_raw(), Scope::All);
            },
        )
    }
}

/// criu makes the processes, and neither of these was a part of them.
fn refuse_what_is_not_restored(plan: &Plan) -> Result<(), Error> {
    let next = "take it out of the configuration of the container that is restored";
    for (field, given) in
        [("linux.intelRdt", plan.rdt.is_some()), ("linux.netDevices", !plan.net_devices.is_empty())]
    {
        if given {
            return Err(Error::unsupported(field, format!("restore does not do that: {next}")));
        }
    }
    Ok(())
}

struct Restoring<'a> {
    request: &'a RestoreRequest<'a>,
    making: &'a Making<'a>,
}

/// What criu gets from us besides folders.
struct Given {
    root: OwnedFd,
    place: PathBuf,
    cgroup: Cgroup,
    namespaces: Vec<(&'static str, OwnedFd)>,
}

impl Restoring<'_> {
    fn restore(&self) -> Result<Process, Error> {
        let (plan, dir) = (&self.making.plan, self.making.dir);
        let mut record = self.making.record();
        record.boot_id = dir.boot_id();
        let later = Later::default();
        dir.write_first(&record, &later)?;
        let cgroup = self.making.cgroup()?;
        record.cgroup_path = cgroup.path();
        // From here on the cgroup is ours, and may hold its processes: `unmake` sees it by the FIFO.
        drop(dir.make_fifo()?);
        record.seccomp_flags = self.making.filter()?.map(|filter| filter.flags);
        dir.write(&record, &later)?;
        let place = dir.path.join(ROOT);
        fs::create_dir(&place).map_err(|e| Error::step("making", place.display().to_string(), e))?;
        let root = sources::root(plan, &self.request.container.rootfs, None)?;
        let given = Given { root, place, cgroup, namespaces: open_namespaces(plan)? };
        let opened = Opened::make(&self.request.images)?;
        let names = Names::of(plan)?;
        let restored = self.run_criu(&given, &opened, &record);
        names.map_or(Ok(()), Names::give_back)?;
        let (pid, console) = restored?;
        given.cgroup.write_late().map_err(|e| in_cgroup(&record.id, e))?;
        self.finish(record, pid, console)
    }

    fn run_criu(
        &self,
        given: &Given,
        opened: &Opened,
        record: &Record,
    ) -> Result<(i32, Option<OwnedFd>), Error> {
        let request = self.message(given, opened)?;
        let log = opened.log(&self.request.images, RESTORE_LOG);
        let prepare = || {
            opened.keep()?;
            given.namespaces.iter().try_for_each(|(_, fd)| criu::keep(fd.as_fd()))?;
            enter(given)?;
            opened.reopen()?;
            match &self.request.container.stdio {
                Stdio::Fds { stdin, stdout, stderr } => {
                    descriptors::take_numbers([stdin.as_fd(), stdout.as_fd(), stderr.as_fd()])
                }
                Stdio::Inherit | Stdio::Terminal => Ok(()),
            }
        };
        let criu = Criu::start(&opened.program, given.cgroup.unified_dir(), prepare)?;
        let (mut console, program) = (None, criu.pid());
        // Its memory comes later, so what takes long otherwise does not.
        let silence = self.request.images.lazy_pages.then_some(criu::SILENCE);
        let answer = criu.ask_for(silence, request, Some(&log), |notice| {
            if notice.script == "pre-resume" && self.request.then == Then::Hold {
                return self.hold(&given.cgroup, program);
            }
            self.hear(notice, record, &mut console)
        })?;
        let pid = answer.pid.ok_or_else(|| Error::Criu {
            program: opened.program.clone(),
            reason: "it does not say which process it restored".to_owned(),
        })?;
        Ok((pid, console))
    }

    /// The processes are there and have not run yet. criu itself must not be frozen with them: it is still to let go of
    /// them.
    fn hold(&self, cgroup: &Cgroup, criu: i32) -> Result<(), Error> {
        let at = |e| in_cgroup(self.request.container.id, e);
        cgroup.let_out(criu).map_err(at)?;
        cgroup.begin_to_freeze().map_err(at)
    }

    /// criu waits for us at these places.
    fn hear(&self, notice: Notice, record: &Record, console: &mut Option<OwnedFd>) -> Result<(), Error> {
        match notice.script.as_str() {
            // The namespaces are there, and nothing runs yet: the moment of the hooks that a create has.
            "setup-namespaces" => {
                let state = State { pid: Some(notice.pid), ..record.state(Status::Creating) };
                hooks::run_all("prestart", &record.hooks.prestart, &state)?;
                hooks::run_all("createRuntime", &record.hooks.create_runtime, &state)
            }
            "orphan-pts-master" => {
                *console = notice.fd;
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn message(&self, given: &Given, opened: &Opened) -> Result<Message, Error> {
        let request = self.request;
        let mut options = options(&request.images, opened, RESTORE_LOG);
        // Devices of another size or number of uses are the same ones; and the process is to be our child.
        options.flag(6, true).flag(26, true).text(13, &given.place.display().to_string());
        for (name, fd) in &given.namespaces {
            inherit(&mut options, name, fd.as_raw_fd());
        }
        join(&mut options, &self.making.plan);
        for (number, name) in descriptors::to_give(&request.images.dir) {
            inherit(&mut options, &name, number);
        }
        mounts::add_for_restore(&mut options, &self.externals(given));
        for (controller, path) in given.cgroup.roots() {
            let mut root = Message::default();
            root.text(1, &controller).text(2, &path);
            options.message(25, &root);
        }
        if let Some(profile) = &request.lsm_profile {
            options.text(53, profile);
        }
        if let Some(context) = &request.lsm_mount_context {
            options.text(56, context);
        }
        Ok(super::message(Ask::Restore, &options))
    }

    fn externals(&self, given: &Given) -> Vec<External> {
        let container = &self.request.container;
        mounts::externals(&container.spec, container.bundle, &given.cgroup)
    }

    fn finish(&self, mut record: Record, pid: i32, console: Option<OwnedFd>) -> Result<Process, Error> {
        let dir = self.making.dir;
        let child = make::child_of_ours(pid)?;
        let undo = |error| {
            let _ = pidfd_send_signal(&child.pidfd, Signal::KILL);
            error
        };
        let later = Later::default();
        record.init = Some(Init::of(pid, &later).map_err(undo)?);
        dir.write(&record, &later)?;
        // Empty: what was mounted there was in criu's own namespace.
        let _ = fs::remove_dir(dir.path.join(ROOT));
        match self.request.then {
            Then::Run => {
                dir.remove_fifo()?;
                hooks::run_all("poststart", &record.hooks.poststart, &record.state(Status::Running))?;
            }
            // Whoever waits until they have stopped knows that criu has let go of them.
            Then::Hold => cgroup_of(&record)?.freeze().map_err(|e| in_cgroup(&record.id, e))?,
        }
        Ok(Process { pid, pidfd: child.pidfd, console, warnings: Vec::new(), kept: None })
    }
}

/// Namespaces that criu saves, contents and all, and that are somebody else's here: the restored processes join them.
fn join(options: &mut Message, plan: &Plan) {
    for (flag, name) in [(flag::NEWIPC, "ipc"), (flag::NEWUTS, "uts")] {
        let Some(joined) = plan.namespaces.joined.iter().find(|joined| joined.flag == flag) else { continue };
        let mut namespace = Message::default();
        namespace.text(1, name).text(2, &joined.path.display().to_string());
        options.message(39, &namespace);
    }
}

fn inherit(options: &mut Message, key: &str, fd: i32) {
    let mut inherited = Message::default();
    inherited.text(1, key).number(2, fd as u64);
    options.message(27, &inherited);
}

fn open_namespaces(plan: &Plan) -> Result<Vec<(&'static str, OwnedFd)>, Error> {
    let mut opened = Vec::new();
    for (flag, _, key) in EXTERNAL {
        let Some(joined) = plan.namespaces.joined.iter().find(|joined| joined.flag == flag) else { continue };
        let at = |e| Error::step("opening the namespace", joined.path.display().to_string(), e);
        let fd =
            rustix::fs::open(&joined.path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).map_err(at)?;
        opened.push((key, fd));
    }
    Ok(opened)
}

/// In the child: a mount namespace of criu's own, in which the root file system has a place; and the container's
/// cgroups, in which its processes will be born.
fn enter(given: &Given) -> rustix::io::Result<()> {
    for file in given.cgroup.task_files() {
        rustix::io::write(file, b"0")?;
    }
    kernel::unshare(flag::NEWNS)?;
    let attr = MountAttr { propagation: propagation::SLAVE, ..MountAttr::default() };
    mount_setattr_at(c"/", Depth::Recursive, &attr)?;
    let by_descriptor = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    move_mount(&given.root, c"", CWD, &given.place, by_descriptor)
}
