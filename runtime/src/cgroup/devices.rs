//! Which devices may be made, read and written: the list of rules becomes one policy, and the policy v1's
//! writes or a BPF program for v2.
//!
//! The policy always begins by denying everything, so that a list of things allowed can never be read as a
//! list of exceptions (GHSA-g54h), whatever the list begins with. The devices that every container has
//! (runtime-spec, "Default Devices") are allowed after the list has been read, as runc does.
//!
//! Rules count in their order, the last that speaks of an access deciding it (config-linux.md, "Allowed Device
//! list"). A program can hold any list; v1 knows one default and exceptions to it, and a list that would need
//! exceptions to exceptions is refused there.

use std::collections::BTreeMap;

use kernel::BpfInsn;

use crate::spec::DeviceRule;

use super::Error;

const MKNOD: u8 = 1;
const READ: u8 = 2;
const WRITE: u8 = 4;
const ALL: u8 = MKNOD | READ | WRITE;

/// BPF_DEVCG_DEV_BLOCK and BPF_DEVCG_DEV_CHAR.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Block = 1,
    Char = 2,
}

/// Absent numbers mean all.
type Numbers = (Kind, Option<u32>, Option<u32>);

/// More rules than this are no real container's; it also bounds the program.
const MAX_RULES: usize = 1000;

/// Made of any device, as `mknod` alone gives no access; and the default devices, with their terminals.
const DEFAULTS: [(Kind, Option<u32>, Option<u32>, u8); 10] = [
    (Kind::Char, None, None, MKNOD),
    (Kind::Block, None, None, MKNOD),
    (Kind::Char, Some(1), Some(3), ALL), // null
    (Kind::Char, Some(1), Some(5), ALL), // zero
    (Kind::Char, Some(1), Some(7), ALL), // full
    (Kind::Char, Some(1), Some(8), ALL), // random
    (Kind::Char, Some(1), Some(9), ALL), // urandom
    (Kind::Char, Some(5), Some(0), ALL), // tty
    (Kind::Char, Some(5), Some(2), ALL), // ptmx
    (Kind::Char, Some(136), None, ALL),  // pts/N
];

/// One rule, of one kind of device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Rule {
    allow: bool,
    numbers: Numbers,
    access: u8,
}

/// What no rule speaks of is denied, or allowed when `open`.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Policy {
    open: bool,
    rules: Vec<Rule>,
}

impl Policy {
    /// The rules in their order, later ones changing what earlier ones said.
    pub(super) fn read(rules: &[DeviceRule]) -> Result<Policy, Error> {
        if rules.len() > MAX_RULES {
            return Err(invalid("has more than 1000 rules"));
        }
        let mut policy = Policy::default();
        for rule in rules {
            policy.add(rule)?;
        }
        // One that allows all but some has these already, unless it means not to.
        if !policy.open {
            policy.rules.extend(DEFAULTS.map(|(kind, major, minor, access)| Rule {
                allow: true,
                numbers: (kind, major, minor),
                access,
            }));
        }
        Ok(policy)
    }

    fn add(&mut self, rule: &DeviceRule) -> Result<(), Error> {
        let (major, minor) = (number(rule.major)?, number(rule.minor)?);
        let access = access(rule.access.as_deref())?;
        let kinds: &[Kind] = match rule.kind.as_deref() {
            None | Some("" | "a") if (major, minor, access) == (None, None, ALL) => {
                *self = Policy { open: rule.allow, rules: Vec::new() };
                return Ok(());
            }
            // The kernel takes every line that begins with `a` for all devices: anything less is said in two.
            None | Some("" | "a") => &[Kind::Block, Kind::Char],
            Some("b") => &[Kind::Block],
            Some("c" | "u") => &[Kind::Char],
            Some(_) => return Err(invalid("has a type that is none of a, b, c and u")),
        };
        self.rules.extend(kinds.iter().map(|kind| Rule {
            allow: rule.allow,
            numbers: (*kind, major, minor),
            access,
        }));
        Ok(())
    }

    /// v1: the file for everything, then the file for the exceptions and its lines.
    ///
    /// # Errors
    /// The list contradicts a part of itself, which the kernel of v1 cannot hold.
    pub(super) fn v1_writes(&self) -> Result<(&'static str, &'static str, Vec<String>), Error> {
        let (all, except) =
            if self.open { ("devices.allow", "devices.deny") } else { ("devices.deny", "devices.allow") };
        let mut exceptions = BTreeMap::new();
        self.rules.iter().try_for_each(|rule| self.except(rule, &mut exceptions))?;
        Ok((all, except, exceptions.iter().map(line).collect()))
    }

    /// A rule against the default is an exception more; one with it takes from the exceptions.
    fn except(&self, rule: &Rule, exceptions: &mut BTreeMap<Numbers, u8>) -> Result<(), Error> {
        if rule.allow != self.open {
            *exceptions.entry(rule.numbers).or_default() |= rule.access;
            return Ok(());
        }
        for (other, left) in exceptions.iter_mut() {
            if covers(rule.numbers, *other) {
                *left &= !rule.access;
            } else if overlap(rule.numbers, *other) && *left & rule.access != 0 {
                // The kernel of v1 would leave the exception whole, and say nothing.
                return Err(invalid(
                    "contradicts a part of what an earlier rule says, which cgroup v1 cannot hold",
                ));
            }
        }
        exceptions.retain(|_, left| *left != 0);
        Ok(())
    }

