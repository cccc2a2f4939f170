//! The parent's side of making: opens and makes what the plan names, clones the init, and hears it out.

mod joined;
mod words;

pub(crate) use words::explain;

use std::ffi::CString;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use kernel::{Child, clone_flags as flag};
use rustix::fs::{CWD, Mode, OFlags, open};
use rustix::io::Errno;
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, geteuid, pidfd_open, pidfd_send_signal, waitid,
};

use crate::cgroup::Cgroup;
use crate::child::{self, Kit};
use crate::hooks::{self, ChildHooks};
use crate::later::Later;
use crate::listener::Listener;
use crate::plan::{self, Pivot, Plan, Source, Within};
use crate::report::{Line, Word, lines};
use crate::seccomp::{self, Filter};
use crate::shared_root::SharedRoot;
use crate::spec::{Hooks, Spec};
use crate::state::{Init, Record, StateDir, Status};
use crate::{
    Cgroups, CreateRequest, Error, Kept, Process, Rootfs, Runtime, Stdio, lsm, netdev, rdt, rootless,
    sources, unmake, userns,
};

/// Makes a container up to the point where its init waits for `start`. What failed half-way is unmade.
pub(crate) fn make(runtime: &Runtime, request: &CreateRequest<'_>) -> Result<Process, Error> {
    let plan = decide(runtime, request)?;
    let dir = StateDir::of(&runtime.root, request.id)?;
    dir.make()?;
    let made = Making::begin(runtime, request, plan, &dir).make();
    if made.is_err() {
        // The caller wants to know why it failed; what could not be taken away shows in `list`.
        let _ = unmake::unmake(&dir);
    }
    made
}

/// Everything that can be refused before anything is there.
pub(crate) fn decide(runtime: &Runtime, request: &CreateRequest<'_>) -> Result<Plan, Error> {
    let plan = plan::plan(request.id, request.bundle, &request.spec, &request.rootfs, runtime.cgroup_driver)?;
    let process = request.spec.process.as_ref();
    process.map_or(Ok(()), |process| lsm::refuse_unenforced(process, request.spec.linux.as_ref()))?;
    Ok(plan)
}

pub(crate) struct Making<'a> {
    runtime: &'a Runtime,
    request: &'a CreateRequest<'a>,
    pub(crate) plan: Plan,
    pub(crate) dir: &'a StateDir,
    /// Interfaces that are the container's until something fails.
    moved: Option<netdev::Moved>,
    /// We are in the node's own user namespace.
    first_userns: bool,
    warnings: Vec<String>,
    later: Later,
}

/// What the parent holds for the child.
struct Opened {
    root: OwnedFd,
    trees: Vec<Option<OwnedFd>>,
    nodes: Vec<Option<OwnedFd>>,
    hierarchies: Vec<child::Hierarchy>,
    joined: Vec<(u64, OwnedFd)>,
    start: OwnedFd,
    outcome: Option<OwnedFd>,
    cgroup: Cgroup,
    filter: Option<Filter>,
}

impl Opened {
    /// All of it but the start FIFO: there are dozens, and the numbers are neighbours.
    fn close(self, later: &Later) -> OwnedFd {
        later.close_all(self.trees.into_iter().chain(self.nodes).flatten());
        later.close_all(self.hierarchies.into_iter().map(|hierarchy| hierarchy.tree));
        later.close_all(self.joined.into_iter().map(|(_, namespace)| namespace));
        later.close_all(self.cgroup.into_fds());
        later.close_all(self.outcome.into_iter().chain([self.root]));
        self.start
    }
}

