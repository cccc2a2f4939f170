//! The way through a proxy: whole URLs for plain HTTP, a tunnel (CONNECT, RFC 9110 9.3.6), or SOCKS 5 (RFC 1928). The
//! proxy itself may be reached by TLS.

use std::sync::Arc;

use http::Uri;
use http::uri::{Authority, Scheme};
use hyper_rustls::{HttpsConnectorBuilder, MaybeHttpsStream};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::proxy::{SocksV5, Tunnel};
use hyper_util::client::proxy::matcher::Intercept;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use tokio::net::TcpStream;
use tower::Service;

use super::dial::BoxError;

pub(super) type Stream = MaybeHttpsStream<TokioIo<TcpStream>>;

/// What a proxy speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Speech {
    Http,
    Https,
    Socks,
}

/// Whether the proxy is reached by TLS.
pub(super) fn is_tls(proxy: &Intercept) -> bool {
    speech(proxy) == Some(Speech::Https)
}

fn speech(proxy: &Intercept) -> Option<Speech> {
    match proxy.uri().scheme_str()? {
        "http" => Some(Speech::Http),
        "https" => Some(Speech::Https),
        // Both let the proxy look the name up, as Go's clients do: it may be known only there.
        "socks5" | "socks5h" => Some(Speech::Socks),
        _ => None,
    }
}

/// A connection to `to`, and whether requests on it need the whole URL. `tls`: how a proxy behind TLS is verified.
pub(super) async fn connect(
    proxy: &Intercept,
    to: Uri,
    mut tcp: HttpConnector,
    tls: Option<Arc<ClientConfig>>,
) -> Result<(Stream, bool), BoxError> {
    // Authorization of the proxy is not sent along with whole URLs: where it is not behind TLS that would show it to
    // anyone on the way.
    let is_plain = to.scheme() != Some(&Scheme::HTTPS);
    match (speech(proxy), tls) {
        (None, _) => {
            Err(format!("the proxy {} is none of http, https, socks5 and socks5h", proxy.uri()).into())
        }
        (Some(Speech::Socks), _) => {
            let mut socks = SocksV5::new(with_port(proxy.uri(), 1080)?, tcp);
            if let Some((name, password)) = proxy.raw_auth() {
                socks = socks.with_auth(name.to_owned(), password.to_owned());
            }
            let to = with_port(&to, if is_plain { 80 } else { 443 })?;
            let failed = |error| BoxError::from(format!("the proxy {}: {error}", proxy.uri()));
            Ok((socks.call(to).await.map_err(failed)?.into(), false))
        }
        (Some(Speech::Http), _) if is_plain => Ok((tcp.call(proxy.uri().clone()).await?.into(), true)),
        (Some(Speech::Http), _) => {
            Ok((tunnel(Tunnel::new(proxy.uri().clone(), tcp), proxy).call(to).await?.into(), false))
        }
        (Some(Speech::Https), Some(tls)) => {
            let tls = HttpsConnectorBuilder::new().with_tls_config(ClientConfig::clone(&tls));
            let mut tls = tls.https_or_http().enable_http1().wrap_connector(tcp);
            match is_plain {
                true => Ok((tls.call(proxy.uri().clone()).await?, true)),
                false => Ok((tunnel(Tunnel::new(proxy.uri().clone(), tls), proxy).call(to).await?, false)),
            }
        }
        (Some(Speech::Https), None) => Err("nothing to verify the proxy by".into()),
    }
}

fn tunnel<C>(tunnel: Tunnel<C>, proxy: &Intercept) -> Tunnel<C> {
    match proxy.basic_auth() {
        Some(auth) => tunnel.with_auth(auth.clone()),
        None => tunnel,
    }
}

/// With the port that is meant where none is said.
fn with_port(uri: &Uri, port: u16) -> Result<Uri, BoxError> {
    let Some(authority) = uri.authority().filter(|authority| authority.port().is_none()) else {
        return Ok(uri.clone());
    };
    let mut parts = uri.clone().into_parts();
    parts.authority = Some(Authority::try_from(format!("{}:{port}", authority.host()))?);
    Ok(Uri::from_parts(parts)?)
}
