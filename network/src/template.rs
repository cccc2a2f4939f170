//! A network configuration made from a template and the node's pod ranges: what UpdateRuntimeConfig is for.
//!
//! The language is the part of Go's text/template that such templates use, so that one written for another
//! runtime serves here: `{{.PodCIDR}}`, `{{range $i, $r := .PodCIDRRanges}}…{{end}}` (also `.Routes`), `{{if $i}}…
//! {{end}}` and `{{.}}`. Anything else is refused by name. Pure: text in, text out.

use std::net::IpAddr;

/// No network configuration is larger.
pub(crate) const TEMPLATE_MAX_BYTES: u64 = 1 << 20;
/// How deep blocks may lie in each other.
const DEPTH_MAX: usize = 8;
/// A node has one range of each address family; more than these is a mistake.
const RANGES_MAX: usize = 16;

/// A range of addresses for pods, as `10.88.0.0/16`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Range {
    text: String,
    is_ipv6: bool,
}

impl Range {
    /// The kubelet's list: ranges with commas between them; empty when the node has none yet.
    pub(crate) fn parse_all(list: &str) -> Result<Vec<Range>, String> {
        let words = list.split(',').map(str::trim).filter(|word| !word.is_empty());
        let ranges: Vec<Range> = words.map(Range::parse).collect::<Result<_, _>>()?;
        if ranges.len() > RANGES_MAX {
            return Err(format!("{} ranges are more than {RANGES_MAX}", ranges.len()));
        }
        Ok(ranges)
    }

    fn parse(text: &str) -> Result<Range, String> {
        let wrong = || format!("{text:?} is not a range such as 10.88.0.0/16");
        let (address, length) = text.split_once('/').ok_or_else(wrong)?;
        let address: IpAddr = address.parse().map_err(|_| wrong())?;
        let length: u8 = length.parse().map_err(|_| wrong())?;
        let most = if address.is_ipv6() { 128 } else { 32 };
        if length > most {
            return Err(wrong());
        }
        Ok(Range { text: format!("{address}/{length}"), is_ipv6: address.is_ipv6() })
    }

    /// The kubelet's list again.
    pub(crate) fn join(ranges: &[Range]) -> String {
        ranges.iter().map(Range::as_str).collect::<Vec<_>>().join(",")
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.text
    }

    /// Everything of the range's family.
    fn route(&self) -> String {
        if self.is_ipv6 { "::/0".into() } else { "0.0.0.0/0".into() }
    }
}

/// The text of a configuration.
///
/// # Errors
/// Names what of the template is not understood.
pub(crate) fn fill(template: &str, ranges: &[Range]) -> Result<String, String> {
    let words = Words {
        ranges: ranges.iter().map(|range| range.text.clone()).collect(),
        routes: ranges.iter().map(Range::route).collect(),
    };
    let mut pieces = pieces(template)?.into_iter();
    let (nodes, ended) = nodes(&mut pieces, 0)?;
    if ended {
        return Err("an {{end}} ends nothing".into());
    }
    let mut text = String::with_capacity(template.len());
    write(&nodes, &words, &mut Vec::new(), &mut text)?;
    Ok(text)
}

/// What a template may ask for.
struct Words {
    ranges: Vec<String>,
    routes: Vec<String>,
}

#[derive(Debug)]
enum Piece<'a> {
    Text(&'a str),
    Action(&'a str),
}

#[derive(Debug)]
enum Node<'a> {
    Text(&'a str),
    /// `.PodCIDR`, `.` or a variable.
    Value(&'a str),
    Range {
        list: &'a str,
        index: Option<&'a str>,
        item: Option<&'a str>,
        body: Vec<Node<'a>>,
    },
    If {
        variable: &'a str,
        body: Vec<Node<'a>>,
    },
}

/// One turn of a range: its number and its item, and how they are called.
struct Turn<'a> {
    index: Option<&'a str>,
    item: Option<&'a str>,
    number: usize,
    value: String,
}

/// `{{- x -}}` takes the blanks beside it away, as in Go.
fn pieces(template: &str) -> Result<Vec<Piece<'_>>, String> {
    let mut pieces = Vec::new();
    let mut rest = template;
    while let Some((mut before, after)) = rest.split_once("{{") {
        let (action, behind) =
            after.split_once("}}").ok_or_else(|| format!("{{{{ without }}}} at {:?}", clip(after)))?;
        let (action, trims_before) = match action.strip_prefix('-') {
            Some(action) => (action, true),
            None => (action, false),
        };
        let (action, trims_behind) = match action.strip_suffix('-') {
            Some(action) => (action, true),
            None => (action, false),
        };
        if trims_before {
            before = before.trim_end();
        }
        pieces.push(Piece::Text(before));
        pieces.push(Piece::Action(action.trim()));
        rest = if trims_behind { behind.trim_start() } else { behind };
    }
    pieces.push(Piece::Text(rest));
    Ok(pieces)
}

