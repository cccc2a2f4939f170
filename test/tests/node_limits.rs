//! Limits that change while containers run: what the kernel then says, and what status says.

#![allow(clippy::large_futures, reason = "a test may have a large future")]

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use berth_test::fixture::Fixture;
use berth_test::node::container_config;
use proto::v1;
use tonic::Code;

const MIB: i64 = 1 << 20;

/// A file of the container's cgroup, by its name in either version.
fn limit(fixture: &Fixture, container: &str, v1: (&str, &str), v2: &str) -> Result<String> {
    let cgroup = format!("{}/berth-{container}", fixture.node.cgroup());
    let root = Path::new("/sys/fs/cgroup");
    let path: PathBuf = match root.join("cgroup.controllers").exists() {
        true => root.join(cgroup.trim_start_matches('/')).join(v2),
        false => root.join(v1.0).join(cgroup.trim_start_matches('/')).join(v1.1),
    };
    let text = std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    Ok(text.trim().to_owned())
}

async fn update(
    fixture: &mut Fixture,
    container: &str,
    linux: v1::LinuxContainerResources,
) -> Result<(), tonic::Status> {
    let request = v1::UpdateContainerResourcesRequest {
        container_id: container.to_owned(),
        linux: Some(linux),
        ..Default::default()
    };
    fixture.client.runtime.update_container_resources(request).await.map(drop)
}

async fn resources(fixture: &mut Fixture, container: &str) -> Result<v1::LinuxContainerResources> {
    let status = fixture.client.container(container).await?;
    status.resources.and_then(|resources| resources.linux).context("resources are told")
}

fn limited(fixture: &Fixture) -> v1::ContainerConfig {
    let mut config = container_config("main", &fixture.image, &["sleep", "1000"]);
    config.linux.get_or_insert_default().resources = Some(v1::LinuxContainerResources {
        cpu_shares: 512,
        cpu_quota: 50_000,
        cpu_period: 100_000,
        memory_limit_in_bytes: 64 * MIB,
        memory_swap_limit_in_bytes: 64 * MIB,
        oom_score_adj: -997,
        hugepage_limits: vec![v1::HugepageLimit { page_size: "2MB".into(), limit: 0 }],
        ..Default::default()
    });
    config
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and a network namespace: cargo xtask node"]
async fn changed_limits_are_the_kernels_and_the_statuss_and_outlive_the_daemon() -> Result<()> {
    let mut fixture = Fixture::new().await?;
    let config = limited(&fixture);
    let (pod, container) = fixture.run_with("limits", config).await?;
    let memory =
        |fixture: &Fixture| limit(fixture, &container, ("memory", "memory.limit_in_bytes"), "memory.max");
    assert_eq!(memory(&fixture)?, (64 * MIB).to_string());

    // What the CPU manager of the kubelet sends: one field, the rest stays.
    let one = v1::LinuxContainerResources { cpuset_cpus: "0".into(), ..Default::default() };
    update(&mut fixture, &container, one).await?;
    assert_eq!(limit(&fixture, &container, ("cpuset", "cpuset.cpus"), "cpuset.cpus")?, "0");
    assert_eq!(memory(&fixture)?, (64 * MIB).to_string());
    let now = resources(&mut fixture, &container).await?;
    assert_eq!((now.cpuset_cpus.as_str(), now.cpu_quota, now.cpu_shares), ("0", 50_000, 512));

    // An in-place resize: up, then down.
    for mib in [128, 32] {
        let resize = v1::LinuxContainerResources {
            cpu_quota: 20_000,
            memory_limit_in_bytes: mib * MIB,
            ..Default::default()
        };
        update(&mut fixture, &container, resize).await?;
        assert_eq!(memory(&fixture)?, (mib * MIB).to_string());
        let now = resources(&mut fixture, &container).await?;
        assert_eq!(now.memory_limit_in_bytes, mib * MIB);
        assert_eq!(now.memory_swap_limit_in_bytes, mib * MIB, "as much swap as before: none");
        assert_eq!((now.cpu_quota, now.oom_score_adj), (20_000, -997));
    }

    fixture.restart_daemon().await?;
    assert_eq!(resources(&mut fixture, &container).await?.memory_limit_in_bytes, 32 * MIB);
    fixture.remove(&pod).await
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and a network namespace: cargo xtask node"]
async fn limits_that_cannot_be_are_refused_and_change_nothing() -> Result<()> {
    let mut fixture = Fixture::new().await?;
    // The shell keeps what it holds: it stays, since the sleep is not its last command.
    let script = "s=$(head -c 20000000 /dev/zero | tr '\\0' x); echo held; sleep 1000; echo ${#s}";
    let mut config = limited(&fixture);
    config.command = ["sh", "-c", script].map(str::to_owned).to_vec();
    config.linux.get_or_insert_default().resources.get_or_insert_default().memory_limit_in_bytes = 256 * MIB;
    config.linux.get_or_insert_default().resources.get_or_insert_default().memory_swap_limit_in_bytes =
        256 * MIB;
    let (pod, container) = fixture.run_with("refused", config).await?;
    assert!(fixture.log_of("refused", 1).await.contains("held"));
    let before = resources(&mut fixture, &container).await?;

    let less = v1::LinuxContainerResources { memory_limit_in_bytes: 8 * MIB, ..Default::default() };
    let refused = update(&mut fixture, &container, less).await.expect_err("less than is used");
    assert!(refused.message().contains("memory"), "{refused:?}");
    let odd = v1::LinuxContainerResources { cpu_quota: 7, ..Default::default() };
    let refused = update(&mut fixture, &container, odd).await.expect_err("no such quota");
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused:?}");
    assert!(refused.message().contains("resources.cpu_quota"), "{refused:?}");
    // Its map of wishes without a field: none is known, and none is taken for nothing.
    let request = v1::UpdateContainerResourcesRequest {
        container_id: container.clone(),
        linux: Some(v1::LinuxContainerResources { cpu_shares: 100, ..Default::default() }),
        annotations: [("example.com/cpus".to_owned(), "exclusive".to_owned())].into(),
        ..Default::default()
    };
    let refused = fixture.client.runtime.update_container_resources(request).await.expect_err("annotations");
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused:?}");
    assert!(refused.message().contains("annotations: example.com/cpus"), "{refused:?}");
    let running = fixture.client.container(&container).await?;
    assert_eq!(running.state(), v1::ContainerState::ContainerRunning, "nobody was killed for it");
    assert_eq!(resources(&mut fixture, &container).await?, before);

    fixture.client.stop(&container, 0).await?;
    let more = v1::LinuxContainerResources { cpu_shares: 100, ..Default::default() };
    let refused = update(&mut fixture, &container, more.clone()).await.expect_err("it has exited");
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused:?}");
    fixture.remove(&pod).await?;
    let refused = update(&mut fixture, &container, more).await.expect_err("it is gone");
    assert_eq!(refused.code(), Code::NotFound, "{refused:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and a network namespace: cargo xtask node"]
