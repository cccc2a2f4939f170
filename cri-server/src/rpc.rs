//! Hears the CRI: words in, words out. What a request comes to is decided and done elsewhere.

use std::time::{Duration, Instant};

use tonic::metadata::MetadataMap;
use tonic::{Code, Response, Status};

use crate::error::Error;
use crate::metrics::Metrics;
use crate::telemetry;

mod around;
mod deadline;
mod health;
mod hearing;
pub mod image;
mod lanes;
mod lists;
pub mod runtime;
mod streamed;
mod words;

pub use around::{Answer, Around, Put};
pub use deadline::Deadlines;
pub use hearing::hearing;
pub use lanes::Lanes;

/// What every call answers with.
type Reply<T> = Result<Response<T>, Status>;

/// Turns the end of a call into an answer: measured, and logged if it failed. The one place where an error
/// is logged.
async fn answer<T>(
    metrics: &Metrics,
    call: &'static str,
    work: impl Future<Output = Result<T, Error>>,
) -> Reply<T> {
    let began = Instant::now();
    let done = work.await;
    if let Err(error) = &done {
        metrics.refused(error);
    }
    let done = done.map_err(Status::from);
    metrics.called(call, began.elapsed(), done.as_ref().err().map(Status::code));
    match done {
        Ok(answer) => {
            tracing::debug!(call, ms = began.elapsed().as_secs_f64() * 1e3, "done");
            Ok(Response::new(answer))
        }
        Err(status) => {
            telemetry::failed(status.message());
            match status.code() {
                Code::NotFound => tracing::debug!(call, error = status.message(), "refused"),
                code => tracing::warn!(call, ?code, error = status.message(), "refused"),
            }
            Err(status)
        }
    }
}

/// Before the client gives up, so that it hears our words and not its own.
const WORDS_TAKE: Duration = Duration::from_millis(200);

/// The moment by which the client wants an answer, a little early.
fn deadline(metadata: &MetadataMap) -> Option<tokio::time::Instant> {
    let timeout = timeout(metadata.get("grpc-timeout")?.to_str().ok()?)?;
    let margin = WORDS_TAKE.min(timeout / 10);
    tokio::time::Instant::now().checked_add(timeout - margin)
}

/// The header of the gRPC protocol: up to eight digits and a unit.
fn timeout(header: &str) -> Option<Duration> {
    let (digits, unit) = header.split_at_checked(header.len().checked_sub(1)?)?;
    let number: u32 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(u64::from(number) * 3600)),
        "M" => Some(Duration::from_secs(u64::from(number) * 60)),
        "S" => Some(Duration::from_secs(number.into())),
        "m" => Some(Duration::from_millis(number.into())),
        "u" => Some(Duration::from_micros(number.into())),
        "n" => Some(Duration::from_nanos(number.into())),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clients_patience_is_read_from_its_header() {
        let check =
            |header: &str, expected: Option<Duration>| assert_eq!(timeout(header), expected, "{header}");
        check("240S", Some(Duration::from_secs(240)));
        check("239999856u", Some(Duration::from_micros(239_999_856)));
        check("100m", Some(Duration::from_millis(100)));
        check("2H", Some(Duration::from_secs(7200)));
        check("5", None);
        check("S", None);
        check("", None);
        check("12é", None);
    }
}
