//! How caches and memory bandwidth are shared out: the file's words and the machine's figures in, schemata out. Pure.
//!
//! Partitions get bits of a cache for themselves, one after the other in the order of their names; classes of a partition
//! share its bits. A class's bandwidth is its part of its partition's.

use std::collections::BTreeMap;

use super::file::{Class, Document, Partition, numbers};

/// What the machine has to share.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Machine {
    /// Which bits a mask of the cache may have; none where the kernel shares out no L3.
    pub(super) l3: Option<Cache>,
    pub(super) mb: Option<Bandwidth>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Cache {
    pub(super) ids: Vec<u32>,
    pub(super) mask: u64,
    pub(super) least_bits: u32,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Bandwidth {
    pub(super) ids: Vec<u32>,
    pub(super) least: u32,
    pub(super) step: u32,
}

/// The lines of each class's schemata.
pub(super) fn schemata(
    document: &Document,
    machine: &Machine,
) -> Result<BTreeMap<String, Vec<String>>, String> {
    if document.needs_l3() && machine.l3.is_none() {
        return Err(
            "this machine or kernel shares out no L3 cache, and options.l3.optional is not set".into()
        );
    }
    if document.needs_mb() && machine.mb.is_none() {
        return Err(
            "this machine or kernel shares out no memory bandwidth, and options.mb.optional is not set"
                .into(),
        );
    }
    let mut lines: BTreeMap<String, Vec<String>> =
        document.class_names().into_iter().map(|class| (class, Vec::new())).collect();
    if let Some(cache) = &machine.l3 {
        add(&mut lines, "L3", &cache.ids, |id| masks(document, cache, id))?;
    }
    if let Some(bandwidth) = &machine.mb {
        add(&mut lines, "MB", &bandwidth.ids, |id| percentages(document, bandwidth, id))?;
    }
    Ok(lines)
}

/// By class, what it gets of one cache or memory.
type OfOne = BTreeMap<String, String>;

fn add(
    lines: &mut BTreeMap<String, Vec<String>>,
    kind: &str,
    ids: &[u32],
    share: impl Fn(u32) -> Result<OfOne, String>,
) -> Result<(), String> {
    let mut words: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for id in ids {
        for (class, value) in share(*id)? {
            words.entry(class).or_default().push(format!("{id}={value}"));
        }
    }
    for (class, words) in words {
        lines.entry(class).or_default().push(format!("{kind}:{}", words.join(";")));
    }
    Ok(())
}

fn classes(partition: &Partition) -> impl Iterator<Item = (&String, Class)> {
    partition.classes.iter().map(|(name, class)| (name, class.clone().unwrap_or_default()))
}

fn masks(document: &Document, cache: &Cache, id: u32) -> Result<OfOne, String> {
    let mut shares = OfOne::new();
    let mut free = cache.mask;
    let has = |partition: &&Partition| partition.l3_allocation.is_some();
    if !document.partitions.values().any(|partition| has(&partition)) {
        return Ok(shares);
    }
    for (name, partition) in &document.partitions {
        let at = |why: String| format!("partition {name:?}, l3Allocation of cache {id}: {why}");
        let wish = partition.l3_allocation.as_ref().and_then(|all| all.of(id));
        let wish = wish.ok_or_else(|| at("other partitions have one, and this has none".into()))?;
        let own = match percent(wish) {
            Some((0, share)) => lowest(free, bits_of(cache.mask.count_ones(), share, cache.least_bits)),
            Some(_) => return Err(at(format!("{wish:?} is no share of the whole, such as 50%"))),
            None => absolute(wish).map(|mask| mask & cache.mask),
        };
        let own = own.filter(|own| *own != 0).ok_or_else(|| at(format!("{wish:?} is not to be had")))?;
        if own & !free != 0 {
            return Err(at(format!("{wish:?} overlaps what other partitions have")));
        }
        free &= !own;
        for (class, wishes) in classes(partition) {
            let wish =
                wishes.l3_allocation.as_ref().and_then(|all| all.of(id)).map_or("100%", String::as_str);
            let mask = part_of(own, wish, cache.least_bits).ok_or_else(|| {
                format!("class {class:?}, l3Allocation of cache {id}: {wish:?} is not to be had")
            })?;
            shares.insert(class.clone(), format!("{mask:x}"));
        }
    }
    Ok(shares)
}

/// Of a partition's bits: a share from the low end, a range of shares, or bits counted from its lowest.
fn part_of(own: u64, wish: &str, least_bits: u32) -> Option<u64> {
    let (first, width) = (own.trailing_zeros(), own.count_ones());
    let Some((from, to)) = percent(wish) else {
        let mask = absolute(wish)?.checked_shl(first)?;
        return Some(mask).filter(|mask| *mask != 0 && mask & !own == 0);
    };
    let begin = (width * from / 100).min(width.saturating_sub(least_bits));
    let end = bits_of(width, to, least_bits).max(begin + least_bits).min(width);
    let bits = end.checked_sub(begin).filter(|bits| *bits > 0)?;
    Some((ones(bits) << begin) << first)
}

/// At least what the kernel takes; halves are rounded up.
fn bits_of(width: u32, percent: u32, least: u32) -> u32 {
    ((width * percent + 50) / 100).max(least)
}

fn ones(bits: u32) -> u64 {
    if bits >= 64 { u64::MAX } else { (1 << bits) - 1 }
}

/// So many bits without a gap, which the kernel wants, as low as they are free.
fn lowest(free: u64, bits: u32) -> Option<u64> {
    (0..64).filter(|shift| shift + bits <= 64).map(|shift| ones(bits) << shift).find(|mask| mask & !free == 0)
}

/// `60%`, or `20-80%`.
fn percent(wish: &str) -> Option<(u32, u32)> {
    let words = wish.trim().strip_suffix('%')?;
    let (from, to) = words.split_once('-').unwrap_or(("0", words));
    let (from, to): (u32, u32) = (from.trim().parse().ok()?, to.trim().parse().ok()?);
    (from < to && to <= 100).then_some((from, to))
}

/// `0xff`, or bits as `0-3`. Without gaps.
fn absolute(wish: &str) -> Option<u64> {
    let mask = match wish.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16).ok()?,
        None => numbers(wish)?.into_iter().try_fold(0, |mask, bit| Some(mask | 1u64.checked_shl(bit)?))?,
    };
    let run = mask.checked_shr(mask.trailing_zeros())?;
    (mask != 0 && run & run.wrapping_add(1) == 0).then_some(mask)
}

