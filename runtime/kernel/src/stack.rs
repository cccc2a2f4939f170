//! The main thread's stack.

/// More than anything of ours ever uses; what is not mapped is passed over.
const REACH: usize = 512 << 10;
const PAGE: usize = 4096;

/// Gives back the pages of the stack below the caller, which a deep call once touched and nothing uses now.
#[inline(never)]
pub fn madvise_stack() {
    let here = 0_u8;
    let used = (&raw const here).addr() & !(PAGE - 1);
    let end = used.saturating_sub(PAGE);
    let start = std::ptr::without_provenance_mut(end.saturating_sub(REACH));
    // SAFETY: all frames in use lie above `end`: ours holds `here`, and that of madvise has a page. What is below is
    // dead, and the kernel keeps a gap of a megabyte below a stack, so no other mapping is reached (mmap(2)).
    unsafe { libc::madvise(start, REACH, libc::MADV_DONTNEED) };
}
