//! Classes of Intel RDT (and AMD QoS): what the operator's file says of them is set up in the kernel's resctrl file
//! system when the daemon begins and when its settings are read anew; containers join a class when they are made.
//!
//! The file is goresctrl's, which containerd and CRI-O read (`rdt_config_file`). Without one, classes are the directories
//! that the operator has made. Classes that are not in the file are left alone: other programs have theirs there, too.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

mod file;
mod share;

pub(crate) use file::is_class;
use share::{Bandwidth, Cache, Machine};

/// The class of all who have none: resctrl's own root.
pub(crate) const DEFAULT: &str = "system/default";

/// Why there are no classes, or not this one.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(
        "no resctrl file system is mounted on this node: its processor or kernel has no RDT, or nobody has mounted it \
         (mount -t resctrl resctrl /sys/fs/resctrl)"
    )]
    NoResctrl,
    #[error("the RDT classes in {}: {why}", path.display())]
    File { path: PathBuf, why: String },
    #[error("{} has no RDT class {class:?}; it has {}", path.display(), known.join(", "))]
    NoClass { path: PathBuf, class: String, known: Vec<String> },
    #[error(
        "the RDT class {class:?} may not be named by the annotation of a {of}, says container.rdt_config_file"
    )]
    Denied { class: String, of: &'static str },
    #[error("there is no RDT class {class:?}: {} is no directory", dir.display())]
    NotMade { class: String, dir: PathBuf },
    #[error("{doing} {}", path.display())]
    Io { doing: &'static str, path: PathBuf, source: std::io::Error },
}

/// Whose annotation names a class.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Of {
    Container,
    Pod,
}

/// Where resctrl is mounted: the first such line of the mount table, as the runtime has it.
pub fn root() -> Result<PathBuf, Error> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let resctrl = mounts.lines().find_map(|line| {
        let (front, back) = line.split_once(" - ")?;
        back.starts_with("resctrl ").then(|| front.split(' ').nth(4).map(PathBuf::from))?
    });
    resctrl.ok_or(Error::NoResctrl)
}

/// The classes of the file, when they fit this machine. Nothing is set up.
///
/// # Errors
/// The file makes no sense here.
pub fn look(root: &Path, file: &Path) -> Result<Vec<String>, Error> {
    Ok(schemata(root, file)?.into_keys().collect())
}

fn schemata(root: &Path, file: &Path) -> Result<BTreeMap<String, Vec<String>>, Error> {
    share::schemata(&document(file)?, &machine(root)?)
        .map_err(|why| Error::File { path: file.to_owned(), why })
}

fn document(file: &Path) -> Result<file::Document, Error> {
    file::read(file).map_err(|why| Error::File { path: file.to_owned(), why })
}

/// Sets up all classes of the file below `root`; answers their names. What is right already is written again.
///
/// # Errors
/// The file makes no sense on this machine, or the kernel refuses; classes before the one that failed are set up.
pub fn set_up(root: &Path, file: &Path) -> Result<Vec<String>, Error> {
    let schemata = schemata(root, file)?;
    for (class, lines) in &schemata {
        let dir = dir_of(root, class);
        match fs::create_dir(&dir) {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
                return Err(Error::Io { doing: "making the RDT class", path: dir, source: error });
            }
            _ => {}
        }
        for line in lines {
            let path = dir.join("schemata");
            let written = fs::write(&path, format!("{line}\n"));
            written.map_err(|source| Error::Io {
                doing: "writing what the RDT class gets to",
                path,
                source,
            })?;
        }
    }
    Ok(schemata.into_keys().collect())
}

/// Whether a container may have this class, which an annotation names. An empty `file` is none.
///
/// # Errors
/// When there is none such.
pub fn check(root: &Path, file: &Path, class: &str, of: Of) -> Result<(), Error> {
    if !file.as_os_str().is_empty() {
        let document = document(file)?;
        let missing = || Error::NoClass {
            path: file.to_owned(),
            class: class.to_owned(),
            known: document.class_names(),
        };
        let rules = document.class(class).ok_or_else(missing)?.kubernetes;
        let denied = |of| Err(Error::Denied { class: class.to_owned(), of });
        match of {
            Of::Container if rules.deny_container_annotation => return denied("container"),
            Of::Pod if rules.deny_pod_annotation => return denied("pod"),
            Of::Container | Of::Pod => {}
        }
    }
    let dir = dir_of(root, class);
    if dir.is_dir() { Ok(()) } else { Err(Error::NotMade { class: class.to_owned(), dir }) }
}

