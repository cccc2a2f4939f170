//! Device nodes of the host: those that are asked for, those of CDI devices, and all of them.

use std::fs::{self, Metadata};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use oci_spec::runtime::LinuxDeviceType;
use proto::v1;

use super::super::Invalid;
use super::{HostDevice, unreachable};
use crate::cdi;

/// A host has a few hundred device nodes; one with more than this is not walked to its end.
const DEVICES_MAX: usize = 16_384;

/// `/dev/bus/usb/001/004` is four deep.
const DEVICE_DEPTH_MAX: usize = 8;

pub(super) fn requested_devices(asked: &[v1::Device]) -> Result<Vec<HostDevice>, Invalid> {
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

/// What the file does not say of the node, the host's node says.
pub(super) fn cdi_node(edit: &cdi::NodeEdit) -> Result<HostDevice, Invalid> {
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

pub(super) fn all_devices() -> Vec<HostDevice> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_privileged_container_sees_the_null_device_and_no_terminal() {
        let devices = all_devices();
        assert!(devices.iter().any(|device| device.path == Path::new("/dev/null") && device.minor == 3));
        assert!(!devices.iter().any(|device| device.path.starts_with("/dev/pts")));
    }
}
