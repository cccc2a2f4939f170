//! capget(2), capset(2) and the prctl(2)s of the bounding and ambient sets. A set is a mask of bits.

use rustix::io::Result;

use crate::call::answer;

/// The three sets of capset(2).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CapSets {
    pub effective: u64,
    pub permitted: u64,
    pub inheritable: u64,
}

#[repr(C)]
struct Header {
    version: u32,
    pid: i32,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Data {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

const VERSION_3: u32 = 0x2008_0522;

/// # Errors
/// Whatever capget(2) says.
pub fn capget() -> Result<CapSets> {
    let mut header = Header { version: VERSION_3, pid: 0 };
    let mut data = [Data::default(); 2];
    // SAFETY: version 3 writes two `Data`, which is what `data` has.
    answer(unsafe { libc::syscall(libc::SYS_capget, &raw mut header, data.as_mut_ptr()) })?;
    let join = |low: u32, high: u32| u64::from(low) | u64::from(high) << 32;
    Ok(CapSets {
        effective: join(data[0].effective, data[1].effective),
        permitted: join(data[0].permitted, data[1].permitted),
        inheritable: join(data[0].inheritable, data[1].inheritable),
    })
}

/// # Errors
/// Whatever capset(2) says.
pub fn capset(sets: CapSets) -> Result<()> {
    let mut header = Header { version: VERSION_3, pid: 0 };
    let part = |shift: u32| Data {
        effective: (sets.effective >> shift) as u32,
        permitted: (sets.permitted >> shift) as u32,
        inheritable: (sets.inheritable >> shift) as u32,
    };
    let data = [part(0), part(32)];
    // SAFETY: version 3 reads two `Data`, which is what `data` has.
    answer(unsafe { libc::syscall(libc::SYS_capset, &raw mut header, data.as_ptr()) }).map(drop)
}

/// Is it in the bounding set? EINVAL: the kernel does not know it.
///
/// # Errors
/// EINVAL, see above.
pub fn capbset_read(capability: u32) -> Result<bool> {
    prctl(libc::PR_CAPBSET_READ, u64::from(capability), 0).map(|value| value == 1)
}

/// # Errors
/// EPERM without CAP_SETPCAP.
pub fn capbset_drop(capability: u32) -> Result<()> {
    prctl(libc::PR_CAPBSET_DROP, u64::from(capability), 0).map(drop)
}

/// # Errors
/// Whatever prctl(2) says.
pub fn cap_ambient_clear_all() -> Result<()> {
    prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL as u64, 0).map(drop)
}

/// # Errors
/// EPERM when it is not both permitted and inheritable.
pub fn cap_ambient_raise(capability: u32) -> Result<()> {
    prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_RAISE as u64, u64::from(capability)).map(drop)
}

fn prctl(option: i32, second: u64, third: u64) -> Result<libc::c_long> {
    // SAFETY: the options used here take numbers only.
    answer(unsafe { libc::syscall(libc::SYS_prctl, option, second, third, 0_u64, 0_u64) })
}
