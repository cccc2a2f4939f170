//! Ends a call when its client's patience ends, with the code that the gRPC protocol has for it.
//!
//! tonic would do it by itself, but says CANCELLED, which a client takes for somebody's wish. Our clock is
//! set before tonic's and looked at first, so ours is the answer.

use std::convert::Infallible;
use std::time::Duration;

use http::{Request, Response};
use tonic::Status;
use tonic::body::Body;

use super::around::{Answer, Around};

/// Puts every call under its client's deadline.
#[derive(Debug, Clone, Copy)]
pub struct Deadlines;

impl Around for Deadlines {
    fn call<F>(&self, request: Request<Body>, go: impl FnOnce(Request<Body>) -> F) -> Answer
    where
        F: Future<Output = Result<Response<Body>, Infallible>> + Send + 'static,
    {
        let patience = patience(&request);
        let answer = go(request);
        let Some(patience) = patience else { return Box::pin(answer) };
        let answer = tokio::time::timeout(patience, answer);
        Box::pin(async move {
            answer.await.unwrap_or_else(|_| {
                let words = format!("the client gave the call {patience:?}, and that is over");
                Ok(Status::deadline_exceeded(words).into_http())
            })
        })
    }
}

fn patience(request: &Request<Body>) -> Option<Duration> {
    super::timeout(request.headers().get("grpc-timeout")?.to_str().ok()?)
}

#[cfg(test)]
mod tests {
    use tower::{Layer as _, Service as _};

    use super::super::Put;
    use super::*;

    async fn code(timeout: &str, takes_ms: u64) -> Option<String> {
        let slow = tower::service_fn(move |_: Request<Body>| async move {
            tokio::time::sleep(Duration::from_millis(takes_ms)).await;
            Ok::<_, Infallible>(Status::ok("").into_http())
        });
        let request = Request::builder().header("grpc-timeout", timeout).body(Body::empty()).unwrap();
        let answer = Put(Deadlines).layer(slow).call(request).await.unwrap();
        answer.headers().get("grpc-status").map(|code| code.to_str().unwrap().to_owned())
    }

    #[tokio::test(start_paused = true)]
    async fn an_impatient_client_hears_deadline_exceeded() {
        assert_eq!(code("10m", 50).await.as_deref(), Some("4"));
        assert_eq!(code("100m", 50).await.as_deref(), Some("0"));
    }
}
