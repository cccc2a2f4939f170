//! From configuration to plan: everything that can be decided before the first system call is decided here, and
//! everything that contradicts itself is refused here.

mod capabilities;
mod cgroup;
mod devices;
mod hooks;
mod mounts;
mod namespaces;
mod netdev;
mod options;
mod path;
mod process;
mod rdt;
mod root;
mod sched;
mod sysctl;
mod version;

pub(crate) use capabilities::{Sets, names as capability_names};
pub(crate) use cgroup::cgroup_path;
pub(crate) use devices::Device;
pub(crate) use mounts::{Content, Idmap, Mount, Source, may_cover_proc};
pub(crate) use namespaces::{Joined, Maps, Namespaces, flag_of};
pub(crate) use process::ProcessPlan;
pub(crate) use rdt::{Class, RdtPlan, plan as rdt};
pub(crate) use root::{Pivot, Root, Within};
pub(crate) use sched::MemoryPolicy;
pub(crate) use sysctl::Sysctl;

use path::inside;

pub use capabilities::NAMES as CAPABILITY_NAMES;
pub use options::NAMES as MOUNT_OPTION_NAMES;
pub use sched::{MEMORY_FLAGS, MEMORY_MODES};

use std::ffi::CString;
use std::path::Path;

use kernel::clone_flags as flag;

use crate::cgroup::{Driver, ScopePlan};
use crate::netdev::NetDevice;
use crate::spec::{Linux, Resources, Spec};
use crate::{Error, Rootfs};

/// A container, decided.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) namespaces: Namespaces,
    pub(crate) root: Root,
    pub(crate) mounts: Vec<Mount>,
    pub(crate) devices: Vec<Device>,
    /// Whether /dev is the container's own, to be filled with links.
    pub(crate) own_dev: bool,
    pub(crate) masked: Vec<CString>,
    pub(crate) readonly: Vec<CString>,
    pub(crate) sysctls: Vec<Sysctl>,
    pub(crate) hostname: Option<Vec<u8>>,
    pub(crate) domainname: Option<Vec<u8>>,
    pub(crate) time_offsets: Option<Vec<u8>>,
    pub(crate) personality: Option<u32>,
    pub(crate) memory_policy: Option<MemoryPolicy>,
    pub(crate) net_devices: Vec<NetDevice>,
    pub(crate) rdt: Option<RdtPlan>,
    pub(crate) process: ProcessPlan,
    /// The SELinux label of the files in the container's own file systems.
    pub(crate) mount_label: Option<CString>,
    pub(crate) cgroup_path: String,
    /// The scope that systemd is to make for it.
    pub(crate) scope: Option<ScopePlan>,
    pub(crate) resources: Resources,
    /// Whose the cgroup becomes, where the container sees its own alone and may write there.
    pub(crate) cgroup_owner: Option<u32>,
}

impl Plan {
    /// Whether the init has to wait for its parent before it can do anything: for its maps, or its interfaces.
    pub(crate) fn waits_for_parent(&self) -> bool {
        self.namespaces.maps.is_some() || !self.net_devices.is_empty()
    }

    /// Namespaces that the plan changes for good, with the fields that do: they may not be the host's.
    pub(crate) fn changed_namespaces(&self) -> Vec<(u64, &'static str)> {
        let uts = [("hostname", &self.hostname), ("domainname", &self.domainname)];
        let mut changed: Vec<_> = uts
            .into_iter()
            .filter(|(_, name)| name.is_some())
            .map(|(field, _)| (flag::NEWUTS, field))
            .collect();
        changed.extend(self.sysctls.iter().map(|sysctl| (sysctl.namespace, "linux.sysctl")));
        changed.extend(self.net_devices.first().map(|_| (flag::NEWNET, "linux.netDevices")));
        changed
    }
}

