//! rtnetlink(7), as much as moving an interface needs: links and addresses, listed and changed.

use std::os::fd::{AsRawFd as _, BorrowedFd, OwnedFd};

use rustix::io::{Errno, Result};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socket_with};
use serde::{Deserialize, Serialize};

const NEW_LINK: u16 = 16;
const GET_LINK: u16 = 18;
const NEW_ADDRESS: u16 = 20;
const GET_ADDRESS: u16 = 22;
const ERROR: u16 = 2;
const DONE: u16 = 3;

const REQUEST: u16 = 0x1;
const ACK: u16 = 0x4;
const DUMP: u16 = 0x300;
const CREATE_EXCLUSIVELY: u16 = 0x600;

const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_NET_NS_FD: u16 = 28;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_BROADCAST: u16 = 4;
const IFA_FLAGS: u16 = 8;
const IFA_RT_PRIORITY: u16 = 9;

const IFF_UP: u32 = 1;
const IFA_F_PERMANENT: u32 = 0x80;
/// NODAD, HOMEADDRESS, MANAGETEMPADDR, NOPREFIXROUTE and MCAUTOJOIN: what an administrator chose; the others are
/// the kernel's own findings.
const CHOSEN_FLAGS: u32 = 0x02 | 0x10 | 0x100 | 0x200 | 0x400;
/// RT_SCOPE_UNIVERSE.
const GLOBAL: u8 = 0;

/// The kernel's own bound on a piece of a dump.
const MAX_BYTES: usize = 64 << 10;

pub(super) struct Netlink(OwnedFd);

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Link {
    pub(super) index: i32,
    pub(super) name: String,
    pub(super) is_up: bool,
    /// Its address on the wire.
    pub(super) hardware: Vec<u8>,
}

impl Link {
    /// What it is known by within one namespace, for a while.
    pub(super) fn key(self) -> (i32, String) {
        (self.index, self.name)
    }
}

/// An address with what the administrator said of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Address {
    family: u8,
    prefix: u8,
    flags: u32,
    attributes: Vec<(u16, Vec<u8>)>,
}

impl Netlink {
    /// To the network namespace that the calling thread is in.
    pub(super) fn open() -> Result<Netlink> {
        let flags = SocketFlags::CLOEXEC;
        // NETLINK_ROUTE is protocol 0.
        socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, None).map(Netlink)
    }

    pub(super) fn links(&self) -> Result<Vec<Link>> {
        let replies = self.ask(&Message::new(GET_LINK, REQUEST | DUMP, &link_header(0, 0, 0)))?;
        Ok(replies.iter().filter_map(|reply| link(reply)).collect())
    }

    pub(super) fn link(&self, name: &str) -> Result<Option<Link>> {
        Ok(self.links()?.into_iter().find(|link| link.name == name))
    }

    /// Those that are permanent and global; others belong to where the interface was.
    pub(super) fn addresses(&self, index: i32) -> Result<Vec<Address>> {
        let replies = self.ask(&Message::new(GET_ADDRESS, REQUEST | DUMP, &address_header(0, 0, 0)))?;
        Ok(replies.iter().filter_map(|reply| address(reply, index)).collect())
    }

    pub(super) fn set_up(&self, index: i32) -> Result<()> {
        self.ask(&Message::new(NEW_LINK, REQUEST | ACK, &link_header(index, IFF_UP, IFF_UP))).map(drop)
    }

    pub(super) fn set_down(&self, index: i32) -> Result<()> {
        self.ask(&Message::new(NEW_LINK, REQUEST | ACK, &link_header(index, 0, IFF_UP))).map(drop)
    }

    /// To another namespace, under another name, in one go.
    pub(super) fn move_to(&self, index: i32, namespace: BorrowedFd<'_>, name: &str) -> Result<()> {
        let mut message = Message::new(NEW_LINK, REQUEST | ACK, &link_header(index, 0, 0));
        message.attribute(IFLA_NET_NS_FD, &namespace.as_raw_fd().to_ne_bytes());
        message.attribute(IFLA_IFNAME, &[name.as_bytes(), b"\0"].concat());
        self.ask(&message).map(drop)
    }

    pub(super) fn add_address(&self, index: i32, address: &Address) -> Result<()> {
        let header = address_header(address.family, address.prefix, index);
        let mut message = Message::new(NEW_ADDRESS, REQUEST | ACK | CREATE_EXCLUSIVELY, &header);
        message.attribute(IFA_FLAGS, &address.flags.to_ne_bytes());
        for (kind, value) in &address.attributes {
            message.attribute(*kind, value);
        }
        self.ask(&message).map(drop)
    }

    /// The bodies of the answers, each with its type in front, until the kernel says that it is done.
    fn ask(&self, message: &Message) -> Result<Vec<Vec<u8>>> {
        send(&self.0, &message.0, SendFlags::empty())?;
        let mut replies = Vec::new();
        let mut buffer = vec![0; MAX_BYTES];
        loop {
            let (length, _) = recv(&self.0, &mut buffer[..], RecvFlags::empty())?;
            let mut rest = &buffer[..length];
            while let Some((kind, body, next)) = split(rest) {
                match kind {
                    DONE => return Ok(replies),
                    ERROR => return failure(body).map(|()| replies),
                    _ => replies.push([&kind.to_ne_bytes(), body].concat()),
                }
                rest = next;
            }
        }
    }
}

