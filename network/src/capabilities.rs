//! What a plugin is told about this pod: `runtimeConfig`, for the capabilities that it declares, and `CNI_ARGS`.

use serde_json::{Map, Value, json};

use crate::bandwidth::Bandwidth;
use crate::conf::{Chain, Plugin};
use crate::pod::{Dns, Pod, PortMapping};

/// Without a burst a rate is refused by the bandwidth plugin, so this is given: as good as none.
const UNLIMITED_BURST: u64 = i32::MAX as u64;

/// Everything that could be said about the pod, by capability.
pub(crate) fn all(pod: &Pod) -> Map<String, Value> {
    let aliases = (!pod.aliases.is_empty()).then(|| json!(pod.aliases));
    let ranges = (!pod.ip_ranges.is_empty()).then(|| json!(pod.ip_ranges));
    let annotations = (!pod.annotations.is_empty()).then(|| json!(pod.annotations));
    let said = [
        ("portMappings", port_mappings(&pod.port_mappings)),
        ("dns", pod.dns.as_ref().map(dns)),
        ("bandwidth", pod.bandwidth.and_then(bandwidth)),
        ("ipRanges", ranges),
        ("mac", pod.mac.as_ref().map(|mac| json!(mac))),
        ("aliases", aliases),
        ("cgroupPath", pod.cgroup_parent.as_ref().map(|path| json!(path))),
        ("io.kubernetes.cri.pod-annotations", annotations),
    ];
    said.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect()
}

/// The part that this plugin declared it wants.
pub(crate) fn of(plugin: &Plugin, all: &Map<String, Value>) -> Map<String, Value> {
    all.iter()
        .filter(|(name, _)| plugin.capabilities.contains(name))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect()
}

/// What a pod asks for in so many words and would miss.
const ASKED: [&str; 3] = ["portMappings", "bandwidth", "mac"];

/// What of it no plugin of the network takes. The network may see to it by itself (Cilium does host ports), so it is
/// to be told of and no reason to fail.
pub(crate) fn unheard(chain: &Chain, all: &Map<String, Value>) -> Vec<&'static str> {
    let takes =
        |name: &str| chain.plugins.iter().any(|plugin| plugin.capabilities.iter().any(|own| own == name));
    ASKED.into_iter().filter(|name| all.contains_key(*name) && !takes(name)).collect()
}

/// `CNI_ARGS`, in the words that every Kubernetes plugin knows. A `;` would begin another argument.
pub(crate) fn args(pod: &Pod) -> String {
    let clean = |text: &str| text.replace([';', '='], "");
    format!(
        "IgnoreUnknown=1;K8S_POD_NAMESPACE={};K8S_POD_NAME={};K8S_POD_INFRA_CONTAINER_ID={};K8S_POD_UID={}",
        clean(&pod.namespace),
        clean(&pod.name),
        clean(&pod.sandbox_id),
        clean(&pod.uid),
    )
}

/// A mapping without a host port asks for nothing: it only documents the container's port.
fn port_mappings(mappings: &[PortMapping]) -> Option<Value> {
    let asked: Vec<_> = mappings.iter().filter(|mapping| mapping.host_port != 0).collect();
    (!asked.is_empty()).then(|| json!(asked))
}

/// The capability's own words differ from those of a result's `dns`.
fn dns(dns: &Dns) -> Value {
    json!({ "servers": dns.nameservers, "searches": dns.search, "options": dns.options })
}

fn bandwidth(limits: Bandwidth) -> Option<Value> {
    let burst = |rate: u64, burst: u64| if rate > 0 && burst == 0 { UNLIMITED_BURST } else { burst };
    let filled = Bandwidth {
        ingress_burst: burst(limits.ingress_rate, limits.ingress_burst),
        egress_burst: burst(limits.egress_rate, limits.egress_burst),
        ..limits
    };
    (limits != Bandwidth::default()).then(|| json!(filled))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conf::Version;
    use crate::pod::Protocol;

    fn pod() -> Pod {
        let mapping = |host_port| PortMapping {
            protocol: Protocol::Tcp,
            container_port: 80,
            host_port,
            host_ip: Some([127, 0, 0, 1].into()),
        };
        Pod {
            sandbox_id: "abc".into(),
            name: "web;K8S_POD_UID=evil".into(),
            namespace: "default".into(),
            uid: "u1".into(),
            port_mappings: vec![mapping(8080), mapping(0)],
            dns: Some(Dns { nameservers: vec!["10.0.0.10".into()], ..Dns::default() }),
            bandwidth: Some(Bandwidth { ingress_rate: 1000, ..Bandwidth::default() }),
            ..Pod::default()
        }
    }

    fn plugin(capabilities: &[&str]) -> Plugin {
        let capabilities = capabilities.iter().map(ToString::to_string).collect();
        Plugin { kind: "p".into(), capabilities, conf: Map::new() }
    }

    #[test]
    fn a_plugin_hears_only_what_it_declares() {
        let all = all(&pod());
        assert_eq!(Value::Object(of(&plugin(&[]), &all)), json!({}));
        assert_eq!(Value::Object(of(&plugin(&["mac", "aliases", "ipRanges"]), &all)), json!({}));
        let expected = json!({"portMappings":
            [{"protocol": "tcp", "containerPort": 80, "hostPort": 8080, "hostIP": "127.0.0.1"}]});
        assert_eq!(Value::Object(of(&plugin(&["portMappings"]), &all)), expected);
        let expected = json!({"dns": {"servers": ["10.0.0.10"], "searches": [], "options": []}});
        assert_eq!(Value::Object(of(&plugin(&["dns"]), &all)), expected);
        let expected = json!({"bandwidth":
            {"ingressRate": 1000, "ingressBurst": UNLIMITED_BURST, "egressRate": 0, "egressBurst": 0}});
        assert_eq!(Value::Object(of(&plugin(&["bandwidth"]), &all)), expected);
    }

    #[test]
    fn what_no_plugin_takes_is_known() {
        let chain = |capabilities: &[&str]| Chain {
            name: "n".into(),
            version: Version::V1_1_0,
            offered: vec![],
            disable_check: false,
            disable_gc: false,
            plugins: vec![plugin(&[]), plugin(capabilities)],
        };
        let all = all(&pod());
        assert_eq!(unheard(&chain(&["dns"]), &all), ["portMappings", "bandwidth"]);
        assert_eq!(unheard(&chain(&["portMappings"]), &all), ["bandwidth"]);
        assert!(unheard(&chain(&["portMappings", "bandwidth"]), &all).is_empty());
        assert!(unheard(&chain(&[]), &super::all(&Pod::default())).is_empty(), "nothing was asked for");
    }

    #[test]
    fn a_pod_cannot_add_arguments_through_its_name() {
        let args = args(&pod());
        assert_eq!(args.matches("K8S_POD_UID=").count(), 1, "{args}");
        assert!(args.ends_with("K8S_POD_UID=u1"), "{args}");
    }
}
