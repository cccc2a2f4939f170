//! One pod's life through CRI, on a private node with a real registry and CNI.

#![allow(clippy::large_futures, reason = "a test may have a large future")]

use anyhow::Result;
use berth_test::fixture::Fixture;
use berth_test::node::container_config;
use proto::v1;
use tonic::Code;

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and a network namespace: cargo xtask node"]
async fn a_pod_runs_logs_execs_and_leaves_nothing() -> Result<()> {
    let mut fixture = Fixture::new().await?;
    let before = fixture.node.inventory();
    let script = "echo out; echo err >&2; exec sleep 1000";
    let (pod, container) = fixture.run("life", &["sh", "-c", script]).await?;

    let status = fixture.client.container(&container).await?;
    assert_eq!(status.state(), v1::ContainerState::ContainerRunning);
    let pod_status = fixture.client.pod(&pod).await?;
    assert_eq!(pod_status.state(), v1::PodSandboxState::SandboxReady);
    let ip = pod_status.network.expect("a network").ip;
    assert!(ip.starts_with("10."), "the pod's IP is {ip:?}");

    let answer =
        fixture.client.exec(&container, &["sh", "-c", "echo hello; echo oops >&2; exit 7"], 10).await?;
    assert_eq!((answer.stdout.as_slice(), answer.stderr.as_slice()), (&b"hello\n"[..], &b"oops\n"[..]));
    assert_eq!(answer.exit_code, 7);

    let log = fixture.log_of("life", 2).await;
    assert!(log.lines().any(|line| line.ends_with(" stdout F out")), "log:\n{log}");
    assert!(log.lines().any(|line| line.ends_with(" stderr F err")), "log:\n{log}");

    let stats = v1::ContainerStatsRequest { container_id: container.clone() };
    let stats = fixture.client.runtime.container_stats(stats).await?.into_inner().stats.expect("stats");
    assert!(stats.memory.and_then(|memory| memory.working_set_bytes).is_some_and(|bytes| bytes.value > 0));

    fixture.client.stop(&container, 0).await?;
    let status = fixture.client.container(&container).await?;
    assert_eq!(status.state(), v1::ContainerState::ContainerExited);
    assert_eq!(status.exit_code, 137);
    fixture.remove(&pod).await?;
    let missing = fixture.client.container(&container).await.expect_err("a removed container");
    assert_eq!(missing.code(), Code::NotFound);
    assert_eq!(fixture.node.leaks_since(&before), Vec::<String>::new());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and a network namespace: cargo xtask node"]
async fn exit_codes_and_reasons_are_told() -> Result<()> {
    let mut fixture = Fixture::new().await?;
    for (script, code, reason) in
        [("exit 0", 0, "Completed"), ("exit 3", 3, "Error"), ("kill -9 $$", 137, "Error")]
    {
        let name = format!("exit{code}");
        let (pod, container) = fixture.run(&name, &["sh", "-c", script]).await?;
        let status = fixture.client.wait_for_exit(&container).await?;
        assert_eq!((status.exit_code, status.reason.as_str()), (code, reason), "{script}");
        assert!(status.finished_at >= status.started_at && status.started_at >= status.created_at);
        fixture.remove(&pod).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and a network namespace: cargo xtask node"]
async fn a_repeated_request_gives_the_same_answer() -> Result<()> {
    let mut fixture = Fixture::new().await?;
    let pod_config = fixture.pod_config("twice");
    let mut second = fixture.client.clone();
    let (first, again) = tokio::join!(fixture.client.run_pod(&pod_config), second.run_pod(&pod_config));
    let (first, again) = (first?, again?);
    assert_eq!(first, again, "a repeated RunPodSandbox joins the first");
    let config = container_config("main", &fixture.image, &["sleep", "1000"]);
    let (one, two) = tokio::join!(
        fixture.client.create(&first, &config, &pod_config),
        second.create(&first, &config, &pod_config)
    );
    assert_eq!(one?, two?, "a repeated CreateContainer joins the first");
    let mut other = config.clone();
    other.command = vec!["true".to_owned()];
    let refused = fixture.client.create(&first, &other, &pod_config).await.expect_err("another of that name");
    assert_eq!(refused.code(), Code::AlreadyExists, "{refused:?}");
    fixture.remove(&first).await?;
    fixture.client.stop_pod(&first).await?;
    fixture.client.remove_pod(&first).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and a network namespace: cargo xtask node"]
async fn a_shorter_stop_shortens_a_longer_one() -> Result<()> {
    let mut fixture = Fixture::new().await?;
    let script = "trap '' TERM; while :; do sleep 0.1; done";
    let (pod, container) = fixture.run("stubborn", &["sh", "-c", script]).await?;
    let mut second = fixture.client.clone();
    let patient = fixture.client.stop(&container, 600);
    let hasty = async {
        tokio::time::sleep(std::time::Duration::from_millis(300)).await;
        second.stop(&container, 1).await
    };
    let both = async { tokio::try_join!(patient, hasty) };
    tokio::time::timeout(std::time::Duration::from_secs(30), both).await??;
    fixture.remove(&pod).await
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and a network namespace: cargo xtask node"]
async fn an_exec_that_takes_too_long_is_killed_and_says_so() -> Result<()> {
    let mut fixture = Fixture::new().await?;
    let (pod, container) = fixture.run("slow", &["sleep", "1000"]).await?;
    let refused = fixture.client.exec(&container, &["sleep", "777"], 1).await.expect_err("a timeout");
    assert_eq!(refused.code(), Code::DeadlineExceeded, "{refused:?}");
    let left = fixture.client.exec(&container, &["pgrep", "sleep"], 10).await?;
    assert_eq!(
        String::from_utf8_lossy(&left.stdout).lines().count(),
        1,
        "only the container's own sleep is left"
    );
    fixture.remove(&pod).await
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and a network namespace: cargo xtask node"]
async fn exec_output_is_bounded_and_the_rest_dropped() -> Result<()> {
    let mut fixture = Fixture::new().await?;
    let (pod, container) = fixture.run("flood", &["sleep", "1000"]).await?;
    let answer = fixture.client.exec(&container, &["sh", "-c", "head -c 20000000 /dev/zero"], 60).await;
    // 16 MiB of each stream is CRI's bound; a client of 16 MiB messages may refuse the whole.
    match answer {
        Ok(answer) => assert_eq!(answer.stdout.len(), 16 << 20),
        Err(status) => assert_eq!(status.code(), Code::OutOfRange, "{status:?}"),
    }
    fixture.remove(&pod).await
}
