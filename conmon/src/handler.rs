//! What a monitor asks of an OCI runtime: the one linked in, or another one by its command line.

mod command;
mod in_tree;

use std::collections::BTreeMap;
use std::fs;
use std::os::fd::OwnedFd;
use std::path::Path;

use conmon_protocol::{CgroupDriver, ContainerPlan, Dump, Handler, Images, RefusalKind, Rootfs, Scope};
use runtime::cgroup::{Cgroup, OomWatch, ScopePlan};
use runtime::spec::{NamespaceKind, Resources, Root, Spec};
use rustix::event::Timespec;
use serde::Deserialize as _;

use self::command::Command;
use self::in_tree::InTree;
use crate::error::{Error, Named as _};
use crate::reap;
use crate::stdio::Ends;

/// No config.json is longer; Kubernetes itself bounds a pod at 1.5 MiB.
const MAX_CONFIG: u64 = 4 << 20;

const SIGKILL: i32 = 9;

/// A container whose process waits.
#[derive(Debug)]
pub(crate) struct Made {
    pub(crate) process: Entered,
    pub(crate) cgroup: Option<String>,
    pub(crate) owns_pid_namespace: bool,
}

/// A process, and its terminal's master if it has one.
#[derive(Debug)]
pub(crate) struct Entered {
    pub(crate) pid: i32,
    pub(crate) pidfd: OwnedFd,
    pub(crate) console: Option<OwnedFd>,
    /// What was asked and done in part only.
    pub(crate) warnings: Vec<String>,
}

/// Whether a container's process was let go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Started {
    Yes,
    No,
}

enum Of<'a> {
    InTree(InTree<'a>),
    Command(Command<'a>),
}

fn of(plan: &ContainerPlan) -> Of<'_> {
    match &plan.handler {
        Handler::InTree { root, seccomp_cache, cgroup_driver } => {
            let seccomp_cache = seccomp_cache.as_deref();
            Of::InTree(InTree { root, seccomp_cache, cgroup_driver: *cgroup_driver })
        }
        Handler::Command { path, root, cgroup_driver } => {
            Of::Command(Command { program: path, root, cgroup_driver: *cgroup_driver, plan })
        }
    }
}

/// Makes a container whose process waits for [`start`]. `None` as streams means a terminal.
pub(crate) fn create(plan: &ContainerPlan, ends: Option<Ends>) -> Result<Made, Error> {
    let spec = read_spec(plan)?;
    let (cgroup, owns_pid_namespace) = (cgroup_of(plan, &spec)?, owns_pid_namespace(&spec));
    let process = match of(plan) {
        Of::InTree(runtime) => runtime.create(plan, spec, ends)?,
        Of::Command(runtime) => runtime.create(&spec, ends)?,
    };
    Ok(Made { process, cgroup, owns_pid_namespace })
}

/// Makes a container of images, frozen until [`start_restored`].
pub(crate) fn restore(plan: &ContainerPlan, ends: Option<Ends>, from: &Images) -> Result<Made, Error> {
    let spec = read_spec(plan)?;
    let (cgroup, owns_pid_namespace) = (cgroup_of(plan, &spec)?, owns_pid_namespace(&spec));
    let process = in_tree(plan)?.restore(plan, spec, ends, from)?;
    Ok(Made { process, cgroup, owns_pid_namespace })
}

pub(crate) fn start_restored(plan: &ContainerPlan) -> Result<(), Error> {
    in_tree(plan)?.start_restored(&plan.container_id)
}

/// Answers when all its processes stand still.
pub(crate) fn freeze(plan: &ContainerPlan) -> Result<(), Error> {
    in_tree(plan)?.freeze(&plan.container_id)
}

/// Lets its processes run. Those that run already, and one that is gone, are fine.
pub(crate) fn thaw(plan: &ContainerPlan) -> Result<(), Error> {
    in_tree(plan)?.thaw(&plan.container_id)
}

