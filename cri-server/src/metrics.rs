//! Counts and times of calls, for Prometheus.

use std::sync::Arc;
use std::time::Duration;

use prometheus::{HistogramOpts, HistogramVec, IntCounterVec, Opts, Registry, TextEncoder};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tonic::Code;

use crate::node::Node;

/// From a list (0.1 ms) to a pull (minutes), in steps of four.
const BUCKETS: [f64; 12] = [0.000_25, 0.001, 0.004, 0.016, 0.064, 0.256, 1.0, 4.0, 16.0, 64.0, 256.0, 1024.0];

/// A scraper that takes longer is gone.
const SCRAPE_TIMEOUT: Duration = Duration::from_secs(10);

/// All that is counted.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    calls: IntCounterVec,
    errors: IntCounterVec,
    seconds: HistogramVec,
}

impl Default for Metrics {
    fn default() -> Self {
        let registry = Registry::new();
        let calls = Opts::new("berth_operations_total", "CRI calls answered.");
        let errors = Opts::new("berth_operations_errors_total", "CRI calls refused, by gRPC code.");
        let seconds =
            HistogramOpts::new("berth_operations_seconds", "Time a CRI call took.").buckets(BUCKETS.to_vec());
        let calls = IntCounterVec::new(calls, &["operation"]).expect("the names are proper");
        let errors = IntCounterVec::new(errors, &["operation", "code"]).expect("the names are proper");
        let seconds = HistogramVec::new(seconds, &["operation"]).expect("the names are proper");
        registry.register(Box::new(calls.clone())).expect("the names differ");
        registry.register(Box::new(errors.clone())).expect("the names differ");
        registry.register(Box::new(seconds.clone())).expect("the names differ");
        Self { registry, calls, errors, seconds }
    }
}

impl Metrics {
    pub fn called(&self, operation: &'static str, took: Duration, code: Option<Code>) {
        self.calls.with_label_values(&[operation]).inc();
        self.seconds.with_label_values(&[operation]).observe(took.as_secs_f64());
        if let Some(code) = code {
            self.errors.with_label_values(&[operation, &format!("{code:?}")]).inc();
        }
    }

    /// In the text format of Prometheus.
    pub fn text(&self) -> String {
        TextEncoder::new().encode_to_string(&self.registry.gather()).unwrap_or_default()
    }
}

/// Answers every request with the numbers of now; there is nothing else here to ask for.
pub async fn serve(node: Arc<Node>, listener: TcpListener) {
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        let node = node.clone();
        tokio::spawn(async move { tell(&node, stream).await });
    }
}

/// Speaks as much HTTP as a scraper needs. Who is slow is cut off.
async fn tell(node: &Node, mut stream: TcpStream) -> std::io::Result<()> {
    let exchange = async {
        let mut request = [0; 4096];
        let _ = stream.read(&mut request).await?;
        let text = node.metrics.text();
        let head = "HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4\r\nConnection: close\r\n";
        let answer = format!("{head}Content-Length: {}\r\n\r\n{text}", text.len());
        stream.write_all(answer.as_bytes()).await?;
        stream.shutdown().await
    };
    tokio::time::timeout(SCRAPE_TIMEOUT, exchange).await?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_and_errors_are_counted_by_name() {
        let metrics = Metrics::default();
        metrics.called("StartContainer", Duration::from_millis(3), None);
        metrics.called("StartContainer", Duration::from_millis(3), Some(Code::NotFound));
        let text = metrics.text();
        assert!(text.contains("berth_operations_total{operation=\"StartContainer\"} 2"), "{text}");
        assert!(
            text.contains("berth_operations_errors_total{code=\"NotFound\",operation=\"StartContainer\"} 1")
        );
    }
}
