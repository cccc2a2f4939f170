//! What a container is to be: the request, its sandbox, its image and the machine in; the OCI
//! configuration and everything else that making needs out.
//!
//! Pure, save [`gather`], which looks at the machine beforehand. What cannot be honoured is refused with
//! the name of the field, never left out in silence. Image configuration, labels and annotations decide
//! nothing but the process itself: none of them becomes an option of the daemon or of the OCI runtime.

use std::path::{Path, PathBuf};

use conmon_protocol::{CgroupDriver, Owner, PodPlan, Stdin};
use oci_spec::runtime::{Linux, Process, Root, Spec};
use proto::v1;
use serde::{Deserialize, Serialize};

use crate::config::HandlerSection;
use crate::selinux::policy::is_known;
use crate::selinux::{Labels, PodLabels};

mod annotations;
mod args;
mod capabilities;
mod classes;
mod declared;
mod devices;
mod edits;
mod env;
mod exec;
mod gather;
mod glance;
mod invalid;
mod log;
mod mounts;
mod namespaces;
mod resources;
mod security;
mod settings;
mod signal;
mod update;
mod user;

#[cfg(test)]
mod tests;

pub(crate) use declared::owners;
pub use declared::{Declared, ImageVolumes};
pub use exec::exec_process;
pub use gather::{
    CgroupVersion, HostDevice, HostFacts, Machine, MountSource, Propagation, SourceKind, gather,
    hugepage_sizes, machine, propagation,
};
pub use glance::glance;
pub use invalid::Invalid;
pub(crate) use mounts::is_mapped;
pub use settings::{SelinuxUse, Settings};
pub(crate) use signal::number as signal_number;
pub use update::{Update, update};

use invalid::require;

/// Everything that the plan of a container depends on.
#[derive(Debug, Clone, Copy)]
pub struct Inputs<'a> {
    pub container_id: &'a str,
    pub config: &'a v1::ContainerConfig,
    pub sandbox: SandboxFacts<'a>,
    pub image: ImageFacts<'a>,
    pub host: &'a HostFacts,
    pub settings: &'a Settings,
    /// Another runtime than ours; what it may be told is the operator's word.
    pub handler: Option<&'a HandlerSection>,
    /// What the runtime can do.
    pub features: v1::RuntimeHandlerFeatures,
    /// The version of the runtime specification that it takes.
    pub oci_version: &'a str,
    /// Where the volumes that the image declares are, if they are bound.
    pub volumes_dir: &'a Path,
}

/// The sandbox that the container goes into.
#[derive(Debug, Clone, Copy)]
pub struct SandboxFacts<'a> {
    /// What the kubelet asked for in RunPodSandbox.
    pub config: &'a v1::PodSandboxConfig,
    /// What was decided: namespaces, ID maps, cgroup parent, directory.
    pub pod: &'a PodPlan,
    /// SELinux; none where it is off.
    pub labels: Option<&'a PodLabels>,
    /// The name that `uname` gives inside the pod: its own, or the host's.
    pub hostname: &'a str,
    /// The first process of the container that an ephemeral one asks to see (TARGET); none when it does not run.
    pub target_pid: Option<i32>,
}

/// What an image says about the process to run. Written by strangers.
#[derive(Debug, Clone, Copy, Default)]
pub struct ImageFacts<'a> {
    /// The name the container was asked with, for error texts.
    pub name: &'a str,
    pub entrypoint: &'a [String],
    pub cmd: &'a [String],
    pub env: &'a [String],
    pub user: &'a str,
    pub working_dir: &'a str,
    pub stop_signal: &'a str,
    /// Paths that its maker wants to be volumes.
    pub volumes: &'a [String],
    /// `/etc/passwd` and `/etc/group` of the image.
    pub passwd: Option<&'a [u8]>,
    pub group: Option<&'a [u8]>,
    /// Why one of the two could not be taken although it is there.
    pub accounts_unusable: Option<&'a str>,
}

impl<'a> ImageFacts<'a> {
    /// What `image`, which the container names `name`, says.
    pub fn of(image: &'a image_service::Image, name: &'a str) -> Self {
        let (config, accounts) = (&image.config, &image.accounts);
        Self {
            name,
            entrypoint: &config.entrypoint,
            cmd: &config.cmd,
            env: &config.env,
            user: &config.user,
            working_dir: &config.working_dir,
            stop_signal: config.stop_signal.as_deref().unwrap_or_default(),
            volumes: &config.volumes,
            passwd: accounts.passwd.as_deref(),
            group: accounts.group.as_deref(),
            accounts_unusable: accounts.unusable.as_deref(),
        }
    }
}