/// Decides everything about the container `id` of `bundle`.
pub(crate) fn plan(
    id: &str,
    bundle: &Path,
    spec: &Spec,
    rootfs: &Rootfs,
    driver: Driver,
) -> Result<Plan, Error> {
    let none = Linux::default();
    let linux = spec.linux.as_ref().unwrap_or(&none);
    version::check(&spec.oci_version)?;
    spec.hooks.as_ref().map_or(Ok(()), hooks::check)?;
    if spec.annotations.contains_key("") {
        return Err(Error::invalid("annotations", "holds an empty key"));
    }
    let process =
        spec.process.as_ref().ok_or_else(|| Error::invalid("process", "is required to start a container"))?;
    let process_uid = process.user.uid;
    let namespaces = namespaces::plan(linux)?;
    let mounts = mounts::plan(spec, bundle, &namespaces)?;
    let own_dev = !mounts.iter().any(|mount| mount.destination.as_bytes() == b"dev" && mount.is_bind());
    let scope = cgroup::scope(driver, id, spec, linux)?;
    let mount_label = mount_label(linux)?;
    Ok(Plan {
        root: root::root(bundle, spec, &namespaces, rootfs, mounts.iter().any(Mount::names_host_paths))?,
        devices: if own_dev { devices::plan(linux)? } else { devices::outside_dev(linux)? },
        own_dev,
        masked: paths("linux.maskedPaths", &linux.masked_paths)?,
        readonly: paths("linux.readonlyPaths", &linux.readonly_paths)?,
        sysctls: sysctl::plan(linux, &namespaces)?,
        hostname: name("hostname", spec.hostname.as_ref(), &namespaces)?,
        domainname: name("domainname", spec.domainname.as_ref(), &namespaces)?,
        time_offsets: namespaces::time_offsets(linux, &namespaces)?,
        personality: linux.personality.as_ref().map(sched::personality).transpose()?,
        memory_policy: linux.memory_policy.as_ref().map(sched::memory_policy).transpose()?,
        net_devices: netdev::plan(linux, &namespaces)?,
        rdt: linux.intel_rdt.as_ref().map(rdt::plan).transpose()?,
        process: process::plan(process)?,
        mount_label,
        cgroup_path: scope
            .as_ref()
            .map_or_else(|| cgroup_path(id, linux), |scope| Ok(scope.cgroup_path()))?,
        scope,
        resources: resources(linux, &spec.oci_version),
        cgroup_owner: cgroup::cgroup_owner(linux, process_uid, &namespaces, &mounts),
        namespaces,
        mounts,
    })
}

/// A process that joins a container by `exec`.
pub(crate) fn plan_exec(process: &crate::spec::Process) -> Result<ProcessPlan, Error> {
    process::plan(process)
}

/// With the meaning that they have in this version of the specification.
pub(crate) fn resources(linux: &Linux, version: &str) -> Resources {
    as_of(linux.resources.clone().unwrap_or_default(), version)
}

/// The same, of what `update` brings to a container whose configuration is of that version.
pub(crate) fn as_of(mut resources: Resources, version: &str) -> Resources {
    if let Some(pids) = resources.pids.as_mut().filter(|_| !version::has_limits_of_zero(version)) {
        pids.limit = pids.limit.map(|limit| if limit == 0 { -1 } else { limit });
    }
    resources
}

/// config-linux.md, "Mount Label".
fn mount_label(linux: &Linux) -> Result<Option<CString>, Error> {
    let label = linux.mount_label.as_deref().filter(|label| !label.is_empty());
    label.map(|label| path::c_string("linux.mountLabel", label)).transpose()
}

fn paths(field: &str, paths: &[String]) -> Result<Vec<CString>, Error> {
    let one = |(i, path): (usize, &String)| {
        if !path.starts_with('/') {
            return Err(Error::invalid(format!("{field}[{i}]"), format!("{path:?} is not absolute")));
        }
        inside(&format!("{field}[{i}]"), Path::new(path))
    };
    paths.iter().enumerate().map(one).collect()
}

