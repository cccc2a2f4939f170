//! `spec`: a config.json to start from.

use std::io::Write as _;
use std::path::PathBuf;

use serde_json::{Value, json};

use super::Error;
use super::args::{Args, unknown};

const TEMPLATE: &str = include_str!("spec.json");

pub(crate) fn spec(mut args: Args) -> Result<u8, Error> {
    let (mut bundle, mut rootless) = (PathBuf::from("."), false);
    while let Some(option) = args.option() {
        match option.as_str() {
            "-b" | "--bundle" => bundle = args.value(&option)?.into(),
            "--rootless" => rootless = args.flag(&option)?,
            _ => return Err(unknown(&option)),
        }
    }
    args.end()?;
    let path = bundle.join("config.json");
    let at = |e| Error::io("writing", path.display().to_string(), e);
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).open(&path).map_err(at)?;
    let text = if rootless { for_ordinary_user()? } else { TEMPLATE.to_owned() };
    file.write_all(text.as_bytes()).map_err(at)?;
    Ok(0)
}

/// The template for whoever has no rights but their own: a user namespace with their own ids as root, the host's
/// network and its /sys, which nobody may mount without a network of their own, and no cgroup.
fn for_ordinary_user() -> Result<String, Error> {
    let at = |e: serde_json::Error| Error::io("writing", "the template", e);
    let mut spec: Value = serde_json::from_str(TEMPLATE).map_err(at)?;
    let map = |id: u32| json!([{"containerID": 0, "hostID": id, "size": 1}]);
    let linux = &mut spec["linux"];
    linux["uidMappings"] = map(rustix::process::geteuid().as_raw());
    linux["gidMappings"] = map(rustix::process::getegid().as_raw());
    linux.as_object_mut().into_iter().for_each(|linux| drop(linux.remove("resources")));
    if let Some(namespaces) = linux["namespaces"].as_array_mut() {
        namespaces.retain(|one| one["type"] != "network");
        namespaces.push(json!({"type": "user"}));
    }
    spec["mounts"].as_array_mut().into_iter().for_each(|mounts| {
        mounts.retain(|mount| mount["type"] != "cgroup");
        mounts.iter_mut().for_each(as_ordinary_user);
    });
    serde_json::to_string_pretty(&spec).map_err(at)
}

fn as_ordinary_user(mount: &mut Value) {
    if mount["destination"] == "/sys" {
        mount["type"] = json!("none");
        mount["source"] = json!("/sys");
        mount["options"] = json!(["rbind", "nosuid", "noexec", "nodev", "ro"]);
        return;
    }
    // Ids that are not mapped cannot be given.
    let owner =
        |option: &Value| option.as_str().is_some_and(|o| o.starts_with("gid=") || o.starts_with("uid="));
    mount["options"].as_array_mut().into_iter().for_each(|options| options.retain(|option| !owner(option)));
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_template_is_a_configuration() {
        let spec: runtime::spec::Spec = serde_json::from_str(super::TEMPLATE).unwrap();
        assert_eq!(spec.oci_version, runtime::spec::OCI_VERSION);
    }

    #[test]
    fn an_ordinary_users_asks_for_nothing_that_takes_root() {
        let text = super::for_ordinary_user().unwrap();
        let spec: runtime::spec::Spec = serde_json::from_str(&text).unwrap();
        let linux = spec.linux.unwrap();
        assert_eq!(linux.uid_mappings[0].host_id, rustix::process::geteuid().as_raw());
        assert!(linux.resources.is_none());
        assert!(!text.contains("gid=5") && !text.contains("\"cgroup\",\n"), "{text}");
    }
}
