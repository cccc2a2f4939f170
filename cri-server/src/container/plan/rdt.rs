//! The class of service (Intel RDT, resctrl) that annotations name: a share of caches and memory bandwidth.
//!
//! The words are goresctrl's, which containerd and CRI-O look for: the container's own annotation, or the pod's for one
//! of its containers or for all. The class is a directory of the resctrl file system that the operator has made.

use super::invalid::require;
use super::{Inputs, Invalid};

const CONTAINER: &str = "io.kubernetes.cri.rdt-class";
const POD: &str = "rdt.resources.beta.kubernetes.io";

/// # Errors
/// When what is named cannot be a class.
pub(super) fn class<'a>(inputs: &Inputs<'a>) -> Result<Option<&'a str>, Invalid> {
    let (own, pod) = (&inputs.config.annotations, &inputs.sandbox.config.annotations);
    let name = inputs.config.metadata.as_ref().map(|metadata| metadata.name.as_str()).unwrap_or_default();
    let named =
        [own.get(CONTAINER), pod.get(&format!("{POD}/container.{name}")), pod.get(&format!("{POD}/pod"))];
    let Some(class) = named.into_iter().flatten().next().filter(|class| !class.is_empty()) else {
        return Ok(None);
    };
    // A name of a directory, and of none of the kernel's own.
    let fits =
        !class.contains('/') && ![".", "..", "info", "mon_groups", "mon_data"].contains(&class.as_str());
    require(fits, "annotations", || format!("{class:?} is no class of Intel RDT"))?;
    Ok(Some(class))
}
