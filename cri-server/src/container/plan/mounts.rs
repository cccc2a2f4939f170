//! What is mounted where: the promised file systems, the pod's own files, and the mounts asked for.

use std::path::{Component, Path, PathBuf};

use conmon_protocol::Sharing;
use oci_spec::runtime::{LinuxIdMapping, Mount};
use proto::v1::{self, LinuxContainerSecurityContext, MountPropagation};

use super::gather::{HostDevice, MountSource, Propagation, SourceKind, is_image};
use super::invalid::require;
use super::namespaces::{id_mapping, id_mappings, on_host};
use super::{Declared, Inputs, Invalid, declared, devices, edits, images_dir};
use crate::selinux::Labels;
use crate::selinux::relabel::may_relabel;

/// Group of the terminals in devpts, "tty" on every distribution.
const TTY_GID: u32 = 5;
/// Options that a CRI mount may carry besides its own fields.
const EXTRA_OPTIONS: [&str; 3] = ["noexec", "nodev", "nosuid"];
/// Files of /proc that something like lxcfs replaces (the list is runc's).
const PROC_FILES: [&str; 9] = [
    "cpuinfo",
    "diskstats",
    "loadavg",
    "meminfo",
    "slabinfo",
    "stat",
    "swaps",
    "uptime",
    "sys/crypto/fips_enabled",
];

#[derive(Debug)]
pub(super) struct Mounts {
    /// The image's own volumes; then parents before what lies below them.
    pub(super) mounts: Vec<Mount>,
    pub(super) rootfs_propagation: Option<String>,
    pub(super) missing_sources: Vec<PathBuf>,
    pub(super) relabelled: Vec<PathBuf>,
    pub(super) declared: Declared,
}

pub(super) fn mounts(
    inputs: &Inputs<'_>,
    security: &LinuxContainerSecurityContext,
    labels: Option<&Labels>,
) -> Result<Mounts, Invalid> {
    // What is not confined reads every label; what others of the volume's users have is theirs.
    let labelled = labels.is_some_and(|labels| !labels.is_unconfined());
    let (mut asked, mut relabelled) = (Vec::new(), Vec::new());
    for (index, (mount, source)) in inputs.config.mounts.iter().zip(&inputs.host.mounts).enumerate() {
        let field = format!("mounts[{index}]");
        asked.push(if is_image(mount) {
            image(&field, index, mount, inputs)?
        } else {
            bind(&field, mount, source, inputs)?
        });
        if mount.selinux_relabel && labelled && !is_image(mount) {
            relabelled.push(relabelled_source(&field, source, inputs)?);
        }
    }
    asked.extend(edits::mounts(inputs));
    let mut mounts = promised(inputs, security);
    mounts.extend(pod_files(inputs, security));
    mounts.extend(devices::bound(inputs).map(device));
    mounts.retain(|mount| !replaced(mount.destination(), &asked));
    mounts.extend(asked);
    mounts.sort_by_key(|mount| mount.destination().components().count());
    let (declared, bound) = declared::declared(inputs);
    mounts.splice(0..0, bound);
    let missing = inputs.host.mounts.iter().filter(|source| source.kind == SourceKind::Missing);
    Ok(Mounts {
        mounts,
        rootfs_propagation: rootfs_propagation(inputs.config),
        missing_sources: missing.map(|source| source.path.clone()).collect(),
        relabelled,
        declared,
    })
}

fn relabelled_source(field: &str, source: &MountSource, inputs: &Inputs<'_>) -> Result<PathBuf, Invalid> {
    let may = may_relabel(&source.path, &inputs.sandbox.pod.pod_dir);
    require(may, &format!("{field}.selinux_relabel"), || {
        format!(
            "{} is the host's own, which could not use it under a container's label; mount a directory below it, or \
             without selinux_relabel",
            source.path.display()
        )
    })?;
    Ok(source.path.clone())
}

/// One of ours gives way to one asked for at the same place, and all of ours in /dev to a /dev asked for.
fn replaced(ours: &Path, asked: &[Mount]) -> bool {
    let dev = Path::new("/dev");
    asked
        .iter()
        .any(|mount| mount.destination() == ours || (mount.destination() == dev && ours.starts_with(dev)))
}

fn mount(destination: impl AsRef<Path>, kind: &str, source: impl Into<PathBuf>, options: &[&str]) -> Mount {
    let mut mount = Mount::default();
    mount
        .set_destination(destination.as_ref().to_owned())
        .set_typ(Some(kind.to_owned()))
        .set_source(Some(source.into()))
        .set_options(Some(options.iter().map(ToString::to_string).collect()));
    mount
}

