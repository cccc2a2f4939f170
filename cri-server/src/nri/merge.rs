//! What all plugins together want of a container that is made, or of one whose limits change: their wishes one over
//! the other, and an error that names both where two wish for the same.

use std::collections::BTreeMap;

use proto::nri::{
    Container, ContainerAdjustment, ContainerUpdate, Field, LinuxContainerAdjustment, LinuxResources,
    OwningPlugins,
};

use super::overlay::{self, Keyed, removed};
use super::owners::{Claim, Conflict, Owners};

/// Why wishes cannot be fulfilled.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Conflict(#[from] Conflict),
    #[error(
        "plugin {plugin} asks to update container {container_id} while it is made; it is to adjust it instead"
    )]
    UpdateOfMaking { plugin: String, container_id: String },
}

/// The wishes of one event, collected.
#[derive(Debug, Default)]
pub(super) struct Wishes {
    owners: Owners,
    /// The container that is made; empty for other events.
    making: String,
    pub(super) adjust: ContainerAdjustment,
    updates: Vec<ContainerUpdate>,
}

impl Wishes {
    /// For a container that is being made.
    pub(super) fn of_making(container_id: &str) -> Self {
        Self { making: container_id.to_owned(), ..Self::default() }
    }

    /// # Errors
    /// When another plugin wished for the same.
    pub(super) fn adjust(&mut self, plugin: &str, asked: &ContainerAdjustment) -> Result<(), Error> {
        let container_id = self.making.clone();
        for gone in removals(asked) {
            self.owners.clear(&container_id, plugin, gone);
        }
        for claim in claims(asked) {
            self.owners.claim(&container_id, plugin, claim)?;
        }
        if asked.hooks.as_ref().is_some_and(|hooks| *hooks != Default::default()) {
            self.owners.share(&container_id, plugin, Field::OciHooks);
        }
        overlay::adjustment(&mut self.adjust, asked);
        Ok(())
    }

    /// # Errors
    /// When another plugin wished for the same and this one does not say that it may be left out.
    pub(super) fn update(&mut self, plugin: &str, asked: Vec<ContainerUpdate>) -> Result<(), Error> {
        for update in asked {
            if update.container_id == self.making {
                let (plugin, container_id) = (plugin.to_owned(), update.container_id);
                return Err(Error::UpdateOfMaking { plugin, container_id });
            }
            let before = self.owners.clone();
            match self.update_one(plugin, &update) {
                Ok(()) => {}
                Err(_) if update.ignore_failure => self.owners = before,
                Err(conflict) => return Err(conflict.into()),
            }
        }
        Ok(())
    }

    fn update_one(&mut self, plugin: &str, update: &ContainerUpdate) -> Result<(), Conflict> {
        let Some(asked) = update.linux.as_ref().and_then(|linux| linux.resources.as_ref()) else {
            return Ok(());
        };
        for claim in resource_claims(asked) {
            self.owners.claim(&update.container_id, plugin, claim)?;
        }
        let known = self.updates.iter_mut().find(|known| known.container_id == update.container_id);
        match known {
            Some(known) => {
                known.ignore_failure &= update.ignore_failure;
                let linux = known.linux.get_or_insert_default();
                overlay::resources(linux.resources.get_or_insert_default(), asked);
            }
            None => self.updates.push(update.clone()),
        }
        Ok(())
    }

    pub(super) fn owners(&self) -> OwningPlugins {
        self.owners.told()
    }

    pub(super) fn updates(&self) -> &[ContainerUpdate] {
        &self.updates
    }

    /// The updates of all but one container, and of that one.
    pub(super) fn updates_beside(mut self, container_id: &str) -> (Vec<ContainerUpdate>, LinuxResources) {
        let own = self.updates.extract_if(.., |update| update.container_id == container_id).next();
        let own = own.and_then(|update| update.linux?.resources).unwrap_or_default();
        (self.updates, own)
    }
}

/// The container as the next plugin is to see it.
pub(super) fn show(container: &mut Container, asked: &ContainerAdjustment) {
    overlay::container(container, asked);
}

fn keys<T: Keyed>(field: Field, entries: &[T]) -> impl Iterator<Item = (Field, String)> + '_ {
    entries.iter().map(move |entry| (field, entry.key().to_owned()))
}

fn named<V>(field: Field, entries: &BTreeMap<String, V>) -> impl Iterator<Item = (Field, String)> + '_ {
    entries.keys().map(move |key| (field, key.clone()))
}

