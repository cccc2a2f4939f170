//! A container's cgroup, in every hierarchy that the node has.
//!
//! On a node with cgroup v1 the container joins each hierarchy by writing to its `tasks` file from inside,
//! and cgroup2, where it is mounted beside v1 or alone, by being born there (CLONE_INTO_CGROUP). Neither
//! takes the kernel's lock over all threads, whose first taking after a quiet spell waits 8 to 14 ms for an
//! RCU grace period; nothing here writes to `cgroup.procs`.
//!
//! `limits` and `devices` decide what to write; `apply`, `processes` and `remove` perform.

mod apply;
mod beside;
mod delegate;
mod devices;
mod files;
mod images;
mod lacking;
mod layout;
mod limits;
mod oom;
mod processes;
mod remove;
pub mod stats;
mod systemd;

#[cfg(feature = "fuzzing")]
pub(crate) use layout::read_tables;

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

pub use beside::SubCgroup;
pub use oom::OomWatch;
pub use systemd::{Driver, Failure, Scope, ScopePlan};

use crate::spec::{DeviceRule, Resources};
use apply::Made;
use devices::Policy;
use files::Held;
pub(crate) use lacking::has_limits;
use layout::{Hierarchy, Layout, Version};
use limits::Write;
use processes::{FREEZER_V1, FREEZER_V2, Freezer};
use systemd::Keeper;

/// The kernel's bound on a name, and a path's with room for the mount point and a file.
const MAX_NAME_BYTES: usize = 255;
const MAX_PATH_BYTES: usize = 3500;
const KILL: i32 = 9;

