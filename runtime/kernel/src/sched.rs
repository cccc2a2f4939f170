//! sched_setattr(2), ioprio_set(2), sched_setaffinity(2) and set_mempolicy(2).

use rustix::io::Result;

use crate::call::answer;

/// `struct sched_attr` of linux/sched/types.h, second version (Linux 5.3), without which flags that clamp are refused.
/// Its size, the first field, is filled in by the call.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SchedAttr {
    pub size: u32,
    pub policy: u32,
    pub flags: u64,
    pub nice: i32,
    pub priority: u32,
    pub runtime: u64,
    pub deadline: u64,
    pub period: u64,
    pub util_min: u32,
    pub util_max: u32,
}

/// The calling thread's scheduling policy.
///
/// # Errors
/// Whatever sched_setattr(2) says.
pub fn sched_setattr(attr: SchedAttr) -> Result<()> {
    let attr = SchedAttr { size: size_of::<SchedAttr>() as u32, ..attr };
    // SAFETY: the kernel reads as many bytes as `size` says, which is the struct's own size.
    answer(unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attr, 0_u32) }).map(drop)
}

/// The calling thread's I/O class and priority.
///
/// # Errors
/// Whatever ioprio_set(2) says.
pub fn ioprio_set(class: u16, priority: u16) -> Result<()> {
    const WHO_PROCESS: libc::c_int = 1;
    let value = libc::c_int::from(class) << 13 | libc::c_int::from(priority);
    // SAFETY: takes numbers.
    answer(unsafe { libc::syscall(libc::SYS_ioprio_set, WHO_PROCESS, 0, value) }).map(drop)
}

/// The CPUs that the calling thread may run on: bit n of word n/64.
///
/// # Errors
/// Whatever sched_setaffinity(2) says.
pub fn sched_setaffinity(cpus: &[u64]) -> Result<()> {
    // SAFETY: the kernel reads the bytes that the slice has.
    answer(unsafe { libc::syscall(libc::SYS_sched_setaffinity, 0, size_of_val(cpus), cpus.as_ptr()) })
        .map(drop)
}

/// The memory nodes of the calling thread: bit n of word n/64.
///
/// # Errors
/// Whatever set_mempolicy(2) says.
pub fn set_mempolicy(mode: u32, nodes: &[u64]) -> Result<()> {
    // The kernel takes one bit fewer than it is told of.
    let bits = if nodes.is_empty() { 0 } else { nodes.len() * 64 + 1 };
    // SAFETY: the kernel reads `bits - 1` bits, which the slice has.
    answer(unsafe { libc::syscall(libc::SYS_set_mempolicy, mode, nodes.as_ptr(), bits) }).map(drop)
}
