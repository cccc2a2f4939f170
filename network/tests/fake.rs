//! The caller's side against plugins that misbehave: shell scripts written for each test.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use std::path::Path;
use std::time::{Duration, Instant};

use network::{Error, Network, NotReady, Pod, Settings};

#[path = "support/node.rs"]
mod node;

use node::{GOOD, Node, is_empty, pod, says, until, until_ready};

#[tokio::test]
async fn a_chain_is_added_in_order_and_taken_away_in_reverse() {
    let node = Node::new();
    node.plugin("a", GOOD).plugin("b", GOOD).chain("1.0.0", &["a", "b"]);
    let network = node.open();
    let attachment = network.attach(&pod()).await.unwrap();
    assert_eq!(attachment.ips, ["10.9.0.2".parse::<std::net::IpAddr>().unwrap()]);
    assert_eq!(network.attachment("abc"), Some(attachment));
    assert_eq!(node.told("ADD", "a").get("prevResult"), None);
    assert_eq!(node.told("ADD", "b")["prevResult"]["ips"][0]["address"], "10.9.0.2/24");
    assert_eq!(node.told("ADD", "b")["name"], "n");
    network.check("abc").await.unwrap();
    network.detach("abc").await.unwrap();
    network.detach("abc").await.unwrap();
    assert_eq!(node.told("DEL", "a")["prevResult"]["ips"][0]["address"], "10.9.0.2/24");
    assert_eq!(node.ran(), ["ADD a", "ADD b", "CHECK a", "CHECK b", "DEL b", "DEL a"]);
    assert!(is_empty(&node.path("state")));
    assert!(matches!(network.check("abc").await, Err(Error::Unknown { .. })));
}

#[tokio::test]
async fn a_refusal_is_told_in_the_plugins_words_and_what_was_added_is_taken_away() {
    let node = Node::new();
    let refuse =
        r#"echo '{"cniVersion":"1.0.0","code":11,"msg":"no addresses","details":"pool empty"}'; exit 1"#;
    node.plugin("a", GOOD).plugin_but("b", "ADD", refuse).chain("1.0.0", &["a", "b"]);
    let network = node.open();
    let error = network.attach(&pod()).await.unwrap_err();
    assert!(matches!(&error, Error::Refused { refusal, .. } if refusal.code == 11), "{error:?}");
    assert_eq!(
        error.to_string(),
        "CNI plugin b refused ADD of network n: no addresses (code 11): pool empty"
    );
    assert_eq!(node.ran(), ["ADD a", "DEL b", "DEL a"]);
    assert!(network.attachments().is_empty() && is_empty(&node.path("state")));
}

#[tokio::test]
async fn a_hanging_plugin_is_killed_with_its_children() {
    let node = Node::new();
    let hang = format!("echo $$ > {0}; sleep 600 & echo $! >> {0}; wait", node.path("pids").display());
    node.plugin_but("a", "ADD", &hang).chain("1.0.0", &["a"]);
    let begun = Instant::now();
    let error = node.open().attach(&pod()).await.unwrap_err();
    assert!(matches!(error, Error::TimedOut { .. }), "{error:?}");
    assert!(begun.elapsed() < Duration::from_secs(3));
    let pids = std::fs::read_to_string(node.path("pids")).unwrap();
    assert_eq!(pids.lines().count(), 2);
    let gone = |pid: &str| match std::fs::read_to_string(format!("/proc/{pid}/stat")) {
        Ok(stat) => stat.contains(") Z "),
        Err(_) => true,
    };
    until("the plugin's processes die", || pids.lines().all(gone)).await;
}

#[tokio::test]
async fn a_cancelled_attach_kills_the_plugin_and_detach_takes_it_away() {
    let node = Node::new();
    let hang = format!("echo $$ > {}; exec sleep 600", node.path("pid").display());
    node.plugin_but("a", "ADD", &hang).chain("1.0.0", &["a"]);
    let network =
        Network::open(Settings { plugin_timeout: Duration::from_secs(60), ..node.settings() }).unwrap();
    let attach = tokio::time::timeout(Duration::from_millis(300), network.attach(&pod())).await;
    assert!(attach.is_err());
    let pid = std::fs::read_to_string(node.path("pid")).unwrap();
    until("the plugin dies", || !Path::new("/proc").join(pid.trim()).join("exe").exists()).await;
    assert_eq!(network.attachments(), ["abc"]);
    assert_eq!(network.attachment("abc"), None);
    network.detach("abc").await.unwrap();
    assert_eq!(node.ran(), ["DEL a"]);
}

