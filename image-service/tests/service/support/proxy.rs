//! A real proxy: HTTP with whole URLs, CONNECT, and SOCKS 5, by TLS where it is told to. It leads to one server, whatever
//! is asked for, and remembers what that was.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};

pub(crate) struct Proxy {
    pub(crate) address: SocketAddr,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Proxy {
    /// Leads https to `tls` and http to `plain`, until the runtime ends.
    pub(crate) async fn start(
        certificate: Option<Arc<rustls::ServerConfig>>,
        tls: SocketAddr,
        plain: SocketAddr,
    ) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, asked) = (listener.local_addr().unwrap(), Arc::<Mutex<Vec<String>>>::default());
        let list = asked.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (list, certificate) = (list.clone(), certificate.clone());
                tokio::spawn(async move {
                    // Whoever leaves has what it wanted.
                    _ = match certificate {
                        None => serve(stream, &list, tls, plain).await,
                        Some(certificate) => {
                            let acceptor = tokio_rustls::TlsAcceptor::from(certificate);
                            serve(acceptor.accept(stream).await?, &list, tls, plain).await
                        }
                    };
                    std::io::Result::Ok(())
                });
            }
        });
        Proxy { address, asked }
    }

    pub(crate) fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

async fn serve(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    list: &Mutex<Vec<String>>,
    tls: SocketAddr,
    plain: SocketAddr,
) -> std::io::Result<()> {
    let first = stream.read_u8().await?;
    if first == 5 {
        let to = socks(&mut stream).await?;
        let port = if to.ends_with(":443") { tls } else { plain };
        list.lock().unwrap().push(format!("SOCKS {to}"));
        let mut server = TcpStream::connect(port).await?;
        copy_bidirectional(&mut stream, &mut server).await?;
        return Ok(());
    }
    let mut head = vec![first];
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await?);
    }
    let text = String::from_utf8(head.clone()).unwrap();
    let words: Vec<&str> = text.split(' ').collect();
    let auth =
        text.lines().find_map(|line| line.to_lowercase().strip_prefix("proxy-authorization:").map(|_| "+"));
    list.lock().unwrap().push(format!("{} {}{}", words[0], words[1], auth.unwrap_or_default()));
    if words[0] == "CONNECT" {
        stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await?;
        let mut server = TcpStream::connect(tls).await?;
        copy_bidirectional(&mut stream, &mut server).await?;
        return Ok(());
    }
    // The server takes whole URLs as well; only the first is noted of each connection.
    let mut server = TcpStream::connect(plain).await?;
    server.write_all(&head).await?;
    copy_bidirectional(&mut stream, &mut server).await?;
    Ok(())
}

/// RFC 1928, with a name and a password (RFC 1929) where those are offered. Says to where.
async fn socks(stream: &mut (impl AsyncRead + AsyncWrite + Unpin)) -> std::io::Result<String> {
    let mut methods = vec![0; usize::from(stream.read_u8().await?)];
    stream.read_exact(&mut methods).await?;
    let wants_name = methods.contains(&2);
    stream.write_all(&[5, if wants_name { 2 } else { 0 }]).await?;
    let mut who = String::new();
    if wants_name {
        assert_eq!(stream.read_u8().await?, 1);
        for _ in 0..2 {
            let mut word = vec![0; usize::from(stream.read_u8().await?)];
            stream.read_exact(&mut word).await?;
            who += &format!("{}@", String::from_utf8(word).unwrap());
        }
        stream.write_all(&[1, 0]).await?;
    }
    let mut head = [0; 4];
    stream.read_exact(&mut head).await?;
    assert_eq!((head[0], head[1], head[3]), (5, 1, 3), "CONNECT to a name that the proxy looks up");
    let mut name = vec![0; usize::from(stream.read_u8().await?)];
    stream.read_exact(&mut name).await?;
    let port = stream.read_u16().await?;
    stream.write_all(&[5, 0, 0, 1, 0, 0, 0, 0, 0, 0]).await?;
    Ok(format!("{who}{}:{port}", String::from_utf8(name).unwrap()))
}
