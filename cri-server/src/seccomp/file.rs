//! Profiles as files: the containers' format, of which the OCI's own `seccomp` object is the plain case.
//!
//! A profile may name conditions for its rules (`includes`, `excludes`) and a map of architectures; both are
//! settled here for one machine and one set of capabilities. A key that we do not know is an error: a rule that
//! is left out in silence is a hole or a puzzle.

use oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompFilterFlag, LinuxSyscall,
};
use serde::Deserialize;

use super::{Conditions, version};

/// Why a text is no profile of ours.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("not a seccomp profile: {0}")]
    Json(#[from] serde_json::Error),
    #[error("architectures and archMap are both given")]
    TwoArchitectures,
    #[error("a rule has both name and names, or neither")]
    Names,
    #[error("the error {0} has no number here; give errnoRet instead")]
    UnknownErrno(String),
    #[error("{0:?} is not a kernel version such as 5.10")]
    KernelVersion(String),
    #[error("SCMP_ACT_NOTIFY needs a listener, which berth does not have yet")]
    Notify,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Profile {
    default_action: LinuxSeccompAction,
    default_errno_ret: Option<u32>,
    default_errno: Option<String>,
    #[serde(default)]
    architectures: Vec<Arch>,
    #[serde(default)]
    arch_map: Vec<Architecture>,
    #[serde(default)]
    flags: Vec<LinuxSeccompFilterFlag>,
    #[serde(default)]
    syscalls: Vec<Rule>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Architecture {
    architecture: Arch,
    #[serde(default)]
    sub_architectures: Vec<Arch>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Rule {
    name: Option<String>,
    #[serde(default)]
    names: Vec<String>,
    action: LinuxSeccompAction,
    errno_ret: Option<u32>,
    errno: Option<String>,
    /// The format writes an absent list as `null`.
    args: Option<Vec<LinuxSeccompArg>>,
    #[serde(default)]
    includes: Filter,
    #[serde(default)]
    excludes: Filter,
    /// For people.
    #[serde(default, rename = "comment")]
    _comment: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Filter {
    #[serde(default)]
    arches: Vec<String>,
    #[serde(default)]
    caps: Vec<String>,
    min_kernel: Option<String>,
}

/// The filter that the profile gives under `conditions`.
///
/// # Errors
/// When the text is no profile, or has something in it that we would have to leave out.
pub fn parse_for(text: &[u8], conditions: &Conditions<'_>) -> Result<LinuxSeccomp, Error> {
    let profile: Profile = serde_json::from_slice(text)?;
    let mut rules = Vec::new();
    for rule in &profile.syscalls {
        if rule.counts(conditions)? {
            rules.push(rule.settled()?);
        }
    }
    let notifies = |action| action == LinuxSeccompAction::ScmpActNotify;
    if notifies(profile.default_action) || rules.iter().any(|rule| notifies(rule.action())) {
        return Err(Error::Notify);
    }
    let mut seccomp = LinuxSeccomp::default();
    seccomp
        .set_default_action(profile.default_action)
        .set_default_errno_ret(errno(profile.default_errno_ret, profile.default_errno.as_deref())?)
        .set_architectures(Some(profile.settled_architectures(conditions)?))
        .set_flags((!profile.flags.is_empty()).then(|| profile.flags.clone()))
        .set_syscalls(Some(rules));
    Ok(seccomp)
}

impl Profile {
    /// An empty list means the native architecture, to the runtime as to the format.
    fn settled_architectures(&self, conditions: &Conditions<'_>) -> Result<Vec<Arch>, Error> {
        if self.arch_map.is_empty() {
            return Ok(self.architectures.clone());
        }
        if !self.architectures.is_empty() {
            return Err(Error::TwoArchitectures);
        }
        let native = conditions.machine.architectures()[0];
        let entry = self.arch_map.iter().find(|entry| entry.architecture == native);
        let Some(entry) = entry else { return Ok(vec![native]) };
        Ok(std::iter::once(native).chain(entry.sub_architectures.iter().copied()).collect())
    }
}

impl Rule {
    fn counts(&self, conditions: &Conditions<'_>) -> Result<bool, Error> {
        Ok(self.includes.included(conditions)? && !self.excludes.excluded(conditions)?)
    }

    fn settled(&self) -> Result<LinuxSyscall, Error> {
        let names = match (&self.name, self.names.as_slice()) {
            (Some(name), []) => vec![name.clone()],
            (None, [_, ..]) => self.names.clone(),
            (Some(_), [_, ..]) | (None, []) => return Err(Error::Names),
        };
        let args = self.args.clone().filter(|args| !args.is_empty());
        let mut rule = LinuxSyscall::default();
        rule.set_names(names)
            .set_action(self.action)
            .set_errno_ret(errno(self.errno_ret, self.errno.as_deref())?)
            .set_args(args);
        Ok(rule)
    }
}

impl Filter {
    /// Includes: one of the machines, all of the capabilities, at least the kernel.
    fn included(&self, conditions: &Conditions<'_>) -> Result<bool, Error> {
        let machine = self.arches.is_empty() || self.names_machine(conditions);
        let capabilities = self.caps.iter().all(|name| holds(conditions, name));
        Ok(machine && capabilities && self.kernel(conditions)?.unwrap_or(true))
    }

    /// Excludes: any of them.
    fn excluded(&self, conditions: &Conditions<'_>) -> Result<bool, Error> {
        let capability = self.caps.iter().any(|name| holds(conditions, name));
        Ok(self.names_machine(conditions) || capability || self.kernel(conditions)?.unwrap_or(false))
    }

    fn names_machine(&self, conditions: &Conditions<'_>) -> bool {
        self.arches.iter().any(|name| name == conditions.machine.name())
    }

    fn kernel(&self, conditions: &Conditions<'_>) -> Result<Option<bool>, Error> {
        let Some(text) = &self.min_kernel else { return Ok(None) };
        let wanted = version(text).ok_or_else(|| Error::KernelVersion(text.clone()))?;
        Ok(Some(conditions.kernel >= wanted))
    }
}

fn holds(conditions: &Conditions<'_>, name: &str) -> bool {
    let bare = name.strip_prefix("CAP_").unwrap_or(name);
    conditions.capabilities.iter().any(|capability| capability.to_string() == bare)
}

/// The number wins over the name; the format writes both.
fn errno(number: Option<u32>, name: Option<&str>) -> Result<Option<u32>, Error> {
    let known = |name: &str| ERRNOS.iter().find(|(known, _)| *known == name).map(|(_, number)| *number);
    match (number, name) {
        (Some(number), _) => Ok(Some(number)),
        (None, None | Some("")) => Ok(None),
        (None, Some(name)) => known(name).map(Some).ok_or_else(|| Error::UnknownErrno(name.to_owned())),
    }
}

/// What profiles in the field answer with (errno(3), the same on all our machines).
const ERRNOS: [(&str, u32); 10] = [
    ("EPERM", 1),
    ("ENOENT", 2),
    ("EIO", 5),
    ("EAGAIN", 11),
    ("EACCES", 13),
    ("EINVAL", 22),
    ("ENOSYS", 38),
    ("EOPNOTSUPP", 95),
    ("ENOTSUP", 95),
    ("EAFNOSUPPORT", 97),
];