async fn a_created_container_and_a_pod_take_new_limits() -> Result<()> {
    let mut fixture = Fixture::new().await?;
    let pod_config = fixture.pod_config("created");
    let pod = fixture.client.run_pod(&pod_config).await?;
    let config = limited(&fixture);
    let container = fixture.client.create(&pod, &config, &pod_config).await?;
    let resize = v1::LinuxContainerResources { memory_limit_in_bytes: 96 * MIB, ..Default::default() };
    update(&mut fixture, &container, resize.clone()).await?;
    let kernel = limit(&fixture, &container, ("memory", "memory.limit_in_bytes"), "memory.max")?;
    assert_eq!(kernel, (96 * MIB).to_string());
    fixture.client.start(&container).await?;

    let request = v1::UpdatePodSandboxResourcesRequest {
        pod_sandbox_id: pod.clone(),
        overhead: None,
        resources: Some(resize),
    };
    fixture.client.runtime.update_pod_sandbox_resources(request.clone()).await?;
    fixture.restart_daemon().await?;
    let verbose = v1::PodSandboxStatusRequest { pod_sandbox_id: pod.clone(), verbose: true };
    let status = fixture.client.runtime.pod_sandbox_status(verbose).await?.into_inner();
    let info: serde_json::Value = serde_json::from_str(&status.info["info"])?;
    assert_eq!(info["resources"]["resources"]["memoryLimitBytes"], 96 * MIB);
    fixture.remove(&pod).await?;
    let refused = fixture.client.runtime.update_pod_sandbox_resources(request).await.expect_err("it is gone");
    assert_eq!(refused.code(), Code::NotFound, "{refused:?}");
    Ok(())
}
