//! Exec and attach over WebSocket, as newer clients do it: v4 and v5 channels.

#![allow(clippy::large_futures, reason = "a test may have a large future")]

use anyhow::{Context, Result};
use berth_test::fixture::Fixture;
use futures_util::{SinkExt, StreamExt};
use proto::v1;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const ERROR: u8 = 3;
/// v5: the channel in the next byte is closed.
const CLOSE: u8 = 255;

/// What came over the channels until the connection ended.
#[derive(Debug, Default)]
struct Heard {
    stdout: Vec<u8>,
    stderr: Vec<u8>,
    error: Vec<u8>,
}

/// Speaks to a streaming URL: sends `input` on stdin, ends it if the protocol can, and listens to the end.
async fn talk(url: &str, protocol: &str, input: Option<&[u8]>) -> Result<Heard> {
    let mut request = url.replacen("http://", "ws://", 1).into_client_request()?;
    request.headers_mut().insert("sec-websocket-protocol", protocol.parse()?);
    let (mut socket, response) = tokio_tungstenite::connect_async(request).await?;
    let chosen = response.headers().get("sec-websocket-protocol").context("a protocol is chosen")?;
    assert_eq!(chosen, protocol);
    if let Some(input) = input {
        let framed: Vec<u8> = [&[STDIN], input].concat();
        socket.send(Message::Binary(framed.into())).await?;
        if protocol.starts_with("v5") {
            socket.send(Message::Binary(vec![CLOSE, STDIN].into())).await?;
        }
    }
    let mut heard = Heard::default();
    while let Some(Ok(message)) = socket.next().await {
        let Message::Binary(bytes) = message else { continue };
        let Some((channel, data)) = bytes.split_first() else { continue };
        match *channel {
            STDOUT => heard.stdout.extend(data),
            STDERR => heard.stderr.extend(data),
            ERROR => heard.error.extend(data),
            _ => {}
        }
    }
    Ok(heard)
}

async fn exec_url(fixture: &mut Fixture, container: &str, command: &[&str], stdin: bool) -> Result<String> {
    let request = v1::ExecRequest {
        container_id: container.to_owned(),
        cmd: command.iter().map(|word| (*word).to_owned()).collect(),
        tty: false,
        stdin,
        stdout: true,
        stderr: true,
    };
    Ok(fixture.client.runtime.exec(request).await?.into_inner().url)
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and a network namespace: cargo xtask node"]
async fn exec_over_websocket_tells_output_and_exit_code() -> Result<()> {
    let mut fixture = Fixture::new().await?;
    let (pod, container) = fixture.run("ws", &["sleep", "1000"]).await?;
    for protocol in ["v4.channel.k8s.io", "v5.channel.k8s.io"] {
        let command = ["sh", "-c", "echo out; echo err >&2; exit 4"];
        let url = exec_url(&mut fixture, &container, &command, false).await?;
        let heard = talk(&url, protocol, None).await?;
        assert_eq!(
            (heard.stdout.as_slice(), heard.stderr.as_slice()),
            (&b"out\n"[..], &b"err\n"[..]),
            "{protocol}"
        );
        let status: serde_json::Value = serde_json::from_slice(&heard.error)?;
        assert_eq!(status["reason"], "NonZeroExitCode", "{status}");
        assert_eq!(status["details"]["causes"][0]["message"], "4", "{status}");
        let again = talk(&url, protocol, None).await;
        assert!(again.is_err(), "a URL works once");
    }
    fixture.remove(&pod).await
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and a network namespace: cargo xtask node"]
async fn the_end_of_stdin_reaches_the_process() -> Result<()> {
    let mut fixture = Fixture::new().await?;
    let (pod, container) = fixture.run("stdin", &["sleep", "1000"]).await?;
    let url = exec_url(&mut fixture, &container, &["cat"], true).await?;
    let heard = talk(&url, "v5.channel.k8s.io", Some(b"through and through")).await?;
    assert_eq!(heard.stdout, b"through and through");
    fixture.remove(&pod).await
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and a network namespace: cargo xtask node"]
async fn many_execs_leave_no_descriptor_behind() -> Result<()> {
    let mut fixture = Fixture::new().await?;
    let (pod, container) = fixture.run("many", &["sleep", "1000"]).await?;
    let url = exec_url(&mut fixture, &container, &["true"], false).await?;
    talk(&url, "v5.channel.k8s.io", None).await?;
    let before = fixture.node.inventory().descriptors;
    for _ in 0..100 {
        let url = exec_url(&mut fixture, &container, &["true"], false).await?;
        talk(&url, "v5.channel.k8s.io", None).await?;
    }
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    let after = fixture.node.inventory().descriptors;
    assert!(after <= before + 4, "descriptors: {before} before, {after} after");
    fixture.remove(&pod).await
}
