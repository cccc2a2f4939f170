//! The C library's heap.

/// Gives free memory back to the kernel. For a process that works for a moment and then idles for days.
pub fn malloc_trim() {
    #[cfg(target_env = "gnu")]
    // SAFETY: the allocator locks itself, and only memory that nobody holds is given back.
    unsafe {
        libc::malloc_trim(0);
    }
}
