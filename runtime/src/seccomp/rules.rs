//! A profile, checked and turned into a verdict for every system call number of an architecture.
//!
//! The rules of precedence are libseccomp's, as runc uses it: a rule with the default action says nothing;
//! conditions of one rule must all hold, unless two of them look at the same argument, which makes each a
//! rule of its own; a rule without conditions beats those with, and the first of several wins.

use crate::spec::{self, Action, Operator};

use super::Error;
use super::arch::{ARM_PRIVATE, Arch, X32_BIT, numbers};

const KILL_THREAD: u32 = 0;
const ERRNO: u32 = 0x0005_0000;
const TRACE: u32 = 0x7ff0_0000;
const ENOSYS: u32 = 38;
const EPERM: u32 = 1;
/// The kernel's MAX_ERRNO: more would be cut to this.
const MAX_ERRNO: u32 = 4095;
/// SECCOMP_RET_DATA: what a tracer can be told.
const MAX_DATA: u32 = 0xffff;
/// A system call has six arguments.
const MAX_ARGS: u32 = 6;

/// What a filter answers for a call on an architecture that it does not know: libseccomp's default.
pub(super) const BAD_ARCH: u32 = KILL_THREAD;

/// One comparison with an argument.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Test {
    pub(super) arg: u32,
    pub(super) op: Operator,
    /// The number compared with.
    pub(super) value: u64,
    /// What of the argument is looked at; all of it except for `MaskedEqual`.
    pub(super) mask: u64,
}

/// Tests that must all hold, and what then happens.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Clause {
    pub(super) tests: Vec<Test>,
    pub(super) answer: u32,
}

/// What happens to a call: the first clause that holds, or the profile's default.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    Always(u32),
    When(Vec<Clause>),
}

/// A verdict from a number on, up to the next one's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Range {
    pub(super) start: u32,
    pub(super) verdict: Verdict,
}

/// A profile whose words have been understood.
#[derive(Debug)]
pub(super) struct Rules<'a> {
    pub(super) default: u32,
    /// Whether calls newer than the profile get ENOSYS instead of the default.
    enosys: bool,
    rules: Vec<Rule<'a>>,
}

#[derive(Debug)]
struct Rule<'a> {
    names: &'a [String],
    clauses: Vec<Clause>,
}

impl<'a> Rules<'a> {
    pub(super) fn read(profile: &'a spec::Seccomp) -> Result<Rules<'a>, Error> {
        if profile.default_action == Action::Notify {
            return Err(Error::NotifyByDefault);
        }
        let default = answer("defaultAction", profile.default_action, profile.default_errno_ret)?;
        let mut rules = Vec::with_capacity(profile.syscalls.len());
        for (index, rule) in profile.syscalls.iter().enumerate() {
            let answer = answer(&format!("syscalls[{index}]"), rule.action, rule.errno_ret)?;
            let clauses = clauses(index, rule, answer)?;
            if answer != default {
                rules.push(Rule { names: &rule.names, clauses });
            }
        }
        Ok(Rules { default, enosys: hides_new_calls(profile.default_action, default), rules })
    }

    /// The verdicts over the whole range of numbers for one audit architecture, neighbours differing.
    pub(super) fn ranges(&self, abis: &[Arch]) -> Vec<Range> {
        let mut ranges = Ranges::default();
        if abis == [Arch::X32] {
            ranges.push(0, Verdict::Always(BAD_ARCH));
        }
        for &abi in abis {
            self.append(abi, &mut ranges);
        }
        if abis.contains(&Arch::X86_64) && !abis.contains(&Arch::X32) {
            ranges.push(X32_BIT, Verdict::Always(BAD_ARCH));
            // A tracer skips a call by making its number -1; libseccomp lets that one through to the default.
            ranges.push(u32::MAX, Verdict::Always(self.default));
        }
        ranges.0
    }

    fn append(&self, abi: Arch, ranges: &mut Ranges) {
        let base = if abi == Arch::X32 { X32_BIT } else { 0 };
        let calls = self.calls(abi);
        let newest =
            calls.iter().map(|call| call.number).filter(|n| abi != Arch::Arm || *n < ARM_PRIVATE).max();
        let beyond = if self.enosys { ERRNO | ENOSYS } else { self.default };
        let after = |number: u32| {
            if newest.is_some_and(|newest| number > newest) { beyond } else { self.default }
        };
        let mut next = base;
        for group in calls.chunk_by(|one, other| one.number == other.number) {
            let number = group[0].number;
            if next < number {
                ranges.push(next, Verdict::Always(after(next)));
            }
            ranges.push(number, verdict(group, self.default));
            next = number + 1;
        }
        ranges.push(next, Verdict::Always(after(next)));
    }

    /// Every mention of a number, in the order of numbers and, within one, of rules.
    fn calls(&self, abi: Arch) -> Vec<Call<'_>> {
        let mut calls = Vec::with_capacity(512);
        for rule in &self.rules {
            for name in rule.names {
                let direct =
                    numbers(name).and_then(|row| abi.column(row)).or_else(|| abi.private_number(name));
                if let Some(number) = direct {
                    calls.push(Call { number, clauses: &rule.clauses, first: None });
                }
                if let Some((number, call)) = abi.multiplexed(name) {
                    calls.push(Call { number, clauses: &rule.clauses, first: Some(call) });
                }
            }
        }
        calls.sort_by_key(|call| call.number);
        calls
    }
}