fn dir_of(root: &Path, class: &str) -> PathBuf {
    if class == DEFAULT { root.to_owned() } else { root.join(class) }
}

/// What there is to share out (Documentation/filesystems/resctrl.rst, "Info directory").
fn machine(root: &Path) -> Result<Machine, Error> {
    let path = root.join("schemata");
    let schemata = fs::read_to_string(&path);
    let schemata = schemata.map_err(|source| Error::Io { doing: "reading", path, source })?;
    let ids = |kind: &str| -> Option<Vec<u32>> {
        let line = schemata.lines().find_map(|line| line.trim().strip_prefix(kind)?.strip_prefix(':'))?;
        line.split(';').map(|pair| pair.split_once('=')?.0.trim().parse().ok()).collect()
    };
    let info = |name: &str| fs::read_to_string(root.join("info").join(name)).unwrap_or_default();
    let number = |name: &str, otherwise: u32| info(name).trim().parse().unwrap_or(otherwise);
    let l3 = ids("L3").and_then(|ids| {
        let mask = u64::from_str_radix(info("L3/cbm_mask").trim(), 16).ok()?;
        Some(Cache { ids, mask, least_bits: number("L3/min_cbm_bits", 1) })
    });
    let mb = ids("MB").map(|ids| Bandwidth {
        ids,
        least: number("MB/min_bandwidth", 10),
        step: number("MB/bandwidth_gran", 10),
    });
    Ok(Machine { l3, mb })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Files as the kernel has them there.
    fn resctrl() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in [
            ("schemata", "    MB:0=100;1=100\n    L3:0=fffff;1=fffff\n"),
            ("info/L3/cbm_mask", "fffff\n"),
            ("info/L3/min_cbm_bits", "2\n"),
            ("info/MB/min_bandwidth", "10\n"),
            ("info/MB/bandwidth_gran", "10\n"),
        ] {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        dir
    }

    const FILE: &str = "partitions:\n  all:\n    l3Allocation: 100%\n    classes:\n      gold: {}\n      \
        silver: {l3Allocation: 50%, kubernetes: {denyPodAnnotation: true}}\n";

    #[test]
    fn the_files_classes_are_set_up_and_may_be_joined() {
        let (root, file) = (resctrl(), tempfile::NamedTempFile::new().unwrap());
        fs::write(file.path(), FILE).unwrap();
        let check = |class: &str, of| check(root.path(), file.path(), class, of);
        assert!(matches!(check("gold", Of::Pod), Err(Error::NotMade { .. })), "not set up yet");
        assert_eq!(set_up(root.path(), file.path()).unwrap(), ["gold", "silver"]);
        // The last line that was written; the kernel would have all.
        let written = |class: &str| fs::read_to_string(root.path().join(class).join("schemata")).unwrap();
        assert_eq!(
            (written("gold"), written("silver")),
            ("L3:0=fffff;1=fffff\n".into(), "L3:0=3ff;1=3ff\n".into())
        );
        assert!(check("gold", Of::Pod).is_ok() && check("silver", Of::Container).is_ok());
        assert!(check("silver", Of::Pod).unwrap_err().to_string().contains("annotation of a pod"));
        let error = check("none", Of::Pod).unwrap_err().to_string();
        assert!(error.contains("\"none\"; it has gold, silver"), "{error}");
        // Again, as at the next start.
        assert_eq!(set_up(root.path(), file.path()).unwrap().len(), 2);
    }

    #[test]
    fn without_a_file_the_operators_directories_are_the_classes() {
        let root = resctrl();
        fs::create_dir(root.path().join("mine")).unwrap();
        assert!(check(root.path(), Path::new(""), "mine", Of::Container).is_ok());
        assert!(check(root.path(), Path::new(""), DEFAULT, Of::Container).is_ok());
        let error = check(root.path(), Path::new(""), "none", Of::Container).unwrap_err().to_string();
        assert!(error.contains("no RDT class \"none\""), "{error}");
    }

    #[test]
    fn a_file_that_does_not_fit_the_machine_is_told_with_its_path() {
        let (root, file) = (resctrl(), tempfile::NamedTempFile::new().unwrap());
        fs::write(file.path(), "partitions: {a: {l3Allocation: 60%}, b: {l3Allocation: 60%}}").unwrap();
        let error = set_up(root.path(), file.path()).unwrap_err().to_string();
        assert!(error.contains(&file.path().display().to_string()) && error.contains("\"b\""), "{error}");
    }
}
