//! `WWW-Authenticate`: what a server wants to see (RFC 9110, 11.6.1; the token specification of
//! distribution for Bearer's parameters). Text from a stranger: the reader is total and bounded.

/// One way to identify that the server takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Challenge {
    Basic,
    Bearer { realm: String, service: String, scope: String },
}

/// No server says more than this to the point.
const MAX_HEADER_BYTES: usize = 8 << 10;

/// The best challenge of all headers: Bearer before Basic. None when there is none that we know.
pub(crate) fn choose<'a>(headers: impl Iterator<Item = &'a str>) -> Option<Challenge> {
    let all: Vec<Challenge> = headers.flat_map(read).collect();
    let bearer = all.iter().find(|challenge| matches!(challenge, Challenge::Bearer { .. }));
    bearer.or(all.first()).cloned()
}

/// The part of the scope that a pull needs, else what a pull of this repository needs. A server that
/// asks for more than pulling would get a token that it could use elsewhere, so it is not asked for.
pub(crate) fn pull_scope(asked: &str, path: &str) -> String {
    let pulls: Vec<&str> = asked
        .split_ascii_whitespace()
        .filter(|scope| scope.starts_with("repository:") && scope.ends_with(":pull") && scope.len() < 512)
        .take(4)
        .collect();
    if pulls.is_empty() { format!("repository:{path}:pull") } else { pulls.join(" ") }
}

/// What pushing to this repository needs; and pulling from those that the server names, since a blob may be
/// mounted from there.
pub(crate) fn push_scope(asked: &str, path: &str) -> String {
    let own = format!("repository:{path}:pull,push");
    let named = pull_scope(asked, path);
    let others = named.split(' ').filter(|scope| *scope != format!("repository:{path}:pull"));
    std::iter::once(own.as_str()).chain(others).collect::<Vec<_>>().join(" ")
}

fn read(header: &str) -> Vec<Challenge> {
    let mut challenges = Vec::new();
    let mut rest = &header[..floor(header, MAX_HEADER_BYTES)];
    while let Some((scheme, after)) = word(rest) {
        let (parameters, after) = parameters(after);
        rest = after;
        let value = |name: &str| {
            let found = parameters.iter().find(|(key, _)| key.eq_ignore_ascii_case(name));
            found.map(|(_, value)| value.clone()).unwrap_or_default()
        };
        if scheme.eq_ignore_ascii_case("basic") {
            challenges.push(Challenge::Basic);
        } else if scheme.eq_ignore_ascii_case("bearer") && !value("realm").is_empty() {
            let (realm, service, scope) = (value("realm"), value("service"), value("scope"));
            challenges.push(Challenge::Bearer { realm, service, scope });
        }
    }
    challenges
}

/// `name=value` pairs separated by commas, up to the next scheme, which is a word without `=`.
fn parameters(mut rest: &str) -> (Vec<(&str, String)>, &str) {
    let mut found = Vec::new();
    loop {
        let Some((name, after)) = word(rest) else { return (found, "") };
        let Some(after) = after.trim_start().strip_prefix('=') else { return (found, rest) };
        let Some((value, after)) = value(after.trim_start()) else { return (found, "") };
        found.push((name, value));
        rest = after;
    }
}

/// A token of RFC 9110 after any commas and spaces.
fn word(text: &str) -> Option<(&str, &str)> {
    let text = text.trim_start_matches([' ', '\t', ',']);
    let is_token = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
    let end = text.find(|c| !is_token(c)).unwrap_or(text.len());
    (end > 0).then(|| text.split_at(end))
}

fn value(text: &str) -> Option<(String, &str)> {
    let Some(quoted) = text.strip_prefix('"') else {
        // Some servers leave the quotes away even from URLs.
        let end = text.find([',', ' ', '\t']).unwrap_or(text.len());
        return Some((text[..end].to_owned(), &text[end..]));
    };
    let mut value = String::new();
    let mut letters = quoted.char_indices();
    while let Some((at, letter)) = letters.next() {
        match letter {
            '"' => return Some((value, &quoted[at + 1..])),
            '\\' => value.push(letters.next()?.1),
            other => value.push(other),
        }
    }
    None
}

fn floor(text: &str, limit: usize) -> usize {
    (0..=limit.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bearer(realm: &str, service: &str, scope: &str) -> Option<Challenge> {
        let (realm, service, scope) = (realm.to_owned(), service.to_owned(), scope.to_owned());
        Some(Challenge::Bearer { realm, service, scope })
    }

    #[test]
    fn the_challenges_of_the_field_are_understood() {
        let check =
            |headers: &[&str], answer| assert_eq!(choose(headers.iter().copied()), answer, "{headers:?}");
        check(&[r#"Basic realm="x""#], Some(Challenge::Basic));
        check(&["basic"], Some(Challenge::Basic));
        check(
            &[r#"Bearer realm="https://a/t",service="s",scope="repository:a/b:pull""#],
            bearer("https://a/t", "s", "repository:a/b:pull"),
        );
        check(
            &[
                r#"Bearer realm="https://a/t", scope="repository:a:pull,push", service=s, error="invalid_token""#,
            ],
            bearer("https://a/t", "s", "repository:a:pull,push"),
        );
        check(&["bearer Realm = https://a/t?x=1 , Service=s"], bearer("https://a/t?x=1", "s", ""));
        check(&[r#"Basic realm="a, b=c", Bearer realm="https://a""#], bearer("https://a", "", ""));
        check(&[r#"Basic realm="x""#, r#"Bearer realm="https://a""#], bearer("https://a", "", ""));
        check(&[r#"Negotiate, Basic realm="x""#], Some(Challenge::Basic));
        check(&[r#"Bearer realm="a\"b\\c""#], bearer("a\"b\\c", "", ""));
        check(&["Bearer service=x"], None);
        check(&[r#"Bearer realm="unclosed"#], None);
        check(&["", ",", "=", "Digest realm=x"], None);
        check(&[], None);
    }

    #[test]
    fn only_pulling_is_ever_asked_for() {
        for (asked, scope) in [
            ("", "repository:a/b:pull"),
            ("repository:a/b:pull", "repository:a/b:pull"),
            ("repository:other/name:pull", "repository:other/name:pull"),
            ("repository:a/b:pull,push", "repository:a/b:pull"),
            ("repository:a/b:*", "repository:a/b:pull"),
            ("registry:catalog:*", "repository:a/b:pull"),
            ("repository:x:delete repository:y:pull", "repository:y:pull"),
        ] {
            assert_eq!(pull_scope(asked, "a/b"), scope, "{asked}");
        }
    }

    #[test]
    fn a_push_asks_for_its_own_repository_and_to_read_others() {
        for (asked, scope) in [
            ("", "repository:a/b:pull,push"),
            ("repository:a/b:pull,push", "repository:a/b:pull,push"),
            ("repository:a/b:pull,push repository:c:pull", "repository:a/b:pull,push repository:c:pull"),
            ("repository:a/b:pull", "repository:a/b:pull,push"),
            ("repository:c:pull,push registry:catalog:*", "repository:a/b:pull,push"),
        ] {
            assert_eq!(push_scope(asked, "a/b"), scope, "{asked}");
        }
    }

    proptest! {
        #[test]
        fn no_header_makes_the_reader_panic(text in "((Bearer|Basic|realm|=|,| |\"|\\\\|\\PC){0,12}){0,6}") {
            let _ = choose([text.as_str()].into_iter());
        }
    }
}