/// What is to be made. Stored as the container's `plan`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ContainerPlan {
    pub spec: Spec,
    pub cgroup_path: String,
    /// Absolute; `None` drops the output.
    pub log_path: Option<PathBuf>,
    pub terminal: bool,
    pub stdin: Stdin,
    pub stdio_owner: Owner,
    pub user: User,
    /// A number that `kill` takes.
    pub stop_signal: i32,
    /// Sources of bind mounts that do not exist yet: to be made as directories first.
    pub missing_sources: Vec<PathBuf>,
    /// Sources of bind mounts that get the container's label with all that is in them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub relabelled: Vec<PathBuf>,
    /// SELinux, of the container's files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file_label: Option<String>,
    /// The image's own volumes.
    #[serde(default, skip_serializing_if = "Declared::is_nothing")]
    pub declared: Declared,
}

/// Who the process runs as, seen from inside the container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    pub uid: u32,
    pub gid: u32,
    /// Supplementary groups, the primary one included.
    pub groups: Vec<u32>,
}

impl From<&User> for v1::ContainerUser {
    fn from(user: &User) -> Self {
        let linux = v1::LinuxContainerUser {
            uid: i64::from(user.uid),
            gid: i64::from(user.gid),
            supplemental_groups: user.groups.iter().map(|gid| i64::from(*gid)).collect(),
        };
        v1::ContainerUser { linux: Some(linux) }
    }
}

/// Scopes are named as other engines name theirs, so that monitoring agents find the container's id.
const SCOPE_PREFIX: &str = "cri-berth";
/// Where containers are whose pod has no slice of its own.
const DEFAULT_SLICE: &str = "/berth.slice";

/// The cgroup of a container under its sandbox's.
pub fn cgroup_path(cgroup_parent: &str, container_id: &str) -> String {
    let parent = if cgroup_parent.is_empty() { "/berth" } else { cgroup_parent.trim_end_matches('/') };
    format!("{parent}/berth-{container_id}")
}

/// The same as a path that a runtime is given, and where the container's processes will be counted.
fn cgroup(pod: &PodPlan, container_id: &str) -> (String, String) {
    match pod.cgroup_driver {
        CgroupDriver::Cgroupfs => {
            let path = cgroup_path(&pod.cgroup_parent, container_id);
            (path.clone(), path)
        }
        CgroupDriver::Systemd => {
            let parent = if pod.cgroup_parent.is_empty() { DEFAULT_SLICE } else { &pod.cgroup_parent };
            let slice = parent.rsplit('/').next().unwrap_or(parent);
            let counted = format!("{parent}/{SCOPE_PREFIX}-{container_id}.scope");
            (format!("{slice}:{SCOPE_PREFIX}:{container_id}"), counted)
        }
    }
}

/// Where the images that are a container's volumes are mounted, below its directory.
pub fn images_dir(container_dir: &Path) -> PathBuf {
    container_dir.join("images")
}

/// Asks the kernel about the labels of a plan: only its policy knows which user may have which role, and which types
/// and categories there are.
///
/// # Errors
/// It does not know one.
pub fn check_labels(plan: &ContainerPlan) -> Result<(), Invalid> {
    let process = plan.spec.process().as_ref().and_then(|process| process.selinux_label().as_deref());
    match [process, plan.file_label.as_deref()].into_iter().flatten().find(|label| !is_known(label)) {
        None => Ok(()),
        Some(label) => Err(Invalid::wrong(
            "security_context.selinux_options",
            format!("the policy of this node knows no context {label}; seinfo(1) lists what it has"),
        )),
    }
}

/// Decides what to make.
///
/// # Errors
/// Names the field of the request that cannot be honoured, and why.
pub fn plan(inputs: &Inputs<'_>) -> Result<ContainerPlan, Invalid> {
    let security = security::context(inputs.config);
    check(inputs, &security)?;
    let mut resolved = user::resolve(&security, &inputs.image)?;
    edits::add_groups(inputs, &mut resolved.user.groups);
    let labels = security::labels(inputs, &security)?;
    let mounts = mounts::mounts(inputs, &security, labels.as_ref())?;
    let process = process(inputs, &security, &resolved, labels.as_ref())?;
    let mut linux = linux(inputs, &security, &process, mounts.rootfs_propagation)?;
    let file_label = labels.map(|labels| labels.file.to_string());
    linux.set_mount_label(file_label.clone());
    edits::add_to_linux(inputs, &mut linux)?;
    let command = process.args().as_ref().and_then(|args| args.first()).cloned().unwrap_or_default();
    let mut spec = Spec::default();
    spec.set_version(inputs.oci_version.to_owned())
        .set_root(Some(root(&security)))
        .set_mounts(Some(mounts.mounts))
        .set_annotations(Some(annotations::annotations(inputs)))
        .set_hostname(None)
        .set_hooks(edits::hooks(inputs, &command))
        .set_linux(Some(linux))
        .set_process(Some(process));
    Ok(ContainerPlan {
        spec,
        cgroup_path: cgroup(inputs.sandbox.pod, inputs.container_id).1,
        log_path: log::log_path(inputs)?,
        terminal: inputs.config.tty,
        stdin: stdin(inputs.config),
        stdio_owner: owner(inputs, &resolved.user)?,
        user: resolved.user,
        stop_signal: signal::stop_signal(inputs.config, &inputs.image)?,
        missing_sources: mounts.missing_sources,
        relabelled: mounts.relabelled,
        file_label,
        declared: mounts.declared,
    })
}

