//! Takes containers away.

use conmon_protocol::{ContainerPlan, RefusalKind};
use rustix::event::Timespec;

use crate::error::{Error, Leftovers};
use crate::handler;
use crate::record::{self, ContainerRecord};
use crate::stdio;

/// Takes away what was never whole. Its processes are killed; those that the kernel holds are not waited for longer than
/// this, since that may be for ever.
pub(crate) fn unmake_unfinished(plan: &ContainerPlan, patience: Timespec) -> Result<(), Error> {
    let held = handler::kill_unfinished(plan, patience);
    if held.is_empty() {
        return unmake(plan);
    }
    let message = format!(
        "processes {held:?} of container {} were killed and the kernel holds them; a volume does not answer",
        plan.container_id
    );
    Err(Error::refused(RefusalKind::Failed, message))
}

/// Takes all of it away, from any point, and past failures. Safe twice. Its process is expected to have ended.
pub(crate) fn unmake(plan: &ContainerPlan) -> Result<(), Error> {
    let mut left = Leftovers::default();
    left.note(handler::delete(plan));
    left.note(stdio::unmake(&plan.container_dir));
    left.note(stdio::remove(&record::exit_path(&plan.container_dir)));
    left.note(stdio::remove(&ContainerRecord::path(&plan.container_dir)));
    left.result()
}
