//! crictl's tour: an operator's usual commands, against a private node.

#![allow(clippy::large_futures, reason = "a test may have a large future")]

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use berth_test::crictl::Crictl;
use berth_test::fixture::Fixture;
use berth_test::image::{Built, Layer, Recipe};
use berth_test::programs::Programs;
use serde_json::json;

fn write_json(file: &Path, value: &serde_json::Value) -> Result<String> {
    std::fs::write(file, value.to_string())?;
    Ok(file.display().to_string())
}

/// Larger than what is fetched and unpacked in one piece, and nothing that could be packed smaller.
fn large_image() -> Built {
    let mut state = 1_u64;
    let noise = std::iter::repeat_with(|| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 56) as u8
    });
    let noise: Vec<u8> = noise.take(12 << 20).collect();
    Recipe::new(vec![Layer::new().file("noise", 0o644, &noise).finish()], json!({})).build()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and a network namespace: cargo xtask node"]
async fn large_images_are_pulled_and_repaired_by_command() -> Result<()> {
    let fixture = Fixture::new().await?;
    fixture.registry.push("large", &["1"], &large_image()).await?;
    let image = format!("{}/large:1", fixture.registry.address());
    let berth = |words: &[&str]| {
        let mut command = Command::new("timeout");
        command.arg("120").arg(Programs::built().berth).arg("--config").arg(fixture.node.config_file());
        let output = command.args(words).output()?;
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        ensure!(output.status.success(), "berth {words:?}: {:?}: {said}", output.status.code());
        Ok(said)
    };
    berth(&["image", "pull", &image])?;
    let layers = fixture.node.dir().join("root/images/layers");
    let noise = std::fs::read_dir(&layers)?.filter_map(Result::ok).map(|layer| layer.path().join("noise"));
    let noise = noise.into_iter().find(|file| file.exists()).context("the layer's file")?;
    std::fs::write(&noise, "other")?;
    let said = berth(&["image", "verify"])?;
    assert!(said.contains("has 5 bytes"), "{said}");
    assert_eq!(std::fs::metadata(&noise)?.len(), 12 << 20);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and a network namespace: cargo xtask node"]
async fn the_operators_tour() -> Result<()> {
    let fixture = Fixture::new().await?;
    let crictl = Crictl::of(&fixture.node);
    let log_dir = fixture.log_dir("tour");
    std::fs::create_dir_all(&log_dir)?;
    let pod = json!({"metadata": {"name": "tour", "namespace": "default", "uid": "tour-uid", "attempt": 1},
        "hostname": "tour", "log_directory": log_dir, "linux": {}});
    let container = json!({"metadata": {"name": "main"}, "image": {"image": fixture.image},
        "command": ["sh", "-c", "echo from the tour; exec sleep 1000"], "log_path": "main.log", "linux": {}});
    let pod_file = write_json(&fixture.node.dir().join("pod.json"), &pod)?;
    let container_file = write_json(&fixture.node.dir().join("container.json"), &container)?;

    assert!(crictl.run(&["version"])?.contains("berth"));
    crictl.run(&["info"])?;
    crictl.run(&["pull", &fixture.image])?;
    assert!(crictl.run(&["images"])?.contains("busybox"));
    let pod_id = crictl.run(&["runp", &pod_file])?.trim().to_owned();
    let id = crictl.run(&["create", &pod_id, &container_file, &pod_file])?.trim().to_owned();
    crictl.run(&["start", &id])?;
    assert!(crictl.run(&["ps"])?.contains("main"));
    assert!(crictl.run(&["pods"])?.contains("tour"));
    let inspected: serde_json::Value = serde_json::from_str(&crictl.run(&["inspect", &id])?)?;
    assert_eq!(inspected["status"]["state"], "CONTAINER_RUNNING");
    assert!(inspected["info"]["pid"].is_number(), "{inspected}");
    let inspected: serde_json::Value = serde_json::from_str(&crictl.run(&["inspectp", &pod_id])?)?;
    assert_eq!(inspected["status"]["state"], "SANDBOX_READY");
    assert_eq!(crictl.run(&["exec", "--sync", &id, "echo", "sync"])?.trim(), "sync");
    assert_eq!(crictl.run(&["exec", &id, "echo", "streamed"])?.trim(), "streamed");
    assert_eq!(crictl.run(&["exec", "--transport", "websocket", &id, "echo", "framed"])?.trim(), "framed");
    assert!(crictl.run(&["logs", &id])?.contains("from the tour"));
    assert!(crictl.run(&["stats", &id])?.contains("main"));
    assert!(crictl.run(&["imagefsinfo"])?.contains("imageFilesystems"));
    crictl.run(&["stop", "--timeout", "0", &id])?;
    crictl.run(&["rm", &id])?;
    crictl.run(&["stopp", &pod_id])?;
    crictl.run(&["rmp", &pod_id])?;
    assert!(!crictl.run(&["pods"])?.contains("tour"));
    crictl.run(&["rmi", &fixture.image])?;
    assert!(!crictl.run(&["images"])?.contains("busybox"));
    Ok(())
}
