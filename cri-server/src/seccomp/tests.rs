//! RuntimeDefault against the containers' default, and profiles as files.

use std::collections::{BTreeMap, BTreeSet};

use super::*;

/// Where Debian's golang-github-containers-common puts the profile.
const REFERENCE: &str = "/usr/share/containers/seccomp.json";

/// The verdict of a call: rules in order, each an action, an errno and conditions on arguments.
type Verdict = BTreeSet<(String, Option<u32>, Vec<String>)>;

/// Per call, what decides: as in libseccomp, the first rule without conditions ends the search, and rules with
/// conditions count beside each other.
fn verdicts(seccomp: &LinuxSeccomp) -> BTreeMap<String, Verdict> {
    let mut verdicts: BTreeMap<String, Verdict> = BTreeMap::new();
    for rule in seccomp.syscalls().iter().flatten() {
        for name in rule.names() {
            let verdict = verdicts.entry(name.clone()).or_default();
            if verdict.iter().any(|(_, _, args)| args.is_empty()) {
                continue;
            }
            let mut args: Vec<String> = rule
                .args()
                .iter()
                .flatten()
                .map(|arg| format!("{} {:?} {}", arg.index(), arg.op(), arg.value()))
                .collect();
            args.sort();
            verdict.insert((format!("{:?}", rule.action()), rule.errno_ret(), args));
        }
    }
    verdicts
}

fn compare(text: &[u8], machine: Machine, capabilities: &[Capability]) {
    let theirs = parse_for(text, &Conditions { machine, capabilities, kernel: (6, 1) }).unwrap();
    let ours = runtime_default_on(machine, capabilities);
    assert_eq!(ours.default_action(), theirs.default_action());
    assert_eq!(ours.default_errno_ret(), theirs.default_errno_ret());
    if machine != Machine::Ppc64le && machine != Machine::Riscv64 {
        assert_eq!(ours.architectures(), theirs.architectures(), "{machine:?}");
    }
    let (ours, theirs) = (verdicts(&ours), verdicts(&theirs));
    let names: BTreeSet<&String> = ours.keys().chain(theirs.keys()).collect();
    for name in names {
        assert_eq!(ours.get(name), theirs.get(name), "{name} on {machine:?} with {capabilities:?}");
    }
}

#[test]
fn runtime_default_gives_the_verdicts_of_the_containers_default() {
    let text = match std::fs::read(REFERENCE) {
        Ok(text) => text,
        Err(e) if std::env::var_os("CI").is_some() => {
            panic!("{REFERENCE}: {e}; apt-get install golang-github-containers-common")
        }
        Err(e) => return println!("skipped: {REFERENCE}: {e}"),
    };
    let gates = [
        Capability::DacReadSearch,
        Capability::SysAdmin,
        Capability::SysChroot,
        Capability::SysModule,
        Capability::SysPacct,
        Capability::SysPtrace,
        Capability::SysRawio,
        Capability::SysTime,
        Capability::SysTtyConfig,
        Capability::AuditWrite,
    ];
    for machine in [Machine::Amd64, Machine::Arm64, Machine::Ppc64le, Machine::S390x, Machine::Riscv64] {
        for mask in 0..1_u32 << gates.len() {
            let held = gates.iter().enumerate().filter(|(bit, _)| mask >> bit & 1 == 1);
            let held: Vec<Capability> = held.map(|(_, capability)| *capability).collect();
            // All sets on this machine; on others none, all and each alone.
            if machine == Machine::Amd64 || mask.count_ones() <= 1 || held.len() == gates.len() {
                compare(&text, machine, &held);
            }
        }
    }
}

#[test]
fn no_call_of_runtime_default_is_decided_twice() {
    let seccomp = runtime_default_on(Machine::Amd64, &[]);
    let mut seen = BTreeSet::new();
    for rule in seccomp.syscalls().iter().flatten().filter(|rule| rule.args().is_none()) {
        for name in rule.names() {
            assert!(seen.insert(name.clone()), "{name}");
        }
    }
}

fn parsed(text: &str) -> Result<LinuxSeccomp, Error> {
    parse_for(
        text.as_bytes(),
        &Conditions { machine: Machine::Amd64, capabilities: &[Capability::SysAdmin], kernel: (5, 10) },
    )
}

#[test]
fn conditions_of_a_rule_are_settled() {
    let check = |condition: &str, counts: bool| {
        let text = format!(
            r#"{{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{{"names":["chmod"],"action":"SCMP_ACT_ERRNO",{condition}}}]}}"#
        );
        let rules = parsed(&text).unwrap().syscalls().clone().unwrap().len();
        assert_eq!(rules == 1, counts, "{condition}");
    };
    check(r#""includes":{"caps":["CAP_SYS_ADMIN"]}"#, true);
    check(r#""includes":{"caps":["CAP_SYS_ADMIN","CAP_KILL"]}"#, false);
    check(r#""excludes":{"caps":["CAP_SYS_ADMIN","CAP_KILL"]}"#, false);
    check(r#""excludes":{"caps":["CAP_KILL"]}"#, true);
    check(r#""includes":{"arches":["amd64","x32"]}"#, true);
    check(r#""includes":{"arches":["s390x"]}"#, false);
    check(r#""includes":{"minKernel":"4.8"}"#, true);
    check(r#""includes":{"minKernel":"6.1"}"#, false);
    check(r#""args":null,"comment":"for people""#, true);
}

#[test]
fn what_cannot_be_honoured_is_refused() {
    let check = |text: &str, reason: &str| {
        let error = parsed(text).unwrap_err().to_string();
        assert!(error.contains(reason), "{text}: {error}");
    };
    check("", "not a seccomp profile");
    check(r#"{"defaultAction":"SCMP_ACT_NOTIFY"}"#, "listener");
    check(r#"{"defaultAction":"SCMP_ACT_ALLOW","somethingNew":1}"#, "somethingNew");
    check(r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"action":"SCMP_ACT_ERRNO"}]}"#, "names");
    check(r#"{"defaultAction":"SCMP_ACT_ERRNO","defaultErrno":"EWHAT"}"#, "EWHAT");
}
