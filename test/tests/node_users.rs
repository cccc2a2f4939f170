//! Pods with users of their own: whose the files of their volumes are, and the host's network. And what a user of a
//! container may do: ambient capabilities.

#![allow(clippy::large_futures, reason = "a test may have a large future")]

use std::os::unix::fs::{MetadataExt, chown};

use anyhow::{Context, Result};
use berth_test::fixture::Fixture;
use berth_test::node::container_config;
use proto::v1;
use tonic::Code;

const FIRST_ID: u32 = 800_000;
const IDS: u32 = 65_536;

fn map() -> Vec<v1::IdMapping> {
    vec![v1::IdMapping { host_id: FIRST_ID, container_id: 0, length: IDS }]
}

/// The pod and its container get users of their own, in the network that is given.
fn with_users(pod: &mut v1::PodSandboxConfig, config: &mut v1::ContainerConfig, network: v1::NamespaceMode) {
    let users = v1::UserNamespace { mode: v1::NamespaceMode::Pod.into(), uids: map(), gids: map() };
    let options = v1::NamespaceOption {
        network: network.into(),
        pid: v1::NamespaceMode::Container.into(),
        userns_options: Some(users),
        ..Default::default()
    };
    let security = pod.linux.get_or_insert_default().security_context.get_or_insert_default();
    security.namespace_options = Some(options.clone());
    let security = config.linux.get_or_insert_default().security_context.get_or_insert_default();
    security.namespace_options = Some(options);
}

async fn run(
    fixture: &mut Fixture,
    pod_config: &v1::PodSandboxConfig,
    config: &v1::ContainerConfig,
) -> Result<(String, String)> {
    let pod = fixture.client.run_pod(pod_config).await?;
    let container = fixture.client.create(&pod, config, pod_config).await.context("creating")?;
    fixture.client.start(&container).await?;
    Ok((pod, container))
}

