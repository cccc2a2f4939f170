//! What OCI hooks are told about the container.
//!
//! The names are containerd's, which hooks in the field look for. The pod's own annotations are not passed
//! on, save those that the operator allows a handler: an OCI runtime takes some of them as options (CVE-2024-3154).

use std::collections::HashMap;

use super::Inputs;

pub(super) fn annotations(inputs: &Inputs<'_>) -> HashMap<String, String> {
    let metadata = inputs.sandbox.config.metadata.clone().unwrap_or_default();
    let container = inputs.config.metadata.clone().unwrap_or_default();
    let image = inputs.config.image.clone().unwrap_or_default();
    let image_name =
        if image.user_specified_image.is_empty() { image.image } else { image.user_specified_image };
    let told = [
        ("io.kubernetes.cri.container-type", "container".to_owned()),
        ("io.kubernetes.cri.container-name", container.name),
        ("io.kubernetes.cri.image-name", image_name),
        ("io.kubernetes.cri.sandbox-id", inputs.sandbox.pod.sandbox_id.clone()),
        ("io.kubernetes.cri.sandbox-name", metadata.name),
        ("io.kubernetes.cri.sandbox-namespace", metadata.namespace),
        ("io.kubernetes.cri.sandbox-uid", metadata.uid),
    ];
    let allowed = inputs.handler.into_iter().flat_map(|handler| {
        let pod = inputs.sandbox.config.annotations.iter();
        pod.filter(|(name, _)| handler.is_told(name)).map(|(name, value)| (name.clone(), value.clone()))
    });
    allowed.chain(told.into_iter().map(|(name, value)| (name.to_owned(), value))).collect()
}
