//! What a collector of traces hears, and what the log says of a request.

#![allow(clippy::large_futures, reason = "a test may have a large future")]

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use berth_test::fixture::Fixture;
use berth_test::node::Options;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::trace::v1::{Span, status::StatusCode};
use proto::v1;
use tokio::net::TcpListener;
use tonic::{Request, Response, Status};

/// The batches are sent every five seconds.
const ARRIVES: Duration = Duration::from_secs(30);

#[derive(Debug, Clone, Default)]
struct Collector(Arc<Mutex<Vec<Span>>>);

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let scopes = request.into_inner().resource_spans.into_iter().flat_map(|it| it.scope_spans);
        self.0.lock().expect("no panics").extend(scopes.flat_map(|it| it.spans));
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

impl Collector {
    async fn serve() -> Result<(Collector, String)> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let (collector, address) = (Collector::default(), listener.local_addr()?.to_string());
        let server =
            tonic::transport::Server::builder().add_service(TraceServiceServer::new(collector.clone()));
        let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
        tokio::spawn(server.serve_with_incoming(incoming));
        Ok((collector, address))
    }

    /// The spans, once all of these names are among them.
    async fn once_there_are(&self, names: &[&str]) -> Vec<Span> {
        let until = Instant::now() + ARRIVES;
        loop {
            let spans = self.0.lock().expect("no panics").clone();
            let missing: Vec<_> =
                names.iter().filter(|name| spans.iter().all(|span| span.name != **name)).collect();
            if missing.is_empty() {
                return spans;
            }
            assert!(Instant::now() < until, "{missing:?} did not come, only {:?}", words(&spans));
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

fn words(spans: &[Span]) -> Vec<&str> {
    spans.iter().map(|span| span.name.as_str()).collect()
}

#[track_caller]
fn named<'a>(spans: &'a [Span], name: &str) -> &'a Span {
    spans.iter().find(|span| span.name == name).unwrap_or_else(|| panic!("no {name}"))
}

fn settings(endpoint: &str, sampling_per_million: u32) -> Options {
    let config =
        format!("[tracing]\nendpoint = \"{endpoint}\"\nsampling_per_million = {sampling_per_million}\n");
    Options { config, ..Options::default() }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and a network namespace: cargo xtask node"]
async fn every_request_and_step_is_a_span() -> Result<()> {
    let (collector, endpoint) = Collector::serve().await?;
    let mut fixture = Fixture::with(settings(&endpoint, 1_000_000)).await?;
    let (pod, container) = fixture.run("traced", &["sleep", "1000"]).await?;
    fixture.client.stop(&container, 0).await?;
    let unknown = v1::ContainerStatusRequest { container_id: "0".repeat(64), verbose: false };
    fixture.client.runtime.container_status(unknown).await.expect_err("there is no such container");
    fixture.client.stop_pod(&pod).await?;
    fixture.client.remove_pod(&pod).await?;

    let steps = [
        ("PullImage", &["image.resolve", "image.layer", "image.commit"][..]),
        ("RunPodSandbox", &["sandbox.monitor", "sandbox.namespaces", "sandbox.network"]),
        ("CreateContainer", &["container.plan", "container.rootfs", "container.create"]),
        ("StartContainer", &["container.start"]),
    ];
    let all: Vec<&str> =
        steps.iter().flat_map(|(call, steps)| [*call].into_iter().chain(steps.iter().copied())).collect();
    let spans =
        collector.once_there_are(&[&all[..], &["ContainerStatus", "RemovePodSandbox"]].concat()).await;
    for (call, steps) in steps {
        let call = named(&spans, call);
        for step in steps {
            let step = named(&spans, step);
            assert_eq!((&step.trace_id, &step.parent_span_id), (&call.trace_id, &call.span_id), "{step:?}");
            assert!(step.start_time_unix_nano >= call.start_time_unix_nano, "{step:?} of {call:?}");
        }
    }
    let add = named(&spans, "cni.add");
    assert_eq!(add.parent_span_id, named(&spans, "sandbox.network").span_id, "a plugin runs within its step");
    let refused = named(&spans, "ContainerStatus").status.as_ref().context("a status")?;
    assert_eq!(refused.code(), StatusCode::Error);
    assert!(refused.message.contains("container"), "{refused:?}");
    Ok(())
}

/// The kubelet's trace goes on in the node, and is what the log's lines can be found by.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and a network namespace: cargo xtask node"]
async fn a_clients_trace_is_gone_on_with_and_others_are_left_out() -> Result<()> {
    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
    let (collector, endpoint) = Collector::serve().await?;
    let mut fixture = Fixture::with(settings(&endpoint, 0)).await?;
    let status = v1::PodSandboxStatusRequest { pod_sandbox_id: "nothing".into(), verbose: false };
    fixture.client.runtime.pod_sandbox_status(status).await.expect_err("nothing");
    let mut request = Request::new(v1::RunPodSandboxRequest::default());
    let parent = format!("00-{TRACE}-00f067aa0ba902b7-01");
    request.metadata_mut().insert("traceparent", parent.parse()?);
    fixture.client.runtime.run_pod_sandbox(request).await.expect_err("a pod without a config");

    let spans = collector.once_there_are(&["RunPodSandbox"]).await;
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let call = named(&spans, "RunPodSandbox");
    assert_eq!(
        (hex(&call.trace_id).as_str(), hex(&call.parent_span_id).as_str()),
        (TRACE, "00f067aa0ba902b7")
    );
    assert_eq!(words(&spans), ["RunPodSandbox"], "the others belong to no trace");
    let log = fixture.node.log();
    assert!(log.lines().any(|line| line.contains("RunPodSandbox") && line.contains(TRACE)), "{log}");
    Ok(())
}

/// JSON for those who collect logs by machine, in place of text. A collector that is away holds up nothing.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and a network namespace: cargo xtask node"]
async fn lines_may_be_json_and_a_collector_may_be_away() -> Result<()> {
    let mut fixture = Fixture::with(settings("127.0.0.1:9", 1_000_000)).await?;
    fixture.node.kill_daemon();
    let drop_ins = fixture.node.config_file().with_extension("toml.d");
    std::fs::create_dir_all(&drop_ins)?;
    std::fs::write(drop_ins.join("50-log.toml"), "log_format = \"json\"\n")?;
    let before = fixture.node.log().len();
    fixture.node.start_daemon().await?;
    fixture.reconnect().await?;
    let (pod, _) = fixture.run("untraced", &["sleep", "1000"]).await?;
    fixture.client.runtime.run_pod_sandbox(v1::RunPodSandboxRequest::default()).await.expect_err("no config");
    fixture.client.stop_pod(&pod).await?;

    let log = fixture.node.log();
    let lines: Vec<serde_json::Value> =
        log[before..].lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    let refused = lines.iter().find(|line| line["call"] == "RunPodSandbox").context("the refusal")?;
    assert_eq!(refused["span"]["call"], "RunPodSandbox", "{refused}");
    assert_eq!(refused["span"]["id"].as_str().map(str::len), Some(16), "{refused}");
    Ok(())
}
