//! Connections: TCP, TLS by the host's roots and `certs.d`, proxies, and the pools that keep them.
//!
//! One client for each host and way of trusting it, so that a client certificate or a leniency meant for
//! one host is never used with another.

use std::collections::HashMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::uri::Scheme;
use http::{Request, Response, Uri};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::Client;
use hyper_util::client::proxy::matcher::Matcher;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::{ClientConfig, RootCertStore};
use tokio::time::Instant;

use super::certs::{self, Identity};
use super::dial::{self, Dial};
use super::{Patience, Proxies, through};
use crate::registries_conf::Tls;

/// How sure we must be of a server.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Trust {
    /// The host's roots and those of `certs.d` for this host.
    Verified,
    /// The same, and the roots given for the registry that sent us there.
    VerifiedBy(String),
    /// Anyone will do: the operator said `insecure`.
    Anyone,
    /// As a hosts.toml says.
    Given(Arc<Tls>),
}

type HttpClient = Client<Dial<HttpsConnector<super::dial::Line>>, Full<Bytes>>;

/// Clients are made again when more hosts than this have been spoken to.
const MAX_CLIENTS: usize = 64;
/// After this, a host's client is made anew, so that a renewed certificate is seen without a restart.
const CLIENT_LIFE: Duration = Duration::from_secs(60);
/// A connection that nobody needed for so long is closed.
const IDLE: Duration = Duration::from_secs(30);
/// A blob comes in pieces of at most this. Larger ones (hyper would go to 400 KiB) cost memory in every
/// pipe behind and gain nothing: 64 KiB bring more than 1 GB/s.
const MAX_PIECE_BYTES: usize = 64 << 10;
const MAX_IDLE_CONNECTIONS: usize = 8;

pub(super) struct Transport {
    certs_dirs: Vec<PathBuf>,
    patience: Patience,
    proxies: Arc<Matcher>,
    roots: tokio::sync::OnceCell<Arc<RootCertStore>>,
    clients: Mutex<HashMap<(String, Trust), (Instant, HttpClient)>>,
}

