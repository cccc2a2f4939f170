//! Puts every call into its spans.

use std::task::{Context, Poll};

use http::Request;
use tower::{Layer, Service};
use tracing::Instrument;
use tracing::instrument::Instrumented;

/// Gives every call its spans.
#[derive(Debug, Clone, Copy)]
pub struct Requests;

/// A service whose calls have spans.
#[derive(Debug, Clone)]
pub struct Spanned<S>(S);

impl<S> Layer<S> for Requests {
    type Service = Spanned<S>;

    fn layer(&self, service: S) -> Spanned<S> {
        Spanned(service)
    }
}

impl<S: Service<Request<B>>, B> Service<Request<B>> for Spanned<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = Instrumented<S::Future>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let call = request.uri().path().rsplit('/').next().unwrap_or_default();
        let span = super::request(call, request.headers());
        span.in_scope(|| self.0.call(request)).instrument(span)
    }
}
