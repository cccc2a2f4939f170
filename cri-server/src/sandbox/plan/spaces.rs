//! Which namespaces a pod has of its own, and who its users are on the host.

use conmon_protocol::{IdMap, IdMaps, PidSharing, Sharing};
use proto::v1::{self, NamespaceMode};

use super::{Invalid, wrong};

/// What the kernel takes in one map file line by line is more; the kubelet sends one.
const ID_MAPS_MAX: usize = 32;

/// Which namespaces the pod owns.
pub(super) struct Spaces {
    pub(super) network: Sharing,
    pub(super) ipc: Sharing,
    pub(super) uts: Sharing,
    pub(super) pid: PidSharing,
    pub(super) user: Option<IdMaps>,
}

impl Spaces {
    pub(super) fn of(options: &v1::NamespaceOption) -> Result<Self, Invalid> {
        let network = sharing("namespace_options.network", options.network)?;
        let user = user("namespace_options.userns_options", options.userns_options.as_ref())?;
        Ok(Self {
            network,
            ipc: sharing("namespace_options.ipc", options.ipc)?,
            // The host's name belongs to the host's network (CRI: hostname is for pods with their own).
            uts: network,
            pid: pid("namespace_options.pid", options.pid)?,
            user,
        })
    }
}

fn mode(field: &'static str, mode: i32) -> Result<NamespaceMode, Invalid> {
    NamespaceMode::try_from(mode).map_err(|_| wrong(field, format!("{mode} is not a namespace mode")))
}

fn sharing(field: &'static str, number: i32) -> Result<Sharing, Invalid> {
    match mode(field, number)? {
        NamespaceMode::Pod => Ok(Sharing::Own),
        NamespaceMode::Node => Ok(Sharing::Host),
        NamespaceMode::Container | NamespaceMode::Target => Err(wrong(field, "a sandbox takes POD or NODE")),
    }
}

fn pid(field: &'static str, number: i32) -> Result<PidSharing, Invalid> {
    match mode(field, number)? {
        NamespaceMode::Pod => Ok(PidSharing::Pod),
        NamespaceMode::Container => Ok(PidSharing::Container),
        NamespaceMode::Node => Ok(PidSharing::Host),
        NamespaceMode::Target => Err(wrong(field, "a sandbox takes POD, CONTAINER or NODE")),
    }
}

fn user(field: &'static str, options: Option<&v1::UserNamespace>) -> Result<Option<IdMaps>, Invalid> {
    let Some(options) = options else { return Ok(None) };
    match mode(field, options.mode)? {
        NamespaceMode::Node if options.uids.is_empty() && options.gids.is_empty() => Ok(None),
        NamespaceMode::Node => Err(wrong(field, "the host's user namespace takes no mappings")),
        NamespaceMode::Pod => {
            Ok(Some(IdMaps { uids: maps(field, &options.uids)?, gids: maps(field, &options.gids)? }))
        }
        NamespaceMode::Container | NamespaceMode::Target => Err(wrong(field, "a sandbox takes POD or NODE")),
    }
}

fn maps(field: &'static str, asked: &[v1::IdMapping]) -> Result<Vec<IdMap>, Invalid> {
    if asked.is_empty() || asked.len() > ID_MAPS_MAX {
        return Err(wrong(
            field,
            format!("{} mappings, and a user namespace takes 1 to {ID_MAPS_MAX}", asked.len()),
        ));
    }
    let map = |m: &v1::IdMapping| {
        let fits = |start: u32| start.checked_add(m.length).is_some();
        if m.length == 0 || !fits(m.host_id) || !fits(m.container_id) {
            let reason = format!("{}:{}:{} is not a range of IDs", m.container_id, m.host_id, m.length);
            return Err(wrong(field, reason));
        }
        Ok(IdMap { container_id: m.container_id, host_id: m.host_id, length: m.length })
    };
    let maps = asked.iter().map(map).collect::<Result<Vec<_>, _>>()?;
    if overlap(&maps, |m| m.container_id) || overlap(&maps, |m| m.host_id) {
        return Err(wrong(field, "two mappings overlap"));
    }
    if !maps.iter().any(|m| m.container_id == 0) {
        return Err(wrong(field, "no mapping has the container's ID 0, which makes the container"));
    }
    Ok(maps)
}

fn overlap(maps: &[IdMap], start: impl Fn(&IdMap) -> u32) -> bool {
    let mut ranges: Vec<(u32, u32)> = maps.iter().map(|m| (start(m), start(m) + m.length)).collect();
    ranges.sort_unstable();
    ranges.windows(2).any(|pair| pair[0].1 > pair[1].0)
}
