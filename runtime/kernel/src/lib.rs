//! One system call a function, under the call's own name, and all of berth's `unsafe`.
//!
//! What rustix and nix offer safely is used from them directly; here is the rest. Errors are bare errnos: the
//! caller knows the step and the object.

#[cfg(target_arch = "x86_64")]
mod before_libc;
mod bpf;
mod call;
mod caps;
mod clone;
mod close_range;
mod entry;
mod execve;
mod heap;
mod inherited;
mod keyring;
mod kill;
mod link;
mod mount_setattr;
mod namespace;
mod pidfd;
mod pidfd_info;
mod process;
mod sched;
mod seccomp;
mod shared_bytes;
mod stack;

#[cfg(target_arch = "x86_64")]
pub use before_libc::berth_before_libc;
pub use bpf::{
    BpfInsn, bpf_attach_device_program, bpf_detach_device_program, bpf_device_programs,
    bpf_load_device_program,
};
pub use caps::{
    CapSets, cap_ambient_clear_all, cap_ambient_raise, capbset_drop, capbset_read, capget, capset,
};
pub use clone::{Child, clone_flags, clone3, exit};
pub use close_range::{close_all_but, close_all_but_these, close_together};
pub use entry::begin;
pub use execve::{CStringArray, execve, execveat};
pub use heap::malloc_trim;
pub use inherited::take_inherited_fd;
pub use keyring::keyctl_join_session_keyring;
pub use kill::kill;
pub use link::set_link_up;
pub use mount_setattr::{
    Depth, MountAttr, mount_attr, mount_setattr, mount_setattr_at, open_tree_attr, propagation,
};
pub use namespace::{setns, unshare};
pub use pidfd::pidfd_send_signal;
pub use pidfd_info::pidfd_exit_status;
pub use process::{
    close_range_cloexec, dup_onto, personality, reset_signals, set_keep_caps, set_no_new_privs,
    set_undumpable,
};
pub use sched::{SchedAttr, ioprio_set, sched_setaffinity, sched_setattr, set_mempolicy};
pub use seccomp::{SockFilter, seccomp_knows_flags, seccomp_set_mode_filter};
pub use shared_bytes::SharedBytes;
pub use stack::madvise_stack;
