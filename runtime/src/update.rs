//! `update`: other limits for a running container. What is in force is kept beside its record, since the kernel
//! keeps only the outcome: a later change of a quota alone needs the period that goes with it.

use crate::freeze::{cgroup_of, in_cgroup, shown_status};
use crate::spec::{self, Cpu, IntelRdt, Memory, Resources, Spec};
use crate::state::{Record, StateDir, Status};
use crate::{Error, Runtime, plan};

impl Runtime {
    /// Changes the limits that are given, and no others. Device rules cannot be changed by it, as with runc.
    ///
    /// # Errors
    /// `State` when it is not running, `NotFound`, a limit that is not possible here, or the kernel's answer.
    pub fn update(&self, id: &str, change: &Resources) -> Result<(), Error> {
        self.update_with_rdt(id, change, None)
    }

    /// The same, with other schemata of its class of service. All of it, or nothing: what is refused half-way is
    /// written back as it was, as far as the kernel lets us.
    ///
    /// # Errors
    /// As `update` and `update_rdt`.
    pub fn update_with_rdt(&self, id: &str, change: &Resources, rdt: Option<&IntelRdt>) -> Result<(), Error> {
        let dir = StateDir::of(&self.root, id)?;
        let record = dir.read()?;
        match shown_status(&dir, &record) {
            Status::Created | Status::Running | Status::Paused => {}
            is @ (Status::Creating | Status::Stopped) => {
                return Err(Error::State { id: id.to_owned(), is: is.as_str(), wanted: "running" });
            }
        }
        rdt.map_or(Ok(()), |rdt| self.check_rdt(&record, rdt))?;
        let change = &plan::as_of(change.clone(), &config_version(&record));
        let after = merge(in_force(&dir, &record)?, change);
        let cgroup = cgroup_of(&record)?;
        let before = cgroup.change(&to_write(&after, change)).map_err(|e| in_cgroup(id, e))?;
        let rest = rdt.map_or(Ok(()), |rdt| self.update_rdt(id, rdt));
        rest.and_then(|()| dir.write_resources(&after)).inspect_err(|_| cgroup.put_back(&before))
    }

    /// The limits in force: those of the configuration, and what `update` made of them.
    ///
    /// # Errors
    /// `NotFound`, or neither can be read.
    pub fn resources(&self, id: &str) -> Result<Resources, Error> {
        let dir = StateDir::of(&self.root, id)?;
        let record = dir.read()?;
        in_force(&dir, &record)
    }
}

fn in_force(dir: &StateDir, record: &Record) -> Result<Resources, Error> {
    if let Some(resources) = dir.read_resources()? {
        return Ok(resources);
    }
    // The bundle is its maker's; one that is gone leaves us without what was, not without a way to change it.
    let Some(spec) = configuration(record)? else { return Ok(Resources::default()) };
    let linux = spec.linux.unwrap_or_default();
    Ok(plan::resources(&linux, &spec.oci_version))
}

fn configuration(record: &Record) -> Result<Option<Spec>, Error> {
    let path = record.bundle.join("config.json");
    let Ok(bytes) = std::fs::read(&path) else { return Ok(None) };
    serde_json::from_slice(&bytes).map(Some).map_err(|source| Error::Config { path, source })
}

/// What its limits mean is said by the version that its configuration was written for.
fn config_version(record: &Record) -> String {
    let read = || configuration(record).ok().flatten().map(|spec| spec.oci_version);
    record.config_version.clone().or_else(read).unwrap_or_else(|| spec::OCI_VERSION.to_owned())
}

/// What is given replaces what was, field by field.
fn merge(was: Resources, change: &Resources) -> Resources {
    let change = change.clone();
    let (cpu, memory) = (was.cpu.unwrap_or_default(), was.memory.unwrap_or_default());
    let mut unified = was.unified;
    unified.extend(change.unified);
    let mut rdma = was.rdma;
    rdma.extend(change.rdma);
    Resources {
        devices: was.devices,
        cpu: Some(change.cpu.map_or(cpu.clone(), |new| merge_cpu(cpu, new))),
        memory: Some(change.memory.map_or(memory.clone(), |new| merge_memory(memory, new))),
        pids: change.pids.or(was.pids),
        block_io: change.block_io.or(was.block_io),
        hugepage_limits: if change.hugepage_limits.is_empty() {
            was.hugepage_limits
        } else {
            change.hugepage_limits
        },
        network: change.network.or(was.network),
        rdma,
        unified,
    }
}