/// What concerns no single part of the plan.
fn check(inputs: &Inputs<'_>, security: &v1::LinuxContainerSecurityContext) -> Result<(), Invalid> {
    let pod = inputs.sandbox.config.linux.as_ref().and_then(|linux| linux.security_context.as_ref());
    let pod_privileged = pod.is_some_and(|pod| pod.privileged);
    require(pod_privileged || !security.privileged, "security_context.privileged", || {
        "the sandbox is not privileged".to_owned()
    })?;
    require(inputs.config.windows.is_none(), "windows", || "this is a Linux node".to_owned())
}

fn root(security: &v1::LinuxContainerSecurityContext) -> Root {
    let mut root = Root::default();
    root.set_path("rootfs".into()).set_readonly(Some(security.readonly_rootfs));
    root
}

fn process(
    inputs: &Inputs<'_>,
    security: &v1::LinuxContainerSecurityContext,
    resolved: &user::Resolved,
    labels: Option<&Labels>,
) -> Result<Process, Invalid> {
    let resources = resources::asked(inputs.config);
    let mut process = Process::default();
    process
        .set_terminal(Some(inputs.config.tty))
        .set_user(oci_user(&resolved.user))
        .set_args(Some(args::args(inputs.config, &inputs.image)?))
        .set_env(Some(env::env(inputs, &resolved.home)?))
        .set_cwd(working_dir(inputs)?)
        .set_capabilities(Some(capabilities::capabilities(inputs, security)?))
        .set_rlimits(None)
        .set_no_new_privileges(Some(security.no_new_privs))
        .set_apparmor_profile(security::apparmor(inputs, security)?)
        .set_selinux_label(labels.map(|labels| labels.process.to_string()))
        .set_oom_score_adj(Some(resources::oom_score_adj(&resources, &inputs.host.machine)?));
    Ok(process)
}

fn oci_user(user: &User) -> oci_spec::runtime::User {
    let mut oci = oci_spec::runtime::User::default();
    oci.set_uid(user.uid).set_gid(user.gid).set_additional_gids(Some(user.groups.clone()));
    oci
}

/// An image built elsewhere may name its directory without the leading slash; a request may not.
fn working_dir(inputs: &Inputs<'_>) -> Result<PathBuf, Invalid> {
    let (asked, image) = (&inputs.config.working_dir, inputs.image.working_dir);
    require(!asked.contains('\0') && !image.contains('\0'), "working_dir", || {
        "it has a NUL byte".to_owned()
    })?;
    if asked.is_empty() {
        return Ok(Path::new("/").join(image));
    }
    require(Path::new(asked).is_absolute(), "working_dir", || format!("{asked} is not an absolute path"))?;
    Ok(PathBuf::from(asked))
}

fn linux(
    inputs: &Inputs<'_>,
    security: &v1::LinuxContainerSecurityContext,
    process: &Process,
    rootfs_propagation: Option<String>,
) -> Result<Linux, Invalid> {
    let devices = devices::devices(inputs, security)?;
    let paths = security::paths(inputs, security)?;
    let maps = inputs.sandbox.pod.user.as_ref();
    let capabilities = process.capabilities().clone().unwrap_or_default();
    let asked = resources::asked(inputs.config);
    let mut linux = Linux::default();
    linux
        .set_namespaces(Some(namespaces::namespaces(inputs, security)?))
        .set_uid_mappings(maps.map(|maps| namespaces::id_mappings(&maps.uids)))
        .set_gid_mappings(maps.map(|maps| namespaces::id_mappings(&maps.gids)))
        .set_cgroups_path(Some(cgroup(inputs.sandbox.pod, inputs.container_id).0.into()))
        .set_resources(Some(resources::resources(inputs, &asked, &devices)?))
        .set_devices(Some(devices.nodes))
        .set_seccomp(security::filter(inputs, security, &capabilities)?)
        .set_rootfs_propagation(rootfs_propagation)
        .set_masked_paths(Some(paths.masked))
        .set_readonly_paths(Some(paths.readonly));
    Ok(linux)
}

fn stdin(config: &v1::ContainerConfig) -> Stdin {
    match (config.stdin, config.stdin_once) {
        (false, _) => Stdin::Closed,
        (true, false) => Stdin::Open,
        (true, true) => Stdin::Once,
    }
}

/// The FIFOs belong to the user as the host knows it, so that the process can open /dev/stdout again.
fn owner(inputs: &Inputs<'_>, user: &User) -> Result<Owner, Invalid> {
    let maps = inputs.sandbox.pod.user.as_ref();
    let uid = namespaces::on_host(user.uid, maps.map(|maps| maps.uids.as_slice()));
    let gid = namespaces::on_host(user.gid, maps.map(|maps| maps.gids.as_slice()));
    match (uid, gid) {
        (Some(uid), Some(gid)) => Ok(Owner { uid, gid }),
        _ => Err(Invalid::wrong(
            "run_as_user",
            "the user namespace of the pod does not map the user or its group",
        )),
    }
}
