//! Attaching with the plugins that everybody uses (Debian's `containernetworking-plugins`), in a
//! network namespace that plays the host and dies with the test. Needs root.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use network::{Network, Pod, PortMapping, Protocol, Settings};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};

const PLUGINS: &str = "/usr/lib/cni";

/// Runs a test as on a host of its own: mounts and interfaces are seen by nobody else and vanish after it.
fn on_a_host_of_its_own<F: Future<Output = ()>>(test: impl FnOnce(Host) -> F + Send + 'static) {
    if !nix::unistd::geteuid().is_root() || !Path::new(PLUGINS).join("bridge").exists() {
        eprintln!("skipped: needs root and {PLUGINS}/bridge (apt-get install containernetworking-plugins)");
        return;
    }
    let body = move || {
        unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).unwrap();
        mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>).unwrap();
        sh("ip link set lo up");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(test(Host::new()));
    };
    std::thread::spawn(body).join().unwrap();
}

struct Host {
    dir: tempfile::TempDir,
}

impl Host {
    fn new() -> Host {
        let host = Host { dir: tempfile::tempdir().unwrap() };
        std::fs::create_dir(host.path("net.d")).unwrap();
        host
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A bridge with addresses from both families and port mappings.
    fn bridge(&self, subnet: &str) -> &Host {
        let chain = serde_json::json!({
            "cniVersion": "1.0.0", "name": "testnet",
            "plugins": [
                {"type": "bridge", "bridge": "br-test", "isGateway": true, "ipMasq": false,
                 "ipam": {"type": "host-local", "dataDir": self.path("ipam"),
                          "ranges": [[{"subnet": subnet}], [{"subnet": "fd00:7::/64"}]],
                          "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]}},
                {"type": "portmap", "capabilities": {"portMappings": true}, "snat": true},
                {"type": "tuning", "sysctl": {"net.ipv4.conf.eth0.log_martians": "0"}}
            ]
        });
        std::fs::write(self.path("net.d/10-test.conflist"), chain.to_string()).unwrap();
        self
    }

    /// A further network, of one family and nothing else.
    fn second_bridge(&self, subnet: &str) -> &Host {
        let chain = serde_json::json!({
            "cniVersion": "1.0.0", "name": "second",
            "plugins": [{"type": "bridge", "bridge": "br-second", "isGateway": true,
                "ipam": {"type": "host-local", "dataDir": self.path("ipam"), "ranges": [[{"subnet": subnet}]]}}]
        });
        std::fs::write(self.path("net.d/20-second.conflist"), chain.to_string()).unwrap();
        self
    }

    fn open(&self) -> Network {
        self.open_with(1)
    }

    fn open_with(&self, max_networks: usize) -> Network {
        Network::open(Settings {
            conf_dir: self.path("net.d"),
            bin_dirs: vec![PLUGINS.into()],
            state_dir: self.path("state"),
            default_network: None,
            max_networks,
            plugin_timeout: Duration::from_secs(20),
            template: None,
        })
        .unwrap()
    }

    /// A pinned network namespace with loopback up, as the monitor makes it.
    fn netns(&self, name: &str) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, "").unwrap();
        let pin = path.clone();
        let make = move || {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            sh("ip link set lo up");
            let own = "/proc/thread-self/ns/net";
            mount(Some(own), &pin, None::<&str>, MsFlags::MS_BIND, None::<&str>).unwrap();
        };
        std::thread::spawn(make).join().unwrap();
        path
    }

    /// Addresses that host-local still holds.
    fn held(&self) -> Vec<String> {
        self.held_in("testnet")
    }

    fn held_in(&self, network: &str) -> Vec<String> {
        let Ok(entries) = std::fs::read_dir(self.path("ipam").join(network)) else { return Vec::new() };
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.parse::<std::net::IpAddr>().is_ok()).collect()
    }
}

fn pod(id: &str, netns: &Path) -> Pod {
    Pod {
        sandbox_id: id.into(),
        name: "web".into(),
        namespace: "d".into(),
        netns: netns.into(),
        ..Pod::default()
    }
}

