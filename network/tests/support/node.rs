//! A node whose plugins are shell scripts written for each test, and what they were told.

#![allow(dead_code, reason = "each test program uses its part")]

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use network::{Error, Network, Pod, Settings};

/// A node's CNI directories, with plugins of our making.
pub(crate) struct Node {
    dir: tempfile::TempDir,
}

/// Notes what it was told and answers with an address.
pub(crate) const GOOD: &str = r#"printf '%s %s %s\n' "$CNI_COMMAND" "${0##*/}" "$(cat)" >> "$LOG"
case $CNI_COMMAND in
  ADD) echo '{"cniVersion":"1.0.0","interfaces":[{"name":"eth0","sandbox":"/x"}],"ips":[{"address":"10.9.0.2/24","interface":0}]}';;
  VERSION) echo '{"cniVersion":"1.1.0","supportedVersions":["0.4.0","1.0.0","1.1.0"]}';;
esac"#;

impl Node {
    pub(crate) fn new() -> Node {
        let node = Node { dir: tempfile::tempdir().unwrap() };
        for name in ["net.d", "bin", "state"] {
            std::fs::create_dir(node.path(name)).unwrap();
        }
        node
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn plugin(&self, kind: &str, script: &str) -> &Node {
        let path = self.path("bin").join(kind);
        let log = self.path("log");
        std::fs::write(&path, format!("#!/bin/sh\nLOG={}\n{script}\n", log.display())).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
        self
    }

    /// A plugin that is good save for one verb.
    pub(crate) fn plugin_but(&self, kind: &str, verb: &str, script: &str) -> &Node {
        self.plugin(kind, &format!("if [ $CNI_COMMAND = {verb} ]; then\n{script}\nfi\n{GOOD}"))
    }

    pub(crate) fn chain(&self, version: &str, kinds: &[&str]) -> &Node {
        let plugins: Vec<_> = kinds.iter().map(|kind| serde_json::json!({"type": kind})).collect();
        let chain = serde_json::json!({"cniVersion": version, "name": "n", "plugins": plugins});
        std::fs::write(self.path("net.d/10-n.conflist"), chain.to_string()).unwrap();
        self
    }

    /// Another network, of one plugin of 1.1.
    pub(crate) fn network(&self, file: &str, name: &str, kind: &str) -> &Node {
        let chain = serde_json::json!({"cniVersion": "1.1.0", "name": name, "plugins": [{"type": kind}]});
        std::fs::write(self.path("net.d").join(file), chain.to_string()).unwrap();
        self
    }

    pub(crate) fn settings(&self) -> Settings {
        Settings {
            conf_dir: self.path("net.d"),
            bin_dirs: vec![self.path("bin")],
            state_dir: self.path("state"),
            default_network: None,
            max_networks: 1,
            plugin_timeout: Duration::from_millis(700),
            template: None,
        }
    }

    pub(crate) fn open(&self) -> Network {
        Network::open(self.settings()).unwrap()
    }

    /// The verbs and plugins that ran, without the questions about versions.
    pub(crate) fn ran(&self) -> Vec<String> {
        let words = |line: &str| line.split(' ').take(2).collect::<Vec<_>>().join(" ");
        self.log().lines().map(words).filter(|run| !run.starts_with("VERSION")).collect()
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    /// What the plugin was told on its stdin, the last time that it ran for this verb.
    pub(crate) fn told(&self, verb: &str, kind: &str) -> serde_json::Value {
        let head = format!("{verb} {kind} ");
        let log = self.log();
        let line = log.lines().rev().find_map(|line| line.strip_prefix(&head));
        serde_json::from_str(line.expect("it ran")).unwrap()
    }
}

pub(crate) fn pod() -> Pod {
    Pod { sandbox_id: "abc".into(), name: "web".into(), namespace: "d".into(), ..Pod::default() }
}

/// Waits for something that another task or process brings about.
pub(crate) async fn until(what: &str, mut come: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !come() {
        assert!(begun.elapsed() < Duration::from_secs(5), "waited in vain: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

pub(crate) fn is_empty(dir: &Path) -> bool {
    std::fs::read_dir(dir).unwrap().next().is_none()
}

#[track_caller]
pub(crate) fn says(error: &Error, part: &str) {
    assert!(error.to_string().contains(part), "{error} lacks {part:?}");
}

pub(crate) async fn until_ready(network: &Network) {
    let until = Instant::now() + Duration::from_secs(5);
    while network.ready().is_err() {
        assert!(Instant::now() < until, "{:?}", network.ready());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
