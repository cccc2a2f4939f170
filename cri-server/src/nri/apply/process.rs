//! What plugins want of a container's process.

use oci_spec::runtime::{PosixRlimit as OciRlimit, Process};
use proto::nri::{ContainerAdjustment, PosixRlimit};
use serde_json::json;

use super::super::overlay::removed;
use super::super::words;
use super::{Unfit, typed};
use crate::container::plan::Machine;

pub(super) fn change_process(
    process: &mut Process,
    adjust: &ContainerAdjustment,
    machine: &Machine,
) -> Result<(), Unfit> {
    if !adjust.env.is_empty() {
        process.set_env(Some(env(process.env().clone().unwrap_or_default(), adjust)?));
    }
    if !adjust.args.is_empty() {
        process.set_args(Some(adjust.args.clone()));
    }
    if !adjust.rlimits.is_empty() {
        process.set_rlimits(Some(rlimits(process.rlimits().clone().unwrap_or_default(), &adjust.rlimits)?));
    }
    let Some(linux) = &adjust.linux else { return Ok(()) };
    if let Some(score) = &linux.oom_score_adj {
        process.set_oom_score_adj(Some(oom_score_adj(score.value, machine)?));
    }
    if let Some(priority) = &linux.io_priority {
        process.set_io_priority(words::io_priority(priority)?);
    }
    if let Some(scheduler) = &linux.scheduler {
        process.set_scheduler(words::scheduler(scheduler)?);
    }
    Ok(())
}

/// A variable keeps its place; a new one is last.
fn env(before: Vec<String>, adjust: &ContainerAdjustment) -> Result<Vec<String>, Unfit> {
    let name = |entry: &str| entry.split_once('=').map_or(entry.to_owned(), |(name, _)| name.to_owned());
    let wished = |name: &str| adjust.env.iter().find(|new| new.key == name);
    let gone = |name: &str| adjust.env.iter().any(|new| removed(&new.key) == Some(name));
    if let Some(odd) = adjust.env.iter().find(|new| new.key.is_empty() || new.key.contains(['=', '\0'])) {
        return Err(Unfit::new("env", format!("{:?} is no name of a variable", odd.key)));
    }
    let known: Vec<String> = before.iter().map(|entry| name(entry)).collect();
    let kept = before.iter().filter_map(|entry| match wished(&name(entry)) {
        Some(new) => Some(format!("{}={}", new.key, new.value)),
        None if gone(&name(entry)) => None,
        None => Some(entry.clone()),
    });
    let added = adjust.env.iter().filter(|new| removed(&new.key).is_none() && !known.contains(&new.key));
    Ok(kept.chain(added.map(|new| format!("{}={}", new.key, new.value))).collect())
}

fn rlimits(mut all: Vec<OciRlimit>, wished: &[PosixRlimit]) -> Result<Vec<OciRlimit>, Unfit> {
    for limit in wished {
        let new: OciRlimit =
            typed("rlimits", json!({"type": limit.r#type, "hard": limit.hard, "soft": limit.soft}))?;
        all.retain(|old| old.typ() != new.typ());
        all.push(new);
    }
    Ok(all)
}

/// As for what the kubelet asks: a daemon that may not lower the score gives the lowest it may.
fn oom_score_adj(score: i64, machine: &Machine) -> Result<i32, Unfit> {
    let fitting = i32::try_from(score).ok().filter(|score| (-1000..=1000).contains(score));
    let fitting =
        fitting.ok_or_else(|| Unfit::new("oom_score_adj", format!("{score} is not from -1000 to 1000")))?;
    Ok(fitting.max(machine.oom_score_adj_floor))
}
