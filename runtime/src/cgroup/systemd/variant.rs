//! A value in words, as annotations give it: the part of GVariant's text format that unit properties need.
//!
//! `true`, `'text'`, `5` (int32), `uint64 5`, `@t 5`, `1.5`, `['a', 'b']`, `@as []`.

use super::wire::Value;

/// Annotations are short; a list of this many is a mistake.
const MAX_ITEMS: usize = 1024;

/// `None`: not a value, or not of a kind that is known here.
pub(super) fn parse(text: &str) -> Option<Value> {
    let mut rest = text.trim();
    let value = value(&mut rest, None)?;
    rest.trim().is_empty().then_some(value)
}

/// One value from the front of `rest`. `kind`: the signature that it must have.
fn value(rest: &mut &str, kind: Option<&str>) -> Option<Value> {
    *rest = rest.trim_start();
    if kind.is_none() {
        if let Some(after) = rest.strip_prefix('@') {
            let (signature, after) = after.split_once(' ')?;
            *rest = after;
            return value(rest, Some(signature));
        }
        if let Some((signature, after)) = keyword(rest) {
            *rest = after;
            return value(rest, Some(signature));
        }
    }
    match rest.chars().next()? {
        quote @ ('\'' | '"') => text(rest, quote, kind),
        '[' => array(rest, kind),
        _ => word(rest, kind),
    }
}

fn keyword(rest: &str) -> Option<(&'static str, &str)> {
    const WORDS: [(&str, &str); 11] = [
        ("byte ", "y"),
        ("boolean ", "b"),
        ("int16 ", "n"),
        ("uint16 ", "q"),
        ("int32 ", "i"),
        ("uint32 ", "u"),
        ("int64 ", "x"),
        ("uint64 ", "t"),
        ("double ", "d"),
        ("string ", "s"),
        ("objectpath ", "o"),
    ];
    WORDS.iter().find_map(|(word, signature)| Some((*signature, rest.strip_prefix(word)?)))
}

fn text(rest: &mut &str, quote: char, kind: Option<&str>) -> Option<Value> {
    let mut found = String::new();
    let mut chars = rest[1..].char_indices();
    loop {
        match chars.next()? {
            (at, c) if c == quote => {
                *rest = &rest[1 + at + 1..];
                break;
            }
            (_, '\\') => found.push(match chars.next()?.1 {
                'n' => '\n',
                't' => '\t',
                c @ ('\\' | '\'' | '"') => c,
                _ => return None,
            }),
            (_, c) => found.push(c),
        }
    }
    // D-Bus strings end with a NUL.
    if found.contains('\0') {
        return None;
    }
    match kind {
        None | Some("s") => Some(Value::Text(found)),
        Some("o") => Some(Value::Path(found)),
        Some(_) => None,
    }
}

fn array(rest: &mut &str, kind: Option<&str>) -> Option<Value> {
    let mut item = match kind {
        None => None,
        Some(kind) => Some(kind.strip_prefix('a')?.to_owned()),
    };
    *rest = rest[1..].trim_start();
    let mut items = Vec::new();
    while !rest.starts_with(']') {
        if !items.is_empty() {
            *rest = rest.strip_prefix(',')?;
        }
        let next = value(rest, item.as_deref())?;
        item.get_or_insert_with(|| next.signature());
        items.push(next);
        *rest = rest.trim_start();
        if items.len() > MAX_ITEMS {
            return None;
        }
    }
    *rest = &rest[1..];
    // Of what an empty one is, only its type could tell.
    item.map(|item| Value::Array(item, items))
}

fn word(rest: &mut &str, kind: Option<&str>) -> Option<Value> {
    let end = rest.find([',', ']', ' ']).unwrap_or(rest.len());
    let (word, after) = rest.split_at(end);
    *rest = after;
    match (kind, word) {
        (None | Some("b"), "true") => Some(Value::Bool(true)),
        (None | Some("b"), "false") => Some(Value::Bool(false)),
        (Some("d"), word) => word.parse().ok().map(Value::Double),
        (None, word) if word.contains('.') => word.parse().ok().map(Value::Double),
        (kind, word) => number(word, kind.unwrap_or("i")),
    }
}

fn number(word: &str, kind: &str) -> Option<Value> {
    let number: i128 = match word.strip_prefix("0x") {
        Some(digits) => i128::from_str_radix(digits, 16).ok()?,
        None => word.parse().ok()?,
    };
    match kind {
        "y" => number.try_into().ok().map(Value::Byte),
        "n" => number.try_into().ok().map(Value::I16),
        "q" => number.try_into().ok().map(Value::U16),
        "i" => number.try_into().ok().map(Value::I32),
        "u" => number.try_into().ok().map(Value::U32),
        "x" => number.try_into().ok().map(Value::I64),
        "t" => number.try_into().ok().map(Value::U64),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_read_with_their_types() {
        let check = |text: &str, expected: Option<Value>| assert_eq!(parse(text), expected, "{text:?}");
        check("true", Some(Value::Bool(true)));
        check("5", Some(Value::I32(5)));
        check("uint64 123456789", Some(Value::U64(123_456_789)));
        check("@t 0x10", Some(Value::U64(16)));
        check("1.5", Some(Value::Double(1.5)));
        check("'inactive-or-failed'", Some(Value::text("inactive-or-failed")));
        check(r#""it's \"x\"""#, Some(Value::text("it's \"x\"")));
        check(
            "['a.service', 'b.service']",
            Some(Value::Array("s".into(), vec![Value::text("a.service"), Value::text("b.service")])),
        );
        check("@as []", Some(Value::Array("s".into(), vec![])));
        check("@ay [1, 0xff]", Some(Value::Array("y".into(), vec![Value::Byte(1), Value::Byte(255)])));
    }

    #[test]
    fn what_is_no_value_is_none() {
        for text in [
            "",
            "hello",
            "'open",
            "[]",
            "[1, 'a']",
            "5 5",
            "byte 256",
            "@",
            "@t",
            "uint32 -1",
            "'\\x'",
            "[1 2]",
        ] {
            assert_eq!(parse(text), None, "{text:?}");
        }
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig { failure_persistence: None, ..Default::default() })]

        #[test]
        fn no_words_are_a_surprise(text in "(@|a|s|t|y|'|\"|\\[|\\]|,| |[0-9]|uint64 |\\\\|é){0,20}") {
            parse(&text);
        }
    }
}
