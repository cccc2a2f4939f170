//! `process`: the program, whom it runs as and what it may do, as arrays and numbers for the child.

use std::ffi::CString;

use kernel::{CStringArray, SchedAttr};
use rustix::process::{Resource, Rlimit};

use super::capabilities::{self, Sets};
use super::path::c_string;
use super::{inside, sched};
use crate::Error;
use crate::spec;

/// A process, decided.
#[derive(Debug)]
pub(crate) struct ProcessPlan {
    pub(crate) args: CStringArray,
    pub(crate) env: CStringArray,
    /// `env` has no HOME.
    pub(crate) needs_home: bool,
    /// Where the program may be, in the order of PATH.
    pub(crate) candidates: Vec<CString>,
    /// Relative to the root.
    pub(crate) cwd: CString,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) groups: Vec<rustix::fs::Gid>,
    pub(crate) umask: Umask,
    pub(crate) capabilities: Sets,
    pub(crate) unknown_capabilities: Vec<String>,
    pub(crate) rlimits: Vec<(Resource, Rlimit)>,
    pub(crate) no_new_privileges: bool,
    pub(crate) terminal: bool,
    pub(crate) console_size: Option<spec::ConsoleSize>,
    pub(crate) oom_score_adj: Option<i32>,
    pub(crate) scheduler: Option<SchedAttr>,
    pub(crate) io_priority: Option<(u16, u16)>,
    /// Before and after the join of the cgroup; for exec only.
    pub(crate) affinity: [Option<Vec<u64>>; 2],
    /// Relative to /proc/thread-self, and what to write there.
    pub(crate) label: Option<(CString, Vec<u8>)>,
}

pub(crate) type Umask = u32;

const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// What runc and crun give when `umask` is absent.
const DEFAULT_UMASK: Umask = 0o022;

pub(super) fn plan(process: &spec::Process) -> Result<ProcessPlan, Error> {
    let program = process.args.first().filter(|program| !program.is_empty());
    let program = program.ok_or_else(|| Error::invalid("process.args", "names no program"))?;
    if !process.cwd.starts_with('/') {
        return Err(Error::invalid("process.cwd", format!("{:?} is not absolute", process.cwd)));
    }
    let (capabilities, unknown_capabilities) =
        capabilities::plan(process.capabilities.as_ref().unwrap_or(&spec::Capabilities::default()))?;
    Ok(ProcessPlan {
        args: strings("process.args", &process.args)?,
        env: strings("process.env", &process.env)?,
        needs_home: !process.env.iter().any(|variable| variable.starts_with("HOME=")),
        candidates: candidates(program, &process.env)?,
        cwd: cwd(&process.cwd)?,
        uid: id("process.user.uid", process.user.uid)?,
        gid: id("process.user.gid", process.user.gid)?,
        groups: groups(&process.user.additional_gids)?,
        umask: umask(process.user.umask)?,
        capabilities,
        unknown_capabilities,
        rlimits: rlimits(&process.rlimits)?,
        no_new_privileges: process.no_new_privileges,
        terminal: process.terminal,
        console_size: process.console_size,
        oom_score_adj: oom_score_adj(process.oom_score_adj)?,
        scheduler: process.scheduler.as_ref().map(sched::scheduler).transpose()?,
        io_priority: process.io_priority.as_ref().map(sched::io_priority).transpose()?,
        affinity: affinity(process.exec_cpu_affinity.as_ref())?,
        label: label(process)?,
    })
}

/// Magic links and `..` are not followed, so the path is kept as it is but for the leading slash.
fn cwd(cwd: &str) -> Result<CString, Error> {
    inside("process.cwd", std::path::Path::new(cwd))
}

fn strings(field: &str, strings: &[String]) -> Result<CStringArray, Error> {
    let strings: Result<_, _> = strings
        .iter()
        .enumerate()
        .map(|(i, text)| c_string(&format!("{field}[{i}]"), text.as_str()))
        .collect();
    Ok(CStringArray::new(strings?))
}

/// execvp(3): a name with a slash is a path, others are looked for in the container's PATH.
fn candidates(program: &str, env: &[String]) -> Result<Vec<CString>, Error> {
    let field = "process.args[0]";
    if program.contains('/') {
        return Ok(vec![c_string(field, program)?]);
    }
    let path = env.iter().rev().find_map(|variable| variable.strip_prefix("PATH=")).unwrap_or(DEFAULT_PATH);
    // An empty part would mean the working directory, which exec.LookPath of runc refuses as well.
    path.split(':')
        .filter(|dir| !dir.is_empty())
        .map(|dir| c_string(field, format!("{dir}/{program}")))
        .collect()
}

/// (uid_t) -1 means "leave it" to the kernel: as a user it would stay root (CVE-2024-40635).
fn id(field: &str, id: u32) -> Result<u32, Error> {
    if id == u32::MAX { Err(Error::invalid(field, "4294967295 is no id")) } else { Ok(id) }
}

fn groups(gids: &[u32]) -> Result<Vec<rustix::fs::Gid>, Error> {
    let one = |&gid: &u32| id("process.user.additionalGids", gid).map(rustix::fs::Gid::from_raw);
    gids.iter().map(one).collect()
}

fn umask(umask: Option<u32>) -> Result<Umask, Error> {
    match umask {
        None => Ok(DEFAULT_UMASK),
        Some(mask) if mask <= 0o777 => Ok(mask),
        Some(mask) => Err(Error::invalid("process.user.umask", format!("{mask:#o} is out of range"))),
    }
}

