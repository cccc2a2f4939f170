//! `cgroupsPath` as the systemd driver reads it: `SLICE:PREFIX:NAME`, three names that become a unit's.

use super::super::Error;

/// systemd.unit(5).
const MAX_UNIT_BYTES: usize = 255;
const DEFAULT_PREFIX: &str = "berth";

/// The slice, and the scope's own name.
pub(super) fn read(path: Option<&str>, id: &str, default_slice: &str) -> Result<(String, String), Error> {
    let Some(path) = path.filter(|path| !path.is_empty()) else {
        return Ok((default_slice.to_owned(), format!("{DEFAULT_PREFIX}-{id}.scope")));
    };
    let refuse = |reason| Error::Path { path: path.to_owned(), reason };
    let mut parts = path.split(':');
    let (Some(slice), Some(prefix), Some(name), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(refuse("is not SLICE:PREFIX:NAME, which the systemd cgroup driver wants"));
    };
    let slice = if slice.is_empty() { default_slice } else { slice };
    if levels(slice).is_none() {
        return Err(refuse("does not begin with a slice such as a-b.slice"));
    }
    let unit = if prefix.is_empty() { format!("{name}.scope") } else { format!("{prefix}-{name}.scope") };
    if name.is_empty() || unit.len() > MAX_UNIT_BYTES || !unit.bytes().all(is_unit_byte) {
        return Err(refuse("makes no name of a unit: letters, digits and :-_.\\ may be in it"));
    }
    Ok((slice.to_owned(), unit))
}

fn is_unit_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b":-_.\\".contains(&byte)
}

/// The slices from the top: `a-b.slice` is in `a.slice` (systemd.slice(5)). `-.slice` is the root, with none.
fn levels(slice: &str) -> Option<Vec<String>> {
    let name = slice.strip_suffix(".slice")?;
    if name == "-" {
        return Some(Vec::new());
    }
    let parts: Vec<&str> = name.split('-').collect();
    let plain = slice.len() <= MAX_UNIT_BYTES && slice.bytes().all(is_unit_byte);
    if !plain || parts.iter().any(|part| part.is_empty()) {
        return None;
    }
    Some((1..=parts.len()).map(|count| format!("{}.slice", parts[..count].join("-"))).collect())
}

/// Where systemd's own manager puts a unit of a slice, below the root of cgroups.
pub(super) fn cgroup_path(slice: &str, unit: &str) -> String {
    let mut parts = levels(slice).unwrap_or_default();
    parts.push(unit.to_owned());
    parts.join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_in_three_parts_is_a_slice_and_a_scope() {
        let check = |path: Option<&str>, slice: &str, unit: &str| {
            assert_eq!(read(path, "c1", "system.slice").unwrap(), (slice.to_owned(), unit.to_owned()));
        };
        check(None, "system.slice", "berth-c1.scope");
        check(Some("kubepods-pod1.slice:cri-berth:x"), "kubepods-pod1.slice", "cri-berth-x.scope");
        check(Some(":p:x"), "system.slice", "p-x.scope");
        check(Some("-.slice::x"), "-.slice", "x.scope");
    }

    #[test]
    fn what_makes_no_unit_is_refused() {
        let long = format!("a.slice:p:{}", "x".repeat(250));
        for path in [
            "/a/b",
            "a:b",
            "a.slice:b:c:d",
            "a:p:x",
            "a--b.slice:p:x",
            "-a.slice:p:x",
            "a-.slice:p:x",
            "a.slice:p:",
            "a.slice:p:x/../y",
            "../a.slice:p:x",
            "a.slice:p:x\ny",
            "a.slice:p:x,arg0='y'",
            &long,
        ] {
            assert!(read(Some(path), "c1", "system.slice").is_err(), "{path:?}");
        }
    }

    #[test]
    fn a_slice_lies_in_those_that_its_name_begins_with() {
        let check = |slice: &str, path: &str| assert_eq!(cgroup_path(slice, "x.scope"), path);
        check("-.slice", "x.scope");
        check("a.slice", "a.slice/x.scope");
        check("a-b-c.slice", "a.slice/a-b.slice/a-b-c.slice/x.scope");
    }
}
