//! What a program answers for a call, worked out as the kernel would: for tests, ours and others'.

use kernel::SockFilter;

/// `struct seccomp_data` without the instruction pointer, which no profile can name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Call {
    pub number: u32,
    /// AUDIT_ARCH_*, as `Arch::audit` gives.
    pub audit: u32,
    pub args: [u64; 6],
}

impl Call {
    fn word(&self, offset: u32) -> Option<u32> {
        match offset {
            0 => Some(self.number),
            4 => Some(self.audit),
            16..64 if offset.is_multiple_of(4) => {
                let arg = self.args[(offset as usize - 16) / 8];
                Some((arg >> (offset % 8 * 8)) as u32)
            }
            _ => None,
        }
    }
}

/// The program's SECCOMP_RET_*; `None` when it does what the kernel's checker would refuse.
#[must_use]
pub fn answer(program: &[SockFilter], call: &Call) -> Option<u32> {
    let (mut accumulator, mut at) = (0_u32, 0_usize);
    // A program only goes forward, so it takes no more steps than it has instructions.
    loop {
        let step = program.get(at)?;
        let branch = |taken: bool| usize::from(if taken { step.jt } else { step.jf });
        at += 1;
        match step.code {
            0x20 => accumulator = call.word(step.k)?,
            0x54 => accumulator &= step.k,
            0x05 => at += step.k as usize,
            0x15 => at += branch(accumulator == step.k),
            0x25 => at += branch(accumulator > step.k),
            0x35 => at += branch(accumulator >= step.k),
            0x45 => at += branch(accumulator & step.k != 0),
            0x06 => return Some(step.k),
            _ => return None,
        }
    }
}
