//! Looks at the machine before a container is planned: the only I/O of the plan.
//!
//! What never changes while berthd runs is read once ([`Machine`]); what the request names is read for
//! each request. Nothing here is decided, and nothing is read without a bound.

use std::collections::BTreeSet;
use std::fs::{self, File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use conmon_protocol::Seen;
use oci_spec::runtime::{Capability, LinuxBlockIo, LinuxDeviceType};
use proto::v1;
use rustix::fs::OFlags;

use super::{Invalid, Settings, capabilities, classes, security};
use crate::apparmor;
use crate::blockio;
use crate::cdi;
use crate::config::HandlerSection;
use crate::oci_hooks::{self, HookFile};

/// A profile larger than this is a mistake or an attack.
const PROFILE_MAX_BYTES: u64 = 1 << 20;
/// Every file of /proc or /sys that is read here is far smaller.
const FACT_MAX_BYTES: u64 = 1 << 16;
/// A host has a few hundred device nodes; one with more than this is not walked to its end.
const DEVICES_MAX: usize = 16_384;
/// `/dev/bus/usb/001/004` is four deep.
const DEVICE_DEPTH_MAX: usize = 8;

/// What the plan needs to know about the machine.
#[derive(Debug, Clone)]
pub struct HostFacts {
    pub machine: Machine,
    /// In the order of `config.devices`, a directory opened up into the nodes below it.
    pub devices: Vec<HostDevice>,
    /// Every device node of the host; only looked for when the container is privileged.
    pub all_devices: Vec<HostDevice>,
    /// What the CDI devices add; their nodes are among `devices`.
    pub cdi: cdi::Edits,
    /// All that the operator has in hook directories.
    pub hooks: Vec<HookFile>,
    /// One for each of `config.mounts`.
    pub mounts: Vec<MountSource>,
    /// The text of the localhost seccomp profile, when one is asked for, or of the handler's own default.
    pub seccomp_profile: Option<Vec<u8>>,
    /// Whether the AppArmor profile that is asked for by name, if one is, is there.
    pub apparmor_loaded: bool,
    /// The limits of the class of block I/O that is named, if one is.
    pub block_io: Option<LinuxBlockIo>,
}

/// What does not change while berthd runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Machine {
    pub cgroup: CgroupVersion,
    /// What we hold ourselves, and so all that a container can get.
    pub capabilities: Vec<Capability>,
    /// The lowest oom_score_adj that we can give; without CAP_SYS_RESOURCE it is our own.
    pub oom_score_adj_floor: i32,
    pub apparmor: bool,
    pub selinux: bool,
    /// Page sizes that the hugetlb controller can limit, as the CRI names them: `2MB`.
    pub hugepage_sizes: BTreeSet<String>,
    pub swap_accounting: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CgroupVersion {
    /// One hierarchy per controller, perhaps with an empty cgroup2 beside them.
    V1,
    V2,
}

/// A device node of the host, and where the container wants it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostDevice {
    pub host_path: PathBuf,
    pub path: PathBuf,
    pub kind: LinuxDeviceType,
    pub major: i64,
    pub minor: i64,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    /// `config.devices[..].permissions`; all of them for a privileged container.
    pub permissions: String,
}

/// The host's side of a bind mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountSource {
    /// With its symbolic links followed, as far as it exists.
    pub path: PathBuf,
    pub kind: SourceKind,
    /// Of the mount that the path lies on; only looked at when the request asks for propagation.
    pub propagation: Propagation,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SourceKind {
    Missing,
    Directory,
    Other,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Propagation {
    Private,
    Slave,
    Shared,
}

/// Looks at what the request names, save its mounts, which may be of servers that are away: what is there was `seen`, one
/// for each. Blocking, for some tens of microseconds.
pub fn gather(
    config: &v1::ContainerConfig,
    pod: &v1::PodSandboxConfig,
    settings: &Settings,
    handler: Option<&HandlerSection>,
    seen: Vec<Seen>,
) -> Result<HostFacts, Invalid> {
    let security = security::context(config);
    let cdi = cdi_edits(config, settings)?;
    let mut devices = requested_devices(&config.devices)?;
    devices.extend(cdi.nodes.iter().map(cdi_node).collect::<Result<Vec<_>, _>>()?);
    let hooks = oci_hooks::read(&settings.hooks_dirs);
    Ok(HostFacts {
        cdi,
        hooks: hooks.map_err(|error| Invalid::wrong("hooks_dirs", error.to_string()))?,
        machine: machine().clone(),
        devices,
        all_devices: if security.privileged { all_devices() } else { Vec::new() },
        mounts: mount_sources(&config.mounts, seen)?,
        seccomp_profile: seccomp_profile(&security, handler)?,
        apparmor_loaded: apparmor_loaded(&security)?,
        block_io: block_io(config, pod, settings)?,
    })
}

/// Read once.
pub fn machine() -> &'static Machine {
    static MACHINE: LazyLock<Machine> = LazyLock::new(Machine::read);
    &MACHINE
}

