//! A thousand clients attach and leave, politely or not, and nothing of them stays (CVE-2025-64329 was a
//! server that kept something of each). Alone in its file: it counts the descriptors of its process.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use std::time::{Duration, Instant};

use cri_server::monitor::{Monitor, Monitors};
use cri_server::stream::{AttachSession, Settings, Streams};
use futures_util::{SinkExt, StreamExt};
use tokio::runtime::Handle;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

#[path = "../src/stream/tests/fake.rs"]
mod fake;

const CLIENTS: usize = 1000;
const AT_ONCE: usize = 25;

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

fn tasks() -> usize {
    Handle::current().metrics().num_alive_tasks()
}

async fn attach(streams: Streams, monitor: Monitor, polite: bool) {
    let session = AttachSession {
        monitor,
        container_id: "c".into(),
        terminal: false,
        stdin: true,
        stdout: true,
        stderr: true,
    };
    let url = streams.attach(session).unwrap().replace("http://", "ws://");
    let mut request = url.into_client_request().unwrap();
    request.headers_mut().insert("sec-websocket-protocol", "v5.channel.k8s.io".parse().unwrap());
    let (mut socket, _) = tokio_tungstenite::connect_async(request).await.unwrap();
    socket.send(Message::Binary(b"\0echo".as_slice().into())).await.unwrap();
    while let Some(Ok(message)) = socket.next().await {
        if message.into_data() == b"\x01echo".as_slice() {
            break;
        }
    }
    if polite {
        socket.send(Message::Binary(b"\xff\0".as_slice().into())).await.unwrap();
        while let Some(Ok(_)) = socket.next().await {}
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_clients_leave_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    fake::listen(dir.path());
    let monitor = Monitors::new("/bin/true".as_ref()).unwrap().connect(dir.path()).unwrap();
    let streams = Streams::serve(Settings::default()).await.unwrap();
    attach(streams.clone(), monitor.clone(), true).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    let before = (descriptors(), tasks());
    for round in 0..CLIENTS / AT_ONCE {
        let clients = (0..AT_ONCE).map(|n| attach(streams.clone(), monitor.clone(), (round + n) % 2 == 0));
        futures_util::future::join_all(clients).await;
    }
    let begun = Instant::now();
    while (descriptors(), tasks()) > before {
        assert!(
            begun.elapsed() < Duration::from_secs(10),
            "{before:?} became {:?}",
            (descriptors(), tasks())
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(descriptors() <= before.0 && tasks() <= before.1);
}
