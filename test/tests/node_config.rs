//! What a kubelet's container asks for is what the container gets.

#![allow(clippy::large_futures, reason = "a test may have a large future")]

use anyhow::Result;
use berth_test::fixture::Fixture;
use berth_test::node::container_config;
use proto::v1;
use tonic::Code;

/// Makes a good request a bad one.
type Spoil = fn(&mut v1::ContainerConfig);

/// A container as the kubelet asks for it: Guaranteed, RuntimeDefault, limits, and pages it has no controller for.
fn kubelets_container(image: &str, command: &[&str]) -> v1::ContainerConfig {
    let mut config = container_config("main", image, command);
    config.envs = vec![
        v1::KeyValue { key: "GREETING".into(), value: b"hello there".to_vec() },
        v1::KeyValue { key: "EMPTY".into(), value: Vec::new() },
    ];
    config.working_dir = "/tmp".into();
    let hugepages = ["2MB", "1GB"].map(|size| v1::HugepageLimit { page_size: size.into(), limit: 0 });
    config.linux = Some(v1::LinuxContainerConfig {
        resources: Some(v1::LinuxContainerResources {
            cpu_period: 100_000,
            cpu_quota: 50_000,
            cpu_shares: 512,
            memory_limit_in_bytes: 64 << 20,
            memory_swap_limit_in_bytes: 64 << 20,
            oom_score_adj: -997,
            hugepage_limits: hugepages.to_vec(),
            ..Default::default()
        }),
        security_context: Some(v1::LinuxContainerSecurityContext {
            seccomp: Some(v1::SecurityProfile::default()),
            run_as_user: Some(v1::Int64Value { value: 1234 }),
            run_as_group: Some(v1::Int64Value { value: 5678 }),
            supplemental_groups: vec![4321],
            no_new_privs: true,
            masked_paths: vec!["/proc/kcore".into(), "/proc/scsi".into()],
            readonly_paths: vec!["/proc/sys".into()],
            ..Default::default()
        }),
    });
    config
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and a network namespace: cargo xtask node"]
async fn a_kubelets_container_gets_what_it_asks_for() -> Result<()> {
    let mut fixture = Fixture::new().await?;
    let config = kubelets_container(&fixture.image, &["sleep", "1000"]);
    let (pod, container) = fixture.run_with("guaranteed", config).await?;
    let mut client = fixture.client.clone();
    let mut told = async |command: &[&str]| -> Result<String> {
        let answer = client.exec(&container, command, 10).await?;
        Ok(String::from_utf8_lossy(&answer.stdout).trim().to_owned())
    };
    assert_eq!(told(&["sh", "-c", "echo $GREETING-$EMPTY-$HOSTNAME"]).await?, "hello there--guaranteed");
    assert_eq!(told(&["pwd"]).await?, "/tmp");
    assert_eq!(told(&["id", "-u"]).await?, "1234");
    assert_eq!(told(&["id", "-g"]).await?, "5678");
    assert!(told(&["id", "-G"]).await?.contains("4321"));
    let status = told(&["cat", "/proc/self/status"]).await?;
    for line in ["NoNewPrivs:\t1", "Seccomp:\t2", "CapInh:\t0000000000000000", "CapEff:\t0000000000000000"] {
        assert!(status.contains(line), "{line} is not in\n{status}");
    }
    assert_eq!(told(&["sh", "-c", "ls /proc/scsi | wc -l"]).await?, "0");
    assert!(told(&["cat", "/proc/self/mountinfo"]).await?.contains(" /proc/sys ro"));
    let descriptors = told(&["ls", "/proc/1/fd"]).await?;
    assert!(descriptors.split_whitespace().all(|fd| ["0", "1", "2"].contains(&fd)), "{descriptors}");
    fixture.remove(&pod).await
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and a network namespace: cargo xtask node"]
async fn an_unprivileged_process_may_open_its_stdout_again() -> Result<()> {
    let mut fixture = Fixture::new().await?;
    let script = "echo again > /dev/stdout; echo wrong > /dev/stderr; exec sleep 1000";
    let config = kubelets_container(&fixture.image, &["sh", "-c", script]);
    let (pod, container) = fixture.run_with("reopen", config).await?;
    fixture.client.exec(&container, &["true"], 10).await?;
    let log = fixture.log_of("reopen", 2).await;
    assert!(log.contains(" stdout F again"), "log:\n{log}");
    assert!(log.contains(" stderr F wrong"), "log:\n{log}");
    fixture.remove(&pod).await
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and a network namespace: cargo xtask node"]
async fn what_contradicts_itself_is_invalid() -> Result<()> {
    let mut fixture = Fixture::new().await?;
    let pod_config = fixture.pod_config("invalid");
    let pod = fixture.client.run_pod(&pod_config).await?;
    let spoilt: [(&str, Spoil); 4] = [
        ("group without user", |config| {
            let security = config.linux.as_mut().and_then(|linux| linux.security_context.as_mut());
            security.expect("a security context").run_as_user = None;
        }),
        ("relative mount", |config| {
            config.mounts = vec![v1::Mount {
                container_path: "/data".into(),
                host_path: "not/absolute".into(),
                ..Default::default()
            }];
        }),
        ("environment name", |config| {
            config.envs = vec![v1::KeyValue { key: "A=B".into(), value: b"c".to_vec() }];
        }),
        ("negative shares", |config| {
            let resources = config.linux.as_mut().and_then(|linux| linux.resources.as_mut());
            resources.expect("resources").memory_limit_in_bytes = -5;
        }),
    ];
    for (what, spoil) in spoilt {
        let mut config = kubelets_container(&fixture.image, &["true"]);
        spoil(&mut config);
        let refused = fixture.client.create(&pod, &config, &pod_config).await;
        let refused = refused.expect_err(what);
        assert_eq!(refused.code(), Code::InvalidArgument, "{what}: {refused:?}");
    }
    fixture.remove(&pod).await
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and a network namespace: cargo xtask node"]
async fn a_sysctl_cannot_carry_another() -> Result<()> {
    let mut fixture = Fixture::new().await?;
    let mut pod_config = fixture.pod_config("sysctl");
    let smuggled = "1+kernel.core_pattern=|/bin/false".to_owned();
    pod_config.linux.get_or_insert_default().sysctls =
        [("kernel.shm_rmid_forced".to_owned(), smuggled)].into();
    let refused = fixture.client.run_pod(&pod_config).await.expect_err("a value with another sysctl in it");
    assert!(refused.message().contains("kernel.shm_rmid_forced"), "{refused:?}");
    let pattern = std::fs::read_to_string("/proc/sys/kernel/core_pattern")?;
    assert!(!pattern.contains("/bin/false"));
    Ok(())
}
