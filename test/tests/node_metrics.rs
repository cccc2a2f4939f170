//! The listeners of Prometheus metrics: over TCP on loopback, over a unix socket, and not for other machines.

#![allow(clippy::large_futures, reason = "a test may have a large future")]

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use berth_test::fixture::Fixture;
use berth_test::node::Options;
use berth_test::programs::Programs;

/// The head of the answer, and its body.
fn get(mut stream: impl Read + Write, path: &str) -> Result<(String, String)> {
    write!(stream, "GET {path} HTTP/1.1\r\nHost: node\r\nAccept: */*\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("no end of the head")?;
    let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: ")).context("no length")?;
    ensure!(length.parse::<usize>()? == body.len(), "{length} bytes were promised, {} came", body.len());
    Ok((head.to_owned(), body.to_owned()))
}

/// The value of a line such as `NAME{label="x"} 3`.
fn value(text: &str, line: &str) -> Option<f64> {
    text.lines().find_map(|one| one.strip_prefix(line)?.trim().parse().ok())
}

fn free_port() -> Result<u16> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// How many RunPodSandbox have been answered.
const PODS_RUN: &str = "berth_operations_total{operation=\"RunPodSandbox\"}";

async fn node(listen: &str) -> Result<Fixture> {
    let config = format!("[metrics]\nlisten = \"{listen}\"\n");
    Fixture::with(Options { config, ..Options::default() }).await
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and a network namespace: cargo xtask node"]
async fn metrics_are_read_over_tcp_and_count_what_was_done() -> Result<()> {
    let address = format!("127.0.0.1:{}", free_port()?);
    let mut fixture = node(&address).await?;
    let (_, before) = get(TcpStream::connect(&address)?, "/metrics")?;
    let (pod, _) = fixture.run("counted", &["sleep", "1000"]).await?;
    let (head, after) = get(TcpStream::connect(&address)?, "/metrics")?;
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n") && head.contains("version=0.0.4"), "{head}");
    let count = |text| value(text, PODS_RUN).unwrap_or(0.0);
    assert_eq!((count(&before), count(&after)), (0.0, 1.0), "{after}");
    let (head, _) = get(TcpStream::connect(&address)?, "/")?;
    assert!(head.starts_with("HTTP/1.1 404 "), "{head}");
    // Half a request and silence keep no other scraper waiting.
    let mut silent = TcpStream::connect(&address)?;
    silent.write_all(b"GET /met")?;
    assert!(get(TcpStream::connect(&address)?, "/metrics")?.1.contains("# TYPE"));
    fixture.remove(&pod).await
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and a network namespace: cargo xtask node"]
async fn metrics_are_read_over_a_unix_socket_by_root_alone() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("metrics.sock");
    let mut fixture = node(&format!("unix://{}", path.display())).await?;
    let mode = std::fs::metadata(&path)?.permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "{mode:o}");
    assert!(get(UnixStream::connect(&path)?, "/metrics")?.1.contains("# TYPE"));
    // The next daemon takes the place of the socket that the last one left.
    fixture.restart_daemon().await?;
    assert!(get(UnixStream::connect(&path)?, "/metrics")?.1.contains("# TYPE"));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and a network namespace: cargo xtask node"]
async fn a_daemon_does_not_serve_metrics_to_other_machines_by_mistake() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let file = dir.path().join("berth.toml");
    let port = free_port()?;
    // With places of its own, should it begin to serve after all.
    let at = dir.path().display();
    let places = format!("root = \"{at}/root\"\nrun = \"{at}/run\"\n");
    std::fs::write(&file, format!("{places}[metrics]\nlisten = \"0.0.0.0:{port}\"\n"))?;
    let output = Command::new(Programs::built().berthd).arg("--config").arg(&file).output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("metrics.listen"), "{said}");
    assert!(said.contains("allow_remote"), "{said}");

    let config = format!("[metrics]\nlisten = \"0.0.0.0:{port}\"\nallow_remote = true\n");
    let _fixture = Fixture::with(Options { config, ..Options::default() }).await?;
    assert!(get(TcpStream::connect(("127.0.0.1", port))?, "/metrics")?.1.contains("# TYPE"));
    Ok(())
}
