//! The volumes that an image declares (`VOLUME`): which of them a container gets, and as what.
//!
//! CRI-O makes directories of the root file system of them or binds directories of the host's, as `image_volumes` says;
//! containerd always binds. What a mount of the pod covers is the pod's: nothing is made there.

use std::path::{Path, PathBuf};

use oci_spec::runtime::Mount;
use serde::{Deserialize, Serialize};

use super::mounts::clean;
use super::namespaces::id_mappings;
use super::{Inputs, User};

/// What becomes of them; the words are CRI-O's.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ImageVolumes {
    #[default]
    Mkdir,
    Bind,
    Ignore,
}

/// What is to be made of them before the container is. Paths from the container's root.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Declared {
    #[default]
    Nothing,
    /// In its root file system, where its image has no such directories.
    Made(Vec<String>),
    /// Beside it, with what its image has there; bound by the mounts of the plan.
    Bound(Vec<String>),
}

impl Declared {
    pub(super) fn is_nothing(&self) -> bool {
        *self == Declared::Nothing
    }

    /// How many mounts of the plan are theirs: the first.
    pub(crate) fn bound(&self) -> usize {
        if let Declared::Bound(paths) = self { paths.len() } else { 0 }
    }
}

/// And the mounts of what is bound. They go before all others, so that no way inside the image leads one over a mount of
/// the pod's or of ours.
pub(super) fn declared(inputs: &Inputs<'_>) -> (Declared, Vec<Mount>) {
    let wanted = wanted(inputs);
    match inputs.settings.image_volumes {
        _ if wanted.is_empty() => (Declared::Nothing, Vec::new()),
        ImageVolumes::Ignore => (Declared::Nothing, Vec::new()),
        ImageVolumes::Mkdir => (Declared::Made(wanted), Vec::new()),
        ImageVolumes::Bind => {
            let mounts = wanted.iter().enumerate().map(|(at, path)| bound(inputs, at, path)).collect();
            (Declared::Bound(wanted), mounts)
        }
    }
}

/// Parents before what lies below them. A volume that is the root, or that a mount of the pod covers, is none.
fn wanted(inputs: &Inputs<'_>) -> Vec<String> {
    let covering: Vec<String> =
        inputs.config.mounts.iter().map(|mount| clean(Path::new(&mount.container_path))).collect();
    let covered = |path: &str| covering.iter().any(|mount| Path::new(path).starts_with(mount));
    let mut wanted: Vec<String> = inputs
        .image
        .volumes
        .iter()
        .filter(|path| !path.contains('\0'))
        .map(|path| clean(Path::new(path)))
        .filter(|path| path != "/" && !covered(path))
        .collect();
    wanted.sort();
    wanted.dedup();
    wanted
}

fn bound(inputs: &Inputs<'_>, at: usize, path: &str) -> Mount {
    let source: PathBuf = inputs.volumes_dir.join(at.to_string());
    let mut mount = Mount::default();
    mount
        .set_destination(path.into())
        .set_typ(Some("bind".to_owned()))
        .set_source(Some(source))
        .set_options(Some(["rbind", "rprivate", "rw"].map(str::to_owned).to_vec()));
    // What is copied has the ids of the image, as its other files do.
    if let Some(maps) = &inputs.sandbox.pod.user {
        mount.set_uid_mappings(Some(id_mappings(&maps.uids))).set_gid_mappings(Some(id_mappings(&maps.gids)));
    }
    mount
}

/// Who they belong to where the image does not say: the user who is to write there.
pub(crate) fn owners(plan: &super::ContainerPlan, pod: &conmon_protocol::PodPlan) -> image_service::Owners {
    let User { uid, gid, .. } = plan.user;
    if matches!(plan.declared, Declared::Bound(_)) {
        return image_service::Owners { uid, gid, ..Default::default() };
    }
    // A writable layer has the host's ids.
    let ranges = |maps: &[conmon_protocol::IdMap]| {
        let range = |map: &conmon_protocol::IdMap| image_service::IdRange {
            image: map.container_id,
            disk: map.host_id,
            length: map.length,
        };
        maps.iter().map(range).collect()
    };
    let (uids, gids) =
        pod.user.as_ref().map(|maps| (ranges(&maps.uids), ranges(&maps.gids))).unwrap_or_default();
    image_service::Owners { uid: plan.stdio_owner.uid, gid: plan.stdio_owner.gid, uids, gids }
}
