//! A network interface's flags: ioctl SIOCSIFFLAGS (netdevice(7)).

use std::ffi::CStr;
use std::os::fd::{AsRawFd as _, OwnedFd};

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};

/// `struct ifreq` of linux/if.h, with its flags.
#[repr(C)]
struct Request {
    name: [u8; libc::IFNAMSIZ],
    flags: libc::c_short,
    rest: [u8; 22],
}

const _: () = assert!(size_of::<Request>() == size_of::<libc::ifreq>());

/// Brings an interface of our network namespace up. The socket may be of any family: the kernel passes on what the
/// family does not know. It is answered, for whoever closes many together.
///
/// # Errors
/// `NODEV` without such an interface, `PERM` without `CAP_NET_ADMIN` over the namespace, `INVAL` for a name too long.
pub fn set_link_up(name: &CStr) -> rustix::io::Result<OwnedFd> {
    let mut request = Request { name: [0; libc::IFNAMSIZ], flags: libc::IFF_UP as _, rest: [0; 22] };
    let bytes = name.to_bytes_with_nul();
    request.name.get_mut(..bytes.len()).ok_or(Errno::INVAL)?.copy_from_slice(bytes);
    let socket = socket_with(AddressFamily::UNIX, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    // SAFETY: the kernel reads an `ifreq`, which is as long as `Request` and begins with the same two fields, from
    // memory that we own; it keeps no pointer.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS as _, &raw const request) };
    if result < 0 {
        return Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::INVAL));
    }
    Ok(socket)
}
