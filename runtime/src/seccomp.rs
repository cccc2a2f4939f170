//! Seccomp profiles become BPF programs.
//!
//! `rules` decides (profile in, verdicts by number out), `assemble` writes the instructions, `cache` keeps
//! them for the next container with the same profile. Loading a filter is the caller's: it must be the last
//! thing a container's process does for us. Verdicts are those of libseccomp under runc, and tests hold them
//! against it.

mod arch;
mod assemble;
mod cache;
#[doc(hidden)]
pub mod machine;
mod rules;
mod syscalls;

pub use arch::Arch;

use std::path::{Path, PathBuf};

use kernel::SockFilter;

use crate::later::Later;
use crate::spec::{self, Action};
use assemble::{Section, assemble};
use rules::Rules;

/// BPF_MAXINSNS: the kernel takes no longer program.
const MAX_INSTRUCTIONS: usize = 4096;

const FLAG_TSYNC: u32 = 1;
const FLAG_LOG: u32 = 1 << 1;
const FLAG_SPEC_ALLOW: u32 = 1 << 2;
pub(crate) const FLAG_NEW_LISTENER: u32 = 1 << 3;
const FLAG_TSYNC_ESRCH: u32 = 1 << 4;
const FLAG_WAIT_KILLABLE_RECV: u32 = 1 << 5;

/// What `architectures` may name (config-linux.md, "Seccomp", and libseccomp's later ones).
pub const ARCHITECTURE_NAMES: [&str; 23] = [
    "SCMP_ARCH_AARCH64",
    "SCMP_ARCH_ARM",
    "SCMP_ARCH_LOONGARCH64",
    "SCMP_ARCH_M68K",
    "SCMP_ARCH_MIPS",
    "SCMP_ARCH_MIPS64",
    "SCMP_ARCH_MIPS64N32",
    "SCMP_ARCH_MIPSEL",
    "SCMP_ARCH_MIPSEL64",
    "SCMP_ARCH_MIPSEL64N32",
    "SCMP_ARCH_PARISC",
    "SCMP_ARCH_PARISC64",
    "SCMP_ARCH_PPC",
    "SCMP_ARCH_PPC64",
    "SCMP_ARCH_PPC64LE",
    "SCMP_ARCH_RISCV64",
    "SCMP_ARCH_S390",
    "SCMP_ARCH_S390X",
    "SCMP_ARCH_SH",
    "SCMP_ARCH_SHEB",
    "SCMP_ARCH_X32",
    "SCMP_ARCH_X86",
    "SCMP_ARCH_X86_64",
];

/// What `flags` may name.
pub const FLAG_NAMES: [&str; 4] = [
    "SECCOMP_FILTER_FLAG_LOG",
    "SECCOMP_FILTER_FLAG_SPEC_ALLOW",
    "SECCOMP_FILTER_FLAG_TSYNC",
    "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV",
];

/// A compiled profile, ready for seccomp(2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter {
    pub program: Vec<SockFilter>,
    /// SECCOMP_FILTER_FLAG_*; NEW_LISTENER is among them when `listener`.
    pub flags: u32,
    /// The profile has a rule that asks a listener: the descriptor must be sent to `listenerPath`.
    pub listener: bool,
}

/// Why a profile could not be compiled.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("architectures: {name} is not a name of the OCI specification")]
    Architecture { name: String },
    #[error("flags: {name} is not known")]
    Flag { name: String },
    #[error("syscalls[{index}].names is empty")]
    NoNames { index: usize },
    #[error("syscalls[{index}].args: a system call has no argument {arg}")]
    ArgIndex { index: usize, arg: u32 },
    #[error("{place}: error number {errno} is more than {max}")]
    Errno { place: String, errno: u32, max: u32 },
    #[error("{place}: an error number goes only with SCMP_ACT_ERRNO and SCMP_ACT_TRACE")]
    ErrnoWithoutUse { place: String },
    #[error("defaultAction: SCMP_ACT_NOTIFY would leave the container unable to reach its listener")]
    NotifyByDefault,
    #[error("syscalls[{index}]: SCMP_ACT_NOTIFY on write would leave nobody to report what goes wrong")]
    NotifyWrite { index: usize },
    #[error("listenerPath is empty, but a rule asks a listener (SCMP_ACT_NOTIFY)")]
    NoListener,
    #[error("listenerMetadata without listenerPath")]
    MetadataAlone,
    #[error("{instructions} instructions; the kernel takes {MAX_INSTRUCTIONS}")]
    TooLong { instructions: usize },
}

/// Compiles a profile for this machine's architecture and those it names.
///
/// # Errors
/// The profile contradicts itself or the OCI specification, or is too large for the kernel.
pub fn compile(profile: &spec::Seccomp) -> Result<Filter, Error> {
    let listener = needs_listener(profile)?;
    let flags = flags(profile, listener)?;
    let abis = architectures(profile)?;
    let rules = Rules::read(profile)?;
    let sections: Vec<Section> =
        abis.chunk_by(|one, other| one.audit() == other.audit()).map(|abis| section(&rules, abis)).collect();
    let program = assemble(&sections, rules.default);
    if program.len() > MAX_INSTRUCTIONS {
        return Err(Error::TooLong { instructions: program.len() });
    }
    Ok(Filter { program, flags, listener })
}

