//! Our verdicts against libseccomp's: over every system call number for the containers' default profile, and
//! for random profiles. Debian's libseccomp-dev is compiled against when the test runs.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use kernel::SockFilter;
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use runtime::seccomp::machine::{Call, answer};
use runtime::seccomp::{Arch, Error, compile};
use runtime::spec::{Action, Condition, Operator, Seccomp, SyscallRule};

/// From Debian's golang-github-containers-common.
const DEFAULT_PROFILE: &str = "/usr/share/containers/seccomp.json";
/// The highest number that libseccomp 2.5.4 could know, with some room.
const NUMBERS: u32 = 620;
const X32_BIT: u32 = 0x4000_0000;
const ARM_PRIVATE: u32 = 0x000f_0000;

/// The helper program, or why there is none.
fn helper() -> Option<&'static Path> {
    static HELPER: OnceLock<Option<PathBuf>> = OnceLock::new();
    HELPER.get_or_init(build_helper).as_deref()
}

fn build_helper() -> Option<PathBuf> {
    if !Path::new("/usr/include/seccomp.h").exists() {
        assert!(std::env::var_os("CI").is_none(), "libseccomp-dev is missing");
        println!("skipped: libseccomp-dev is not installed");
        return None;
    }
    let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("libseccomp-{}", std::process::id()));
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/seccomp_libseccomp.c");
    let cc =
        Command::new("cc").arg("-O1").arg("-o").arg(&program).arg(source).arg("-lseccomp").status().unwrap();
    assert!(cc.success(), "compiling the helper");
    Some(program)
}

fn ask(program: &Path, argument: Option<&str>, input: &str) -> Vec<u8> {
    let mut child =
        Command::new(program).args(argument).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_owned();
    let writer = std::thread::spawn(move || stdin.write_all(input.as_bytes()).unwrap());
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    assert!(output.status.success(), "the helper failed");
    output.stdout
}

/// Leaves only the names that libseccomp knows: newer calls it would not judge.
fn keep_known(program: &Path, profile: &mut Seccomp) {
    let names: Vec<&str> = profile.syscalls.iter().flat_map(|rule| &rule.names).map(String::as_str).collect();
    let unknown = String::from_utf8(ask(program, Some("unknown"), &names.join("\n"))).unwrap();
    let unknown: BTreeSet<&str> = unknown.lines().collect();
    for rule in &mut profile.syscalls {
        rule.names.retain(|name| !unknown.contains(name.as_str()));
    }
    profile.syscalls.retain(|rule| !rule.names.is_empty());
}

fn libseccomp(program: &Path, profile: &Seccomp) -> Vec<SockFilter> {
    let mut input = format!("default {}\n", value(profile.default_action, profile.default_errno_ret));
    for arch in &profile.architectures {
        input += &format!("arch {}\n", arch.trim_start_matches("SCMP_ARCH_").to_lowercase());
    }
    for rule in &profile.syscalls {
        for name in &rule.names {
            input += &format!("rule {} {name}", value(rule.action, rule.errno_ret));
            for condition in &rule.args {
                let Condition { index, value, value_two, op } = condition;
                input += &format!(" {index} {} {value} {value_two}", operator(*op));
            }
            input.push('\n');
        }
    }
    let steps = ask(program, None, &input);
    steps.chunks_exact(8).map(|bytes| instruction(bytes.try_into().unwrap())).collect()
}

fn instruction([a, b, jt, jf, k @ ..]: [u8; 8]) -> SockFilter {
    SockFilter { code: u16::from_le_bytes([a, b]), jt, jf, k: u32::from_le_bytes(k) }
}

/// SCMP_ACT_*.
fn value(action: Action, errno: Option<u32>) -> u32 {
    match action {
        Action::Errno => 0x0005_0000 | errno.unwrap_or(1),
        Action::Trace => 0x7ff0_0000 | errno.unwrap_or(1),
        Action::Kill | Action::KillThread => 0,
        Action::KillProcess => 0x8000_0000,
        Action::Trap => 0x0003_0000,
        Action::Notify => 0x7fc0_0000,
        Action::Log => 0x7ffc_0000,
        Action::Allow => 0x7fff_0000,
    }
}

/// enum scmp_compare.
fn operator(op: Operator) -> u32 {
    match op {
        Operator::NotEqual => 1,
        Operator::Less => 2,
        Operator::LessOrEqual => 3,
        Operator::Equal => 4,
        Operator::GreaterOrEqual => 5,
        Operator::Greater => 6,
        Operator::MaskedEqual => 7,
    }
}

/// Every number worth asking about, with the audit architecture it is asked under.
fn numbers() -> impl Iterator<Item = (u32, u32)> {
    let audits = [Arch::X86_64, Arch::X86, Arch::Aarch64, Arch::Arm].map(Arch::audit);
    let numbers = (0..NUMBERS)
        .chain((0..NUMBERS).map(|number| X32_BIT | number))
        .chain((0..10).map(|number| ARM_PRIVATE + number))
        .chain([0x3fff_ffff, 0x7fff_ffff, 0x8000_0000, 0xffff_fffe, u32::MAX]);
    let unknown_audit = 0xc000_0016;
    numbers
        .flat_map(move |number| audits.into_iter().chain([unknown_audit]).map(move |audit| (audit, number)))
}