impl Machine {
    pub fn read() -> Self {
        let status = read_fact("/proc/self/status");
        let held = capabilities::from_mask(hex_field(&status, "CapPrm:") & hex_field(&status, "CapBnd:"));
        let cgroup = cgroup_version();
        Self {
            oom_score_adj_floor: oom_score_adj_floor(&held),
            capabilities: held,
            apparmor: read_fact("/sys/module/apparmor/parameters/enabled").starts_with('Y'),
            selinux: Path::new("/sys/fs/selinux/enforce").exists(),
            hugepage_sizes: limitable_hugepage_sizes(cgroup),
            swap_accounting: swap_accounting(cgroup),
            cgroup,
        }
    }
}

fn cgroup_version() -> CgroupVersion {
    let unified = Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
    if unified { CgroupVersion::V2 } else { CgroupVersion::V1 }
}

/// The kernel's `oom_score_adj_min` cannot be read; our own value is never below it.
fn oom_score_adj_floor(held: &[Capability]) -> i32 {
    if held.contains(&Capability::SysResource) {
        return -1000;
    }
    read_fact("/proc/self/oom_score_adj").trim().parse().unwrap_or(0)
}

/// On v2 the root has no `memory.swap.max`, so a kernel that can account swap is one with swap support.
fn swap_accounting(cgroup: CgroupVersion) -> bool {
    match cgroup {
        CgroupVersion::V1 => Path::new("/sys/fs/cgroup/memory/memory.memsw.limit_in_bytes").exists(),
        CgroupVersion::V2 => Path::new("/proc/swaps").exists(),
    }
}

/// None where the controller is not at hand, as on a v1 host that has not mounted it.
fn limitable_hugepage_sizes(cgroup: CgroupVersion) -> BTreeSet<String> {
    let limitable = match cgroup {
        CgroupVersion::V1 => Path::new("/sys/fs/cgroup/hugetlb").exists(),
        CgroupVersion::V2 => {
            read_fact("/sys/fs/cgroup/cgroup.controllers").split_whitespace().any(|c| c == "hugetlb")
        }
    };
    if limitable { hugepage_sizes() } else { BTreeSet::new() }
}

/// Sizes of this machine's huge pages, as the interface names them: `2MB`.
pub fn hugepage_sizes() -> BTreeSet<String> {
    let Ok(entries) = fs::read_dir("/sys/kernel/mm/hugepages") else { return BTreeSet::new() };
    let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    names.filter_map(|name| hugepage_size(&name)).collect()
}

/// `hugepages-2048kB` is `2MB` to the interface and to the controller.
fn hugepage_size(directory: &str) -> Option<String> {
    let kib: u64 = directory.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok()?;
    Some(match kib {
        _ if kib.is_multiple_of(1 << 20) => format!("{}GB", kib >> 20),
        _ if kib.is_multiple_of(1 << 10) => format!("{}MB", kib >> 10),
        _ => format!("{kib}KB"),
    })
}

fn hex_field(status: &str, name: &str) -> u64 {
    let value = status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
    u64::from_str_radix(value.trim(), 16).unwrap_or(0)
}

/// A fact of the kernel; one that cannot be read is empty.
fn read_fact(path: &str) -> String {
    let mut text = String::new();
    let read = File::open(path).and_then(|file| file.take(FACT_MAX_BYTES).read_to_string(&mut text));
    read.map(|_| text).unwrap_or_default()
}