#[track_caller]
fn sh(line: &str) -> String {
    let out = Command::new("sh").args(["-c", line]).output().unwrap();
    assert!(out.status.success(), "{line}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap()
}

fn veths() -> usize {
    sh("ip -o link show type veth").lines().count()
}

/// Answers every connection in the namespace with a greeting.
fn greeter(netns: &Path, port: u16) {
    let netns = netns.to_owned();
    let (ready, listening) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let namespace = std::fs::File::open(netns).unwrap();
        nix::sched::setns(namespace, CloneFlags::CLONE_NEWNET).unwrap();
        let listener = std::net::TcpListener::bind((std::net::Ipv4Addr::UNSPECIFIED, port)).unwrap();
        ready.send(()).unwrap();
        while let Ok((mut client, _)) = listener.accept() {
            client.write_all(b"hello").unwrap();
        }
    });
    listening.recv().unwrap();
}

async fn connect(netns: &Path, address: SocketAddr) -> std::io::Result<std::net::TcpStream> {
    let socket = network::netns::socket(netns, address)?;
    let stream = tokio::net::TcpSocket::from_std_stream(socket.into()).connect(address).await?.into_std()?;
    stream.set_nonblocking(false)?;
    Ok(stream)
}

fn greeting(mut stream: std::net::TcpStream) -> String {
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

#[test]
fn a_pod_gets_both_families_answers_and_gives_everything_back() {
    on_a_host_of_its_own(|host| async move {
        let network = host.bridge("10.77.0.0/24").open();
        network.ready().unwrap();
        let netns = host.netns("pod");
        let attachment = network.attach(&pod("a1", &netns)).await.unwrap();
        assert_eq!(attachment.ips.len(), 2);
        assert!(attachment.ips[0].is_ipv4() && attachment.ips[1].is_ipv6(), "{attachment:?}");
        assert_eq!(attachment.interface, "eth0");
        assert_eq!(network.attach(&pod("a1", &netns)).await.unwrap(), attachment, "attaching twice is once");
        network.check("a1").await.unwrap();

        greeter(&netns, 7777);
        let from_host = std::net::TcpStream::connect((attachment.ips[0], 7777)).unwrap();
        assert_eq!(greeting(from_host), "hello");
        let local = SocketAddr::from(([127, 0, 0, 1], 7777));
        assert_eq!(greeting(connect(&netns, local).await.unwrap()), "hello");
        let refused = connect(&netns, SocketAddr::from(([127, 0, 0, 1], 7778))).await.unwrap_err();
        assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);

        assert_eq!((host.held().len(), veths()), (2, 1));
        assert_eq!(host.open().attachment("a1"), Some(attachment), "a restarted daemon knows it");
        network.detach("a1").await.unwrap();
        assert_eq!((host.held(), veths()), (vec![], 0));
    });
}

#[test]
fn a_pod_on_two_networks_has_an_interface_in_each_and_gives_both_back() {
    on_a_host_of_its_own(|host| async move {
        let network = host.bridge("10.84.0.0/24").second_bridge("10.85.0.0/24").open_with(2);
        let netns = host.netns("pod");
        let attachment = network.attach(&pod("a1", &netns)).await.unwrap();
        assert_eq!(attachment.ips.len(), 2, "the pod's addresses are those of eth0: {attachment:?}");
        assert_eq!(network.attach(&pod("a1", &netns)).await.unwrap(), attachment, "attaching twice is once");
        network.check("a1").await.unwrap();
        let inside = sh(&format!("nsenter --net={} ip -o -4 addr", netns.display()));
        assert!(inside.contains("eth0    inet 10.84.0.2/24"), "{inside}");
        assert!(inside.contains("eth1    inet 10.85.0.2/24"), "{inside}");
        greeter(&netns, 7777);
        let through_second = std::net::TcpStream::connect(("10.85.0.2", 7777)).unwrap();
        assert_eq!(greeting(through_second), "hello");
        assert_eq!((host.held().len(), host.held_in("second").len(), veths()), (2, 1, 2));
        // Another daemon, with another setting, knows what this one made.
        let network = host.open();
        assert_eq!(network.attachments_of("a1").len(), 2);
        network.detach("a1").await.unwrap();
        assert_eq!((host.held(), host.held_in("second"), veths()), (vec![], vec![], 0));
    });
}

#[test]
fn a_second_network_that_fails_gives_back_the_first() {
    on_a_host_of_its_own(|host| async move {
        let network = host.bridge("10.86.0.0/24").second_bridge("10.87.0.0/30").open_with(2);
        let (one, two) = (host.netns("one"), host.netns("two"));
        network.attach(&pod("one", &one)).await.unwrap();
        let error = network.attach(&pod("two", &two)).await.unwrap_err();
        assert!(error.to_string().contains("network second has no free address"), "{error}");
        assert_eq!((host.held().len(), host.held_in("second").len(), veths()), (2, 1, 2), "the first pod's");
        network.detach("one").await.unwrap();
        network.attach(&pod("two", &two)).await.unwrap();
        network.detach("two").await.unwrap();
        assert_eq!((host.held(), host.held_in("second"), veths()), (vec![], vec![], 0));
    });
}