/// Why a cgroup could not be made, changed or removed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("linux.cgroupsPath: {path:?} {reason}{}", path_rule())]
    Path { path: String, reason: &'static str },
    #[error("no cgroup hierarchy is mounted")]
    NoCgroups,
    #[error("reading {}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("linux.resources.{field} {reason}{}", cite(field))]
    Invalid { field: &'static str, reason: &'static str },
    #[error(
        "linux.resources.{field} needs the cgroup controller {controller}, which this node does not have{}",
        cite(field)
    )]
    MissingController { field: &'static str, controller: String },
    /// The kernel refused a value.
    #[error("linux.resources.{field}: writing {value} to {}{}", file.display(), cite(field))]
    Limit { field: &'static str, value: String, file: PathBuf, source: Errno },
    /// config-linux.md, "Control groups": a non-empty one is not fit to be another container's.
    #[error("linux.cgroupsPath: cgroup {} is in use by processes {pids:?}{}", dir.display(), path_rule())]
    Busy { dir: PathBuf, pids: Vec<i32> },
    #[error("cgroup {} could not be frozen or thawed in time", dir.display())]
    NotFrozen { dir: PathBuf },
    #[error(
        "the systemd cgroup driver needs cgroup v2 alone, which this node has not: boot it with \
         systemd.unified_cgroup_hierarchy=1, or use the cgroupfs driver"
    )]
    NotUnified,
    #[error("{doing} the scope {unit}")]
    Systemd { doing: &'static str, unit: String, source: Failure },
    #[error("the annotation {key} {reason}")]
    Annotation { key: String, reason: &'static str },
    #[error("linux.cgroupsPath: making {}{}", dir.display(), path_rule())]
    Unreachable { dir: PathBuf, source: Errno },
    #[error("{doing} {}", object.display())]
    Kernel { doing: &'static str, object: PathBuf, source: Errno },
}

fn path_rule() -> String {
    crate::error::section::cite("linux.cgroupsPath")
}

fn cite(field: &str) -> String {
    crate::error::section::cite(&format!("linux.resources.{field}"))
}

/// One cgroup path in all hierarchies.
#[derive(Debug)]
pub struct Cgroup {
    layout: &'static Layout,
    /// Without the slash in front, so that it can be joined to a root.
    path: String,
    unified: Option<OwnedFd>,
    tasks: Vec<OwnedFd>,
    /// systemd's unit that it is in.
    scope: Option<Scope>,
    /// Holds a scope until the container is in it.
    keeper: Option<Keeper>,
    /// Files that have been written, to be closed with the others.
    written: Held,
}

/// Where a cgroup is in one hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The mount point, such as `/sys/fs/cgroup/memory`.
    pub root: PathBuf,
    pub dir: PathBuf,
    /// A cgroup2 hierarchy.
    pub unified: bool,
}

impl Cgroup {
    /// Makes the directories and writes the limits; undone wholly on failure. Ready to be joined.
    ///
    /// # Errors
    /// The path or a limit is not possible here, the cgroup is in use, or the kernel's answer.
    pub fn create(path: &str, resources: &Resources) -> Result<Cgroup, Error> {
        let written = Held::default();
        let presumed = Layout::presumed(&written)?;
        let error = match Cgroup::create_in(presumed, path, resources, written) {
            Ok(cgroup) => {
                presumed.prove();
                return Ok(cgroup);
            }
            Err(error) => error,
        };
        match Layout::of_node()? {
            known if known == presumed => Err(error),
            // The hierarchies are elsewhere.
            known => Cgroup::create_in(known, path, resources, Held::default()),
        }
    }

    fn create_in(
        layout: &'static Layout,
        path: &str,
        resources: &Resources,
        written: Held,
    ) -> Result<Cgroup, Error> {
        let mut cgroup = Cgroup { written, ..Cgroup::of(layout, path)? };
        let mut made = Made::default();
        match cgroup.make(resources, &mut made) {
            Ok(()) => Ok(cgroup),
            Err(error) => {
                made.undo();
                Err(error)
            }
        }
    }

    /// An existing cgroup, opened to be joined (exec).
    ///
    /// # Errors
    /// It does not exist, or the kernel's answer.
    pub fn open(path: &str) -> Result<Cgroup, Error> {
        let mut cgroup = Cgroup::at(path)?;
        cgroup.open_to_join()?;
        Ok(cgroup)
    }

    /// An existing cgroup that nobody will join through this value (kill, delete, pids): opens nothing.
    ///
    /// # Errors
    /// The path is none, or the node has no cgroups.
    pub fn at(path: &str) -> Result<Cgroup, Error> {
        if path.is_empty() {
            return Ok(Cgroup::none());
        }
        Cgroup::of(Layout::of_node()?, path)
    }

    fn of(layout: &'static Layout, path: &str) -> Result<Cgroup, Error> {
        Ok(Cgroup::new(layout, checked(path)?))
    }

    fn new(layout: &'static Layout, path: String) -> Cgroup {
        let written = Held::default();
        Cgroup { layout, path, unified: None, tasks: Vec::new(), scope: None, keeper: None, written }
    }

    /// From the root of each hierarchy, with a slash in front.
    #[must_use]
    pub fn path(&self) -> String {
        if self.is_none() { String::new() } else { format!("/{}", self.path) }
    }

    /// Gives it to a user of the host, on a node with cgroup2 alone: v1 cannot be delegated safely.
    ///
    /// # Errors
    /// The kernel's answer.
    pub fn give_to(&self, uid: u32) -> Result<(), Error> {
        match self.layout.unified().filter(|_| !self.layout.is_hybrid()) {
            Some(unified) => delegate::give(&self.dir(unified), uid),
            None => Ok(()),
        }
    }

    /// The cgroup2 directory, for clone3(CLONE_INTO_CGROUP).
    #[must_use]
    pub fn unified_dir(&self) -> Option<BorrowedFd<'_>> {
        self.unified.as_ref().map(OwnedFd::as_fd)
    }

    /// The cgroup2 directory that a process of the container is in by now. A systemd in a container moves
    /// everything below its own cgroup, and the kernel then lets nobody into the container's (EBUSY).
    ///
    /// # Errors
    /// The process is not in this cgroup or below it, or the kernel's answer.
    pub fn unified_dir_of(&self, pid: i32) -> Result<OwnedFd, Error> {
        let unified = self.layout.unified().ok_or(Error::NoCgroups)?;
        let proc_dir = PathBuf::from(format!("/proc/{pid}"));
        let lines = files::read(&proc_dir, "cgroup").map_err(|source| Error::Kernel {
            doing: "reading",
            object: proc_dir.join("cgroup"),
            source,
        })?;
        let path = lines.lines().find_map(|line| line.strip_prefix("0::/")).unwrap_or_default();
        if !Path::new(path).starts_with(&self.path) || path.contains("/../") {
            return Err(Error::Path {
                path: self.path.clone(),
                reason: "is not where the container's process is",
            });
        }
        open(&unified.root.join(path), OFlags::RDONLY | OFlags::DIRECTORY)
    }

    /// The open `tasks` files of v1: the single-threaded child writes "0" to each.
    #[must_use]
    pub fn task_files(&self) -> &[OwnedFd] {
        &self.tasks
    }

    /// Its directory in each hierarchy, for a container that mounts cgroups.
    #[must_use]
    pub fn places(&self) -> Vec<Place> {
        let place = |hierarchy: &Hierarchy| Place {
            root: hierarchy.root.clone(),
            dir: self.dir(hierarchy),
            unified: hierarchy.version == Version::V2,
        };
        self.layout.hierarchies.iter().map(place).collect()
    }

    /// All that it holds open.
    pub(crate) fn into_fds(self) -> impl Iterator<Item = OwnedFd> {
        self.tasks.into_iter().chain(self.unified).chain(self.written.into_fds())
    }

    /// Changes the limits that are given, and no others.
    ///
    /// # Errors
    /// A limit is not possible here, or the kernel's answer.
    pub fn update(&self, resources: &Resources) -> Result<(), Error> {
        let writes = self.plan(resources)?;
        self.refuse_less_than_used(resources)?;
        self.scope.as_ref().map_or(Ok(()), |scope| scope.update(&writes))?;
        self.write(&writes)?;
        policy(&resources.devices)?.map_or(Ok(()), |policy| self.set_devices(&policy))
    }

    /// Signals every process in it and below. SIGKILL reaches those born meanwhile too, and thaws a frozen
    /// cgroup, as no frozen process of v1 dies. One that is gone has nobody to signal.
    ///
    /// # Errors
    /// The kernel's answer.
    pub fn kill_all(&self, signal: i32) -> Result<(), Error> {
        if self.is_none() {
            return Ok(());
        }
        let listed = self.listing_dir();
        if signal != KILL {
            return processes::signal(&listed, signal);
        }
        let unified = self.layout.unified().map(|hierarchy| self.dir(hierarchy));
        let outcome = processes::kill(unified.as_deref(), &listed);
        self.release();
        outcome
    }

    /// Thaws it, if it is frozen, for processes that have been killed: to wait until it has thawed would be to wait
    /// until they are dead.
    pub fn release(&self) {
        let _ = self.freezer().map(|(freezer, dir)| freezer.release(&dir));
    }

    /// Every process in it and below, as this PID namespace numbers them.
    ///
    /// # Errors
    /// The kernel's answer.
    pub fn pids(&self) -> Result<Vec<i32>, Error> {
        if self.is_none() { Ok(Vec::new()) } else { processes::pids(&self.listing_dir()) }
    }

    /// Stops every process in it and below, and answers when they have stopped.
    ///
    /// # Errors
    /// They did not stop in time (and run again), or the kernel's answer.
    pub fn freeze(&self) -> Result<(), Error> {
        let (freezer, dir) = self.freezer()?;
        freezer.freeze(&dir)
    }

    /// Lets them run again. One that is gone needs no thaw.
    ///
    /// # Errors
    /// The kernel's answer.
    pub fn thaw(&self) -> Result<(), Error> {
        let Ok((freezer, dir)) = self.freezer() else { return Ok(()) };
        match freezer.thaw(&dir) {
            Err(Error::Kernel { source: Errno::NOENT | Errno::NODEV, .. }) => Ok(()),
            other => other,
        }
    }

    /// Whether its processes are stopped, or about to be, by `freeze` or by whoever froze a cgroup above it.
    ///
    /// # Errors
    /// The kernel's answer; one that is gone, and a node that cannot freeze, has nothing frozen.
    pub fn is_frozen(&self) -> Result<bool, Error> {
        let Ok((freezer, dir)) = self.freezer() else { return Ok(false) };
        freezer.is_frozen(&dir)
    }

    /// How many of its processes the kernel has killed for want of memory.
    #[must_use]
    pub fn oom_kills(&self) -> u64 {
        let Some(hierarchy) = self.layout.serving("memory") else { return 0 };
        let file = match hierarchy.version {
            Version::V1 => "memory.oom_control",
            Version::V2 => "memory.events",
        };
        let text = files::read(&self.dir(hierarchy), file).unwrap_or_default();
        files::keyed(&text, "oom_kill").unwrap_or(0)
    }

    /// Gone when it answers Ok; gone already is Ok. Its processes must have ended: they get half a second.
    ///
    /// # Errors
    /// Processes are left, or the kernel's answer.
    pub fn remove(&self) -> Result<(), Error> {
        let dirs: Vec<PathBuf> =
            self.layout.hierarchies.iter().map(|hierarchy| self.dir(hierarchy)).collect();
        remove::remove(&dirs)?;
        self.prune();
        self.scope.as_ref().map_or(Ok(()), Scope::stop)
    }

    /// Removes it if nothing is in it and nothing below; false, and for `remove` to go on with, when something is.
    #[must_use]
    pub fn remove_empty(&self) -> bool {
        let gone =
            self.layout.hierarchies.iter().all(|hierarchy| {
                matches!(rustix::fs::rmdir(self.dir(hierarchy)), Ok(()) | Err(Errno::NOENT))
            });
        if gone && self.scope.is_none() {
            self.prune();
        }
        gone && self.scope.is_none()
    }

    /// Removes it where it is empty, without a word where it is not: for one that may be another's, and for a
    /// parent whose children are gone.
    pub fn remove_if_empty(&self) {
        for hierarchy in &self.layout.hierarchies {
            // ENOENT, EBUSY and ENOTEMPTY all mean that there is nothing to do.
            let _ = rustix::fs::rmdir(self.dir(hierarchy));
        }
        self.prune();
    }

    /// Beside v1 the kubelet makes and removes no directories in cgroup2: those above ours are of our making.
    fn prune(&self) {
        if let Some(unified) = self.layout.unified().filter(|_| self.layout.is_hybrid()) {
            self.dir(unified).parent().into_iter().for_each(|parent| remove::prune(&unified.root, parent));
        }
    }

    fn make(&mut self, resources: &Resources, made: &mut Made) -> Result<(), Error> {
        let mut writes = self.plan(resources)?;
        let policy = policy(&resources.devices)?;
        for hierarchy in &self.layout.hierarchies {
            let dir = made.make(&hierarchy.root, &self.path)?;
            if !made.is_new(&dir) {
                refuse_in_use(&dir)?;
            }
            if made.is_new(&dir) {
                writes.retain(|write| !(write.is_what_is() && hierarchy.has(&write.controller)));
            }
            if hierarchy.version == Version::V1 && hierarchy.has("cpuset") {
                apply::inherit_cpuset(&hierarchy.root, &dir, &self.written)?;
            }
        }
        self.pass_controllers_down_for(&writes)?;
        self.write(&writes)?;
        self.open_to_join()?;
        policy.map_or(Ok(()), |policy| self.set_devices(&policy))
    }

    fn open_to_join(&mut self) -> Result<(), Error> {
        for hierarchy in &self.layout.hierarchies {
            let dir = self.dir(hierarchy);
            match hierarchy.version {
                Version::V1 => self.tasks.push(open(&dir.join("tasks"), OFlags::WRONLY)?),
                Version::V2 => self.unified = Some(open(&dir, OFlags::RDONLY | OFlags::DIRECTORY)?),
            }
        }
        Ok(())
    }

    fn plan(&self, resources: &Resources) -> Result<Vec<Write>, Error> {
        let version = |controller: &str| self.layout.serving(controller).map(|hierarchy| hierarchy.version);
        let mut writes = limits::plan(resources, &version)?;
        if self.layout.is_hybrid() {
            // A controller of cgroup2 beside v1 has to be switched on from the root down, and can then not be
            // mounted as v1: only for a limit that must be held, not for the kubelet's zeros.
            let needed: Vec<String> =
                writes.iter().filter(|w| w.must_hold()).map(|w| w.controller.clone()).collect();
            writes.retain(|w| version(&w.controller) != Some(Version::V2) || needed.contains(&w.controller));
        }
        Ok(writes)
    }

    /// On v2 alone every controller, so that usage is counted; beside v1, and where systemd decides what slices
    /// pass on, those that have something to write.
    fn pass_controllers_down_for(&self, writes: &[Write]) -> Result<(), Error> {
        let Some(unified) = self.layout.unified() else { return Ok(()) };
        let is_v1 = |write: &Write| {
            self.layout.serving(&write.controller).is_some_and(|by| by.version == Version::V1)
        };
        if self.layout.is_hybrid() && writes.iter().all(is_v1) {
            return Ok(());
        }
        let asked = |controller: &str| writes.iter().any(|write| write.controller == controller);
        let all = !self.layout.is_hybrid() && self.scope.is_none();
        let wanted: Vec<&str> =
            unified.controllers().iter().map(String::as_str).filter(|c| all || asked(c)).collect();
        if wanted.is_empty() {
            return Ok(());
        }
        let outcome = apply::pass_controllers_down(&unified.root, &self.path, &wanted);
        // One that is only for counting can be done without.
        let needed = writes.iter().any(|write| write.must_hold() && unified.has(&write.controller));
        if needed { outcome } else { Ok(()) }
    }

    fn write(&self, writes: &[Write]) -> Result<(), Error> {
        for group in writes.chunk_by(|one, other| one.controller == other.controller) {
            let Some(hierarchy) = self.layout.serving(&group[0].controller) else { continue };
            apply::write_limits(&self.dir(hierarchy), &group.iter().collect::<Vec<_>>(), &self.written)?;
        }
        Ok(())
    }

    fn set_devices(&self, policy: &Policy) -> Result<(), Error> {
        if let Some(devices) = self.layout.serving("devices") {
            return set_devices_v1(&self.dir(devices), policy, &self.written);
        }
        let Some(unified) = self.layout.unified() else {
            return Err(Error::MissingController { field: "devices", controller: "devices".to_owned() });
        };
        let dir = open(&self.dir(unified), OFlags::RDONLY | OFlags::DIRECTORY)?;
        set_devices_v2(dir.as_fd(), policy).map_err(|source| Error::Kernel {
            doing: "attaching device rules to",
            object: self.dir(unified),
            source,
        })
    }

    /// `memory.checkBeforeUpdate`: v2 takes a limit below what is used and kills to reach it.
    fn refuse_less_than_used(&self, resources: &Resources) -> Result<(), Error> {
        let Some(memory) =
            resources.memory.as_ref().filter(|memory| memory.check_before_update == Some(true))
        else {
            return Ok(());
        };
        let Some(v2) = self.layout.serving("memory").filter(|hierarchy| hierarchy.version == Version::V2)
        else {
            return Ok(());
        };
        let used =
            files::read(&self.dir(v2), "memory.current").ok().and_then(|used| used.parse::<i64>().ok());
        match (memory.limit, used) {
            (Some(limit @ 1..), Some(used)) if limit < used => {
                Err(Error::Invalid { field: "memory.limit", reason: "is less than the container uses now" })
            }
            _ => Ok(()),
        }
    }

    fn dir(&self, hierarchy: &Hierarchy) -> PathBuf {
        hierarchy.root.join(&self.path)
    }

    /// Any hierarchy lists the processes; cgroup2 is the one that nobody leaves unnoticed.
    fn listing_dir(&self) -> PathBuf {
        let listing = self.layout.unified().or_else(|| self.layout.serving("pids"));
        self.dir(listing.unwrap_or(&self.layout.hierarchies[0]))
    }

    fn freezer(&self) -> Result<(Freezer, PathBuf), Error> {
        if let Some(v1) = self.layout.serving("freezer") {
            return Ok((FREEZER_V1, self.dir(v1)));
        }
        let unified = self.layout.unified().map(|unified| (FREEZER_V2, self.dir(unified)));
        unified.ok_or(Error::MissingController { field: "(freezer)", controller: "freezer".to_owned() })
    }
}