fn promised(inputs: &Inputs<'_>, security: &LinuxContainerSecurityContext) -> Vec<Mount> {
    let access = if security.privileged { "rw" } else { "ro" };
    let sealed = ["nosuid", "noexec", "nodev"];
    vec![
        mount("/proc", "proc", "proc", &sealed),
        mount("/dev", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        devpts(inputs),
        mount("/dev/mqueue", "mqueue", "mqueue", &sealed),
        sys(inputs, access),
        mount("/sys/fs/cgroup", "cgroup", "cgroup", &["nosuid", "noexec", "nodev", "relatime", access]),
    ]
}

/// Only the owner of a network namespace may mount the sysfs that shows it. Users of a pod's own in the host's network
/// get the host's (KEP-5607), with all that is mounted below, where root is none of them.
fn sys(inputs: &Inputs<'_>, access: &str) -> Mount {
    let pod = inputs.sandbox.pod;
    if pod.user.is_some() && pod.network == Sharing::Host {
        return mount("/sys", "bind", "/sys", &["rbind", "rprivate", "nosuid", "noexec", "nodev", access]);
    }
    mount("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", access])
}

/// A pod that does not map the group tty cannot give terminals to it.
fn devpts(inputs: &Inputs<'_>) -> Mount {
    let gids = inputs.sandbox.pod.user.as_ref().map(|maps| maps.gids.as_slice());
    let group = format!("gid={TTY_GID}");
    let mut options = vec!["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"];
    options.extend(on_host(TTY_GID, gids).map(|_| group.as_str()));
    mount("/dev/pts", "devpts", "devpts", &options)
}

/// What all containers of the pod share: shared memory, its name, its resolver.
fn pod_files(inputs: &Inputs<'_>, security: &LinuxContainerSecurityContext) -> Vec<Mount> {
    let pod = inputs.sandbox.pod;
    let access = if security.readonly_rootfs { "ro" } else { "rw" };
    let shm = match pod.ipc {
        Sharing::Own => pod.pod_dir.join("shm"),
        Sharing::Host => PathBuf::from("/dev/shm"),
    };
    vec![
        mount("/dev/shm", "bind", shm, &["rbind", "rprivate", "nosuid", "nodev", "noexec", "rw"]),
        mount("/etc/hostname", "bind", pod.pod_dir.join("hostname"), &["rbind", "rprivate", access]),
        mount("/etc/resolv.conf", "bind", pod.pod_dir.join("resolv.conf"), &["rbind", "rprivate", access]),
    ]
}

fn device(device: &HostDevice) -> Mount {
    let options = ["bind", "rprivate", "nosuid", "noexec", "rw"];
    mount(&device.path, "bind", device.host_path.clone(), &options)
}

/// An image as a volume (KEP-4639): what [`crate::container::volume`] has mounted by then. Its programs can be run,
/// and whoever does not want that says `noexec`.
fn image(field: &str, index: usize, asked: &v1::Mount, inputs: &Inputs<'_>) -> Result<Mount, Invalid> {
    require(asked.host_path.is_empty(), &format!("{field}.host_path"), || {
        "a mount is of the host or of an image, not of both".to_owned()
    })?;
    let private = asked_propagation(asked) == Some(MountPropagation::PropagationPrivate);
    require(private, &format!("{field}.propagation"), || "an image has nothing to propagate".to_owned())?;
    require(asked.readonly, &format!("{field}.readonly"), || "an image cannot be written to".to_owned())?;
    // Its layers are shifted before they are mounted together: the whole of it can't be (overlay has no ID maps).
    let pod = inputs.sandbox.pod.user.as_ref();
    let given = (mappings(&asked.uid_mappings), mappings(&asked.gid_mappings));
    let pods = pod.map(|maps| (id_mappings(&maps.uids), id_mappings(&maps.gids)));
    require(!is_mapped(asked) || pods == Some(given), &format!("{field}.uid_mappings"), || {
        "the owners of an image's files can only be mapped as the pod's users are".to_owned()
    })?;
    let nowhere = MountSource {
        path: PathBuf::new(),
        kind: SourceKind::Other,
        propagation: super::gather::Propagation::Private,
    };
    let destination = destination(field, asked, &nowhere)?;
    let container_dir = inputs.sandbox.pod.pod_dir.join("containers").join(inputs.container_id);
    let source = images_dir(&container_dir).join(index.to_string());
    let mut options = vec!["rbind", "rprivate", access(field, asked, inputs)?, "nosuid", "nodev"];
    options.extend(extra_options(field, asked)?);
    Ok(mount(&destination, "bind", source, &options))
}

/// Whether its owners are to be other ones on the host.
pub(crate) fn is_mapped(asked: &v1::Mount) -> bool {
    !asked.uid_mappings.is_empty() || !asked.gid_mappings.is_empty()
}

fn bind(field: &str, asked: &v1::Mount, source: &MountSource, inputs: &Inputs<'_>) -> Result<Mount, Invalid> {
    refuse_unsupported(field, asked)?;
    let destination = destination(field, asked, source)?;
    let propagation = propagation(field, asked, source)?;
    let mut options = vec!["rbind", propagation, access(field, asked, inputs)?];
    options.extend(extra_options(field, asked)?);
    let mut bound = mount(&destination, "bind", source.path.clone(), &options);
    if is_mapped(asked) {
        bound.set_uid_mappings(Some(mappings(&asked.uid_mappings)));
        bound.set_gid_mappings(Some(mappings(&asked.gid_mappings)));
    }
    Ok(bound)
}