fn oom_score_adj(value: Option<i32>) -> Result<Option<i32>, Error> {
    match value {
        Some(value) if !(-1000..=1000).contains(&value) => {
            Err(Error::invalid("process.oomScoreAdj", format!("{value} is not within -1000 and 1000")))
        }
        other => Ok(other),
    }
}

fn rlimits(rlimits: &[spec::Rlimit]) -> Result<Vec<(Resource, Rlimit)>, Error> {
    let mut planned = Vec::with_capacity(rlimits.len());
    for (i, limit) in rlimits.iter().enumerate() {
        let field = format!("process.rlimits[{i}]");
        let resource = resource(&limit.kind).ok_or_else(|| {
            Error::invalid(format!("{field}.type"), format!("{:?} is no limit", limit.kind))
        })?;
        if planned.iter().any(|&(known, _)| known == resource) {
            return Err(Error::invalid(format!("{field}.type"), format!("{} is given twice", limit.kind)));
        }
        if limit.soft > limit.hard {
            return Err(Error::invalid(format!("{field}.soft"), "is above hard"));
        }
        let finite = |value: u64| (value != u64::MAX).then_some(value);
        planned.push((resource, Rlimit { current: finite(limit.soft), maximum: finite(limit.hard) }));
    }
    Ok(planned)
}

fn resource(name: &str) -> Option<Resource> {
    Some(match name {
        "RLIMIT_CPU" => Resource::Cpu,
        "RLIMIT_FSIZE" => Resource::Fsize,
        "RLIMIT_DATA" => Resource::Data,
        "RLIMIT_STACK" => Resource::Stack,
        "RLIMIT_CORE" => Resource::Core,
        "RLIMIT_RSS" => Resource::Rss,
        "RLIMIT_NPROC" => Resource::Nproc,
        "RLIMIT_NOFILE" => Resource::Nofile,
        "RLIMIT_MEMLOCK" => Resource::Memlock,
        "RLIMIT_AS" => Resource::As,
        "RLIMIT_LOCKS" => Resource::Locks,
        "RLIMIT_SIGPENDING" => Resource::Sigpending,
        "RLIMIT_MSGQUEUE" => Resource::Msgqueue,
        "RLIMIT_NICE" => Resource::Nice,
        "RLIMIT_RTPRIO" => Resource::Rtprio,
        "RLIMIT_RTTIME" => Resource::Rttime,
        _ => return None,
    })
}

fn affinity(affinity: Option<&spec::ExecCpuAffinity>) -> Result<[Option<Vec<u64>>; 2], Error> {
    let list = |part: &str, text: Option<&String>| {
        let field = format!("process.execCPUAffinity.{part}");
        text.filter(|text| !text.is_empty()).map(|text| sched::list(&field, text)).transpose()
    };
    let Some(affinity) = affinity else { return Ok([None, None]) };
    Ok([list("initial", affinity.initial.as_ref())?, list("final", affinity.last.as_ref())?])
}

fn label(process: &spec::Process) -> Result<Option<(CString, Vec<u8>)>, Error> {
    let given = |label: &Option<String>| label.clone().filter(|label| !label.is_empty());
    match (given(&process.apparmor_profile), given(&process.selinux_label)) {
        (Some(profile), None) => {
            let command = [b"exec ", profile.as_bytes()].concat();
            Ok(Some((c"thread-self/attr/apparmor/exec".to_owned(), command)))
        }
        (None, Some(label)) => Ok(Some((c"thread-self/attr/exec".to_owned(), label.into_bytes()))),
        (Some(_), Some(_)) => Err(Error::invalid("process.selinuxLabel", "together with apparmorProfile")),
        (None, None) => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(change: impl FnOnce(&mut spec::Process)) -> Result<ProcessPlan, Error> {
        let mut process = spec::Process { args: vec!["sh".into()], cwd: "/".into(), ..Default::default() };
        change(&mut process);
        plan(&process)
    }

    #[test]
    fn a_name_is_looked_for_in_the_containers_path() {
        let plan = process(|p| p.env = vec!["PATH=/a::/b".into()]).unwrap();
        assert_eq!(plan.candidates, [c"/a/sh".to_owned(), c"/b/sh".to_owned()]);
        let plan = process(|p| p.args = vec!["./sh".into()]).unwrap();
        assert_eq!(plan.candidates, [c"./sh".to_owned()]);
    }

    #[test]
    fn contradictions_are_refused() {
        assert!(process(|p| p.args = vec![]).is_err());
        assert!(process(|p| p.args = vec!["a\0b".into()]).is_err());
        assert!(process(|p| p.cwd = "tmp".into()).is_err());
        assert!(process(|p| p.user.uid = u32::MAX).is_err());
        assert!(process(|p| p.oom_score_adj = Some(1001)).is_err());
        let limit = |soft, hard| spec::Rlimit { kind: "RLIMIT_NOFILE".into(), soft, hard };
        assert!(process(|p| p.rlimits = vec![limit(2, 1)]).is_err());
        assert!(process(|p| p.rlimits = vec![limit(1, 1), limit(1, 1)]).is_err());
    }

    #[test]
    fn capabilities_that_no_kernel_knows_are_told_not_refused() {
        let plan = process(|p| {
            p.capabilities = Some(spec::Capabilities {
                bounding: vec!["CAP_KILL".into(), "CAP_X".into()],
                ..Default::default()
            });
        });
        let plan = plan.unwrap();
        assert_eq!(plan.capabilities.bounding, 1 << 5);
        assert_eq!(plan.unknown_capabilities, ["CAP_X"]);
    }
}
