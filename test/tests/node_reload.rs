//! SIGHUP: what the daemon takes up, and what it says of the rest.

#![allow(clippy::large_futures, reason = "a test may have a large future")]

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use berth_test::fixture::Fixture;
use berth_test::node::{Node, container_config};

/// How long the daemon may take to read its settings.
const PATIENCE: Duration = Duration::from_secs(20);

/// Has the daemon read its settings once more, and gives what it logged meanwhile.
async fn reload(node: &Node) -> Result<String> {
    let before = node.log().len();
    let pid = node.daemon_pid().and_then(|pid| i32::try_from(pid).ok()).context("a daemon is running")?;
    let pid = rustix::process::Pid::from_raw(pid).context("it has a number")?;
    rustix::process::kill_process(pid, rustix::process::Signal::HUP)?;
    let begun = Instant::now();
    loop {
        let said = node.log().get(before..).unwrap_or_default().to_owned();
        if said.contains("read anew") || said.contains("stay as they were") {
            return Ok(said);
        }
        ensure!(begun.elapsed() < PATIENCE, "nothing was read: {said}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and a network namespace: cargo xtask node"]
async fn a_reload_takes_up_what_it_can_and_names_what_waits_for_a_restart() -> Result<()> {
    let mut fixture = Fixture::new().await?;
    let file = fixture.node.config_file();
    let settings = std::fs::read_to_string(&file)?;
    assert!(!reload(&fixture.node).await?.contains("has changed"), "nothing has");

    let changed = format!(
        "log_format = \"json\"\n{settings}\n[container]\ndefault_env = [\"RELOADED=yes\"]\n\
         [tracing]\nsampling_per_million = 7\n"
    );
    std::fs::write(&file, changed)?;
    let said = reload(&fixture.node).await?;
    for key in ["log_format", "tracing.sampling_per_million"] {
        let line = said.lines().find(|line| line.contains(&format!("the setting {key} has changed")));
        assert!(line.is_some_and(|line| line.contains("WARN") && line.contains("restart")), "{key}: {said}");
    }
    assert_eq!(said.matches("has changed").count(), 2, "{said}");
    let (pod, _) = fixture.run_with("reloaded", container_config("main", &fixture.image, &["env"])).await?;
    assert!(fixture.log_of("reloaded", 4).await.contains("RELOADED=yes"), "{}", fixture.log("reloaded"));
    fixture.remove(&pod).await?;

    std::fs::write(&file, format!("nonsense = 1\n{settings}"))?;
    let said = reload(&fixture.node).await?;
    assert!(said.contains("ERROR") && said.contains("nonsense"), "{said}");
    Ok(())
}
