//! Why an endpoint did not give what was asked, and what follows: another try, another endpoint, an error.

use std::fmt;
use std::time::Duration;

use http::StatusCode;

use super::transport;
use crate::digest::Digest;
use crate::{auth, manifest};

/// Why one endpoint failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum Cause {
    #[error("it is not there{0}")]
    NotFound(Said),
    #[error("access is denied{0}")]
    Denied(Said),
    #[error("the server answered {status}{said}")]
    Status { status: StatusCode, said: Said, retry_after: Option<Duration> },
    #[error(transparent)]
    Transport(#[from] transport::Error),
    #[error("the connection broke at byte {position}")]
    Broken { position: u64, source: Option<hyper::Error> },
    #[error("the server went silent, or nearly so, at byte {position}")]
    Stalled { position: u64 },
    #[error("the answer is longer than {0} bytes")]
    TooLong(u64),
    #[error("it has {found} bytes and not {expected}")]
    Size { expected: u64, found: u64 },
    #[error("its digest is {found} and not {expected}")]
    Digest { expected: Digest, found: Digest },
    #[error("the server's answer makes no sense: {0}")]
    Nonsense(&'static str),
    #[error("a redirect is not followed: {0}")]
    Redirect(&'static str),
    #[error("the server wants a kind of proof that is not known")]
    Challenge,
    #[error("the server sends us to {realm} for a token, and we don't go: {why}")]
    Realm { realm: String, why: &'static str },
    #[error("getting a token from {realm}")]
    Token { realm: String, source: Box<Cause> },
    #[error("credentials can't be read")]
    Credentials(#[from] auth::files::Error),
    #[error(transparent)]
    Manifest(#[from] manifest::Error),
    #[error("hosts.toml says that nobody takes pushes for it")]
    Nobody,
    #[error("no image for {platform}; there are {there}")]
    Platform { platform: String, there: String },
}

/// What the server said about it, if anything: bounded and printable.
#[derive(Debug, Default)]
pub(super) struct Said(pub(super) String);

impl fmt::Display for Said {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() { Ok(()) } else { write!(out, " ({})", self.0) }
    }
}

/// Whether asking the same endpoint again may help.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Again {
    Never,
    /// Only when nobody else can be asked.
    IfLast,
    After(Option<Duration>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    NotFound,
    Unauthorized,
    Unavailable,
    Verification,
    Invalid,
    Configuration,
}

impl Cause {
    pub(super) fn again(&self) -> Again {
        match self {
            Cause::Status { status, retry_after, .. } => match status.as_u16() {
                408 | 429 | 500 | 502 | 503 | 504 => Again::After(*retry_after),
                _ => Again::Never,
            },
            Cause::Transport(transport::Error::Connect(_)) => Again::IfLast,
            Cause::Transport(transport::Error::TimedOut(_)) => Again::IfLast,
            Cause::Transport(transport::Error::Ask(_)) => Again::After(None),
            Cause::Transport(transport::Error::Certificates(_)) => Again::Never,
            Cause::Broken { .. } | Cause::Stalled { .. } => Again::After(None),
            Cause::Token { source, .. } => source.again(),
            Cause::NotFound(_)
            | Cause::Denied(_)
            | Cause::TooLong(_)
            | Cause::Size { .. }
            | Cause::Digest { .. }
            | Cause::Nonsense(_)
            | Cause::Redirect(_)
            | Cause::Challenge
            | Cause::Realm { .. }
            | Cause::Credentials(_)
            | Cause::Manifest(_)
            | Cause::Nobody
            | Cause::Platform { .. } => Again::Never,
        }
    }

    /// Whether there was no connection, so that another scheme may be tried.
    pub(super) fn is_connect(&self) -> bool {
        matches!(self, Cause::Transport(transport::Error::Connect(_)))
    }

    fn kind(&self) -> Kind {
        match self {
            Cause::NotFound(_) => Kind::NotFound,
            Cause::Denied(_) | Cause::Challenge | Cause::Realm { .. } => Kind::Unauthorized,
            Cause::Status { status, .. } if is_no(*status) => Kind::Invalid,
            Cause::Status { .. } | Cause::Broken { .. } | Cause::Stalled { .. } => Kind::Unavailable,
            Cause::Transport(transport::Error::Certificates(_)) | Cause::Credentials(_) | Cause::Nobody => {
                Kind::Configuration
            }
            Cause::Transport(_) => Kind::Unavailable,
            Cause::Size { .. } | Cause::Digest { .. } | Cause::TooLong(_) => Kind::Verification,
            Cause::Nonsense(_) | Cause::Redirect(_) | Cause::Manifest(_) | Cause::Platform { .. } => {
                Kind::Invalid
            }
            Cause::Token { source, .. } => match source.kind() {
                Kind::NotFound | Kind::Invalid | Kind::Verification => Kind::Unauthorized,
                other => other,
            },
        }
    }
}

/// A no that time does not change: the request is not to the server's liking, or it has no such thing.
fn is_no(status: StatusCode) -> bool {
    (status.is_client_error() && status != StatusCode::TOO_MANY_REQUESTS)
        || status == StatusCode::NOT_IMPLEMENTED
}

/// What was asked and why each endpoint, in the order asked, did not give it.
#[derive(Debug, Clone)]
pub struct Failure {
    what: String,
    attempts: Vec<(String, String)>,
    kind: Option<Kind>,
}

impl Failure {
    pub(super) fn new(what: impl Into<String>) -> Failure {
        Failure { what: what.into(), attempts: Vec::new(), kind: None }
    }

    pub(super) fn add(&mut self, endpoint: &str, cause: &Cause) {
        self.attempts.push((endpoint.to_owned(), told(cause)));
        self.kind = Some(cause.kind());
    }

    /// The last endpoint is the registry itself: what it says is what counts.
    pub(super) fn into_error(self) -> super::Error {
        match self.kind {
            Some(Kind::NotFound) => super::Error::NotFound(self),
            Some(Kind::Unauthorized) => super::Error::Unauthorized(self),
            Some(Kind::Unavailable) | None => super::Error::Unavailable(self),
            Some(Kind::Verification) => super::Error::Verification(self),
            Some(Kind::Invalid) => super::Error::Invalid(self),
            Some(Kind::Configuration) => super::Error::Configuration(self),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.what)?;
        for (place, (endpoint, cause)) in self.attempts.iter().enumerate() {
            let joint = if place == 0 { ": " } else { "; " };
            write!(out, "{joint}{endpoint}: {cause}")?;
        }
        match self.kind {
            Some(kind) => write!(out, " - {}", next_step(kind)),
            None => Ok(()),
        }
    }
}

/// What the reader of the error can do about it.
fn next_step(kind: Kind) -> &'static str {
    match kind {
        Kind::NotFound => "check the name, the tag and the mirrors of registries.conf",
        Kind::Unauthorized => "give the pod an image pull secret, or the node an auth.json, that may do this",
        Kind::Unavailable => "check the network, DNS, the proxy and registries.conf, then try again",
        Kind::Verification => {
            "the server or something before it changes content: don't trust it, pull elsewhere"
        }
        Kind::Invalid => "push the image again with a current tool, or use another one",
        Kind::Configuration => "mend the file that is named",
    }
}

/// The cause with all its causes, which have nowhere else to go when there are several endpoints.
fn told(cause: &Cause) -> String {
    const MAX_CHARS: usize = 500;
    let mut text = cause.to_string();
    let mut next = std::error::Error::source(cause);
    while let Some(source) = next {
        let more = source.to_string();
        if !text.ends_with(&more) {
            text = format!("{text}: {more}");
        }
        next = source.source();
    }
    if let Some((end, _)) = text.char_indices().nth(MAX_CHARS) {
        text.truncate(end);
        text.push('…');
    }
    if text.contains("InvalidContentType") || text.contains("tls handshake eof") {
        text.push_str(" (does it speak plain HTTP? Then registries.conf must say insecure = true for it)");
    }
    if text.contains("UnknownIssuer") {
        text.push_str(" (is it a private one? Then certs.d must have its authority as HOST/ca.crt)");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(code: u16) -> Cause {
        let status = StatusCode::from_u16(code).unwrap();
        Cause::Status { status, said: Said::default(), retry_after: None }
    }

    #[test]
    fn the_last_endpoint_names_the_error_and_all_are_told() {
        let mut failure = Failure::new("fetching a.io/x:1");
        failure.add("mirror:5000", &status(503));
        failure.add("a.io", &Cause::NotFound(Said("MANIFEST_UNKNOWN".to_owned())));
        let error = failure.into_error();
        assert!(matches!(error, super::super::Error::NotFound(_)));
        assert_eq!(
            error.to_string(),
            "fetching a.io/x:1: mirror:5000: the server answered 503 Service Unavailable; \
             a.io: it is not there (MANIFEST_UNKNOWN) - check the name, the tag and the mirrors of registries.conf"
        );
    }

    #[test]
    fn only_what_may_pass_is_tried_again() {
        for (code, again) in [(429, true), (500, true), (503, true), (501, false), (400, false), (410, false)]
        {
            assert_eq!(status(code).again() != Again::Never, again, "{code}");
        }
        for (code, kind) in
            [(405, Kind::Invalid), (429, Kind::Unavailable), (500, Kind::Unavailable), (501, Kind::Invalid)]
        {
            assert_eq!(status(code).kind(), kind, "{code}");
        }
        let wrapped = Cause::Token { realm: "r".to_owned(), source: Box::new(status(503)) };
        assert_eq!(wrapped.again(), Again::After(None));
        assert_eq!(wrapped.kind(), Kind::Unavailable);
        assert_eq!(
            Cause::Token { realm: "r".to_owned(), source: Box::new(status(400)) }.kind(),
            Kind::Unauthorized
        );
    }
}
