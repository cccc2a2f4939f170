//! Ranges of verdicts become instructions.
//!
//! BPF only jumps forward, so the program is written from its end: whatever a jump names has a place already.
//! A conditional jump reaches 255 instructions; a target further away is met by a nearer copy (of a return)
//! or by an unconditional jump, which has 32 bits.

use std::collections::BTreeMap;

use kernel::SockFilter;

use crate::spec::Operator;

use super::rules::{BAD_ARCH, Clause, Range, Test, Verdict};

const LOAD: u16 = 0x20;
const AND: u16 = 0x54;
const JUMP: u16 = 0x05;
const JUMP_EQUAL: u16 = 0x15;
const JUMP_GREATER: u16 = 0x25;
const JUMP_GREATER_OR_EQUAL: u16 = 0x35;
const RETURN: u16 = 0x06;

/// Offsets in `struct seccomp_data`.
const NUMBER: u32 = 0;
const ARCH: u32 = 4;
const ARGS: u32 = 16;

/// How far a conditional jump reaches.
const REACH: usize = 255;

/// The calls of one audit architecture.
#[derive(Debug)]
pub(super) struct Section {
    pub(super) audit: u32,
    /// Whether arguments of calls below and from the x32 bit on are compared in 64 bits.
    pub(super) wide: [bool; 2],
    pub(super) ranges: Vec<Range>,
}

/// The whole program; the first section is the one looked for first.
pub(super) fn assemble(sections: &[Section], default: u32) -> Vec<SockFilter> {
    let mut assembler = Assembler { default, ..Assembler::default() };
    let entries: Vec<Label> = sections.iter().rev().map(|section| assembler.section(section)).collect();
    let mut next = Label::Return(BAD_ARCH);
    for (section, entry) in sections.iter().zip(entries.into_iter().rev()).rev() {
        next = assembler.branch(JUMP_EQUAL, section.audit, entry, next);
    }
    assembler.load(ARCH, next);
    assembler.reversed.reverse();
    assembler.reversed
}

/// Where to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Label {
    Return(u32),
    /// An instruction, by its distance from the program's end.
    At(usize),
}

#[derive(Debug, Default)]
struct Assembler {
    /// The program, last instruction first.
    reversed: Vec<SockFilter>,
    default: u32,
    /// The latest copy of each return.
    returns: BTreeMap<u32, usize>,
    /// The latest jump to each far instruction.
    hops: BTreeMap<usize, usize>,
    /// Conditions already written, by what they say and the width of the arguments.
    conditions: BTreeMap<(Vec<Clause>, bool), Label>,
}

impl Assembler {
    fn section(&mut self, section: &Section) -> Label {
        let labels: Vec<(u32, Label)> = section
            .ranges
            .iter()
            .map(|range| {
                let wide = section.wide[usize::from(range.start >= super::arch::X32_BIT)];
                (range.start, self.verdict(&range.verdict, wide))
            })
            .collect();
        let tree = self.tree(&labels);
        self.load(NUMBER, tree)
    }

    /// A binary search for the range that the loaded number is in.
    fn tree(&mut self, ranges: &[(u32, Label)]) -> Label {
        if let [(_, label)] = ranges {
            return *label;
        }
        let (low, high) = ranges.split_at(ranges.len() / 2);
        let high_label = self.tree(high);
        let low_label = self.tree(low);
        self.branch(JUMP_GREATER_OR_EQUAL, high[0].0, high_label, low_label)
    }

    fn verdict(&mut self, verdict: &Verdict, wide: bool) -> Label {
        match verdict {
            Verdict::Always(answer) => Label::Return(*answer),
            Verdict::When(clauses) => self.clauses(clauses, wide),
        }
    }

    fn clauses(&mut self, clauses: &[Clause], wide: bool) -> Label {
        let key = (clauses.to_vec(), wide);
        if let Some(label) = self.conditions.get(&key) {
            return *label;
        }
        let mut next = Label::Return(self.default);
        for clause in clauses.iter().rev() {
            let mut holds = Label::Return(clause.answer);
            for test in clause.tests.iter().rev() {
                holds = self.test(test, wide, holds, next);
            }
            next = holds;
        }
        self.conditions.insert(key, next);
        next
    }