fn requested_devices(asked: &[v1::Device]) -> Result<Vec<HostDevice>, Invalid> {
    let mut found = Vec::new();
    for (index, device) in asked.iter().enumerate() {
        let field = format!("devices[{index}].host_path");
        let path =
            fs::canonicalize(&device.host_path).map_err(|e| unreachable(&field, &device.host_path, e))?;
        let metadata = fs::metadata(&path).map_err(|e| unreachable(&field, &device.host_path, e))?;
        let target =
            if device.container_path.is_empty() { &device.host_path } else { &device.container_path };
        let before = found.len();
        if metadata.is_dir() {
            walk(&path, Path::new(target), &device.permissions, DEVICE_DEPTH_MAX, &mut found);
        } else {
            found.extend(node(&metadata, path, PathBuf::from(target), &device.permissions));
        }
        if found.len() == before {
            return Err(Invalid::wrong(
                field,
                format!("{} is not a device and has none below it", device.host_path),
            ));
        }
    }
    Ok(found)
}

fn block_io(
    config: &v1::ContainerConfig,
    pod: &v1::PodSandboxConfig,
    settings: &Settings,
) -> Result<Option<LinuxBlockIo>, Invalid> {
    let Some(class) = classes::block_io(config, pod) else { return Ok(None) };
    let limits = blockio::class(&settings.blockio_config_file, class);
    limits.map(Some).map_err(|error| Invalid::wrong("annotations", error.to_string()))
}

fn cdi_edits(config: &v1::ContainerConfig, settings: &Settings) -> Result<cdi::Edits, Invalid> {
    let names = cdi::asked(config).and_then(|names| cdi::edits(&settings.cdi_spec_dirs, &names));
    names.map_err(|error| Invalid::wrong("cdi_devices", error.to_string()))
}

/// What the file does not say of the node, the host's node says.
fn cdi_node(edit: &cdi::NodeEdit) -> Result<HostDevice, Invalid> {
    let host_path = if edit.host_path.as_os_str().is_empty() { &edit.path } else { &edit.host_path };
    let field = format!("cdi_devices: deviceNodes {}", edit.path.display());
    let permissions = if edit.permissions.is_empty() { "rwm" } else { &edit.permissions };
    let found = fs::metadata(host_path);
    let kind = match edit.kind.as_str() {
        "b" => Some(LinuxDeviceType::B),
        "c" | "u" => Some(LinuxDeviceType::C),
        _ => None,
    };
    if let (Some(kind), Some(major), Some(minor)) = (kind, edit.major, edit.minor) {
        return Ok(HostDevice {
            host_path: host_path.clone(),
            path: edit.path.clone(),
            kind,
            major,
            minor,
            mode: edit.file_mode.or(found.as_ref().ok().map(|node| node.mode() & 0o7777)).unwrap_or(0o666),
            uid: edit.uid.unwrap_or_default(),
            gid: edit.gid.unwrap_or_default(),
            permissions: permissions.to_owned(),
        });
    }
    let metadata = found.map_err(|error| unreachable(&field, &host_path.display().to_string(), error))?;
    let mut device = node(&metadata, host_path.clone(), edit.path.clone(), permissions)
        .ok_or_else(|| Invalid::wrong(field, format!("{} is not a device", host_path.display())))?;
    device.mode = edit.file_mode.unwrap_or(device.mode);
    device.uid = edit.uid.unwrap_or(device.uid);
    device.gid = edit.gid.unwrap_or(device.gid);
    Ok(device)
}

fn unreachable(field: &str, path: &str, source: io::Error) -> Invalid {
    Invalid::Unreachable { field: field.to_owned(), path: PathBuf::from(path), source }
}

fn all_devices() -> Vec<HostDevice> {
    let mut found = Vec::new();
    walk(Path::new("/dev"), Path::new("/dev"), "rwm", DEVICE_DEPTH_MAX, &mut found);
    found
}

/// Below /dev, what each container has of its own.
const NOT_THE_HOSTS: [&str; 6] =
    ["/dev/pts", "/dev/shm", "/dev/fd", "/dev/mqueue", "/dev/console", "/dev/ptmx"];