/// A rule's mention of a number.
#[derive(Debug)]
struct Call<'a> {
    number: u32,
    clauses: &'a [Clause],
    /// The multiplexer's first argument, which takes the place of the rule's own condition on it.
    first: Option<u64>,
}

impl Call<'_> {
    fn clauses(&self) -> Vec<Clause> {
        let mut clauses = self.clauses.to_vec();
        if let Some(value) = self.first {
            for clause in &mut clauses {
                clause.tests.retain(|test| test.arg != 0);
                clause.tests.insert(0, Test { arg: 0, op: Operator::Equal, value, mask: u64::MAX });
            }
        }
        clauses
    }

    fn always(&self) -> Option<u32> {
        let unconditional = |clause: &&Clause| clause.tests.is_empty() && self.first.is_none();
        self.clauses.iter().find(unconditional).map(|clause| clause.answer)
    }
}

fn verdict(calls: &[Call<'_>], default: u32) -> Verdict {
    if let Some(answer) = calls.iter().find_map(Call::always) {
        return Verdict::Always(answer);
    }
    let clauses: Vec<Clause> = calls.iter().flat_map(Call::clauses).collect();
    if clauses.is_empty() { Verdict::Always(default) } else { Verdict::When(clauses) }
}

/// Ranges in ascending order; a range like its neighbour is not begun.
#[derive(Debug, Default)]
struct Ranges(Vec<Range>);

impl Ranges {
    fn push(&mut self, start: u32, verdict: Verdict) {
        if self.0.last().is_none_or(|last| last.verdict != verdict) {
            self.0.push(Range { start, verdict });
        }
    }
}

/// A program that probes for a new call must hear ENOSYS to fall back to an older one; a profile cannot have
/// meant to forbid what it could not know. What runc does, under the same conditions.
fn hides_new_calls(default: Action, answer: u32) -> bool {
    let permissive = matches!(default, Action::Allow | Action::Log | Action::Trace);
    !permissive && answer != ERRNO | ENOSYS
}

/// SECCOMP_RET_*: an action with its data.
fn answer(place: &str, action: Action, errno: Option<u32>) -> Result<u32, Error> {
    let bound = |max: u32| match errno {
        Some(errno) if errno > max => Err(Error::Errno { place: place.to_owned(), errno, max }),
        given => Ok(given.unwrap_or(EPERM)),
    };
    let plain = |value: u32| match errno {
        Some(_) => Err(Error::ErrnoWithoutUse { place: place.to_owned() }),
        None => Ok(value),
    };
    match action {
        Action::Errno => Ok(ERRNO | bound(MAX_ERRNO)?),
        Action::Trace => Ok(TRACE | bound(MAX_DATA)?),
        Action::Kill | Action::KillThread => plain(KILL_THREAD),
        Action::KillProcess => plain(0x8000_0000),
        Action::Trap => plain(0x0003_0000),
        Action::Notify => plain(0x7fc0_0000),
        Action::Log => plain(0x7ffc_0000),
        Action::Allow => plain(0x7fff_0000),
    }
}

fn clauses(index: usize, rule: &spec::SyscallRule, answer: u32) -> Result<Vec<Clause>, Error> {
    if rule.names.is_empty() {
        return Err(Error::NoNames { index });
    }
    if rule.action == Action::Notify && rule.names.iter().any(|name| name == "write") {
        return Err(Error::NotifyWrite { index });
    }
    if let Some(condition) = rule.args.iter().find(|condition| condition.index >= MAX_ARGS) {
        return Err(Error::ArgIndex { index, arg: condition.index });
    }
    let tests: Vec<Test> = rule.args.iter().map(test).collect();
    let mut args: Vec<u32> = tests.iter().map(|test| test.arg).collect();
    args.sort_unstable();
    if args.windows(2).any(|pair| pair[0] == pair[1]) {
        return Ok(tests.into_iter().map(|test| Clause { tests: vec![test], answer }).collect());
    }
    Ok(vec![Clause { tests, answer }])
}

fn test(condition: &spec::Condition) -> Test {
    let (value, mask) = match condition.op {
        Operator::MaskedEqual => (condition.value_two & condition.value, condition.value),
        _ => (condition.value, u64::MAX),
    };
    Test { arg: condition.index, op: condition.op, value, mask }
}
