//! Capabilities by name, as masks.

use crate::Error;
use crate::spec;

/// In the order of their numbers: linux/capability.h.
pub const NAMES: &[&str] = &[
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
];

/// The five sets.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Sets {
    pub(crate) bounding: u64,
    pub(crate) effective: u64,
    pub(crate) permitted: u64,
    pub(crate) inheritable: u64,
    pub(crate) ambient: u64,
}

impl Sets {
    /// The same without what cannot be granted; config.md: such a value "MUST be logged as a warning".
    pub(crate) fn within(self, available: u64) -> Sets {
        Sets {
            bounding: self.bounding & available,
            effective: self.effective & available,
            permitted: self.permitted & available,
            inheritable: self.inheritable & available,
            ambient: self.ambient & available,
        }
    }

    pub(crate) fn all(self) -> u64 {
        self.bounding | self.effective | self.permitted | self.inheritable | self.ambient
    }
}

/// The names of a mask's bits.
pub(crate) fn names(mask: u64) -> Vec<&'static str> {
    NAMES.iter().enumerate().filter(|(i, _)| mask & 1 << i != 0).map(|(_, name)| *name).collect()
}

/// The sets, and the names that no kernel of ours knows.
pub(super) fn plan(capabilities: &spec::Capabilities) -> Result<(Sets, Vec<String>), Error> {
    let mut unknown = Vec::new();
    let mut set = |names: &[String]| mask(names, &mut unknown);
    let sets = Sets {
        bounding: set(&capabilities.bounding),
        effective: set(&capabilities.effective),
        permitted: set(&capabilities.permitted),
        inheritable: set(&capabilities.inheritable),
        ambient: set(&capabilities.ambient),
    };
    unknown.sort();
    unknown.dedup();
    if sets.effective & !sets.permitted != 0 {
        return Err(Error::invalid("process.capabilities.effective", "holds what permitted does not"));
    }
    Ok((sets, unknown))
}

fn mask(names: &[String], unknown: &mut Vec<String>) -> u64 {
    names.iter().fold(0, |mask, name| match NAMES.iter().position(|known| known == name) {
        Some(number) => mask | 1 << number,
        None => {
            unknown.push(name.clone());
            mask
        }
    })
}
