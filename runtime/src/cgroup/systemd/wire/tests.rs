//! Bytes as the specification has them.

use super::*;

fn put(value: &Value) -> Vec<u8> {
    let mut writer = Writer::default();
    writer.put(value);
    writer.0
}

#[test]
fn values_are_aligned_and_counted_as_the_specification_says() {
    let check = |value: Value, signature: &str, bytes: &[u8]| {
        assert_eq!(value.signature(), signature);
        assert_eq!(put(&value), bytes, "{value:?}");
    };
    check(Value::Bool(true), "b", &[1, 0, 0, 0]);
    check(Value::text("ab"), "s", &[2, 0, 0, 0, b'a', b'b', 0]);
    check(Value::Array("s".into(), vec![]), "as", &[0, 0, 0, 0]);
    // The padding up to the first struct is there even when there is none, and is not counted.
    check(Value::Array("(sv)".into(), vec![]), "a(sv)", &[0, 0, 0, 0, 0, 0, 0, 0]);
    check(
        Value::Array("t".into(), vec![Value::U64(5)]),
        "at",
        &[8, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0],
    );
    check(
        Value::Struct(vec![Value::Byte(7), Value::Variant(Box::new(Value::U32(9)))]),
        "(yv)",
        &[7, 1, b'u', 0, 9, 0, 0, 0],
    );
}

#[test]
fn a_call_is_as_long_as_it_says() {
    let arguments = [Value::text("x.scope"), Value::Array("(sv)".into(), vec![])];
    let call = Call {
        destination: Some("org.freedesktop.systemd1"),
        path: "/org/freedesktop/systemd1",
        interface: "org.freedesktop.systemd1.Manager",
        member: "StopUnit",
        arguments: &arguments,
        wants_reply: false,
    };
    let bytes = call.bytes(3);
    assert_eq!(length(bytes.first_chunk().unwrap()).unwrap(), bytes.len());
    assert_eq!(bytes[..4], [b'l', METHOD_CALL, NO_REPLY_EXPECTED, VERSION]);
    assert_eq!(parse(&bytes).unwrap(), Message::Other);
}

/// As systemd's manager sends it, in both byte orders.
fn job_removed(big: bool) -> Vec<u8> {
    let number = |n: u32| if big { n.to_be_bytes() } else { n.to_le_bytes() };
    let mut bytes = vec![if big { b'B' } else { b'l' }, SIGNAL, 0, 1];
    let mut body = Vec::new();
    body.extend(number(77));
    for text in ["/job/77", "a.scope", "done"] {
        body.resize(body.len().next_multiple_of(4), 0);
        body.extend(number(text.len() as u32));
        body.extend(text.as_bytes());
        body.push(0);
    }
    bytes.extend(number(body.len() as u32));
    bytes.extend(number(1));
    let mut fields = vec![3, 1, b's', 0];
    fields.extend(number(10));
    fields.extend(b"JobRemoved\0");
    fields.resize(fields.len().next_multiple_of(8), 0);
    fields.extend([8, 1, b'g', 0, 4]);
    fields.extend(b"uoss\0");
    bytes.extend(number(fields.len() as u32));
    bytes.extend(fields);
    bytes.resize(bytes.len().next_multiple_of(8), 0);
    bytes.extend(body);
    bytes
}

#[test]
fn a_signal_is_read_in_either_byte_order() {
    for big in [false, true] {
        let bytes = job_removed(big);
        assert_eq!(length(bytes.first_chunk().unwrap()).unwrap(), bytes.len());
        let words = ["77", "/job/77", "a.scope", "done"].map(String::from).to_vec();
        assert_eq!(parse(&bytes).unwrap(), Message::Signal { member: "JobRemoved".into(), words });
    }
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig { failure_persistence: None, ..Default::default() })]

    #[test]
    fn no_bytes_are_a_surprise(mut bytes: Vec<u8>, at in 0..90usize, byte: u8, cut in 0..100usize) {
        let _ = parse(&bytes);
        bytes.insert(0, b'l');
        let _ = parse(&bytes);
        let mut near = job_removed(false);
        near[at] = byte;
        near.truncate(cut);
        let _ = parse(&near);
    }
}
