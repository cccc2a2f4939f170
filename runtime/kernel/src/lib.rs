//! placeholder
mod heap;
mod inherited;
mod pidfd_info;
mod seccomp;

pub use heap::malloc_trim;
pub use inherited::take_inherited_fd;
pub use pidfd_info::pidfd_exit_status;
pub use seccomp::{SockFilter, seccomp_set_mode_filter};
