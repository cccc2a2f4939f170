//! `start`, `kill` and `delete`.

use std::os::fd::AsFd as _;

use nix::sys::signal::Signal;
use runtime::{Force, Scope};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::args::{Args, unknown};
use super::{Error, Global, notify};

pub(crate) fn start(global: &Global, mut args: Args) -> Result<u8, Error> {
    let id = only_id(&mut args)?;
    args.end()?;
    let proxy = notify::listen(global, &id);
    global.runtime.start(&id)?;
    if proxy.is_some() {
        // One that has ended already has nothing more to say.
        let pid = global.runtime.state(&id)?.pid.and_then(Pid::from_raw);
        let init = pid.and_then(|pid| Some((pid, pidfd_open(pid, PidfdFlags::empty()).ok()?)));
        if let Some((pid, init)) = init {
            notify::wait(global, proxy.as_ref(), init.as_fd(), pid.as_raw_nonzero().get());
        }
    }
    Ok(0)
}

pub(crate) fn kill(global: &Global, mut args: Args) -> Result<u8, Error> {
    let mut scope = Scope::Init;
    while let Some(option) = args.option() {
        match option.as_str() {
            "-a" | "--all" => scope = if args.flag(&option)? { Scope::All } else { Scope::Init },
            _ => return Err(unknown(&option)),
        }
    }
    let id = args.id()?;
    let signal = signal(&args.next().unwrap_or_else(|| "TERM".into()))?;
    args.end()?;
    global.runtime.kill(&id, signal, scope)?;
    Ok(0)
}

pub(crate) fn delete(global: &Global, mut args: Args) -> Result<u8, Error> {
    let mut force = Force::Refuse;
    while let Some(option) = args.option() {
        match option.as_str() {
            "-f" | "--force" => force = if args.flag(&option)? { Force::Kill } else { Force::Refuse },
            _ => return Err(unknown(&option)),
        }
    }
    let id = args.id()?;
    args.end()?;
    if force == Force::Refuse {
        // OCI: deleting what does not exist is an error; only a forced delete is a wish rather than a statement.
        global.runtime.state(&id)?;
    }
    global.runtime.delete(&id, force)?.iter().for_each(|warning| global.log.warn(warning));
    Ok(0)
}

fn only_id(args: &mut Args) -> Result<String, Error> {
    match args.option() {
        Some(option) => Err(unknown(&option)),
        None => args.id(),
    }
}

/// `9`, `KILL` or `SIGKILL`; real-time signals by number.
fn signal(name: &str) -> Result<i32, Error> {
    if let Ok(number) = name.parse::<i32>() {
        return Ok(number);
    }
    let upper = name.to_ascii_uppercase();
    let full = if upper.starts_with("SIG") { upper } else { format!("SIG{upper}") };
    full.parse::<Signal>()
        .map(|signal| signal as i32)
        .map_err(|_| Error::Usage(format!("{name:?} is no signal")))
}
