//! Classes of block I/O: what the operator's file says of a class, as limits for the devices that this machine has.
//!
//! The file is goresctrl's, which containerd and CRI-O read (`blockio_config_file`). It is read for each container that
//! names a class, so that changes count at once. A wildcard that no device of this machine fits says nothing, since one
//! file serves many machines; so does a partition, which the kernel does not throttle.

use std::path::{Path, PathBuf};

use oci_spec::runtime::{
    LinuxBlockIo, LinuxThrottleDevice, LinuxThrottleDeviceBuilder, LinuxWeightDeviceBuilder,
};

mod devices;
mod file;

use devices::Number;
use file::Parameters;

use crate::container::plan::{CgroupVersion, machine};

/// Why there are no limits.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(
        "the class of block I/O {class:?} is asked for, and this node has none; set container.blockio_config_file"
    )]
    NoFile { class: String },
    #[error("{} has no class of block I/O {class:?}; it has {}", path.display(), known.join(", "))]
    NoClass { path: PathBuf, class: String, known: Vec<String> },
    #[error("the classes of block I/O in {}: {why}", path.display())]
    File { path: PathBuf, why: String },
    #[error(
        "the class of block I/O {class:?} can't be given: this kernel has no cgroup controller for it at hand (blkio in cgroup v1, io in v2)"
    )]
    NoController { class: String },
}

/// The limits of a class. An empty `file` is none.
///
/// # Errors
/// When there is no such class, or nobody to keep to it.
pub fn class(file: &Path, class: &str) -> Result<LinuxBlockIo, Error> {
    if file.as_os_str().is_empty() {
        return Err(Error::NoFile { class: class.to_owned() });
    }
    let failed = |why: String| Error::File { path: file.to_owned(), why };
    let mut classes = file::read(file).map_err(failed)?;
    let Some(parameters) = classes.remove(class) else {
        let known = classes.into_keys().collect();
        return Err(Error::NoClass { path: file.to_owned(), class: class.to_owned(), known });
    };
    if !has_controller() {
        return Err(Error::NoController { class: class.to_owned() });
    }
    Ok(limits(&parameters, devices::fitting))
}

fn has_controller() -> bool {
    let cgroup = machine().cgroup;
    cgroup.has_controller(match cgroup {
        CgroupVersion::V1 => "blkio",
        CgroupVersion::V2 => "io",
    })
}

/// What a later entry says of a device counts.
fn limits(parameters: &[Parameters], fitting: impl Fn(&[String]) -> Vec<Number>) -> LinuxBlockIo {
    let mut limits = LinuxBlockIo::default();
    for entry in parameters {
        let Some(wildcards) = &entry.devices else {
            if entry.weight.is_some() {
                limits.set_weight(entry.weight);
            }
            continue;
        };
        for device in fitting(wildcards) {
            if let Some(weight) = entry.weight {
                let mut devices = limits.weight_device().clone().unwrap_or_default();
                devices.retain(|known| (known.major(), known.minor()) != device);
                let new = LinuxWeightDeviceBuilder::default().major(device.0).minor(device.1).weight(weight);
                devices.push(new.build().expect("nothing is missing"));
                limits.set_weight_device(Some(devices));
            }
            let throttled = |before: &Option<Vec<LinuxThrottleDevice>>, rate| throttled(before, device, rate);
            let read_bps = throttled(limits.throttle_read_bps_device(), entry.read_bps);
            let write_bps = throttled(limits.throttle_write_bps_device(), entry.write_bps);
            let read_iops = throttled(limits.throttle_read_iops_device(), entry.read_iops);
            let write_iops = throttled(limits.throttle_write_iops_device(), entry.write_iops);
            limits
                .set_throttle_read_bps_device(read_bps)
                .set_throttle_write_bps_device(write_bps)
                .set_throttle_read_iops_device(read_iops)
                .set_throttle_write_iops_device(write_iops);
        }
    }
    limits
}

fn throttled(
    before: &Option<Vec<LinuxThrottleDevice>>,
    device: Number,
    rate: Option<u64>,
) -> Option<Vec<LinuxThrottleDevice>> {
    let Some(rate) = rate else { return before.clone() };
    let mut devices = before.clone().unwrap_or_default();
    devices.retain(|known| (known.major(), known.minor()) != device);
    let new = LinuxThrottleDeviceBuilder::default().major(device.0).minor(device.1).rate(rate);
    devices.push(new.build().expect("nothing is missing"));
    Some(devices)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_later_entry_says_of_a_device_counts() {
        let classes = file::parse(
            "Classes:\n  slow:\n  - Weight: 80\n  - Devices: [/dev/sd*]\n    ThrottleReadBps: 50M\n    \
             ThrottleWriteIOPS: 5k\n    Weight: 50\n  - Devices: [/dev/ssd]\n    ThrottleReadBps: 100Mi\n",
        );
        let limits = limits(&classes.unwrap()["slow"], |wildcards| match wildcards {
            [one] if one == "/dev/sd*" => vec![(8, 0), (8, 16)],
            _ => vec![(8, 16)],
        });
        let told = serde_json::to_value(&limits).unwrap();
        assert_eq!(
            told,
            serde_json::json!({
                "weight": 80,
                "weightDevice": [
                    {"major": 8, "minor": 0, "weight": 50}, {"major": 8, "minor": 16, "weight": 50}],
                "throttleReadBpsDevice": [
                    {"major": 8, "minor": 0, "rate": 50_000_000_u64},
                    {"major": 8, "minor": 16, "rate": 104_857_600_u64}],
                "throttleWriteIOPSDevice": [
                    {"major": 8, "minor": 0, "rate": 5000}, {"major": 8, "minor": 16, "rate": 5000}],
            })
        );
    }

    #[test]
    fn a_class_that_is_not_there_is_told_with_those_that_are() {
        assert!(class(Path::new(""), "slow").unwrap_err().to_string().contains("blockio_config_file"));
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "Classes: {fast: [], slow: []}").unwrap();
        let error = class(file.path(), "none").unwrap_err().to_string();
        assert!(error.contains("\"none\"; it has fast, slow"), "{error}");
        let error = class(Path::new("/nowhere/file"), "none").unwrap_err().to_string();
        assert!(error.contains("/nowhere/file"), "{error}");
    }
}