/// Whether a path can be a cgroup's, on whatever node.
pub(crate) fn check_path(path: &str) -> Result<(), Error> {
    checked(path).map(drop)
}

/// A path that stays below each root, without its first slash. The root itself is nobody's to limit.
fn checked(path: &str) -> Result<String, Error> {
    let refuse = |reason| Err(Error::Path { path: path.to_owned(), reason });
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    if parts.is_empty() {
        return refuse("is the root");
    }
    if path.len() > MAX_PATH_BYTES || parts.iter().any(|part| part.len() > MAX_NAME_BYTES) {
        return refuse("is too long");
    }
    if parts.iter().any(|part| matches!(*part, "." | "..")) {
        return refuse("has a . or .. in it");
    }
    if path.contains(['\0', '\n']) {
        return refuse("has a byte that no name can have");
    }
    Ok(parts.join("/"))
}

/// A directory left behind by somebody may be taken over; one with processes may not: limits would hit them.
fn refuse_in_use(dir: &Path) -> Result<(), Error> {
    let pids = processes::pids(dir)?;
    if pids.is_empty() { Ok(()) } else { Err(Error::Busy { dir: dir.to_owned(), pids }) }
}

fn open(path: &Path, flags: OFlags) -> Result<OwnedFd, Error> {
    rustix::fs::open(path, flags | OFlags::CLOEXEC, Mode::empty()).map_err(|source| Error::Kernel {
        doing: "opening",
        object: path.to_owned(),
        source,
    })
}