fn walk(host_dir: &Path, target_dir: &Path, permissions: &str, depth: usize, found: &mut Vec<HostDevice>) {
    let Ok(entries) = fs::read_dir(host_dir) else { return };
    for entry in entries.flatten() {
        let path = entry.path();
        let Ok(metadata) = entry.metadata() else { continue };
        if NOT_THE_HOSTS.iter().any(|own| path == Path::new(own)) || found.len() >= DEVICES_MAX {
            continue;
        }
        let target = target_dir.join(entry.file_name());
        if metadata.is_dir() && depth > 0 {
            walk(&path, &target, permissions, depth - 1, found);
        } else {
            found.extend(node(&metadata, path, target, permissions));
        }
    }
}

/// `None` for what is not a device.
fn node(metadata: &Metadata, host_path: PathBuf, path: PathBuf, permissions: &str) -> Option<HostDevice> {
    let kind = match metadata.file_type() {
        file_type if file_type.is_block_device() => LinuxDeviceType::B,
        file_type if file_type.is_char_device() => LinuxDeviceType::C,
        _ => return None,
    };
    Some(HostDevice {
        host_path,
        path,
        kind,
        major: i64::from(rustix::fs::major(metadata.rdev())),
        minor: i64::from(rustix::fs::minor(metadata.rdev())),
        mode: metadata.mode() & 0o7777,
        uid: metadata.uid(),
        gid: metadata.gid(),
        permissions: permissions.to_owned(),
    })
}

/// Whether an image is to be mounted, not something of the host's.
pub(super) fn is_image(mount: &v1::Mount) -> bool {
    mount.image.as_ref().is_some_and(|image| !image.image.is_empty())
}

fn mount_sources(mounts: &[v1::Mount], seen: Vec<Seen>) -> Result<Vec<MountSource>, Invalid> {
    let private = v1::MountPropagation::PropagationPrivate as i32;
    let table =
        if mounts.iter().any(|mount| mount.propagation != private) { mount_table() } else { Vec::new() };
    let sources = mounts.iter().zip(seen).enumerate();
    sources.map(|(index, (mount, seen))| mount_source(index, mount, seen, &table)).collect()
}

fn mount_source(
    index: usize,
    mount: &v1::Mount,
    seen: Seen,
    table: &[MountPoint],
) -> Result<MountSource, Invalid> {
    if is_image(mount) {
        // Its source is where it will be mounted.
        let (path, propagation) = (PathBuf::new(), Propagation::Private);
        return Ok(MountSource { path, kind: SourceKind::Other, propagation });
    }
    let (path, kind) = match seen {
        Seen::Directory(path) => (path, SourceKind::Directory),
        Seen::Other(path) => (path, SourceKind::Other),
        Seen::Missing => (PathBuf::from(&mount.host_path), SourceKind::Missing),
        Seen::Failed(number) => {
            let error = io::Error::from_raw_os_error(number);
            return Err(unreachable(&format!("mounts[{index}].host_path"), &mount.host_path, error));
        }
    };
    Ok(MountSource { propagation: propagation_of(&path, table), path, kind })
}

/// Of the mount that a path of the host lies on.
pub fn propagation(path: &Path) -> Propagation {
    propagation_of(path, &mount_table())
}

/// A line of /proc/self/mountinfo, as far as it matters here.
#[derive(Debug)]
struct MountPoint {
    path: PathBuf,
    propagation: Propagation,
}

fn mount_table() -> Vec<MountPoint> {
    let text = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    text.lines().filter_map(mount_point).collect()
}

/// proc(5): the fifth field is the mount point; optional fields follow the sixth up to a lone hyphen.
fn mount_point(line: &str) -> Option<MountPoint> {
    let mut fields = line.split(' ');
    let path = fields.nth(4)?;
    let optional: Vec<&str> = fields.skip(1).take_while(|field| *field != "-").collect();
    let has = |prefix: &str| optional.iter().any(|field| field.starts_with(prefix));
    let propagation = match () {
        () if has("shared:") => Propagation::Shared,
        () if has("master:") => Propagation::Slave,
        () => Propagation::Private,
    };
    Some(MountPoint { path: unescape(path), propagation })
}