impl<'a> Making<'a> {
    pub(crate) fn begin(
        runtime: &'a Runtime,
        request: &'a CreateRequest<'a>,
        mut plan: Plan,
        dir: &'a StateDir,
    ) -> Making<'a> {
        let first_userns = rootless::in_first_user_namespace();
        plan.namespaces.no_way_back = !first_userns;
        if !first_userns && plan.root.pivot == Pivot::First {
            // For us inside one it is as for a container with one of its own.
            plan.root.pivot = Pivot::AfterMounts;
        }
        let (warnings, later) = (Vec::new(), Later::default());
        Making { runtime, request, plan, dir, moved: None, first_userns, warnings, later }
    }

    fn make(mut self) -> Result<Process, Error> {
        let mut record = self.record();
        record.boot_id = self.dir.boot_id();
        if let Some(rdt) = &self.plan.rdt {
            record.rdt = Some(rdt::Groups::of(&rdt::root()?, &record.id, rdt));
        }
        // On disk before anything that it names, so that whoever comes after a crash can take that away.
        self.dir.write_first(&record, &self.later)?;
        self.grant_capabilities()?;
        let mut opened = self.open()?;
        record.cgroup_path = opened.cgroup.path();
        record.seccomp_flags = opened.filter.as_ref().map(|filter| filter.flags);
        record.shared_root = SharedRoot::of(&self.plan, opened.root.as_fd())?;
        if record.shared_root.is_some() {
            // Before it is attached: a crash later on must not leave it there.
            self.dir.write(&record, &self.later)?;
        }
        if let (Some(groups), Some(rdt)) = (&record.rdt, &self.plan.rdt) {
            groups.make(rdt)?;
        }
        let (ours, theirs) = lines().map_err(|e| Error::step("making", "a socket pair", e))?;
        // Where two clones are needed, the first child joins this one as well, for its children alone: born into it,
        // it would tell the second one's number of there.
        let pid_namespace = if self.plan.namespaces.needs_two_steps() {
            None
        } else {
            take(&mut opened.joined, flag::NEWPID)
        };
        let user_namespace = opened.joined.iter().find(|(kind, _)| *kind == flag::NEWUSER).map(|(_, fd)| fd);
        userns::shift_early(&self.plan, &opened.trees, user_namespace)?;
        let init = self.clone_init(&opened, theirs, pid_namespace.as_ref(), &ours)?;
        opened.cgroup.release_keeper();
        let made = self.accompany(&mut record, &ours, &opened, &init);
        match made {
            Ok(console) => {
                let start = Some(opened.close(&self.later));
                self.later.close(ours);
                let kept = Some(Box::new(Kept { dir: self.dir.clone(), record, start, later: self.later }));
                Ok(Process { pid: init.pid, pidfd: init.pidfd, console, warnings: self.warnings, kept })
            }
            Err(error) => {
                // Before the init, whose end would take virtual ones along.
                self.moved.take().into_iter().for_each(netdev::Moved::give_back);
                end(&init);
                Err(error)
            }
        }
    }

    pub(crate) fn record(&self) -> Record {
        let spec = &self.request.spec;
        Record {
            id: self.request.id.to_owned(),
            bundle: self.request.bundle.to_owned(),
            annotations: spec.annotations.clone(),
            init: None,
            cgroup_path: self.plan.cgroup_path.clone(),
            scope: self.plan.scope.as_ref().map(|plan| plan.scope.clone()),
            namespaces: self.plan.namespaces.all(),
            seccomp_flags: None,
            personality: self.plan.personality,
            memory_policy: self.plan.memory_policy.clone(),
            listener: self.listener(),
            rdt: None,
            shared_root: None,
            process: spec.process.clone().unwrap_or_default(),
            hooks: spec.hooks.clone().unwrap_or_default(),
            created_s: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()),
            boot_id: None,
            of_earlier_boot: false,
        }
    }

    fn listener(&self) -> Option<Listener> {
        let profile = self.request.spec.linux.as_ref()?.seccomp.as_ref()?;
        Listener::of(profile)
    }

    fn grant_capabilities(&mut self) -> Result<(), Error> {
        let in_userns = self.plan.namespaces.has(flag::NEWUSER);
        self.warnings.extend(grant(&mut self.plan.process, in_userns)?);
        Ok(())
    }

    fn open(&self) -> Result<Opened, Error> {
        let plan = &self.plan;
        let cgroup = self.cgroup()?;
        if let Some(uid) = plan.cgroup_owner.filter(|_| !cgroup.is_none()) {
            cgroup.give_to(uid).map_err(|source| Error::Cgroup { id: self.request.id.to_owned(), source })?;
        }
        // In this order: the FIFO tells `unmake` that the cgroup is this container's, and may hold its processes.
        let start = self.dir.make_fifo()?;
        let filter = self.filter()?;
        let in_userns = !self.first_userns || plan.namespaces.has(flag::NEWUSER);
        let wants_cgroups = plan.mounts.iter().any(|mount| matches!(mount.source, Source::Cgroup));
        let joined = open_namespaces(plan)?;
        joined::refuse_the_hosts(plan, &joined)?;
        let userns = self.user_namespace(&joined)?;
        let mut trees = sources::trees(plan)?;
        if cgroup.is_none() {
            sources::host_cgroups(plan, &mut trees)?;
        }
        Ok(Opened {
            root: sources::root(plan, &self.request.rootfs, userns.as_ref().map(OwnedFd::as_fd))?,
            trees,
            nodes: if in_userns { sources::nodes(&plan.devices)? } else { Vec::new() },
            hierarchies: if wants_cgroups { sources::hierarchies(&cgroup)? } else { Vec::new() },
            joined,
            start,
            outcome: self.outcome()?,
            cgroup,
            filter,
        })
    }

    /// Only for those whose hooks make `start` wait for the program.
    fn outcome(&self) -> Result<Option<OwnedFd>, Error> {
        let waits = |hooks: &Hooks| !(hooks.start_container.is_empty() && hooks.poststart.is_empty());
        match &self.request.spec.hooks {
            Some(hooks) if waits(hooks) => self.dir.make_outcome().map(Some),
            _ => Ok(None),
        }
    }

    /// Who may not make one does without, unless limits are to be held.
    pub(crate) fn cgroup(&self) -> Result<Cgroup, Error> {
        let (plan, optional) = (&self.plan, self.runtime.cgroups);
        let made = match &plan.scope {
            Some(scope) => Cgroup::create_in_scope(scope, &plan.resources),
            None => Cgroup::create(&plan.cgroup_path, &plan.resources),
        };
        let ordinary = || !geteuid().is_root() || !self.first_userns;
        made.or_else(|source| {
            let may_lack = match optional {
                Cgroups::Required => false,
                Cgroups::Optional => true,
                Cgroups::AsAllowed => ordinary(),
            };
            if may_lack && source.is_refusal() && !crate::cgroup::has_limits(&plan.resources) {
                return Ok(Cgroup::none());
            }
            Err(Error::Cgroup { id: self.request.id.to_owned(), source })
        })
    }

    /// The one whose ids the layers are shown with: the joined one, or one like that which is to be made.
    fn user_namespace(&self, joined: &[(u64, OwnedFd)]) -> Result<Option<OwnedFd>, Error> {
        if let Some((_, fd)) = joined.iter().find(|(kind, _)| *kind == flag::NEWUSER) {
            return fd.try_clone().map(Some).map_err(|e| Error::step("opening", "the user namespace", e));
        }
        match (&self.plan.namespaces.maps, &self.request.rootfs) {
            (Some(maps), Rootfs::Overlay { .. }) => userns::of_maps(maps).map(Some),
            _ => Ok(None),
        }
    }

    /// Compiled once a profile, and kept beside the record for exec.
    pub(crate) fn filter(&self) -> Result<Option<Filter>, Error> {
        let Some((filter, cached)) = compile(self.runtime, &self.request.spec)? else { return Ok(None) };
        self.dir.keep_filter(&filter, cached.as_deref(), &self.later)?;
        Ok(Some(filter))
    }

    /// Clones the init, or the first of two children that clones it.
    fn clone_init(
        &self,
        opened: &Opened,
        theirs: Line,
        pid_namespace: Option<&OwnedFd>,
        ours: &Line,
    ) -> Result<Child, Error> {
        let plan = &self.plan;
        let stdio = stdio(&self.request.stdio);
        let hooks = self.child_hooks();
        let kit = Kit {
            plan,
            line: &theirs,
            root: opened.root.as_fd(),
            root_is_proc: child::is_proc(opened.root.as_fd())
                .map_err(|e| Error::step("looking at", "the root file system", e))?,
            attach_at: self.attach_at()?,
            trees: &opened.trees,
            nodes: &opened.nodes,
            hierarchies: &opened.hierarchies,
            joined: &opened.joined,
            tasks: opened.cgroup.task_files(),
            start: &opened.start,
            outcome: opened.outcome.as_ref(),
            stdio,
            filter: opened.filter.as_ref(),
            preserve_fds: self.request.preserve_fds,
            hooks: &hooks,
            keyring: self.runtime.keyring,
            root_change: self.runtime.root_change,
        };
        let cgroup = opened.cgroup.unified_dir();
        if plan.namespaces.needs_two_steps() {
            let first = clone_into(None, 0, cgroup, || child::first_of_two(&kit))?;
            drop(theirs);
            return self.second_of_two(&first, ours);
        }
        clone_into(pid_namespace, plan.namespaces.new, cgroup, || child::init(&kit))
            .map_err(|error| self.name_pid_namespace(error))
    }

    /// One of another type was given: who joins it has only its descriptor.
    fn name_pid_namespace(&self, error: Error) -> Error {
        let joined = self.plan.namespaces.joined.iter().find(|joined| joined.flag == flag::NEWPID);
        match (error, joined) {
            (Error::Step { step: JOINING, source, .. }, Some(joined)) => {
                Error::step(JOINING, format!("{} (linux.namespaces)", joined.path.display()), source)
            }
            (other, _) => other,
        }
    }

    fn second_of_two(&self, first: &Child, ours: &Line) -> Result<Child, Error> {
        let word = ours.hear();
        reap(first.pidfd.as_fd());
        match word.map_err(|e| Error::step("hearing", "the first child", e))? {
            Some(Word::Cloned { pid }) => child_of_ours(pid),
            Some(Word::Failed(failure)) => Err(self.explain(failure)),
            Some(Word::BeforePivot | Word::Ready { .. } | Word::Listening { .. }) | None => Err(Error::Died),
        }
    }

    /// While the child works: its maps, its record, its hooks; until it is ready.
    fn accompany(
        &mut self,
        record: &mut Record,
        ours: &Line,
        opened: &Opened,
        init: &Child,
    ) -> Result<Option<OwnedFd>, Error> {
        if let Some(maps) = &self.plan.namespaces.maps {
            userns::write_maps(init.pid, maps)?;
            userns::shift_to_own(&self.plan, &opened.trees, init.pid)?;
        }
        if !self.plan.net_devices.is_empty() {
            self.moved = Some(netdev::move_in(&self.plan.net_devices, joined::network_of(opened, init)?)?);
        }
        if self.plan.waits_for_parent() {
            ours.go().map_err(|e| Error::step("releasing", "the init", e))?;
        }
        if let Some(groups) = &record.rdt {
            groups.join(init.pid)?;
        }
        record.init = Some(Init::of(init.pid, &self.later)?);
        self.dir.write(record, &self.later)?;
        if let Some(value) = self.plan.process.oom_score_adj {
            self.warnings.extend(set_oom_score_adj(init.pid, value, &self.later)?);
        }
        self.hear_until_ready(record, ours, init)
    }

    /// Ready it is when it says so and then hangs up, having let go of everything that it had from us.
    fn hear_until_ready(&self, record: &Record, ours: &Line, init: &Child) -> Result<Option<OwnedFd>, Error> {
        let mut ready = None;
        loop {
            match ours.hear().map_err(|e| Error::step("hearing", "the init", e))? {
                Some(Word::Ready { console }) => ready = Some(console),
                None => return ready.ok_or(Error::Died),
                Some(Word::Failed(failure)) => return Err(self.explain(failure)),
                Some(Word::BeforePivot) => {
                    let state = record.state(Status::Creating);
                    hooks::run_all(&record.hooks.prestart, &state)?;
                    hooks::run_all(&record.hooks.create_runtime, &state)?;
                    ours.go().map_err(|e| Error::step("releasing", "the init", e))?;
                }
                Some(Word::Listening { number }) => {
                    send_listener(record, init, number, Status::Creating)?;
                    ours.go().map_err(|e| Error::step("releasing", "the init", e))?;
                }
                Some(Word::Cloned { .. }) => return Err(Error::Died),
            }
        }
    }

    fn child_hooks(&self) -> ChildHooks {
        let hooks = self.request.spec.hooks.clone().unwrap_or_default();
        let record = self.record();
        ChildHooks::new(&hooks, record.state(Status::Creating), record.state(Status::Created))
    }

    fn attach_at(&self) -> Result<CString, Error> {
        let root = &self.plan.root;
        let at_its_path = root.pivot == Pivot::AfterHooks || root.within == Within::Shared;
        let place = match &root.path {
            Some(path) if at_its_path => path.as_path(),
            Some(_) | None => Path::new("/"),
        };
        CString::new(place.as_os_str().as_bytes())
            .map_err(|_| Error::invalid("root.path", "holds a NUL byte"))
    }
}

