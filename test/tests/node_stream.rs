//! Exec and attach over WebSocket, as newer clients do it: v4 and v5 channels.

#![allow(clippy::large_futures, reason = "a test may have a large future")]

use anyhow::Result;
use berth_test::channels::talk;
use berth_test::fixture::Fixture;

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and a network namespace: cargo xtask node"]
async fn exec_over_websocket_tells_output_and_exit_code() -> Result<()> {
    let mut fixture = Fixture::new().await?;
    let (pod, container) = fixture.run("ws", &["sleep", "1000"]).await?;
    for protocol in ["v4.channel.k8s.io", "v5.channel.k8s.io"] {
        let command = ["sh", "-c", "echo out; echo err >&2; exit 4"];
        let url = fixture.client.exec_url(&container, &command, false).await?;
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
    let url = fixture.client.exec_url(&container, &["cat"], true).await?;
    let heard = talk(&url, "v5.channel.k8s.io", Some(b"through and through")).await?;
    assert_eq!(heard.stdout, b"through and through");
    fixture.remove(&pod).await
}
