//! Device nodes: the six that the specification promises, and those that the configuration adds.

use std::ffi::CString;
use std::path::Path;

use rustix::fs::{FileType, makedev};

use super::inside;
use super::path::c_string;
use crate::Error;
use crate::spec;

/// One node.
#[derive(Debug)]
pub(crate) struct Device {
    /// The directory, relative to the root, and the name in it.
    pub(crate) dir: CString,
    pub(crate) name: CString,
    /// The path on the host to bind instead, where mknod is not allowed.
    pub(crate) host: CString,
    pub(crate) kind: FileType,
    pub(crate) mode: u32,
    pub(crate) number: u64,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

/// include/linux/kdev_t.h, MINORBITS: mknod(2) would make a device of other numbers without the bits beyond.
const MAX_MAJOR: u32 = (1 << 12) - 1;
const MAX_MINOR: u32 = (1 << 20) - 1;

/// config-linux.md, "Default Devices".
const DEFAULTS: &[(&str, u32, u32)] =
    &[("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)];

/// Where /dev is somebody else's (a bind mount of the host's), nothing is made in it; elsewhere it is all the same.
pub(super) fn outside_dev(linux: &spec::Linux) -> Result<Vec<Device>, Error> {
    let mut devices = Vec::new();
    for (i, device) in linux.devices.iter().enumerate() {
        let device = one(&format!("linux.devices[{i}]"), device)?;
        if device.dir.as_bytes() != b"dev" && !device.dir.as_bytes().starts_with(b"dev/") {
            devices.push(device);
        }
    }
    Ok(devices)
}

pub(super) fn plan(linux: &spec::Linux) -> Result<Vec<Device>, Error> {
    let mut devices = Vec::with_capacity(DEFAULTS.len() + linux.devices.len());
    for (i, device) in linux.devices.iter().enumerate() {
        devices.push(one(&format!("linux.devices[{i}]"), device)?);
    }
    for &(name, major, minor) in DEFAULTS {
        let name = c_string("/dev", name)?;
        if !devices.iter().any(|device: &Device| device.dir.as_bytes() == b"dev" && device.name == name) {
            devices.push(default(name, major, minor)?);
        }
    }
    Ok(devices)
}

fn default(name: CString, major: u32, minor: u32) -> Result<Device, Error> {
    let host = c_string("/dev", [b"/dev/", name.as_bytes()].concat())?;
    Ok(Device {
        dir: c"dev".to_owned(),
        name,
        host,
        kind: FileType::CharacterDevice,
        mode: 0o666,
        number: makedev(major, minor),
        uid: 0,
        gid: 0,
    })
}

fn one(field: &str, device: &spec::Device) -> Result<Device, Error> {
    let kind = match device.kind.as_str() {
        "c" | "u" => FileType::CharacterDevice,
        "b" => FileType::BlockDevice,
        "p" => FileType::Fifo,
        other => {
            return Err(Error::invalid(format!("{field}.type"), format!("{other:?} is no type of a device")));
        }
    };
    let path = inside(&format!("{field}.path"), &device.path)?;
    let (dir, name) = split(path.as_bytes());
    if name.is_empty() {
        return Err(Error::invalid(format!("{field}.path"), "is empty"));
    }
    let number = match kind {
        FileType::Fifo => 0,
        _ => makedev(
            number(field, "major", device.major, MAX_MAJOR)?,
            number(field, "minor", device.minor, MAX_MINOR)?,
        ),
    };
    Ok(Device {
        dir: c_string(field, dir)?,
        name: c_string(field, name)?,
        host: super::path::c_path(field, &Path::new("/").join(&device.path))?,
        kind,
        mode: device.file_mode.unwrap_or(0o666) & 0o7777,
        number,
        uid: device.uid.unwrap_or(0),
        gid: device.gid.unwrap_or(0),
    })
}

fn number(field: &str, part: &str, number: i64, max: u32) -> Result<u32, Error> {
    u32::try_from(number).ok().filter(|number| *number <= max).ok_or_else(|| {
        Error::invalid(format!("{field}.{part}"), format!("{number} is out of range (0 to {max})"))
    })
}

fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|&byte| byte == b'/') {
        Some(at) => (&path[..at], &path[at + 1..]),
        None => (b"", path),
    }
}