/// Leaves out what we do not have to give; says so.
pub(crate) fn grant(process: &mut plan::ProcessPlan, in_userns: bool) -> Result<Option<String>, Error> {
    // Whoever is first in a user namespace has them all.
    let ours = kernel::capget().map_err(|e| Error::step("reading", "our capabilities", e))?.permitted;
    let available = if in_userns { u64::MAX } else { ours };
    let missing = process.capabilities.all() & !available;
    process.capabilities = process.capabilities.within(available);
    let mut names: Vec<&str> = process.unknown_capabilities.iter().map(String::as_str).collect();
    names.extend(plan::capability_names(missing));
    Ok((!names.is_empty()).then(|| format!("capabilities that cannot be granted here: {}", names.join(", "))))
}

/// The filter, and the file in the cache that holds it.
pub(crate) fn compile(runtime: &Runtime, spec: &Spec) -> Result<Option<(Filter, Option<PathBuf>)>, Error> {
    let Some(profile) = spec.linux.as_ref().and_then(|linux| linux.seccomp.as_ref()) else { return Ok(None) };
    let (filter, cached) = match &runtime.seccomp_cache {
        Some(dir) => seccomp::compile_cached(profile, dir).map(|(filter, path)| (filter, Some(path)))?,
        None => (seccomp::compile(profile)?, None),
    };
    Ok(Some((filter, cached)))
}

