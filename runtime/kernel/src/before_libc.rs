//! What a program does before the C library's own beginning: executing itself again, if it has to.
//!
//! At each start the library asks the processor about its caches by 68 CPUID instructions (glibc 2.36 on Intel). A
//! virtual machine stops for each of them: in a nested one a program that does nothing takes 0.97 ms, and without the
//! library 0.16 ms. Who executes itself again first thing need not pay for that twice.
//!
//! Nothing of the library works here: there is no errno and no thread-local storage, and memcpy is a jump to nowhere. So
//! there is no call but the kernel's, no loop over bytes that a compiler would make one of, and no table of pointers,
//! which a position-independent program has yet to relocate. Where anything fails, nothing has happened, and the
//! program begins as always: whoever needs the protection asks for it again, with words for what is wrong.

use std::arch::{asm, naked_asm};
use std::mem::MaybeUninit;

use crate::mount_setattr::{MountAttr, SYS_OPEN_TREE_ATTR, mount_attr};

const SELF: *const u8 = c"/proc/self/exe".as_ptr().cast();
const CLONE: usize = 0x1;
const CLOEXEC: usize = libc::O_CLOEXEC as usize;
const HERE: usize = libc::AT_FDCWD as isize as usize;
const EMPTY_PATH: usize = libc::AT_EMPTY_PATH as usize;
const READ_ONLY: u64 = libc::ST_RDONLY;
/// In words, of `struct statfs` and its `f_flags`.
const STATFS: usize = 15;
const STATFS_FLAGS: usize = 10;

/// The entry point (`-e`) of a program one of whose arguments may be `create`, `run` or `exec`, commands that a
/// container must not reach the program's file by: it is executed again from a read-only clone of its mount, unless it
/// is on one already. A program of another meaning loses nothing by it.
///
/// # Safety
/// For the kernel or the dynamic loader to jump to, with what they hand to `_start`.
#[unsafe(naked)]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn berth_before_libc() {
    // The stack is as the kernel laid it out, and rdx is the loader's: both are what `_start` wants to find.
    naked_asm!(
        "mov rdi, rsp",
        "push rdx",
        "push rdx",
        "call {before}",
        "pop rdx",
        "pop rdx",
        "jmp _start",
        before = sym before,
    )
}

/// # Safety
/// `stack` is where the kernel has put argc, the arguments, a null, the environment and another null.
unsafe extern "C" fn before(stack: *const usize) {
    // SAFETY: wrong only if the caller's promise were, as below.
    let count = unsafe { *stack };
    let args = stack.wrapping_add(1).cast::<*const u8>();
    let makes = (1..count).any(|i| {
        // SAFETY: there are `count` arguments.
        let word = unsafe { *args.wrapping_add(i) };
        // SAFETY: each of them is a C string.
        unsafe { is_maker(word) }
    });
    if makes && !is_readonly() {
        execute_readonly(args, args.wrapping_add(count + 1));
    }
}

/// # Safety
/// `word` is a C string.
unsafe fn is_maker(word: *const u8) -> bool {
    // SAFETY: `all` stops at the first difference, the end of the string being one.
    let is = |name: &[u8]| (0..name.len()).all(|i| unsafe { *word.wrapping_add(i) } == name[i]);
    is(b"create\0") || is(b"run\0") || is(b"exec\0")
}

fn is_readonly() -> bool {
    let mut statfs = MaybeUninit::<[u64; STATFS]>::uninit();
    let answer = statfs.as_mut_ptr().cast::<u64>();
    let asked = call(libc::SYS_statfs, [address(SELF), address(answer), 0, 0, 0]);
    // SAFETY: the kernel has filled it in, all of it, when it answers 0.
    asked == 0 && unsafe { *answer.wrapping_add(STATFS_FLAGS) } & READ_ONLY != 0
}

/// Comes back when it can't be done.
fn execute_readonly(args: *const *const u8, env: *const *const u8) {
    let readonly = MountAttr { set: mount_attr::RDONLY, clear: 0, propagation: 0, userns_fd: 0 };
    let (attr, size) = (address(&raw const readonly), size_of::<MountAttr>());
    let (program, empty) = (address(SELF), address(c"".as_ptr()));
    let mut tree = call(SYS_OPEN_TREE_ATTR, [HERE, program, CLONE | CLOEXEC, attr, size]);
    if tree < 0 {
        // Before Linux 6.15 it takes two.
        tree = call(libc::SYS_open_tree, [HERE, program, CLONE | CLOEXEC, 0, 0]);
        if tree < 0 {
            return;
        }
        if call(libc::SYS_mount_setattr, [tree as usize, empty, EMPTY_PATH, attr, size]) < 0 {
            call(libc::SYS_close, [tree as usize, 0, 0, 0, 0]);
            return;
        }
    }
    call(libc::SYS_execveat, [tree as usize, empty, address(args), address(env), EMPTY_PATH]);
    call(libc::SYS_close, [tree as usize, 0, 0, 0, 0]);
}

/// For the kernel to read or write there.
fn address<T>(pointer: *const T) -> usize {
    pointer.expose_provenance()
}

/// A system call; errors are negative.
fn call(number: libc::c_long, args: [usize; 5]) -> isize {
    let value;
    // SAFETY: what the kernel writes is said by the callers: a statfs, into room of its size.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") number => value,
            in("rdi") args[0], in("rsi") args[1], in("rdx") args[2], in("r10") args[3], in("r8") args[4],
            lateout("rcx") _, lateout("r11") _,
            options(nostack),
        );
    }
    value
}