/// A daemon was killed between the two.
#[test]
fn a_pod_of_which_one_network_was_not_finished_is_attached_anew() {
    on_a_host_of_its_own(|host| async move {
        let network = host.bridge("10.88.0.0/24").second_bridge("10.89.0.0/24").open_with(2);
        let netns = host.netns("pod");
        network.attach(&pod("a1", &netns)).await.unwrap();
        drop(network);
        let found = sh(&format!("find {} -name 'a1@eth1.json'", host.path("state").display()));
        let record = PathBuf::from(found.trim());
        let mut unfinished: serde_json::Value =
            serde_json::from_slice(&std::fs::read(&record).unwrap()).unwrap();
        assert!(unfinished["result"].is_object(), "{unfinished}");
        unfinished["result"] = serde_json::Value::Null;
        std::fs::write(&record, unfinished.to_string()).unwrap();
        sh(&format!("nsenter --net={} ip link del eth1", netns.display()));
        let network = host.open_with(2);
        network.attach(&pod("a1", &netns)).await.unwrap();
        let inside = sh(&format!("nsenter --net={} ip -o -4 addr", netns.display()));
        assert!(
            inside.contains("eth0    inet 10.88.0.") && inside.contains("eth1    inet 10.89.0."),
            "{inside}"
        );
        assert_eq!((host.held().len(), host.held_in("second").len(), veths()), (2, 1, 2));
        network.detach("a1").await.unwrap();
        assert_eq!((host.held(), host.held_in("second"), veths()), (vec![], vec![], 0));
    });
}

#[test]
fn detach_works_when_the_namespace_is_gone_and_the_configuration_changed() {
    on_a_host_of_its_own(|host| async move {
        let network = host.bridge("10.78.0.0/24").open();
        for id in ["unmounted", "removed"] {
            let netns = host.netns(id);
            network.attach(&pod(id, &netns)).await.unwrap();
            umount2(&netns, MntFlags::MNT_DETACH).unwrap();
        }
        std::fs::remove_file(host.path("removed")).unwrap();
        std::fs::remove_file(host.path("net.d/10-test.conflist")).unwrap();
        let again = host.open();
        assert!(again.ready().is_err());
        for id in again.attachments() {
            again.detach(&id).await.unwrap();
        }
        assert_eq!(host.held(), Vec::<String>::new());
        assert_eq!(std::fs::read_dir(host.path("state")).unwrap().count(), 0);
    });
}

#[test]
fn a_host_port_leads_to_the_pod_and_is_closed_with_it() {
    on_a_host_of_its_own(|host| async move {
        let network = host.bridge("10.79.0.0/24").open();
        let netns = host.netns("pod");
        let mapping =
            PortMapping { protocol: Protocol::Tcp, container_port: 80, host_port: 8080, host_ip: None };
        let asked = Pod { port_mappings: vec![mapping], ..pod("a1", &netns) };
        network.attach(&asked).await.unwrap();
        greeter(&netns, 80);
        let local = SocketAddr::from(([127, 0, 0, 1], 8080));
        let stream = std::net::TcpStream::connect_timeout(&local, Duration::from_secs(5)).unwrap();
        assert_eq!(greeting(stream), "hello");
        network.detach("a1").await.unwrap();
        assert!(!sh("iptables -t nat -S").contains("8080"), "rules were left behind");
        assert_eq!(host.held(), Vec::<String>::new());
    });
}

#[test]
fn a_pods_bandwidth_is_limited_as_its_annotations_ask() {
    on_a_host_of_its_own(|host| async move {
        let text = host.bridge("10.83.0.0/24").path("net.d/10-test.conflist");
        let mut chain: serde_json::Value = serde_json::from_slice(&std::fs::read(&text).unwrap()).unwrap();
        let limiter = serde_json::json!({"type": "bandwidth", "capabilities": {"bandwidth": true}});
        chain["plugins"].as_array_mut().unwrap().push(limiter);
        std::fs::write(text, chain.to_string()).unwrap();
        let network = host.open();
        let mut asked = pod("a1", &host.netns("pod"));
        asked.annotations.insert("kubernetes.io/ingress-bandwidth".into(), "10M".into());
        network.attach(&asked).await.unwrap();
        let queues = sh("tc qdisc show");
        assert!(queues.contains("tbf") && queues.contains("10Mbit"), "{queues}");
        network.detach("a1").await.unwrap();
        assert!(!sh("tc qdisc show").contains("tbf"));
        assert_eq!(host.held(), Vec::<String>::new());
    });
}

