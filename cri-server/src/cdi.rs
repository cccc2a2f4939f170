//! Devices that vendors describe in files (Container Device Interface 1.1): which edits a container needs to have
//! `vendor.com/class=name`.
//!
//! Files are read when a container asks for a device, not before and not again: what an operator has changed counts
//! for the next container, with nothing to watch. A device of a later directory stands for one of the same name in an
//! earlier one; two in one directory are a conflict, told when the device is asked for.

use std::path::{Path, PathBuf};

use proto::v1;

mod edits;
mod name;
mod spec;

pub use edits::{Edits, Hook, MountEdit, NetDevice, NodeEdit, Rdt};
pub use name::DeviceName;

use spec::Spec;

/// A file is a few kilobytes; one machine's GPUs, a few hundred.
const FILE_MAX_BYTES: u64 = 4 << 20;
/// More files than this are a mistake.
const FILES_MAX: usize = 1024;
/// Annotations of a container that name devices begin so.
const ANNOTATION: &str = "cdi.k8s.io/";

/// Why a container can't have its devices.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{name:?} is not a device's name, as vendor.com/class=name: {why}")]
    Name { name: String, why: &'static str },
    #[error("no CDI file in {} describes the device {name}{}", list(.dirs), also(.unusable))]
    Missing { name: DeviceName, dirs: Vec<PathBuf>, unusable: Vec<String> },
    #[error("the device {name} is described by both {} and {}; remove one", .one.display(), .other.display())]
    Conflict { name: DeviceName, one: PathBuf, other: PathBuf },
}

fn list(dirs: &[PathBuf]) -> String {
    dirs.iter().map(|dir| dir.display().to_string()).collect::<Vec<_>>().join(", ")
}

fn also(unusable: &[String]) -> String {
    if unusable.is_empty() { String::new() } else { format!("; not usable: {}", unusable.join("; ")) }
}

/// The devices that a container asks for, by field or by annotation, each once.
///
/// # Errors
/// When something is not a device's name.
pub fn asked(config: &v1::ContainerConfig) -> Result<Vec<DeviceName>, Error> {
    let mut annotations: Vec<(&String, &String)> =
        config.annotations.iter().filter(|(key, _)| key.starts_with(ANNOTATION)).collect();
    annotations.sort();
    let annotated = annotations.into_iter().flat_map(|(_, value)| value.split(',').map(str::trim));
    let mut names: Vec<DeviceName> = Vec::new();
    for name in config.cdi_devices.iter().map(|device| device.name.as_str()).chain(annotated) {
        let name = DeviceName::parse(name)?;
        if !names.contains(&name) {
            names.push(name);
        }
    }
    Ok(names)
}

/// What has to be done to a container that gets these devices. Blocking.
///
/// # Errors
/// When a device is not described, or twice.
pub fn edits(dirs: &[PathBuf], names: &[DeviceName]) -> Result<Edits, Error> {
    let mut edits = Edits::default();
    if names.is_empty() {
        return Ok(edits);
    }
    let mut unusable = Vec::new();
    let files: Vec<Vec<Described>> = dirs.iter().map(|dir| read_dir(dir, &mut unusable)).collect();
    let mut used: Vec<&Path> = Vec::new();
    for name in names {
        let found = find(&files, name)?.ok_or_else(|| Error::Missing {
            name: name.clone(),
            dirs: dirs.to_vec(),
            unusable: unusable.clone(),
        })?;
        // What a file says for all its devices is done once.
        if !used.contains(&found.path.as_path()) {
            used.push(&found.path);
            edits.add(&found.spec.container_edits);
        }
        let device = found.spec.devices.iter().find(|device| device.name == name.device);
        edits.add(&device.expect("that is how the file was found").container_edits);
    }
    Ok(edits)
}

/// A file that could be read.
struct Described {
    path: PathBuf,
    spec: Spec,
}

/// In the order of names. One that is not usable is told of with the device that can't be found.
fn read_dir(dir: &Path, unusable: &mut Vec<String>) -> Vec<Described> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten().take(FILES_MAX);
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    paths.sort();
    let mut found = Vec::new();
    for path in paths {
        match spec::read(&path) {
            None => {}
            Some(Ok(spec)) => found.push(Described { path, spec }),
            Some(Err(why)) => unusable.push(format!("{} ({why})", path.display())),
        }
    }
    found
}

fn find<'a>(files: &'a [Vec<Described>], name: &DeviceName) -> Result<Option<&'a Described>, Error> {
    let has = |file: &&Described| {
        file.spec.kind == name.kind && file.spec.devices.iter().any(|device| device.name == name.device)
    };
    for dir in files.iter().rev() {
        let mut having = dir.iter().filter(has);
        match (having.next(), having.next()) {
            (None, _) => {}
            (Some(found), None) => return Ok(Some(found)),
            (Some(one), Some(other)) => {
                let (one, other) = (one.path.clone(), other.path.clone());
                return Err(Error::Conflict { name: name.clone(), one, other });
            }
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests;