/// `struct nlmsgerr` begins with minus the error number; 0 is an acknowledgement.
fn failure(body: &[u8]) -> Result<()> {
    match body.first_chunk().map(|code| i32::from_ne_bytes(*code)) {
        Some(0) => Ok(()),
        Some(code @ -4095..0) => Err(Errno::from_raw_os_error(-code)),
        Some(_) | None => Err(Errno::PROTO),
    }
}

/// Type and body of the first message, and what follows it.
fn split(bytes: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let length = u32::from_ne_bytes(*bytes.first_chunk()?) as usize;
    let kind = u16::from_ne_bytes([*bytes.get(4)?, *bytes.get(5)?]);
    let body = bytes.get(16..length)?;
    Some((kind, body, bytes.get(padded(length)..).unwrap_or_default()))
}

fn padded(length: usize) -> usize {
    length.next_multiple_of(4)
}

/// `struct rtattr`s, one after the other.
fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16::from_ne_bytes(*bytes.first_chunk()?));
        let kind = u16::from_ne_bytes([*bytes.get(2)?, *bytes.get(3)?]);
        let value = bytes.get(4..length)?;
        bytes = bytes.get(padded(length)..).unwrap_or_default();
        Some((kind, value))
    })
}

fn reply(reply: &[u8], expected: u16, header: usize) -> Option<(&[u8], &[u8])> {
    let (kind, body) = reply.split_first_chunk::<2>()?;
    if u16::from_ne_bytes(*kind) != expected { None } else { body.split_at_checked(header) }
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn link(bytes: &[u8]) -> Option<Link> {
    let (header, rest) = reply(bytes, NEW_LINK, 16)?;
    let name = attributes(rest).find(|(kind, _)| *kind == IFLA_IFNAME)?.1;
    let name = String::from_utf8_lossy(name.strip_suffix(b"\0").unwrap_or(name)).into_owned();
    let hardware = attributes(rest).find(|(kind, _)| *kind == IFLA_ADDRESS);
    Some(Link {
        index: word(header, 4)? as i32,
        name,
        is_up: word(header, 8)? & IFF_UP != 0,
        hardware: hardware.map(|(_, address)| address.to_vec()).unwrap_or_default(),
    })
}

fn address(bytes: &[u8], index: i32) -> Option<Address> {
    let (header, rest) = reply(bytes, NEW_ADDRESS, 8)?;
    let (family, prefix, short_flags, scope) = (header[0], header[1], header[2], header[3]);
    let long_flags =
        attributes(rest).find(|(kind, _)| *kind == IFA_FLAGS).and_then(|(_, flags)| word(flags, 0));
    let flags = long_flags.unwrap_or(short_flags.into());
    if word(header, 4)? as i32 != index || scope != GLOBAL || flags & IFA_F_PERMANENT == 0 {
        return None;
    }
    let kept = [IFA_ADDRESS, IFA_LOCAL, IFA_BROADCAST, IFA_RT_PRIORITY];
    let attributes = attributes(rest).filter(|(kind, _)| kept.contains(kind));
    let attributes = attributes.map(|(kind, value)| (kind, value.to_vec())).collect();
    Some(Address { family, prefix, flags: flags & CHOSEN_FLAGS, attributes })
}

/// `struct ifinfomsg`.
fn link_header(index: i32, flags: u32, change: u32) -> [u8; 16] {
    let mut header = [0; 16];
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    header[8..12].copy_from_slice(&flags.to_ne_bytes());
    header[12..16].copy_from_slice(&change.to_ne_bytes());
    header
}

/// `struct ifaddrmsg`.
fn address_header(family: u8, prefix: u8, index: i32) -> [u8; 8] {
    let mut header = [family, prefix, 0, GLOBAL, 0, 0, 0, 0];
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    header
}

/// A request, its length kept right as it grows.
struct Message(Vec<u8>);

impl Message {
    fn new(kind: u16, flags: u16, header: &[u8]) -> Message {
        let mut bytes = vec![0; 16];
        bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
        bytes[6..8].copy_from_slice(&flags.to_ne_bytes());
        bytes.extend_from_slice(header);
        let mut message = Message(bytes);
        message.measure();
        message
    }

    fn attribute(&mut self, kind: u16, value: &[u8]) {
        let length = 4 + value.len() as u16;
        self.0.extend_from_slice(&length.to_ne_bytes());
        self.0.extend_from_slice(&kind.to_ne_bytes());
        self.0.extend_from_slice(value);
        self.0.resize(padded(self.0.len()), 0);
        self.measure();
    }

    fn measure(&mut self) {
        let length = self.0.len() as u32;
        self.0[..4].copy_from_slice(&length.to_ne_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_read_as_they_are_written() {
        let mut message = Message::new(NEW_LINK, 0, &link_header(7, IFF_UP, 0));
        message.attribute(IFLA_ADDRESS, &[2, 0, 0, 0, 0, 7]);
        message.attribute(IFLA_IFNAME, b"eth0\0");
        let (kind, body, rest) = split(&message.0).unwrap();
        assert!(rest.is_empty());
        let read = link(&[&kind.to_ne_bytes(), body].concat());
        assert_eq!(
            read,
            Some(Link { index: 7, name: "eth0".into(), is_up: true, hardware: vec![2, 0, 0, 0, 0, 7] })
        );
    }

    #[test]
    fn only_permanent_global_addresses_are_carried() {
        let check = |flags: u32, scope: u8| {
            let mut message = Message::new(NEW_ADDRESS, 0, &[2, 24, 0, scope, 7, 0, 0, 0]);
            message.attribute(IFA_FLAGS, &flags.to_ne_bytes());
            message.attribute(IFA_LOCAL, &[10, 0, 0, 1]);
            let (kind, body, _) = split(&message.0).unwrap();
            address(&[&kind.to_ne_bytes(), body].concat(), 7)
        };
        let kept = check(IFA_F_PERMANENT | 0x200 | 0x40, GLOBAL).unwrap();
        assert_eq!((kept.flags, kept.attributes), (0x200, vec![(IFA_LOCAL, vec![10, 0, 0, 1])]));
        assert_eq!(check(0, GLOBAL), None);
        assert_eq!(check(IFA_F_PERMANENT, 253), None);
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig { failure_persistence: None, ..Default::default() })]

        #[test]
        fn no_answer_is_a_surprise(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..80)) {
            let _ = split(&bytes);
            let _ = link(&bytes);
            let _ = address(&bytes, 1);
            let _ = failure(&bytes);
        }
    }
}
