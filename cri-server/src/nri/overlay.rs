//! Later wishes over earlier ones, field by field. Whether two may wish for the same is `owners`' to say.
//!
//! An entry whose key begins with `-` takes away the one of that key.

use std::collections::BTreeMap;

use proto::nri::{
    CdiDevice, Container, ContainerAdjustment, Hooks, HugepageLimit, KeyValue, LinuxDevice, LinuxNamespace,
    LinuxRdt, LinuxResources, Mount, PosixRlimit,
};

/// What becomes of an entry that takes another away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Marks {
    /// It is still to be told to whoever comes next.
    Keep,
    /// There is nothing behind it.
    Drop,
}

/// An entry of a list that is a map in all but form.
pub(super) trait Keyed {
    fn key(&self) -> &str;
}

macro_rules! keyed {
    ($($type:ident by $field:ident),+ $(,)?) => {
        $(impl Keyed for $type {
            fn key(&self) -> &str {
                &self.$field
            }
        })+
    };
}

keyed! {
    Mount by destination, KeyValue by key, LinuxDevice by path, LinuxNamespace by r#type, PosixRlimit by r#type,
    HugepageLimit by page_size, CdiDevice by name,
}

/// The key of what an entry takes away, if that is what it does.
pub(super) fn removed(key: &str) -> Option<&str> {
    key.strip_prefix('-')
}

fn bare(key: &str) -> &str {
    removed(key).unwrap_or(key)
}

/// Each key once; the newer counts.
pub(super) fn list<T: Keyed + Clone>(into: &mut Vec<T>, from: &[T], marks: Marks) {
    into.retain(|old| !from.iter().any(|new| bare(new.key()) == bare(old.key())));
    let added = |key: &str| from.iter().any(|new| new.key() == key);
    for new in from {
        match removed(new.key()) {
            None => into.push(new.clone()),
            Some(gone) if marks == Marks::Keep && !added(gone) => into.push(new.clone()),
            Some(_) => {}
        }
    }
}

pub(super) fn map<V: Clone>(into: &mut BTreeMap<String, V>, from: &BTreeMap<String, V>, marks: Marks) {
    for (key, value) in from {
        if let Some(gone) = removed(key) {
            into.remove(gone);
            if marks == Marks::Keep && !from.contains_key(gone) {
                into.insert(key.clone(), value.clone());
            }
        }
    }
    for (key, value) in from.iter().filter(|(key, _)| removed(key).is_none()) {
        into.remove(&format!("-{key}"));
        into.insert(key.clone(), value.clone());
    }
}

fn newer<T: Clone>(into: &mut Option<T>, from: &Option<T>) {
    if from.is_some() {
        into.clone_from(from);
    }
}

fn newer_text(into: &mut String, from: &String) {
    if !from.is_empty() {
        into.clone_from(from);
    }
}

pub(super) fn resources(into: &mut LinuxResources, from: &LinuxResources) {
    if let Some(from) = &from.memory {
        let into = into.memory.get_or_insert_default();
        newer(&mut into.limit, &from.limit);
        newer(&mut into.reservation, &from.reservation);
        newer(&mut into.swap, &from.swap);
        newer(&mut into.kernel, &from.kernel);
        newer(&mut into.kernel_tcp, &from.kernel_tcp);
        newer(&mut into.swappiness, &from.swappiness);
        newer(&mut into.disable_oom_killer, &from.disable_oom_killer);
        newer(&mut into.use_hierarchy, &from.use_hierarchy);
    }
    if let Some(from) = &from.cpu {
        let into = into.cpu.get_or_insert_default();
        newer(&mut into.shares, &from.shares);
        newer(&mut into.quota, &from.quota);
        newer(&mut into.period, &from.period);
        newer(&mut into.realtime_runtime, &from.realtime_runtime);
        newer(&mut into.realtime_period, &from.realtime_period);
        newer_text(&mut into.cpus, &from.cpus);
        newer_text(&mut into.mems, &from.mems);
    }
    list(&mut into.hugepage_limits, &from.hugepage_limits, Marks::Drop);
    newer(&mut into.blockio_class, &from.blockio_class);
    newer(&mut into.rdt_class, &from.rdt_class);
    into.unified.extend(from.unified.clone());
    into.devices.extend(from.devices.iter().cloned());
    newer(&mut into.pids, &from.pids);
}

