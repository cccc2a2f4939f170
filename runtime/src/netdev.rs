//! `linux.netDevices`: interfaces of the host that move into the container's network namespace.
//!
//! The kernel moves an interface with its hardware address and MTU, and takes its addresses away; those that
//! are permanent and global go with it (config-linux.md, "Network Devices"). From then on it is the container's:
//! nothing is moved back but by a create that does not come to its end. For that, what was lent is in the record before
//! anything moves, and the namespace is held by a mount beside the record: the end of the last process in it would take
//! virtual interfaces along, and give physical ones to the node's first namespace without their addresses.

mod netlink;

use std::fs::{self, File};
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};
use std::path::Path;

use kernel::clone_flags as flag;
use rustix::fs::{fstat, fstatfs};
use rustix::io::Errno;
use rustix::mount::{UnmountFlags, mount_bind, unmount};
use serde::{Deserialize, Serialize};

use crate::Error;
use netlink::{Address, Link, Netlink};

/// linux/magic.h.
const NSFS_MAGIC: rustix::fs::FsWord = 0x6e73_6673;

/// One interface by its names on either side; the one inside may be a template such as `eth%d`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NetDevice {
    pub(crate) host: String,
    pub(crate) inside: String,
}

/// Interfaces that are the container's once it is made, and what has to be known to bring them back.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Loan {
    /// The inode of the namespace that they come from.
    host: u64,
    /// What the container's has of its own, by index and name.
    before: Vec<(i32, String)>,
    devices: Vec<Lent>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Lent {
    host_name: String,
    inside: String,
    hardware: Vec<u8>,
    addresses: Vec<Address>,
    was_up: bool,
}

/// One network namespace, and a line to the kernel about it.
struct End<'a> {
    namespace: BorrowedFd<'a>,
    netlink: Netlink,
}

/// A socket belongs to the namespace that it was made in.
fn ends<'a>(host: &'a OwnedFd, container: &'a OwnedFd) -> Result<(End<'a>, End<'a>), Error> {
    let at = |e: Errno| Error::step("entering", "the network namespace (linux.netDevices)", e);
    kernel::setns(container.as_fd(), flag::NEWNET).map_err(at)?;
    let inside = Netlink::open();
    kernel::setns(host.as_fd(), flag::NEWNET).map_err(at)?;
    let container = End { netlink: inside.map_err(at)?, namespace: container.as_fd() };
    Ok((End { netlink: Netlink::open().map_err(at)?, namespace: host.as_fd() }, container))
}

fn our_namespace() -> Result<OwnedFd, Error> {
    let path = "/proc/self/ns/net";
    File::open(path).map(OwnedFd::from).map_err(|e| Error::step("opening", path, e))
}

/// Holds the namespace, whoever ends.
pub(crate) fn pin(place: &Path, namespace: &OwnedFd) -> Result<(), Error> {
    let at =
        |e: std::io::Error| Error::step("holding the network namespace at", place.display().to_string(), e);
    File::create_new(place).map_err(at)?;
    mount_bind(format!("/proc/self/fd/{}", namespace.as_raw_fd()), place).map_err(|e| at(e.into()))
}

/// Lets it go. One that was never held is Ok.
pub(crate) fn unpin(place: &Path) -> Result<(), Error> {
    match unmount(place, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
        Ok(()) | Err(Errno::INVAL | Errno::NOENT) => {}
        Err(e) => return Err(Error::step("letting go of", place.display().to_string(), e)),
    }
    // What stays of it goes with the record.
    let _ = fs::remove_file(place);
    Ok(())
}

impl Loan {
    /// Looks at all of them; nothing is changed.
    pub(crate) fn of(devices: &[NetDevice], namespace: &OwnedFd) -> Result<Loan, Error> {
        let at = |e: Errno| Error::step("looking at", "network interfaces (linux.netDevices)", e);
        let ours = our_namespace()?;
        let (host, container) = ends(&ours, namespace)?;
        let lent = |device: &NetDevice| {
            let link = host.netlink.link(&device.host)?.ok_or(Errno::NODEV)?;
            Ok(Lent {
                host_name: device.host.clone(),
                inside: device.inside.clone(),
                addresses: host.netlink.addresses(link.index)?,
                hardware: link.hardware,
                was_up: link.is_up,
            })
        };
        let named = |device: &NetDevice| lent(device).map_err(|e| moving(&device.host, &device.inside, e));
        Ok(Loan {
            host: fstat(&ours).map_err(at)?.st_ino,
            before: container.netlink.links().map_err(at)?.into_iter().map(Link::key).collect(),
            devices: devices.iter().map(named).collect::<Result<_, _>>()?,
        })
    }

