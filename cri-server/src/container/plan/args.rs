//! The command line: what the pod says over what the image says.

use proto::v1::ContainerConfig;

use super::invalid::require;
use super::{ImageFacts, Invalid};

/// As Kubernetes has it: `command` replaces the entrypoint and the image's arguments with it; `args` alone
/// replaces only the image's arguments.
pub(super) fn args(config: &ContainerConfig, image: &ImageFacts<'_>) -> Result<Vec<String>, Invalid> {
    let (command, args): (&[String], &[String]) = match (config.command.is_empty(), config.args.is_empty()) {
        (false, _) => (&config.command, &config.args),
        (true, false) => (image.entrypoint, &config.args),
        (true, true) => (image.entrypoint, image.cmd),
    };
    let line: Vec<String> = command.iter().chain(args).cloned().collect();
    let named = line.first().is_some_and(|program| !program.is_empty());
    require(named, "command", || {
        format!("neither the container nor the image {} names a program to run", image.name)
    })?;
    let whole = line.iter().all(|word| !word.contains('\0'));
    require(whole, "command", || "a word of the command line has a NUL byte".to_owned())?;
    Ok(line)
}
