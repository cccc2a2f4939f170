//! A pod's host port, asked for from the node itself and from another machine, which is a network namespace joined to
//! the node's by a pair of interfaces.

#![allow(clippy::large_futures, reason = "a test may have a large future")]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use berth_test::fixture::Fixture;
use berth_test::node::{Options, container_config};
use proto::v1;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde_json::json;

const PORT: u16 = 18080;
/// Answers in both families; the file is how we know who answers.
const SERVER: &str = "mkdir -p /tmp/www && echo this is the pod > /tmp/www/index.html && \
                      exec httpd -f -p '[::]:80' -h /tmp/www";

/// Another machine, at 192.0.2.2 and 2001:db8:5::2; the node is `.1` there.
struct Outside {
    holder: Child,
}

impl Outside {
    fn new() -> Result<Outside> {
        let holder = Command::new("unshare").args(["--net", "sleep", "600"]).spawn()?;
        let outside = Outside { holder };
        outside.wait_for_namespace()?;
        let pid = outside.holder.id();
        ip(&format!("link add thp0 type veth peer name thp1 netns {pid}"))?;
        for word in
            ["addr add 192.0.2.1/24 dev thp0", "addr add 2001:db8:5::1/64 dev thp0 nodad", "link set thp0 up"]
        {
            ip(word)?;
        }
        for word in
            ["addr add 192.0.2.2/24 dev thp1", "addr add 2001:db8:5::2/64 dev thp1 nodad", "link set thp1 up"]
        {
            run(Command::new("nsenter").args(["--net", "-t", &pid.to_string(), "ip"]).args(word.split(' ')))?;
        }
        Ok(outside)
    }

    fn namespace(&self) -> String {
        format!("/proc/{}/ns/net", self.holder.id())
    }

    fn wait_for_namespace(&self) -> Result<()> {
        let own = std::fs::read_link("/proc/thread-self/ns/net")?;
        let begun = Instant::now();
        while std::fs::read_link(self.namespace())? == own {
            ensure!(begun.elapsed() < Duration::from_secs(5), "unshare makes no namespace");
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    fn ask(&self, address: &str) -> Result<String> {
        let namespace = std::fs::File::open(self.namespace())?;
        let address = address.to_owned();
        let asking = std::thread::spawn(move || {
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
            ask(&address)
        });
        asking.join().map_err(|_| anyhow::anyhow!("the asking thread panicked"))?
    }
}

impl Drop for Outside {
    fn drop(&mut self) {
        // The pair of interfaces goes with the namespace.
        self.holder.kill().ok();
        self.holder.wait().ok();
    }
}

fn ip(words: &str) -> Result<()> {
    run(Command::new("ip").args(words.split(' ')))
}

fn run(command: &mut Command) -> Result<()> {
    let out = command.output()?;
    ensure!(out.status.success(), "{command:?}: {}", String::from_utf8_lossy(&out.stderr));
    Ok(())
}

/// What is answered at the host's port.
fn ask(address: &str) -> Result<String> {
    let address: SocketAddr = format!("{address}:{PORT}").parse()?;
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(5))
        .with_context(|| format!("connecting to {address}"))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    stream.write_all(b"GET /index.html HTTP/1.0\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}

fn setting(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}

async fn dual_stack(dir: &std::path::Path) -> Result<Fixture> {
    let cni = json!({"cniVersion": "1.0.0", "name": "thp", "plugins": [
        {"type": "bridge", "bridge": "thpbr", "isGateway": true, "hairpinMode": true,
         "ipam": {"type": "host-local", "dataDir": dir.join("ipam"),
            "ranges": [[{"subnet": "10.234.1.0/24"}], [{"subnet": "fd00:234:1::/64"}]],
            "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]}},
        {"type": "portmap", "capabilities": {"portMappings": true}}]});
    Fixture::with(Options { cni: Some(cni), ..Options::default() }).await
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and a network namespace: cargo xtask node"]
async fn a_host_port_is_reached_from_the_node_and_from_outside_in_both_families() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let mut fixture = dual_stack(dir.path()).await?;
    let outside = Outside::new()?;
    assert_eq!(setting("/proc/sys/net/ipv4/conf/all/route_localnet"), "0", "nobody has helped");
    let mut pod_config = fixture.pod_config("served");
    pod_config.port_mappings = vec![v1::PortMapping {
        protocol: 0,
        container_port: 80,
        host_port: PORT.into(),
        host_ip: String::new(),
    }];
    let pod = fixture.client.run_pod(&pod_config).await?;
    let config = container_config("main", &fixture.image, &["sh", "-c", SERVER]);
    let container = fixture.client.create(&pod, &config, &pod_config).await?;
    fixture.client.start(&container).await?;

    let begun = Instant::now();
    while ask("192.0.2.1").is_err() && begun.elapsed() < Duration::from_secs(10) {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    for address in ["127.0.0.1", "192.0.2.1", "[2001:db8:5::1]"] {
        let answer = ask(address).with_context(|| format!("from the node to {address}"))?;
        assert!(answer.contains("this is the pod"), "from the node to {address}: {answer}");
    }
    for address in ["192.0.2.1", "[2001:db8:5::1]"] {
        let answer = outside.ask(address).with_context(|| format!("from outside to {address}"))?;
        assert!(answer.contains("this is the pod"), "from outside to {address}: {answer}");
    }
    // What 127.0.0.1 needs is the plugin's to set, and only on its bridge.
    assert_eq!(setting("/proc/sys/net/ipv4/conf/thpbr/route_localnet"), "1");
    assert_eq!(setting("/proc/sys/net/ipv4/conf/all/route_localnet"), "0");

    fixture.remove(&pod).await?;
    for address in ["127.0.0.1", "192.0.2.1", "[2001:db8:5::1]"] {
        assert!(ask(address).is_err(), "{address} is still open");
    }
    assert!(outside.ask("192.0.2.1").is_err() && outside.ask("[2001:db8:5::1]").is_err(), "it is still open");
    Ok(())
}
