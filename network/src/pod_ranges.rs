//! The ranges that the kubelet gave this node's pods, for plugins that declare the capability `ipRanges`.
//!
//! They are kept in a file: the kubelet tells them when they change, not when we start anew.

use std::path::{Path, PathBuf};
use std::sync::Mutex;

use serde_json::{Value, json};

use crate::bounded::read;
use crate::error::Error;
use crate::template::Range;

/// Beside the records; it is none, since it has no suffix.
const FILE: &str = "pod-ranges";
/// More than the longest list that is taken.
const FILE_MAX_BYTES: u64 = 4 << 10;

/// What was told last.
#[derive(Debug)]
pub(crate) struct PodRanges {
    file: PathBuf,
    told: Mutex<Vec<Range>>,
}

impl PodRanges {
    /// A file that cannot be read is as none: the ranges are then unknown until they are told again.
    pub(crate) fn open(dir: &Path) -> PodRanges {
        let file = dir.join(FILE);
        let text = read(&file, FILE_MAX_BYTES).ok().and_then(|text| String::from_utf8(text).ok());
        let told = text.and_then(|text| Range::parse_all(text.trim()).ok()).unwrap_or_default();
        PodRanges { file, told: Mutex::new(told) }
    }

    /// An empty list says that the node has no ranges yet, which takes nothing back.
    pub(crate) fn hear(&self, ranges: &[Range]) -> Result<(), Error> {
        let mut told = self.told.lock().expect("no holder of this lock panics");
        if ranges.is_empty() || *told == ranges {
            return Ok(());
        }
        let text = Range::join(ranges);
        let unfinished = self.file.with_extension("tmp");
        std::fs::write(&unfinished, text)
            .and_then(|()| std::fs::rename(&unfinished, &self.file))
            .map_err(|source| Error::Record { doing: "writing", path: self.file.clone(), source })?;
        *told = ranges.to_vec();
        Ok(())
    }

    /// A list of sets of ranges, of which each gives the pod one address (CNI conventions, `ipRanges`).
    pub(crate) fn capability(&self) -> Vec<Vec<Value>> {
        let told = self.told.lock().expect("no holder of this lock panics");
        told.iter().map(|range| vec![json!({ "subnet": range.as_str() })]).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_told_outlives_the_process() {
        let dir = tempfile::tempdir().unwrap();
        let ranges = PodRanges::open(dir.path());
        assert!(ranges.capability().is_empty());
        ranges.hear(&Range::parse_all("10.1.0.0/24,fd00::/64").unwrap()).unwrap();
        ranges.hear(&[]).unwrap();
        let expected = json!([[{"subnet": "10.1.0.0/24"}], [{"subnet": "fd00::/64"}]]);
        assert_eq!(json!(PodRanges::open(dir.path()).capability()), expected);
        std::fs::write(dir.path().join(FILE), "nonsense").unwrap();
        assert!(PodRanges::open(dir.path()).capability().is_empty());
    }
}
