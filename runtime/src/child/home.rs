//! HOME, for a process whose environment lacks it: what runc does, and shells and tools rely on.
//!
//! The container's /etc/passwd is read with a bound and parsed as bytes; it decides nothing but this one variable.

use std::ffi::CString;
use std::os::fd::BorrowedFd;

use kernel::CStringArray;
use rustix::fs::{FileType, Mode, OFlags, ResolveFlags, fstat, openat2};

use crate::plan::ProcessPlan;

/// A longer one is not looked at (CVE-2025-4437).
const MAX_PASSWD: usize = 1 << 20;

/// The environment with HOME; `None` when it has one.
pub(super) fn environment(root: BorrowedFd<'_>, process: &ProcessPlan) -> Option<CStringArray> {
    if !process.needs_home {
        return None;
    }
    let passwd = read_passwd(root).unwrap_or_default();
    let home = find(&passwd, process.uid).unwrap_or(if process.uid == 0 { b"/root" } else { b"/" });
    let variable = CString::new([b"HOME=", home].concat()).ok()?;
    Some(CStringArray::new(process.env.strings().iter().cloned().chain([variable]).collect()))
}

fn read_passwd(root: BorrowedFd<'_>) -> Option<Vec<u8>> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let file = openat2(root, c"etc/passwd", flags, Mode::empty(), resolve).ok()?;
    let stat = fstat(&file).ok()?;
    let length = usize::try_from(stat.st_size).ok().filter(|&length| length <= MAX_PASSWD)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return None;
    }
    let mut bytes = vec![0; length];
    let read = rustix::io::read(file, &mut bytes[..]).ok()?;
    bytes.truncate(read);
    Some(bytes)
}

/// passwd(5): name:password:UID:GID:comment:directory:shell.
fn find(passwd: &[u8], uid: u32) -> Option<&[u8]> {
    let uid = uid.to_string();
    passwd.split(|&byte| byte == b'\n').find_map(|line| {
        let fields: Vec<&[u8]> = line.split(|&byte| byte == b':').collect();
        (fields.len() >= 6 && fields[2] == uid.as_bytes() && !fields[5].is_empty()).then(|| fields[5])
    })
}

#[cfg(test)]
mod tests {
    use super::find;

    #[test]
    fn a_home_is_found_by_number_alone() {
        let passwd =
            b"root:x:0:0:root:/root:/bin/sh\n5:x:7:7::/seven:\n\nshort:x:5\nfive:x:5:5::/five:/bin/sh";
        assert_eq!(find(passwd, 0), Some(&b"/root"[..]));
        assert_eq!(find(passwd, 5), Some(&b"/five"[..]));
        assert_eq!(find(passwd, 6), None);
    }
}
