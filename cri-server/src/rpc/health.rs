//! What the node says of itself: whether it is ready, and what it can do.

use proto::v1;

use crate::handlers::Handlers;
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
    let config = node.config();
    let runtime = match fault(node, &config.runtime.default_handler) {
        None => condition("RuntimeReady", true, "", String::new()),
        Some((reason, message)) => condition("RuntimeReady", false, reason, message),
    };
    let conditions = vec![runtime, network];
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
            user_namespaces_host_network: true,
            mount_options: true,
        }),
    }
}

/// Why no pod that names no handler can be made here. Another handler's fault is its own pods' alone: a node goes on
/// without it, as CRI-O's does.
fn fault(node: &Node, default_handler: &str) -> Option<(&'static str, String)> {
    if let Some(why) = node.monitors.fault() {
        return Some(("MonitorUnusable", why.to_owned()));
    }
    let handlers = node.handlers();
    let why = handlers.fault(default_handler)?;
    Some(("RuntimeMissing", format!("the default runtime handler {default_handler} has no program: {why}")))
}

/// The kubelet looks for the entry without a name: the features of pods that name no handler.
/// A handler without a program is not offered.
fn handlers(config: &config::RuntimeSection, told: &Handlers) -> Vec<v1::RuntimeHandler> {
    let handler = |name: &str, shown: &str| v1::RuntimeHandler {
        name: shown.into(),
        features: Some(told.features(name)),
    };
    let named =
        config.handlers.keys().filter(|name| told.fault(name).is_none()).map(|name| handler(name, name));
    [handler(&config.default_handler, ""), handler(config::IN_TREE, config::IN_TREE)]
        .into_iter()
        .chain(named)
        .collect()
}
