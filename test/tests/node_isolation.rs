//! What a container may not reach: the daemon's socket, the streaming server and its tokens, and another pod's files and
//! processes. Each search is also made from a container that was given what it looks for, so that it is known to find it.

#![allow(clippy::large_futures, reason = "a test may have a large future")]

use std::path::Path;

use anyhow::{Context, Result, ensure};
use berth_test::channels;
use berth_test::fixture::Fixture;
use berth_test::node::container_config;
use proto::v1;

/// In a file and in the environment of the victim's container.
const SECRET: &str = "SECRET_OF_ANOTHER_POD_6f1c";

/// Sockets by their paths, by the kernel's tables of all processes' network namespaces, by every process's root, and by
/// what processes hold open; a container's own streams have names on the host, which lead nowhere.
const FIND_SOCKETS: &str = r#"
find / -type s 2>/dev/null
for file in /proc/net/unix /proc/[0-9]*/net/unix; do grep -hE 'berth\.sock|monitor\.sock|nri\.sock|@' $file; done 2>/dev/null
for dir in RUN_DIR RUN_DIR/sandboxes; do for root in / /proc/[0-9]*/root/ /proc/[0-9]*/cwd/; do
  [ -e $root$dir ] && echo "reached $root$dir"
done; done
for fd in /proc/[0-9]*/fd/*; do readlink $fd; done 2>/dev/null | grep -E '^socket:|RUN_DIR' | grep -v '/std[a-z]*$'
true
"#;

/// The victim's secret, in all files and processes there are to see.
const FIND_SECRET: &str = r#"
for root in / /proc/[0-9]*/root/; do grep -ls '[S]ECRET_OF_ANOTHER_POD' $root/secret $root/dev/shm/secret; done 2>/dev/null
for file in /proc/[0-9]*/environ /proc/[0-9]*/cmdline; do grep -qs '[S]ECRET_OF_ANOTHER_POD' $file && echo $file; done
true
"#;

async fn run(
    fixture: &mut Fixture,
    name: &str,
    change: impl FnOnce(&mut v1::PodSandboxConfig, &mut v1::ContainerConfig),
) -> Result<String> {
    let mut pod_config = fixture.pod_config(name);
    let mut config = container_config("main", &fixture.image, &["sleep", "1000"]);
    change(&mut pod_config, &mut config);
    let pod = fixture.client.run_pod(&pod_config).await?;
    let container = fixture.client.create(&pod, &config, &pod_config).await?;
    fixture.client.start(&container).await?;
    Ok(container)
}

/// What a search of these words finds, besides itself.
async fn finds(fixture: &mut Fixture, container: &str, search: &str) -> Result<Vec<String>> {
    let search = search.replace("RUN_DIR", &fixture.node.run_dir().display().to_string());
    let answer = fixture.client.exec(container, &["sh", "-c", &search], 60).await?;
    ensure!(answer.exit_code == 0, "{}", String::from_utf8_lossy(&answer.stderr));
    let found = String::from_utf8_lossy(&answer.stdout).into_owned();
    Ok(found.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect())
}

fn with_host_pids(pod: &mut v1::PodSandboxConfig, config: &mut v1::ContainerConfig) {
    let options = v1::NamespaceOption { pid: v1::NamespaceMode::Node.into(), ..Default::default() };
    let linux = pod.linux.get_or_insert_default();
    linux.security_context.get_or_insert_default().namespace_options = Some(options.clone());
    let linux = config.linux.get_or_insert_default();
    linux.security_context.get_or_insert_default().namespace_options = Some(options);
}

fn privileged(pod: &mut v1::PodSandboxConfig, config: &mut v1::ContainerConfig) {
    pod.linux.get_or_insert_default().security_context.get_or_insert_default().privileged = true;
    config.linux.get_or_insert_default().security_context.get_or_insert_default().privileged = true;
}

fn bound(host: &Path, container_path: &str) -> v1::Mount {
    v1::Mount {
        host_path: host.display().to_string(),
        container_path: container_path.into(),
        ..Default::default()
    }
}

