//! What compiled profiles answer: tables of cases, and random profiles against a direct reading of them.

#![allow(clippy::unwrap_used)]

use proptest::prelude::*;
use runtime::seccomp::machine::{Call, answer};
use runtime::seccomp::{Arch, Error, Filter, compile, compile_cached};
use runtime::spec::{Action, Condition, Operator, Seccomp, SyscallRule};

const ALLOW: u32 = 0x7fff_0000;
const KILL: u32 = 0;
const ENOSYS: u32 = 0x0005_0026;
const EPERM: u32 = 0x0005_0001;

fn profile(json: &str) -> Seccomp {
    serde_json::from_str(json).unwrap()
}

fn compiled(json: &str) -> Filter {
    compile(&profile(json)).unwrap()
}

#[track_caller]
fn check(filter: &Filter, arch: Arch, number: u32, args: [u64; 6], expected: u32) {
    let found = answer(&filter.program, &Call { number, audit: arch.audit(), args });
    assert_eq!(found, Some(expected), "{arch:?} {number:#x} {args:x?}");
}

#[track_caller]
fn check_named(filter: &Filter, arch: Arch, name: &str, args: [u64; 6], expected: u32) {
    check(filter, arch, arch.number(name).unwrap(), args, expected);
}

#[test]
fn named_calls_are_allowed_on_each_listed_architecture_and_others_are_killed() {
    let filter = compiled(
        r#"{"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 38,
            "architectures": ["SCMP_ARCH_X86", "SCMP_ARCH_AARCH64", "SCMP_ARCH_S390X"],
            "syscalls": [{"names": ["read", "mmap2", "nothing_known"], "action": "SCMP_ACT_ALLOW"}]}"#,
    );
    for arch in [Arch::X86_64, Arch::X86, Arch::Aarch64] {
        check_named(&filter, arch, "read", [0; 6], ALLOW);
        check_named(&filter, arch, "write", [0; 6], ENOSYS);
    }
    check_named(&filter, Arch::X86, "mmap2", [0; 6], ALLOW);
    check_named(&filter, Arch::Arm, "read", [0; 6], KILL);
    check_named(&filter, Arch::X32, "read", [0; 6], KILL);
    check(&filter, Arch::X86_64, u32::MAX, [0; 6], ENOSYS);
}

#[test]
fn x32_calls_are_judged_when_listed() {
    let filter = compiled(
        r#"{"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 38, "architectures": ["SCMP_ARCH_X32"],
            "syscalls": [{"names": ["execve"], "action": "SCMP_ACT_ALLOW"}]}"#,
    );
    check(&filter, Arch::X86_64, 0x4000_0000 | 520, [0; 6], ALLOW);
    check(&filter, Arch::X86_64, 59, [0; 6], ALLOW);
    check(&filter, Arch::X86_64, 0x4000_0000 | 59, [0; 6], ENOSYS);
}

#[test]
fn calls_newer_than_the_profile_hear_enosys_and_older_ones_the_default() {
    let filter = compiled(
        r#"{"defaultAction": "SCMP_ACT_ERRNO", "architectures": ["SCMP_ARCH_X86"],
            "syscalls": [{"names": ["read", "openat2"], "action": "SCMP_ACT_ALLOW"}]}"#,
    );
    for arch in [Arch::X86_64, Arch::X86] {
        check_named(&filter, arch, "openat2", [0; 6], ALLOW);
        check_named(&filter, arch, "openat", [0; 6], EPERM);
        check_named(&filter, arch, "faccessat2", [0; 6], ENOSYS);
        check(&filter, arch, 9999, [0; 6], ENOSYS);
    }
    let permissive = compiled(
        r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["read"], "action": "SCMP_ACT_ERRNO"}]}"#,
    );
    check(&permissive, Arch::X86_64, 9999, [0; 6], ALLOW);
    check_named(&permissive, Arch::X86_64, "read", [0; 6], EPERM);
}

#[test]
fn arm_private_calls_do_not_count_as_the_newest() {
    let filter = compiled(
        r#"{"defaultAction": "SCMP_ACT_ERRNO", "architectures": ["SCMP_ARCH_ARM"],
            "syscalls": [{"names": ["read", "openat2", "cacheflush"], "action": "SCMP_ACT_ALLOW"}]}"#,
    );
    check(&filter, Arch::Arm, 0xf0002, [0; 6], ALLOW);
    check(&filter, Arch::Arm, 438, [0; 6], ENOSYS);
    check(&filter, Arch::Arm, 436, [0; 6], EPERM);
}