fn name(field: &str, name: Option<&String>, namespaces: &Namespaces) -> Result<Option<Vec<u8>>, Error> {
    let Some(name) = name.filter(|name| !name.is_empty()) else { return Ok(None) };
    if !namespaces.has(kernel::clone_flags::NEWUTS) {
        return Err(Error::invalid(field, "needs a UTS namespace of the container's own"));
    }
    Ok(Some(name.as_bytes().to_vec()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::spec::NamespaceKind;

    const EXAMPLE: &str = include_str!("spec/example.json");

    fn spec(change: impl FnOnce(&mut Spec)) -> Spec {
        let mut spec: Spec = serde_json::from_str(EXAMPLE).unwrap();
        let linux = spec.linux.as_mut().unwrap();
        linux.namespaces =
            [NamespaceKind::Mount, NamespaceKind::Network, NamespaceKind::Uts, NamespaceKind::User]
                .map(|kind| crate::spec::Namespace { kind, path: None })
                .to_vec();
        linux.time_offsets.clear();
        change(&mut spec);
        spec
    }

    fn check(spec: &Spec) -> Result<Plan, Error> {
        plan("id", Path::new("/bundle"), spec, &Rootfs::Bundle, Driver::Cgroupfs)
    }

    #[test]
    fn the_example_has_a_plan() {
        let plan = check(&spec(|_| {})).unwrap();
        assert_eq!(plan.root.path.as_deref(), Some(Path::new("/bundle/rootfs")));
        assert_eq!(plan.root.pivot, Pivot::AfterHooks);
        assert_eq!(plan.cgroup_path, "/a/b");
        assert_eq!(plan.namespaces.maps.unwrap().uids, "0 1000 10\n");
    }

    #[test]
    fn contradictions_name_their_place() {
        let refused = |change: fn(&mut Spec), place: &str| {
            let error = check(&spec(change)).unwrap_err().to_string();
            assert!(error.starts_with(place), "{error}");
        };
        refused(|s| s.process = None, "process:");
        refused(|s| s.root = None, "root:");
        refused(|s| s.linux.as_mut().unwrap().namespaces.clear(), "linux.uidMappings");
        refused(|s| s.linux.as_mut().unwrap().cgroups_path = Some("a/../../b".into()), "linux.cgroupsPath");
        refused(|s| s.linux.as_mut().unwrap().cgroups_path = Some("/a\nb".into()), "linux.cgroupsPath");
        refused(|s| s.linux.as_mut().unwrap().cgroups_path = Some("a.slice:x:y".into()), "linux.cgroupsPath");
        refused(
            |s| s.linux.as_mut().unwrap().rootfs_propagation = Some("up".into()),
            "linux.rootfsPropagation",
        );
        refused(|s| s.linux.as_mut().unwrap().uid_mappings.clear(), "linux.uidMappings");
        refused(|s| s.linux.as_mut().unwrap().masked_paths.push("/a\0b".into()), "linux.maskedPaths[1]");
        refused(|s| s.linux.as_mut().unwrap().devices[0].kind = "x".into(), "linux.devices[0].type");
        refused(|s| s.linux.as_mut().unwrap().devices[0].major = -1, "linux.devices[0].major");
        refused(|s| s.linux.as_mut().unwrap().devices[0].major = 4096, "linux.devices[0].major");
        refused(|s| s.linux.as_mut().unwrap().devices[0].minor = 1 << 20, "linux.devices[0].minor");
    }

    #[test]
    fn a_cgroup_that_may_be_written_to_is_the_users() {
        let owner = |options: &[&str], uid: u32, kinds: &[NamespaceKind]| {
            let spec = spec(|s| {
                let mut mount: crate::spec::Mount = serde_json::from_str(
                    r#"{"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup"}"#,
                )
                .unwrap();
                mount.options = options.iter().map(|word| (*word).to_owned()).collect();
                s.mounts = vec![mount];
                s.process.as_mut().unwrap().user.uid = uid;
                let linux = s.linux.as_mut().unwrap();
                linux
                    .namespaces
                    .extend(kinds.iter().map(|&kind| crate::spec::Namespace { kind, path: None }));
            });
            check(&spec).unwrap().cgroup_owner
        };
        let own = &[NamespaceKind::Cgroup];
        assert_eq!(owner(&["rw"], 3, own), Some(1003), "as the map of the user namespace has it");
        assert_eq!(owner(&["ro"], 3, own), None);
        assert_eq!(owner(&["rw"], 3, &[]), None);
        assert_eq!(owner(&["rw"], 10, own), None, "past the map");
    }

    #[test]
    fn a_host_name_needs_a_namespace_of_its_own() {
        let spec = spec(|s| s.linux.as_mut().unwrap().namespaces.retain(|n| n.kind != NamespaceKind::Uts));
        assert!(check(&spec).unwrap_err().to_string().starts_with("hostname"));
    }

    proptest! {
        /// A configuration is somebody else's file: whatever is in it, there is a plan or an error.
        #[test]
        fn no_configuration_makes_it_panic(edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..8)) {
            let mut bytes = serde_json::to_vec(&spec(|_| {})).unwrap();
            for (at, byte) in edits {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            if let Ok(spec) = serde_json::from_slice::<Spec>(&bytes) {
                let _ = check(&spec);
            }
        }

        #[test]
        fn a_path_never_leads_out(path in "[a./]{0,12}") {
            let inside = inside("x", Path::new(&path)).unwrap();
            let text = inside.to_str().unwrap();
            prop_assert!(!text.starts_with('/'));
            prop_assert!(text.split('/').all(|part| part != ".."));
        }
    }
}
