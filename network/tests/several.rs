//! Pods that join several networks, and what of it plugins are told: shell scripts play them.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

#[path = "support/node.rs"]
mod node;

use network::{Network, Pod, PortMapping, Protocol, Settings};
use node::{Node, is_empty, pod, says};
use serde_json::json;

/// Notes verb, sandbox and interface, and its whole stdin by verb and interface; its address is that of the interface.
const NUMBERED: &str = r#"given=$(cat)
case $CNI_COMMAND in
  VERSION) echo '{"cniVersion":"1.1.0","supportedVersions":["1.0.0","1.1.0"]}'; exit;;
  STATUS) exit;;
esac
printf '%s %s %s %s\n' "$CNI_COMMAND" "${0##*/}" "$CNI_CONTAINERID" "$CNI_IFNAME" >> "$LOG"
printf '%s' "$given" > "$LOG.$CNI_COMMAND.${0##*/}"
[ $CNI_COMMAND != ADD ] || echo '{"cniVersion":"1.1.0","interfaces":[{"name":"'$CNI_IFNAME'","sandbox":"/x"}],
  "ips":[{"address":"10.9.'${CNI_IFNAME#eth}'.2/24","interface":0}]}'"#;

const REFUSE: &str = r#"[ $CNI_COMMAND != ADD ] || { echo "$CNI_COMMAND ${0##*/} refused" >> "$LOG"
  echo '{"cniVersion":"1.1.0","code":11,"msg":"the switch is away"}'; exit 1; }"#;

impl Node {
    fn two_networks(&self) -> &Node {
        self.plugin("one", NUMBERED).plugin("two", NUMBERED).plugin("three", NUMBERED);
        self.network("10-a.conflist", "a", "one").network("20-b.conflist", "b", "two");
        self.network("30-c.conflist", "c", "three")
    }

    fn open_with(&self, max_networks: usize) -> Network {
        Network::open(Settings { max_networks, ..self.settings() }).unwrap()
    }

    fn lines(&self) -> Vec<String> {
        self.log().lines().map(str::to_owned).collect()
    }

    fn last_told(&self, verb: &str, kind: &str) -> serde_json::Value {
        let file = self.path(&format!("log.{verb}.{kind}"));
        serde_json::from_slice(&std::fs::read(&file).unwrap_or_else(|error| panic!("{file:?}: {error}")))
            .unwrap()
    }
}

#[tokio::test]
async fn networks_are_added_one_after_the_other_and_taken_away_in_reverse() {
    let node = Node::new();
    let network = node.two_networks().open_with(2);
    assert_eq!(network.names(), ["a", "b"]);
    let attachment = network.attach(&pod()).await.unwrap();
    assert_eq!((attachment.network.as_str(), attachment.interface.as_str()), ("a", "eth0"));
    assert_eq!(
        attachment.ips,
        ["10.9.0.2".parse::<std::net::IpAddr>().unwrap()],
        "the pod's is that of eth0"
    );
    let all = |network: &Network| -> Vec<String> {
        let words = |one: network::Attachment| format!("{} {} {}", one.network, one.interface, one.ips[0]);
        network.attachments_of("abc").into_iter().map(words).collect()
    };
    assert_eq!(all(&network), ["a eth0 10.9.0.2", "b eth1 10.9.1.2"]);
    network.check("abc").await.unwrap();
    drop(network);
    // A restarted daemon knows both, whatever its setting is by then.
    let network = node.open_with(1);
    assert_eq!(all(&network), ["a eth0 10.9.0.2", "b eth1 10.9.1.2"]);
    assert_eq!(network.attachments(), ["abc"]);
    network.detach("abc").await.unwrap();
    let expected = [
        "ADD one abc eth0",
        "ADD two abc eth1",
        "CHECK one abc eth0",
        "CHECK two abc eth1",
        "DEL two abc eth1",
        "DEL one abc eth0",
    ];
    assert_eq!(node.lines(), expected);
    assert!(is_empty(&node.path("state")));
}

