//! SELinux: which label the processes and files of a pod and of its containers get.
//!
//! Deciding is here, values in and values out; [`policy`] reads what the node has, [`pool`] keeps pods apart by pairs
//! of categories. The words of a pod win over those of the policy, field by field, and those of a container over its
//! pod's (Kubernetes' SELinuxOptions).
//!
//! | process | type |
//! |---|---|
//! | of an ordinary pod | that of `process` in lxc_contexts, `container_t` |
//! | that starts an init system, as `/sbin/init` | that of `init_process` there, where the policy has one |
//! | privileged, or of a pod in the host's PID or IPC namespace | `spc_t`, which categories do not keep apart |
//!
//! Files always have the pod's categories, so that a privileged container's are nobody else's to read.

pub mod label;
pub mod policy;
pub mod pool;
pub mod relabel;

use proto::v1::SeLinuxOption;
use serde::{Deserialize, Serialize};

pub use label::{Label, Level};
pub use policy::Policy;
pub use pool::Pool;

/// The type of a process that confinement would keep from its work.
const UNCONFINED: &str = "spc_t";
/// Commands that start an init system, which needs more than others (runtimes' common list).
const INITS: [&str; 5] =
    ["/sbin/init", "/usr/sbin/init", "/lib/systemd/systemd", "/usr/lib/systemd/systemd", "/init"];

/// A label cannot be what was asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("selinux_options.{part}: {value:?} {why}")]
pub struct Wrong {
    pub part: &'static str,
    pub value: String,
    pub why: &'static str,
}

/// What a pod was given. Stored with its plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodLabels {
    /// Of an ordinary process.
    pub process: Label,
    /// Of the pod's own file systems.
    pub file: Label,
    /// Of files that all pods may read: a name, a resolver.
    pub shared: Label,
    /// The type of a process that starts an init system.
    init: Option<String>,
    asked: Asked,
}

/// What the pod spoke out, so that no kind of container changes it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Asked {
    kind: bool,
    level: bool,
}

/// What a container was given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Labels {
    pub process: Label,
    pub file: Label,
}

/// How much of the host a process is to see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trust {
    Confined,
    /// Privileged, or among the host's processes.
    Host,
}

/// A pod's labels. `free` is a level that no other pod has; it is not taken when the pod asks for one of its own.
///
/// # Errors
/// A part of what is asked for is not written as such a part is.
pub fn of_pod(
    policy: &Policy,
    asked: &SeLinuxOption,
    trust: Trust,
    free: &Level,
) -> Result<PodLabels, Wrong> {
    let level = asked_level(asked)?;
    let spoken = Asked { kind: !asked.r#type.is_empty(), level: level.is_some() };
    // A policy without categories has nothing to keep pods apart by.
    let level = level.or_else(|| policy.process.level.is_some().then(|| free.clone()));
    let base = Label { level: level.clone(), ..policy.process.clone() };
    let mut process = over(base, asked)?;
    if trust == Trust::Host && !spoken.kind {
        process.kind = UNCONFINED.to_owned();
        if !spoken.level {
            process.level.clone_from(&policy.process.level);
        }
    }
    let file = Label { level: level.as_ref().map(Level::low), ..policy.file.clone() };
    Ok(PodLabels { process, file, shared: policy.file.clone(), init: policy.init.clone(), asked: spoken })
}

/// A container's labels. `command` is what it starts.
///
/// # Errors
/// As [`of_pod`].
pub fn of_container(
    pod: &PodLabels,
    asked: &SeLinuxOption,
    trust: Trust,
    command: &str,
) -> Result<Labels, Wrong> {
    let level = asked_level(asked)?;
    let kind_is_free = !pod.asked.kind && asked.r#type.is_empty();
    let mut process = over(pod.process.clone(), asked)?;
    if kind_is_free && trust == Trust::Host {
        process.kind = UNCONFINED.to_owned();
        if !pod.asked.level {
            process.level.clone_from(&pod.shared.level);
        }
    } else if kind_is_free && process.kind != UNCONFINED && INITS.contains(&command) {
        process.kind = pod.init.clone().unwrap_or(process.kind);
    }
    let mut file = pod.file.clone();
    if let Some(level) = level {
        file.level = Some(level.low());
        process.level = Some(level);
    }
    Ok(Labels { process, file })
}

impl Labels {
    /// Whether its files need no label of its own to be read: no category keeps it from anything.
    pub fn is_unconfined(&self) -> bool {
        self.process.kind == UNCONFINED
    }
}

fn asked_level(asked: &SeLinuxOption) -> Result<Option<Level>, Wrong> {
    match asked.level.as_str() {
        "" => Ok(None),
        text => text.parse().map(Some).map_err(|why| Wrong { part: "level", value: text.to_owned(), why }),
    }
}

/// The words of `asked` but for the level, over those of `base`.
fn over(base: Label, asked: &SeLinuxOption) -> Result<Label, Wrong> {
    let word = |part, asked: &str, base: String| match asked {
        "" => Ok(base),
        word if label::is_word(word) => Ok(word.to_owned()),
        word => Err(Wrong { part, value: word.to_owned(), why: label::NO_WORD }),
    };
    Ok(Label {
        user: word("user", &asked.user, base.user)?,
        role: word("role", &asked.role, base.role)?,
        kind: word("type", &asked.r#type, base.kind)?,
        level: base.level,
    })
}

/// A pod's wish, as a client that says nothing has it.
pub fn is_asked(options: Option<&SeLinuxOption>) -> bool {
    options.is_some_and(|options| *options != SeLinuxOption::default())
}

#[cfg(test)]
mod tests;
