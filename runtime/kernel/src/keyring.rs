//! keyctl(2).

use rustix::io::Result;

use crate::call::answer;

/// A new, anonymous session keyring for the calling process and its children.
///
/// # Errors
/// ENOSYS from a kernel without keyrings, EDQUOT when the user has too many keys.
pub fn keyctl_join_session_keyring() -> Result<()> {
    let anonymous = std::ptr::null::<libc::c_char>();
    // SAFETY: the one pointer is null, which asks for a keyring without a name.
    answer(unsafe { libc::syscall(libc::SYS_keyctl, libc::KEYCTL_JOIN_SESSION_KEYRING, anonymous) }).map(drop)
}
