//! How the kernel writes paths in its mount tables (proc_pid_mountinfo(5)).

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;
use std::path::PathBuf;

/// The path of a field, where blanks, line ends and backslashes are three octal digits.
pub(crate) fn path(field: &[u8]) -> PathBuf {
    let (mut plain, mut rest) = (Vec::with_capacity(field.len()), field);
    while let [first, after @ ..] = rest {
        let octal = match after {
            [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', ..] if *first == b'\\' => {
                Some((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'))
            }
            _ => None,
        };
        plain.push(octal.unwrap_or(*first));
        rest = if octal.is_some() { &after[3..] } else { after };
    }
    PathBuf::from(OsString::from_vec(plain))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn places_of_mounts_are_read_as_they_are() {
        let check = |field: &[u8], plain: &str| assert_eq!(path(field), Path::new(plain));
        check(b"/plain", "/plain");
        check(b"/a\\040b\\011c\\134d\\012e", "/a b\tc\\d\ne");
        check(b"/not\\134040", "/not\\040");
        check(b"/end\\04", "/end\\04");
        check(b"/no\\477", "/no\\477");
    }
}