fn clip(text: &str) -> String {
    text.chars().take(40).collect()
}

/// The nodes up to an `{{end}}` or the end of the template, and which of the two it was.
fn nodes<'a>(
    pieces: &mut impl Iterator<Item = Piece<'a>>,
    depth: usize,
) -> Result<(Vec<Node<'a>>, bool), String> {
    if depth > DEPTH_MAX {
        return Err(format!("blocks lie more than {DEPTH_MAX} deep in each other"));
    }
    let mut found = Vec::new();
    while let Some(piece) = pieces.next() {
        match piece {
            Piece::Text(text) => found.push(Node::Text(text)),
            Piece::Action("end") => return Ok((found, true)),
            Piece::Action(action) => found.push(node(action, pieces, depth)?),
        }
    }
    Ok((found, false))
}

fn node<'a>(
    action: &'a str,
    pieces: &mut impl Iterator<Item = Piece<'a>>,
    depth: usize,
) -> Result<Node<'a>, String> {
    if let Some(of) = action.strip_prefix("range ") {
        let (names, list) = match of.split_once(":=") {
            Some((names, list)) => (names.trim(), list.trim()),
            None => ("", of.trim()),
        };
        let (index, item) = match names.split_once(',') {
            Some((index, item)) => (Some(index.trim()), Some(item.trim())),
            None => (None, Some(names).filter(|name| !name.is_empty())),
        };
        let variables_fit = [index, item].iter().flatten().all(|name| is_variable(name));
        if !variables_fit || !matches!(list, ".PodCIDRRanges" | ".Routes") {
            return Err(unknown(action));
        }
        return Ok(Node::Range { list, index, item, body: block(action, pieces, depth)? });
    }
    if let Some(variable) = action.strip_prefix("if ").map(str::trim).filter(|name| is_variable(name)) {
        return Ok(Node::If { variable, body: block(action, pieces, depth)? });
    }
    match action {
        ".PodCIDR" | "." => Ok(Node::Value(action)),
        variable if is_variable(variable) => Ok(Node::Value(variable)),
        _ => Err(unknown(action)),
    }
}

fn is_variable(name: &str) -> bool {
    let letters = name.strip_prefix('$').unwrap_or_default();
    !letters.is_empty() && letters.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

fn unknown(action: &str) -> String {
    format!("{{{{{action}}}}} is not understood; .PodCIDR, range over .PodCIDRRanges or .Routes, and if are")
}

fn block<'a>(
    action: &str,
    pieces: &mut impl Iterator<Item = Piece<'a>>,
    depth: usize,
) -> Result<Vec<Node<'a>>, String> {
    match nodes(pieces, depth + 1)? {
        (body, true) => Ok(body),
        (_, false) => Err(format!("{{{{{action}}}}} has no {{{{end}}}}")),
    }
}

fn write<'a>(
    nodes: &[Node<'a>],
    words: &Words,
    turns: &mut Vec<Turn<'a>>,
    text: &mut String,
) -> Result<(), String> {
    for node in nodes {
        match node {
            Node::Text(plain) => text.push_str(plain),
            Node::Value(name) => text.push_str(&value(name, words, turns)?),
            Node::If { variable, body } => {
                if is_true(variable, turns)? {
                    write(body, words, turns, text)?;
                }
            }
            Node::Range { list, index, item, body } => {
                let items = if *list == ".Routes" { &words.routes } else { &words.ranges };
                for (number, value) in items.iter().enumerate() {
                    turns.push(Turn { index: *index, item: *item, number, value: value.clone() });
                    write(body, words, turns, text)?;
                    turns.pop();
                }
            }
        }
    }
    Ok(())
}

