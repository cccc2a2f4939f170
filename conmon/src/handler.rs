//! What a monitor asks of an OCI runtime. The only file that knows the runtime is linked in.

use conmon_protocol::{ContainerPlan, Handler, RefusalKind, Rootfs, Scope};
use runtime::spec::{NamespaceKind, Root, Spec};
use runtime::{CreateRequest, Force, Runtime, Stdio};
use std::fs;
use std::os::fd::OwnedFd;

use crate::error::{Error, Named as _};
use crate::stdio::Ends;

/// No config.json is longer; Kubernetes itself bounds a pod at 1.5 MiB.
const MAX_CONFIG: u64 = 4 << 20;

#[derive(Debug)]
pub(crate) struct Made {
    pub(crate) pid: i32,
    pub(crate) console: Option<OwnedFd>,
    pub(crate) cgroup: Option<String>,
    pub(crate) owns_pid_namespace: bool,
    /// What was asked and done in part only.
    pub(crate) warnings: Vec<String>,
}

/// A process, and its terminal's master if it has one.
#[derive(Debug)]
pub(crate) struct Entered {
    pub(crate) pid: i32,
    pub(crate) pidfd: OwnedFd,
    pub(crate) console: Option<OwnedFd>,
}

/// Says no to a handler that nothing here can drive, before anything is made.
pub(crate) fn check(plan: &ContainerPlan) -> Result<(), Error> {
    runtime(plan).map(drop)
}

/// Makes a container whose process waits for [`start`]. `None` as streams means a terminal.
pub(crate) fn create(plan: &ContainerPlan, ends: Option<Ends>) -> Result<Made, Error> {
    let runtime = runtime(plan)?;
    let mut spec = read_spec(plan)?;
    if let Rootfs::Dir(path) = &plan.rootfs {
        spec.root.get_or_insert_with(Root::default).path.clone_from(path);
    }
    let (cgroup, owns_pid_namespace) = (cgroup_of(&spec), owns_pid_namespace(&spec));
    let request = CreateRequest {
        id: &plan.container_id,
        bundle: &plan.bundle_dir,
        spec,
        rootfs: rootfs(&plan.rootfs),
        stdio: stdio(ends),
        preserve_fds: 0,
    };
    let process = runtime.create(request)?;
    Ok(Made {
        pid: process.pid,
        console: process.console,
        cgroup,
        owns_pid_namespace,
        warnings: process.warnings,
    })
}

pub(crate) fn start(plan: &ContainerPlan) -> Result<(), Error> {
    Ok(runtime(plan)?.start(&plan.container_id)?)
}

/// Whether the process was let go, for a monitor that only knows that another one meant to.
pub(crate) fn has_started(plan: &ContainerPlan) -> bool {
    let state = runtime(plan).and_then(|runtime| Ok(runtime.state(&plan.container_id)?));
    state.is_ok_and(|state| state.status != runtime::state::Status::Created)
}

pub(crate) fn kill(plan: &ContainerPlan, signal: i32, scope: Scope) -> Result<(), Error> {
    let scope = match scope {
        Scope::Init => runtime::Scope::Init,
        Scope::All => runtime::Scope::All,
    };
    Ok(runtime(plan)?.kill(&plan.container_id, signal, scope)?)
}

pub(crate) fn exec(
    plan: &ContainerPlan,
    process: serde_json::Value,
    ends: Option<Ends>,
) -> Result<Entered, Error> {
    let process = serde_json::from_value(process)
        .map_err(|error| Error::refused(RefusalKind::Invalid, format!("the process to exec: {error}")))?;
    let entered = runtime(plan)?.exec(&plan.container_id, &process, stdio(ends))?;
    Ok(Entered { pid: entered.pid, pidfd: entered.pidfd, console: entered.console })
}

/// Takes away the cgroup and the runtime's record, with all processes. Safe from any point and twice.
pub(crate) fn delete(plan: &ContainerPlan) -> Result<(), Error> {
    Ok(runtime(plan)?.delete(&plan.container_id, Force::Kill)?)
}

/// How many processes of the cgroup the kernel killed for want of memory. A cgroup that is gone counts none.
pub(crate) fn oom_kills(cgroup: Option<&str>) -> u64 {
    let cgroup = cgroup.and_then(|path| runtime::cgroup::Cgroup::open(path).ok());
    cgroup.map_or(0, |cgroup| cgroup.oom_kills())
}

fn runtime(plan: &ContainerPlan) -> Result<Runtime, Error> {
    match &plan.handler {
        Handler::InTree { root, seccomp_cache } => {
            let mut runtime = Runtime::new(root.clone());
            runtime.seccomp_cache.clone_from(seccomp_cache);
            Ok(runtime)
        }
        Handler::Command { path, .. } => {
            let message = format!("running {} as the OCI runtime is not supported yet", path.display());
            Err(Error::refused(RefusalKind::Unsupported, message))
        }
    }
}

fn read_spec(plan: &ContainerPlan) -> Result<Spec, Error> {
    let path = plan.bundle_dir.join("config.json");
    let length = fs::metadata(&path).named("reading", &path)?.len();
    if length > MAX_CONFIG {
        let message = format!("{} is longer than {MAX_CONFIG} bytes", path.display());
        return Err(Error::refused(RefusalKind::Invalid, message));
    }
    let bytes = fs::read(&path).named("reading", &path)?;
    serde_json::from_slice(&bytes)
        .map_err(|error| Error::refused(RefusalKind::Invalid, format!("{}: {error}", path.display())))
}

fn cgroup_of(spec: &Spec) -> Option<String> {
    spec.linux.as_ref().and_then(|linux| linux.cgroups_path.clone())
}

/// When the first process of its own PID namespace ends, the kernel ends all others.
fn owns_pid_namespace(spec: &Spec) -> bool {
    let mut namespaces = spec.linux.iter().flat_map(|linux| &linux.namespaces);
    namespaces.any(|namespace| namespace.kind == NamespaceKind::Pid && namespace.path.is_none())
}

fn rootfs(rootfs: &Rootfs) -> runtime::Rootfs {
    match rootfs {
        Rootfs::Overlay { lower, upper, work } => {
            runtime::Rootfs::Overlay { lower: lower.clone(), upper: upper.clone(), work: work.clone() }
        }
        Rootfs::Dir(_) => runtime::Rootfs::Bundle,
    }
}

fn stdio(ends: Option<Ends>) -> Stdio {
    match ends {
        Some(ends) => Stdio::Fds { stdin: ends.stdin, stdout: ends.stdout, stderr: ends.stderr },
        None => Stdio::Terminal,
    }
}
