//! Shows the numbers over HTTP, on a TCP address or a unix socket.

use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::Semaphore;

use crate::node::Node;

/// A scraper that takes longer is gone.
const SCRAPE_TIMEOUT: Duration = Duration::from_secs(10);
/// Scrapers at once; more wait. Prometheus is one, and has a spare.
const SCRAPERS_MAX: usize = 8;
/// After a failed accept (no descriptors left, say) there is no use in trying at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Where scrapers come in.
#[derive(Debug)]
pub enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

impl Listener {
    /// An address with its port, or `unix:///path`, which only root may then open.
    ///
    /// # Errors
    /// When it cannot be listened on.
    pub async fn bind(address: &str) -> std::io::Result<Listener> {
        let Some(path) = address.strip_prefix("unix://") else {
            return Ok(Listener::Tcp(TcpListener::bind(address).await?));
        };
        let path = Path::new(path);
        // Of a daemon that is gone. Whoever else listens there keeps what is open, and loses the name.
        if std::fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket()) {
            std::fs::remove_file(path)?;
        }
        let listener = UnixListener::bind(path)?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
        Ok(Listener::Unix(listener))
    }

    async fn accept(&self) -> std::io::Result<Box<dyn Stream>> {
        Ok(match self {
            Listener::Tcp(listener) => Box::new(listener.accept().await?.0),
            Listener::Unix(listener) => Box::new(listener.accept().await?.0),
        })
    }
}

/// Answers every request with the numbers of now; there is nothing else here to ask for.
pub async fn serve(node: Arc<Node>, listener: Listener) {
    let room = Arc::new(Semaphore::new(SCRAPERS_MAX));
    loop {
        let Ok(permit) = room.clone().acquire_owned().await else { return };
        let Ok(stream) = listener.accept().await else {
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        let node = node.clone();
        tokio::spawn(async move {
            // A scraper that goes away has harmed nobody but itself.
            let _ = tokio::time::timeout(SCRAPE_TIMEOUT, tell(&node, stream)).await;
            drop(permit);
        });
    }
}

/// Speaks as much HTTP as a scraper needs.
async fn tell(node: &Node, mut stream: Box<dyn Stream>) -> std::io::Result<()> {
    let mut request = [0; 4096];
    let _ = stream.read(&mut request).await?;
    let text = node.metrics.text(&node.world.now());
    let head = "HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4\r\nConnection: close\r\n";
    let answer = format!("{head}Content-Length: {}\r\n\r\n{text}", text.len());
    stream.write_all(answer.as_bytes()).await?;
    stream.shutdown().await
}
