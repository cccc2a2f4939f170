//! A container's cgroup in a scope: the scope first, kept by a process that has nothing else to do, then the cgroup below.

use rustix::io::Errno;

use super::super::apply::{self, Made};
use super::super::devices::Policy;
use super::super::limits::Write;
use super::super::{Cgroup, Error};
use super::{Keeper, SUB_CGROUP, Scope, ScopePlan};
use crate::spec::Resources;

impl Cgroup {
    /// The same as `create` in a scope that systemd makes for it.
    ///
    /// # Errors
    /// cgroup2 is not alone on this node, systemd refuses, or as `create`.
    pub fn create_in_scope(plan: &ScopePlan, resources: &Resources) -> Result<Cgroup, Error> {
        let mut cgroup = Cgroup::at(&plan.cgroup_path())?.in_scope(Some(plan.scope.clone()));
        if cgroup.layout.is_hybrid() || cgroup.layout.unified().is_none() {
            return Err(Error::NotUnified);
        }
        let writes = cgroup.plan_now(resources)?;
        let policy = Policy::read(&resources.devices)?;
        let keeper = cgroup.keeper(None)?;
        let scope_path = plan.start(keeper.pid(), &writes)?;
        if let Err(error) = plan.scope.come_near(&scope_path) {
            let _ = plan.scope.stop();
            return Err(error);
        }
        cgroup.path = format!("{scope_path}/{SUB_CGROUP}");
        let mut made = Made::default();
        let settled = cgroup
            .settle(&scope_path, keeper, &writes, &mut made)
            .and_then(|()| cgroup.confine_to_devices(&policy, &resources.devices));
        match settled {
            Ok(()) => Ok(cgroup),
            Err(error) => {
                cgroup.release_keeper();
                made.undo();
                // Why it failed is what the caller wants to hear; without processes it goes by itself, too.
                let _ = plan.scope.stop();
                Err(error)
            }
        }
    }

    /// One keeper after another, as no cgroup may have both processes and controllers for those below it.
    fn settle(
        &mut self,
        scope_path: &str,
        first: Keeper,
        writes: &[Write],
        made: &mut Made,
    ) -> Result<(), Error> {
        let root = self.layout.unified().ok_or(Error::NotUnified)?.root.clone();
        made.make(&root, &self.path)?;
        self.open_to_join()?;
        self.keeper = Some(self.keeper(self.unified_dir())?);
        drop(first);
        // A limit that needs one which is refused here will say so at its own file.
        let _ = apply::pass_own_controllers_down(&root.join(scope_path));
        self.pass_controllers_down_for(writes)?;
        self.write(writes)
    }

    /// The container is in it: nobody else need be.
    pub(crate) fn release_keeper(&mut self) {
        drop(self.keeper.take());
    }

    fn keeper(&self, cgroup: Option<std::os::fd::BorrowedFd<'_>>) -> Result<Keeper, Error> {
        let at = |source: Errno| Error::Kernel {
            doing: "cloning a process to keep",
            object: self.path.clone().into(),
            source,
        };
        Keeper::new(cgroup).map_err(at)
    }

    /// A cgroup that is in a scope, if it is in one.
    #[must_use]
    pub fn in_scope(mut self, scope: Option<Scope>) -> Cgroup {
        self.scope = scope;
        self
    }
}
