//! Which security module the node has: labels and profiles that nobody would enforce are refused.

use std::fs;

use rustix::fs::statfs;

use crate::Error;
use crate::spec::{Linux, Process};

const SELINUX_MAGIC: u64 = 0xf97c_ff8c;

/// Looks only when something was asked for.
pub(crate) fn refuse_unenforced(process: &Process, linux: Option<&Linux>) -> Result<(), Error> {
    let given = |label: Option<&String>| label.is_some_and(|label| !label.is_empty());
    let mount_label = linux.and_then(|linux| linux.mount_label.as_ref());
    if given(process.apparmor_profile.as_ref()) && !apparmor_is_on() {
        return Err(Error::unsupported("process.apparmorProfile", "AppArmor is not on in this kernel"));
    }
    let labels =
        [("process.selinuxLabel", process.selinux_label.as_ref()), ("linux.mountLabel", mount_label)];
    match labels.into_iter().find(|(_, label)| given(*label)) {
        Some((field, _)) if !selinux_is_on() => {
            Err(Error::unsupported(field, "SELinux is not on in this kernel"))
        }
        _ => Ok(()),
    }
}

fn apparmor_is_on() -> bool {
    fs::read("/sys/module/apparmor/parameters/enabled").is_ok_and(|text| text.starts_with(b"Y"))
}

fn selinux_is_on() -> bool {
    ["/sys/fs/selinux", "/selinux"]
        .iter()
        .any(|path| statfs(*path).is_ok_and(|fs| fs.f_type as u64 & 0xffff_ffff == SELINUX_MAGIC))
}
