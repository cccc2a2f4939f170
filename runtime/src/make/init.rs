//! The init: cloned, given what only its parent can give it, and heard out until it waits for `start`.

use std::ffi::CString;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use kernel::{Child, clone_flags as flag};

use super::open::Opened;
use super::process::{
    JOINING, child_of_ours, clone_into, ignored_signals, reap, send_listener, set_oom_score_adj, stdio,
};
use super::{Making, joined};
use crate::child::{self, Kit};
use crate::hooks::{self, ChildHooks};
use crate::plan::{Pivot, Within};
use crate::report::{Line, Word};
use crate::state::{Init, Record, Status};
use crate::{Error, netdev, userns};

impl Making<'_> {
    /// Clones the init, or the first of two children that clones it.
    pub(super) fn clone_init(
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
            ignored_signals: ignored_signals(&self.later),
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
    pub(super) fn accompany(
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
        self.lend_interfaces(record, opened, init)?;
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
        let console = self.hear_until_ready(record, ours, init)?;
        if record.net_devices.take().is_some() {
            // From here on they are the container's.
            netdev::unpin(&self.dir.pinned_network())?;
            self.dir.write(record, &self.later)?;
        }
        opened.cgroup.write_late().map_err(|source| Error::Cgroup { id: record.id.clone(), source })?;
        Ok(console)
    }

    /// On record before anything moves, and held: whoever comes after a crash brings them back.
    fn lend_interfaces(&self, record: &mut Record, opened: &Opened, init: &Child) -> Result<(), Error> {
        if self.plan.net_devices.is_empty() {
            return Ok(());
        }
        let namespace = joined::network_of(opened, init)?;
        record.net_devices = Some(netdev::Loan::of(&self.plan.net_devices, &namespace)?);
        self.dir.write(record, &self.later)?;
        netdev::pin(&self.dir.pinned_network(), &namespace)?;
        record.net_devices.as_ref().map_or(Ok(()), |loan| loan.move_in(&namespace))
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
                    hooks::run_all("prestart", &record.hooks.prestart, &state)?;
                    hooks::run_all("createRuntime", &record.hooks.create_runtime, &state)?;
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
