//! Where the specification says what a field of `config.json` may be: the rule behind a refusal.

/// Fields, and the document and heading of the OCI runtime specification 1.3 that rule them. The longest that
/// a path begins with counts.
const SECTIONS: &[(&str, &str)] = &[
    ("annotations", "config.md, Annotations"),
    ("domainname", "config.md, Domainname"),
    ("hooks", "config.md, POSIX-platform Hooks"),
    ("hostname", "config.md, Hostname"),
    ("linux", "config-linux.md"),
    ("linux.cgroupsPath", "config-linux.md, Cgroups Path"),
    ("linux.devices", "config-linux.md, Devices"),
    ("linux.gidMappings", "config-linux.md, User namespace mappings"),
    ("linux.intelRdt", "config-linux.md, IntelRdt"),
    ("linux.maskedPaths", "config-linux.md, Masked Paths"),
    ("linux.memoryPolicy", "config-linux.md, Memory policy"),
    ("linux.mountLabel", "config-linux.md, Mount Label"),
    ("linux.namespaces", "config-linux.md, Namespaces"),
    ("linux.netDevices", "config-linux.md, Network Devices"),
    ("linux.personality", "config-linux.md, Personality"),
    ("linux.readonlyPaths", "config-linux.md, Readonly Paths"),
    ("linux.resources", "config-linux.md, Control groups"),
    ("linux.resources.blockIO", "config-linux.md, Block IO"),
    ("linux.resources.cpu", "config-linux.md, CPU"),
    ("linux.resources.devices", "config-linux.md, Allowed Device list"),
    ("linux.resources.hugepageLimits", "config-linux.md, Huge page limits"),
    ("linux.resources.memory", "config-linux.md, Memory"),
    ("linux.resources.network", "config-linux.md, Network"),
    ("linux.resources.pids", "config-linux.md, PIDs"),
    ("linux.resources.rdma", "config-linux.md, RDMA"),
    ("linux.resources.unified", "config-linux.md, Unified"),
    ("linux.rootfsPropagation", "config-linux.md, Rootfs Mount Propagation"),
    ("linux.seccomp", "config-linux.md, Seccomp"),
    ("linux.sysctl", "config-linux.md, Sysctl"),
    ("linux.timeOffsets", "config-linux.md, Offset for Time Namespace"),
    ("linux.uidMappings", "config-linux.md, User namespace mappings"),
    ("mounts", "config.md, Mounts"),
    ("ociVersion", "config.md, Specification version"),
    ("process", "config.md, Process"),
    ("process.apparmorProfile", "config.md, Linux Process"),
    ("process.capabilities", "config.md, Linux Process"),
    ("process.execCPUAffinity", "config.md, Linux Process"),
    ("process.ioPriority", "config.md, Linux Process"),
    ("process.noNewPrivileges", "config.md, Linux Process"),
    ("process.oomScoreAdj", "config.md, Linux Process"),
    ("process.rlimits", "config.md, POSIX process"),
    ("process.scheduler", "config.md, Linux Process"),
    ("process.selinuxLabel", "config.md, Linux Process"),
    ("process.user", "config.md, User"),
    ("root", "config.md, Root"),
];

/// ` (OCI config.md, Mounts)` for `mounts[3].type`; nothing for what is no field.
pub(crate) fn cite(path: &str) -> String {
    section(path).map_or_else(String::new, |section| format!(" (OCI {section})"))
}

fn section(path: &str) -> Option<&'static str> {
    let within = |field: &str| path.strip_prefix(field).is_some_and(|rest| !rest.starts_with(is_name));
    SECTIONS.iter().filter(|(field, _)| within(field)).max_by_key(|(field, _)| field.len()).map(|(_, to)| *to)
}

fn is_name(c: char) -> bool {
    c.is_ascii_alphanumeric()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_field_counts_and_names_are_whole() {
        assert_eq!(cite("mounts[3].type"), " (OCI config.md, Mounts)");
        assert_eq!(cite("process.user.uid"), " (OCI config.md, User)");
        assert_eq!(cite("process.cwd"), " (OCI config.md, Process)");
        assert_eq!(cite("linux.resources.devices[0]"), " (OCI config-linux.md, Allowed Device list)");
        assert_eq!(cite("linux.sysctl[\"a.b\"]"), " (OCI config-linux.md, Sysctl)");
        assert_eq!(cite("rooted"), "");
        assert_eq!(cite("container id"), "");
    }
}