fn percentages(document: &Document, bandwidth: &Bandwidth, id: u32) -> Result<OfOne, String> {
    let mut shares = OfOne::new();
    if !document.partitions.values().any(|partition| partition.mb_allocation.is_some()) {
        return Ok(shares);
    }
    let share = |of: String, wish: Option<&Vec<String>>| match wish {
        None => Ok(100),
        Some(words) => words
            .iter()
            .find_map(|word| percent(word).filter(|(from, _)| *from == 0))
            .map(|(_, share)| share)
            .ok_or_else(|| format!("{of}, mbAllocation of memory {id}: {words:?} has no share such as 50%")),
    };
    for (name, partition) in &document.partitions {
        let wish = partition.mb_allocation.as_ref().and_then(|all| all.of(id));
        let whole = share(format!("partition {name:?}"), wish)?;
        for (class, wishes) in classes(partition) {
            let wish = wishes.mb_allocation.as_ref().and_then(|all| all.of(id));
            let own = whole * share(format!("class {class:?}"), wish)? / 100;
            // The kernel takes steps, and rounds up itself.
            let own = own.max(bandwidth.least).next_multiple_of(bandwidth.step.max(1)).min(100);
            shares.insert(class.clone(), own.to_string());
        }
    }
    Ok(shares)
}

#[cfg(test)]
mod tests {
    use super::super::file::parse;
    use super::*;

    fn machine() -> Machine {
        Machine {
            l3: Some(Cache { ids: vec![0, 1], mask: 0xfffff, least_bits: 2 }),
            mb: Some(Bandwidth { ids: vec![0, 1], least: 10, step: 10 }),
        }
    }

    fn shared(text: &str) -> Result<BTreeMap<String, Vec<String>>, String> {
        schemata(&parse(text).unwrap(), &machine())
    }

    #[test]
    fn partitions_have_bits_of_their_own_and_classes_share_them() {
        let shared = shared(
            "partitions:\n  a:\n    l3Allocation: 60%\n    mbAllocation: [50%]\n    classes:\n      gold: {}\n      \
             silver: {l3Allocation: 50%, mbAllocation: ['50%', '1000MBps']}\n      tail: {l3Allocation: 50-100%}\n  \
             b:\n    l3Allocation: {all: 40%, 1: '12-15'}\n    classes:\n      bronze: {l3Allocation: '0x3'}\n      \
             tiny: {l3Allocation: 1%}\n",
        );
        let shared = shared.unwrap();
        // 20 bits: 12 for a, 8 for b.
        assert_eq!(shared["gold"], ["L3:0=fff;1=fff", "MB:0=50;1=50"]);
        assert_eq!(shared["silver"], ["L3:0=3f;1=3f", "MB:0=30;1=30"]);
        assert_eq!(shared["tail"], ["L3:0=fc0;1=fc0", "MB:0=50;1=50"]);
        assert_eq!(shared["bronze"], ["L3:0=3000;1=3000", "MB:0=100;1=100"]);
        assert_eq!(shared["tiny"], ["L3:0=3000;1=3000", "MB:0=100;1=100"], "two bits are the least");
    }

    #[test]
    fn what_cannot_be_shared_out_is_told_with_its_place() {
        let check = |text: &str, words: &str| {
            let error = shared(text).unwrap_err();
            assert!(error.contains(words), "{error:?} does not say {words:?}");
        };
        let partition = |name: &str, share: &str| format!("  {name}: {{l3Allocation: '{share}'}}\n");
        let both =
            |one: &str, other: &str| format!("partitions:\n{}{}", partition("a", one), partition("b", other));
        check(&both("60%", "60%"), "partition \"b\", l3Allocation of cache 0: \"60%\" is not to be had");
        check(&both("0-11", "8-19"), "overlaps");
        check(&both("0x5", "50%"), "partition \"a\"");
        check(&both("60", "40%"), "partition \"a\"");
        check("partitions: {a: {l3Allocation: 50%}, b: {}}", "partition \"b\"");
        check("partitions: {a: {l3Allocation: 10%, classes: {x: {l3Allocation: '0xff'}}}}", "class \"x\"");
        check("partitions: {a: {mbAllocation: [1000MBps]}}", "partition \"a\", mbAllocation of memory 0");
    }

    #[test]
    fn a_machine_that_has_nothing_to_share_is_refused_unless_that_will_do() {
        let text = "partitions: {a: {l3Allocation: 50%, classes: {x: {}}}}";
        let nothing = Machine::default();
        assert!(schemata(&parse(text).unwrap(), &nothing).unwrap_err().contains("options.l3.optional"));
        let optional = format!("options: {{l3: {{optional: true}}}}\n{text}");
        assert_eq!(schemata(&parse(&optional).unwrap(), &nothing).unwrap()["x"], Vec::<String>::new());
    }
}
