//! Holding a container to its device rules: v1's list of exceptions, or a BPF program on cgroup2.

use std::os::fd::{AsFd as _, BorrowedFd};
use std::path::Path;

use rustix::fs::OFlags;
use rustix::io::Errno;

use super::devices::Policy;
use super::files::Held;
use super::{Cgroup, Error, open};
use crate::spec::DeviceRule;

impl Cgroup {
    /// Of a new container: one without rules has the default devices and no others, as with runc. No list is no
    /// permission.
    pub(super) fn confine_to_devices(&self, policy: &Policy, rules: &[DeviceRule]) -> Result<(), Error> {
        match self.set_devices(policy) {
            // Who is not the node's root can make no device, and opens those that the file's mode lets the user open.
            Err(refused) if rules.is_empty() && refused.is_refusal() && !is_the_nodes_root() => Ok(()),
            other => other,
        }
    }

    pub(super) fn set_devices(&self, policy: &Policy) -> Result<(), Error> {
        if let Some(devices) = self.layout.serving("devices") {
            return set_devices_v1(&self.dir(devices), policy, &self.written);
        }
        let Some(unified) = self.layout.unified() else {
            return Err(Error::MissingController { field: "devices", controller: "devices".to_owned() });
        };
        let dir = open(&self.dir(unified), OFlags::RDONLY | OFlags::DIRECTORY)?;
        set_devices_v2(dir.as_fd(), policy).map_err(|source| Error::Kernel {
            doing: "attaching device rules to",
            object: self.dir(unified),
            source,
        })
    }
}

/// Of an update: one without rules changes none.
pub(super) fn changed_policy(rules: &[DeviceRule]) -> Result<Option<Policy>, Error> {
    if rules.is_empty() { Ok(None) } else { Policy::read(rules).map(Some) }
}

/// The kernel takes device rules from nobody else.
fn is_the_nodes_root() -> bool {
    rustix::process::geteuid().is_root() && crate::in_first_user_namespace()
}

fn set_devices_v1(dir: &Path, policy: &Policy, held: &Held) -> Result<(), Error> {
    let (all, except, lines) = policy.v1_writes()?;
    let fail =
        |file: &'static str| move |source| Error::Kernel { doing: "writing", object: dir.join(file), source };
    held.write(dir, all, "a").map_err(fail(all))?;
    if lines.is_empty() {
        return Ok(());
    }
    held.write_each(dir, except, &lines).map_err(fail(except))
}

/// The new program is there before the old ones go: in between both must agree, so nothing slips through.
fn set_devices_v2(dir: BorrowedFd<'_>, policy: &Policy) -> Result<(), Errno> {
    let old = kernel::bpf_device_programs(dir)?;
    let new = kernel::bpf_load_device_program(&policy.v2_program())?;
    kernel::bpf_attach_device_program(dir, new.as_fd())?;
    old.iter().try_for_each(|program| kernel::bpf_detach_device_program(dir, program.as_fd()))
}

#[cfg(test)]
mod tests {
    use rustix::fs::Mode;

    use super::super::layout::Layout;
    use super::*;

    /// The device rules of v2 work on the cgroup2 of a hybrid node too: here the kernel judges our program.
    #[test]
    fn the_kernel_takes_the_device_program() {
        let Some(unified) = Layout::of_node().unwrap().unified() else { return };
        let dir = unified.root.join(format!("berth-test-devices-{}", std::process::id()));
        rustix::fs::mkdir(&dir, Mode::from_raw_mode(0o755)).unwrap();
        let outcome = open(&dir, OFlags::RDONLY | OFlags::DIRECTORY).map(|fd| {
            let rules = [
                DeviceRule { allow: false, ..DeviceRule::default() },
                DeviceRule { allow: true, kind: Some("b".into()), major: Some(8), ..DeviceRule::default() },
            ];
            let open = [
                DeviceRule { allow: true, ..DeviceRule::default() },
                DeviceRule { kind: Some("b".into()), access: Some("w".into()), ..DeviceRule::default() },
            ];
            set_devices_v2(fd.as_fd(), &Policy::read(&rules).unwrap())
                .and_then(|()| set_devices_v2(fd.as_fd(), &Policy::read(&open).unwrap()))
                .and_then(|()| kernel::bpf_device_programs(fd.as_fd()))
        });
        rustix::fs::rmdir(&dir).unwrap();
        match outcome.unwrap() {
            Ok(programs) => assert_eq!(programs.len(), 1),
            Err(Errno::INVAL | Errno::NOSYS | Errno::PERM) => {
                println!("skipped: no BPF for cgroups in this kernel")
            }
            Err(other) => panic!("{other}"),
        }
    }
}
