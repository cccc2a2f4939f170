//! What is opened and made before there is a process: the cgroup, the filter, and the sources of mounts.

use std::os::fd::{AsFd as _, OwnedFd};
use std::path::PathBuf;

use kernel::clone_flags as flag;
use rustix::fs::{CWD, Mode, OFlags};
use rustix::process::geteuid;

use super::{Making, joined};
use crate::cgroup::Cgroup;
use crate::child;
use crate::later::Later;
use crate::plan::{self, Plan, Source};
use crate::seccomp::{self, Filter};
use crate::spec::{Hooks, Spec};
use crate::{Cgroups, Error, Rootfs, Runtime, sources, userns};

/// What the parent holds for the child.
pub(super) struct Opened {
    pub(super) root: OwnedFd,
    pub(super) trees: Vec<Option<OwnedFd>>,
    pub(super) nodes: Vec<Option<OwnedFd>>,
    pub(super) hierarchies: Vec<child::Hierarchy>,
    pub(super) joined: Vec<(u64, OwnedFd)>,
    pub(super) start: OwnedFd,
    pub(super) outcome: Option<OwnedFd>,
    pub(super) cgroup: Cgroup,
    pub(super) filter: Option<Filter>,
}

impl Opened {
    /// All of it but the start FIFO: there are dozens, and the numbers are neighbours.
    pub(super) fn close(self, later: &Later) -> OwnedFd {
        later.close_all(self.trees.into_iter().chain(self.nodes).flatten());
        later.close_all(self.hierarchies.into_iter().map(|hierarchy| hierarchy.tree));
        later.close_all(self.joined.into_iter().map(|(_, namespace)| namespace));
        later.close_all(self.cgroup.into_fds());
        later.close_all(self.outcome.into_iter().chain([self.root]));
        self.start
    }
}

impl Making<'_> {
    pub(super) fn open(&self) -> Result<Opened, Error> {
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
        let Some((filter, cached)) = compile(self.runtime, &self.request.spec, &self.later)? else {
            return Ok(None);
        };
        self.dir.keep_filter(&filter, cached.as_deref(), &self.later)?;
        Ok(Some(filter))
    }
}

/// The filter, and the file in the cache that holds it.
fn compile(
    runtime: &Runtime,
    spec: &Spec,
    later: &Later,
) -> Result<Option<(Filter, Option<PathBuf>)>, Error> {
    let Some(profile) = spec.linux.as_ref().and_then(|linux| linux.seccomp.as_ref()) else { return Ok(None) };
    let (filter, cached) = match &runtime.seccomp_cache {
        Some(dir) => seccomp::find_or_compile(profile, dir, later)?,
        None => (seccomp::compile(profile)?, None),
    };
    Ok(Some((filter, cached)))
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