/// A record that has none is of a container whose profile asks nobody.
pub(crate) fn send_listener(
    record: &Record,
    process: &Child,
    number: i32,
    status: Status,
) -> Result<(), Error> {
    let listener = record.listener.as_ref().ok_or(Error::Died)?;
    listener.hand_over(process, number, &record.state(status))
}

pub(crate) fn stdio(stdio: &Stdio) -> Option<[BorrowedFd<'_>; 3]> {
    match stdio {
        Stdio::Inherit | Stdio::Terminal => None,
        Stdio::Fds { stdin, stdout, stderr } => Some([stdin.as_fd(), stdout.as_fd(), stderr.as_fd()]),
    }
}

const JOINING: &str = "joining the namespace";

/// Clones with the children's PID namespace set to another for the moment: a child is born into it, and needs no
/// second clone to enter it.
pub(crate) fn clone_into(
    pid_namespace: Option<&OwnedFd>,
    flags: u64,
    cgroup: Option<BorrowedFd<'_>>,
    work: impl FnOnce() -> i32,
) -> Result<Child, Error> {
    let clone =
        |work| kernel::clone3(flags, cgroup, work).map_err(|e| Error::step("cloning", "a process", e));
    let Some(theirs) = pid_namespace else { return clone(work) };
    let at = |e: Errno| Error::step(JOINING, "of PIDs", e);
    let ours = open(c"/proc/self/ns/pid", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).map_err(at)?;
    kernel::setns(theirs.as_fd(), flag::NEWPID).map_err(at)?;
    let cloned = clone(work);
    kernel::setns(ours.as_fd(), flag::NEWPID).map_err(at)?;
    cloned
}