fn value(name: &str, words: &Words, turns: &[Turn<'_>]) -> Result<String, String> {
    let inner_first = || turns.iter().rev();
    match name {
        ".PodCIDR" if turns.is_empty() => Ok(words.ranges.first().cloned().unwrap_or_default()),
        // Inside a range the dot is an item, which has no fields.
        "." => turns.last().map(|turn| turn.value.clone()).ok_or_else(|| unknown(name)),
        name => inner_first()
            .find_map(|turn| match name {
                name if turn.item == Some(name) => Some(turn.value.clone()),
                name if turn.index == Some(name) => Some(turn.number.to_string()),
                _ => None,
            })
            .ok_or_else(|| unknown(name)),
    }
}

/// As in Go: a number is true unless it is zero, a text unless it is empty.
fn is_true(name: &str, turns: &[Turn<'_>]) -> Result<bool, String> {
    let found = turns.iter().rev().find_map(|turn| match name {
        name if turn.index == Some(name) => Some(turn.number != 0),
        name if turn.item == Some(name) => Some(!turn.value.is_empty()),
        _ => None,
    });
    found.ok_or_else(|| unknown(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(template: &str, ranges: &str, expected: Result<&str, &str>) {
        let filled = Range::parse_all(ranges).and_then(|ranges| fill(template, &ranges));
        match (filled, expected) {
            (Ok(text), Ok(expected)) => assert_eq!(text, expected),
            (Err(reason), Err(part)) => assert!(reason.contains(part), "{reason:?} lacks {part:?}"),
            (got, expected) => panic!("got {got:?}, expected {expected:?}"),
        }
    }

    #[test]
    fn a_template_is_filled_with_the_nodes_ranges() {
        let both = "10.1.0.0/24,fd00::/64";
        check(r#"{"subnet": "{{.PodCIDR}}"}"#, both, Ok(r#"{"subnet": "10.1.0.0/24"}"#));
        let list =
            r#"[{{range $i, $range := .PodCIDRRanges}}{{if $i}}, {{end}}[{"subnet": "{{$range}}"}]{{end}}]"#;
        check(list, both, Ok(r#"[[{"subnet": "10.1.0.0/24"}], [{"subnet": "fd00::/64"}]]"#));
        check(list, "10.1.0.0/24", Ok(r#"[[{"subnet": "10.1.0.0/24"}]]"#));
        check("{{range .Routes}}<{{.}}>{{end}}", both, Ok("<0.0.0.0/0><::/0>"));
        check("a {{- range $r := .Routes -}} {{$r}} {{- end -}} b", both, Ok("a0.0.0.0/0::/0b"));
        check("no actions", both, Ok("no actions"));
    }

    #[test]
    fn what_is_not_understood_is_refused_by_name() {
        check("{{.Other}}", "10.1.0.0/24", Err("{{.Other}} is not understood"));
        check("{{range .Other}}{{end}}", "10.1.0.0/24", Err("{{range .Other}} is not"));
        check("{{template \"x\"}}", "10.1.0.0/24", Err("is not understood"));
        check("{{range .Routes}}", "10.1.0.0/24", Err("has no {{end}}"));
        check("{{end}}", "10.1.0.0/24", Err("ends nothing"));
        check("{{.PodCIDR", "10.1.0.0/24", Err("without }}"));
        check("{{$x}}", "10.1.0.0/24", Err("{{$x}} is not"));
        check("{{.}}", "10.1.0.0/24", Err("{{.}} is not"));
        check(&"{{range .Routes}}".repeat(20), "10.1.0.0/24", Err("more than 8 deep"));
    }

    #[test]
    fn a_range_is_an_address_and_a_length() {
        for ranges in ["10.1.0.0", "10.1.0.0/33", "fd00::/129", "x/24", "10.1.0.0/x", "10.1.0.0/24,y"] {
            check("", ranges, Err("is not a range"));
        }
        assert_eq!(Range::parse_all("").unwrap(), []);
        assert!(Range::parse_all(&"10.0.0.0/8,".repeat(17)).unwrap_err().contains("more than 16"));
    }
}