fn extra_options(field: &str, asked: &v1::Mount) -> Result<Vec<&'static str>, Invalid> {
    let known = |option: &String| EXTRA_OPTIONS.into_iter().find(|known| known == option);
    let unknown = |option| {
        Invalid::wrong(format!("{field}.mount_options"), format!("{option} is not one of {EXTRA_OPTIONS:?}"))
    };
    asked.mount_options.iter().map(|option| known(option).ok_or_else(|| unknown(option))).collect()
}

fn refuse_unsupported(field: &str, asked: &v1::Mount) -> Result<(), Invalid> {
    require(asked.image_sub_path.is_empty(), &format!("{field}.image_sub_path"), || {
        "no image is named of which it could be a part".to_owned()
    })?;
    let absolute = Path::new(&asked.host_path).is_absolute();
    require(absolute, &format!("{field}.host_path"), || {
        format!("{:?} is not an absolute path", asked.host_path)
    })?;
    let both = asked.uid_mappings.is_empty() == asked.gid_mappings.is_empty();
    require(both, &format!("{field}.uid_mappings"), || {
        "users and groups are mapped together or not at all".to_owned()
    })
}

fn mappings(asked: &[v1::IdMapping]) -> Vec<LinuxIdMapping> {
    asked.iter().map(|map| id_mapping(map.container_id, map.host_id, map.length)).collect()
}

/// Cleaned of `.`, `..` and doubled slashes; neither the root nor, save for single files, anything in /proc,
/// whose contents the runtime itself trusts (CVE-2019-16884).
fn destination(field: &str, asked: &v1::Mount, source: &MountSource) -> Result<String, Invalid> {
    let field = format!("{field}.container_path");
    let path = &asked.container_path;
    require(Path::new(path).is_absolute(), &field, || format!("{path:?} is not an absolute path"))?;
    let clean = clean(Path::new(path));
    require(clean != "/", &field, || "the root of the container cannot be a mount".to_owned())?;
    let in_proc = match clean.strip_prefix("/proc") {
        Some("") => source.path != Path::new("/proc"),
        Some(file) => file.starts_with('/') && !PROC_FILES.contains(&&file[1..]),
        None => false,
    };
    require(!in_proc, &field, || format!("{clean} belongs to the runtime"))?;
    Ok(clean)
}

pub(super) fn clean(path: &Path) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.components() {
        match part {
            Component::Normal(name) => parts.push(name.to_str().expect("made of a str")),
            Component::ParentDir => drop(parts.pop()),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    format!("/{}", parts.join("/"))
}

fn asked_propagation(mount: &v1::Mount) -> Option<MountPropagation> {
    MountPropagation::try_from(mount.propagation).ok()
}

/// What happens on one side can only reach the other when the host's mount passes it on.
fn propagation(field: &str, asked: &v1::Mount, source: &MountSource) -> Result<&'static str, Invalid> {
    let field = format!("{field}.propagation");
    let Some(wish) = asked_propagation(asked) else {
        return Err(Invalid::wrong(field, format!("there is no propagation {}", asked.propagation)));
    };
    let (option, possible) = match wish {
        MountPropagation::PropagationPrivate => ("rprivate", true),
        MountPropagation::PropagationHostToContainer => {
            ("rslave", source.propagation != Propagation::Private)
        }
        MountPropagation::PropagationBidirectional => ("rshared", source.propagation == Propagation::Shared),
    };
    require(possible, &field, || {
        format!("{} lies on a mount of the host that does not propagate so", source.path.display())
    })?;
    Ok(option)
}

/// The interface: recursive only with read-only, and only with private propagation. `RROUnsupported` is its word
/// (cri-api, pkg/errors) for a runtime that would leave what is mounted below writable.
fn access(field: &str, asked: &v1::Mount, inputs: &Inputs<'_>) -> Result<&'static str, Invalid> {
    if !asked.recursive_read_only {
        return Ok(if asked.readonly { "ro" } else { "rw" });
    }
    let field = format!("{field}.recursive_read_only");
    require(asked.readonly, &field, || "the mount is not readonly".to_owned())?;
    let private = asked_propagation(asked) == Some(MountPropagation::PropagationPrivate);
    require(private, &field, || "the propagation of the mount is not private".to_owned())?;
    require(inputs.features.recursive_read_only_mounts, &field, || {
        "RROUnsupported: the pod's runtime handler does not say by its command `features` that it has the mount \
         option rro; use a newer runtime or another handler"
            .to_owned()
    })?;
    Ok("rro")
}

/// The container's root must pass on what one of its mounts passes on.
fn rootfs_propagation(config: &v1::ContainerConfig) -> Option<String> {
    let any = |wish| config.mounts.iter().any(|mount| asked_propagation(mount) == Some(wish));
    if any(MountPropagation::PropagationBidirectional) {
        return Some("rshared".to_owned());
    }
    any(MountPropagation::PropagationHostToContainer).then(|| "rslave".to_owned())
}