#[tokio::test]
async fn nonsense_from_a_plugin_is_named() {
    let cases = [
        ("echo hello; exit 0", "not a result"),
        ("exit 0", "not a result"),
        ("echo '[]'; exit 0", "not an object"),
        ("head -c 3000000 /dev/zero; exit 0", "more than 1048576 bytes"),
        ("echo oops >&2; exit 3", "oops"),
        ("exit 3", "nothing"),
        ("kill -9 $$", "signal: 9"),
        ("head -c 3000000 /dev/zero >&2; exit 3", "exit status: 3"),
        (r#"echo '{"cniVersion":"1.0.0","ips":[]}'; exit 0"#, "no address"),
        ("exec <&-; echo '{\"ips\":[{\"address\":\"nowhere\"}]}'; exit 0", "nowhere"),
    ];
    for (script, part) in cases {
        let node = Node::new();
        node.plugin_but("a", "ADD", script).chain("1.0.0", &["a"]);
        let network = node.open();
        says(&network.attach(&pod()).await.unwrap_err(), part);
        assert!(network.attachments().is_empty());
    }
}

#[tokio::test]
async fn a_child_that_keeps_the_plugins_output_open_does_not_hold_the_pod() {
    let node = Node::new();
    let daemon = format!("sleep 5 & echo $! > {}", node.path("pid").display());
    node.plugin_but("a", "ADD", &daemon).chain("1.0.0", &["a"]);
    let network =
        Network::open(Settings { plugin_timeout: Duration::from_secs(20), ..node.settings() }).unwrap();
    let begun = Instant::now();
    network.attach(&pod()).await.unwrap();
    assert!(begun.elapsed() < Duration::from_secs(3));
    let pid = std::fs::read_to_string(node.path("pid")).unwrap();
    assert!(Path::new("/proc").join(pid.trim()).exists(), "what a plugin left running on purpose was killed");
}

#[tokio::test]
async fn detach_goes_on_past_a_failure_and_can_be_repeated() {
    let node = Node::new();
    node.plugin("a", GOOD).plugin("b", GOOD).chain("1.0.0", &["a", "b"]);
    let network = node.open();
    network.attach(&pod()).await.unwrap();
    node.plugin("b", "exit 1");
    says(&network.detach("abc").await.unwrap_err(), "CNI plugin b failed DEL");
    assert_eq!(node.ran(), ["ADD a", "ADD b", "DEL a"]);
    assert_eq!(network.attachments(), ["abc"]);
    node.plugin("b", GOOD);
    network.detach("abc").await.unwrap();
    assert!(network.attachments().is_empty());
}

#[tokio::test]
async fn detach_uses_the_configuration_of_the_day_even_after_a_restart() {
    let node = Node::new();
    node.plugin("a", GOOD).plugin("other", GOOD).chain("1.0.0", &["a"]);
    node.open().attach(&pod()).await.unwrap();
    node.chain("1.0.0", &["other"]);
    let network = node.open();
    assert_eq!(network.attachment("abc").unwrap().network, "n");
    network.detach("abc").await.unwrap();
    assert_eq!(node.ran(), ["ADD a", "DEL a"]);
}

#[tokio::test]
async fn a_damaged_record_is_detached_with_the_network_of_today() {
    let node = Node::new();
    node.plugin("a", GOOD).chain("1.0.0", &["a"]);
    std::fs::write(node.path("state/abc.json"), "").unwrap();
    let network = node.open();
    assert_eq!(network.attachments(), ["abc"]);
    network.detach("abc").await.unwrap();
    assert_eq!(node.ran(), ["DEL a"]);
    assert!(is_empty(&node.path("state")));
}

#[tokio::test]
async fn without_a_record_nothing_is_attached() {
    let node = Node::new();
    let away = format!("mv {0} {0}.away", node.path("state").display());
    node.plugin("a", GOOD).chain("1.0.0", &["a"]);
    let network = node.open();
    std::fs::remove_dir(node.path("state")).unwrap();
    says(&network.attach(&pod()).await.unwrap_err(), "writing record");
    assert!(node.ran().is_empty(), "a plugin ran without a record");
    std::fs::create_dir(node.path("state")).unwrap();
    node.plugin("a", &format!("{GOOD}\n[ $CNI_COMMAND = ADD ] && {away}; true"));
    says(&network.attach(&pod()).await.unwrap_err(), "writing record");
    assert_eq!(node.ran(), ["ADD a", "DEL a"], "what could not be recorded stayed");
}

#[tokio::test]
async fn gc_detaches_strangers_and_tells_plugins_who_is_alive() {
    let node = Node::new();
    node.plugin("a", GOOD).chain("1.1.0", &["a"]);
    let network = node.open();
    network.attach(&pod()).await.unwrap();
    network.attach(&Pod { sandbox_id: "stranger".into(), ..pod() }).await.unwrap();
    network.gc(&["abc".into()]).await.unwrap();
    assert_eq!(network.attachments(), ["abc"]);
    let valid = &node.told("GC", "a")["cni.dev/valid-attachments"];
    assert_eq!(*valid, serde_json::json!([{"containerID": "abc", "ifname": "eth0"}]));
}

#[tokio::test]
async fn an_older_network_has_no_gc_and_no_status() {
    let node = Node::new();
    node.plugin("a", GOOD).chain("1.0.0", &["a"]);
    let network = node.open();
    network.gc(&[]).await.unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(node.ran().is_empty(), "{:?}", node.ran());
}

#[tokio::test]
async fn readiness_follows_the_plugins_status() {
    let node = Node::new();
    let away = r#"echo '{"cniVersion":"1.1.0","code":50,"msg":"daemon away"}'; exit 1"#;
    node.plugin_but("a", "STATUS", away).chain("1.1.0", &["a"]);
    let network = node.open();
    until("not ready", || matches!(network.ready(), Err(NotReady::Status { .. }))).await;
    assert!(network.ready().unwrap_err().to_string().contains("daemon away"));
    node.plugin("a", GOOD).chain("1.1.0", &["a"]);
    until("ready", || network.ready().is_ok()).await;
}

#[tokio::test]
async fn a_version_that_a_plugin_does_not_speak_is_said_before_any_pod_comes() {
    let node = Node::new();
    let old = r#"echo '{"cniVersion":"1.0.0","supportedVersions":["0.4.0","1.0.0"]}'; exit 0"#;
    node.plugin_but("a", "VERSION", old).chain("1.1.0", &["a"]);
    let network = node.open();
    until("refused", || matches!(network.ready(), Err(NotReady::Version { .. }))).await;
    let many =
        r#"{"cniVersion":"0.4.0","cniVersions":["1.0.0","1.1.0"],"name":"n","plugins":[{"type":"a"}]}"#;
    std::fs::write(node.path("net.d/10-n.conflist"), many).unwrap();
    until("ready", || network.ready().is_ok()).await;
    network.attach(&pod()).await.unwrap();
    assert_eq!(node.told("ADD", "a")["cniVersion"], "1.0.0");
}

#[tokio::test]
async fn the_configuration_directory_may_come_and_go() {
    let node = Node::new();
    node.plugin("a", GOOD);
    std::fs::remove_dir(node.path("net.d")).unwrap();
    let deep = Settings { conf_dir: node.path("etc/cni/net.d"), ..node.settings() };
    let network = Network::open(deep).unwrap();
    assert!(matches!(network.ready(), Err(NotReady::NoConfiguration { .. })));
    assert!(matches!(network.attach(&pod()).await, Err(Error::NotReady(_))));
    let chain = r#"{"cniVersion":"1.0.0","name":"n","plugins":[{"type":"a"}]}"#;
    for _ in 0..3 {
        std::fs::create_dir_all(node.path("etc/cni/net.d")).unwrap();
        tokio::time::sleep(Duration::from_millis(20)).await;
        std::fs::write(node.path("etc/cni/net.d/10-n.conflist"), chain).unwrap();
        until("ready", || network.ready().is_ok()).await;
        std::fs::write(node.path("etc/cni/net.d/10-n.conflist"), "{").unwrap();
        until("broken", || matches!(network.ready(), Err(NotReady::BadConfiguration { .. }))).await;
        std::fs::remove_dir_all(node.path("etc")).unwrap();
        until("gone", || matches!(network.ready(), Err(NotReady::NoConfiguration { .. }))).await;
    }
}

#[tokio::test]
async fn a_missing_plugin_and_a_bad_id_are_said() {
    let node = Node::new();
    node.chain("1.0.0", &["nowhere"]);
    let network = node.open();
    let refused = network.ready().unwrap_err().to_string();
    assert!(refused.contains("\"nowhere\"") && refused.contains("/bin"), "{refused}");
    let traversal = Pod { sandbox_id: "../abc".into(), ..pod() };
    assert!(matches!(network.attach(&traversal).await, Err(Error::Invalid { .. })));
    assert!(is_empty(&node.path("state")));
}

#[tokio::test]
async fn a_plugin_type_that_leaves_its_directory_runs_nothing() {
    let node = Node::new();
    let marker = node.path("ran");
    node.plugin("evil", &format!("touch {}", marker.display()));
    node.chain("1.0.0", &["../bin/evil"]);
    let network = node.open();
    assert!(matches!(network.ready(), Err(NotReady::BadConfiguration { .. })));
    assert!(network.attach(&pod()).await.is_err());
    assert!(!marker.exists());
}

#[tokio::test]
async fn a_template_becomes_a_network_once_the_ranges_are_told() {
    let node = Node::new();
    node.plugin("good", GOOD);
    let template = node.path("template");
    let text = r#"{"cniVersion": "1.0.0", "name": "pods", "plugins": [{"type": "good", "ipam": {"type": "good",
        "ranges": [{{range $i, $r := .PodCIDRRanges}}{{if $i}},{{end}}[{"subnet": "{{$r}}"}]{{end}}]}}]}"#;
    std::fs::write(&template, text).unwrap();
    let network = Network::open(Settings { template: Some(template.clone()), ..node.settings() }).unwrap();
    assert!(matches!(network.ready(), Err(NotReady::NoConfiguration { .. })));
    let refused = network.set_pod_ranges("10.7.0.0").unwrap_err().to_string();
    assert!(refused.contains("\"10.7.0.0\" is not a range"), "{refused}");
    network.set_pod_ranges("").unwrap();
    assert_eq!(std::fs::read_dir(node.path("net.d")).unwrap().count(), 0, "no ranges, no network");
    network.set_pod_ranges("10.7.0.0/24,fd00:7::/64").unwrap();
    until_ready(&network).await;
    assert_eq!(network.names(), ["pods"]);
    network.attach(&pod()).await.unwrap();
    let told = node.told("ADD", "good");
    assert_eq!(told["ipam"]["ranges"][1][0]["subnet"], "fd00:7::/64", "{told}");

    std::fs::write(&template, "{{.Nothing}}").unwrap();
    let refused = network.set_pod_ranges("10.8.0.0/24").unwrap_err().to_string();
    assert!(refused.contains("{{.Nothing}}") && refused.contains("template"), "{refused}");
    std::fs::write(&template, "{}").unwrap();
    let refused = network.set_pod_ranges("10.8.0.0/24").unwrap_err().to_string();
    assert!(refused.contains("name"), "{refused}");
}

#[tokio::test]
async fn another_networks_configuration_is_left_alone() {
    let node = Node::new();
    node.plugin("good", GOOD).chain("1.0.0", &["good"]);
    std::fs::write(node.path("template"), "{{.Nothing}}").unwrap();
    let settings = Settings { template: Some(node.path("template")), ..node.settings() };
    let network = Network::open(settings).unwrap();
    network.set_pod_ranges("10.7.0.0/24").unwrap();
    assert_eq!(std::fs::read_dir(node.path("net.d")).unwrap().count(), 1);
}