/// Without rules a container may do what its parent may.
fn policy(rules: &[DeviceRule]) -> Result<Option<Policy>, Error> {
    if rules.is_empty() { Ok(None) } else { Policy::read(rules).map(Some) }
}

fn set_devices_v1(dir: &Path, policy: &Policy, held: &Held) -> Result<(), Error> {
    let (all, except, lines) = policy.v1_writes()?;
    let fail =
        |file: &'static str| move |source| Error::Kernel { doing: "writing", object: dir.join(file), source };
    held.write(dir, all, "a").map_err(fail(all))?;
    if lines.is_empty() {
        return Ok(());
    }
    held.write_each(dir, except, &lines).map_err(fail(except))
}

/// The new program is there before the old ones go: in between both must agree, so nothing slips through.
fn set_devices_v2(dir: BorrowedFd<'_>, policy: &Policy) -> Result<(), Errno> {
    let old = kernel::bpf_device_programs(dir)?;
    let new = kernel::bpf_load_device_program(&policy.v2_program())?;
    kernel::bpf_attach_device_program(dir, new.as_fd())?;
    old.iter().try_for_each(|program| kernel::bpf_detach_device_program(dir, program.as_fd()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_stay_below_the_root() {
        let check = |path: &str, expected: Option<&str>| {
            assert_eq!(checked(path).ok().as_deref(), expected, "{path:?}");
        };
        check("/kubepods/pod1/c", Some("kubepods/pod1/c"));
        check("a//b/", Some("a/b"));
        check("/", None);
        check("", None);
        check("/a/../b", None);
        check("/a/./b", None);
        check("/a\0b", None);
        check(&format!("/{}", "a".repeat(256)), None);
        check(&"/a".repeat(3000), None);
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig { failure_persistence: None, ..Default::default() })]

        #[test]
        fn no_path_leads_out(path in "[a./\0\n ]{0,40}") {
            if let Ok(path) = checked(&path) {
                let parts = Path::new(&path).components();
                proptest::prop_assert!(parts.clone().count() > 0);
                proptest::prop_assert!(parts.into_iter().all(|part| matches!(part, std::path::Component::Normal(_))));
            }
        }
    }

    /// The device rules of v2 work on the cgroup2 of a hybrid node too: here the kernel judges our program.
    #[test]
    fn the_kernel_takes_the_device_program() {
        let Some(unified) = Layout::of_node().unwrap().unified() else { return };
        let dir = unified.root.join(format!("berth-test-devices-{}", std::process::id()));
        rustix::fs::mkdir(&dir, Mode::from_raw_mode(0o755)).unwrap();
        let outcome = open(&dir, OFlags::RDONLY | OFlags::DIRECTORY).map(|fd| {
            let rules = [
                DeviceRule { allow: false, ..DeviceRule::default() },
                DeviceRule { allow: true, kind: Some("b".into()), major: Some(8), ..DeviceRule::default() },
            ];
            let open = [
                DeviceRule { allow: true, ..DeviceRule::default() },
                DeviceRule { kind: Some("b".into()), access: Some("w".into()), ..DeviceRule::default() },
            ];
            set_devices_v2(fd.as_fd(), &Policy::read(&rules).unwrap())
                .and_then(|()| set_devices_v2(fd.as_fd(), &Policy::read(&open).unwrap()))
                .and_then(|()| kernel::bpf_device_programs(fd.as_fd()))
        });
        rustix::fs::rmdir(&dir).unwrap();
        match outcome.unwrap() {
            Ok(programs) => assert_eq!(programs.len(), 1),
            Err(Errno::INVAL | Errno::NOSYS | Errno::PERM) => {
                println!("skipped: no BPF for cgroups in this kernel")
            }
            Err(other) => panic!("{other}"),
        }
    }
}
