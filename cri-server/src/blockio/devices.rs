//! Which block devices of this machine a wildcard fits, and whether the kernel can limit them.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Component, Path, PathBuf};

use regex::Regex;

/// A device's major and minor number.
pub(super) type Number = (i64, i64);

/// A wildcard that fits more than this is not looked at to its end.
const MATCHES_MAX: usize = 4096;

/// In the order of their numbers; links lead to what they name.
pub(super) fn fitting(wildcards: &[String]) -> Vec<Number> {
    let found = wildcards.iter().flat_map(|wildcard| expand(wildcard));
    let numbers: BTreeSet<Number> = found.filter_map(|path| number(&path)).collect();
    numbers.into_iter().collect()
}

fn number(path: &Path) -> Option<Number> {
    let found = fs::metadata(path).ok().filter(|found| found.file_type().is_block_device())?;
    let (major, minor) = (rustix::fs::major(found.rdev()), rustix::fs::minor(found.rdev()));
    let is_partition = Path::new(&format!("/sys/dev/block/{major}:{minor}/partition")).exists();
    (!is_partition).then_some((major.into(), minor.into()))
}

/// glob(7), name by name.
fn expand(wildcard: &str) -> Vec<PathBuf> {
    let mut found = vec![PathBuf::new()];
    for part in Path::new(wildcard).components() {
        let Component::Normal(name) = part else {
            found.iter_mut().for_each(|path| path.push(part));
            continue;
        };
        let name = name.to_str().unwrap_or_default();
        if !name.contains(['*', '?', '[']) {
            found.iter_mut().for_each(|path| path.push(name));
            continue;
        }
        let Some(pattern) = pattern(name) else { return Vec::new() };
        found = found.iter().flat_map(|dir| entries(dir, &pattern)).take(MATCHES_MAX).collect();
    }
    found
}

fn entries(dir: &Path, pattern: &Regex) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
    let fits = |entry: &fs::DirEntry| entry.file_name().to_str().is_some_and(|name| pattern.is_match(name));
    entries.flatten().filter(fits).map(|entry| entry.path()).collect()
}

/// None when it has a set without an end.
fn pattern(name: &str) -> Option<Regex> {
    let mut text = String::from("^");
    let mut rest = name.chars();
    while let Some(next) = rest.next() {
        match next {
            '*' => text.push_str(".*"),
            '?' => text.push('.'),
            '[' => {
                let (set, after) = rest.as_str().split_once(']')?;
                let (not, set) = set.strip_prefix(['!', '^']).map_or(("", set), |set| ("^", set));
                text.push_str(&format!("[{not}{}]", set.replace('\\', r"\\").replace('[', r"\[")));
                rest = after.chars();
            }
            other => text.push_str(&regex::escape(other.encode_utf8(&mut [0; 4]))),
        }
    }
    text.push('$');
    Regex::new(&text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wildcards_fit_as_in_a_shell() {
        let check = |wildcard: &str, name: &str, fits: bool| {
            assert_eq!(pattern(wildcard).is_some_and(|it| it.is_match(name)), fits, "{wildcard} {name}");
        };
        check("sd[a-z]", "sda", true);
        check("sd[a-z]", "sda1", false);
        check("sd[!a]", "sda", false);
        check("sd[!a]", "sdb", true);
        check("*SSD*", "ata-VendorSSD-1", true);
        check("nvme?n1", "nvme0n1", true);
        check("a.b", "axb", false);
        check("*.b", "axb", false);
        check("sd[a", "sda", false);
    }

    #[test]
    fn names_are_found_below_directories_that_fit() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["by-id", "by-path"] {
            fs::create_dir(dir.path().join(name)).unwrap();
            fs::write(dir.path().join(name).join("disk-1"), "").unwrap();
        }
        let found = |wildcard: &str| expand(&format!("{}/{wildcard}", dir.path().display())).len();
        assert_eq!((found("by-*/disk-?"), found("by-id/*"), found("by-id/x*")), (2, 1, 0));
        assert_eq!(found("by-id/none"), 1, "whether it is there is looked at afterwards");
        assert!(number(&dir.path().join("by-id/disk-1")).is_none(), "no block device");
    }
}
