//! `hooks`: what can be said of them before the first one runs.

use crate::Error;
use crate::spec::{Hook, Hooks};

/// All six lists: absolute paths, timeouts above zero, and nothing that cannot be handed to a program.
pub(super) fn check(hooks: &Hooks) -> Result<(), Error> {
    for (name, list) in lists(hooks) {
        for (i, hook) in list.iter().enumerate() {
            check_one(&format!("hooks.{name}[{i}]"), hook)?;
        }
    }
    Ok(())
}

fn lists(hooks: &Hooks) -> [(&'static str, &[Hook]); 6] {
    [
        ("prestart", &hooks.prestart),
        ("createRuntime", &hooks.create_runtime),
        ("createContainer", &hooks.create_container),
        ("startContainer", &hooks.start_container),
        ("poststart", &hooks.poststart),
        ("poststop", &hooks.poststop),
    ]
}

fn check_one(field: &str, hook: &Hook) -> Result<(), Error> {
    if !hook.path.is_absolute() {
        return Err(Error::invalid(format!("{field}.path"), format!("{:?} is not absolute", hook.path)));
    }
    if let Some(timeout) = hook.timeout.filter(|timeout| *timeout <= 0) {
        return Err(Error::invalid(format!("{field}.timeout"), format!("{timeout} is not above zero")));
    }
    super::path::c_path(&format!("{field}.path"), &hook.path)?;
    for (part, words) in [("args", &hook.args), ("env", &hook.env)] {
        for (i, word) in words.iter().enumerate() {
            super::path::c_string(&format!("{field}.{part}[{i}]"), word.as_str())?;
        }
    }
    Ok(())
}
