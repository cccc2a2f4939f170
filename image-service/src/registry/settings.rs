//! What the client is told.

use std::path::PathBuf;
use std::time::Duration;

use crate::registries_conf::RegistriesConf;

/// What is to be done with a repository: no token is asked for that could do more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    Pull,
    Push,
}

/// What the client is told once.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    pub registries: RegistriesConf,
    /// Directories like `/etc/containers/certs.d`, the first that has the host wins.
    pub certs_dirs: Vec<PathBuf>,
    /// Files like `auth.json` and `~/.docker/config.json`, the first that knows the registry wins.
    pub auth_files: Vec<PathBuf>,
    pub patience: Patience,
    pub proxies: Proxies,
}

/// How long to wait for what, and how often to ask again.
#[derive(Debug, Clone)]
pub struct Patience {
    /// For a connection, TLS included.
    pub connect: Duration,
    /// For an answer to begin; a small one must also end within it.
    pub answer: Duration,
    /// For the next bytes of a blob.
    pub idle: Duration,
    /// Within each window of waiting, at least `floor_bytes` of a blob must come.
    pub window: Duration,
    pub floor_bytes: u64,
    /// Tries at one endpoint; progress resets the count.
    pub attempts: u32,
    /// Between the first two tries; doubles with each.
    pub pause: Duration,
    /// The longest `Retry-After` that is waited for. The kubelet comes back by itself after longer.
    pub retry_after: Duration,
}

impl Default for Patience {
    fn default() -> Patience {
        Patience {
            connect: Duration::from_secs(10),
            answer: Duration::from_secs(60),
            idle: Duration::from_secs(60),
            window: Duration::from_secs(60),
            floor_bytes: 16 << 10,
            attempts: 5,
            pause: Duration::from_millis(250),
            retry_after: Duration::from_secs(60),
        }
    }
}

/// Which proxies stand between us and registries. The loopback is never asked for through one.
#[derive(Debug, Clone, Default)]
pub enum Proxies {
    /// `HTTP_PROXY`, `HTTPS_PROXY`, `ALL_PROXY` and `NO_PROXY`, as curl reads them.
    #[default]
    Environment,
    Given {
        http: String,
        https: String,
        no: String,
    },
}
