//! A CDI file, JSON or YAML, read and checked.

use std::path::Path;

use serde::Deserialize;

use super::FILE_MAX_BYTES;
use super::edits::ContainerEdits;
use super::name::{check_device, check_kind};
use crate::bounded::read_text;

/// Files of another major version mean something else.
const VERSIONS: [&str; 2] = ["0.", "1."];

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Spec {
    cdi_version: String,
    pub(super) kind: String,
    #[serde(default, rename = "annotations")]
    _annotations: serde::de::IgnoredAny,
    pub(super) devices: Vec<Device>,
    #[serde(default)]
    pub(super) container_edits: ContainerEdits,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Device {
    pub(super) name: String,
    #[serde(default, rename = "annotations")]
    _annotations: serde::de::IgnoredAny,
    #[serde(default)]
    pub(super) container_edits: ContainerEdits,
}

/// `None` for what is no CDI file by its name.
pub(super) fn read(path: &Path) -> Option<Result<Spec, String>> {
    let extension = path.extension()?.to_str()?;
    match extension {
        "json" | "yaml" | "yml" => {
            let text = read_text(path, FILE_MAX_BYTES).map_err(|error| error.to_string());
            Some(text.and_then(|text| parse(&text, extension)).and_then(checked))
        }
        _ => None,
    }
}

fn parse(text: &str, extension: &str) -> Result<Spec, String> {
    match extension {
        "json" => serde_json::from_str(text).map_err(|error| error.to_string()),
        _ => serde_norway::from_str(text).map_err(|error| error.to_string()),
    }
}

fn checked(spec: Spec) -> Result<Spec, String> {
    if !VERSIONS.iter().any(|version| spec.cdi_version.starts_with(version)) {
        return Err(format!("cdiVersion {} is not 0.x or 1.x", spec.cdi_version));
    }
    check_kind(&spec.kind).map_err(|why| format!("kind {:?}: {why}", spec.kind))?;
    for device in &spec.devices {
        check_device(&device.name).map_err(|why| format!("device {:?}: {why}", device.name))?;
    }
    for edits in spec.devices.iter().map(|device| &device.container_edits).chain([&spec.container_edits]) {
        edits.check()?;
    }
    Ok(spec)
}