fn open_namespaces(plan: &Plan) -> Result<Vec<(u64, OwnedFd)>, Error> {
    let one = |joined: &plan::Joined| {
        rustix::fs::openat(CWD, &joined.path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
            .map(|fd| (joined.flag, fd))
            .map_err(|e| {
                Error::step(
                    "opening the namespace",
                    format!("{} (linux.namespaces)", joined.path.display()),
                    e,
                )
            })
    };
    plan.namespaces.joined.iter().map(one).collect()
}

fn take(joined: &mut Vec<(u64, OwnedFd)>, flag: u64) -> Option<OwnedFd> {
    let at = joined.iter().position(|(known, _)| *known == flag)?;
    Some(joined.remove(at).1)
}

/// Lowering it takes CAP_SYS_RESOURCE; who lacks that keeps what it has, and hears of it.
pub(crate) fn set_oom_score_adj(pid: i32, value: i32, later: &Later) -> Result<Option<String>, Error> {
    let path = format!("/proc/{pid}/oom_score_adj");
    let written = File::options().write(true).open(&path).and_then(|mut file| {
        file.write_all(value.to_string().as_bytes())?;
        later.close(file);
        Ok(())
    });
    match written {
        Ok(()) => Ok(None),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            let stays = fs::read_to_string(&path).unwrap_or_default();
            Ok(Some(format!("oom_score_adj {value} needs CAP_SYS_RESOURCE; it stays {}", stays.trim())))
        }
        // It may have ended already; then the one who hears it out says why.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) if error.raw_os_error() == Some(Errno::SRCH.raw_os_error()) => Ok(None),
        Err(error) => Err(Error::step("writing", path, error)),
    }
}

/// Kills and reaps a child of ours that is of no use any more.
pub(crate) fn end(child: &Child) {
    let _ = pidfd_send_signal(&child.pidfd, Signal::KILL);
    reap(child.pidfd.as_fd());
}

/// One that was cloned for us (CLONE_PARENT); not reaped, so the number is its own.
pub(crate) fn child_of_ours(pid: i32) -> Result<Child, Error> {
    let pidfd = Pid::from_raw(pid)
        .ok_or(Errno::SRCH)
        .and_then(|pid| pidfd_open(pid, PidfdFlags::empty()))
        .map_err(|e| Error::step("opening", format!("process {pid}"), e))?;
    Ok(Child { pid, pidfd })
}

pub(crate) fn reap(child: BorrowedFd<'_>) {
    while let Err(Errno::INTR) = waitid(WaitId::PidFd(child), WaitIdOptions::EXITED) {}
}
