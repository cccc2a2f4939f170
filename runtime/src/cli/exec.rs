//! `exec`.

use std::path::PathBuf;

use runtime::cgroup::SubCgroup;
use runtime::spec::{Capabilities, Process};
use runtime::{ExecRequest, Paused, Stdio};

use super::args::{Args, unknown};
use super::{Error, Global, bundle, console, handover, inherited, wait};

struct Options {
    process: Option<PathBuf>,
    cwd: Option<String>,
    env: Vec<String>,
    user: Option<(u32, Option<u32>)>,
    gids: Vec<u32>,
    capabilities: Vec<String>,
    no_new_privileges: Option<bool>,
    apparmor_profile: Option<String>,
    selinux_label: Option<String>,
    terminal: bool,
    detach: bool,
    pid_file: Option<PathBuf>,
    console_socket: Option<PathBuf>,
    pidfd_socket: Option<PathBuf>,
    preserve_fds: u32,
    paused: Paused,
    cgroups: Vec<SubCgroup>,
}

impl Options {
    fn read(args: &mut Args) -> Result<Options, Error> {
        let mut options = Options::new();
        while let Some(option) = args.option() {
            match option.as_str() {
                "-p" | "--process" => options.process = Some(args.value(&option)?.into()),
                "--cwd" => options.cwd = Some(args.value(&option)?),
                "-e" | "--env" => options.env.push(args.value(&option)?),
                "-u" | "--user" => options.user = Some(user(&args.value(&option)?)?),
                "-g" | "--additional-gids" => options.gids.push(args.number(&option)?),
                "-c" | "--cap" => options.capabilities.push(args.value(&option)?),
                "--no-new-privs" => options.no_new_privileges = Some(args.flag(&option)?),
                "--apparmor" => options.apparmor_profile = Some(args.value(&option)?),
                "--process-label" => options.selinux_label = Some(args.value(&option)?),
                "--ignore-paused" => {
                    options.paused = if args.flag(&option)? { Paused::Join } else { Paused::Refuse }
                }
                "--cgroup" => options.add_cgroup(&args.value(&option)?)?,
                "-t" | "--tty" => options.terminal = args.flag(&option)?,
                "-d" | "--detach" => options.detach = args.flag(&option)?,
                "--pid-file" => options.pid_file = Some(args.value(&option)?.into()),
                "--console-socket" => options.console_socket = Some(args.value(&option)?.into()),
                "--pidfd-socket" => options.pidfd_socket = Some(args.value(&option)?.into()),
                "--preserve-fds" => options.preserve_fds = args.number(&option)?,
                _ => return Err(unknown(&option)),
            }
        }
        Ok(options)
    }

    fn new() -> Options {
        Options {
            process: None,
            cwd: None,
            env: Vec::new(),
            user: None,
            gids: Vec::new(),
            capabilities: Vec::new(),
            no_new_privileges: None,
            apparmor_profile: None,
            selinux_label: None,
            terminal: false,
            detach: false,
            pid_file: None,
            console_socket: None,
            pidfd_socket: None,
            preserve_fds: 0,
            paused: Paused::Refuse,
            cgroups: Vec::new(),
        }
    }

    /// `CGROUP`, or `CONTROLLER,...:CGROUP` of v1.
    fn add_cgroup(&mut self, text: &str) -> Result<(), Error> {
        let (controllers, path) = match text.split_once(':') {
            Some((controllers, path)) => (controllers.split(',').map(str::to_owned).collect(), path),
            None => (Vec::new(), text),
        };
        let all = controllers.is_empty() || self.cgroups.iter().any(|one| one.controllers.is_empty());
        let again = |one: &SubCgroup| one.controllers.iter().any(|known| controllers.contains(known));
        if (all && !self.cgroups.is_empty()) || self.cgroups.iter().any(again) || path.contains(':') {
            let rule = "each controller may have one, as CONTROLLER:CGROUP, or all have one, as CGROUP";
            return Err(Error::Usage(format!("--cgroup: {text:?}: {rule}")));
        }
        self.cgroups.push(SubCgroup { controllers, path: path.into() });
        Ok(())
    }

