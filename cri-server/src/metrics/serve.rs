//! Shows the numbers over HTTP, or HTTPS, on a TCP address or a unix socket.

use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::Semaphore;

use crate::node::Node;
use crate::stream::{Tls, TlsFiles};

/// A scraper that takes longer is gone.
const SCRAPE_TIMEOUT: Duration = Duration::from_secs(10);
/// Scrapers at once; more wait. Prometheus is one, and has a spare.
const SCRAPERS_MAX: usize = 8;
/// After a failed accept (no descriptors left, say) there is no use in trying at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// A scraper asks in a few hundred bytes.
const REQUEST_MAX: usize = 8 << 10;
/// Where metrics are, as everywhere.
const PATH: &str = "/metrics";

/// Where scrapers come in.
#[derive(Debug)]
pub struct Listener {
    socket: Socket,
    tls: Option<Arc<Tls>>,
}

#[derive(Debug)]
enum Socket {
    Tcp(TcpListener),
    Unix(UnixListener),
}

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

impl Listener {
    /// An address with its port, or `unix:///path`, which only root may then open.
    ///
    /// # Errors
    /// When it cannot be listened on, or the files of TLS make no server.
    pub async fn bind(address: &str, tls: Option<TlsFiles>) -> io::Result<Listener> {
        let tls = tls.map(Tls::load).transpose().map_err(io::Error::other)?.map(Arc::new);
        let socket = match address.strip_prefix("unix://") {
            None => Socket::Tcp(TcpListener::bind(address).await?),
            Some(path) => Socket::Unix(private(Path::new(path))?),
        };
        Ok(Listener { socket, tls })
    }

    async fn accept(&self) -> io::Result<Box<dyn Stream>> {
        Ok(match &self.socket {
            Socket::Tcp(listener) => Box::new(listener.accept().await?.0),
            Socket::Unix(listener) => Box::new(listener.accept().await?.0),
        })
    }
}

fn private(path: &Path) -> io::Result<UnixListener> {
    // Of a daemon that is gone. Whoever else listens there keeps what is open, and loses the name.
    if std::fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket()) {
        std::fs::remove_file(path)?;
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Answers with the numbers of now; there is nothing else here to ask for.
pub async fn serve(node: Arc<Node>, listener: Listener) {
    let room = Arc::new(Semaphore::new(SCRAPERS_MAX));
    loop {
        let Ok(permit) = room.clone().acquire_owned().await else { return };
        let Ok(stream) = listener.accept().await else {
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        let (node, tls) = (node.clone(), listener.tls.clone());
        tokio::spawn(async move {
            // A scraper that goes away has harmed nobody but itself.
            let numbers = || node.metrics.text(&node.world.now());
            let _ = tokio::time::timeout(SCRAPE_TIMEOUT, meet(numbers, stream, tls)).await;
            drop(permit);
        });
    }
}

async fn meet(
    numbers: impl Fn() -> String,
    stream: Box<dyn Stream>,
    tls: Option<Arc<Tls>>,
) -> io::Result<()> {
    match tls {
        None => tell(numbers, stream).await,
        Some(tls) => tell(numbers, tls.acceptor().accept(stream).await?).await,
    }
}

/// Speaks as much HTTP as a scraper needs.
async fn tell(numbers: impl Fn() -> String, mut stream: impl Stream) -> io::Result<()> {
    let request = read_head(&mut stream).await?;
    let (status, text) = match wanted(&request) {
        Ok(()) => ("200 OK", numbers()),
        Err(status) => (status, format!("metrics are at {PATH}\n")),
    };
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain; version=0.0.4\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
        text.len()
    );
    stream.write_all((head + &text).as_bytes()).await?;
    stream.shutdown().await
}

/// Up to the empty line: closing a socket with unread input would reset it, and the scraper could lose the answer.
async fn read_head(stream: &mut impl Stream) -> io::Result<Vec<u8>> {
    let mut head = Vec::new();
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        if head.len() >= REQUEST_MAX || stream.read_buf(&mut head).await? == 0 {
            return Err(io::ErrorKind::InvalidData.into());
        }
    }
    Ok(head)
}

/// What to answer instead, for what we don't have.
fn wanted(request: &[u8]) -> Result<(), &'static str> {
    let line = request.split(|byte| *byte == b'\r').next().unwrap_or_default();
    let mut words = line.split(|byte| *byte == b' ');
    let (method, target) = (words.next(), words.next().unwrap_or_default());
    let path = target.split(|byte| *byte == b'?').next().unwrap_or_default();
    match method {
        Some(b"GET") if path == PATH.as_bytes() => Ok(()),
        Some(b"GET") => Err("404 Not Found"),
        _ => Err("405 Method Not Allowed"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_are_at_one_path() {
        let check = |request: &str, answer| assert_eq!(wanted(request.as_bytes()), answer, "{request}");
        check("GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n", Ok(()));
        check("GET /metrics?name=x HTTP/1.1\r\n\r\n", Ok(()));
        check("GET / HTTP/1.1\r\n\r\n", Err("404 Not Found"));
        check("POST /metrics HTTP/1.1\r\n\r\n", Err("405 Method Not Allowed"));
        check("", Err("405 Method Not Allowed"));
    }

    /// What a scraper gets that trusts these authorities.
    async fn scraped(tls: Arc<Tls>, trusted: &rcgen::Certificate) -> io::Result<String> {
        let (client, server) = tokio::io::duplex(16 << 10);
        tokio::spawn(meet(|| "up 1\n".to_owned(), Box::new(server), Some(tls)));
        let mut roots = rustls::RootCertStore::empty();
        roots.add(trusted.der().clone()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let name = rustls_pki_types::ServerName::try_from("metrics").unwrap();
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
        let mut stream = connector.connect(name, client).await?;
        // In two pieces, as slow networks have it.
        for piece in ["GET /metrics HTTP/1.1\r\n", "Host: metrics\r\n\r\n"] {
            stream.write_all(piece.as_bytes()).await?;
            stream.flush().await?;
        }
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        Ok(answer)
    }

    #[tokio::test]
    async fn metrics_are_served_over_tls() {
        let dir = tempfile::tempdir().unwrap();
        let made = rcgen::generate_simple_self_signed(vec!["metrics".into()]).unwrap();
        let (certificate, key) = (dir.path().join("cert"), dir.path().join("key"));
        std::fs::write(&certificate, made.cert.pem()).unwrap();
        std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
        let tls = Arc::new(Tls::load(TlsFiles { certificate, key, client_authorities: None }).unwrap());
        let answer = scraped(tls.clone(), &made.cert).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("\r\n\r\nup 1\n"), "{answer}");
        let other = rcgen::generate_simple_self_signed(vec!["metrics".into()]).unwrap();
        assert!(scraped(tls, &other.cert).await.is_err(), "another's certificate");
    }
}
