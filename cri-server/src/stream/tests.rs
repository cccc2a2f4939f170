//! Sessions as clients see them: over real sockets, with processes that a fake monitor runs.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use conmon_protocol::ExecPlan;
use futures_util::{SinkExt, StreamExt};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

use super::spdy::Frame;
use super::{AttachSession, ExecSession, PortForwardSession, Settings, Streams};
use crate::monitor::{Monitor, Monitors};

mod client;
mod fake;
mod tls;

use client::{Client, upgrade};

const REMOTE: &str =
    "v5.channel.k8s.io, v4.channel.k8s.io, v3.channel.k8s.io, v2.channel.k8s.io, channel.k8s.io";

struct Node {
    streams: Streams,
    monitor: Monitor,
    _dir: tempfile::TempDir,
}

#[derive(Clone, Copy, Default)]
struct With {
    terminal: bool,
    stdin: bool,
}

impl Node {
    async fn new() -> Node {
        Node::idle_for(Duration::from_secs(60)).await
    }

    async fn idle_for(idle: Duration) -> Node {
        Node::with(Settings { idle, ..Settings::default() }).await
    }

    async fn over(tls: Option<super::TlsFiles>) -> Node {
        Node::with(Settings { tls, ..Settings::default() }).await
    }

    async fn with(settings: Settings) -> Node {
        let dir = tempfile::tempdir().unwrap();
        fake::listen(dir.path());
        let monitor = Monitors::new("/bin/true".as_ref()).unwrap().connect(dir.path()).unwrap();
        let streams = Streams::serve(settings).await.unwrap();
        Node { streams, monitor, _dir: dir }
    }

    fn exec(&self, command: &[&str], with: With) -> String {
        let plan = ExecPlan {
            exec_id: format!("exec-{command:?}"),
            container_id: "c".into(),
            process: json!({ "args": command }),
            terminal: with.terminal,
            stdin: with.stdin,
            stdout: true,
            stderr: !with.terminal,
            timeout_ms: None,
        };
        self.streams.exec(ExecSession { monitor: self.monitor.clone(), plan }).unwrap()
    }

    fn sh(&self, script: &str, with: With) -> String {
        self.exec(&["sh", "-c", script], with)
    }

    fn attach(&self, container_id: &str) -> String {
        let (monitor, container_id) = (self.monitor.clone(), container_id.into());
        let session =
            AttachSession { monitor, container_id, terminal: false, stdin: true, stdout: true, stderr: true };
        self.streams.attach(session).unwrap()
    }

    fn forward(&self, ports: &[u16]) -> String {
        let session = PortForwardSession { sandbox_id: "s".into(), netns: None, ports: ports.to_vec() };
        self.streams.port_forward(session).unwrap()
    }
}

/// The streams of a SPDY client, in the order in which clients open them.
struct Remote {
    client: Client<TcpStream>,
    error: u32,
    stdin: u32,
    stdout: u32,
    stderr: u32,
    resize: u32,
}

async fn remote(url: &str, with: With) -> Remote {
    let (head, stream) = upgrade(url, REMOTE).await;
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    assert!(head.to_lowercase().contains("x-stream-protocol-version: v4.channel.k8s.io"), "{head}");
    let mut client = Client::on(stream);
    let error = client.open(&[("Streamtype", "error")]).await;
    let stdin = if with.stdin { client.open(&[("streamtype", "stdin")]).await } else { 0 };
    let stdout = client.open(&[("streamtype", "stdout")]).await;
    let stderr = if with.terminal { 0 } else { client.open(&[("streamtype", "stderr")]).await };
    let resize = if with.terminal { client.open(&[("streamtype", "resize")]).await } else { 0 };
    Remote { client, error, stdin, stdout, stderr, resize }
}

impl Remote {
    fn status(&self) -> serde_json::Value {
        serde_json::from_str(&self.client.text(self.error)).unwrap()
    }
}

const STDIN: With = With { terminal: false, stdin: true };
const PLAIN: With = With { terminal: false, stdin: false };
const TERMINAL: With = With { terminal: true, stdin: true };

