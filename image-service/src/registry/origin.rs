//! Where a URL leads: its origin, and what a `Location` header makes of it. Pure.

use http::Uri;
use http::uri::{Authority, PathAndQuery, Scheme};

/// Scheme, host and port: what credentials are bound to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Origin {
    pub(super) scheme: Scheme,
    host: String,
    port: u16,
}

impl Origin {
    pub(super) fn of(uri: &Uri) -> Option<Origin> {
        let scheme = uri.scheme()?.clone();
        let port = uri.port_u16().or_else(|| default_port(&scheme))?;
        Some(Origin { scheme, host: uri.host()?.to_ascii_lowercase(), port })
    }

    pub(super) fn same_host(&self, other: &Origin) -> bool {
        self.host == other.host && self.port == other.port
    }
}

fn default_port(scheme: &Scheme) -> Option<u16> {
    match scheme.as_str() {
        "https" => Some(443),
        "http" => Some(80),
        _ => None,
    }
}

pub(super) fn make(scheme: &Scheme, host: &str, path: &str) -> Option<Uri> {
    let authority = host.parse::<Authority>().ok()?;
    let path = path.parse::<PathAndQuery>().ok()?;
    Uri::builder().scheme(scheme.clone()).authority(authority).path_and_query(path).build().ok()
}

/// The target of a redirect, or why it isn't followed. `lenient`: the operator accepts plain HTTP here.
pub(super) fn redirect(from: &Uri, location: &str, lenient: bool) -> Result<Uri, &'static str> {
    let location = location.split('#').next().unwrap_or_default().trim();
    let (scheme, authority) = from.scheme().zip(from.authority()).ok_or("it comes from nowhere")?;
    let target = if let Some(rest) = location.strip_prefix("//") {
        format!("{scheme}://{rest}")
    } else if location.starts_with('/') {
        format!("{scheme}://{authority}{location}")
    } else {
        location.to_owned()
    };
    let target: Uri = target.parse().map_err(|_| "its target is no URL")?;
    check(&target)?;
    if scheme == &Scheme::HTTPS && target.scheme() != Some(&Scheme::HTTPS) && !lenient {
        return Err("it leads from https to http");
    }
    Ok(target)
}

/// Whether a URL that a stranger gave can be asked at all.
pub(super) fn check(uri: &Uri) -> Result<(), &'static str> {
    if !matches!(uri.scheme_str(), Some("https" | "http")) {
        return Err("it is not an http or https URL");
    }
    match uri.authority() {
        None => Err("it names no host"),
        Some(authority) if authority.as_str().contains('@') => Err("it holds a user name"),
        Some(authority) if authority.host().is_empty() => Err("it names no host"),
        Some(_) => Ok(()),
    }
}

/// Percent-encoding for a query's value or a form's field: all but the unreserved of RFC 3986.
pub(super) fn encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_redirect_leads_where_it_says_or_nowhere() {
        let check = |from: &str, location: &str, lenient, answer: Result<&str, &str>| {
            let found = redirect(&from.parse().unwrap(), location, lenient).map(|uri| uri.to_string());
            assert_eq!(found.as_deref().map_err(|why| *why), answer, "{from} -> {location}");
        };
        let from = "https://a.io/v2/x";
        check(from, "https://b.io/y?z=1", false, Ok("https://b.io/y?z=1"));
        check(from, "/y", false, Ok("https://a.io/y"));
        check(from, "//b.io/y#part", false, Ok("https://b.io/y"));
        check(from, "http://b.io/y", false, Err("it leads from https to http"));
        check(from, "http://b.io/y", true, Ok("http://b.io/y"));
        check("http://a.io/x", "http://b.io/y", false, Ok("http://b.io/y"));
        check(from, "https://user:pw@b.io/y", false, Err("it holds a user name"));
        check(from, "file:///etc/passwd", false, Err("its target is no URL"));
        check(from, "ftp://b.io/y", false, Err("it is not an http or https URL"));
        check(from, "y", false, Err("it is not an http or https URL"));
        check(from, "", false, Err("its target is no URL"));
        check(from, "https://b io/", false, Err("its target is no URL"));
    }

    #[test]
    fn an_origin_is_scheme_host_and_port() {
        let origin = |text: &str| Origin::of(&text.parse().unwrap()).unwrap();
        assert_eq!(origin("https://A.io/x"), origin("https://a.io:443/y"));
        assert_ne!(origin("https://a.io/"), origin("http://a.io/"));
        assert_ne!(origin("https://a.io/"), origin("https://a.io:444/"));
        assert_ne!(origin("https://a.io/"), origin("https://b.io/"));
        assert!(origin("http://a.io:5/").same_host(&origin("https://a.io:5/")));
    }

    #[test]
    fn what_a_query_cannot_hold_is_encoded() {
        assert_eq!(encode("repository:a/b:pull é&="), "repository%3Aa%2Fb%3Apull%20%C3%A9%26%3D");
    }
}
