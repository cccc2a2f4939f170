//! Cgroups: which layout, and which controllers.

use std::path::Path;

use super::{Finding, fact};

const ROOT: &str = "/sys/fs/cgroup";
/// Without these, limits are not kept; a pod that has none can still run.
const NEEDED: [&str; 3] = ["cpu", "memory", "pids"];
const WISHED: [&str; 2] = ["cpuset", "hugetlb"];

pub(super) fn findings() -> Vec<Finding> {
    let root = Path::new(ROOT);
    let unified = root.join("cgroup.controllers").exists();
    let layout = match (unified, root.join("memory").exists()) {
        (true, _) => Finding::fine("cgroups", "v2"),
        (false, true) => Finding::poor(
            "cgroups",
            "v1",
            "boot with systemd.unified_cgroup_hierarchy=1; v1 works, with fewer figures and a slower start",
        ),
        (false, false) => {
            Finding::broken("cgroups", format!("nothing in {ROOT}"), format!("mount -t cgroup2 none {ROOT}"))
        }
    };
    vec![layout, controllers(unified), writable(root)]
}

fn controllers(unified: bool) -> Finding {
    let there: Vec<String> = if unified {
        fact(Path::new(ROOT).join("cgroup.controllers")).split(' ').map(String::from).collect()
    } else {
        let mounted = |name: &String| Path::new(ROOT).join(name).exists();
        v1_controllers(&fact("/proc/cgroups")).into_iter().filter(mounted).collect()
    };
    let without = |names: &[&'static str]| -> Vec<&'static str> {
        names.iter().copied().filter(|name| !there.iter().any(|there| there == name)).collect()
    };
    let (broken, poor) = (without(&NEEDED), without(&WISHED));
    let advice = "enable the controllers on the kernel's command line (cgroup_enable=…), or build the kernel with them";
    match (broken.is_empty(), poor.is_empty()) {
        (false, _) => Finding::broken("controllers", format!("without {}", broken.join(" ")), advice),
        (true, false) => Finding::poor("controllers", format!("without {}", poor.join(" ")), advice),
        (true, true) => Finding::fine("controllers", there.join(" ")),
    }
}

/// Those that the kernel has and has not been told to leave off.
fn v1_controllers(text: &str) -> Vec<String> {
    let enabled = |line: &&str| line.split_whitespace().nth(3) == Some("1");
    let name = |line: &str| line.split_whitespace().next().map(String::from);
    text.lines().filter(|line| !line.starts_with('#')).filter(enabled).filter_map(name).collect()
}

fn writable(root: &Path) -> Finding {
    let any = if root.join("cgroup.controllers").exists() { root.to_owned() } else { root.join("memory") };
    let access = rustix::fs::access(&any, rustix::fs::Access::WRITE_OK);
    Finding::needed(
        "cgroup tree",
        access.is_ok(),
        "write access to cgroups",
        "run as root, where /sys/fs/cgroup is mounted read-write",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disabled_controllers_do_not_count() {
        let text = "#subsys_name\thierarchy\tnum_cgroups\tenabled\ncpu\t1\t5\t1\nmemory\t2\t5\t0\n";
        assert_eq!(v1_controllers(text), ["cpu"]);
    }
}
