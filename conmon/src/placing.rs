//! Where the monitor itself lives: where it was started, or in a cgroup that the pod's handler names. It has one thread,
//! so it can go by itself, and its containers are born into cgroups of their own whatever it does. What is systemd's is
//! left to systemd: there each monitor gets a scope in the slice, which goes when the monitor does.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use conmon_protocol::{CgroupDriver, MonitorCgroup, PodPlan};
use runtime::cgroup::{Cgroup, Place, ScopePlan};
use rustix::io::Errno;

use crate::error::{Error, Leftovers, Named as _};
use crate::reap::Birth;

/// Below a pod's cgroup, since in v2 one with children that have controllers may have no processes.
const BELOW: &str = "berth-monitor";

/// The cgroup of v2 in which it was started, to go back to.
static HOME: OnceLock<PathBuf> = OnceLock::new();

/// Goes where the plan says, and makes what is not there. `init`: the pod's first process, which an earlier monitor left
/// where that was.
pub(crate) fn settle(plan: &PodPlan, init: Option<Birth>) -> Result<(), Error> {
    match plan.cgroup_driver {
        CgroupDriver::Cgroupfs => settle_in_directories(plan),
        CgroupDriver::Systemd => settle_in_scope(plan, init),
    }
}

fn settle_in_scope(plan: &PodPlan, init: Option<Birth>) -> Result<(), Error> {
    let Some(slice) = slice(plan) else { return Ok(()) };
    let failed = |source| runtime::Error::Cgroup { id: plan.sandbox_id.clone(), source };
    // Its pid, since the scope of one that was killed may be there still when the next monitor comes.
    let name = format!("{slice}:berth-conmon:{}-{}", plan.sandbox_id, std::process::id());
    let collected = [("org.systemd.property.CollectMode".to_owned(), "'inactive-or-failed'".to_owned())];
    let scope = ScopePlan::of(Some(&name), &plan.sandbox_id, &collected.into()).map_err(failed)?;
    let places = Cgroup::at(&scope.scope_path()).map_err(failed)?.places();
    if let Some(place) = places.iter().find(|place| place.unified) {
        HOME.get_or_init(|| home(place));
    }
    let entered = scope.described(format!("Monitor of pod {}", plan.sandbox_id)).enter();
    entered.map_err(failed)?;
    match (places.iter().find(|place| place.unified), init.filter(|init| init.open().is_some())) {
        // A scope goes once nobody is in it.
        (Some(place), Some(init)) => {
            let procs = home(place).join("cgroup.procs");
            std::fs::write(&procs, init.pid.to_string()).named("moving the pod's first process to", &procs)
        }
        _ => Ok(()),
    }
}

/// The slice that the monitor's scope is to be in.
fn slice(plan: &PodPlan) -> Option<&str> {
    match plan.monitor_cgroup.as_ref()? {
        MonitorCgroup::Pod => plan.cgroup_parent.rsplit('/').next().filter(|slice| !slice.is_empty()),
        MonitorCgroup::Named(slice) => Some(slice),
    }
}

fn settle_in_directories(plan: &PodPlan) -> Result<(), Error> {
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
    if plan.cgroup_driver == CgroupDriver::Systemd {
        // The scope is empty then, and systemd's to take away. Where the daemon was there may be nobody any more, nor
        // that cgroup; then the scope goes a moment later, with this process.
        let Some(home) = HOME.get() else { return Ok(()) };
        let place = Place { root: home.clone(), dir: home.clone(), unified: true };
        return match join(&place, home) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(errno).named("moving the monitor to", home),
        };
    }
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
