//! Which signal a container is asked to end by: the pod's word, the image's, or SIGTERM.

#![allow(clippy::large_futures, reason = "a test may have a large future")]

use anyhow::Result;
use berth_test::fixture::Fixture;
use berth_test::image::Layer;
use berth_test::node::container_config;
use berth_test::programs::Programs;
use berth_test::stand_ins;
use proto::v1;
use serde_json::json;
use tonic::Code;

/// Says which signal it heard, and ends with a code of its own.
const HEARS: &str = "for signal in TERM USR1 QUIT INT; do trap \"echo $signal; exit 42\" $signal; done; \
    trap 'echo RTMIN3; exit 42' 37; echo ready; while :; do sleep 0.05; done";

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and a network namespace: cargo xtask node"]
async fn a_process_hears_the_signal_that_the_pod_or_its_image_names() -> Result<()> {
    let mut fixture = Fixture::new().await?;
    let layer = Layer::new().file("marked", 0o644, b"").finish();
    let quits = json!({"Cmd": ["sh"], "Env": ["PATH=/usr/bin:/bin"], "StopSignal": "SIGQUIT"});
    let built = stand_ins::busybox_with(&Programs::built(), layer, quits)?;
    fixture.registry.push("quits", &["1"], &built).await?;
    let quits = format!("{}/quits:1", fixture.registry.address());
    fixture.client.pull(&quits).await?;
    let plain = fixture.image.clone();
    let cases = [
        ("default", &plain, v1::Signal::RuntimeDefault, v1::Signal::Sigterm, "TERM"),
        ("asked", &plain, v1::Signal::Sigusr1, v1::Signal::Sigusr1, "USR1"),
        ("images", &quits, v1::Signal::RuntimeDefault, v1::Signal::Sigquit, "QUIT"),
        ("over-images", &quits, v1::Signal::Sigint, v1::Signal::Sigint, "INT"),
        ("real-time", &plain, v1::Signal::Sigrtminplus3, v1::Signal::Sigrtminplus3, "RTMIN3"),
    ];
    for (name, image, asked, told, heard) in cases {
        let mut config = container_config("main", image, &["sh", "-c", HEARS]);
        config.stop_signal = asked.into();
        let (pod, container) = fixture.run_with(name, config).await?;
        assert!(fixture.log_of(name, 1).await.ends_with(" ready\n"), "{name}");
        assert_eq!(fixture.client.container(&container).await?.stop_signal(), told, "{name}");
        // The next daemon knows it, too.
        if name == "asked" {
            fixture.restart_daemon().await?;
        }
        fixture.client.stop(&container, 30).await?;
        let ended = fixture.client.container(&container).await?;
        assert_eq!(ended.exit_code, 42, "{name}: {ended:?}");
        assert!(fixture.log(name).ends_with(&format!(" {heard}\n")), "{name}: {}", fixture.log(name));
        fixture.remove(&pod).await?;
    }
    let mut config = container_config("main", &plain, &["sleep", "1000"]);
    config.stop_signal = 999;
    let refused = fixture.run_with("unknown", config).await.expect_err("no such signal");
    let refused = refused.downcast::<tonic::Status>()?;
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused:?}");
    assert!(refused.message().contains("stop_signal"), "{refused:?}");
    Ok(())
}