/// The same, keeping the outcome in `dir` for the next container with this profile, and telling in which file. A cache
/// that cannot be used costs time, nothing else: its failures are not reported.
///
/// # Errors
/// As `compile`.
pub fn compile_cached(profile: &spec::Seccomp, dir: &Path) -> Result<(Filter, PathBuf), Error> {
    let (filter, cached) = find_or_compile(profile, dir, &Later::default())?;
    Ok((filter, cached.unwrap_or_else(|| cache::Key::of(profile).path(dir))))
}

/// The same, where files that were read may close with others. The path is that of the filter in the cache, where it is
/// known to be there: it was read from it, or written to it.
pub(crate) fn find_or_compile(
    profile: &spec::Seccomp,
    dir: &Path,
    later: &Later,
) -> Result<(Filter, Option<PathBuf>), Error> {
    let key = cache::Key::of(profile);
    let path = key.path(dir);
    if let Some(filter) = cache::load(dir, &key, later) {
        return Ok((filter, Some(path)));
    }
    let filter = compile(profile)?;
    let stored = cache::store(dir, &key, &filter);
    Ok((filter, stored.then_some(path)))
}

impl Filter {
    /// As a file of a container's own has it, where it does not matter what it was compiled from.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        cache::encode(self, &cache::Key::none())
    }

    /// Of such a file, or of one in the cache; `None` when it is damaged.
    pub(crate) fn from_bytes(bytes: &[u8]) -> Option<Filter> {
        cache::decode(bytes).map(|(_, filter)| filter)
    }
}

fn section(rules: &Rules<'_>, abis: &[Arch]) -> Section {
    let wide = if abis.contains(&Arch::X32) { false } else { abis[0].is_wide() };
    Section { audit: abis[0].audit(), wide: [abis[0].is_wide(), wide], ranges: rules.ranges(abis) }
}

/// The architectures to judge, this machine's first, those that share an audit architecture side by side.
fn architectures(profile: &spec::Seccomp) -> Result<Vec<Arch>, Error> {
    let mut abis = vec![Arch::NATIVE];
    for name in &profile.architectures {
        abis.extend(architecture(name)?);
    }
    abis.sort_by_key(|abi| (abi.audit() != Arch::NATIVE.audit(), abi.audit(), *abi));
    abis.dedup();
    Ok(abis)
}

/// Architectures of the specification whose programs none of our machines can run are nothing to judge: a
/// call from one would be killed, listed or not.
fn architecture(name: &str) -> Result<Option<Arch>, Error> {
    if !ARCHITECTURE_NAMES.contains(&name) {
        return Err(Error::Architecture { name: name.to_owned() });
    }
    Ok(match name {
        "SCMP_ARCH_X86_64" => Some(Arch::X86_64),
        "SCMP_ARCH_X86" => Some(Arch::X86),
        "SCMP_ARCH_X32" => Some(Arch::X32),
        "SCMP_ARCH_AARCH64" => Some(Arch::Aarch64),
        "SCMP_ARCH_ARM" => Some(Arch::Arm),
        _ => None,
    })
}

fn needs_listener(profile: &spec::Seccomp) -> Result<bool, Error> {
    let asks = profile.syscalls.iter().any(|rule| rule.action == Action::Notify);
    match profile.listener_path.as_deref().unwrap_or_default() {
        "" if asks => Err(Error::NoListener),
        "" if profile.listener_metadata.as_deref().is_some_and(|data| !data.is_empty()) => {
            Err(Error::MetadataAlone)
        }
        _ => Ok(asks),
    }
}

/// The flags of seccomp(2). The kernel wants TSYNC_ESRCH where TSYNC and a listener meet, since both have a
/// word to say with the call's answer.
fn flags(profile: &spec::Seccomp, listener: bool) -> Result<u32, Error> {
    let mut flags = if listener { FLAG_NEW_LISTENER } else { 0 };
    for name in &profile.flags {
        flags |= match flag(name).ok_or_else(|| Error::Flag { name: name.clone() })? {
            FLAG_TSYNC if listener => FLAG_TSYNC | FLAG_TSYNC_ESRCH,
            // It says how listeners are waited for; the kernel refuses it where there is none.
            FLAG_WAIT_KILLABLE_RECV if !listener => 0,
            other => other,
        };
    }
    Ok(flags)
}

fn flag(name: &str) -> Option<u32> {
    match name {
        "SECCOMP_FILTER_FLAG_TSYNC" => Some(FLAG_TSYNC),
        "SECCOMP_FILTER_FLAG_LOG" => Some(FLAG_LOG),
        "SECCOMP_FILTER_FLAG_SPEC_ALLOW" => Some(FLAG_SPEC_ALLOW),
        "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV" => Some(FLAG_WAIT_KILLABLE_RECV),
        _ => None,
    }
}

/// Those of `FLAG_NAMES` that this kernel knows.
#[must_use]
pub fn supported_flags() -> Vec<&'static str> {
    let known = |name: &&&str| {
        let flag = flag(name).unwrap_or_default();
        // This one counts only beside a listener.
        let beside = if flag == FLAG_WAIT_KILLABLE_RECV { FLAG_NEW_LISTENER } else { 0 };
        kernel::seccomp_knows_flags(flag | beside)
    };
    FLAG_NAMES.iter().filter(known).copied().collect()
}