#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error(transparent)]
    Certificates(#[from] certs::Error),
    #[error("no answer within {} seconds", .0.as_secs())]
    TimedOut(Duration),
    #[error("connecting")]
    Connect(#[source] hyper_util::client::legacy::Error),
    #[error("asking")]
    Ask(#[source] hyper_util::client::legacy::Error),
}

impl Transport {
    pub(super) fn new(certs_dirs: Vec<PathBuf>, patience: Patience, proxies: &Proxies) -> Transport {
        Transport {
            certs_dirs,
            patience,
            proxies: Arc::new(matcher(proxies)),
            roots: tokio::sync::OnceCell::new(),
            clients: Mutex::new(HashMap::new()),
        }
    }

    /// One request, one answer; redirects and refusals are answers.
    pub(super) async fn send(
        &self,
        request: Request<Full<Bytes>>,
        trust: &Trust,
    ) -> Result<Response<Incoming>, Error> {
        let client = self.client(request.uri(), trust).await?;
        let answer = tokio::time::timeout(self.patience.answer, client.request(request));
        let answer = answer.await.map_err(|_| Error::TimedOut(self.patience.answer))?;
        answer.map_err(|error| if error.is_connect() { Error::Connect(error) } else { Error::Ask(error) })
    }

    async fn client(&self, uri: &Uri, trust: &Trust) -> Result<HttpClient, Error> {
        let host = uri.authority().map(ToString::to_string).unwrap_or_default();
        let key = (host, trust.clone());
        if let Some(client) = self.kept(&key) {
            return Ok(client);
        }
        let client = self.make_client(uri, &key.0, trust).await?;
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if clients.len() >= MAX_CLIENTS {
            clients.clear();
        }
        clients.insert(key, (Instant::now(), client.clone()));
        Ok(client)
    }

    fn kept(&self, key: &(String, Trust)) -> Option<HttpClient> {
        let clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        clients.get(key).filter(|(made, _)| made.elapsed() < CLIENT_LIFE).map(|(_, client)| client.clone())
    }

    async fn make_client(&self, uri: &Uri, host: &str, trust: &Trust) -> Result<HttpClient, Error> {
        let config = if uri.scheme_str() == Some("https") {
            let identity = self.identity(host, trust)?;
            match trust {
                Trust::Given(tls) if tls.skip_verify => certs::trusting_anyone(identity)?,
                Trust::Anyone => certs::trusting_anyone(identity)?,
                Trust::Verified | Trust::VerifiedBy(_) | Trust::Given(_) => {
                    certs::verifying(self.roots().await, identity)?
                }
            }
        } else {
            certs::verifying(Arc::new(RootCertStore::empty()), Identity::default())?
        };
        let proxy_tls = self.proxy_tls(uri).await?;
        let line = dial::Line::new(self.proxies.clone(), proxy_tls, self.patience.connect);
        let https = hyper_rustls::HttpsConnectorBuilder::new()
            .with_tls_config(config)
            .https_or_http()
            .enable_all_versions()
            .wrap_connector(line);
        Ok(Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .timer(TokioTimer::new())
            .pool_idle_timeout(IDLE)
            .pool_max_idle_per_host(MAX_IDLE_CONNECTIONS)
            .http1_max_buf_size(MAX_PIECE_BYTES)
            .http2_adaptive_window(true)
            .http2_keep_alive_interval(self.patience.idle / 2)
            .http2_keep_alive_timeout(self.patience.idle)
            .build(Dial::new(https, self.patience.connect)))
    }

    /// How the proxy before a host is verified, where it is reached by TLS: by the host's roots and those of its own
    /// directory under `certs.d`.
    async fn proxy_tls(&self, uri: &Uri) -> Result<Option<Arc<ClientConfig>>, Error> {
        // One client may speak http and https to its host, through two proxies.
        let speak = |scheme: &str| {
            let mut parts = uri.clone().into_parts();
            parts.scheme = Scheme::try_from(scheme).ok();
            dial::proxy_for(&self.proxies, &Uri::from_parts(parts).ok()?)
        };
        let Some(proxy) = ["https", "http"].into_iter().filter_map(speak).find(through::is_tls) else {
            return Ok(None);
        };
        let name = proxy.uri().authority().map_or("", |authority| authority.as_str());
        let identity = Identity::load(&self.certs_dirs, name)?;
        Ok(Some(Arc::new(certs::verifying(self.roots().await, identity)?)))
    }

    /// Roots and key for a host; a client key is shown only to the host it lies under.
    fn identity(&self, host: &str, trust: &Trust) -> Result<Identity, Error> {
        if let Trust::Given(tls) = trust {
            return Ok(Identity::given(tls)?);
        }
        let mut identity = Identity::load(&self.certs_dirs, host)?;
        if let Trust::VerifiedBy(origin) = trust {
            identity.roots.extend(Identity::load(&self.certs_dirs, origin)?.roots);
        }
        Ok(identity)
    }

    /// The host's roots, read when the first TLS connection is made: a node of mirrors may never need them.
    async fn roots(&self) -> Arc<RootCertStore> {
        let load = || async {
            let loaded = tokio::task::spawn_blocking(certs::host_roots).await;
            Arc::new(loaded.unwrap_or_else(|_| RootCertStore::empty()))
        };
        self.roots.get_or_init(load).await.clone()
    }
}

impl fmt::Debug for Transport {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Transport").field("certs_dirs", &self.certs_dirs).finish_non_exhaustive()
    }
}

fn matcher(proxies: &Proxies) -> Matcher {
    match proxies {
        Proxies::Environment => Matcher::from_env(),
        Proxies::Given { http, https, no } => {
            Matcher::builder().http(http.as_str()).https(https.as_str()).no(no.as_str()).build()
        }
    }
}
