//! Seccomp profiles: our RuntimeDefault, and profiles that an operator wrote.
//!
//! Pure: capabilities and text in, the filter of an OCI configuration out. Who compiles it is the runtime's
//! business. RuntimeDefault is data in [`profile`]; a test compares it call by call with the containers'
//! default where that is installed.

use oci_spec::runtime::{Arch, Capability, LinuxSeccomp, LinuxSeccompAction, LinuxSyscall};

mod file;
mod profile;

#[cfg(test)]
mod tests;

pub use file::{Error, parse_for};

/// What a profile's conditions are held against.
#[derive(Debug, Clone, Copy)]
pub struct Conditions<'a> {
    pub machine: Machine,
    /// What the container is granted.
    pub capabilities: &'a [Capability],
    /// Major and minor version of the running kernel.
    pub kernel: (u32, u32),
}

/// The processor, with the name that profiles use for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Machine {
    Amd64,
    Arm64,
    Ppc64le,
    S390x,
    Riscv64,
}

impl Machine {
    /// The one we are built for. An unknown one gets the smallest set of calls.
    pub fn here() -> Self {
        match std::env::consts::ARCH {
            "x86_64" => Self::Amd64,
            "aarch64" => Self::Arm64,
            "powerpc64" => Self::Ppc64le,
            "s390x" => Self::S390x,
            _ => Self::Riscv64,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Amd64 => "amd64",
            Self::Arm64 => "arm64",
            Self::Ppc64le => "ppc64le",
            Self::S390x => "s390x",
            Self::Riscv64 => "riscv64",
        }
    }

    /// The native architecture first, then those whose programs it also runs.
    fn architectures(self) -> &'static [Arch] {
        match self {
            Self::Amd64 => &[Arch::ScmpArchX86_64, Arch::ScmpArchX86, Arch::ScmpArchX32],
            Self::Arm64 => &[Arch::ScmpArchAarch64, Arch::ScmpArchArm],
            Self::Ppc64le => &[Arch::ScmpArchPpc64le],
            Self::S390x => &[Arch::ScmpArchS390x, Arch::ScmpArchS390],
            Self::Riscv64 => &[Arch::ScmpArchRiscv64],
        }
    }
}

/// The filter of a container that asks for RuntimeDefault.
pub fn runtime_default(capabilities: &[Capability]) -> LinuxSeccomp {
    runtime_default_on(Machine::here(), capabilities)
}

fn runtime_default_on(machine: Machine, capabilities: &[Capability]) -> LinuxSeccomp {
    let mut seccomp = LinuxSeccomp::default();
    seccomp
        .set_default_action(LinuxSeccompAction::ScmpActErrno)
        .set_default_errno_ret(Some(profile::ENOSYS))
        .set_architectures(Some(machine.architectures().to_vec()))
        .set_syscalls(Some(profile::rules(machine, capabilities)));
    seccomp
}

/// The filter that an operator's profile gives on this machine.
///
/// # Errors
/// When the text is no profile, or has something in it that we would have to leave out.
pub fn parse(text: &[u8], capabilities: &[Capability]) -> Result<LinuxSeccomp, Error> {
    parse_for(text, &Conditions { machine: Machine::here(), capabilities, kernel: running_kernel() })
}

/// `6.1.0-17-amd64` is 6.1.
fn running_kernel() -> (u32, u32) {
    let name = rustix::system::uname();
    version(&name.release().to_string_lossy()).unwrap_or((0, 0))
}

fn version(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text.split(|letter: char| !letter.is_ascii_digit()).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

/// A rule for calls whatever their arguments.
fn rule(names: &[&str], action: LinuxSeccompAction, errno: Option<u32>) -> LinuxSyscall {
    let mut rule = LinuxSyscall::default();
    rule.set_names(names.iter().map(ToString::to_string).collect()).set_action(action).set_errno_ret(errno);
    rule
}
