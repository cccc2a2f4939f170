//! The two connectors around TLS: [`Line`] makes the TCP connection, through a proxy where one is due;
//! [`Dial`] bounds the time for all of it, TLS included.

use std::future::Future;
use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::Uri;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::client::legacy::connect::{Connected, Connection, HttpConnector};
use hyper_util::client::proxy::matcher::{Intercept, Matcher};
use rustls::ClientConfig;
use tower::Service;

use super::through::{self, Stream};

pub(super) type BoxError = Box<dyn std::error::Error + Send + Sync>;
type Made<T> = Pin<Box<dyn Future<Output = Result<T, BoxError>> + Send>>;

/// Bounds the time that the connector inside may take.
#[derive(Clone, Debug)]
pub(super) struct Dial<C> {
    inner: C,
    deadline: Duration,
}

impl<C> Dial<C> {
    pub(super) fn new(inner: C, deadline: Duration) -> Dial<C> {
        Dial { inner, deadline }
    }
}

impl<C> Service<Uri> for Dial<C>
where
    C: Service<Uri, Error = BoxError>,
    C::Future: Send + 'static,
{
    type Response = C::Response;
    type Error = BoxError;
    type Future = Made<C::Response>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, to: Uri) -> Self::Future {
        let deadline = self.deadline;
        let made = self.inner.call(to);
        Box::pin(async move {
            let late = || format!("no connection within {} seconds", deadline.as_secs());
            tokio::time::timeout(deadline, made)
                .await
                .map_err(|_| BoxError::from(io::Error::new(io::ErrorKind::TimedOut, late())))?
        })
    }
}

/// Makes TCP connections to the host of a URI, or to the proxy that the environment puts before it.
#[derive(Clone)]
pub(super) struct Line {
    tcp: HttpConnector,
    proxies: Arc<Matcher>,
    /// For a proxy that is reached by TLS.
    proxy_tls: Option<Arc<ClientConfig>>,
}

impl Line {
    pub(super) fn new(
        proxies: Arc<Matcher>,
        proxy_tls: Option<Arc<ClientConfig>>,
        deadline: Duration,
    ) -> Line {
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_keepalive(Some(Duration::from_secs(30)));
        tcp.set_connect_timeout(Some(deadline));
        Line { tcp, proxies, proxy_tls }
    }
}

/// The proxy that stands before a URI, if any.
pub(super) fn proxy_for(proxies: &Matcher, to: &Uri) -> Option<Intercept> {
    if is_loopback(to) { None } else { proxies.intercept(to) }
}

impl Service<Uri> for Line {
    type Response = Wire;
    type Error = BoxError;
    type Future = Made<Wire>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.tcp.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, to: Uri) -> Self::Future {
        let mut tcp = self.tcp.clone();
        let Some(proxy) = proxy_for(&self.proxies, &to) else {
            return Box::pin(async move { Ok(Wire { stream: tcp.call(to).await?.into(), absolute: false }) });
        };
        let tls = self.proxy_tls.clone();
        Box::pin(async move {
            let (stream, absolute) = through::connect(&proxy, to, tcp, tls).await?;
            Ok(Wire { stream, absolute })
        })
    }
}

/// Go's clients never ask a proxy for the loopback, and neither do we: no proxy could reach it.
fn is_loopback(to: &Uri) -> bool {
    let host = to.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// A connection that knows whether requests on it need the whole URL.
#[derive(Debug)]
pub(super) struct Wire {
    stream: Stream,
    absolute: bool,
}

impl Connection for Wire {
    fn connected(&self) -> Connected {
        self.stream.connected().proxy(self.absolute)
    }
}

impl Read for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, into)
    }
}

impl Write for Wire {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, bytes)
    }
}
