//! Descriptors 3 and up that a container inherits: `--preserve-fds`, and sockets of socket activation.

use std::path::Path;

use runtime::spec::Spec;

use super::Error;

/// How many sockets were passed to us (sd_listen_fds(3)). They are ours only when LISTEN_PID says so.
pub(crate) fn sockets() -> u32 {
    let number = |name: &str| std::env::var(name).ok().and_then(|value| value.parse::<u32>().ok());
    match (number("LISTEN_PID"), number("LISTEN_FDS")) {
        (Some(pid), Some(count)) if pid == std::process::id() => count,
        _ => 0,
    }
}

/// They are passed on, and the container is told: its init is 1 to itself.
pub(crate) fn announce(sockets: u32, spec: &mut Spec) {
    if let Some(process) = spec.process.as_mut().filter(|_| sockets > 0) {
        process.env.extend([format!("LISTEN_FDS={sockets}"), "LISTEN_PID=1".to_owned()]);
    }
}

/// Each of them must be there: what we open next would fill a gap, and be the container's.
pub(crate) fn check(count: u32) -> Result<(), Error> {
    for fd in 3..3_u32.saturating_add(count) {
        if !Path::new(&format!("/proc/self/fd/{fd}")).exists() {
            return Err(Error::Usage(format!("--preserve-fds: descriptor {fd} (of {count}) is not open")));
        }
    }
    Ok(())
}