/// What decides about arguments: each condition's number and its neighbours, in both words.
fn corners(profile: &Seccomp) -> Vec<u64> {
    let mut corners = BTreeSet::from([0, 1, u64::MAX, 0xffff_ffff, 1 << 32]);
    for condition in profile.syscalls.iter().flat_map(|rule| &rule.args) {
        for value in [condition.value, condition.value_two, condition.value ^ condition.value_two] {
            let around =
                [value, value.wrapping_sub(1), value.wrapping_add(1), value ^ (1 << 32), value << 32, !value];
            corners.extend(around);
        }
    }
    corners.into_iter().collect()
}

/// Compares both programs on a call; true when they said the same.
fn compare(ours: &[SockFilter], theirs: &[SockFilter], call: &Call) -> Result<(), String> {
    let (our, their) = (answer(ours, call), answer(theirs, call));
    if our == their && our.is_some() {
        return Ok(());
    }
    Err(format!("{call:x?}: ours {our:x?}, libseccomp's {their:x?}"))
}

/// The profile that applies to a container with these capabilities, resolved as containers/common does.
fn default_profile(capabilities: &[&str]) -> Seccomp {
    let file: serde_json::Value =
        serde_json::from_str(&fs::read_to_string(DEFAULT_PROFILE).unwrap()).unwrap();
    let native =
        file["archMap"].as_array().unwrap().iter().find(|a| a["architecture"] == "SCMP_ARCH_X86_64").unwrap();
    let mut arches = vec![native["architecture"].clone()];
    arches.extend(native["subArchitectures"].as_array().unwrap().iter().cloned());
    let has = |list: &serde_json::Value, held: &[&str]| {
        list.as_array().is_some_and(|list| list.iter().any(|item| held.contains(&item.as_str().unwrap())))
    };
    let names = |list: &serde_json::Value| list.as_array().is_some_and(|list| !list.is_empty());
    let applies = |rule: &serde_json::Value| {
        let (includes, excludes) = (&rule["includes"], &rule["excludes"]);
        let all_caps = includes["caps"]
            .as_array()
            .is_none_or(|caps| caps.iter().all(|cap| capabilities.contains(&cap.as_str().unwrap())));
        !has(&excludes["arches"], &["amd64"])
            && !has(&excludes["caps"], capabilities)
            && (!names(&includes["arches"]) || has(&includes["arches"], &["amd64"]))
            && all_caps
    };
    let rules: Vec<_> =
        file["syscalls"].as_array().unwrap().iter().filter(|rule| applies(rule)).cloned().collect();
    serde_json::from_value(serde_json::json!({
        "defaultAction": file["defaultAction"], "defaultErrnoRet": file["defaultErrnoRet"],
        "architectures": arches, "syscalls": rules,
    }))
    .unwrap()
}

fn compare_everywhere(program: &Path, mut profile: Seccomp) -> (usize, usize) {
    keep_known(program, &mut profile);
    let ours = compile(&profile).unwrap().program;
    let theirs = libseccomp(program, &profile);
    let corners = corners(&profile);
    for (audit, number) in numbers() {
        for (at, one) in corners.iter().enumerate() {
            // Every argument takes every corner; neighbouring arguments differ.
            let args = std::array::from_fn(|arg| corners[(at + arg * 7) % corners.len()]);
            for args in [[*one; 6], args] {
                compare(&ours, &theirs, &Call { number, audit, args }).unwrap();
            }
        }
    }
    (ours.len(), theirs.len())
}

#[test]
fn the_containers_default_profile_means_what_libseccomp_makes_of_it() {
    let Some(program) = helper() else { return };
    if !Path::new(DEFAULT_PROFILE).exists() {
        assert!(std::env::var_os("CI").is_none(), "golang-github-containers-common is missing");
        println!("skipped: {DEFAULT_PROFILE} is not installed");
        return;
    }
    for capabilities in [
        &[][..],
        &["CAP_SYS_ADMIN"],
        &["CAP_SYS_CHROOT", "CAP_AUDIT_WRITE"],
        &["CAP_SYS_ADMIN", "CAP_SYS_PTRACE", "CAP_BPF", "CAP_SYS_TIME", "CAP_SYSLOG", "CAP_AUDIT_WRITE"],
    ] {
        let (ours, theirs) = compare_everywhere(program, default_profile(capabilities));
        println!("{capabilities:?}: {ours} instructions; libseccomp's has {theirs}");
    }
}