/// All entries by their keys, those that take something away too.
fn entries(asked: &ContainerAdjustment) -> Vec<(Field, String)> {
    let none = LinuxContainerAdjustment::default();
    let linux = asked.linux.as_ref().unwrap_or(&none);
    named(Field::Annotations, &asked.annotations)
        .chain(keys(Field::Mounts, &asked.mounts))
        .chain(keys(Field::Env, &asked.env))
        .chain(keys(Field::Rlimits, &asked.rlimits))
        .chain(keys(Field::CdiDevices, &asked.cdi_devices))
        .chain(keys(Field::Devices, &linux.devices))
        .chain(keys(Field::Namespace, &linux.namespaces))
        .chain(named(Field::Sysctl, &linux.sysctl))
        .chain(named(Field::LinuxNetDevices, &linux.net_devices))
        .collect()
}

fn removals(asked: &ContainerAdjustment) -> Vec<Claim> {
    let gone = |(field, key): (Field, String)| Some((field, Some(removed(&key)?.to_owned())));
    let mut all: Vec<Claim> = entries(asked).into_iter().filter_map(gone).collect();
    if asked.args.first().is_some_and(String::is_empty) {
        all.push((Field::Args, None));
    }
    if asked.linux.as_ref().and_then(|linux| linux.rdt.as_ref()).is_some_and(|rdt| rdt.remove) {
        all.extend(
            [Field::RdtClosId, Field::RdtSchemata, Field::RdtEnableMonitoring].map(|field| (field, None)),
        );
    }
    all
}

fn claims(asked: &ContainerAdjustment) -> Vec<Claim> {
    let added = entries(asked).into_iter().filter(|(_, key)| removed(key).is_none());
    let mut all: Vec<Claim> = added.map(|(field, key)| (field, Some(key))).collect();
    let mut simple = |set: bool, field: Field| all.extend(set.then_some((field, None)));
    simple(!overlay::args(&asked.args).is_empty(), Field::Args);
    if let Some(linux) = &asked.linux {
        simple(!linux.cgroups_path.is_empty(), Field::CgroupsPath);
        simple(linux.oom_score_adj.is_some(), Field::OomScoreAdj);
        simple(linux.io_priority.is_some(), Field::IoPriority);
        simple(linux.seccomp_policy.is_some(), Field::SeccompPolicy);
        simple(linux.scheduler.is_some(), Field::LinuxSched);
        simple(linux.memory_policy.is_some(), Field::MemoryPolicy);
        if let Some(rdt) = &linux.rdt {
            simple(rdt.clos_id.is_some(), Field::RdtClosId);
            simple(rdt.schemata.is_some(), Field::RdtSchemata);
            simple(rdt.enable_monitoring.is_some(), Field::RdtEnableMonitoring);
        }
    }
    let resources = asked.linux.as_ref().and_then(|linux| linux.resources.as_ref());
    all.extend(resources.map(resource_claims).unwrap_or_default());
    all
}

fn resource_claims(asked: &LinuxResources) -> Vec<Claim> {
    let mut all: Vec<Claim> =
        keys(Field::HugepageLimits, &asked.hugepage_limits).map(|(field, key)| (field, Some(key))).collect();
    all.extend(asked.unified.keys().map(|key| (Field::CgroupsUnified, Some(key.clone()))));
    let mut simple = |set: bool, field: Field| all.extend(set.then_some((field, None)));
    if let Some(memory) = &asked.memory {
        simple(memory.limit.is_some(), Field::MemLimit);
        simple(memory.reservation.is_some(), Field::MemReservation);
        simple(memory.swap.is_some(), Field::MemSwapLimit);
        simple(memory.kernel.is_some(), Field::MemKernelLimit);
        simple(memory.kernel_tcp.is_some(), Field::MemTcpLimit);
        simple(memory.swappiness.is_some(), Field::MemSwappiness);
        simple(memory.disable_oom_killer.is_some(), Field::MemDisableOomKiller);
        simple(memory.use_hierarchy.is_some(), Field::MemUseHierarchy);
    }
    if let Some(cpu) = &asked.cpu {
        simple(cpu.shares.is_some(), Field::CpuShares);
        simple(cpu.quota.is_some(), Field::CpuQuota);
        simple(cpu.period.is_some(), Field::CpuPeriod);
        simple(cpu.realtime_runtime.is_some(), Field::CpuRealtimeRuntime);
        simple(cpu.realtime_period.is_some(), Field::CpuRealtimePeriod);
        simple(!cpu.cpus.is_empty(), Field::CpuSetCpUs);
        simple(!cpu.mems.is_empty(), Field::CpuSetMems);
    }
    simple(asked.blockio_class.is_some(), Field::BlockioClass);
    simple(asked.rdt_class.is_some(), Field::RdtClass);
    simple(asked.pids.is_some(), Field::PidsLimit);
    all
}

#[cfg(test)]
mod tests;