fn comparing(op: &str, value: u64, two: u64) -> Filter {
    compiled(&format!(
        r#"{{"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 38, "architectures": ["SCMP_ARCH_X86"],
            "syscalls": [{{"names": ["ioctl"], "action": "SCMP_ACT_ALLOW",
            "args": [{{"index": 2, "op": "SCMP_CMP_{op}", "value": {value}, "valueTwo": {two}}}]}}]}}"#
    ))
}

#[test]
fn arguments_are_compared_in_64_bits_or_32_as_the_architecture_has_them() {
    let v = 0x5_0000_0007_u64;
    let wide = |op: &str, holds: [bool; 5]| {
        let filter = comparing(op, v, 0);
        for (arg, holds) in [v - 1, v, v + 1, v & 0xffff_ffff, v + (1 << 32)].into_iter().zip(holds) {
            check_named(
                &filter,
                Arch::X86_64,
                "ioctl",
                [9, 9, arg, 9, 9, 9],
                if holds { ALLOW } else { ENOSYS },
            );
        }
    };
    wide("EQ", [false, true, false, false, false]);
    wide("NE", [true, false, true, true, true]);
    wide("LT", [true, false, false, true, false]);
    wide("LE", [true, true, false, true, false]);
    wide("GT", [false, false, true, false, true]);
    wide("GE", [false, true, true, false, true]);
    check_named(&comparing("EQ", v, 0), Arch::X86, "ioctl", [0, 0, 7, 0, 0, 0], ALLOW);
    let masked = comparing("MASKED_EQ", 0xff00_0000_00f0, 0x1200_0000_003f);
    check_named(&masked, Arch::X86_64, "ioctl", [0, 0, 0xab_1234_5678_9a3b, 0, 0, 0], ALLOW);
    check_named(&masked, Arch::X86_64, "ioctl", [0, 0, 0xab_1334_5678_9a3b, 0, 0, 0], ENOSYS);
    check_named(&masked, Arch::X86_64, "ioctl", [0, 0, 0xab_1234_5678_9a4b, 0, 0, 0], ENOSYS);
}

#[test]
fn conditions_all_hold_unless_two_look_at_one_argument() {
    let filter = compiled(
        r#"{"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 38, "syscalls": [
            {"names": ["socket"], "action": "SCMP_ACT_ALLOW", "args": [
                {"index": 0, "op": "SCMP_CMP_EQ", "value": 1}, {"index": 1, "op": "SCMP_CMP_EQ", "value": 2}]},
            {"names": ["personality"], "action": "SCMP_ACT_ALLOW", "args": [
                {"index": 0, "op": "SCMP_CMP_EQ", "value": 1}, {"index": 0, "op": "SCMP_CMP_EQ", "value": 2}]}]}"#,
    );
    check_named(&filter, Arch::X86_64, "socket", [1, 2, 0, 0, 0, 0], ALLOW);
    check_named(&filter, Arch::X86_64, "socket", [1, 3, 0, 0, 0, 0], ENOSYS);
    check_named(&filter, Arch::X86_64, "personality", [1, 0, 0, 0, 0, 0], ALLOW);
    check_named(&filter, Arch::X86_64, "personality", [2, 0, 0, 0, 0, 0], ALLOW);
    check_named(&filter, Arch::X86_64, "personality", [3, 0, 0, 0, 0, 0], ENOSYS);
}

#[test]
fn x86_socket_and_ipc_calls_are_judged_behind_their_multiplexers_too() {
    let filter = compiled(
        r#"{"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 38, "architectures": ["SCMP_ARCH_X86"],
            "syscalls": [{"names": ["bind", "shmget"], "action": "SCMP_ACT_ALLOW"}]}"#,
    );
    check_named(&filter, Arch::X86, "bind", [0; 6], ALLOW);
    check_named(&filter, Arch::X86, "socketcall", [2, 0, 0, 0, 0, 0], ALLOW);
    check_named(&filter, Arch::X86, "socketcall", [3, 0, 0, 0, 0, 0], ENOSYS);
    check_named(&filter, Arch::X86, "ipc", [23, 0, 0, 0, 0, 0], ALLOW);
    check_named(&filter, Arch::X86, "ipc", [24, 0, 0, 0, 0, 0], ENOSYS);
}