#[tokio::test]
async fn one_network_is_joined_unless_more_are_asked_for_and_the_default_one_comes_first() {
    let node = Node::new();
    node.two_networks().open().attach(&pod()).await.unwrap();
    assert_eq!(node.lines(), ["ADD one abc eth0"]);
    std::fs::remove_file(node.path("log")).unwrap();
    let default_network = Some("c".to_owned());
    let settings = Settings { max_networks: 9, default_network, ..node.settings() };
    let network = Network::open(settings).unwrap();
    network.attach(&Pod { sandbox_id: "def".into(), ..pod() }).await.unwrap();
    assert_eq!(node.lines(), ["ADD three def eth0", "ADD one def eth1", "ADD two def eth2"]);
}

#[tokio::test]
async fn a_second_network_that_refuses_undoes_the_first() {
    let node = Node::new();
    node.two_networks().plugin("two", &format!("{REFUSE}\n{NUMBERED}"));
    let network = node.open_with(3);
    says(&network.attach(&pod()).await.unwrap_err(), "refused ADD of network b: the switch is away");
    let expected =
        ["ADD one abc eth0", "ADD two refused", "DEL three abc eth2", "DEL two abc eth1", "DEL one abc eth0"];
    assert_eq!(node.lines(), expected);
    assert!(network.attachments().is_empty() && is_empty(&node.path("state")));
}

#[tokio::test]
async fn a_network_that_is_not_given_back_holds_up_no_other_and_is_asked_for_again() {
    let node = Node::new();
    let network = node.two_networks().open_with(2);
    network.attach(&pod()).await.unwrap();
    node.plugin("two", "exit 1");
    says(&network.detach("abc").await.unwrap_err(), "CNI plugin two failed DEL of network b");
    assert_eq!(network.attachment("abc"), None, "the first is given back");
    assert_eq!(network.attachments(), ["abc"], "the second is a debt");
    node.plugin("two", NUMBERED);
    let network = node.open_with(2);
    network.detach("abc").await.unwrap();
    assert_eq!(node.lines()[2..], ["DEL one abc eth0", "DEL two abc eth1"]);
    assert!(network.attachments().is_empty() && is_empty(&node.path("state")));
}

#[tokio::test]
async fn a_pod_of_which_one_network_was_not_finished_is_detached_whole() {
    let node = Node::new();
    node.two_networks().open_with(2).attach(&pod()).await.unwrap();
    // A crash in the middle of the second ADD: its record has no result.
    let file = node.path("state/abc@eth1.json");
    let mut record: serde_json::Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    record["result"] = json!(null);
    std::fs::write(&file, record.to_string()).unwrap();
    let network = node.open_with(2);
    network.gc(&[]).await.unwrap();
    assert_eq!(node.lines()[2..4], ["DEL two abc eth1", "DEL one abc eth0"]);
    assert!(is_empty(&node.path("state")));
}

#[tokio::test]
async fn a_damaged_record_is_detached_with_the_network_of_its_interface() {
    let node = Node::new();
    node.two_networks();
    std::fs::write(node.path("state/abc@eth1.json"), "").unwrap();
    let network = node.open_with(2);
    network.detach("abc").await.unwrap();
    assert_eq!(node.lines(), ["DEL two abc eth1"]);
    assert!(is_empty(&node.path("state")));
}

#[tokio::test]
async fn each_networks_plugins_hear_of_its_own_attachments_alone() {
    let node = Node::new();
    node.two_networks().open_with(1).attach(&Pod { sandbox_id: "older".into(), ..pod() }).await.unwrap();
    let network = node.open_with(2);
    // The versions are settled in the background.
    node::until_ready(&network).await;
    network.attach(&pod()).await.unwrap();
    network.gc(&network.attachments()).await.unwrap();
    let valid = |kind: &str| node.last_told("GC", kind)["cni.dev/valid-attachments"].clone();
    let of = |id: &str, interface: &str| json!({"containerID": id, "ifname": interface});
    assert_eq!(valid("one"), json!([of("abc", "eth0"), of("older", "eth0")]));
    assert_eq!(valid("two"), json!([of("abc", "eth1")]));
}