    /// Moves all of them. An error names the one that could not be; those before it have moved.
    pub(crate) fn move_in(&self, namespace: &OwnedFd) -> Result<(), Error> {
        let ours = our_namespace()?;
        let (host, container) = ends(&ours, namespace)?;
        let move_one = |device: &Lent| {
            let link = host.netlink.link(&device.host_name)?.ok_or(Errno::NODEV)?;
            let index = carry(&host, &container, &link, &device.inside)?;
            furnish(&container.netlink, index, &device.addresses)?;
            container.netlink.set_up(index)
        };
        self.devices.iter().try_for_each(|device| {
            move_one(device).map_err(|errno| moving(&device.host_name, &device.inside, errno))
        })
    }

    /// As they were, from whatever point on the way in, and twice. `place` is where their namespace is held; when it is
    /// not, nothing has moved, or all is the container's.
    pub(crate) fn give_back(&self, place: &Path) -> Result<(), Error> {
        let namespace = match File::open(place) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            other => {
                OwnedFd::from(other.map_err(|e| Error::step("opening", place.display().to_string(), e))?)
            }
        };
        if fstatfs(&namespace).is_ok_and(|fs| fs.f_type == NSFS_MAGIC) {
            let ours = our_namespace()?;
            self.refuse_elsewhere(&ours)?;
            let (host, container) = ends(&ours, &namespace)?;
            for device in self.devices.iter().rev() {
                self.bring_home(device, &host, &container)
                    .map_err(|e| Error::step("bringing back the interface", device.host_name.clone(), e))?;
            }
        }
        unpin(place)
    }

    fn refuse_elsewhere(&self, ours: &OwnedFd) -> Result<(), Error> {
        if fstat(ours).is_ok_and(|ours| ours.st_ino == self.host) {
            return Ok(());
        }
        let from = format!("of net:[{}] have to be brought back: delete it from there", self.host);
        Err(Error::invalid("linux.netDevices", from))
    }

    fn bring_home(&self, device: &Lent, host: &End<'_>, container: &End<'_>) -> rustix::io::Result<()> {
        let away = container.netlink.links()?.into_iter().find(|link| self.is_lent(device, link));
        let index = match away {
            Some(link) => carry(container, host, &link, &device.host_name)?,
            // It has not left. Or it is nowhere any more, and its owner knows why.
            None => match host.netlink.link(&device.host_name)? {
                Some(link) => link.index,
                None => return Ok(()),
            },
        };
        furnish(&host.netlink, index, &device.addresses)?;
        if device.was_up { host.netlink.set_up(index) } else { Ok(()) }
    }

    /// The kernel moves first and renames then, so its name may be the old one yet.
    fn is_lent(&self, device: &Lent, link: &Link) -> bool {
        let fits = link.name == device.inside
            || link.name == device.host_name
            || fits_template(&link.name, &device.inside);
        fits && link.hardware == device.hardware && !self.before.contains(&link.clone().key())
    }
}

fn moving(host: &str, inside: &str, errno: Errno) -> Error {
    Error::step("moving the interface", format!("{host} as {inside} (linux.netDevices)"), errno)
}

/// Down first, as the kernel renames none that is up. Answers its index there.
fn carry(from: &End<'_>, to: &End<'_>, link: &Link, name: &str) -> rustix::io::Result<i32> {
    let before = to.netlink.links()?;
    from.netlink.set_down(link.index)?;
    from.netlink.move_to(link.index, to.namespace, name)?;
    let fits = |new: &Link| new.name == name || fits_template(&new.name, name);
    let is_new = |link: &Link| !before.iter().any(|old| old.index == link.index && old.name == link.name);
    let there = to.netlink.links()?.into_iter().find(|link| fits(link) && is_new(link));
    there.map(|link| link.index).ok_or(Errno::NODEV)
}

/// Going down takes IPv6 addresses away and leaves others, so some may still be there.
fn furnish(netlink: &Netlink, index: i32, addresses: &[Address]) -> rustix::io::Result<()> {
    addresses.iter().try_for_each(|address| match netlink.add_address(index, address) {
        Err(Errno::EXIST) => Ok(()),
        other => other,
    })
}

fn fits_template(name: &str, template: &str) -> bool {
    let Some((before, after)) = template.split_once("%d") else { return false };
    let number = name.strip_prefix(before).and_then(|rest| rest.strip_suffix(after));
    number.is_some_and(|number| !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::fits_template;

    #[test]
    fn a_template_stands_for_numbers() {
        assert!(fits_template("eth0", "eth%d") && fits_template("a12b", "a%db"));
        assert!(
            !fits_template("eth", "eth%d")
                && !fits_template("ethx", "eth%d")
                && !fits_template("eth0", "eth0")
        );
    }
}
