//! What fuzz targets feed, with the rules that must hold whatever comes in. Built for `runtime/fuzz` alone.

use std::path::Path;

use crate::Rootfs;
use crate::cgroup::{self, Driver, ScopePlan};
use crate::plan::{self, Plan};
use crate::seccomp::machine::{Call, answer};
use crate::seccomp::{self, Arch, Filter};
use crate::spec::{self, Action, Condition, Operator, Seccomp, Spec, SyscallRule};
use crate::state::{self, StateDir};

/// `config.json`, to a plan with both drivers.
pub fn config(bytes: &[u8]) {
    let spec: Spec = match spec::parse(bytes) {
        Ok(spec) => spec,
        // Finding the place of the fault is code of ours.
        Err(malformed) => return drop(malformed.to_string()),
    };
    for driver in [Driver::Cgroupfs, Driver::Systemd] {
        if let Ok(plan) = plan::plan("id", Path::new("/bundle"), &spec, &Rootfs::Bundle, driver) {
            stays_inside(&plan);
        }
    }
}

fn stays_inside(plan: &Plan) {
    let mounts = plan.mounts.iter().map(|mount| &mount.destination);
    let devices = plan.devices.iter().map(|device| &device.dir);
    let places = mounts.chain(devices).chain(&plan.masked).chain(&plan.readonly).chain([&plan.process.cwd]);
    for place in places {
        let place = place.as_bytes();
        assert!(!place.starts_with(b"/"), "absolute: {place:?}");
        assert!(place.split(|&byte| byte == b'/').all(|part| part != b".."), "leads out: {place:?}");
    }
    for sysctl in &plan.sysctls {
        assert!(sysctl.path.as_bytes().starts_with(b"sys/"), "{sysctl:?}");
    }
}

/// A profile: as JSON when it looks like it, else built from the bytes one by one.
pub fn seccomp(bytes: &[u8]) {
    let profile = if bytes.first() == Some(&b'{') {
        spec::parse::<Seccomp>(bytes).ok()
    } else {
        Some(profile(&mut bytes.iter().copied()))
    };
    let Some(profile) = profile else { return };
    let Ok(filter) = seccomp::compile(&profile) else { return };
    is_taken_by_the_kernel(&filter);
    answers_everything(&filter, bytes);
}

const NAMES: [&str; 12] = [
    "read",
    "write",
    "openat",
    "socket",
    "clone",
    "clone3",
    "mount",
    "nosuchcall",
    "personality",
    "waitpid",
    "arch_prctl",
    "set_mempolicy_home_node",
];
const ARCHITECTURES: [&str; 5] =
    ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32", "SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"];
const ACTIONS: [Action; 8] = [
    Action::Kill,
    Action::KillProcess,
    Action::KillThread,
    Action::Trap,
    Action::Errno,
    Action::Trace,
    Action::Allow,
    Action::Log,
];

fn profile(bytes: &mut impl Iterator<Item = u8>) -> Seccomp {
    let mut next = |below: usize| usize::from(bytes.next().unwrap_or(0)) % below;
    let default_action = ACTIONS[next(ACTIONS.len())];
    let architectures = (0..next(4)).map(|_| ARCHITECTURES[next(5)].to_owned()).collect();
    let mut syscalls = Vec::new();
    for _ in 0..next(24) {
        let names = (0..=next(3)).map(|_| NAMES[next(NAMES.len())].to_owned()).collect();
        let action = ACTIONS[next(ACTIONS.len())];
        let mut args = Vec::new();
        for _ in 0..next(4) {
            let mut value = || (0..8).fold(0_u64, |value, _| value << 8 | next(256) as u64);
            let (value, value_two) = (value(), value());
            args.push(Condition { index: next(6) as u32, value, value_two, op: Operator::ALL[next(7)] });
        }
        syscalls.push(SyscallRule { names, action, errno_ret: None, args });
    }
    Seccomp {
        default_action,
        default_errno_ret: None,
        architectures,
        flags: Vec::new(),
        listener_path: None,
        listener_metadata: None,
        syscalls,
    }
}

/// kernel/seccomp.c and net/core/filter.c: jumps forward within the program, a return at its end, not too long.
fn is_taken_by_the_kernel(filter: &Filter) {
    let program = &filter.program;
    assert!((1..=4096).contains(&program.len()), "{} instructions", program.len());
    assert_eq!(program.last().map(|last| last.code), Some(0x06), "the last one does not return");
    for (at, step) in program.iter().enumerate() {
        let rest = program.len() - at - 1;
        match step.code {
            0x05 => assert!((step.k as usize) < rest, "a jump out at {at}"),
            0x15 | 0x25 | 0x35 | 0x45 => {
                assert!(usize::from(step.jt.max(step.jf)) < rest, "a branch out at {at}");
            }
            0x20 => assert!(step.k.is_multiple_of(4) && step.k < 64, "a load from {} at {at}", step.k),
            0x06 | 0x54 => {}
            code => panic!("instruction {code:#x} at {at}"),
        }
    }
}

fn answers_everything(filter: &Filter, bytes: &[u8]) {
    let word = bytes.iter().rev().take(8).fold(0_u64, |word, &byte| word << 8 | u64::from(byte));
    for arch in [Arch::X86_64, Arch::X86, Arch::Aarch64] {
        for number in [0, 1, 41, 56, 135, 435, 0x4000_0000, u32::MAX, word as u32] {
            let call = Call { number, audit: arch.audit(), args: [word, 0, u64::MAX, 1, word >> 7, 2] };
            assert!(answer(&filter.program, &call).is_some(), "no answer to {call:?}");
        }
    }
}

/// Whatever a table of mounts, of cgroups or of a process's numbers holds.
pub fn proc(bytes: &[u8]) {
    state::parse_stat(bytes);
    if let Ok(text) = std::str::from_utf8(bytes) {
        cgroup::read_tables(text);
    }
}

/// The path before the first NUL, the id after it.
pub fn cgroup_path(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let (path, id) = text.split_once('\0').unwrap_or((text, "id"));
    if StateDir::of(Path::new("/run"), id).is_err() {
        return;
    }
    if let Ok(path) = plan::cgroup_path(id, &linux(path)) {
        stays_below(&path);
    }
    if let Ok(scope) = ScopePlan::of(Some(path), id, &Default::default()) {
        stays_below(&scope.cgroup_path());
    }
}

fn linux(path: &str) -> spec::Linux {
    spec::Linux { cgroups_path: Some(path.to_owned()), ..Default::default() }
}

fn stays_below(path: &str) {
    assert!(path.starts_with('/'), "{path:?} is not absolute");
    assert!(path.split('/').all(|part| !matches!(part, "." | "..")), "{path:?} leads out");
    assert!(!path.contains(['\0', '\n']), "{path:?} has a byte that no name can have");
}