fn in_the_hosts_network(pod: &mut v1::PodSandboxConfig, config: &mut v1::ContainerConfig) {
    let options = v1::NamespaceOption { network: v1::NamespaceMode::Node.into(), ..Default::default() };
    let linux = pod.linux.get_or_insert_default();
    linux.security_context.get_or_insert_default().namespace_options = Some(options.clone());
    let linux = config.linux.get_or_insert_default();
    linux.security_context.get_or_insert_default().namespace_options = Some(options);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and a network namespace: cargo xtask node"]
async fn a_container_finds_no_socket_of_the_daemon_or_of_a_monitor() -> Result<()> {
    let mut fixture = Fixture::new().await?;
    let run_dir = fixture.node.run_dir();
    let ordinary = run(&mut fixture, "ordinary", |_, _| {}).await?;
    assert_eq!(finds(&mut fixture, &ordinary, FIND_SOCKETS).await?, Vec::<String>::new());
    // The same with the host's network, whose table of sockets has the daemon's: names are not ways.
    let networked = run(&mut fixture, "networked", in_the_hosts_network).await?;
    let found = finds(&mut fixture, &networked, FIND_SOCKETS).await?;
    let table = |line: &String| line.contains(" 00010000 ") || line.contains(": 0000");
    assert!(
        found.iter().any(|line| line.contains("berth.sock")),
        "the search finds what there is: {found:?}"
    );
    let others: Vec<&String> = found.iter().filter(|line| !table(line)).collect();
    assert_eq!(others, Vec::<&String>::new(), "no way leads to any of them");
    assert!(
        !found.iter().any(|line| line.contains('@') && line.contains("berth")),
        "no abstract name: {found:?}"
    );

    let given =
        run(&mut fixture, "given", |_, config| config.mounts = vec![bound(&run_dir, "/given")]).await?;
    let found = finds(&mut fixture, &given, FIND_SOCKETS).await?;
    assert!(found.iter().any(|line| line == "/given/berth.sock"), "who is given it finds it: {found:?}");
    assert!(found.iter().any(|line| line.ends_with("/monitor.sock")), "{found:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and a network namespace: cargo xtask node"]
async fn a_container_finds_neither_files_nor_processes_of_another_pod() -> Result<()> {
    let mut fixture = Fixture::new().await?;
    let victim = run(&mut fixture, "victim", |_, config| {
        let script = format!("echo {SECRET} > /secret; echo {SECRET} > /dev/shm/secret; exec sleep 1000");
        config.command = ["sh", "-c", &script].map(str::to_owned).to_vec();
        config.envs = vec![v1::KeyValue { key: "TOKEN".into(), value: SECRET.into() }];
    })
    .await?;
    let begun = std::time::Instant::now();
    while finds(&mut fixture, &victim, "cat /dev/shm/secret 2>/dev/null; true").await?.is_empty() {
        ensure!(begun.elapsed().as_secs() < 20, "the victim writes nothing");
    }
    let own = finds(&mut fixture, &victim, FIND_SECRET).await?;
    assert!(own.iter().any(|line| line.ends_with("/secret")), "the search finds its own: {own:?}");
    assert!(own.iter().any(|line| line.ends_with("/environ")), "{own:?}");

    let neighbour = run(&mut fixture, "neighbour", |_, _| {}).await?;
    assert_eq!(finds(&mut fixture, &neighbour, FIND_SECRET).await?, Vec::<String>::new());
    let pids = finds(&mut fixture, &neighbour, "ls -d /proc/[0-9]* | wc -l").await?;
    assert!(pids[0].trim().parse::<u32>()? <= 5, "only its own processes: {pids:?}");
    // Its mount table names the layers' directories, which lead nowhere from inside.
    let upper =
        finds(&mut fixture, &neighbour, "sed -n 's/.*upperdir=\\([^,]*\\).*/\\1/p' /proc/self/mountinfo")
            .await?;
    for dir in &upper {
        assert!(Path::new(dir).exists(), "{dir} is a directory of the host's");
        let parent = Path::new(dir).ancestors().nth(2).context("an ancestor")?.display().to_string();
        assert_eq!(
            finds(&mut fixture, &neighbour, &format!("ls -d {dir} {parent} 2>/dev/null; true")).await?.len(),
            0
        );
    }
    // Nor do the node's disks: neither a device nor the making of one.
    let disk = "mknod /disk b 254 0 2>/dev/null && head -c 1 /disk >/dev/null 2>&1 && echo read; true";
    assert_eq!(finds(&mut fixture, &neighbour, disk).await?, Vec::<String>::new());
    assert_eq!(finds(&mut fixture, &neighbour, "find /dev -type b; true").await?, Vec::<String>::new());

    let allowed = run(&mut fixture, "allowed", |pod, config| {
        privileged(pod, config);
        with_host_pids(pod, config);
    })
    .await?;
    let found = finds(&mut fixture, &allowed, FIND_SECRET).await?;
    assert!(found.iter().any(|line| line.ends_with("/secret")), "who may see all finds it: {found:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and a network namespace: cargo xtask node"]
async fn a_stream_is_not_to_be_had_from_a_pod_and_not_without_its_token() -> Result<()> {
    let mut fixture = Fixture::new().await?;
    let attacker = run(&mut fixture, "attacker", |_, _| {}).await?;
    let victim = run(&mut fixture, "victim", |_, _| {}).await?;
    let url = fixture.client.exec_url(&victim, &["echo", "reached"], false).await?;
    let (address, path) =
        url.strip_prefix("http://").and_then(|rest| rest.split_once('/')).context("a URL")?;
    let port = address.rsplit_once(':').context("a port")?.1;

    // By the token itself, which the pod can't know: the server is not where a pod comes.
    let ask = |host: &str, path: &str| {
        format!(
            "(printf 'POST /{path} HTTP/1.1\\r\\nHost: node\\r\\nConnection: Upgrade\\r\\nUpgrade: SPDY/3.1\\r\\n\
             X-Stream-Protocol-Version: v4.channel.k8s.io\\r\\n\\r\\n'; sleep 1) | nc -w 3 {host} {port} 2>&1 | head -n 1; true"
        )
    };
    let gateway =
        finds(&mut fixture, &attacker, "ip route | sed -n 's/default via \\([0-9.]*\\).*/\\1/p'").await?;
    for host in ["127.0.0.1", gateway[0].as_str()] {
        let heard = finds(&mut fixture, &attacker, &ask(host, path)).await?.concat();
        assert!(!heard.contains("HTTP/1.1"), "{host} answers: {heard}");
    }
    // From the host's network it is reached, and asks for the token.
    let networked = run(&mut fixture, "networked", in_the_hosts_network).await?;
    let guessed = format!("exec/{}", "A".repeat(path.len() - "exec/".len()));
    for path in [guessed.as_str(), "exec/", "exec", "", "attach/../exec"] {
        let heard = finds(&mut fixture, &networked, &ask("127.0.0.1", path)).await?.concat();
        assert!(heard.starts_with("HTTP/1.1 404") || heard.starts_with("HTTP/1.1 400"), "{path:?}: {heard}");
    }
    // The token is nowhere to be read, and was not used up by all that.
    let token = path.rsplit_once('/').context("a token")?.1;
    let search = format!(
        "for file in /proc/[0-9]*/environ /proc/[0-9]*/cmdline; do grep -qs -- {} $file && echo $file; done; true",
        token.chars().map(|letter| format!("[{letter}]")).collect::<String>()
    );
    for container in [&attacker, &networked, &victim] {
        assert_eq!(finds(&mut fixture, container, &search).await?, Vec::<String>::new());
    }
    let heard = channels::talk(&url, "v5.channel.k8s.io", None).await?;
    assert_eq!(String::from_utf8_lossy(&heard.stdout), "reached\n");
    let again = channels::talk(&url, "v5.channel.k8s.io", None).await;
    assert!(again.is_err(), "a token is for one use");
    Ok(())
}
