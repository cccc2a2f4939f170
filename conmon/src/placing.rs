//! Where the monitor itself lives: where it was started, or in a cgroup that the pod's handler names. It has one thread,
//! so it can go by itself, and its containers are born into cgroups of their own whatever it does.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use conmon_protocol::{MonitorCgroup, PodPlan};
use runtime::cgroup::{Cgroup, Place};
use rustix::io::Errno;

use crate::error::{Error, Leftovers, Named as _};

/// Below a pod's cgroup, since in v2 one with children that have controllers may have no processes.
const BELOW: &str = "berth-monitor";

/// The cgroup of v2 in which it was started, to go back to.
static HOME: OnceLock<PathBuf> = OnceLock::new();

/// Goes where the plan says, and makes what is not there.
pub(crate) fn settle(plan: &PodPlan) -> Result<(), Error> {
    for (place, dir) in wanted(plan)? {
        if place.unified {
            HOME.get_or_init(|| home(&place));
        }
        std::fs::create_dir_all(&dir).named("making", &dir)?;
        match join(&place, &dir) {
            // A cgroup of v1's cpuset that nobody has given processors yet takes no process.
            Ok(()) | Err(Errno::NOSPC) => {}
            Err(errno) => return Err(errno).named("moving the monitor to", &dir),
        }
    }
    Ok(())
}

/// Goes back, so that nobody finds the pod's cgroup in use once the pod is gone. One that many share stays.
pub(crate) fn leave(plan: &PodPlan) -> Result<(), Error> {
    if plan.monitor_cgroup != Some(MonitorCgroup::Pod) {
        return Ok(());
    }
    let mut left = Leftovers::default();
    for (place, dir) in wanted(plan)?.into_iter().filter(|(place, _)| place.unified) {
        let home = HOME.get_or_init(|| place.root.clone());
        left.note(join(&place, home).named("moving the monitor to", home));
        left.note(crate::pod::remove_dir(&dir));
    }
    left.result()
}

/// In each hierarchy.
fn wanted(plan: &PodPlan) -> Result<Vec<(Place, PathBuf)>, Error> {
    let (path, below) = match &plan.monitor_cgroup {
        // A pod without a cgroup of its own has none for its monitor either.
        None => return Ok(Vec::new()),
        Some(MonitorCgroup::Pod) if plan.cgroup_parent.is_empty() => return Ok(Vec::new()),
        Some(MonitorCgroup::Pod) => (&plan.cgroup_parent, true),
        Some(MonitorCgroup::Named(path)) => (path, false),
    };
    let cgroup = Cgroup::at(path);
    let cgroup = cgroup.map_err(|source| runtime::Error::Cgroup { id: plan.sandbox_id.clone(), source })?;
    let in_it = |place: Place| {
        let dir = if below && place.unified { place.dir.join(BELOW) } else { place.dir.clone() };
        (place, dir)
    };
    Ok(cgroup.places().into_iter().map(in_it).collect())
}

/// cgroups(7): 0 is the writer itself. v1's `tasks` takes a thread, without the wait of `cgroup.procs`.
fn join(place: &Place, dir: &Path) -> Result<(), Errno> {
    let file = dir.join(if place.unified { "cgroup.procs" } else { "tasks" });
    let written = std::fs::write(file, "0");
    written.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))
}

fn home(place: &Place) -> PathBuf {
    let own = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let path = own.lines().find_map(|line| line.strip_prefix("0::/")).unwrap_or_default();
    place.root.join(path)
}