fn hooks(into: &mut Hooks, from: &Hooks) {
    into.prestart.extend(from.prestart.iter().cloned());
    into.create_runtime.extend(from.create_runtime.iter().cloned());
    into.create_container.extend(from.create_container.iter().cloned());
    into.start_container.extend(from.start_container.iter().cloned());
    into.poststart.extend(from.poststart.iter().cloned());
    into.poststop.extend(from.poststop.iter().cloned());
}

fn rdt(into: &mut LinuxRdt, from: &LinuxRdt) {
    if from.remove {
        *into = LinuxRdt { remove: true, ..Default::default() };
    }
    newer(&mut into.clos_id, &from.clos_id);
    newer(&mut into.schemata, &from.schemata);
    newer(&mut into.enable_monitoring, &from.enable_monitoring);
}

/// The fields that a wish and a container have under the same names.
macro_rules! shared {
    ($into:ident, $from:ident, $marks:expr) => {
        map(&mut $into.annotations, &$from.annotations, $marks);
        list(&mut $into.mounts, &$from.mounts, $marks);
        if let Some(from) = &$from.hooks {
            hooks($into.hooks.get_or_insert_default(), from);
        }
        list(&mut $into.rlimits, &$from.rlimits, $marks);
        list(&mut $into.cdi_devices, &$from.cdi_devices, $marks);
        if !$from.args.is_empty() {
            $into.args = args(&$from.args).to_vec();
        }
        if let Some(from) = &$from.linux {
            let into = $into.linux.get_or_insert_default();
            list(&mut into.devices, &from.devices, $marks);
            if let Some(from) = &from.resources {
                resources(into.resources.get_or_insert_default(), from);
            }
            newer_text(&mut into.cgroups_path, &from.cgroups_path);
            newer(&mut into.oom_score_adj, &from.oom_score_adj);
            newer(&mut into.io_priority, &from.io_priority);
            newer(&mut into.seccomp_policy, &from.seccomp_policy);
            list(&mut into.namespaces, &from.namespaces, $marks);
            map(&mut into.sysctl, &from.sysctl, $marks);
            map(&mut into.net_devices, &from.net_devices, $marks);
            newer(&mut into.scheduler, &from.scheduler);
            if let Some(from) = &from.rdt {
                rdt(into.rdt.get_or_insert_default(), from);
            }
        }
    };
}

/// What one plugin wishes, over what those before it wished.
pub(super) fn adjustment(into: &mut ContainerAdjustment, from: &ContainerAdjustment) {
    shared!(into, from, Marks::Keep);
    list(&mut into.env, &from.env, Marks::Keep);
    if let Some(from) = &from.linux {
        // Of which a container tells nothing.
        newer(&mut into.linux.get_or_insert_default().memory_policy, &from.memory_policy);
    }
}

/// An empty first word only says that the plugin takes away another's.
pub(super) fn args(asked: &[String]) -> &[String] {
    match asked {
        [first, rest @ ..] if first.is_empty() => rest,
        all => all,
    }
}

/// The container as the next plugin is to see it.
pub(super) fn container(into: &mut Container, from: &ContainerAdjustment) {
    shared!(into, from, Marks::Drop);
    into.env.retain(|entry| {
        let name = entry.split_once('=').map_or(entry.as_str(), |(name, _)| name);
        !from.env.iter().any(|new| bare(&new.key) == name)
    });
    let added = from.env.iter().filter(|new| removed(&new.key).is_none());
    into.env.extend(added.map(|new| format!("{}={}", new.key, new.value)));
}
