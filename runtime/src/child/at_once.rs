//! mount(2): a file system made and attached in one call, where nothing of the new interface is needed.
//!
//! The new one takes a call for every option. The old one takes paths: here the path is `.`, and the working directory
//! is the mount point, found as every other.

use std::ffi::{CStr, CString};
use std::os::fd::AsFd as _;

use kernel::{MountAttr, mount_attr};
use rustix::io::{Errno, Result};
use rustix::mount::MountFlags;
use rustix::process::fchdir;

use super::Kit;
use super::fresh::Fresh;
use super::mounts::{is_kernels, target};
use super::place::Kind;
use crate::plan::{Mount, Pivot, Source};
use crate::report::{At as _, Failure, Step};

/// A page, which is all that the kernel reads.
const MAX_DATA: usize = 4000;

/// Mounts it if it can; false when that is for the longer way.
pub(super) fn mount(
    kit: &Kit<'_>,
    i: usize,
    mount: &Mount,
    fresh: &Fresh,
) -> std::result::Result<bool, Failure> {
    let Source::Fs { kind, options, .. } = &mount.source else { return Ok(false) };
    let Some(call) = Call::of(kit, mount, kind, options) else { return Ok(false) };
    if let Some((dir, name)) = fresh.place_of(&mount.destination)
        && fresh.make(dir, name, Kind::Dir).at(Step::MountTarget, i)?
    {
        fchdir(dir).at(Step::MountFs, i)?;
        return call.on(name).at(Step::MountFs, i).map(|()| true);
    }
    let place = target(kit, i, mount, || Ok(Kind::Dir))?;
    fchdir(place.as_fd()).at(Step::MountFs, i)?;
    call.on(c".").at(Step::MountFs, i)?;
    kit.let_go(place);
    Ok(true)
}

/// Mounts a tmpfs, by its name, on a directory that the kernel has in a procfs or sysfs of our own: nobody can exchange
/// it, and it is no link in any version. False where that can't be said of the path.
pub(super) fn cover_kernels(
    kit: &Kit<'_>,
    path: &CStr,
    options: &[(CString, Option<CString>)],
    attr: &MountAttr,
) -> Result<bool> {
    let (Some(flags), Some(data)) = (flags(attr), data(options)) else { return Ok(false) };
    if !is_kernels(kit, path) {
        return Ok(false);
    }
    // From the root, which is the container's by now; the working directory is some mount point.
    let path = CString::new([b"/", path.to_bytes()].concat()).map_err(|_| Errno::INVAL)?;
    rustix::mount::mount(c"tmpfs", &path, c"tmpfs", flags, Some(data.as_c_str())).map(|()| true)
}

/// The arguments of the call.
struct Call<'a> {
    source: &'a CStr,
    kind: &'a CStr,
    flags: MountFlags,
    data: CString,
}

impl<'a> Call<'a> {
    fn of(
        kit: &Kit<'_>,
        mount: &Mount,
        kind: &'a CStr,
        options: &'a [(CString, Option<CString>)],
    ) -> Option<Call<'a>> {
        // Hooks that run before the pivot find the working directory as it was.
        let is_plain = kit.plan.root.pivot == Pivot::First
            && mount.recursive_attr == MountAttr::default()
            && mount.propagation.is_none();
        let flags = flags(&mount.attr).filter(|_| is_plain)?;
        // A tmpfs that is read-only as such cannot be filled any more, by whoever has that in mind.
        if kind == c"tmpfs" && flags.contains(MountFlags::RDONLY) {
            return None;
        }
        let source = options.iter().find(|(key, _)| key.as_c_str() == c"source");
        let source = source.and_then(|(_, value)| value.as_deref()).unwrap_or(c"none");
        Some(Call { source, kind, flags, data: data(options)? })
    }

    fn on(&self, place: &CStr) -> Result<()> {
        rustix::mount::mount(self.source, place, self.kind, self.flags, Some(self.data.as_c_str()))
    }
}

/// `key=value,key`; none when a value has a comma, which only the new interface can take.
fn data(options: &[(CString, Option<CString>)]) -> Option<CString> {
    let mut data = Vec::new();
    for (key, value) in options.iter().filter(|(key, _)| key.as_c_str() != c"source") {
        if !data.is_empty() {
            data.push(b',');
        }
        data.extend_from_slice(key.as_bytes());
        if let Some(value) = value {
            if value.as_bytes().contains(&b',') {
                return None;
            }
            data.push(b'=');
            data.extend_from_slice(value.as_bytes());
        }
    }
    CString::new(data).ok().filter(|data| data.as_bytes().len() < MAX_DATA)
}

/// The same attributes in the words of mount(2); none when it has no word for one.
fn flags(attr: &MountAttr) -> Option<MountFlags> {
    const WORDS: [(u64, MountFlags); 6] = [
        (mount_attr::RDONLY, MountFlags::RDONLY),
        (mount_attr::NOSUID, MountFlags::NOSUID),
        (mount_attr::NODEV, MountFlags::NODEV),
        (mount_attr::NOEXEC, MountFlags::NOEXEC),
        (mount_attr::NODIRATIME, MountFlags::NODIRATIME),
        (mount_attr::STRICTATIME, MountFlags::STRICTATIME),
    ];
    let known = WORDS.iter().fold(0, |known, (bit, _)| known | bit);
    if attr.set & !known != 0 {
        return None;
    }
    let given = WORDS.iter().filter(|(bit, _)| attr.set & bit != 0);
    Some(given.fold(MountFlags::empty(), |flags, (_, word)| flags | *word))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn option(key: &str, value: Option<&str>) -> (CString, Option<CString>) {
        (CString::new(key).unwrap(), value.map(|value| CString::new(value).unwrap()))
    }

    #[test]
    fn options_are_one_line_without_the_source() {
        let options = [option("source", Some("x")), option("newinstance", None), option("gid", Some("5"))];
        assert_eq!(data(&options).unwrap().as_c_str(), c"newinstance,gid=5");
        assert_eq!(data(&[]).unwrap().as_c_str(), c"");
        assert_eq!(data(&[option("context", Some("a:c1,c2"))]), None);
    }

    #[test]
    fn an_attribute_without_a_word_takes_the_longer_way() {
        let attr = |set| MountAttr { set, ..MountAttr::default() };
        assert_eq!(flags(&attr(0)), Some(MountFlags::empty()));
        let both = mount_attr::NOSUID | mount_attr::STRICTATIME;
        assert_eq!(flags(&attr(both)), Some(MountFlags::NOSUID | MountFlags::STRICTATIME));
        assert_eq!(flags(&attr(mount_attr::NOSYMFOLLOW | mount_attr::NOSUID)), None);
    }
}
