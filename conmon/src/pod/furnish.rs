//! What is done inside a pod's new namespaces: its name, its loopback, its sysctls.

use std::io;

use conmon_protocol::{PodPlan, Sharing};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socket_with};

use super::sysctl;
use crate::error::{Error, Named as _};

/// The caller is already inside. A hostname in the host's UTS namespace stays the host's.
pub(crate) fn furnish(plan: &PodPlan) -> Result<(), Error> {
    if let (Sharing::Own, Some(hostname)) = (plan.uts, &plan.hostname) {
        rustix::system::sethostname(hostname.as_bytes()).named("setting the hostname", hostname)?;
    }
    if plan.network == Sharing::Own {
        bring_up_loopback().named("bringing up", "lo")?;
    }
    sysctl::write_all(&plan.sysctls)
}

const RTM_NEWLINK: u16 = 16;
const NLM_F_REQUEST_ACK: u16 = 1 | 4;
const NLMSG_ERROR: u16 = 2;
const IFF_UP: u32 = 1;
/// The first interface of each network namespace.
const LO_INDEX: i32 = 1;
const HEADER: usize = 16;
const REQUEST: usize = HEADER + 16;

/// `struct nlmsghdr` and `struct ifinfomsg` of rtnetlink(7): set IFF_UP of interface 1.
fn bring_up_loopback() -> io::Result<()> {
    let mut request = [0u8; REQUEST];
    request[0..4].copy_from_slice(&(REQUEST as u32).to_ne_bytes());
    request[4..6].copy_from_slice(&RTM_NEWLINK.to_ne_bytes());
    request[6..8].copy_from_slice(&NLM_F_REQUEST_ACK.to_ne_bytes());
    request[20..24].copy_from_slice(&LO_INDEX.to_ne_bytes());
    request[24..28].copy_from_slice(&IFF_UP.to_ne_bytes());
    request[28..32].copy_from_slice(&IFF_UP.to_ne_bytes());

    let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
    send(&socket, &request, SendFlags::empty())?;
    let mut reply = [0u8; 128];
    let (_, length) = recv(&socket, &mut reply, RecvFlags::empty())?;
    acknowledged(&reply[..length.min(128)])
}

/// `struct nlmsgerr`: a negative errno, or 0 for yes.
fn acknowledged(reply: &[u8]) -> io::Result<()> {
    let kind = reply.get(4..6).and_then(|bytes| bytes.try_into().ok()).map(u16::from_ne_bytes);
    let code = reply.get(HEADER..HEADER + 4).and_then(|bytes| bytes.try_into().ok()).map(i32::from_ne_bytes);
    match (kind, code) {
        (Some(NLMSG_ERROR), Some(0)) => Ok(()),
        (Some(NLMSG_ERROR), Some(code)) => Err(io::Error::from_raw_os_error(-code)),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}