/// Writes its processes to images; they stand still and stay so.
pub(crate) fn dump(plan: &ContainerPlan, dump: &Dump, criu: &Path) -> Result<(), Error> {
    in_tree(plan)?.dump(&plan.container_id, dump, criu)
}

/// Whether somebody traces one of its processes. One that can't be looked at is nobody's any more.
pub(crate) fn is_traced(plan: &ContainerPlan) -> bool {
    in_tree(plan)
        .and_then(|runtime| runtime.pids(&plan.container_id))
        .is_ok_and(|pids| pids.into_iter().any(reap::has_tracer))
}

/// Other runtimes keep to themselves how they call criu.
fn in_tree(plan: &ContainerPlan) -> Result<InTree<'_>, Error> {
    match of(plan) {
        Of::InTree(runtime) => Ok(runtime),
        Of::Command(runtime) => {
            let message = format!(
                "container {} is made by {}; only those of berth's own runtime are checkpointed and restored",
                plan.container_id,
                runtime.program.display()
            );
            Err(Error::refused(RefusalKind::Unsupported, message))
        }
    }
}

pub(crate) fn start(plan: &ContainerPlan) -> Result<(), Error> {
    match of(plan) {
        Of::InTree(runtime) => runtime.start(&plan.container_id),
        Of::Command(runtime) => runtime.start(),
    }
}

/// For a monitor that only knows that another one meant to start it.
pub(crate) fn started(plan: &ContainerPlan) -> Started {
    match of(plan) {
        Of::InTree(runtime) => runtime.started(&plan.container_id),
        Of::Command(runtime) => runtime.started(),
    }
}

pub(crate) fn kill(plan: &ContainerPlan, signal: i32, scope: Scope) -> Result<(), Error> {
    match of(plan) {
        Of::InTree(runtime) => runtime.kill(&plan.container_id, signal, scope),
        Of::Command(runtime) => runtime.kill(signal, scope),
    }
}

/// Whether asking it is to start a program that may hang.
pub(crate) fn is_command(plan: &ContainerPlan) -> bool {
    match plan.handler {
        Handler::InTree { .. } => false,
        Handler::Command { .. } => true,
    }
}

/// Kills all of its processes, now. Another runtime is not asked: its command may hang, and the cgroup knows them.
pub(crate) fn kill_all(plan: &ContainerPlan, cgroup: Option<&str>) -> Result<(), Error> {
    let Of::Command(_) = of(plan) else { return kill(plan, SIGKILL, Scope::All) };
    let Some(path) = cgroup else { return Ok(()) };
    let killed = Cgroup::at(path).and_then(|cgroup| cgroup.kill_all(SIGKILL));
    killed.map_err(|source| runtime::Error::Cgroup { id: plan.container_id.clone(), source }.into())
}

/// Kills what a making left, and says which of its processes are there still after so long.
pub(crate) fn kill_unfinished(plan: &ContainerPlan, patience: Timespec) -> Vec<i32> {
    let cgroup = read_spec(plan).and_then(|spec| cgroup_of(plan, &spec)).ok().flatten();
    // Where nothing was made yet there is nothing to kill.
    let _ = kill_all(plan, cgroup.as_deref());
    let cgroup = cgroup.and_then(|path| Cgroup::at(&path).ok());
    let pids = cgroup.and_then(|cgroup| cgroup.pids().ok()).unwrap_or_default();
    reap::those_that_stay(&pids, patience)
}

pub(crate) fn exec(
    plan: &ContainerPlan,
    process: serde_json::Value,
    ends: Option<Ends>,
) -> Result<Entered, Error> {
    let spec: runtime::spec::Process = serde_json::from_value(process)
        .map_err(|error| Error::refused(RefusalKind::Invalid, format!("the process to exec: {error}")))?;
    match of(plan) {
        Of::InTree(runtime) => runtime.exec(&plan.container_id, &spec, ends),
        Of::Command(runtime) => runtime.exec(&spec, ends),
    }
}

