//! The root file system: where it is, and when and how it is entered.

use std::path::{Path, PathBuf};

use kernel::clone_flags as flag;

use super::Namespaces;
use super::options::parse_propagation;
use crate::spec::{Hooks, Spec};
use crate::{Error, Rootfs};

/// The container's root file system.
#[derive(Debug)]
pub(crate) struct Root {
    /// The directory that the bundle names; an overlay has none of its own.
    pub(crate) path: Option<PathBuf>,
    pub(crate) readonly: bool,
    /// A value of `kernel::propagation`.
    pub(crate) propagation: u64,
    pub(crate) pivot: Pivot,
    pub(crate) within: Within,
}

/// Whose mount namespace the root is attached in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Within {
    /// The container's own, which is pivoted into it.
    Own,
    /// One that is joined, or the runtime's: others live there too, so the root is attached at its path, entered by
    /// chroot, and taken away with the container.
    Shared,
}

/// When the root is pivoted into.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pivot {
    /// At once: nothing of the host can be reached any more while mounts are made.
    First,
    /// A user namespace may mount procfs and sysfs only as long as it sees the host's, and layers and block devices have
    /// the host's paths.
    AfterMounts,
    /// Hooks that run before pivot_root find the root at its path.
    AfterHooks,
}

pub(super) fn root(
    bundle: &Path,
    spec: &Spec,
    namespaces: &Namespaces,
    rootfs: &Rootfs,
    host_paths: bool,
) -> Result<Root, Error> {
    let root = spec.root.as_ref().ok_or_else(|| Error::invalid("root", "is required on Linux"))?;
    let path = match rootfs {
        Rootfs::Bundle if root.path.as_os_str().is_empty() => {
            return Err(Error::invalid("root.path", "is empty"));
        }
        Rootfs::Bundle => Some(bundle.join(&root.path)),
        Rootfs::Overlay { .. } => None,
    };
    let propagation = spec.linux.as_ref().and_then(|linux| linux.rootfs_propagation.as_deref());
    let propagation = match propagation {
        None | Some("") => kernel::propagation::PRIVATE,
        Some(word) => parse_propagation(word).map(|(propagation, _)| propagation).ok_or_else(|| {
            Error::invalid("linux.rootfsPropagation", format!("{word:?} is no propagation"))
        })?,
    };
    let within = if namespaces.new & flag::NEWNS != 0 { Within::Own } else { Within::Shared };
    if within == Within::Shared && path.is_none() {
        return Err(Error::unsupported(
            "linux.namespaces",
            "layers without a path need a mount namespace of the container's own",
        ));
    }
    let pivot = match pivot(spec, namespaces, within) {
        Pivot::First if host_paths => Pivot::AfterMounts,
        other => other,
    };
    Ok(Root { path, readonly: root.readonly, propagation, pivot, within })
}

fn pivot(spec: &Spec, namespaces: &Namespaces, within: Within) -> Pivot {
    let before_pivot =
        |h: &Hooks| !(h.prestart.is_empty() && h.create_runtime.is_empty() && h.create_container.is_empty());
    match &spec.hooks {
        Some(hooks) if before_pivot(hooks) => Pivot::AfterHooks,
        _ if namespaces.has(flag::NEWUSER) || within == Within::Shared => Pivot::AfterMounts,
        _ => Pivot::First,
    }
}