/// Zero and the empty string are how runc's users write "unchanged".
fn merge_cpu(was: Cpu, new: Cpu) -> Cpu {
    let list = |new: Option<String>, was| new.filter(|list| !list.is_empty()).or(was);
    Cpu {
        shares: some(new.shares).or(was.shares),
        quota: some(new.quota).or(was.quota),
        burst: new.burst.or(was.burst),
        period: some(new.period).or(was.period),
        realtime_runtime: some(new.realtime_runtime).or(was.realtime_runtime),
        realtime_period: some(new.realtime_period).or(was.realtime_period),
        cpus: list(new.cpus, was.cpus),
        mems: list(new.mems, was.mems),
        idle: new.idle.or(was.idle),
    }
}

fn merge_memory(was: Memory, new: Memory) -> Memory {
    Memory {
        limit: some(new.limit).or(was.limit),
        reservation: some(new.reservation).or(was.reservation),
        swap: some(new.swap).or(was.swap),
        kernel: some(new.kernel).or(was.kernel),
        kernel_tcp: some(new.kernel_tcp).or(was.kernel_tcp),
        swappiness: new.swappiness.or(was.swappiness),
        disable_oom_killer: new.disable_oom_killer.or(was.disable_oom_killer),
        use_hierarchy: was.use_hierarchy,
        check_before_update: new.check_before_update.or(was.check_before_update),
    }
}

fn some<T: Default + PartialEq>(value: Option<T>) -> Option<T> {
    value.filter(|value| *value != T::default())
}

/// The change, with what the kernel takes only together with it: v2 has quota and period in one file, and its limit
/// of swap follows from both of v1's numbers. A memory limit that goes takes that of memory and swap with it.
fn to_write(after: &Resources, change: &Resources) -> Resources {
    let mut write = Resources { devices: Vec::new(), ..change.clone() };
    if let (Some(cpu), Some(all)) = (&mut write.cpu, &after.cpu)
        && (some(cpu.quota).is_some() || some(cpu.period).is_some())
    {
        (cpu.quota, cpu.period) = (all.quota, all.period);
    }
    if let (Some(cpu), Some(all)) = (&mut write.cpu, &after.cpu)
        && cpu.idle == Some(0)
    {
        // One that was idle has forgotten its weight.
        cpu.shares = some(cpu.shares).or(all.shares);
    }
    if let (Some(memory), Some(all)) = (&mut write.memory, &after.memory)
        && some(memory.swap).is_some_and(|swap| swap > 0)
    {
        memory.limit = all.limit;
    }
    write
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cpu(quota: Option<i64>, period: Option<u64>) -> Resources {
        Resources { cpu: Some(Cpu { quota, period, ..Cpu::default() }), ..Resources::default() }
    }

    #[test]
    fn a_quota_alone_is_written_with_the_period_that_was() {
        let (was, change) = (cpu(Some(5_000), Some(10_000)), cpu(Some(7_000), Some(0)));
        let after = merge(was, &change);
        let written = to_write(&after, &change).cpu.unwrap();
        assert_eq!((written.quota, written.period), (Some(7_000), Some(10_000)));
    }

    #[test]
    fn what_is_not_given_stays_and_is_not_written() {
        let memory = Memory { limit: Some(1 << 20), swap: Some(2 << 20), ..Memory::default() };
        let was = Resources { memory: Some(memory), ..cpu(Some(5_000), None) };
        let change = Resources {
            pids: Some(crate::spec::Pids { limit: Some(7) }),
            cpu: Some(Cpu { shares: Some(0), cpus: Some(String::new()), ..Cpu::default() }),
            ..Resources::default()
        };
        let after = merge(was, &change);
        assert_eq!(after.memory.as_ref().unwrap().limit, Some(1 << 20));
        assert_eq!(after.cpu.as_ref().unwrap().quota, Some(5_000));
        assert_eq!(after.pids.as_ref().unwrap().limit, Some(7));
        let written = to_write(&after, &change);
        assert!(written.memory.is_none());
        assert_eq!(written.cpu.unwrap().quota, None);
    }

    #[test]
    fn who_is_idle_no_more_has_the_shares_that_were() {
        let shares = |shares, idle| Resources {
            cpu: Some(Cpu { shares, idle, ..Cpu::default() }),
            ..Resources::default()
        };
        let change = shares(None, Some(0));
        let after = merge(shares(Some(512), Some(1)), &change);
        assert_eq!(to_write(&after, &change).cpu.unwrap().shares, Some(512));
    }

    #[test]
    fn a_limit_of_swap_is_written_with_the_limit_of_memory() {
        let memory = |limit, swap| Resources {
            memory: Some(Memory { limit, swap, ..Memory::default() }),
            ..Resources::default()
        };
        let change = memory(None, Some(3 << 20));
        let after = merge(memory(Some(1 << 20), None), &change);
        assert_eq!(to_write(&after, &change).memory.unwrap().limit, Some(1 << 20));
    }
}
