//! Puts every call into its spans.

use std::convert::Infallible;

use http::{Request, Response};
use tonic::body::Body;
use tracing::Instrument;

use crate::rpc::{Answer, Around};

/// Gives every call its spans.
#[derive(Debug, Clone, Copy)]
pub struct Requests;

impl Around for Requests {
    fn call<F>(&self, request: Request<Body>, go: impl FnOnce(Request<Body>) -> F) -> Answer
    where
        F: Future<Output = Result<Response<Body>, Infallible>> + Send + 'static,
    {
        let call = request.uri().path().rsplit('/').next().unwrap_or_default();
        let span = super::request(call, request.headers());
        Box::pin(span.in_scope(|| go(request)).instrument(span))
    }
}
