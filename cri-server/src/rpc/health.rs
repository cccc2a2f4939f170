//! What the node says of itself: whether it is ready, and what it can do.

use proto::v1;

use crate::handlers::Features;
use crate::node::Node;
use crate::{checkpoint, config};

pub(super) fn node_status(node: &Node, verbose: bool) -> v1::StatusResponse {
    let condition = |kind: &str, status: bool, reason: &str, message: String| v1::RuntimeCondition {
        r#type: kind.into(),
        status,
        reason: reason.into(),
        message,
    };
    let network = match node.network.ready() {
        Ok(()) => condition("NetworkReady", true, "", String::new()),
        Err(why) => condition("NetworkReady", false, "NetworkPluginNotReady", why.to_string()),
    };
    let conditions = vec![condition("RuntimeReady", true, "", String::new()), network];
    let config = node.config();
    let info = match verbose {
        true => [
            ("config".to_string(), serde_json::json!(&*config).to_string()),
            ("checkpoint".to_string(), checkpoint::info(node).to_string()),
        ]
        .into(),
        false => Default::default(),
    };
    v1::StatusResponse {
        status: Some(v1::RuntimeStatus { conditions }),
        info,
        runtime_handlers: handlers(&config.runtime, &node.handlers()),
        features: Some(v1::RuntimeFeatures {
            supplemental_groups_policy: true,
            user_namespaces_host_network: false,
            mount_options: true,
        }),
    }
}

/// The kubelet looks for the entry without a name: the features of pods that name no handler.
fn handlers(config: &config::RuntimeSection, told: &Features) -> Vec<v1::RuntimeHandler> {
    let handler = |name: &str, shown: &str| v1::RuntimeHandler {
        name: shown.into(),
        features: Some(told.get(name).copied().unwrap_or_default()),
    };
    let named = config.handlers.keys().map(|name| handler(name, name));
    [handler(&config.default_handler, ""), handler(config::IN_TREE, config::IN_TREE)]
        .into_iter()
        .chain(named)
        .collect()
}
