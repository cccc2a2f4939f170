//! A pod's wishes of the network: ports of the host, names, and the pod in the network's words.

use std::collections::BTreeMap;
use std::net::IpAddr;

use conmon_protocol::Sharing;
use network::{Dns, PortMapping, Protocol};
use proto::v1;

use super::{Invalid, Plan, wrong};

/// The pod in the words of the network.
pub fn network_pod(plan: &Plan, config: &v1::PodSandboxConfig) -> network::Pod {
    let metadata = config.metadata.clone().unwrap_or_default();
    network::Pod {
        sandbox_id: plan.pod.sandbox_id.clone(),
        name: metadata.name.clone(),
        namespace: metadata.namespace,
        uid: metadata.uid,
        netns: plan.pod.pod_dir.join("ns/net"),
        port_mappings: plan.port_mappings.clone(),
        dns: config.dns_config.as_ref().map(|dns| Dns {
            nameservers: dns.servers.clone(),
            domain: None,
            search: dns.searches.clone(),
            options: dns.options.clone(),
        }),
        aliases: aliases(&metadata.name, &plan.hostname),
        cgroup_parent: Some(plan.pod.cgroup_parent.clone()).filter(|parent| !parent.is_empty()),
        annotations: config.annotations.clone().into_iter().collect::<BTreeMap<_, _>>(),
        ..network::Pod::default()
    }
}

/// The names by which a plugin that serves names (`aliases`) may make the pod known on its network.
fn aliases(name: &str, hostname: &str) -> Vec<String> {
    let mut names = vec![name.to_owned(), hostname.to_owned()];
    names.dedup();
    names.retain(|name| !name.is_empty());
    names
}

pub(super) fn port_mappings(
    asked: &[v1::PortMapping],
    network: Sharing,
) -> Result<Vec<PortMapping>, Invalid> {
    // Port 0 on the host means: only tells that the container listens (CRI). On the host's network the
    // container's port is the host's already.
    let wanted = asked.iter().filter(|mapping| mapping.host_port != 0 && network == Sharing::Own);
    wanted.map(port_mapping).collect()
}

fn port_mapping(asked: &v1::PortMapping) -> Result<PortMapping, Invalid> {
    const FIELD: &str = "config.port_mappings";
    let port = |number: i32| {
        let port = u16::try_from(number).ok().filter(|port| *port != 0);
        port.ok_or_else(|| wrong(FIELD, format!("{number} is not a port")))
    };
    let protocol = match v1::Protocol::try_from(asked.protocol) {
        Ok(v1::Protocol::Tcp) => Protocol::Tcp,
        Ok(v1::Protocol::Udp) => Protocol::Udp,
        Ok(v1::Protocol::Sctp) => Protocol::Sctp,
        Err(_) => return Err(wrong(FIELD, format!("{} is not a protocol", asked.protocol))),
    };
    let host_ip = match asked.host_ip.as_str() {
        "" => None,
        ip => Some(ip.parse::<IpAddr>().map_err(|_| wrong(FIELD, format!("{ip:?} is not an IP address")))?),
    };
    Ok(PortMapping {
        protocol,
        container_port: port(asked.container_port)?,
        host_port: port(asked.host_port)?,
        host_ip,
    })
}

/// No wishes at all: as the host does.
pub(super) fn resolv_conf(dns: Option<&v1::DnsConfig>, host: &str) -> Result<String, Invalid> {
    let Some(dns) = dns.filter(|dns| **dns != v1::DnsConfig::default()) else { return Ok(host.to_string()) };
    let words = dns.servers.iter().chain(&dns.searches).chain(&dns.options);
    if let Some(word) = words.into_iter().find(|word| word.contains(|c: char| c.is_control())) {
        return Err(wrong("config.dns_config", format!("{word:?} would break the lines of resolv.conf")));
    }
    let mut text = String::new();
    if !dns.searches.is_empty() {
        text.push_str(&format!("search {}\n", dns.searches.join(" ")));
    }
    for server in &dns.servers {
        text.push_str(&format!("nameserver {server}\n"));
    }
    if !dns.options.is_empty() {
        text.push_str(&format!("options {}\n", dns.options.join(" ")));
    }
    Ok(text)
}
