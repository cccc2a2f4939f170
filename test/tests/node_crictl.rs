//! crictl's tour: an operator's usual commands, against a private node.

#![allow(clippy::large_futures, reason = "a test may have a large future")]

use std::path::Path;

use anyhow::Result;
use berth_test::crictl::Crictl;
use berth_test::fixture::Fixture;
use serde_json::json;

fn write_json(file: &Path, value: &serde_json::Value) -> Result<String> {
    std::fs::write(file, value.to_string())?;
    Ok(file.display().to_string())
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