    fn test(&mut self, test: &Test, wide: bool, yes: Label, no: Label) -> Label {
        match test.op {
            Operator::Equal | Operator::MaskedEqual => self.equal(test, wide, yes, no),
            Operator::NotEqual => self.equal(test, wide, no, yes),
            Operator::Greater => self.above(JUMP_GREATER, test, wide, yes, no),
            Operator::GreaterOrEqual => self.above(JUMP_GREATER_OR_EQUAL, test, wide, yes, no),
            Operator::Less => self.above(JUMP_GREATER_OR_EQUAL, test, wide, no, yes),
            Operator::LessOrEqual => self.above(JUMP_GREATER, test, wide, no, yes),
        }
    }

    fn equal(&mut self, test: &Test, wide: bool, yes: Label, no: Label) -> Label {
        let low = self.equal_word(low_word(test.arg), low(test.mask), low(test.value), [yes, no]);
        if !wide {
            return low;
        }
        self.equal_word(high_word(test.arg), high(test.mask), high(test.value), [low, no])
    }

    fn equal_word(&mut self, offset: u32, mask: u32, value: u32, [yes, no]: [Label; 2]) -> Label {
        if mask == 0 || yes == no {
            return yes;
        }
        let compare = self.branch(JUMP_EQUAL, value, yes, no);
        if mask != u32::MAX {
            self.fall_into(compare);
            self.push(AND, mask);
        }
        let masked = if mask == u32::MAX { compare } else { self.here() };
        self.load(offset, masked)
    }

    /// `jump` decides the lower words; the higher ones decide first.
    fn above(&mut self, jump: u16, test: &Test, wide: bool, yes: Label, no: Label) -> Label {
        let compare = self.branch(jump, low(test.value), yes, no);
        if compare == yes {
            return yes;
        }
        let low = self.load(low_word(test.arg), compare);
        if !wide {
            return low;
        }
        let same = self.branch(JUMP_EQUAL, high(test.value), low, no);
        let more = self.branch(JUMP_GREATER, high(test.value), yes, same);
        self.load(high_word(test.arg), more)
    }

    /// A conditional jump; none is needed when both ways lead to the same place.
    fn branch(&mut self, code: u16, k: u32, yes: Label, no: Label) -> Label {
        if yes == no {
            return yes;
        }
        let yes = self.near(yes);
        let no = self.near(no);
        let here = self.reversed.len();
        let (jt, jf) = ((here - yes - 1) as u8, (here - no - 1) as u8);
        self.reversed.push(SockFilter { code, jt, jf, k });
        self.here()
    }

    fn load(&mut self, offset: u32, next: Label) -> Label {
        self.fall_into(next);
        self.push(LOAD, offset);
        self.here()
    }

    /// Sees to it that an instruction written now is followed by `next`.
    fn fall_into(&mut self, next: Label) {
        match next {
            Label::Return(answer) => self.push_return(answer),
            Label::At(place) if place + 1 == self.reversed.len() => {}
            Label::At(place) => self.push_jump(place),
        }
    }

    /// A place that the jump written next, or the one after it, can reach.
    fn near(&mut self, label: Label) -> usize {
        let reached = |place: &&usize| self.reversed.len() - **place <= REACH;
        match label {
            Label::At(place) if reached(&&place) => return place,
            Label::At(place) => {
                if let Some(hop) = self.hops.get(&place).filter(reached) {
                    return *hop;
                }
                self.push_jump(place);
                self.hops.insert(place, self.reversed.len() - 1);
            }
            Label::Return(answer) => {
                if let Some(copy) = self.returns.get(&answer).filter(reached) {
                    return *copy;
                }
                self.push_return(answer);
            }
        }
        self.reversed.len() - 1
    }

    fn push_return(&mut self, answer: u32) {
        self.push(RETURN, answer);
        self.returns.insert(answer, self.reversed.len() - 1);
    }

    fn push_jump(&mut self, place: usize) {
        self.push(JUMP, (self.reversed.len() - place - 1) as u32);
    }

    fn push(&mut self, code: u16, k: u32) {
        self.reversed.push(SockFilter { code, jt: 0, jf: 0, k });
    }

    fn here(&self) -> Label {
        Label::At(self.reversed.len() - 1)
    }
}

fn low(value: u64) -> u32 {
    value as u32
}

fn high(value: u64) -> u32 {
    (value >> 32) as u32
}

/// Every architecture that we know is little endian.
fn low_word(arg: u32) -> u32 {
    ARGS + 8 * arg
}

fn high_word(arg: u32) -> u32 {
    low_word(arg) + 4
}
