//! The validator that is built in: what the operator lets plugins do to containers, and which plugins a container must
//! have been shown to. The keys, the annotations and what they mean are those of containerd's and CRI-O's.

use proto::nri::{
    Field, FieldOwners, PodSandbox, ValidateContainerAdjustmentRequest, security_profile::ProfileType,
};

use super::owners::owner;
use crate::config::section::section;

/// The name by which it refuses.
pub(super) const NAME: &str = "default-validator";
/// A YAML list of plugins, by name or by index and name: for a pod (`/pod` or nothing behind it), or for one of its
/// containers (`/container.NAME`).
const REQUIRED: &str = "required-plugins.noderesource.dev";

section! {
    /// What plugins may not do, whichever they are, and which of them containers need. The other events of NRI are not
    /// concerned, nor what hooks directories and CDI devices add.
    pub struct ValidatorSection {
        /// Whether any of it counts.
        enable: bool = false,
        /// No plugin may add OCI hooks.
        reject_oci_hook_adjustment: bool = false,
        /// No plugin may replace the default seccomp profile of the runtime.
        reject_runtime_default_seccomp_adjustment: bool = false,
        /// No plugin may give a seccomp profile to a container that is to have none.
        reject_unconfined_seccomp_adjustment: bool = false,
        /// No plugin may replace a seccomp profile of the node's files (`Localhost`).
        reject_custom_seccomp_adjustment: bool = false,
        /// No plugin may change which namespaces a container is in.
        reject_namespace_adjustment: bool = false,
        /// No plugin may set or remove a sysctl.
        reject_sysctl_adjustment: bool = false,
        /// Plugins without which no container is made, by name or as NN-NAME; those of static pods too, unless these
        /// bear the annotation below. Pods name more of them by the annotation `required-plugins.noderesource.dev`.
        required_plugins: Vec<String> = Vec::new(),
        /// The name of an annotation that, as `true`, lets a pod or a container do without required plugins; the same
        /// endings as above count. Empty: none does.
        tolerate_missing_plugins_annotation: String = String::new(),
    }
}

/// # Errors
/// Why the container cannot be made so.
pub(super) fn judge(
    section: &ValidatorSection,
    request: &ValidateContainerAdjustmentRequest,
) -> Result<(), String> {
    if !section.enable {
        return Ok(());
    }
    let container = request.container.clone().unwrap_or_default();
    let owners = request.owners.as_ref().and_then(|owners| owners.owners.get(&container.id));
    if let Some(owners) = owners {
        hooks(section, owners)?;
        let asked = container.linux.as_ref().and_then(|linux| linux.seccomp_profile.as_ref());
        let asked = asked.map_or(ProfileType::Unconfined, |profile| profile.profile_type());
        seccomp(section, owners, asked)?;
        namespaces(section, owners)?;
        sysctls(section, owners)?;
    }
    required(section, request, &container.name)
}

fn refuse(refused: bool, why: impl FnOnce() -> String) -> Result<(), String> {
    if refused { Err(why()) } else { Ok(()) }
}

fn simple(owners: &FieldOwners, field: Field) -> Option<&str> {
    owners.simple.get(&(field as i32)).map(|name| owner(name))
}

/// The keys of a field that somebody set, each with who did.
fn compound(owners: &FieldOwners, field: Field) -> Vec<String> {
    let all = owners.compound.get(&(field as i32));
    let told = |(key, name): (&String, &String)| format!("{key:?} by {}", owner(name));
    all.map(|all| all.owners.iter().map(told).collect()).unwrap_or_default()
}

fn hooks(section: &ValidatorSection, owners: &FieldOwners) -> Result<(), String> {
    let Some(plugins) = simple(owners, Field::OciHooks) else { return Ok(()) };
    refuse(section.reject_oci_hook_adjustment, || {
        format!("OCI hooks added by {plugins} (nri.default_validator.reject_oci_hook_adjustment)")
    })
}

fn seccomp(section: &ValidatorSection, owners: &FieldOwners, asked: ProfileType) -> Result<(), String> {
    let Some(plugin) = simple(owners, Field::SeccompPolicy) else { return Ok(()) };
    let (refused, kind, key) = match asked {
        ProfileType::RuntimeDefault => {
            (section.reject_runtime_default_seccomp_adjustment, "default", "runtime_default")
        }
        ProfileType::Unconfined => (section.reject_unconfined_seccomp_adjustment, "absent", "unconfined"),
        ProfileType::Localhost => (section.reject_custom_seccomp_adjustment, "custom", "custom"),
    };
    refuse(refused, || {
        format!(
            "the {kind} seccomp profile replaced by {plugin} (nri.default_validator.reject_{key}_seccomp_adjustment)"
        )
    })
}

fn namespaces(section: &ValidatorSection, owners: &FieldOwners) -> Result<(), String> {
    let changed = compound(owners, Field::Namespace);
    refuse(section.reject_namespace_adjustment && !changed.is_empty(), || {
        let changed = changed.join(", ");
        format!("namespaces changed: {changed} (nri.default_validator.reject_namespace_adjustment)")
    })
}

fn sysctls(section: &ValidatorSection, owners: &FieldOwners) -> Result<(), String> {
    let changed = compound(owners, Field::Sysctl);
    refuse(section.reject_sysctl_adjustment && !changed.is_empty(), || {
        let changed = changed.join(", ");
        format!("sysctls changed: {changed} (nri.default_validator.reject_sysctl_adjustment)")
    })
}

fn required(
    section: &ValidatorSection,
    request: &ValidateContainerAdjustmentRequest,
    container: &str,
) -> Result<(), String> {
    let pod = request.pod.clone().unwrap_or_default();
    if tolerates_missing(section, &pod, container)? {
        return Ok(());
    }
    let mut required = section.required_plugins.clone();
    if let Some(text) = annotation(&pod, REQUIRED, container) {
        let more: Vec<String> = serde_norway::from_str(text)
            .map_err(|_| format!("the annotation {REQUIRED} {text:?} is no list as [\"a\", \"b\"]"))?;
        required.extend(more);
    }
    let asked = |name: &String| {
        request
            .plugins
            .iter()
            .any(|plugin| plugin.name == *name || format!("{}-{}", plugin.index, plugin.name) == *name)
    };
    let missing: Vec<String> = required.into_iter().filter(|name| !asked(name)).collect();
    refuse(!missing.is_empty(), || {
        format!("plugins without which it may not be made, and which are not here: {}", missing.join(", "))
    })
}

fn tolerates_missing(section: &ValidatorSection, pod: &PodSandbox, container: &str) -> Result<bool, String> {
    let name = &section.tolerate_missing_plugins_annotation;
    let Some(text) =
        Some(name).filter(|name| !name.is_empty()).and_then(|name| annotation(pod, name, container))
    else {
        return Ok(false);
    };
    match text {
        "1" | "t" | "T" | "TRUE" | "true" | "True" => Ok(true),
        "0" | "f" | "F" | "FALSE" | "false" | "False" => Ok(false),
        other => Err(format!("the annotation {name} {other:?} is neither true nor false")),
    }
}

/// That of the container before the pod's.
fn annotation<'a>(pod: &'a PodSandbox, name: &str, container: &str) -> Option<&'a str> {
    let places = [format!("{name}/container.{container}"), format!("{name}/pod"), name.to_owned()];
    places.iter().find_map(|place| pod.annotations.get(place)).map(String::as_str)
}

#[cfg(test)]
mod tests;
