//! The parent's side of making: opens and makes what the plan names (`open`), clones the init and hears it out (`init`).

mod init;
mod joined;
mod open;
mod process;
mod words;

pub(crate) use process::{
    child_of_ours, clone_into, dies_with, end, grant, ignored_signals, reap, send_listener,
    set_oom_score_adj, stay, stdio,
};
pub(crate) use words::explain;

use std::os::fd::{AsFd as _, OwnedFd};
use std::time::{SystemTime, UNIX_EPOCH};

use kernel::clone_flags as flag;

use crate::later::Later;
use crate::listener::Listener;
use crate::plan::{self, Pivot, Plan};
use crate::report::lines;
use crate::shared_root::SharedRoot;
use crate::state::{Record, StateDir};
use crate::{CreateRequest, Error, Kept, Notify, Process, Runtime, lsm, rdt, rootless, unmake, userns};

/// Makes a container up to the point where its init waits for `start`. What failed half-way is unmade.
pub(crate) fn make(runtime: &Runtime, request: &CreateRequest<'_>) -> Result<Process, Error> {
    let plan = decide(runtime, request)?;
    let dir = StateDir::of(&runtime.root, request.id)?;
    dir.make()?;
    let mut record = None;
    let made = Making::begin(runtime, request, plan, &dir).make(&mut record);
    if made.is_err() {
        // From what we know and not from what is on disk, which a `delete --force` beside us may have taken away. The
        // caller wants to know why it failed; what could not be taken away shows in `list`.
        let _ = unmake::unmake_known(&dir, record.as_ref());
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
    /// We are in the node's own user namespace.
    first_userns: bool,
    warnings: Vec<String>,
    later: Later,
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
        Making { runtime, request, plan, dir, first_userns, warnings, later }
    }

    /// The record is `known` until the container is made.
    fn make(mut self, known: &mut Option<Record>) -> Result<Process, Error> {
        let record = known.insert(self.record());
        record.boot_id = self.dir.boot_id();
        if let Some(rdt) = &self.plan.rdt {
            record.rdt = Some(rdt::Groups::of(&rdt::root()?, &record.id, rdt));
        }
        // On disk before anything that it names, so that whoever comes after a crash can take that away.
        self.dir.write_first(record, &self.later)?;
        if self.runtime.notify == Notify::Yes {
            self.dir.make_notify()?;
        }
        self.grant_capabilities()?;
        let mut opened = self.open()?;
        record.cgroup_path = opened.cgroup.path();
        record.seccomp_flags = opened.filter.as_ref().map(|filter| filter.flags);
        record.shared_root = SharedRoot::of(&self.plan, opened.root.as_fd())?;
        if record.shared_root.is_some() {
            // Before it is attached: a crash later on must not leave it there.
            self.dir.write(record, &self.later)?;
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
        let made = self.accompany(record, &ours, &opened, &init);
        match made {
            Ok(console) => {
                let start = Some(opened.close(&self.later));
                self.later.close(ours);
                let record = known.take().ok_or(Error::Died)?;
                let kept = Some(Box::new(Kept { dir: self.dir.clone(), record, start, later: self.later }));
                Ok(Process { pid: init.pid, pidfd: init.pidfd, console, warnings: self.warnings, kept })
            }
            Err(error) => {
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
            config_version: Some(spec.oci_version.clone()),
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
            net_devices: None,
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
}

fn take(joined: &mut Vec<(u64, OwnedFd)>, flag: u64) -> Option<OwnedFd> {
    let at = joined.iter().position(|(known, _)| *known == flag)?;
    Some(joined.remove(at).1)
}