#[test]
fn a_failed_chain_gives_back_the_address_it_was_given() {
    on_a_host_of_its_own(|host| async move {
        let network = host.bridge("10.80.0.0/24").open();
        let text = std::fs::read_to_string(host.path("net.d/10-test.conflist")).unwrap();
        let broken = text.replace("net.ipv4.conf.eth0.log_martians", "net.ipv4.no_such_thing");
        std::fs::write(host.path("net.d/10-test.conflist"), broken).unwrap();
        drop(network);
        let network = host.open();
        let netns = host.netns("pod");
        let error = network.attach(&pod("a1", &netns)).await.unwrap_err();
        assert!(error.to_string().contains("CNI plugin tuning"), "{error}");
        assert_eq!((host.held(), veths()), (vec![], 0));
        assert!(network.attachments().is_empty());
    });
}

#[test]
fn many_pods_come_and_go_at_once_and_leave_nothing() {
    on_a_host_of_its_own(|host| async move {
        let network = host.bridge("10.81.0.0/24").open();
        let pods: Vec<Pod> =
            (0..12).map(|n| pod(&format!("p{n}"), &host.netns(&format!("pod{n}")))).collect();
        let attached = futures_util::future::join_all(pods.iter().map(|pod| network.attach(pod))).await;
        let mut ips: Vec<_> = attached.into_iter().map(|one| one.unwrap().ips[0]).collect();
        ips.sort();
        ips.dedup();
        assert_eq!(ips.len(), 12, "every pod has an address of its own");
        network.gc(&[]).await.unwrap();
        assert_eq!((host.held(), veths()), (vec![], 0));
    });
}

/// How much of an attach is ours: the bridge plugin by hand against the same through the crate. Run by hand:
/// `cargo test -p network --release --test real overhead -- --ignored --nocapture`.
#[test]
#[ignore = "a measurement"]
fn overhead_over_the_plugin_itself() {
    on_a_host_of_its_own(|host| async move {
        let mut chain: serde_json::Value = serde_json::from_str(
            &std::fs::read_to_string(host.bridge("10.82.0.0/24").path("net.d/10-test.conflist")).unwrap(),
        )
        .unwrap();
        chain["plugins"].as_array_mut().unwrap().truncate(1);
        std::fs::write(host.path("net.d/10-test.conflist"), chain.to_string()).unwrap();
        let mut conf = chain["plugins"][0].clone();
        conf["cniVersion"] = "1.0.0".into();
        conf["name"] = "testnet".into();
        let network = host.open();
        let (mut by_hand_ms, mut ours_ms) = (Vec::new(), Vec::new());
        for n in 0..30 {
            let netns = host.netns(&format!("pod{n}"));
            ours_ms.push(timed(network.attach(&pod(&format!("p{n}"), &netns))).await);
            network.detach(&format!("p{n}")).await.unwrap();
            by_hand_ms.push(timed(async { by_hand("ADD", &conf, &netns) }).await);
            by_hand("DEL", &conf, &netns);
        }
        for (name, mut took_ms) in [("by hand", by_hand_ms), ("attach", ours_ms)] {
            took_ms.sort_by(f64::total_cmp);
            println!("{name}: p50 {:.2} ms, best {:.2} ms", took_ms[took_ms.len() / 2], took_ms[0]);
        }
    });
}

async fn timed<T>(work: impl Future<Output = T>) -> f64 {
    let begun = Instant::now();
    work.await;
    begun.elapsed().as_secs_f64() * 1e3
}

fn by_hand(verb: &str, conf: &serde_json::Value, netns: &Path) {
    use std::process::Stdio;
    let mut child = Command::new(Path::new(PLUGINS).join("bridge"))
        .envs([
            ("CNI_COMMAND", verb),
            ("CNI_CONTAINERID", "hand"),
            ("CNI_IFNAME", "eth0"),
            ("CNI_PATH", PLUGINS),
        ])
        .env("CNI_NETNS", netns)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(conf.to_string().as_bytes()).unwrap();
    assert!(child.wait_with_output().unwrap().status.success());
}