    /// A whole process from a file, or the container's own with what the options change.
    fn process(&self, global: &Global, id: &str, command: Vec<String>) -> Result<Process, Error> {
        if let Some(path) = &self.process {
            let mut process: Process = bundle::read_json(path)?;
            process.terminal |= self.terminal;
            return Ok(process);
        }
        if command.is_empty() {
            return Err(Error::Usage("which command? Give it after the id, or a process with -p".into()));
        }
        let mut process = global.runtime.process(id)?;
        process.args = command;
        process.terminal = self.terminal;
        process.env.extend(self.env.iter().cloned());
        process.no_new_privileges = self.no_new_privileges.unwrap_or(process.no_new_privileges);
        if let Some(cwd) = &self.cwd {
            process.cwd.clone_from(cwd);
        }
        if let Some((uid, gid)) = self.user {
            process.user.uid = uid;
            process.user.gid = gid.unwrap_or(process.user.gid);
        }
        process.apparmor_profile = self.apparmor_profile.clone().or(process.apparmor_profile);
        process.selinux_label = self.selinux_label.clone().or(process.selinux_label);
        process.user.additional_gids.extend(&self.gids);
        self.add_capabilities(process.capabilities.get_or_insert_default());
        Ok(process)
    }

    fn add_capabilities(&self, to: &mut Capabilities) {
        for set in [&mut to.bounding, &mut to.effective, &mut to.permitted] {
            set.extend(self.capabilities.iter().cloned());
        }
        // An ambient capability must be inheritable.
        if !to.inheritable.is_empty() {
            to.ambient.extend(self.capabilities.iter().cloned());
        }
    }
}

/// `UID` or `UID:GID`, numbers in range and nothing else: a name would be looked up in files that the container
/// wrote (CVE-2016-3697, CVE-2026-46680, CVE-2026-30892).
fn user(text: &str) -> Result<(u32, Option<u32>), Error> {
    let wrong = || Error::Usage(format!("--user: {text:?} is not UID or UID:GID, each below 4294967295"));
    let id = |text: &str| {
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        let number = digits.then(|| text.parse::<u32>().ok()).flatten();
        number.filter(|&id| id != u32::MAX).ok_or_else(wrong)
    };
    match text.split_once(':') {
        Some((uid, gid)) => Ok((id(uid)?, Some(id(gid)?))),
        None => Ok((id(text)?, None)),
    }
}

pub(crate) fn exec(global: &Global, mut args: Args) -> Result<u8, Error> {
    let options = Options::read(&mut args)?;
    inherited::check(options.preserve_fds)?;
    let id = args.id()?;
    let process = options.process(global, &id, args.rest())?;
    console::check(process.terminal, options.detach, options.console_socket.as_deref())?;
    let signals = if options.detach { None } else { Some(wait::Signals::take()?) };
    let stdio = if process.terminal { Stdio::Terminal } else { Stdio::Inherit };
    let made = global.runtime.exec_as(&ExecRequest {
        id: &id,
        process: &process,
        stdio,
        preserve_fds: options.preserve_fds,
        paused: options.paused,
        cgroups: &options.cgroups,
    })?;
    for warning in &made.warnings {
        global.log.warn(warning);
    }
    let (console, pidfd) = (options.console_socket.as_deref(), options.pidfd_socket.as_deref());
    handover::hand_over(&made, console, pidfd, options.pid_file.as_deref())
        .inspect_err(|_| handover::end(&made))?;
    match signals {
        Some(signals) => signals.forward_until_end(&made, None),
        None => Ok(0),
    }
}

#[cfg(test)]
mod tests {
    use super::user;

    #[test]
    fn a_user_is_numbers_and_nothing_else() {
        let ids = |text| user(text).ok();
        assert_eq!(ids("1000"), Some((1000, None)));
        assert_eq!(ids("1000:5"), Some((1000, Some(5))));
        for wrong in
            ["", "root", "1000:", ":1000", "1000:x", "-1", "+1", "4294967295", "4294967296", "1:2:3", " 1"]
        {
            assert_eq!(ids(wrong), None, "{wrong:?}");
        }
    }
}
