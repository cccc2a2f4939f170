//! The architectures whose system calls a filter can judge: their numbers, their names, their quirks.

use super::syscalls::{NONE, SYSCALLS};

/// Added to every x32 number, so that x86_64's and x32's calls can share an audit architecture.
pub(super) const X32_BIT: u32 = 0x4000_0000;

/// An ABI: the columns of `SYSCALLS`, in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Arch {
    X86_64,
    X86,
    X32,
    Aarch64,
    Arm,
}

impl Arch {
    pub const ALL: [Arch; 5] = [Arch::X86_64, Arch::X86, Arch::X32, Arch::Aarch64, Arch::Arm];

    #[cfg(target_arch = "x86_64")]
    pub const NATIVE: Arch = Arch::X86_64;
    #[cfg(target_arch = "x86")]
    pub const NATIVE: Arch = Arch::X86;
    #[cfg(target_arch = "aarch64")]
    pub const NATIVE: Arch = Arch::Aarch64;
    #[cfg(target_arch = "arm")]
    pub const NATIVE: Arch = Arch::Arm;

    /// `seccomp_data.arch` of its calls (linux/audit.h).
    #[must_use]
    pub fn audit(self) -> u32 {
        match self {
            Arch::X86_64 | Arch::X32 => 0xc000_003e,
            Arch::X86 => 0x4000_0003,
            Arch::Aarch64 => 0xc000_00b7,
            Arch::Arm => 0x4000_0028,
        }
    }

    /// Whether its arguments are 64 bits wide. x32's are taken as 32, as libseccomp does.
    #[must_use]
    pub fn is_wide(self) -> bool {
        matches!(self, Arch::X86_64 | Arch::Aarch64)
    }

    /// The number of a call, the x32 bit included.
    #[must_use]
    pub fn number(self, name: &str) -> Option<u32> {
        numbers(name).and_then(|row| self.column(row)).or_else(|| self.private_number(name))
    }

    pub(super) fn column(self, row: &[u16; 5]) -> Option<u32> {
        let number = row[self as usize];
        let bit = if self == Arch::X32 { X32_BIT } else { 0 };
        (number != NONE).then_some(u32::from(number) | bit)
    }

    /// ARM's own calls live far above the others (arch/arm/include/uapi/asm/unistd.h).
    pub(super) fn private_number(self, name: &str) -> Option<u32> {
        if self != Arch::Arm {
            return None;
        }
        let call = ["breakpoint", "cacheflush", "usr26", "usr32", "set_tls", "get_tls"]
            .iter()
            .position(|n| *n == name)?;
        Some(ARM_PRIVATE + 1 + call as u32)
    }

    /// The multiplexer that carries a call on this architecture as well, and its first argument there.
    pub(super) fn multiplexed(self, name: &str) -> Option<(u32, u64)> {
        if self != Arch::X86 {
            return None;
        }
        let find =
            |calls: &[(&str, u64)]| calls.iter().find(|(call, _)| *call == name).map(|(_, first)| *first);
        find(&SOCKETCALL).map(|call| (102, call)).or_else(|| find(&IPC).map(|call| (117, call)))
    }
}

/// Where ARM's private calls begin.
pub(super) const ARM_PRIVATE: u32 = 0x000f_0000;

/// The row of a call in the table.
pub(super) fn numbers(name: &str) -> Option<&'static [u16; 5]> {
    SYSCALLS.binary_search_by(|(other, _)| (*other).cmp(name)).ok().map(|row| &SYSCALLS[row].1)
}

/// socketcall(2): include/uapi/linux/net.h.
const SOCKETCALL: [(&str, u64); 20] = [
    ("socket", 1),
    ("bind", 2),
    ("connect", 3),
    ("listen", 4),
    ("accept", 5),
    ("getsockname", 6),
    ("getpeername", 7),
    ("socketpair", 8),
    ("send", 9),
    ("recv", 10),
    ("sendto", 11),
    ("recvfrom", 12),
    ("shutdown", 13),
    ("setsockopt", 14),
    ("getsockopt", 15),
    ("sendmsg", 16),
    ("recvmsg", 17),
    ("accept4", 18),
    ("recvmmsg", 19),
    ("sendmmsg", 20),
];

/// ipc(2): include/uapi/linux/ipc.h.
const IPC: [(&str, u64); 12] = [
    ("semop", 1),
    ("semget", 2),
    ("semctl", 3),
    ("semtimedop", 4),
    ("msgsnd", 11),
    ("msgrcv", 12),
    ("msgget", 13),
    ("msgctl", 14),
    ("shmat", 21),
    ("shmdt", 22),
    ("shmget", 23),
    ("shmctl", 24),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_sorted_so_that_it_can_be_searched() {
        assert!(SYSCALLS.windows(2).all(|pair| pair[0].0 < pair[1].0));
    }

    #[test]
    fn numbers_differ_by_architecture() {
        let check = |name: &str, expected: [Option<u32>; 5]| {
            assert_eq!(Arch::ALL.map(|arch| arch.number(name)), expected, "{name}");
        };
        check("read", [Some(0), Some(3), Some(X32_BIT), Some(63), Some(3)]);
        check("openat2", [Some(437), Some(437), Some(X32_BIT | 437), Some(437), Some(437)]);
        check("mmap2", [None, Some(192), None, None, Some(192)]);
        check("execve", [Some(59), Some(11), Some(X32_BIT | 520), Some(221), Some(11)]);
        check("cacheflush", [None, None, None, None, Some(0xf0002)]);
        check("no_such_call", [None; 5]);
    }

    #[test]
    fn only_arm_has_a_number_with_two_names() {
        for arch in Arch::ALL {
            let mut seen = std::collections::BTreeMap::new();
            for (name, row) in &SYSCALLS {
                let Some(number) = arch.column(row) else { continue };
                if (arch, *name) == (Arch::Arm, "sync_file_range2") {
                    continue; // It is arm_sync_file_range, by an older name.
                }
                assert_eq!(seen.insert(number, name), None, "{arch:?} {name} {number}");
            }
        }
    }
}
