//! `linux.netDevices`: which interfaces, under which names.

use kernel::clone_flags as flag;

use super::Namespaces;
use crate::Error;
use crate::netdev::NetDevice;
use crate::spec::Linux;

/// IFNAMSIZ without the NUL.
const MAX_NAME: usize = 15;

pub(super) fn plan(linux: &Linux, namespaces: &Namespaces) -> Result<Vec<NetDevice>, Error> {
    if linux.net_devices.is_empty() {
        return Ok(Vec::new());
    }
    if !namespaces.has(flag::NEWNET) {
        return Err(Error::invalid("linux.netDevices", "needs a network namespace of the container's own"));
    }
    let mut planned: Vec<NetDevice> = Vec::with_capacity(linux.net_devices.len());
    for (host, device) in &linux.net_devices {
        let field = format!("linux.netDevices[{host:?}]");
        let inside = device.name.as_deref().filter(|name| !name.is_empty()).unwrap_or(host);
        if !is_name(host) || host.contains('%') {
            return Err(Error::invalid(field, "is no name of an interface"));
        }
        if !is_name(inside) || !is_template_or_plain(inside) {
            return Err(Error::invalid(
                format!("{field}.name"),
                format!("{inside:?} is no name of an interface"),
            ));
        }
        if !inside.contains('%') && planned.iter().any(|other| other.inside == inside) {
            return Err(Error::invalid(format!("{field}.name"), format!("{inside:?} is given twice")));
        }
        planned.push(NetDevice { host: host.clone(), inside: inside.to_owned() });
    }
    Ok(planned)
}

/// What the kernel's dev_valid_name() takes.
fn is_name(name: &str) -> bool {
    let plain = |c: char| !matches!(c, '/' | ':' | '\0') && !c.is_whitespace();
    (1..=MAX_NAME).contains(&name.len()) && !matches!(name, "." | "..") && name.chars().all(plain)
}

/// `%d` once, where the kernel puts the first free number.
fn is_template_or_plain(name: &str) -> bool {
    match name.split_once('%') {
        None => true,
        Some((_, after)) => after.strip_prefix('d').is_some_and(|rest| !rest.contains('%')),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_what_the_kernel_takes() {
        let own = Namespaces { new: flag::NEWNET, ..Namespaces::default() };
        let check = |json: &str, namespaces: &Namespaces| {
            let linux: Linux = serde_json::from_str(&format!(r#"{{"netDevices": {json}}}"#)).unwrap();
            let pair = |d: NetDevice| (d.host, d.inside);
            plan(&linux, namespaces)
                .map(|all| all.into_iter().map(pair).collect::<Vec<_>>())
                .map_err(|e| e.to_string())
        };
        let names = |host: &str, inside: &str| Ok(vec![(host.to_owned(), inside.to_owned())]);
        assert_eq!(check(r#"{"eth0": {}}"#, &own), names("eth0", "eth0"));
        assert_eq!(check(r#"{"eth0": {"name": ""}}"#, &own), names("eth0", "eth0"));
        assert_eq!(check(r#"{"eth0": {"name": "net%d"}}"#, &own), names("eth0", "net%d"));
        assert_eq!(check("{}", &Namespaces::default()), Ok(vec![]));
        let refused =
            |json: &str| assert!(check(json, &own).unwrap_err().starts_with("linux.netDevices["), "{json}");
        for wrong in ["", "..", "a/b", "a b", "a:b", "sixteen-letters-", "a%db%d", "a%s", "a%"] {
            refused(&format!(r#"{{"{wrong}": {{"name": "x"}}}}"#));
            if !wrong.is_empty() {
                refused(&format!(r#"{{"eth0": {{"name": "{wrong}"}}}}"#));
            }
        }
        refused(r#"{"a%d": {"name": "x"}}"#);
        refused(r#"{"a": {"name": "x"}, "b": {"name": "x"}}"#);
        assert!(check(r#"{"eth0": {}}"#, &Namespaces::default()).unwrap_err().contains("network namespace"));
    }
}
