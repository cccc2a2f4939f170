//! Classes of service that annotations name: of Intel RDT (resctrl), a share of caches and memory bandwidth, and of block
//! I/O, limits that the operator's file has.
//!
//! The words are goresctrl's, which containerd and CRI-O look for: the container's own annotation, or the pod's for one
//! of its containers or for all.

use proto::v1;

use super::invalid::require;
use super::{Inputs, Invalid};
use crate::rdt::{self, Of};

/// Where a kind of class is named.
struct Words {
    container: &'static str,
    pod: &'static str,
}

const RDT: Words =
    Words { container: "io.kubernetes.cri.rdt-class", pod: "rdt.resources.beta.kubernetes.io" };
const BLOCK_IO: Words =
    Words { container: "io.kubernetes.cri.blockio-class", pod: "blockio.resources.beta.kubernetes.io" };

fn named<'a>(
    words: &Words,
    config: &'a v1::ContainerConfig,
    pod: &'a v1::PodSandboxConfig,
) -> Option<(&'a str, Of)> {
    let name = config.metadata.as_ref().map(|metadata| metadata.name.as_str()).unwrap_or_default();
    let (own, pods) = (&config.annotations, &pod.annotations);
    let places = [
        (own.get(words.container), Of::Container),
        (pods.get(&format!("{}/container.{name}", words.pod)), Of::Pod),
        (pods.get(&format!("{}/pod", words.pod)), Of::Pod),
    ];
    let (class, of) = places.into_iter().find_map(|(class, of)| Some((class?, of)))?;
    (!class.is_empty()).then_some((class.as_str(), of))
}

/// The class that annotations name, and whose annotation it was.
pub(super) fn rdt_asked<'a>(
    config: &'a v1::ContainerConfig,
    pod: &'a v1::PodSandboxConfig,
) -> Option<(&'a str, Of)> {
    named(&RDT, config, pod)
}

/// A directory of the resctrl file system, as a configuration names it.
///
/// # Errors
/// When what is named cannot be a class.
pub(super) fn rdt<'a>(inputs: &Inputs<'a>) -> Result<Option<&'a str>, Invalid> {
    let Some((class, _)) = rdt_asked(inputs.config, inputs.sandbox.config) else { return Ok(None) };
    if class == rdt::DEFAULT {
        return Ok(Some("/"));
    }
    require(rdt::is_class(class), "annotations", || format!("{class:?} is no class of Intel RDT"))?;
    Ok(Some(class))
}

/// A class of the operator's file.
pub(super) fn block_io<'a>(
    config: &'a v1::ContainerConfig,
    pod: &'a v1::PodSandboxConfig,
) -> Option<&'a str> {
    named(&BLOCK_IO, config, pod).map(|(class, _)| class)
}