#[test]
fn contradictions_are_named() {
    let check = |json: &str, expected: &str| {
        assert_eq!(compile(&profile(json)).unwrap_err().to_string(), expected);
    };
    check(
        r#"{"defaultAction": "SCMP_ACT_NOTIFY"}"#,
        "defaultAction: SCMP_ACT_NOTIFY would leave the container unable to reach its listener",
    );
    check(
        r#"{"defaultAction": "SCMP_ACT_ALLOW", "defaultErrnoRet": 1}"#,
        "defaultAction: an error number goes only with SCMP_ACT_ERRNO and SCMP_ACT_TRACE",
    );
    check(
        r#"{"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 4096}"#,
        "defaultAction: error number 4096 is more than 4095",
    );
    check(
        r#"{"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["X86_64"]}"#,
        "architectures: X86_64 is not a name of the OCI specification",
    );
    check(r#"{"defaultAction": "SCMP_ACT_ALLOW", "flags": ["FAST"]}"#, "flags: FAST is not known");
    check(
        r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": [], "action": "SCMP_ACT_LOG"}]}"#,
        "syscalls[0].names is empty",
    );
    check(
        r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["read"], "action": "SCMP_ACT_LOG",
            "args": [{"index": 6, "value": 0, "op": "SCMP_CMP_EQ"}]}]}"#,
        "syscalls[0].args: a system call has no argument 6",
    );
    check(
        r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["bpf"], "action": "SCMP_ACT_NOTIFY"}]}"#,
        "listenerPath is empty, but a rule asks a listener (SCMP_ACT_NOTIFY)",
    );
}

#[test]
fn a_listener_and_flags_are_told_to_the_loader() {
    let filter = compiled(
        r#"{"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "/run/agent.sock",
            "flags": ["SECCOMP_FILTER_FLAG_TSYNC", "SECCOMP_FILTER_FLAG_LOG",
                      "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"],
            "syscalls": [{"names": ["bpf"], "action": "SCMP_ACT_NOTIFY"}]}"#,
    );
    assert!(filter.listener);
    assert_eq!(filter.flags, 0b11_1011);
    let plain =
        compiled(r#"{"defaultAction": "SCMP_ACT_ALLOW", "flags": ["SECCOMP_FILTER_FLAG_SPEC_ALLOW"]}"#);
    assert_eq!((plain.flags, plain.listener), (4, false));
}

