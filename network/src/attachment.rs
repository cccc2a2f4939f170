//! A pod's attachment: what the plugins gave it, read out of the last one's result.

use std::net::IpAddr;

use serde::Deserialize;
use serde_json::Value;

use crate::pod::Dns;

/// What the plugins gave a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attachment {
    /// Primary first: the order is the plugins'.
    pub ips: Vec<IpAddr>,
    /// The interface inside the pod.
    pub interface: String,
    /// The network's name.
    pub network: String,
    /// Resolver settings that the plugins answered.
    pub dns: Dns,
}

/// The parts of a result that matter to us; the same from 0.3.0 to 1.1.0.
#[derive(Deserialize)]
struct Outcome {
    #[serde(default)]
    interfaces: Option<Vec<Interface>>,
    #[serde(default)]
    ips: Option<Vec<Address>>,
    #[serde(default)]
    dns: Option<Dns>,
}

#[derive(Deserialize)]
struct Interface {
    /// Path of the namespace it is in; empty on the host.
    #[serde(default)]
    sandbox: String,
}

#[derive(Deserialize)]
struct Address {
    address: String,
    /// Which of `interfaces` bears it.
    #[serde(default)]
    interface: Option<i64>,
}

impl Attachment {
    /// Reads a result; says what is wrong with it when it is none.
    pub(crate) fn read(result: &Value, network: &str, interface: &str) -> Result<Attachment, String> {
        if !result.is_object() {
            return Err("it is not an object".into());
        }
        let outcome = Outcome::deserialize(result).map_err(|error| error.to_string())?;
        let interfaces = outcome.interfaces.unwrap_or_default();
        let mut ips = Vec::new();
        for address in outcome.ips.unwrap_or_default() {
            let ip = ip(&address.address).ok_or_else(|| format!("address {:?}", address.address))?;
            if in_pod(&address, &interfaces) && !ips.contains(&ip) {
                ips.push(ip);
            }
        }
        Ok(Attachment {
            ips,
            interface: interface.to_owned(),
            network: network.to_owned(),
            dns: outcome.dns.unwrap_or_default(),
        })
    }
}

/// Addresses of the host's side (a bridge's own) are none of the pod's. Without a word on it, it is the pod's.
fn in_pod(address: &Address, interfaces: &[Interface]) -> bool {
    let bearer = address.interface.and_then(|index| interfaces.get(usize::try_from(index).ok()?));
    bearer.is_none_or(|interface| !interface.sandbox.is_empty())
}

fn ip(text: &str) -> Option<IpAddr> {
    text.parse::<ipnet::IpNet>().map(|net| net.addr()).or_else(|_| text.parse()).ok()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[track_caller]
    fn check(result: Value, ips: &[&str]) {
        let attachment = Attachment::read(&result, "n", "eth0").unwrap();
        assert_eq!(attachment.ips, ips.iter().map(|ip| ip.parse::<IpAddr>().unwrap()).collect::<Vec<_>>());
    }

    #[test]
    fn addresses_come_in_the_order_of_the_result() {
        let old = json!({"cniVersion": "0.3.1", "ips": [{"version": "4", "address": "10.1.0.2/24"}]});
        check(old, &["10.1.0.2"]);
        let dual = json!({"cniVersion": "1.0.0", "interfaces": [{"name": "eth0", "sandbox": "/n"}],
            "ips": [{"address": "fd00::2/64", "interface": 0}, {"address": "10.1.0.2/24", "interface": 0}]});
        check(dual, &["fd00::2", "10.1.0.2"]);
        check(json!({"cniVersion": "1.0.0"}), &[]);
        check(json!({"cniVersion": "1.0.0", "ips": null, "interfaces": null, "dns": null}), &[]);
    }

    #[test]
    fn addresses_of_the_host_are_not_the_pods() {
        let result = json!({"cniVersion": "1.0.0",
            "interfaces": [{"name": "br0"}, {"name": "eth0", "sandbox": "/n"}],
            "ips": [{"address": "10.1.0.1/24", "interface": 0}, {"address": "10.1.0.2/24", "interface": 1},
                    {"address": "10.1.0.3/24", "interface": 7}, {"address": "10.1.0.4/24", "interface": -1}]});
        check(result, &["10.1.0.2", "10.1.0.3", "10.1.0.4"]);
    }

    #[test]
    fn nonsense_is_not_an_attachment() {
        for result in [json!([]), json!({"ips": [{"address": "here"}]}), json!({"ips": 4}), json!(null)] {
            assert!(Attachment::read(&result, "n", "eth0").is_err(), "{result}");
        }
    }
}