#[tokio::test(flavor = "multi_thread")]
async fn exec_over_spdy_carries_all_streams_and_the_exit_code() {
    let node = Node::new().await;
    let mut remote = remote(&node.sh("cat; echo oops >&2; exit 3", STDIN), STDIN).await;
    remote.client.write(remote.stdin, b"hel", false).await;
    remote.client.write(remote.stdin, b"lo", true).await;
    remote.client.read_to_end().await;
    assert_eq!(remote.client.text(remote.stdout), "hello");
    assert_eq!(remote.client.text(remote.stderr), "oops\n");
    let status = remote.status();
    assert_eq!((&status["status"], &status["reason"]), (&json!("Failure"), &json!("NonZeroExitCode")));
    assert_eq!(status["details"]["causes"][0], json!({"reason": "ExitCode", "message": "3"}));
    for stream in [remote.error, remote.stdin, remote.stdout, remote.stderr] {
        assert!(remote.client.ended(stream), "stream {stream} was not closed");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_success_and_a_refusal_are_told_as_a_status() {
    let node = Node::new().await;
    let mut good = remote(&node.sh("echo hi", PLAIN), PLAIN).await;
    good.client.read_to_end().await;
    assert_eq!(
        (good.client.text(good.stdout).as_str(), &good.status()["status"]),
        ("hi\n", &json!("Success"))
    );
    let mut refused = remote(&node.exec(&["no-such-command"], PLAIN), PLAIN).await;
    refused.client.read_to_end().await;
    assert_eq!(refused.status()["message"], "exec no-such-command: not found in PATH");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_terminal_is_resized_and_is_one_stream() {
    let node = Node::new().await;
    let mut remote =
        remote(&node.sh("echo ready; read x; stty size; echo err >&2", TERMINAL), TERMINAL).await;
    let stdout = remote.stdout;
    remote.client.write(remote.resize, b"{\"Width\":111,\"Height\":33}\n", false).await;
    assert!(
        remote.client.until(|client| client.got.get(&stdout).is_some_and(|got| !got.bytes.is_empty())).await
    );
    // The size is set by another stream's task: give it the moment that a user's fingers would.
    tokio::time::sleep(Duration::from_millis(200)).await;
    remote.client.write(remote.stdin, b"\n", false).await;
    remote.client.read_to_end().await;
    let text = remote.client.text(stdout);
    assert!(text.contains("33 111") && text.contains("err"), "{text:?}");
    assert_eq!(remote.status()["status"], "Success");
}

#[tokio::test(flavor = "multi_thread")]
async fn much_output_reaches_a_client_that_never_counts() {
    let node = Node::new().await;
    let mut remote = remote(&node.sh("head -c 20000000 /dev/zero", PLAIN), PLAIN).await;
    remote.client.read_to_end().await;
    assert_eq!(remote.client.got[&remote.stdout].bytes.len(), 20_000_000);
    assert_eq!(remote.status()["status"], "Success");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_counts_is_never_sent_more_than_it_allows() {
    let node = Node::new().await;
    let (_, stream) = upgrade(&node.sh("sleep 0.1; head -c 1000000 /dev/zero", PLAIN), REMOTE).await;
    let mut client = Client::on(stream);
    client.counts = true;
    client.send(Frame::Settings { initial_window: Some(10_000) }).await;
    let mut ids = Vec::new();
    for name in ["error", "stdout", "stderr"] {
        ids.push(client.open(&[("streamtype", name)]).await);
    }
    client.read_to_end().await;
    assert_eq!(client.got[&ids[1]].bytes.len(), 1_000_000);
    assert!(client.most_outstanding <= 10_000, "{}", client.most_outstanding);
}

#[tokio::test(flavor = "multi_thread")]
async fn much_input_reaches_a_process_and_waits_for_it() {
    let node = Node::new().await;
    let mut remote = remote(&node.sh("sleep 0.3; wc -c", STDIN), STDIN).await;
    for _ in 0..200 {
        remote.client.write(remote.stdin, &[b'x'; 30_000], false).await;
    }
    remote.client.write(remote.stdin, b"", true).await;
    remote.client.read_to_end().await;
    assert_eq!(remote.client.text(remote.stdout).trim(), "6000000");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_connection_ends_with_the_process_though_a_daemon_holds_its_output() {
    let node = Node::new().await;
    let mut remote = remote(&node.sh("echo started; sleep 3 & exit 0", PLAIN), PLAIN).await;
    let end = tokio::time::timeout(Duration::from_secs(2), remote.client.read_to_end()).await;
    assert!(end.is_ok(), "the connection outlived the process");
    assert_eq!(remote.client.text(remote.stdout), "started\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_on_a_terminal_is_hung_up_when_its_client_goes() {
    let node = Node::new().await;
    let dir = tempfile::tempdir().unwrap();
    let marker = dir.path().join("hup");
    // It ends with the test, whatever becomes of that: with its folder.
    let script = format!(
        "trap 'touch {}; exit' HUP; echo on; while [ -d {} ]; do sleep 0.05; done",
        marker.display(),
        dir.path().display()
    );
    let mut remote = remote(&node.sh(&script, TERMINAL), TERMINAL).await;
    let stdout = remote.stdout;
    assert!(
        remote.client.until(|client| client.got.get(&stdout).is_some_and(|got| !got.bytes.is_empty())).await
    );
    drop(remote);
    for _ in 0..1500 {
        tokio::time::sleep(Duration::from_millis(20)).await;
        if marker.exists() {
            return;
        }
    }
    panic!("the process was not hung up");
}

#[tokio::test(flavor = "multi_thread")]
async fn attach_over_spdy_half_closes_and_ends_with_the_container() {
    let node = Node::new().await;
    let mut remote = remote(&node.attach("c"), STDIN).await;
    let stdout = remote.stdout;
    remote.client.write(remote.stdin, b"echo", false).await;
    assert!(
        remote.client.until(|client| client.got.get(&stdout).is_some_and(|got| got.bytes == b"echo")).await
    );
    remote.client.write(remote.stdin, b"", true).await;
    remote.client.read_to_end().await;
    assert_eq!(remote.client.text(remote.stderr), "bye");
    assert_eq!(remote.status()["status"], "Success");
}

#[tokio::test(flavor = "multi_thread")]
async fn attach_to_what_is_gone_says_so() {
    let node = Node::new().await;
    let mut remote = remote(&node.attach("gone"), STDIN).await;
    remote.client.read_to_end().await;
    assert_eq!(remote.status()["message"], "no container gone");
}

#[tokio::test(flavor = "multi_thread")]
async fn pings_are_answered_and_strange_streams_refused() {
    let node = Node::new().await;
    let mut remote = remote(&node.sh("cat", STDIN), STDIN).await;
    // One comes with the others, one when the session has all that it wants.
    for _ in 0..2 {
        let strange = remote.client.open(&[("streamtype", "resize")]).await;
        remote.client.send(Frame::Ping { id: 1 }).await;
        assert!(remote.client.until(|client| client.pongs > 0).await);
        assert!(remote.client.until(|client| client.got.get(&strange).is_some_and(|got| got.reset)).await);
    }
    // An id that does not grow.
    let headers = [("streamtype", "stdin")].into_iter().collect();
    remote.client.send(Frame::SynStream { id: 1, headers, last: false }).await;
    assert!(remote.client.until(|client| client.got.get(&1).is_some_and(|got| got.reset)).await);
    remote.client.write(remote.stdin, b"", true).await;
    remote.client.read_to_end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_breaks_the_protocol_is_left() {
    let node = Node::new().await;
    let mut remote = remote(&node.sh("cat", STDIN), STDIN).await;
    remote.client.raw(&[0x80, 3, 0, 1, 0, 0xff, 0xff, 0xff]).await;
    remote.client.read_to_end().await;
}

/// What is owed on a stream is kept with the stream: else a client could have as much kept as there are numbers.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_owed_on_streams_that_are_not_there() {
    let node = Node::new().await;
    let mut remote = remote(&node.sh("cat", STDIN), STDIN).await;
    let nowhere = 4001;
    for _ in 0..3 {
        remote.client.write(nowhere, &[7; 32 << 10], false).await;
    }
    remote.client.send(Frame::Ping { id: 1 }).await;
    assert!(remote.client.until(|client| client.pongs > 0).await);
    assert_eq!(remote.client.credit, [(0, 96 << 10)].into());
    remote.client.write(remote.stdin, &[b'a'; 64 << 10], true).await;
    remote.client.read_to_end().await;
    assert!(remote.client.credit[&remote.stdin] >= 32 << 10, "{:?}", remote.client.credit);
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_are_bounded() {
    let node = Node::new().await;
    let (_, stream) = upgrade(&node.forward(&[]), "portforward.k8s.io").await;
    let mut client = Client::on(stream);
    let mut last = 0;
    for n in 0..600 {
        last = client.open(&[("streamtype", "data"), ("port", "1"), ("requestid", &n.to_string())]).await;
    }
    assert!(client.until(|client| client.got.get(&last).is_some_and(|got| got.reset)).await);
    assert_eq!(client.got.values().filter(|got| got.replied).count(), 512);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_connection_is_closed() {
    let node = Node::idle_for(Duration::from_millis(300)).await;
    let mut remote = remote(&node.sh("sleep 2", PLAIN), PLAIN).await;
    let end = tokio::time::timeout(Duration::from_secs(1), remote.client.read_to_end()).await;
    assert!(end.is_ok(), "it stayed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_url_is_good_once_and_for_its_purpose_only() {
    let node = Node::new().await;
    let url = node.sh("true", PLAIN);
    remote(&url, PLAIN).await.client.read_to_end().await;
    assert!(upgrade(&url, REMOTE).await.0.starts_with("HTTP/1.1 404 "));
    let port_forward = node.forward(&[]).replace("portforward", "exec");
    assert!(upgrade(&port_forward, REMOTE).await.0.starts_with("HTTP/1.1 404 "));
    let (head, _) = upgrade(&node.sh("true", PLAIN), "v9.channel.k8s.io").await;
    assert!(head.starts_with("HTTP/1.1 403 ") && head.contains("v4.channel.k8s.io"), "{head}");
}

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

async fn websocket(url: &str, protocol: &str) -> Socket {
    let mut request = url.replace("http://", "ws://").into_client_request().unwrap();
    if !protocol.is_empty() {
        request.headers_mut().insert("sec-websocket-protocol", protocol.parse().unwrap());
    }
    let (socket, response) = tokio_tungstenite::connect_async(request).await.unwrap();
    let chosen = response.headers().get("sec-websocket-protocol").map(|value| value.to_str().unwrap());
    assert_eq!(chosen.unwrap_or_default(), protocol);
    socket
}

/// All that comes on each of the five channels, to the end.
async fn collect(mut socket: Socket) -> Vec<String> {
    let mut channels = vec![Vec::new(); 5];
    let mut closed = false;
    while let Some(Ok(message)) = socket.next().await {
        match message {
            Message::Binary(bytes) => channels[usize::from(bytes[0])].extend_from_slice(&bytes[1..]),
            Message::Text(text) => {
                let channel = usize::from(text.as_bytes()[0] - b'0');
                channels[channel].extend(STANDARD.decode(&text.as_str()[1..]).unwrap());
            }
            Message::Close(frame) => {
                assert_eq!(u16::from(frame.unwrap().code), 1000);
                closed = true;
            }
            _ => {}
        }
    }
    assert!(closed, "the server said no goodbye");
    channels.into_iter().map(|bytes| String::from_utf8(bytes).unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn exec_over_every_websocket_protocol() {
    let node = Node::new().await;
    let protocols = ["v5.channel.k8s.io", "v4.channel.k8s.io", "v4.base64.channel.k8s.io", "channel.k8s.io"];
    for protocol in protocols.into_iter().chain(["base64.channel.k8s.io", "v3.channel.k8s.io", ""]) {
        let mut socket = websocket(&node.sh("head -n1; echo oops >&2; exit 7", STDIN), protocol).await;
        let message = match protocol.contains("base64") {
            true => Message::Text(format!("0{}", STANDARD.encode("hello\n")).into()),
            false => Message::Binary(b"\0hello\n".as_slice().into()),
        };
        socket.send(message).await.unwrap();
        let channels = collect(socket).await;
        assert_eq!((channels[1].as_str(), channels[2].as_str()), ("hello\n", "oops\n"), "{protocol}");
        let told_as_status = protocol.starts_with("v4") || protocol.starts_with("v5");
        assert_eq!(channels[3].contains("NonZeroExitCode"), told_as_status, "{protocol}: {}", channels[3]);
        assert!(channels[3].contains('7'), "{protocol}: {}", channels[3]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn version_five_ends_stdin() {
    let node = Node::new().await;
    let mut socket = websocket(&node.sh("cat; echo done", STDIN), "v5.channel.k8s.io").await;
    socket.send(Message::Binary(b"\0data ".as_slice().into())).await.unwrap();
    socket.send(Message::Binary(b"\xff\0".as_slice().into())).await.unwrap();
    let channels = collect(socket).await;
    assert_eq!(channels[1], "data done\n");
    assert!(channels[3].contains("Success"), "{}", channels[3]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_websocket_terminal_is_resized() {
    let node = Node::new().await;
    let mut socket = websocket(&node.sh("read x; stty size", TERMINAL), "v4.channel.k8s.io").await;
    socket.send(Message::Binary(b"\x04{\"Width\":90,\"Height\":20}".as_slice().into())).await.unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    socket.send(Message::Binary(b"\0\n".as_slice().into())).await.unwrap();
    let channels = collect(socket).await;
    assert!(channels[1].contains("20 90"), "{:?}", channels[1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn websocket_pings_are_answered() {
    let node = Node::new().await;
    let mut socket = websocket(&node.sh("head -n1", STDIN), "v5.channel.k8s.io").await;
    socket.send(Message::Ping(b"are you there".as_slice().into())).await.unwrap();
    loop {
        if let Message::Pong(bytes) = socket.next().await.unwrap().unwrap() {
            assert_eq!(&bytes[..], b"are you there");
            break;
        }
    }
    socket.send(Message::Binary(b"\0bye\n".as_slice().into())).await.unwrap();
    assert_eq!(collect(socket).await[1], "bye\n");
}

/// A server that answers each connection with what it heard, once it has heard all.
async fn parrot() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut heard = Vec::new();
                stream.read_to_end(&mut heard).await.unwrap();
                stream.write_all(&heard).await.unwrap();
            });
        }
    });
    port
}

async fn forward_through<T>(mut client: Client<T>, port: u16)
where
    T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    let (port, mut pairs) = (port.to_string(), Vec::new());
    for n in 0..5u32 {
        let id = n.to_string();
        let mut headers = vec![("Streamtype", "error"), ("Port", port.as_str()), ("Requestid", id.as_str())];
        let error = client.open(&headers).await;
        client.write(error, b"", true).await;
        headers[0].1 = "data";
        let data = client.open(&headers).await;
        client.write(data, &vec![b'a' + n as u8; 100_000], true).await;
        pairs.push((error, data));
    }
    for (n, (error, data)) in (0u8..).zip(&pairs) {
        assert!(client.until(|client| client.ended(*data) && client.ended(*error)).await);
        assert_eq!(client.got[data].bytes, vec![b'a' + n; 100_000]);
        assert_eq!(client.text(*error), "");
    }
    let error = client.open(&[("streamtype", "error"), ("port", "1"), ("requestid", "9")]).await;
    let data = client.open(&[("streamtype", "data"), ("port", "1"), ("requestid", "9")]).await;
    assert!(client.until(|client| client.ended(data) && client.ended(error)).await);
    assert!(client.text(error).contains("port 1 to sandbox s: Connection refused"), "{}", client.text(error));
}

#[tokio::test(flavor = "multi_thread")]
async fn ports_are_forwarded_over_spdy() {
    let node = Node::new().await;
    let (head, stream) = upgrade(&node.forward(&[]), "portforward.k8s.io").await;
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    forward_through(Client::on(stream), parrot().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ports_are_forwarded_through_a_websocket_tunnel() {
    let node = Node::new().await;
    let socket = websocket(&node.forward(&[]), "SPDY/3.1+portforward.k8s.io").await;
    forward_through(Client::on(through(socket)), parrot().await).await;
}

/// A byte stream through a client's WebSocket.
fn through(socket: Socket) -> DuplexStream {
    let (inner, ours) = tokio::io::duplex(1 << 16);
    let ((mut read, mut write), (mut sink, mut stream)) = (tokio::io::split(ours), socket.split());
    tokio::spawn(async move {
        let mut chunk = vec![0; 1 << 14];
        while let Ok(count @ 1..) = read.read(&mut chunk).await {
            sink.send(Message::Binary(chunk[..count].to_vec().into())).await.unwrap();
        }
    });
    tokio::spawn(async move {
        while let Some(Ok(Message::Binary(bytes))) = stream.next().await {
            write.write_all(&bytes).await.unwrap();
        }
    });
    inner
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_is_thrown_away_ends_its_connection() {
    let node = Node::new().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port().to_string();
    let (_, stream) = upgrade(&node.forward(&[]), "portforward.k8s.io").await;
    let mut client = Client::on(stream);
    let error = client.open(&[("streamtype", "error"), ("port", &port), ("requestid", "0")]).await;
    let data = client.open(&[("streamtype", "data"), ("port", &port), ("requestid", "0")]).await;
    let (mut server, _) = listener.accept().await.unwrap();
    client.send(Frame::Reset { id: data, status: 5 }).await;
    assert_eq!(server.read(&mut [0; 8]).await.unwrap(), 0);
    assert!(client.until(|client| client.ended(error)).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_takes_nothing_holds_the_other_connections_for_a_bounded_time() {
    let node = Node::with(Settings { stuck: Duration::from_millis(500), ..Settings::default() }).await;
    let (deaf, parrot) = (TcpListener::bind("127.0.0.1:0").await.unwrap(), parrot().await);
    let (_, stream) = upgrade(&node.forward(&[]), "portforward.k8s.io").await;
    let mut client = Client::on(stream);
    let open = async |client: &mut Client<TcpStream>, port: u16, id: &str| {
        let port = port.to_string();
        let error = client.open(&[("streamtype", "error"), ("port", &port), ("requestid", id)]).await;
        (error, client.open(&[("streamtype", "data"), ("port", &port), ("requestid", id)]).await)
    };
    let (error, data) = open(&mut client, deaf.local_addr().unwrap().port(), "0").await;
    let (_deaf, _) = deaf.accept().await.unwrap();
    // More than the kernel and we keep, as a client sends that counts no windows.
    let (_, heard) = open(&mut client, parrot, "1").await;
    let goes_on = async {
        for _ in 0..512 {
            client.write(data, &vec![0; 32 << 10], false).await;
        }
        client.write(heard, b"still here", true).await;
        client.until(|client| client.ended(heard)).await
    };
    assert!(tokio::time::timeout(Duration::from_secs(30), goes_on).await.expect("the other is held"));
    assert_eq!(client.text(heard), "still here");
    assert!(client.got[&data].reset);
    assert!(client.until(|client| client.ended(error)).await);
    assert!(client.text(error).contains("took nothing"), "{}", client.text(error));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_slow_gets_everything() {
    let node = Node::with(Settings { stuck: Duration::from_millis(500), ..Settings::default() }).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port().to_string();
    let (_, stream) = upgrade(&node.forward(&[]), "portforward.k8s.io").await;
    let mut client = Client::on(stream);
    client.open(&[("streamtype", "error"), ("port", &port), ("requestid", "0")]).await;
    let data = client.open(&[("streamtype", "data"), ("port", &port), ("requestid", "0")]).await;
    let (mut server, _) = listener.accept().await.unwrap();
    let reading = tokio::spawn(async move {
        let (mut total, mut chunk) = (0, vec![0; 1 << 20]);
        while let Ok(count @ 1..) = server.read(&mut chunk).await {
            total += count;
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        total
    });
    for _ in 0..512 {
        client.write(data, &vec![0; 32 << 10], false).await;
    }
    client.write(data, b"", true).await;
    assert_eq!(reading.await.unwrap(), 16 << 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn ports_are_forwarded_over_the_old_websocket_protocol() {
    let node = Node::new().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut socket = websocket(&node.forward(&[port]), "v4.channel.k8s.io").await;
    let (mut server, _) = listener.accept().await.unwrap();
    socket.send(Message::Binary(b"\0ping".as_slice().into())).await.unwrap();
    let mut heard = [0; 4];
    server.read_exact(&mut heard).await.unwrap();
    assert_eq!(&heard, b"ping");
    server.write_all(b"pong").await.unwrap();
    drop(server);
    let mut channels = [Vec::new(), Vec::new()];
    while let Some(Ok(Message::Binary(bytes))) = socket.next().await {
        channels[usize::from(bytes[0])].extend_from_slice(&bytes[1..]);
    }
    assert_eq!(channels[0], [&port.to_le_bytes(), &b"pong"[..]].concat());
    assert_eq!(channels[1], port.to_le_bytes());
}
