//! bpf(2), as much as the device rules of a cgroup2 directory need.

use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};

use rustix::io::Result;

use crate::call::answer;

/// One instruction of extended BPF, laid out as the kernel's `struct bpf_insn`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BpfInsn {
    pub code: u8,
    /// The destination in the lower half, the source in the upper.
    pub registers: u8,
    pub offset: i16,
    pub immediate: i32,
}

const PROG_LOAD: libc::c_int = 5;
const PROG_ATTACH: libc::c_int = 8;
const PROG_DETACH: libc::c_int = 9;
const PROG_GET_FD_BY_ID: libc::c_int = 13;
const PROG_QUERY: libc::c_int = 16;

const PROG_TYPE_CGROUP_DEVICE: u32 = 15;
const ATTACH_CGROUP_DEVICE: u32 = 6;
const ALLOW_MULTI: u32 = 2;

/// The members of `union bpf_attr` that BPF_PROG_LOAD needs; the kernel takes what is beyond as zero.
#[repr(C)]
struct Load {
    kind: u32,
    count: u32,
    instructions: u64,
    license: u64,
    log: [u32; 4],
    version: u32,
    flags: u32,
}

#[repr(C)]
struct Attach {
    target: i32,
    program: i32,
    kind: u32,
    flags: u32,
}

#[repr(C)]
struct Query {
    target: i32,
    kind: u32,
    flags: u32,
    attached_flags: u32,
    ids: u64,
    count: u32,
    pad: u32,
}

/// BPF_PROG_LOAD of a BPF_PROG_TYPE_CGROUP_DEVICE program.
///
/// # Errors
/// Whatever bpf(2) says; EINVAL or EACCES for a program that its checker refuses.
pub fn bpf_load_device_program(program: &[BpfInsn]) -> Result<OwnedFd> {
    let license = c"Apache-2.0";
    let mut load = Load {
        kind: PROG_TYPE_CGROUP_DEVICE,
        count: program.len() as u32,
        instructions: program.as_ptr() as u64,
        license: license.as_ptr() as u64,
        log: [0; 4],
        version: 0,
        flags: 0,
    };
    let fd = bpf(PROG_LOAD, &mut load)?;
    // SAFETY: BPF_PROG_LOAD answers a descriptor that is new, so nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// BPF_PROG_ATTACH beside what is attached already: an access must please every program.
///
/// # Errors
/// Whatever bpf(2) says.
pub fn bpf_attach_device_program(cgroup: BorrowedFd<'_>, program: BorrowedFd<'_>) -> Result<()> {
    let mut attach = Attach {
        target: cgroup.as_raw_fd(),
        program: program.as_raw_fd(),
        kind: ATTACH_CGROUP_DEVICE,
        flags: ALLOW_MULTI,
    };
    bpf(PROG_ATTACH, &mut attach).map(drop)
}

/// BPF_PROG_DETACH.
///
/// # Errors
/// Whatever bpf(2) says.
pub fn bpf_detach_device_program(cgroup: BorrowedFd<'_>, program: BorrowedFd<'_>) -> Result<()> {
    let mut attach = Attach {
        target: cgroup.as_raw_fd(),
        program: program.as_raw_fd(),
        kind: ATTACH_CGROUP_DEVICE,
        flags: 0,
    };
    bpf(PROG_DETACH, &mut attach).map(drop)
}

/// BPF_PROG_QUERY: the device programs attached to this very directory, at most 64 (the kernel allows no more).
///
/// # Errors
/// Whatever bpf(2) says.
pub fn bpf_device_programs(cgroup: BorrowedFd<'_>) -> Result<Vec<OwnedFd>> {
    let mut ids = [0_u32; 64];
    let mut query = Query {
        target: cgroup.as_raw_fd(),
        kind: ATTACH_CGROUP_DEVICE,
        flags: 0,
        attached_flags: 0,
        ids: ids.as_mut_ptr() as u64,
        count: ids.len() as u32,
        pad: 0,
    };
    bpf(PROG_QUERY, &mut query)?;
    ids.iter().take(query.count as usize).map(|id| program_by_id(*id)).collect()
}

fn program_by_id(id: u32) -> Result<OwnedFd> {
    let mut attr = [id, 0, 0];
    let fd = bpf(PROG_GET_FD_BY_ID, &mut attr)?;
    // SAFETY: BPF_PROG_GET_FD_BY_ID answers a descriptor that is new, so nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

fn bpf<T>(command: libc::c_int, attr: &mut T) -> Result<libc::c_long> {
    // SAFETY: wrong only if `T` were larger than it says or held a pointer that dangles: each caller's struct is
    // plain numbers, and its addresses are of slices that outlive the call, with their lengths beside them.
    answer(unsafe { libc::syscall(libc::SYS_bpf, command, &raw mut *attr, size_of::<T>()) })
}
