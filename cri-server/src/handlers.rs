//! What the handlers can do, as the kubelet wants to know it: our own is known, another runtime is asked by its
//! `features` command (OCI runtime specification, features.md).
//!
//! Asked when the daemon begins and when the settings are read anew, never by Status, which must not wait for a
//! program. One that can't be asked can do nothing special.

use std::collections::HashMap;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use proto::v1::RuntimeHandlerFeatures;
use serde::Deserialize;

use crate::config::{IN_TREE, RuntimeSection};

/// A runtime that only says what it can do says it in milliseconds.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// By the handler's name.
pub type Features = HashMap<String, RuntimeHandlerFeatures>;

/// Ours, linked into the monitor.
pub fn own() -> RuntimeHandlerFeatures {
    RuntimeHandlerFeatures { recursive_read_only_mounts: true, user_namespaces: true }
}

/// Asks every handler of the settings.
pub async fn ask(config: &RuntimeSection) -> Features {
    let mut features = Features::from([(IN_TREE.to_owned(), own())]);
    for (name, handler) in &config.handlers {
        if handler.is_in_tree() {
            features.insert(name.clone(), own());
            continue;
        }
        let told = ask_one(&handler.path).await.unwrap_or_else(|why| {
            tracing::warn!(handler = name, path = %handler.path.display(), why, "a handler does not say what it can do");
            RuntimeHandlerFeatures::default()
        });
        features.insert(name.clone(), told);
    }
    features
}

async fn ask_one(program: &Path) -> Result<RuntimeHandlerFeatures, String> {
    let mut command = tokio::process::Command::new(program);
    command.arg("features").stdin(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
    let answered = tokio::time::timeout(ANSWER_TIMEOUT, command.output()).await;
    let output = answered.map_err(|_| format!("it did not answer in {ANSWER_TIMEOUT:?}"))?;
    let output = output.map_err(|error| error.to_string())?;
    if !output.status.success() {
        return Err(format!("its command features ended with {}", output.status));
    }
    read(&output.stdout)
}

/// The part of features.md that matters here.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Told {
    mount_options: Vec<String>,
    linux: Linux,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Linux {
    namespaces: Vec<String>,
    mount_extensions: MountExtensions,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct MountExtensions {
    idmap: Idmap,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Idmap {
    enabled: Option<bool>,
}

/// A pod with users of its own needs its volumes mapped too.
fn read(text: &[u8]) -> Result<RuntimeHandlerFeatures, String> {
    let told: Told = serde_json::from_slice(text).map_err(|error| error.to_string())?;
    let has_users = told.linux.namespaces.iter().any(|namespace| namespace == "user");
    Ok(RuntimeHandlerFeatures {
        recursive_read_only_mounts: told.mount_options.iter().any(|option| option == "rro"),
        user_namespaces: has_users && told.linux.mount_extensions.idmap.enabled == Some(true),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::HandlerSection;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_runtimes_answer_is_read() {
        let check = |text: &str, rro: bool, users: bool| {
            let read = read(text.as_bytes()).unwrap();
            assert_eq!((read.recursive_read_only_mounts, read.user_namespaces), (rro, users), "{text}");
        };
        let idmap = r#""mountExtensions": {"idmap": {"enabled": true}}"#;
        check("{}", false, false);
        check(r#"{"mountOptions": ["ro", "rro"]}"#, true, false);
        check(&format!(r#"{{"linux": {{"namespaces": ["user"], {idmap}}}}}"#), false, true);
        check(&format!(r#"{{"linux": {{"namespaces": ["net"], {idmap}}}}}"#), false, false);
        check(r#"{"linux": {"namespaces": ["user"]}}"#, false, false);
        assert!(read(b"runc version 1").is_err());
    }

    #[tokio::test]
    async fn each_handler_is_asked_and_one_that_is_silent_can_do_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let mut config = RuntimeSection::default();
        for (name, script) in
            [("good", "[ $1 = features ] && echo '{\"mountOptions\": [\"rro\"]}'"), ("odd", "exit 3")]
        {
            let path = dir.path().join(name);
            std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
            std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
            config.handlers.insert(name.to_owned(), HandlerSection { path, ..HandlerSection::default() });
        }
        let missing = HandlerSection { path: dir.path().join("none"), ..HandlerSection::default() };
        config.handlers.insert("missing".to_owned(), missing);
        config.handlers.insert("ours".to_owned(), HandlerSection::default());
        let features = ask(&config).await;
        assert_eq!(features["ours"], own());
        assert!(features["good"].recursive_read_only_mounts && !features["good"].user_namespaces);
        assert_eq!(features["odd"], RuntimeHandlerFeatures::default());
        assert_eq!(features["missing"], RuntimeHandlerFeatures::default());
        assert_eq!(features[IN_TREE], own());
    }
}