async fn says(fixture: &mut Fixture, container: &str, script: &str) -> Result<String> {
    let answer = fixture.client.exec(container, &["sh", "-c", script], 20).await?;
    Ok(String::from_utf8_lossy(&[answer.stdout, answer.stderr].concat()).trim().to_owned())
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and a network namespace: cargo xtask node"]
async fn a_mapped_volume_keeps_the_hosts_owners_and_shows_the_pods() -> Result<()> {
    let mut fixture = Fixture::new().await?;
    let volume = tempfile::tempdir()?;
    for (name, id) in [("of-root", 0), ("of-user", 1000)] {
        std::fs::write(volume.path().join(name), name)?;
        chown(volume.path().join(name), Some(id), Some(id))?;
    }
    let mapped = v1::Mount {
        host_path: volume.path().display().to_string(),
        container_path: "/mapped".into(),
        uid_mappings: map(),
        gid_mappings: map(),
        ..Default::default()
    };
    let plain = v1::Mount {
        container_path: "/plain".into(),
        uid_mappings: Vec::new(),
        gid_mappings: Vec::new(),
        ..mapped.clone()
    };
    let mut pod_config = fixture.pod_config("mapped");
    let mut config = container_config("main", &fixture.image, &["sleep", "1000"]);
    config.mounts = vec![mapped.clone(), plain];
    with_users(&mut pod_config, &mut config, v1::NamespaceMode::Pod);
    let (pod, container) = run(&mut fixture, &pod_config, &config).await?;

    let owners = "cd $0; stat -c %u:%g of-root of-user; cat of-user";
    let look = async |fixture: &mut Fixture, dir: &str| {
        says(fixture, &container, &owners.replace("$0", dir)).await.map(|words| words.replace('\n', " "))
    };
    assert_eq!(look(&mut fixture, "/mapped").await?, "0:0 1000:1000 of-user");
    assert_eq!(
        look(&mut fixture, "/plain").await?,
        "65534:65534 65534:65534 of-user",
        "nobody's without maps"
    );
    let made = says(
        &mut fixture,
        &container,
        "echo new > /mapped/new && chown 1000:33 /mapped/new && stat -c %u:%g /mapped/new; \
         touch /plain/refused 2>&1 | grep -c 'Permission denied'",
    );
    assert_eq!(made.await?, "1000:33\n1");
    let new = std::fs::metadata(volume.path().join("new"))?;
    assert_eq!((new.uid(), new.gid()), (1000, 33), "on the disk they are the ids of the volume");
    // The processes themselves are others on the host.
    let pid = says(&mut fixture, &container, "cat /proc/self/uid_map").await?;
    assert_eq!(pid.split_whitespace().collect::<Vec<_>>(), ["0", "800000", "65536"]);

    // Half a map is a mistake, and told as such.
    let half = v1::Mount { gid_mappings: Vec::new(), ..mapped };
    let config = v1::ContainerConfig {
        metadata: Some(v1::ContainerMetadata { name: "half".into(), attempt: 0 }),
        mounts: vec![half],
        ..config
    };
    let refused = fixture.client.create(&pod, &config, &pod_config).await.expect_err("half a map");
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused:?}");
    assert!(refused.message().contains("mounts[0].uid_mappings"), "{refused:?}");
    fixture.remove(&pod).await
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and a network namespace: cargo xtask node"]
async fn a_pod_with_users_of_its_own_uses_the_hosts_network_and_does_not_rule_it() -> Result<()> {
    let mut fixture = Fixture::new().await?;
    let status = fixture.client.runtime.status(v1::StatusRequest::default()).await?.into_inner();
    assert!(status.features.is_some_and(|features| features.user_namespaces_host_network));
    let before = fixture.node.inventory();
    let mut pod_config = fixture.pod_config("hosts-network");
    let mut config = container_config("main", &fixture.image, &["sleep", "1000"]);
    with_users(&mut pod_config, &mut config, v1::NamespaceMode::Node);
    let (pod, container) = run(&mut fixture, &pod_config, &config).await?;

    let hosts = std::fs::read_link("/proc/self/ns/net")?;
    let own = says(&mut fixture, &container, "readlink /proc/self/ns/net").await?;
    assert_eq!(own, hosts.display().to_string());
    let map = says(&mut fixture, &container, "cat /proc/self/uid_map").await?;
    assert_eq!(map.split_whitespace().collect::<Vec<_>>(), ["0", "800000", "65536"]);
    // What sysfs shows is this network, and nothing in it can be written.
    assert_eq!(says(&mut fixture, &container, "cat /sys/class/net/lo/mtu").await?, "65536");
    let tried = says(&mut fixture, &container, "echo 1000 > /sys/class/net/lo/mtu").await?;
    assert!(tried.contains("Read-only file system") || tried.contains("Permission denied"), "{tried}");
    let mounts = says(&mut fixture, &container, "grep ' /sys ' /proc/self/mountinfo").await?;
    assert!(mounts.contains(" ro,nosuid,nodev,noexec"), "{mounts}");
    // A port of the host's network is served from it; the network itself is not its own to change.
    let serve =
        "nc -l -p 18765 -e echo heard </dev/null >/dev/null 2>&1 & sleep 0.5; nc 127.0.0.1 18765 </dev/null";
    assert_eq!(says(&mut fixture, &container, serve).await?, "heard");
    let tried = says(&mut fixture, &container, "ip link set lo mtu 1400").await?;
    assert!(tried.contains("not permitted"), "{tried}");
    fixture.remove(&pod).await?;
    assert_eq!(fixture.node.leaks_since(&before), Vec::<String>::new());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and a network namespace: cargo xtask node"]
async fn an_ambient_capability_is_a_users_own_after_exec() -> Result<()> {
    let mut fixture = Fixture::new().await?;
    let pod_config = fixture.pod_config("ambient");
    let pod = fixture.client.run_pod(&pod_config).await?;
    // NET_BIND_SERVICE is 10, of the default set; NET_ADMIN, 12, is not.
    let (bind, admin) = (1u64 << 10, 1u64 << 12);
    let word = |name: &str| vec![name.to_owned()];
    let cases = [
        ("none", v1::Capability::default(), 0, 0),
        ("added", v1::Capability { add_capabilities: word("NET_ADMIN"), ..Default::default() }, 0, admin),
        (
            "ambient",
            v1::Capability { add_ambient_capabilities: word("NET_BIND_SERVICE"), ..Default::default() },
            bind,
            bind,
        ),
    ];
    for (name, capabilities, ambient, bounded) in cases {
        let mut config = container_config(name, &fixture.image, &["sh", "-c", "cat /proc/self/status"]);
        config.log_path = format!("{name}.log");
        config.linux.get_or_insert_default().security_context = Some(v1::LinuxContainerSecurityContext {
            run_as_user: Some(v1::Int64Value { value: 1000 }),
            capabilities: Some(capabilities),
            no_new_privs: true,
            ..Default::default()
        });
        let container = fixture.client.create(&pod, &config, &pod_config).await?;
        fixture.client.start(&container).await?;
        assert_eq!(fixture.client.wait_for_exit(&container).await?.exit_code, 0);
        let log = std::fs::read_to_string(fixture.log_dir("ambient").join(format!("{name}.log")))?;
        let set = |key: &str| {
            let line = log.lines().find_map(|line| line.split_once(&format!("{key}:\t")));
            u64::from_str_radix(line.map(|(_, set)| set.trim()).unwrap_or_default(), 16).unwrap_or(u64::MAX)
        };
        // What a user keeps over an exec is what is ambient; the bounding set is the most that root could have.
        assert_eq!(
            (set("CapAmb"), set("CapEff"), set("CapPrm")),
            (ambient, ambient, ambient),
            "{name}: {log}"
        );
        assert_eq!(set("CapBnd") & (admin | bounded), bounded, "{name}: {log}");
    }
    let mut config = container_config("unknown", &fixture.image, &["true"]);
    config.linux.get_or_insert_default().security_context = Some(v1::LinuxContainerSecurityContext {
        capabilities: Some(v1::Capability {
            add_ambient_capabilities: word("NO_SUCH"),
            ..Default::default()
        }),
        ..Default::default()
    });
    let refused = fixture.client.create(&pod, &config, &pod_config).await.expect_err("no such capability");
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused:?}");
    fixture.remove(&pod).await
}