#[tokio::test]
async fn what_is_the_first_networks_is_not_told_to_the_second() {
    let node = Node::new();
    node.plugin("one", NUMBERED).plugin("two", NUMBERED);
    let capabilities = json!({"portMappings": true, "bandwidth": true, "ipRanges": true, "mac": true, "dns": true,
        "aliases": true, "cgroupPath": true});
    for (file, name, kind) in [("10-a.conflist", "a", "one"), ("20-b.conflist", "b", "two")] {
        let plugins = json!([{"type": kind, "capabilities": capabilities}]);
        let chain = json!({"cniVersion": "1.1.0", "name": name, "plugins": plugins});
        std::fs::write(node.path("net.d").join(file), chain.to_string()).unwrap();
    }
    node.open_with(2).set_pod_ranges("10.7.0.0/24,fd00:7::/64").unwrap();
    // The kubelet does not tell the ranges to each daemon anew.
    let network = node.open_with(2);
    let port = PortMapping { protocol: Protocol::Tcp, container_port: 80, host_port: 8080, host_ip: None };
    let annotations =
        [("io.berth.network/mac", "0A:00:00:00:00:01"), ("kubernetes.io/egress-bandwidth", "1M")];
    let asked = Pod {
        port_mappings: vec![port],
        aliases: vec!["web".into(), "www".into()],
        cgroup_parent: Some("/pods/web".into()),
        annotations: annotations.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
        ..pod()
    };
    network.attach(&asked).await.unwrap();
    let first = node.last_told("ADD", "one")["runtimeConfig"].clone();
    assert_eq!(first["ipRanges"], json!([[{"subnet": "10.7.0.0/24"}], [{"subnet": "fd00:7::/64"}]]));
    assert_eq!(first["mac"], "0a:00:00:00:00:01");
    assert_eq!(first["portMappings"][0]["hostPort"], 8080);
    let second = node.last_told("ADD", "two")["runtimeConfig"].clone();
    let told: Vec<&String> = second.as_object().unwrap().keys().collect();
    assert_eq!(told, ["aliases", "bandwidth", "cgroupPath"], "{second}");
    for told in [first, second] {
        assert_eq!(told["aliases"], json!(["web", "www"]));
        assert_eq!(told["cgroupPath"], "/pods/web");
        let bandwidth = &told["bandwidth"];
        assert_eq!(
            (bandwidth["egressRate"].as_u64(), bandwidth["ingressRate"].as_u64()),
            (Some(1_000_000), Some(0))
        );
    }
    let wrong = Pod { annotations: [("io.berth.network/mac".to_owned(), "here".to_owned())].into(), ..asked };
    says(
        &network.attach(&Pod { sandbox_id: "wrong".into(), ..wrong }).await.unwrap_err(),
        "io.berth.network/mac",
    );
}

#[tokio::test]
async fn addresses_that_have_run_out_are_said_with_the_network() {
    let node = Node::new();
    let none = r#"[ $CNI_COMMAND != ADD ] || { echo '{"cniVersion":"1.1.0","code":999,
        "msg":"failed to allocate for range 0: no IP addresses available in range set: 10.9.0.2-10.9.0.3"}'; exit 1; }"#;
    node.two_networks().plugin("one", &format!("{none}\n{NUMBERED}"));
    let error = node.open().attach(&pod()).await.unwrap_err();
    assert!(matches!(&error, network::Error::NoFreeAddress { network, .. } if network == "a"), "{error:?}");
    says(&error, "network a has no free address");
    says(&error, "10.9.0.2-10.9.0.3");
}
