//! A hundred pods come and go, and the node is as it was.

#![allow(clippy::large_futures, reason = "a test may have a large future")]

use anyhow::Result;
use berth_test::fixture::Fixture;
use berth_test::node::container_config;

const PODS: u32 = 100;
const AT_ONCE: u32 = 10;

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and a network namespace: cargo xtask node"]
async fn a_hundred_pods_leave_nothing() -> Result<()> {
    let mut fixture = Fixture::new().await?;
    // The first pod makes the bridge and warms caches and connections.
    let (pod, _) = fixture.run("first", &["sleep", "1000"]).await?;
    fixture.remove(&pod).await?;
    let before = fixture.node.inventory();
    for batch in 0..PODS / AT_ONCE {
        let mut tasks = Vec::new();
        for number in 0..AT_ONCE {
            let pod_config = fixture.pod_config(&format!("pod-{batch}-{number}"));
            let config = container_config("main", &fixture.image, &["sleep", "1000"]);
            let mut client = fixture.client.clone();
            tasks.push(tokio::spawn(async move {
                let pod = client.run_pod(&pod_config).await?;
                let container = client.create(&pod, &config, &pod_config).await?;
                client.start(&container).await?;
                client.exec(&container, &["true"], 10).await?;
                client.stop_pod(&pod).await?;
                client.remove_pod(&pod).await
            }));
        }
        for task in tasks {
            task.await??;
        }
    }
    assert_eq!(fixture.node.leaks_since(&before), Vec::<String>::new());
    let after = fixture.node.inventory();
    let grown = after.descriptors.saturating_sub(before.descriptors);
    assert!(grown <= 4, "descriptors: {} before, {} after", before.descriptors, after.descriptors);
    Ok(())
}