/// Changes the limits that an OCI `linux.resources` object gives, and no others.
pub(crate) fn update(
    plan: &ContainerPlan,
    cgroup: Option<&str>,
    resources: serde_json::Value,
) -> Result<(), Error> {
    let known: Resources = Resources::deserialize(&resources)
        .map_err(|error| Error::refused(RefusalKind::Invalid, format!("the resources to set: {error}")))?;
    match of(plan) {
        Of::InTree(runtime) => runtime.update(&plan.container_id, cgroup, &known),
        Of::Command(runtime) => runtime.update(&resources),
    }
}

/// Takes away the cgroup and the runtime's record, with all processes. Safe from any point and twice.
pub(crate) fn delete(plan: &ContainerPlan) -> Result<(), Error> {
    match of(plan) {
        Of::InTree(runtime) => runtime.delete(&plan.container_id),
        Of::Command(runtime) => runtime.delete(),
    }
}

/// How many processes of the cgroup the kernel killed for want of memory; `None` when it is gone, or there is none.
pub(crate) fn oom_kills(cgroup: Option<&str>) -> Option<u64> {
    cgroup.and_then(|path| Cgroup::at(path).ok()).and_then(|cgroup| cgroup.known_oom_kills())
}

/// Tells of such kills as they happen; `None` where nothing can.
pub(crate) fn watch_oom(cgroup: Option<&str>) -> Result<Option<OomWatch>, Error> {
    let Some(path) = cgroup else { return Ok(None) };
    match Cgroup::at(path).and_then(|cgroup| cgroup.watch_oom()) {
        Ok(watch) => Ok(Some(watch)),
        Err(runtime::cgroup::Error::MissingController { .. }) => Ok(None),
        Err(source) => Err(runtime::Error::Cgroup { id: path.to_owned(), source }.into()),
    }
}

/// Whether that was one.
pub(crate) fn ran_out(watch: &mut OomWatch, cgroup: Option<&str>) -> bool {
    let cgroup = cgroup.and_then(|path| Cgroup::at(path).ok());
    cgroup.is_some_and(|cgroup| watch.ran_out(&cgroup))
}

fn read_spec(plan: &ContainerPlan) -> Result<Spec, Error> {
    let path = plan.bundle_dir.join("config.json");
    let length = fs::metadata(&path).named("reading", &path)?.len();
    if length > MAX_CONFIG {
        let message = format!("{} is longer than {MAX_CONFIG} bytes", path.display());
        return Err(Error::refused(RefusalKind::Invalid, message));
    }
    let bytes = fs::read(&path).named("reading", &path)?;
    let mut spec: Spec = serde_json::from_slice(&bytes)
        .map_err(|error| Error::refused(RefusalKind::Invalid, format!("{}: {error}", path.display())))?;
    if let Rootfs::Dir(path) = &plan.rootfs {
        spec.root.get_or_insert_with(Root::default).path.clone_from(path);
    }
    Ok(spec)
}

/// Where its processes are counted.
fn cgroup_of(plan: &ContainerPlan, spec: &Spec) -> Result<Option<String>, Error> {
    let path = spec.linux.as_ref().and_then(|linux| linux.cgroups_path.clone());
    let (Handler::InTree { cgroup_driver, .. } | Handler::Command { cgroup_driver, .. }) = &plan.handler;
    match cgroup_driver {
        CgroupDriver::Cgroupfs => Ok(path),
        // Below the scope every runtime has its own ways.
        CgroupDriver::Systemd => {
            let scope = ScopePlan::of(path.as_deref(), &plan.container_id, &BTreeMap::new());
            let id = plan.container_id.clone();
            Ok(Some(scope.map_err(|source| runtime::Error::Cgroup { id, source })?.scope_path()))
        }
    }
}

/// When the first process of its own PID namespace ends, the kernel ends all others.
fn owns_pid_namespace(spec: &Spec) -> bool {
    let mut namespaces = spec.linux.iter().flat_map(|linux| &linux.namespaces);
    namespaces.any(|namespace| namespace.kind == NamespaceKind::Pid && namespace.path.is_none())
}
