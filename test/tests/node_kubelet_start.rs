//! How a kubelet starts a pod that is more than its main containers: init containers one after the other, a sidecar
//! (an init container that is restarted) before the rest, and images that are pulled first.

#![allow(clippy::large_futures, reason = "a test may have a large future")]

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use berth_test::fixture::Fixture;
use berth_test::image::{Layer, Recipe};
use berth_test::kubelet::{Kubelet, Qos, Running};
use proto::v1;
use serde_json::json;
use tonic::Code;

/// Ends well when it is told to.
const PATIENT: &str = "trap 'exit 0' TERM; while :; do sleep 0.05; done";

/// The volume that a pod's containers share is the pod's shared memory here: no mount need be asked for.
const HANDED_OVER: &str = "/dev/shm/handed-over";

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and a network namespace: cargo xtask node"]
async fn init_containers_run_one_after_the_other_and_a_failed_one_is_tried_again() -> Result<()> {
    let fixture = Fixture::new().await?;
    let before = fixture.node.inventory();
    let mut kubelet = Kubelet::on(&fixture).await?;
    let first = format!("echo one >> {HANDED_OVER}");
    // It fails the first time, and finds then what the first one has left.
    let second = format!(
        "[ -e {HANDED_OVER}.tried ] && echo two >> {HANDED_OVER} || {{ touch {HANDED_OVER}.tried; exit 4; }}"
    );
    let main = format!("cat {HANDED_OVER}; exec sleep 1000");
    let pod = kubelet
        .pod("initialized", Qos::Burstable)
        .runs("first", &["sh", "-c", &first])
        .runs("second", &["sh", "-c", &second])
        .runs("main", &["sh", "-c", &main]);
    let mut running = kubelet.start_sandbox(&pod).await?;
    let mut attempts = Vec::new();
    for (name, attempt, code) in [("first", 0, 0), ("second", 0, 4), ("second", 1, 0)] {
        let id = kubelet.start_container(&pod, &running.sandbox, name, attempt).await?;
        let ended = kubelet.wait_for(&id, v1::ContainerState::ContainerExited).await?;
        let reason = if code == 0 { "Completed" } else { "Error" };
        assert_eq!((ended.exit_code, ended.reason.as_str()), (code, reason), "{name} {attempt}: {ended:?}");
        assert!(ended.started_at > 0 && ended.finished_at >= ended.started_at, "{ended:?}");
        attempts.push(id);
    }
    let main = kubelet.start_container(&pod, &running.sandbox, "main", 0).await?;
    running.containers.push(main.clone());
    let begun = Instant::now();
    let log = pod.log_of("main", 0);
    let said = || std::fs::read_to_string(&log).unwrap_or_default();
    while said().lines().count() < 2 && begun.elapsed() < Duration::from_secs(20) {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let lines: Vec<String> =
        said().lines().filter_map(|line| Some(line.split_once(" F ")?.1.into())).collect();
    assert_eq!(lines, ["one", "two"], "init containers came one after the other");
    // The kubelet goes by all that there are, and removes those that have ended but the last of each.
    assert_eq!(kubelet.sync(&pod, &running).await?.len(), 4);
    kubelet.remove_container(&attempts[1]).await?;
    assert_eq!(kubelet.container(&main).await?.state(), v1::ContainerState::ContainerRunning);
    running.containers = vec![main, attempts[0].clone(), attempts[2].clone()];
    kubelet.delete_pod(&running, 0, 1).await?;
    kubelet.collect_garbage(&pod, &running.sandbox).await?;
    assert_eq!(fixture.node.leaks_since(&before), Vec::<String>::new());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and a network namespace: cargo xtask node"]
async fn a_sidecar_is_up_before_the_main_container_comes_back_alone_and_goes_last() -> Result<()> {
    let fixture = Fixture::new().await?;
    let before = fixture.node.inventory();
    let mut kubelet = Kubelet::on(&fixture).await?;
    let serve = "trap 'exit 0' TERM; trap 'exit 9' USR1; touch /up; \
        (while :; do nc -l -p 8080 -e echo served </dev/null; done) & while :; do sleep 0.05; done";
    let pod = kubelet
        .pod("accompanied", Qos::Burstable)
        .runs("sidecar", &["sh", "-c", serve])
        .runs("main", &["sh", "-c", PATIENT]);
    let mut running = kubelet.start_sandbox(&pod).await?;
    let sidecar = kubelet.start_container(&pod, &running.sandbox, "sidecar", 0).await?;
    started(&mut kubelet, &sidecar).await?;
    let main = kubelet.start_container(&pod, &running.sandbox, "main", 0).await?;
    let ask = ["sh", "-c", "nc 127.0.0.1 8080 </dev/null | grep -q served"];
    assert_eq!(kubelet.probe(&main, &ask, 10).await?, 0, "they share the pod's network");

    // A sidecar that ends is made again, while the main container goes on.
    let main_began = kubelet.container(&main).await?.started_at;
    kubelet.probe(&sidecar, &["kill", "-USR1", "1"], 10).await?;
    let ended = kubelet.wait_for(&sidecar, v1::ContainerState::ContainerExited).await?;
    assert_eq!(ended.exit_code, 9, "{ended:?}");
    let next = kubelet.start_container(&pod, &running.sandbox, "sidecar", 1).await?;
    started(&mut kubelet, &next).await?;
    assert_eq!(kubelet.probe(&main, &ask, 10).await?, 0);
    assert_eq!(kubelet.container(&main).await?.started_at, main_began);
    kubelet.remove_container(&sidecar).await?;

    // Mains first; the sidecar serves until they are gone.
    running.containers = vec![next.clone(), main.clone()];
    kubelet.stop_all(&[main], 5).await?;
    assert_eq!(kubelet.container(&next).await?.state(), v1::ContainerState::ContainerRunning);
    kubelet.delete_pod(&running, 1, 5).await?;
    kubelet.collect_garbage(&pod, &running.sandbox).await?;
    assert_eq!(fixture.node.leaks_since(&before), Vec::<String>::new());
    Ok(())
}

/// A startup probe: each period anew, until it succeeds.
async fn started(kubelet: &mut Kubelet, container: &str) -> Result<()> {
    for _ in 0..100 {
        if kubelet.probe(container, &["test", "-e", "/up"], 1).await? == 0 {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    anyhow::bail!("the startup probe of {container} does not succeed")
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and a network namespace: cargo xtask node"]
async fn an_image_is_pulled_as_a_kubelet_asks_for_it_and_is_one_everywhere() -> Result<()> {
    let fixture = Fixture::new().await?;
    let mut kubelet = Kubelet::on(&fixture).await?;
    let layers = vec![Layer::new().file("data", 0o644, b"data of the image").finish()];
    fixture.registry.push("pulled", &["1"], &Recipe::new(layers, json!({})).build()).await?;
    let name = format!("{}/pulled:1", fixture.registry.address());
    let pod = kubelet.pod("puller", Qos::BestEffort).runs("main", &["sleep", "1000"]);
    let spec = v1::ImageSpec { image: name.clone(), ..Default::default() };
    assert_eq!(kubelet.look_for(&spec).await?, None, "an image that is not here is no error");
    let running = kubelet.start_sandbox(&pod).await?;
    let id = kubelet.pull(&pod, &name).await?;
    assert!(id.starts_with("sha256:") && id.len() == 71, "{id}");
    // Always: what is here already is pulled again, and is the same.
    assert_eq!(kubelet.pull(&pod, &name).await?, id);
    let image = kubelet.look_for(&spec).await?.context("it is here")?;
    assert_eq!(image.repo_tags, std::slice::from_ref(&name));
    assert!(image.repo_digests.iter().all(|digest| digest.contains("/pulled@sha256:")), "{image:?}");
    assert!(image.size > 0 && !image.pinned, "{image:?}");

    let container = kubelet.start_container(&pod, &running.sandbox, "main", 0).await?;
    let status = kubelet.container(&container).await?;
    let listed = kubelet.containers(v1::ContainerFilter::default()).await?.remove(0);
    // Of busybox: its reference is what a pull answers, its name what the user wrote.
    let spec = v1::ImageSpec {
        image: status.image.clone().unwrap_or_default().user_specified_image,
        ..Default::default()
    };
    let own = kubelet.look_for(&spec).await?.context("the container's image is here")?.id;
    assert_eq!((status.image_id.as_str(), listed.image_id.as_str()), (own.as_str(), own.as_str()));
    assert_eq!(kubelet.pull(&pod, &spec.image).await?, own);

    let absent = format!("{}/absent:1", fixture.registry.address());
    let refused = kubelet.pull(&pod, &absent).await.expect_err("there is none");
    let refused = refused.downcast::<tonic::Status>()?;
    assert_eq!(refused.code(), Code::NotFound, "{refused:?}");
    kubelet.delete_pod(&Running { containers: vec![container], ..running }, 0, 0).await
}
