//! placeholder
mod heap;
mod inherited;
mod pidfd_info;

pub use heap::malloc_trim;
pub use inherited::take_inherited_fd;
pub use pidfd_info::pidfd_exit_status;
