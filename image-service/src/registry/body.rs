//! Small answers, read whole within bounds of size and time.

use std::time::{Duration, SystemTime};

use bytes::{Bytes, BytesMut};
use http::header::RETRY_AFTER;
use http::{HeaderMap, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde::Deserialize;

use super::Patience;
use super::failure::{Cause, Said};

/// What a server has to say about an error fits in here, or is not worth reading.
const MAX_REFUSAL_BYTES: usize = 16 << 10;
const MAX_SAID_CHARS: usize = 300;

/// The whole body, of at most `limit` bytes.
pub(super) async fn read(body: Incoming, limit: usize, patience: &Patience) -> Result<Bytes, Cause> {
    if hyper::body::Body::size_hint(&body).lower() > limit as u64 {
        return Err(Cause::TooLong(limit as u64));
    }
    let stalled = |_| Cause::Stalled { position: 0 };
    tokio::time::timeout(patience.answer, collect(body, limit)).await.map_err(stalled)?
}

async fn collect(mut body: Incoming, limit: usize) -> Result<Bytes, Cause> {
    let mut whole = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let broken = |source| Cause::Broken { position: whole.len() as u64, source: Some(source) };
        if let Ok(data) = frame.map_err(broken)?.into_data() {
            if whole.len() + data.len() > limit {
                return Err(Cause::TooLong(limit as u64));
            }
            whole.extend_from_slice(&data);
        }
    }
    Ok(whole.freeze())
}

/// What an answer that is no success means.
pub(super) async fn refusal(answer: Response<Incoming>, patience: &Patience) -> Cause {
    let status = answer.status();
    let retry_after = retry_after(answer.headers(), SystemTime::now());
    let text = read(answer.into_body(), MAX_REFUSAL_BYTES, patience).await.unwrap_or_default();
    let said = Said(said(&text));
    match status {
        StatusCode::NOT_FOUND => Cause::NotFound(said),
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Cause::Denied(said),
        status => Cause::Status { status, said, retry_after },
    }
}

/// Seconds, or the moment from which on to ask again (RFC 9110, 10.2.3). One that is over says nothing.
fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    match text.parse() {
        Ok(seconds) => Some(Duration::from_secs(seconds)),
        Err(_) => httpdate::parse_http_date(text).ok()?.duration_since(now).ok(),
    }
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Complaint {
    errors: Vec<Item>,
    details: String,
    error_description: String,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Item {
    code: String,
    message: String,
}

/// The registry's words (distribution-spec, "Error Codes"), or a token server's; printable and short.
fn said(text: &[u8]) -> String {
    let complaint: Complaint = serde_json::from_slice(text).unwrap_or_default();
    let words = match complaint.errors.first() {
        Some(item) => format!("{}: {}", item.code, item.message),
        None if !complaint.details.is_empty() => complaint.details,
        None => complaint.error_description,
    };
    words.chars().filter(|letter| !letter.is_control()).take(MAX_SAID_CHARS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_is_told_in_seconds_or_by_its_end() {
        let now = httpdate::parse_http_date("Sun, 06 Nov 1994 08:49:37 GMT").unwrap();
        let check = |text: &str, seconds: Option<u64>| {
            let headers = HeaderMap::from_iter([(RETRY_AFTER, text.parse().unwrap())]);
            assert_eq!(retry_after(&headers, now), seconds.map(Duration::from_secs), "{text}");
        };
        check("12", Some(12));
        check("Sun, 06 Nov 1994 08:50:07 GMT", Some(30));
        check("Sunday, 06-Nov-94 08:50:07 GMT", Some(30));
        check("Sun, 06 Nov 1994 08:49:00 GMT", None);
        for nonsense in ["soon", "-3", "", "Sun, 99 Nov 1994 08:50:07 GMT"] {
            check(nonsense, None);
        }
    }

    #[test]
    fn a_server_s_words_are_short_and_printable() {
        assert_eq!(said(br#"{"errors":[{"code":"DENIED","message":"no\u001b[31m\n"}]}"#), "DENIED: no[31m");
        assert_eq!(
            said(br#"{"details":"incorrect username or password"}"#),
            "incorrect username or password"
        );
        assert_eq!(said(b"<html>"), "");
        assert_eq!(said(b""), "");
        let long = format!(r#"{{"errors":[{{"code":"X","message":"{}"}}]}}"#, "y".repeat(1000));
        assert_eq!(said(long.as_bytes()).chars().count(), MAX_SAID_CHARS);
    }
}