#[test]
fn a_program_longer_than_the_kernel_takes_is_refused() {
    let args: Vec<String> =
        (0..3000).map(|value| format!(r#"{{"index": 0, "op": "SCMP_CMP_EQ", "value": {value}}}"#)).collect();
    let json = format!(
        r#"{{"defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [{{"names": ["read"], "action": "SCMP_ACT_LOG", "args": [{}]}}]}}"#,
        args.join(",")
    );
    assert!(matches!(compile(&profile(&json)), Err(Error::TooLong { instructions }) if instructions > 4096));
}

#[test]
fn a_cached_filter_is_the_compiled_one() {
    let dir = tempfile::tempdir().unwrap();
    let profile = profile(
        r#"{"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{"names": ["read"], "action": "SCMP_ACT_ALLOW"}]}"#,
    );
    let fresh = compile_cached(&profile, dir.path()).unwrap();
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    assert_eq!(compile_cached(&profile, dir.path()).unwrap(), fresh);
    assert_eq!(compile(&profile).unwrap(), fresh.0);
}

/// What the profile says, read as directly as can be.
fn direct(profile: &Seccomp, arch: Arch, number: u32, args: [u64; 6]) -> u32 {
    let value = |action: Action, errno: Option<u32>| match action {
        Action::Errno => 0x0005_0000 | errno.unwrap_or(1),
        Action::Trace => 0x7ff0_0000 | errno.unwrap_or(1),
        Action::Kill | Action::KillThread => KILL,
        Action::KillProcess => 0x8000_0000,
        Action::Trap => 0x0003_0000,
        Action::Notify => 0x7fc0_0000,
        Action::Log => 0x7ffc_0000,
        Action::Allow => ALLOW,
    };
    let default = value(profile.default_action, profile.default_errno_ret);
    let wide = matches!(arch, Arch::X86_64 | Arch::Aarch64);
    let said = profile.syscalls.iter().filter(|rule| {
        value(rule.action, rule.errno_ret) != default
            && rule.names.iter().any(|name| arch.number(name) == Some(number))
    });
    let rules: Vec<_> = said.collect();
    if let Some(rule) = rules.iter().find(|rule| rule.args.is_empty()) {
        return value(rule.action, rule.errno_ret);
    }
    let matching = rules.iter().find(|rule| {
        let repeated =
            rule.args.iter().enumerate().any(|(i, a)| rule.args[..i].iter().any(|b| a.index == b.index));
        let holds = |condition: &Condition| holds(condition, args[condition.index as usize], wide);
        if repeated { rule.args.iter().any(holds) } else { rule.args.iter().all(holds) }
    });
    matching.map_or(default, |rule| value(rule.action, rule.errno_ret))
}

fn holds(condition: &Condition, arg: u64, wide: bool) -> bool {
    let cut = |value: u64| if wide { value } else { value & 0xffff_ffff };
    let (arg, one, two) = (cut(arg), cut(condition.value), cut(condition.value_two));
    match condition.op {
        Operator::NotEqual => arg != one,
        Operator::Less => arg < one,
        Operator::LessOrEqual => arg <= one,
        Operator::Equal => arg == one,
        Operator::GreaterOrEqual => arg >= one,
        Operator::Greater => arg > one,
        Operator::MaskedEqual => arg & one == two & one,
    }
}

const NAMES: [&str; 16] = [
    "read",
    "write",
    "open",
    "close",
    "ioctl",
    "clone",
    "personality",
    "keyctl",
    "openat2",
    "mseal",
    "mmap2",
    "prctl",
    "cacheflush",
    "rt_sigreturn",
    "execve",
    "futex_wait",
];
const CORNERS: [u64; 10] =
    [0, 1, 2, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff, 0x1_0000_0000, 0x1_0000_0001, u64::MAX - 1, u64::MAX];

fn corner() -> impl Strategy<Value = u64> {
    prop_oneof![4 => prop::sample::select(&CORNERS[..]), 1 => any::<u64>()]
}

fn action() -> impl Strategy<Value = (Action, Option<u32>)> {
    let plain = [Action::Allow, Action::Kill, Action::KillProcess, Action::Trap, Action::Log];
    prop_oneof![
        prop::sample::select(plain.to_vec()).prop_map(|action| (action, None)),
        (0_u32..60).prop_map(|errno| (Action::Errno, Some(errno))),
        Just((Action::Trace, None)),
    ]
}

fn condition() -> impl Strategy<Value = Condition> {
    let ops = Operator::ALL.to_vec();
    (0_u32..6, corner(), corner(), prop::sample::select(ops))
        .prop_map(|(index, value, value_two, op)| Condition { index, value, value_two, op })
}

fn rule() -> impl Strategy<Value = SyscallRule> {
    let names = prop_oneof![
        3 => prop::collection::vec(prop::sample::select(&NAMES[..]), 1..6),
        1 => Just(NAMES.to_vec()),
    ];
    (names, action(), prop::collection::vec(condition(), 0..4)).prop_map(
        |(names, (action, errno_ret), args)| SyscallRule {
            names: names.into_iter().map(str::to_owned).collect(),
            action,
            errno_ret,
            args,
        },
    )
}

fn profiles() -> impl Strategy<Value = Seccomp> {
    let arches = vec!["SCMP_ARCH_X86", "SCMP_ARCH_X32", "SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"];
    // Defaults under which newer calls are not told apart; that has its own tests.
    let default =
        prop::sample::select(vec![(Action::Allow, None), (Action::Log, None), (Action::Errno, Some(38))]);
    (default, prop::sample::subsequence(arches, 0..=4), prop::collection::vec(rule(), 0..40)).prop_map(
        |((default_action, default_errno_ret), arches, syscalls)| Seccomp {
            default_action,
            default_errno_ret,
            architectures: arches.into_iter().map(str::to_owned).collect(),
            flags: Vec::new(),
            listener_path: None,
            listener_metadata: None,
            syscalls,
        },
    )
}

fn listed(profile: &Seccomp, arch: Arch) -> bool {
    let name = match arch {
        Arch::X86_64 => return true,
        Arch::X86 => "SCMP_ARCH_X86",
        Arch::X32 => "SCMP_ARCH_X32",
        Arch::Aarch64 => "SCMP_ARCH_AARCH64",
        Arch::Arm => "SCMP_ARCH_ARM",
    };
    profile.architectures.iter().any(|listed| listed == name)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_program_says_what_its_profile_says(
        profile in profiles(),
        calls in prop::collection::vec((prop::sample::select(&NAMES[..]), prop::array::uniform6(corner())), 64),
    ) {
        let filter = match compile(&profile) {
            Err(Error::TooLong { .. }) => return Ok(()),
            other => other.unwrap(),
        };
        for (name, args) in calls {
            for arch in Arch::ALL {
                let Some(number) = arch.number(name) else { continue };
                let expected = if listed(&profile, arch) { direct(&profile, arch, number, args) } else { KILL };
                let found = answer(&filter.program, &Call { number, audit: arch.audit(), args });
                prop_assert_eq!(found, Some(expected), "{:?} {} {:x?}", arch, name, args);
            }
        }
    }
}
