//! The OCI process of an exec: the container's own process with another command.

use super::ContainerPlan;

/// The process object that the monitor gives to the runtime.
///
/// User, groups, capabilities, environment, directory, limits and no-new-privileges are the
/// container's; the terminal is the exec's own.
pub fn exec_process(plan: &ContainerPlan, command: &[String], terminal: bool) -> serde_json::Value {
    let mut process = plan.spec.process().clone().unwrap_or_default();
    process.set_args(Some(command.to_vec())).set_terminal(Some(terminal)).set_console_size(None);
    let names_terminal = |env: &Vec<String>| env.iter().any(|entry| entry.starts_with("TERM="));
    if let Some(env) = process.env_mut().as_mut().filter(|env| terminal && !names_terminal(env)) {
        env.push("TERM=xterm".to_owned());
    }
    serde_json::to_value(process).expect("an OCI process has only string keys")
}
