//! Which files of the host may get a container's label, and giving it to the pod's own.

use std::io;
use std::path::Path;

use rustix::fs::{XattrFlags, lsetxattr};

use super::Label;

/// Where the kernel keeps a file's label.
const ATTRIBUTE: &str = "security.selinux";

/// With another label on all that is in them, the host's own services could no longer use them, and a container could.
const HOSTS_OWN: [&str; 26] = [
    "/",
    "/home",
    "/media",
    "/mnt",
    "/opt",
    "/root",
    "/run",
    "/srv",
    "/tmp",
    "/var",
    "/var/cache",
    "/var/lib",
    "/var/lib/berth",
    "/var/lib/kubelet",
    "/var/lib/kubelet/pods",
    "/var/log",
    "/var/log/pods",
    "/var/run",
    "/var/spool",
    "/var/tmp",
    "/run/berth",
    "/run/systemd",
    "/run/user",
    "/var/lib/cni",
    "/var/lib/etcd",
    "/var/lib/systemd",
];
/// The same, and for everything below.
const HOSTS_TREES: [&str; 11] =
    ["/bin", "/boot", "/dev", "/etc", "/lib", "/lib32", "/lib64", "/proc", "/sbin", "/sys", "/usr"];

/// Whether a volume from here may be relabelled. `path` has its links followed; `pod_dir` is where this daemon keeps
/// the pod, and what holds it holds other pods too.
pub fn may_relabel(path: &Path, pod_dir: &Path) -> bool {
    let is_hosts = HOSTS_OWN.iter().any(|own| path == Path::new(own));
    let is_in_hosts = HOSTS_TREES.iter().any(|tree| path.starts_with(tree));
    !is_hosts && !is_in_hosts && !pod_dir.starts_with(path)
}

/// Gives a file of the pod its label.
///
/// # Errors
/// The kernel's answer.
pub fn set_label(path: &Path, label: &Label) -> io::Result<()> {
    lsetxattr(path, ATTRIBUTE, label.to_string().as_bytes(), XattrFlags::empty()).map_err(io::Error::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_host_needs_keeps_its_label() {
        let may = |path: &str| may_relabel(Path::new(path), Path::new("/srv/berth/run/sandboxes/s1"));
        for fine in
            ["/var/lib/kubelet/pods/u/volumes/x", "/data", "/home/joe/site", "/run/secrets/x", "/libdata"]
        {
            assert!(may(fine), "{fine}");
        }
        for wrong in [
            "/",
            "/etc",
            "/etc/ssl/certs",
            "/usr",
            "/usr/share/x",
            "/var/lib",
            "/home",
            "/sys/fs/cgroup",
            "/dev/shm",
            "/srv/berth",
            "/srv/berth/run/sandboxes",
        ] {
            assert!(!may(wrong), "{wrong}");
        }
    }
}