/// Calls of every architecture: where one lacks the call that sorts first, libseccomp 2.5.4 forgets to load
/// the number and judges the architecture's instead.
const NAMES: [&str; 14] = [
    "read",
    "write",
    "openat",
    "close",
    "ioctl",
    "clone",
    "personality",
    "keyctl",
    "openat2",
    "mprotect",
    "prctl",
    "rt_sigreturn",
    "execve",
    "fanotify_init",
];
/// These are carried by socketcall(2) and ipc(2) on x86 too.
const CARRIED: [&str; 5] = ["socket", "bind", "sendmmsg", "accept4", "shmget"];

fn condition(ops: Vec<Operator>) -> impl Strategy<Value = Condition> {
    let value = || prop_oneof![Just(0), Just(1), Just(7), Just(0xffff_ffff), Just(1 << 32), any::<u64>()];
    (0_u32..6, value(), value(), prop::sample::select(ops))
        .prop_map(|(index, value, value_two, op)| Condition { index, value, value_two, op })
}

/// One rule with any conditions on different arguments, or several that ask one argument for a value, as for
/// `personality`. More is beyond libseccomp 2.5.4: with `arg < 0` and `arg < 1 << 32` on one call it lets 1
/// through both, and trees of several arguments it merges until they hold for what no rule names.
fn conditions() -> impl Strategy<Value = Vec<Vec<Condition>>> {
    let any = Operator::ALL.to_vec();
    let one = prop::collection::vec(condition(any), 0..4).prop_map(|mut conditions| {
        conditions.sort_by_key(|condition| condition.index);
        conditions.dedup_by_key(|condition| condition.index);
        vec![conditions]
    });
    let several = (0_u32..6, prop::collection::vec(condition(vec![Operator::Equal]), 1..5)).prop_map(
        |(index, conditions)| {
            conditions.into_iter().map(|condition| vec![Condition { index, ..condition }]).collect()
        },
    );
    prop_oneof![one, several]
}

/// The rules of a profile for one call each.
fn rules(action: Action) -> impl Strategy<Value = Vec<SyscallRule>> {
    let rule = move |name: &str, args: Vec<Condition>| SyscallRule {
        names: vec![name.to_owned()],
        action,
        errno_ret: None,
        args,
    };
    let calls = prop::collection::btree_map(prop::sample::select(&NAMES[..]), conditions(), 0..10);
    let carried = prop::sample::subsequence(&CARRIED[..], 0..=4);
    (calls, carried).prop_map(move |(calls, carried)| {
        let calls =
            calls.into_iter().flat_map(|(name, rules)| rules.into_iter().map(move |args| rule(name, args)));
        calls.chain(carried.into_iter().map(|name| rule(name, Vec::new()))).collect()
    })
}

fn profiles() -> impl Strategy<Value = Seccomp> {
    let arches = vec!["SCMP_ARCH_X86", "SCMP_ARCH_X32", "SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"];
    // One action a profile: where clauses of different actions overlap, libseccomp's answer depends on the
    // shape of its tree, and ours is the first.
    let actions = vec![
        (Action::Allow, None, Action::Errno),
        (Action::Allow, None, Action::KillProcess),
        (Action::Errno, Some(38), Action::Allow),
        (Action::Errno, Some(38), Action::Trap),
        (Action::Log, None, Action::Kill),
    ];
    (prop::sample::select(actions), prop::sample::subsequence(arches, 0..=4)).prop_flat_map(
        move |((default_action, default_errno_ret, action), arches)| {
            rules(action).prop_map(move |syscalls| Seccomp {
                default_action,
                default_errno_ret,
                architectures: arches.iter().map(|arch| (*arch).to_owned()).collect(),
                flags: Vec::new(),
                listener_path: None,
                listener_metadata: None,
                syscalls,
            })
        },
    )
}

#[test]
fn random_profiles_mean_what_libseccomp_makes_of_them() {
    let Some(program) = helper() else { return };
    // The same profiles every time: what libseccomp gets wrong should not fail somebody's change.
    let mut runner = TestRunner::new_with_rng(
        Config { cases: 300, failure_persistence: None, ..Config::default() },
        TestRng::deterministic_rng(RngAlgorithm::ChaCha),
    );
    runner
        .run(&profiles(), |profile| {
            let ours = match compile(&profile) {
                Err(Error::TooLong { .. }) => return Ok(()),
                other => other.unwrap().program,
            };
            let theirs = libseccomp(program, &profile);
            let corners = corners(&profile);
            let names = NAMES.iter().chain(&CARRIED).chain(&["socketcall", "ipc", "getpid"]);
            for (arch, name) in
                Arch::ALL.into_iter().flat_map(|arch| names.clone().map(move |name| (arch, name)))
            {
                let Some(number) = arch.number(name) else { continue };
                for at in 0..corners.len() {
                    let args = std::array::from_fn(|arg| corners[(at + arg * 5) % corners.len()]);
                    for args in [[corners[at]; 6], args] {
                        let call = Call { number, audit: arch.audit(), args };
                        compare(&ours, &theirs, &call).map_err(TestCaseError::fail)?;
                    }
                }
            }
            Ok(())
        })
        .unwrap();
}
