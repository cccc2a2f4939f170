//! The demands, a file a part of the specification.

mod capabilities;
mod cgroups;
mod devices;
mod exec;
mod features;
mod hooks;
mod lifecycle;
mod limits;
mod masks;
mod mount_options;
mod mounts;
mod namespaces;
mod process;
mod seccomp;
mod special;
mod terminal;
mod validity;

use super::Test;

pub(crate) fn all() -> Vec<Test> {
    [
        lifecycle::tests(),
        hooks::tests(),
        process::tests(),
        terminal::tests(),
        capabilities::tests(),
        limits::tests(),
        mounts::tests(),
        mount_options::tests(),
        namespaces::tests(),
        devices::tests(),
        cgroups::tests(),
        seccomp::tests(),
        masks::tests(),
        special::tests(),
        validity::tests(),
        features::tests(),
        exec::tests(),
    ]
    .into_iter()
    .flatten()
    .collect()
}
