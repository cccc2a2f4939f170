//! A server that answers as a test tells it, well or badly, and remembers what it was asked.

use std::fmt;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustls::{ServerConfig, ServerConnection, StreamOwned};

/// One request as it came.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) method: String,
    pub(crate) path: String,
    headers: Vec<(String, String)>,
    pub(crate) body: String,
}

impl Seen {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// Where the range that is asked for begins.
    pub(crate) fn offset(&self) -> usize {
        self.range().and_then(|(start, _)| start.parse().ok()).unwrap_or(0)
    }

    /// The last byte that is asked for, when it is said.
    fn last(&self) -> Option<usize> {
        self.range()?.1.parse().ok()
    }

    fn range(&self) -> Option<(&str, &str)> {
        self.header("range")?.strip_prefix("bytes=")?.split_once('-')
    }
}

/// How the bytes of an answer go out.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Manner {
    Whole,
    /// The length promised, and the connection closed after so many bytes.
    Cut(usize),
    /// One byte at a time, with a pause after each.
    Drip(Duration),
    /// So many bytes at a time, with a pause after each.
    Paced(usize, Duration),
    /// So many bytes, then silence.
    Silent(usize),
    /// No length is promised: chunks.
    Chunked,
    /// Chunks without end, of these bytes over and over.
    Endless,
}

#[derive(Debug, Clone)]
pub(crate) struct Reply {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    manner: Manner,
}

impl Reply {
    pub(crate) fn new(status: u16, body: impl Into<Vec<u8>>) -> Reply {
        Reply { status, headers: Vec::new(), body: body.into(), manner: Manner::Whole }
    }

    pub(crate) fn header(mut self, name: &str, value: impl Into<String>) -> Reply {
        self.headers.push((name.to_owned(), value.into()));
        self
    }

    pub(crate) fn manner(mut self, manner: Manner) -> Reply {
        self.manner = manner;
        self
    }

    /// With one byte that is another.
    pub(crate) fn spoiled(mut self, at: usize) -> Reply {
        if let Some(byte) = self.body.get_mut(at) {
            *byte ^= 0x55;
        }
        self
    }

    /// The bytes that were asked for, as a server that knows ranges gives them.
    pub(crate) fn ranged(seen: &Seen, body: &[u8]) -> Reply {
        let (offset, size) = (seen.offset(), body.len());
        let last = seen.last().unwrap_or(size.saturating_sub(1)).min(size.saturating_sub(1));
        match seen.range() {
            None => Reply::new(200, body),
            Some(_) if offset > last => Reply::new(416, ""),
            Some(_) => Reply::new(206, &body[offset..=last])
                .header("Content-Range", format!("bytes {offset}-{last}/{size}")),
        }
    }
}

type Handler = dyn Fn(&Seen) -> Reply + Send + Sync;

pub(crate) struct Fake {
    pub(crate) address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
    connections: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
}

impl Fake {
    pub(crate) fn start(handler: impl Fn(&Seen) -> Reply + Send + Sync + 'static) -> Fake {
        Fake::serve(None, Arc::new(handler))
    }

    pub(crate) fn start_tls(
        tls: Arc<ServerConfig>,
        handler: impl Fn(&Seen) -> Reply + Send + Sync + 'static,
    ) -> Fake {
        Fake::serve(Some(tls), Arc::new(handler))
    }

    pub(crate) fn host(&self) -> String {
        self.address.to_string()
    }

    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    /// The paths that were asked for, in order.
    pub(crate) fn paths(&self) -> Vec<String> {
        self.seen().into_iter().map(|seen| seen.path).collect()
    }

    fn serve(tls: Option<Arc<ServerConfig>>, handler: Arc<Handler>) -> Fake {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (seen, stop) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
        let connections = Arc::new(AtomicUsize::new(0));
        let (list, stopped, count) = (seen.clone(), stop.clone(), connections.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if stopped.load(Ordering::SeqCst) {
                    return;
                }
                count.fetch_add(1, Ordering::SeqCst);
                let (Ok(stream), tls, handler, list) = (stream, tls.clone(), handler.clone(), list.clone())
                else {
                    return;
                };
                std::thread::spawn(move || match tls {
                    None => talk(stream, &*handler, &list),
                    Some(config) => {
                        let connection = ServerConnection::new(config).unwrap();
                        talk(StreamOwned::new(connection, stream), &*handler, &list)
                    }
                });
            }
        });
        Fake { address, seen, connections, stop }
    }
}

impl fmt::Debug for Fake {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Fake({})", self.address)
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address);
    }
}

/// Answers requests on one connection until it ends. A peer that leaves is no error.
fn talk(stream: impl Read + Write, handler: &Handler, list: &Mutex<Vec<Seen>>) {
    let mut stream = BufReader::new(stream);
    while let Some(seen) = hear(&mut stream) {
        list.lock().unwrap().push(seen.clone());
        let reply = handler(&seen);
        if answer(stream.get_mut(), &reply).is_none() {
            return;
        }
    }
}

fn hear(stream: &mut BufReader<impl Read>) -> Option<Seen> {
    let mut line = String::new();
    stream.read_line(&mut line).ok().filter(|read| *read > 0)?;
    let mut words = line.split_ascii_whitespace();
    let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
    let mut headers = Vec::new();
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).ok().filter(|read| *read > 0)?;
        match line.trim_end().split_once(": ") {
            Some((name, value)) => headers.push((name.to_owned(), value.to_owned())),
            None => break,
        }
    }
    let mut seen = Seen { method, path, headers, body: String::new() };
    let length = seen.header("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
    stream.take(length).read_to_string(&mut seen.body).ok()?;
    Some(seen)
}

/// None when the connection is not to be used further.
fn answer(stream: &mut impl Write, reply: &Reply) -> Option<()> {
    let mut head = format!("HTTP/1.1 {} X\r\n", reply.status);
    for (name, value) in &reply.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    match reply.manner {
        Manner::Chunked | Manner::Endless => head.push_str("Transfer-Encoding: chunked\r\n\r\n"),
        _ => head.push_str(&format!("Content-Length: {}\r\n\r\n", reply.body.len())),
    }
    stream.write_all(head.as_bytes()).ok()?;
    let body = reply.body.as_slice();
    match reply.manner {
        Manner::Whole => stream.write_all(body).ok()?,
        Manner::Cut(after) => {
            let _ = stream.write_all(&body[..after.min(body.len())]);
            let _ = stream.flush();
            return None;
        }
        Manner::Silent(after) => {
            let _ = stream.write_all(&body[..after.min(body.len())]);
            let _ = stream.flush();
            std::thread::sleep(Duration::from_secs(30));
            return None;
        }
        Manner::Drip(pause) => paced(stream, body, 1, pause)?,
        Manner::Paced(bytes, pause) => paced(stream, body, bytes, pause)?,
        Manner::Chunked => {
            chunk(stream, body)?;
            stream.write_all(b"0\r\n\r\n").ok()?;
        }
        Manner::Endless => loop {
            chunk(stream, body)?;
        },
    }
    stream.flush().ok()
}

fn paced(stream: &mut impl Write, body: &[u8], bytes: usize, pause: Duration) -> Option<()> {
    for piece in body.chunks(bytes) {
        stream.write_all(piece).ok()?;
        stream.flush().ok()?;
        std::thread::sleep(pause);
    }
    Some(())
}

fn chunk(stream: &mut impl Write, body: &[u8]) -> Option<()> {
    stream.write_all(format!("{:x}\r\n", body.len()).as_bytes()).ok()?;
    stream.write_all(body).ok()?;
    stream.write_all(b"\r\n").ok()
}