    /// v2: a program for each access, answering 1 to allow it. It asks the last rule first; r3 holds what of
    /// the access no rule has allowed yet.
    pub(super) fn v2_program(&self) -> Vec<BpfInsn> {
        // r2 = type, r3 = access, r4 = major, r5 = minor, of struct bpf_cgroup_dev_ctx.
        let mut program = vec![
            insn(LOAD_WORD, 2, 1, 0, 0),
            insn(AND, 2, 0, 0, 0xffff),
            insn(LOAD_WORD, 3, 1, 0, 0),
            insn(SHIFT_RIGHT, 3, 0, 0, 16),
            insn(LOAD_WORD, 4, 1, 4, 0),
            insn(LOAD_WORD, 5, 1, 8, 0),
        ];
        for rule in self.rules.iter().rev() {
            program.extend(block(rule));
        }
        program.extend(answer(self.open));
        program
    }
}

/// Answers where a rule decides, and goes on past it otherwise.
fn block(rule: &Rule) -> Vec<BpfInsn> {
    let (kind, major, minor) = rule.numbers;
    let mut tests = vec![(JUMP_NOT_EQUAL, 2, kind as i32)];
    tests.extend(major.map(|major| (JUMP_NOT_EQUAL, 4, major as i32)));
    tests.extend(minor.map(|minor| (JUMP_NOT_EQUAL, 5, minor as i32)));
    let last = answer(rule.allow);
    let mut body = if rule.allow {
        // Allowed when nothing is left to be asked for.
        let rest = i32::from(ALL & !rule.access);
        vec![insn(AND, 3, 0, 0, rest), insn(JUMP_NOT_EQUAL, 3, 0, last.len() as i16, 0)]
    } else {
        let access = i32::from(rule.access);
        vec![insn(JUMP_SET, 3, 0, 1, access), insn(JUMP, 0, 0, last.len() as i16, 0)]
    };
    body.extend(last);
    let mut block: Vec<BpfInsn> = Vec::new();
    for (at, (code, register, value)) in tests.iter().enumerate() {
        let rest = tests.len() - at - 1 + body.len();
        block.push(insn(*code, *register, 0, rest as i16, *value));
    }
    block.extend(body);
    block
}

/// Whether every device of `small` is one of `large`.
fn covers(large: Numbers, small: Numbers) -> bool {
    let within = |large: Option<u32>, small: Option<u32>| large.is_none() || large == small;
    large.0 == small.0 && within(large.1, small.1) && within(large.2, small.2)
}

/// Whether some device is both.
fn overlap(one: Numbers, other: Numbers) -> bool {
    let meet = |one: Option<u32>, other: Option<u32>| one.is_none() || other.is_none() || one == other;
    one.0 == other.0 && meet(one.1, other.1) && meet(one.2, other.2)
}

fn line(((kind, major, minor), access): (&Numbers, &u8)) -> String {
    let kind = match kind {
        Kind::Block => 'b',
        Kind::Char => 'c',
    };
    let number = |number: &Option<u32>| number.map_or("*".to_owned(), |number| number.to_string());
    let access: String = [(READ, 'r'), (WRITE, 'w'), (MKNOD, 'm')]
        .iter()
        .filter(|(bit, _)| access & bit != 0)
        .map(|(_, letter)| *letter)
        .collect();
    format!("{kind} {}:{} {access}", number(major), number(minor))
}

/// -1 means all, as absence does: runc's Go structs write it so.
fn number(number: Option<i64>) -> Result<Option<u32>, Error> {
    match number {
        None | Some(-1) => Ok(None),
        Some(number) => u32::try_from(number).map(Some).map_err(|_| invalid("has a number out of range")),
    }
}

fn access(letters: Option<&str>) -> Result<u8, Error> {
    let Some(letters) = letters.filter(|letters| !letters.is_empty()) else { return Ok(ALL) };
    letters.chars().try_fold(0, |bits, letter| match letter {
        'r' => Ok(bits | READ),
        'w' => Ok(bits | WRITE),
        'm' => Ok(bits | MKNOD),
        _ => Err(invalid("has an access that is none of r, w and m")),
    })
}

fn invalid(reason: &'static str) -> Error {
    Error::Invalid { field: "devices", reason }
}

const LOAD_WORD: u8 = 0x61;
const AND: u8 = 0x54;
const SHIFT_RIGHT: u8 = 0x74;
const MOVE: u8 = 0xb7;
const JUMP: u8 = 0x05;
const JUMP_NOT_EQUAL: u8 = 0x56;
const JUMP_SET: u8 = 0x46;
const EXIT: u8 = 0x95;

fn insn(code: u8, destination: u8, source: u8, offset: i16, immediate: i32) -> BpfInsn {
    BpfInsn { code, registers: source << 4 | destination, offset, immediate }
}

fn answer(allow: bool) -> [BpfInsn; 2] {
    [insn(MOVE, 0, 0, 0, i32::from(allow)), insn(EXIT, 0, 0, 0, 0)]
}

#[cfg(test)]
mod tests;
