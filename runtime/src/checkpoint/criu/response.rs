//! What criu says, read from its bytes.

use super::Ask;
use crate::checkpoint::message::{Value, fields};

/// What criu says at the end.
#[derive(Debug, Default)]
pub(in crate::checkpoint) struct Answer {
    pub(in crate::checkpoint) pid: Option<i32>,
    pub(super) version: u64,
    pub(super) memory_tracking: bool,
    pub(super) lazy_pages: bool,
}

/// `criu_resp`.
#[derive(Debug, Default)]
pub(super) struct Response {
    pub(super) success: bool,
    pub(super) notice: Option<(String, i32)>,
    pub(super) errno: Option<i32>,
    pub(super) message: Option<String>,
    pub(super) answer: Answer,
}

impl Response {
    pub(super) fn read(bytes: &[u8]) -> Option<Response> {
        let mut response = Response::default();
        let mut is_notice = false;
        for field in fields(bytes)? {
            match field {
                (1, Value::Number(kind)) => is_notice = kind == Ask::Notify as u64,
                (2, Value::Number(success)) => response.success = success != 0,
                (4, Value::Bytes(restored)) => {
                    response.answer.pid = number(restored, 1)?.and_then(|pid| pid.try_into().ok());
                }
                (5, Value::Bytes(notice)) => response.notice = Some(read_notice(notice)?),
                (7, Value::Number(errno)) => response.errno = i32::try_from(errno).ok(),
                (8, Value::Bytes(features)) => {
                    response.answer.memory_tracking = number(features, 1)? == Some(1);
                    response.answer.lazy_pages = number(features, 2)? == Some(1);
                }
                (9, Value::Bytes(text)) => {
                    response.message = Some(String::from_utf8_lossy(text).into_owned());
                }
                (10, Value::Bytes(version)) => response.answer.version = read_version(version)?,
                _ => {}
            }
        }
        if is_notice {
            response.notice.get_or_insert_default();
        }
        Some(response)
    }
}

fn read_notice(bytes: &[u8]) -> Option<(String, i32)> {
    let script = fields(bytes)?.iter().find_map(|field| match field {
        (1, Value::Bytes(script)) => Some(String::from_utf8_lossy(script).into_owned()),
        _ => None,
    });
    let pid = number(bytes, 2)?.unwrap_or(0);
    Some((script.unwrap_or_default(), i32::try_from(pid).unwrap_or(0)))
}

/// As criu counts itself: 3.17.1 is 31701.
fn read_version(bytes: &[u8]) -> Option<u64> {
    let part = |field| number(bytes, field).map(|part| part.unwrap_or(0));
    Some(part(1)? * 10_000 + part(2)? * 100 + part(4)?)
}

/// The outer `None`: what is no message.
fn number(bytes: &[u8], wanted: u64) -> Option<Option<u64>> {
    let found = fields(bytes)?.iter().find_map(|field| match field {
        (field, Value::Number(number)) if *field == wanted => Some(*number),
        _ => None,
    });
    Some(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::message::Message;

    #[test]
    fn a_response_is_read_with_its_parts() {
        let mut restored = Message::default();
        restored.number(1, 4242);
        let mut version = Message::default();
        version.number(1, 3).number(2, 17).number(4, 1);
        let mut bytes = Message::default();
        bytes.number(1, 2).number(2, 1).message(4, &restored).message(10, &version).text(9, "why");
        let response = Response::read(&bytes.bytes()).unwrap();
        assert!(response.success && response.notice.is_none());
        assert_eq!((response.answer.pid, response.answer.version), (Some(4242), 31_701));
        assert_eq!(response.message.as_deref(), Some("why"));
    }

    #[test]
    fn a_notice_is_told_from_an_answer() {
        let mut notice = Message::default();
        notice.text(1, "post-restore").number(2, 7);
        let mut bytes = Message::default();
        bytes.number(1, 6).number(2, 1).message(5, &notice);
        let response = Response::read(&bytes.bytes()).unwrap();
        assert_eq!(response.notice, Some(("post-restore".into(), 7)));
    }
}