/// The kernel writes blank, tab, newline and backslash as a backslash and three octal digits.
fn unescape(text: &str) -> PathBuf {
    let escapes = [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")];
    let plain = escapes.iter().fold(text.to_owned(), |text, (code, plain)| text.replace(code, plain));
    PathBuf::from(plain)
}

/// Of the last mounted among the deepest mounts that hold the path: that is the one a lookup ends on.
fn propagation_of(path: &Path, table: &[MountPoint]) -> Propagation {
    let holding = table.iter().filter(|mount| path.starts_with(&mount.path));
    let deepest = holding.max_by_key(|mount| mount.path.components().count());
    deepest.map_or(Propagation::Private, |mount| mount.propagation)
}

/// A kernel that cannot be asked has none loaded.
fn apparmor_loaded(security: &v1::LinuxContainerSecurityContext) -> Result<bool, Invalid> {
    let asked = security::localhost_apparmor(security)?;
    Ok(asked.is_none_or(|name| apparmor::is_loaded(&name).unwrap_or(false)))
}

fn seccomp_profile(
    security: &v1::LinuxContainerSecurityContext,
    handler: Option<&HandlerSection>,
) -> Result<Option<Vec<u8>>, Invalid> {
    let (field, path) = match security::seccomp(security)? {
        security::Seccomp::Unconfined => return Ok(None),
        security::Seccomp::Localhost(path) => ("security_context.seccomp.localhost_ref", path),
        security::Seccomp::RuntimeDefault => match handler.and_then(|it| it.seccomp_profile.clone()) {
            Some(path) => (security::HANDLERS_PROFILE, path),
            None => return Ok(None),
        },
    };
    let text = read_profile(&path).map_err(|e| unreachable(field, &path.display().to_string(), e))?;
    if text.len() as u64 > PROFILE_MAX_BYTES {
        return Err(Invalid::wrong(field, format!("{} is larger than 1 MiB", path.display())));
    }
    Ok(Some(text))
}

/// Neither waits for a FIFO nor reads a device.
fn read_profile(path: &Path) -> io::Result<Vec<u8>> {
    let flags = (OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY).bits() as i32;
    let file = fs::OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
    }
    let mut text = Vec::new();
    file.take(PROFILE_MAX_BYTES + 1).read_to_end(&mut text)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mountinfo_line_gives_its_path_and_propagation() {
        let check = |line: &str, path: &str, propagation: Propagation| {
            let found = mount_point(line).unwrap();
            assert_eq!((found.path, found.propagation), (PathBuf::from(path), propagation), "{line}");
        };
        check("31 23 0:28 / /a\\040b rw - tmpfs tmpfs rw", "/a b", Propagation::Private);
        check("31 23 0:28 / /x rw shared:7 - ext4 /dev/sda rw", "/x", Propagation::Shared);
        check("31 23 0:28 / /x rw master:7 - ext4 /dev/sda rw", "/x", Propagation::Slave);
        check("31 23 0:28 / /x rw shared:9 master:7 - ext4 /dev/sda rw", "/x", Propagation::Shared);
    }

    #[test]
    fn page_sizes_are_named_as_the_interface_names_them() {
        let check = |directory: &str, size: Option<&str>| {
            assert_eq!(hugepage_size(directory).as_deref(), size, "{directory}");
        };
        check("hugepages-2048kB", Some("2MB"));
        check("hugepages-1048576kB", Some("1GB"));
        check("hugepages-64kB", Some("64KB"));
        check("other", None);
    }

    #[test]
    fn a_privileged_container_sees_the_null_device_and_no_terminal() {
        let devices = all_devices();
        assert!(devices.iter().any(|device| device.path == Path::new("/dev/null") && device.minor == 3));
        assert!(!devices.iter().any(|device| device.path.starts_with("/dev/pts")));
    }

    #[test]
    fn a_profile_that_is_no_regular_file_is_refused() {
        assert!(read_profile(Path::new("/dev/zero")).is_err());
        assert!(read_profile(Path::new("/proc")).is_err());
    }
}
