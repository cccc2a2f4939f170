//! Our own runtime, linked in: no process, no second parse, no wait.

use std::path::Path;

use conmon_protocol::{CgroupDriver, ContainerPlan, Dump, Images, RefusalKind, Rootfs, Scope};
use runtime::cgroup::{Cgroup, Driver};
use runtime::checkpoint::{After, CgroupMode, CheckpointRequest, RestoreRequest, Then};
use runtime::spec::{Process, Resources, Spec};
use runtime::{CreateRequest, Force, Runtime, Stdio};

use super::{Entered, Started};
use crate::error::Error;
use crate::stdio::Ends;

/// The runtime's root, and where it keeps compiled filters.
#[derive(Debug, Clone, Copy)]
pub(super) struct InTree<'a> {
    pub(super) root: &'a Path,
    pub(super) seccomp_cache: Option<&'a Path>,
    pub(super) cgroup_driver: CgroupDriver,
}

impl InTree<'_> {
    pub(super) fn create(
        self,
        plan: &ContainerPlan,
        spec: Spec,
        ends: Option<Ends>,
    ) -> Result<Entered, Error> {
        Ok(self.runtime().create(asked(plan, spec, ends)).map(Entered::from)?)
    }

    pub(super) fn start(self, id: &str) -> Result<(), Error> {
        Ok(self.runtime().start(id)?)
    }

    pub(super) fn restore(
        self,
        plan: &ContainerPlan,
        spec: Spec,
        ends: Option<Ends>,
        from: &Images,
    ) -> Result<Entered, Error> {
        let lsm_profile = spec.process.as_ref().and_then(lsm_profile);
        let container = asked(plan, spec, ends);
        let images = images(&from.criu, &from.dir, &from.work_dir);
        let request =
            RestoreRequest { container, images, lsm_profile, lsm_mount_context: None, then: Then::Hold };
        Ok(self.runtime().restore(&request).map(Entered::from).map_err(without_log)?)
    }

    pub(super) fn start_restored(self, id: &str) -> Result<(), Error> {
        Ok(self.runtime().start_restored(id)?)
    }

    pub(super) fn freeze(self, id: &str) -> Result<(), Error> {
        Ok(self.runtime().pause(id)?)
    }

    /// By the runtime's own record, as it was frozen: below a scope of systemd its processes are in a cgroup of their own,
    /// and what the monitor knows is the scope.
    pub(super) fn thaw(self, id: &str) -> Result<(), Error> {
        let cgroup = match self.runtime().cgroup(id) {
            Err(runtime::Error::NotFound { .. }) => return Ok(()),
            cgroup => cgroup?,
        };
        Ok(cgroup.thaw().map_err(|source| runtime::Error::Cgroup { id: id.to_owned(), source })?)
    }

    pub(super) fn pids(self, id: &str) -> Result<Vec<i32>, Error> {
        Ok(self.runtime().pids(id)?)
    }

    pub(super) fn dump(self, id: &str, dump: &Dump, criu: &Path) -> Result<(), Error> {
        let request = CheckpointRequest {
            images: images(criu, &dump.dir, &dump.work_dir),
            after: After::LeaveRunning,
            parent: None,
            page_server: None,
            status_fd: None,
        };
        Ok(self.runtime().checkpoint(id, &request).map_err(without_log)?)
    }

    pub(super) fn started(self, id: &str) -> Started {
        match self.runtime().state(id).map(|state| state.status) {
            Ok(runtime::state::Status::Created) => Started::No,
            // Restored and held, or running and frozen for a checkpoint.
            Ok(runtime::state::Status::Paused) if self.runtime().is_held(id) => Started::No,
            Ok(_) | Err(_) => Started::Yes,
        }
    }

    pub(super) fn kill(self, id: &str, signal: i32, scope: Scope) -> Result<(), Error> {
        let scope = match scope {
            Scope::Init => runtime::Scope::Init,
            Scope::All => runtime::Scope::All,
        };
        Ok(self.runtime().kill(id, signal, scope)?)
    }

    pub(super) fn exec(self, id: &str, process: &Process, ends: Option<Ends>) -> Result<Entered, Error> {
        Ok(self.runtime().exec(id, process, stdio(ends)).map(Entered::from)?)
    }

    pub(super) fn delete(self, id: &str) -> Result<(), Error> {
        // Its hooks have written to our standard error what they had to say.
        Ok(self.runtime().delete(id, Force::Kill).map(drop)?)
    }

    /// The kernel has the limits, and systemd those of its scopes; no record of the runtime does.
    pub(super) fn update(self, id: &str, cgroup: Option<&str>, resources: &Resources) -> Result<(), Error> {
        let path = cgroup.ok_or_else(|| {
            Error::refused(RefusalKind::Unsupported, format!("container {id} has no cgroup of its own"))
        })?;
        let failed = |source| runtime::Error::Cgroup { id: id.to_owned(), source };
        let cgroup = match self.cgroup_driver {
            CgroupDriver::Cgroupfs => Cgroup::at(path).map_err(failed)?,
            CgroupDriver::Systemd => self.runtime().cgroup(id)?,
        };
        Ok(cgroup.update(resources).map_err(failed)?)
    }

    fn runtime(self) -> Runtime {
        let mut runtime = Runtime::new(self.root);
        runtime.seccomp_cache = self.seccomp_cache.map(Path::to_path_buf);
        runtime.cgroup_driver = match self.cgroup_driver {
            CgroupDriver::Cgroupfs => Driver::Cgroupfs,
            CgroupDriver::Systemd => Driver::Systemd,
        };
        runtime
    }
}

