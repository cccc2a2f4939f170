//! `linux.netDevices`: interfaces of the host that move into the container's network namespace.
//!
//! The kernel moves an interface with its hardware address and MTU, and takes its addresses away; those that
//! are permanent and global go with it (config-linux.md, "Network Devices"). From then on it is the
//! container's: nothing is moved back but by a create that fails.

mod netlink;

use std::fs::File;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use kernel::clone_flags as flag;
use rustix::io::Errno;

use crate::Error;
use netlink::{Address, Link, Netlink};

/// One interface by its names on either side; the one inside may be a template such as `eth%d`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NetDevice {
    pub(crate) host: String,
    pub(crate) inside: String,
}

/// Interfaces that were moved, to be given back should the rest of the create fail.
pub(crate) struct Moved {
    host: End,
    container: End,
    devices: Vec<Carried>,
}

/// One network namespace, and a line to the kernel about it.
struct End {
    namespace: OwnedFd,
    netlink: Netlink,
}

/// What has to be known to bring one back.
struct Carried {
    host_name: String,
    inside: Link,
    addresses: Vec<Address>,
    was_up: bool,
}

/// Moves all of them, or, with an error that names the one that could not be, none.
pub(crate) fn move_in(devices: &[NetDevice], namespace: OwnedFd) -> Result<Moved, Error> {
    let at = |e: Errno| Error::step("entering", "the network namespace (linux.netDevices)", e);
    let host: OwnedFd =
        File::open("/proc/self/ns/net").map_err(|e| Error::step("opening", "/proc/self/ns/net", e))?.into();
    let container = End { netlink: open_in(namespace.as_fd(), host.as_fd()).map_err(at)?, namespace };
    let host = End { netlink: Netlink::open().map_err(at)?, namespace: host };
    let mut moved = Moved { host, container, devices: Vec::new() };
    for device in devices {
        if let Err(errno) = moved.take(device) {
            moved.give_back();
            let names = format!("{} as {} (linux.netDevices)", device.host, device.inside);
            return Err(Error::step("moving the interface", names, errno));
        }
    }
    Ok(moved)
}

/// A socket belongs to the namespace that it was made in.
fn open_in(namespace: BorrowedFd<'_>, ours: BorrowedFd<'_>) -> rustix::io::Result<Netlink> {
    kernel::setns(namespace, flag::NEWNET)?;
    let opened = Netlink::open();
    kernel::setns(ours, flag::NEWNET)?;
    opened
}

impl Moved {
    fn take(&mut self, device: &NetDevice) -> rustix::io::Result<()> {
        let link = self.host.netlink.link(&device.host)?.ok_or(Errno::NODEV)?;
        let addresses = self.host.netlink.addresses(link.index)?;
        let carried = Carried {
            host_name: device.host.clone(),
            was_up: link.is_up,
            inside: carry(&self.host, &self.container, &link, &device.inside, &addresses)?,
            addresses,
        };
        let index = carried.inside.index;
        self.devices.push(carried);
        furnish(&self.container.netlink, index, &self.devices[self.devices.len() - 1].addresses)?;
        self.container.netlink.set_up(index)
    }

    /// As they were. What cannot be put back is left where it is: the failure that led here is what counts.
    pub(crate) fn give_back(self) {
        for device in self.devices.iter().rev() {
            let back = carry(&self.container, &self.host, &device.inside, &device.host_name, &[]);
            if let Ok(link) = back {
                let _ = furnish(&self.host.netlink, link.index, &device.addresses);
                let _ = if device.was_up { self.host.netlink.set_up(link.index) } else { Ok(()) };
            }
        }
    }
}

/// Down first, as the kernel renames none that is up. A move that is refused leaves it as it was: the kernel moves
/// first and renames then, so one whose new name is no good has to be brought back.
fn carry(from: &End, to: &End, link: &Link, name: &str, addresses: &[Address]) -> rustix::io::Result<Link> {
    let before = to.netlink.links()?;
    from.netlink.set_down(link.index)?;
    if let Err(errno) = from.netlink.move_to(link.index, to.namespace.as_fd(), name) {
        if let Ok(None) = from.netlink.link(&link.name)
            && let Ok(Some(lost)) = to.netlink.link(&link.name)
        {
            let _ = to.netlink.move_to(lost.index, from.namespace.as_fd(), &link.name);
        }
        let _ = furnish(&from.netlink, link.index, addresses);
        let _ = if link.is_up { from.netlink.set_up(link.index) } else { Ok(()) };
        return Err(errno);
    }
    let fits = |new: &Link| new.name == name || fits_template(&new.name, name);
    let is_new = |link: &Link| !before.iter().any(|old| old.index == link.index && old.name == link.name);
    to.netlink.links()?.into_iter().find(|link| fits(link) && is_new(link)).ok_or(Errno::NODEV)
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
