//! What stands around every call, whatever it asks for: a layer is one function from a request, and how to go on with it,
//! to an answer.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use http::{Request, Response};
use tonic::body::Body;
use tower::{Layer, Service};

/// An answer to come.
pub type Answer = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

/// Does something before, after or beside a call.
pub trait Around {
    /// `go` has the call done.
    fn call<F>(&self, request: Request<Body>, go: impl FnOnce(Request<Body>) -> F) -> Answer
    where
        F: Future<Output = Result<Response<Body>, Infallible>> + Send + 'static;
}

/// The layer that puts it there.
#[derive(Debug, Clone, Copy)]
pub struct Put<A>(pub A);

/// A service with something around its calls.
#[derive(Debug, Clone)]
pub struct Surrounded<A, S> {
    around: A,
    inner: S,
}

impl<A: Clone, S> Layer<S> for Put<A> {
    type Service = Surrounded<A, S>;

    fn layer(&self, inner: S) -> Surrounded<A, S> {
        Surrounded { around: self.0.clone(), inner }
    }
}

impl<A, S> Service<Request<Body>> for Surrounded<A, S>
where
    A: Around,
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Answer;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Answer {
        self.around.call(request, |request| self.inner.call(request))
    }
}
