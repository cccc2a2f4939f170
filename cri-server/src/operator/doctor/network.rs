//! The pods' network: a configuration, its plugins, and what the kernel must let through.

use std::path::PathBuf;

use network::conf::{Chain, Plugin, choose};

use super::{Finding, fact};
use crate::config::NetworkSection;

pub(super) fn findings(settings: &NetworkSection) -> Vec<Finding> {
    let wanted = Some(settings.default_network.as_str()).filter(|name| !name.is_empty());
    let chains = match choose(&settings.conf_dir, wanted, settings.max_networks) {
        Ok(chains) => chains,
        Err(error) => {
            let advice = format!(
                "put a .conflist into {} (contrib/cni has one); berth reads it at once",
                settings.conf_dir.display()
            );
            return vec![Finding::broken("CNI", crate::error::chain(&error), advice), forwarding()];
        }
    };
    let mut findings = Vec::new();
    for chain in &chains {
        findings.push(Finding::fine("CNI", format!("network {} (CNI {})", chain.name, chain.version)));
        findings.push(plugins(chain, settings));
        findings.extend(packet_filter(chain));
    }
    findings.push(forwarding());
    findings
}

fn plugins(chain: &Chain, settings: &NetworkSection) -> Finding {
    let mut kinds: Vec<String> = chain.plugins.iter().map(|plugin| plugin.kind.clone()).collect();
    let address_managers =
        chain.plugins.iter().filter_map(|plugin| plugin.conf.get("ipam")?.get("type")?.as_str());
    kinds.extend(address_managers.map(String::from));
    let found =
        |kind: &String| settings.bin_dirs.iter().map(|dir| dir.join(kind)).find(|path| path.is_file());
    let missing: Vec<String> = kinds.iter().filter(|kind| found(kind).is_none()).cloned().collect();
    if missing.is_empty() {
        return Finding::fine("CNI plugins", kinds.join(" "));
    }
    let dirs: Vec<String> = settings.bin_dirs.iter().map(|dir: &PathBuf| dir.display().to_string()).collect();
    let is = format!("{} not in {}", missing.join(" "), dirs.join(" "));
    Finding::broken("CNI plugins", is, "apt-get install containernetworking-plugins, or set network.bin_dirs")
}

/// Debian's plugins call iptables for host ports and masquerading, and fail at the first pod without it.
fn packet_filter(chain: &Chain) -> Option<Finding> {
    let masquerades =
        |plugin: &Plugin| plugin.conf.get("ipMasq").and_then(|wish| wish.as_bool()) == Some(true);
    let filters =
        |plugin: &Plugin| matches!(plugin.kind.as_str(), "portmap" | "firewall") || masquerades(plugin);
    let by = chain.plugins.iter().find(|plugin| filters(plugin))?;
    let path = std::env::var_os("PATH").unwrap_or_default();
    let dirs = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]);
    let there = dirs.map(|dir| dir.join("iptables")).any(|path| path.exists());
    let advice = format!("apt-get install iptables; the plugin {} calls it", by.kind);
    Some(Finding::needed("packet filter", there, "iptables", &advice))
}

fn forwarding() -> Finding {
    let on = fact("/proc/sys/net/ipv4/ip_forward") == "1";
    let advice = "sysctl net.ipv4.ip_forward=1; bridge plugins with isGateway set it themselves";
    Finding::wished("forwarding", on, "IPv4 forwarding", advice)
}