impl From<runtime::Process> for Entered {
    fn from(process: runtime::Process) -> Entered {
        let runtime::Process { pid, pidfd, console, warnings, .. } = process;
        Entered { pid, pidfd, console, warnings }
    }
}

/// criu's log goes the way of what failed, so nobody is sent to look at it.
fn without_log(error: runtime::Error) -> runtime::Error {
    match error {
        runtime::Error::Criu { program, reason } => {
            let words = reason.split_once("; all of it is in ").map(|(words, _)| format!("{words})"));
            runtime::Error::Criu { program, reason: words.unwrap_or(reason) }
        }
        other => other,
    }
}

/// What both ways have in common: the pod that it is restored in has other addresses, so no connection goes along.
fn images(criu: &Path, dir: &Path, work_dir: &Path) -> runtime::checkpoint::Images {
    runtime::checkpoint::Images {
        program: criu.to_owned(),
        dir: dir.to_owned(),
        work_dir: Some(work_dir.to_owned()),
        tcp_established: false,
        tcp_close: true,
        tcp_skip_in_flight: false,
        external_unix_sockets: false,
        link_remap: false,
        shell_job: false,
        file_locks: true,
        auto_dedup: false,
        lazy_pages: false,
        cgroups: CgroupMode::Soft,
        empty_namespaces: 0,
    }
}

/// That of the pod it comes into, instead of the one that the images name.
fn lsm_profile(process: &Process) -> Option<String> {
    let apparmor = process.apparmor_profile.as_ref().filter(|profile| !profile.is_empty());
    let selinux = process.selinux_label.as_ref().filter(|label| !label.is_empty());
    let apparmor = apparmor.map(|profile| format!("apparmor:{profile}"));
    apparmor.or_else(|| selinux.map(|label| format!("selinux:{label}")))
}

/// What the runtime is asked to make, or to make and restore into.
fn asked<'a>(plan: &'a ContainerPlan, spec: Spec, ends: Option<Ends>) -> CreateRequest<'a> {
    CreateRequest {
        id: &plan.container_id,
        bundle: &plan.bundle_dir,
        spec,
        rootfs: rootfs(&plan.rootfs),
        stdio: stdio(ends),
        preserve_fds: 0,
    }
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
