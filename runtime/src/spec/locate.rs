//! Where in a JSON text a parser stopped, as a path such as `linux.namespaces[0].type`.
//!
//! serde_json says a line and a column, which nobody has before their eyes; the text up to there is walked
//! again, keeping the keys and indices of what is open. Only after a failure: parsing pays nothing for it.

/// The path of the value that holds the byte before `line` and `column`, both counted from 1.
pub(super) fn path(text: &[u8], line: usize, column: usize) -> String {
    let before = text.split(|&byte| byte == b'\n').take(line.saturating_sub(1)).map(|line| line.len() + 1);
    let end = (before.sum::<usize>() + column).min(text.len());
    walk(&text[..end])
}

/// One open array or object.
enum Open {
    Array(usize),
    Object { key: String, state: Key },
}

/// Whether a string in an object is its key or the value.
#[derive(PartialEq, Eq)]
enum Key {
    Awaited,
    Read,
}

fn walk(text: &[u8]) -> String {
    let mut open: Vec<Open> = Vec::new();
    let mut at = 0;
    while at < text.len() {
        match text[at] {
            b'{' => open.push(Open::Object { key: String::new(), state: Key::Awaited }),
            b'[' => open.push(Open::Array(0)),
            // What ends with the text is what the complaint is about.
            b'}' | b']' if at + 1 < text.len() => drop(open.pop()),
            b',' => next(&mut open),
            b':' => {
                if let Some(Open::Object { state, .. }) = open.last_mut() {
                    *state = Key::Read;
                }
            }
            b'"' => at = string(text, at, &mut open),
            _ => {}
        }
        at += 1;
    }
    name(&open, text.last())
}

fn next(open: &mut [Open]) {
    match open.last_mut() {
        Some(Open::Array(index)) => *index += 1,
        Some(Open::Object { state, .. }) => *state = Key::Awaited,
        None => {}
    }
}

/// Passes over a string, to its last quote; one that is a key is kept.
fn string(text: &[u8], start: usize, open: &mut [Open]) -> usize {
    let mut at = start + 1;
    while at < text.len() && text[at] != b'"' {
        at += if text[at] == b'\\' { 2 } else { 1 };
    }
    if let Some(Open::Object { key, state: Key::Awaited }) = open.last_mut() {
        *key = String::from_utf8_lossy(&text[start + 1..at.min(text.len())]).into_owned();
    }
    at
}

/// An object that ends here lacks something itself: its last key has nothing to do with it.
fn name(open: &[Open], last: Option<&u8>) -> String {
    let mut path = String::new();
    for (depth, part) in open.iter().enumerate() {
        match part {
            Open::Object { .. } | Open::Array(_)
                if depth + 1 == open.len() && matches!(last, Some(b'}' | b']')) => {}
            Open::Array(index) => path.push_str(&format!("[{index}]")),
            Open::Object { key, .. } if path.is_empty() => path.push_str(key),
            Open::Object { key, .. } => path = format!("{path}.{key}"),
        }
    }
    path
}

#[cfg(test)]
mod tests {
    use super::super::{Spec, parse};

    #[test]
    fn an_error_names_the_path_of_the_value() {
        let check = |text: &str, path: &str| {
            let error = parse::<Spec>(text.as_bytes()).unwrap_err();
            assert_eq!(error.path, path, "{error}");
        };
        check(
            r#"{"linux": {"namespaces": [{"type": "pid"}, {"type": "nosuch"}]}}"#,
            "linux.namespaces[1].type",
        );
        check(r#"{"linux": {"namespaces": [{"type": "pid"}, {"path": "/x"}]}}"#, "linux.namespaces[1]");
        check(r#"{"process": {"args": ["a", 7], "cwd": "/"}}"#, "process.args[1]");
        check("{\n \"process\": {\n  \"user\": {\"uid\": -1}}}", "process.user.uid");
        check(r#"{"process": {"user": {"gid": 0, "uid": "root"}}}"#, "process.user.uid");
        check(r#"{"mounts": {}}"#, "mounts");
        check(
            r#"{"hooks": {"prestart": [{"path": "/x\"}{", "timeout": 1.5}]}}"#,
            "hooks.prestart[0].timeout",
        );
        check(r#"{"linux": {"seccomp": {"syscalls": [], "architectures": []}}}"#, "linux.seccomp");
        check(r#"{"root": "#, "root");
        check("", "");
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig { failure_persistence: None, ..Default::default() })]

        #[test]
        fn no_text_makes_it_panic(text in "[\\[\\]{}:,\"\\\\a1 \n]{0,60}", line in 0_usize..5, column in 0_usize..70) {
            super::path(text.as_bytes(), line, column);
        }
    }
}
