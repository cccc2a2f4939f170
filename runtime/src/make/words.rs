//! A child's failure in words: it sends numbers, and the plan knows what they are about.

use std::ffi::CString;
use std::io;

use kernel::clone_flags as flag;

use super::Making;
use crate::plan;
use crate::report::{Failure, Step};
use crate::{Error, Rootfs, hooks};

impl Making<'_> {
    /// The child's numbers in words.
    pub(super) fn explain(&self, failure: Failure) -> Error {
        if failure.step == Step::Hook {
            let hooks = self.request.spec.hooks.as_ref().map_or(&[][..], |hooks| &hooks.create_container);
            return hooks::explain("createContainer", hooks, failure);
        }
        explain(failure, &self.plan.process, || self.object(failure))
    }

    fn object(&self, failure: Failure) -> String {
        let plan = &self.plan;
        let i = failure.index as usize;
        let text =
            |path: Option<&CString>| format!("/{}", path.map_or("".into(), |path| path.to_string_lossy()));
        match failure.step {
            Step::MountFs
            | Step::MountTarget
            | Step::MountOnProc
            | Step::MountCgroup
            | Step::MapIds
            | Step::Remount
            | Step::CopyUp => {
                format!("{} (mounts[{i}])", text(plan.mounts.get(i).map(|mount| &mount.destination)))
            }
            Step::Device => {
                plan.devices.get(i).map_or(String::new(), |d| d.host.to_string_lossy().into_owned())
            }
            Step::Mask => format!("{} (linux.maskedPaths[{i}])", text(plan.masked.get(i))),
            Step::Readonly => format!("{} (linux.readonlyPaths[{i}])", text(plan.readonly.get(i))),
            Step::Sysctl => {
                plan.sysctls.get(i).map_or(String::new(), |sysctl| format!("{} (linux.sysctl)", sysctl.name))
            }
            Step::TimeOffsets => "(linux.timeOffsets)".into(),
            Step::MemoryPolicy => "(linux.memoryPolicy)".into(),
            Step::Personality => "(linux.personality)".into(),
            Step::JoinNamespace => {
                let all = plan.namespaces.needs_two_steps();
                let others =
                    plan.namespaces.joined.iter().filter(|joined| all || joined.flag != flag::NEWPID);
                others
                    .map(|joined| format!("{} (linux.namespaces)", joined.path.display()))
                    .nth(i)
                    .unwrap_or_default()
            }
            Step::AttachRoot | Step::RootPropagation | Step::RootReadonly => {
                match (&plan.root.path, &self.request.rootfs) {
                    (_, Rootfs::Overlay { upper, .. }) => upper.display().to_string(),
                    (Some(path), Rootfs::Bundle) => format!("{} (root.path)", path.display()),
                    (None, Rootfs::Bundle) => String::new(),
                }
            }
            _ => format!("of {}", self.request.id),
        }
    }
}

/// A child's failure as an error; the words for what both inits and exec'd processes do are here.
pub(crate) fn explain(
    failure: Failure,
    process: &plan::ProcessPlan,
    object: impl FnOnce() -> String,
) -> Error {
    let source = io::Error::from(failure.errno);
    let command =
        || process.args.strings().first().map_or("".into(), |arg| arg.to_string_lossy()).into_owned();
    match failure.step {
        Step::Command => Error::NoSuchCommand { command: command(), source },
        Step::Cwd => Error::step(failure.step.words(), format!("/{}", process.cwd.to_string_lossy()), source),
        Step::Rlimit => {
            let limit = process.rlimits.get(failure.index as usize);
            Error::step(failure.step.words(), limit.map_or(String::new(), |(r, _)| format!("{r:?}")), source)
        }
        Step::Label => {
            let label = process.label.as_ref().map_or("".into(), |(_, text)| String::from_utf8_lossy(text));
            Error::step(failure.step.words(), label, source)
        }
        Step::Scheduler => Error::step(failure.step.words(), "(process.scheduler)", source),
        Step::IoPriority => Error::step(failure.step.words(), "(process.ioPriority)", source),
        Step::Affinity => Error::step(failure.step.words(), "(process.execCPUAffinity)", source),
        Step::User => Error::step(failure.step.words(), format!("{}:{}", process.uid, process.gid), source),
        step => Error::step(step.words(), object(), source),
    }
}
