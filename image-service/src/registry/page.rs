//! The next page of a list (RFC 8288): where a `Link` header says that it is, if that is the same registry.

use http::header::LINK;
use http::{HeaderMap, Uri};

use super::failure::Cause;
use super::origin::Origin;

/// The path of the next page, which may be told as a URL of the registry at `home`. Another host is never asked:
/// it would be shown our token.
pub(super) fn next(headers: &HeaderMap, home: Option<&Origin>) -> Result<Option<String>, Cause> {
    let links = headers.get_all(LINK).iter().filter_map(|link| link.to_str().ok()).flat_map(links);
    match links.into_iter().find(|(_, parameters)| is_next(parameters)) {
        None => Ok(None),
        Some((target, _)) => match path(target.trim(), home) {
            Some(path) => Ok(Some(path)),
            None => Err(Cause::Nonsense("the next page is no path of the registry")),
        },
    }
}

/// The links of one header, each with its parameters. A URL has no `<`.
fn links(header: &str) -> impl Iterator<Item = (&str, &str)> {
    header.split('<').skip(1).filter_map(|link| link.split_once('>'))
}

/// Whether `next` is among the relations, which are compared without regard to case.
fn is_next(parameters: &str) -> bool {
    parameters.split([';', ',']).filter_map(|parameter| parameter.split_once('=')).any(|(name, value)| {
        let mut relations = value.trim().trim_matches('"').split_ascii_whitespace();
        name.trim().eq_ignore_ascii_case("rel") && relations.any(|rel| rel.eq_ignore_ascii_case("next"))
    })
}

fn path(target: &str, home: Option<&Origin>) -> Option<String> {
    if target.starts_with('/') {
        return (!target.starts_with("//")).then(|| target.to_owned());
    }
    let uri: Uri = target.parse().ok()?;
    let plain = uri.authority().is_some_and(|authority| !authority.as_str().contains('@'));
    let same = plain && home.is_some() && Origin::of(&uri).as_ref() == home;
    same.then(|| uri.path_and_query().map_or_else(|| "/".to_owned(), ToString::to_string))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    /// The path of the next page; empty when there is none, `?` when it is refused.
    fn check(links: &[&str], answer: &str) {
        let mut headers = HeaderMap::new();
        for link in links {
            headers.append(LINK, HeaderValue::from_str(link).unwrap());
        }
        let home = Origin::of(&Uri::from_static("https://a.io/"));
        let found = next(&headers, home.as_ref()).map_or_else(|_| "?".to_owned(), Option::unwrap_or_default);
        assert_eq!(found, answer, "{links:?}");
    }

    #[test]
    fn the_next_page_is_a_path_or_a_url_of_the_same_registry() {
        check(&[r#"</v2/a?last=1>; rel="next""#], "/v2/a?last=1");
        check(&["</v2/a>;rel=next"], "/v2/a");
        check(&[r#"<https://a.io/v2/a?last=1>; rel="next""#], "/v2/a?last=1");
        check(&[r#"<https://A.io:443/v2/a>; title="x"; REL="last Next""#], "/v2/a");
        for bad in ["https://b.io/v2/a", "http://a.io/v2/a", "https://a.io:5000/v2", "//b.io/x", "v2/a", ""] {
            check(&[&format!("<{bad}>; rel=next")], "?");
        }
        check(&["<https://x@a.io/v2/a>; rel=next"], "?");
        // Links to other things, in headers of their own or in the same.
        check(&[r#"<https://b.io/>; rel="describedby""#], "");
        check(&[r#"</v2/next>; rel="prev""#], "");
        check(&[r#"<https://b.io/>; rel="help""#, "</v2/b>; rel=next"], "/v2/b");
        check(&[r#"<https://b.io/>; rel="help", </v2/b>; rel="next""#], "/v2/b");
        check(&["nonsense"], "");
        check(&[], "");
    }
}
