//! Metrics and network figures, as a kubelet without cAdvisor asks for them.

#![allow(clippy::large_futures, reason = "a test may have a large future")]

use std::collections::HashMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use berth_test::fixture::Fixture;
use berth_test::node::container_config;
use futures_util::StreamExt;
use proto::v1;

fn value<'a>(metrics: &'a [v1::Metric], name: &str) -> Option<&'a v1::Metric> {
    metrics.iter().find(|metric| metric.name == name)
}

#[track_caller]
fn number(metrics: &[v1::Metric], name: &str) -> u64 {
    let metric = value(metrics, name).unwrap_or_else(|| panic!("no {name}"));
    metric.value.map(|value| value.value).unwrap_or_else(|| panic!("{name} has no value"))
}

/// The interface has whole seconds only.
async fn once_it_has_used_a_second(fixture: &mut Fixture) -> Result<Vec<v1::PodSandboxMetrics>> {
    let until = Instant::now() + Duration::from_secs(60);
    loop {
        let request = v1::ListPodSandboxMetricsRequest {};
        let listed = fixture.client.runtime.list_pod_sandbox_metrics(request).await?.into_inner().pod_metrics;
        let main = &listed.first().context("a pod")?.container_metrics[0].metrics;
        if number(main, "container_cpu_usage_seconds_total") > 0 {
            return Ok(listed);
        }
        ensure!(Instant::now() < until, "a loop of a minute has used no second");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and a network namespace: cargo xtask node"]
async fn a_pods_metrics_are_described_labelled_and_true() -> Result<()> {
    let mut fixture = Fixture::new().await?;
    let script = "dd if=/dev/zero of=/file bs=1k count=300 2>/dev/null; \
        ping -c 2 $(ip route | sed -n 's/default via \\([0-9.]*\\).*/\\1/p') >/dev/null; \
        while :; do :; done & echo done; sleep 1000";
    let mut config = container_config("main", &fixture.image, &["sh", "-c", script]);
    config.linux.get_or_insert_default().resources = Some(v1::LinuxContainerResources {
        cpu_shares: 512,
        cpu_quota: 400_000,
        cpu_period: 100_000,
        memory_limit_in_bytes: 64 << 20,
        ..Default::default()
    });
    let (pod, container) = fixture.run_with("metered", config).await?;
    assert!(fixture.log_of("metered", 1).await.contains("done"));

    let described =
        fixture.client.runtime.list_metric_descriptors(v1::ListMetricDescriptorsRequest {}).await?;
    let labels: HashMap<String, usize> =
        described.into_inner().descriptors.into_iter().map(|d| (d.name, d.label_keys.len())).collect();
    let listed = once_it_has_used_a_second(&mut fixture).await?;
    let mut streamed = fixture
        .client
        .runtime
        .stream_pod_sandbox_metrics(v1::StreamPodSandboxMetricsRequest {})
        .await?
        .into_inner();
    let first = streamed.next().await.context("a message")??;
    assert_eq!(first.pod_sandbox_metrics.len(), 1);
    assert!(streamed.next().await.is_none());

    let own = listed.iter().find(|metrics| metrics.pod_sandbox_id == pod).context("the pod is listed")?;
    for metric in own.metrics.iter().chain(&own.container_metrics[0].metrics) {
        assert_eq!(labels.get(&metric.name), Some(&metric.label_values.len()), "{metric:?}");
        assert!(metric.timestamp > 0);
    }
    let received = value(&own.metrics, "container_network_receive_bytes_total").context("network")?;
    assert_eq!(received.label_values[2..], ["test", "metered", "POD", "eth0"]);
    assert!(number(&own.metrics, "container_network_receive_packets_total") > 0);
    assert!(number(&own.metrics, "container_network_transmit_bytes_total") > 0);

    assert_eq!(own.container_metrics[0].container_id, container);
    let main = &own.container_metrics[0].metrics;
    let cpu = value(main, "container_cpu_usage_seconds_total").context("cpu")?;
    assert_eq!(cpu.metric_type(), v1::MetricType::Counter);
    assert_eq!(cpu.label_values[0], container);
    assert_eq!(cpu.label_values[2..], ["test", "metered", "main", "total"]);
    assert!((1..60).contains(&number(main, "container_cpu_usage_seconds_total")));
    assert!(number(main, "container_cpu_cfs_periods_total") > 0, "it has a quota");
    assert!(number(main, "container_memory_usage_bytes") > 4096);
    assert!(number(main, "container_fs_usage_bytes") >= 300 << 10);
    assert_eq!(number(main, "container_spec_memory_limit_bytes"), 64 << 20);
    assert_eq!(number(main, "container_spec_cpu_quota"), 400_000);
    assert_eq!(number(main, "container_oom_events_total"), 0);
    assert_eq!(number(main, "container_processes"), 2, "the loop and sleep, which the shell became");
    assert!(number(main, "container_file_descriptors") >= 3);
    let started = number(main, "container_start_time_seconds");
    let seen = number(main, "container_last_seen");
    assert!((started..started + 600).contains(&seen), "{started} {seen}");
    fixture.remove(&pod).await?;
    let listed = fixture.client.runtime.list_pod_sandbox_metrics(v1::ListPodSandboxMetricsRequest {}).await?;
    assert_eq!(listed.into_inner().pod_metrics, []);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and a network namespace: cargo xtask node"]
async fn a_pods_stats_tell_its_network() -> Result<()> {
    let mut fixture = Fixture::new().await?;
    let script = "ping -c 1 $(ip route | sed -n 's/default via \\([0-9.]*\\).*/\\1/p') >/dev/null; echo done; sleep 1000";
    let (pod, _) = fixture.run("talker", &["sh", "-c", script]).await?;
    assert!(fixture.log_of("talker", 1).await.contains("done"));
    let request = v1::PodSandboxStatsRequest { pod_sandbox_id: pod.clone() };
    let stats =
        fixture.client.runtime.pod_sandbox_stats(request).await?.into_inner().stats.context("stats")?;
    let network = stats.linux.context("linux")?.network.context("network")?;
    let eth0 = network.default_interface.context("a default interface")?;
    assert_eq!(eth0.name, "eth0");
    assert!(eth0.rx_bytes.is_some_and(|bytes| bytes.value > 0), "{eth0:?}");
    assert!(eth0.tx_bytes.is_some_and(|bytes| bytes.value > 0), "{eth0:?}");
    fixture.remove(&pod).await
}
