//! Rules in; v1's lines and v2's program out, the program run by a machine of our own.

use proptest::prelude::*;

use super::*;

fn policy(json: &str) -> Result<Policy, Error> {
    Policy::read(&serde_json::from_str::<Vec<DeviceRule>>(json).unwrap())
}

/// Runs the program as the kernel does for an access of `kind`, `major:minor`.
fn run(program: &[BpfInsn], kind: Kind, major: u32, minor: u32, access: u8) -> bool {
    let context = [u32::from(access) << 16 | kind as u32, major, minor];
    let mut registers = [0_u64; 11];
    let mut at = 0_usize;
    loop {
        let step = program[at];
        let (to, from) = (usize::from(step.registers & 15), usize::from(step.registers >> 4));
        at += 1;
        let mut jump = |taken: bool| at += if taken { usize::try_from(step.offset).unwrap() } else { 0 };
        match step.code {
            LOAD_WORD => {
                assert_eq!(from, 1, "only the context can be read");
                registers[to] = context[usize::try_from(step.offset).unwrap() / 4].into();
            }
            AND => registers[to] &= u64::from(step.immediate as u32),
            SHIFT_RIGHT => registers[to] >>= step.immediate,
            MOVE => registers[to] = step.immediate as u64,
            JUMP => jump(true),
            JUMP_NOT_EQUAL => jump(registers[to] as u32 != step.immediate as u32),
            JUMP_SET => jump(registers[to] as u32 & step.immediate as u32 != 0),
            EXIT => return registers[0] != 0,
            other => panic!("instruction {other:#x}"),
        }
    }
}

const DENY_ALL: &str = r#"{"allow": false, "access": "rwm"}"#;

#[test]
fn a_container_has_the_default_devices_and_no_others() {
    let program = policy(&format!("[{DENY_ALL}]")).unwrap().v2_program();
    let null_and_friends = [(1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 2), (136, 17)];
    for (major, minor) in null_and_friends {
        assert!(run(&program, Kind::Char, major, minor, READ | WRITE), "{major}:{minor}");
    }
    assert!(run(&program, Kind::Block, 8, 0, MKNOD));
    // mem, kmsg, sda, and null as a block device.
    for (kind, major, minor) in
        [(Kind::Char, 1, 1), (Kind::Char, 1, 11), (Kind::Block, 8, 0), (Kind::Block, 1, 3)]
    {
        for access in [READ, WRITE, READ | WRITE, MKNOD | READ] {
            assert!(!run(&program, kind, major, minor, access), "{kind:?} {major}:{minor}");
        }
    }
}

#[test]
fn a_list_of_allowed_devices_denies_the_rest_whatever_it_begins_with() {
    for list in [
        r#"[{"allow": true, "type": "c", "major": 10, "minor": 200, "access": "rw"}]"#,
        r#"[{"allow": false}, {"allow": true, "type": "c", "major": 10, "minor": 200, "access": "rw"}]"#,
        r#"[{"allow": true, "type": "a"}, {"allow": false, "type": "a"},
            {"allow": true, "type": "c", "major": 10, "minor": 200, "access": "rw"}]"#,
    ] {
        let policy = policy(list).unwrap();
        let (all, except, lines) = policy.v1_writes().unwrap();
        assert_eq!((all, except), ("devices.deny", "devices.allow"));
        assert!(lines.contains(&"c 10:200 rw".to_owned()), "{lines:?}");
        let program = policy.v2_program();
        assert!(run(&program, Kind::Char, 10, 200, READ));
        assert!(!run(&program, Kind::Char, 1, 1, READ));
        assert!(!run(&program, Kind::Block, 10, 200, READ));
    }
}

#[test]
fn a_privileged_container_may_do_everything() {
    let policy =
        policy(&format!(r#"[{DENY_ALL}, {{"allow": true, "type": "a", "access": "rwm"}}]"#)).unwrap();
    assert_eq!(policy.v1_writes().unwrap(), ("devices.allow", "devices.deny", vec![]));
    assert!(run(&policy.v2_program(), Kind::Char, 1, 1, ALL));
}

#[test]
fn access_is_merged_rule_by_rule_and_must_be_allowed_whole() {
    let rules = r#"[{"allow": true, "type": "b", "major": 8, "minor": 0, "access": "r"},
        {"allow": true, "type": "b", "major": 8, "minor": 0, "access": "w"},
        {"allow": true, "type": "b", "major": 8, "minor": 1, "access": "r"}]"#;
    let program = policy(rules).unwrap().v2_program();
    assert!(run(&program, Kind::Block, 8, 0, READ | WRITE));
    assert!(run(&program, Kind::Block, 8, 1, READ));
    assert!(!run(&program, Kind::Block, 8, 1, READ | WRITE));
}

#[test]
fn a_line_for_both_types_never_becomes_a_line_for_everything() {
    let policy = policy(r#"[{"allow": true, "type": "a", "major": 10, "access": "r"}]"#).unwrap();
    let (_, _, lines) = policy.v1_writes().unwrap();
    assert!(lines.contains(&"b 10:* r".to_owned()) && lines.contains(&"c 10:* r".to_owned()), "{lines:?}");
    assert!(lines.iter().all(|line| !line.starts_with('a')));
}

#[test]
fn rules_count_in_their_order_and_v1_refuses_what_it_cannot_hold() {
    let rules = r#"[{"allow": true, "type": "c", "major": 10, "minor": 5}, {"allow": false, "type": "c", "major": 10}]"#;
    assert!(!run(&policy(rules).unwrap().v2_program(), Kind::Char, 10, 5, READ));
    let hole = r#"[{"allow": true, "type": "c", "major": 10}, {"allow": false, "type": "c", "major": 10, "minor": 5}]"#;
    let hole = policy(hole).unwrap();
    let program = hole.v2_program();
    assert!(!run(&program, Kind::Char, 10, 5, READ) && run(&program, Kind::Char, 10, 6, READ));
    let error = hole.v1_writes().unwrap_err().to_string();
    assert!(error.contains("contradicts a part of what an earlier rule says"), "{error}");
}

#[test]
fn exceptions_of_an_open_policy_are_denied_in_any_part() {
    let rules = r#"[{"allow": true}, {"allow": false, "type": "b", "major": 8, "access": "w"}]"#;
    let policy = policy(rules).unwrap();
    assert_eq!(policy.v1_writes().unwrap(), ("devices.allow", "devices.deny", vec!["b 8:* w".to_owned()]));
    let program = policy.v2_program();
    assert!(run(&program, Kind::Block, 8, 3, READ));
    assert!(!run(&program, Kind::Block, 8, 3, READ | WRITE));
    assert!(run(&program, Kind::Block, 9, 3, WRITE));
}

#[test]
fn nonsense_is_refused() {
    for rules in [
        r#"[{"allow": true, "type": "p"}]"#,
        r#"[{"allow": true, "type": "c", "access": "rx"}]"#,
        r#"[{"allow": true, "type": "c", "major": 4294967296}]"#,
        r#"[{"allow": true, "type": "c", "major": -2}]"#,
    ] {
        assert!(policy(rules).is_err(), "{rules}");
    }
}

fn rule() -> impl Strategy<Value = DeviceRule> {
    let number = || prop::option::of(0_i64..3);
    let kinds = prop::sample::select(vec![None, Some("a"), Some("b"), Some("c")]);
    let accesses = prop::sample::select(vec![None, Some("r"), Some("w"), Some("m"), Some("rw"), Some("rwm")]);
    (any::<bool>(), kinds, number(), number(), accesses).prop_map(|(allow, kind, major, minor, access)| {
        DeviceRule { allow, kind: kind.map(str::to_owned), major, minor, access: access.map(str::to_owned) }
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// The program and the policy agree, and what the last rule that speaks of a device says is what holds.
    #[test]
    fn the_last_word_on_a_device_holds(rules in prop::collection::vec(rule(), 1..8)) {
        let policy = Policy::read(&rules).unwrap();
        let program = policy.v2_program();
        // Numbers without a default device, and not made: the defaults allow that of any device.
        for (kind, major, minor, bit) in [Kind::Block, Kind::Char].into_iter().flat_map(|kind| {
            (0..4).flat_map(move |major| (0..3).flat_map(move |minor| [READ, WRITE].map(|bit| (kind, major, minor, bit))))
        }) {
            let speaks = |rule: &&DeviceRule| {
                let kinds = match rule.kind.as_deref() { Some("b") => kind == Kind::Block, Some("c") => kind == Kind::Char, _ => true };
                let number = |rule: Option<i64>, own: u32| rule.is_none_or(|rule| rule == i64::from(own));
                kinds && number(rule.major, major) && number(rule.minor, minor)
                    && access(rule.access.as_deref()).unwrap() & bit != 0
            };
            let expected = rules.iter().rev().find(speaks).is_some_and(|rule| rule.allow);
            prop_assert_eq!(run(&program, kind, major, minor, bit), expected, "{:?} {}:{} {}", kind, major, minor, bit);
        }
    }
}
