//! Whether containers can be checkpointed: criu, and whether it knows this kernel.

use std::path::Path;

use super::Finding;
use crate::checkpoint::Allow;
use crate::config::CheckpointSection;
use crate::criu::Criu;

const WHAT: &str = "checkpoints";

pub(super) fn findings(config: &CheckpointSection) -> Vec<Finding> {
    if config.allow == Allow::None {
        return vec![Finding::fine(WHAT, "not allowed (checkpoint.allow = \"none\")")];
    }
    let finding = match works(&config.criu) {
        Ok(version) => Finding::fine(WHAT, format!("criu {version} works on this kernel")),
        Err(why) => Finding::poor(
            WHAT,
            why,
            "install criu 4.1 or newer and name it with checkpoint.criu, or set checkpoint.allow = \"none\"",
        ),
    };
    vec![finding]
}

/// In a thread of its own: whoever calls may be in a runtime already.
fn works(program: &Path) -> Result<String, String> {
    let program = program.to_owned();
    let asking = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.map_err(|error| error.to_string())?.block_on(Criu::ask(&program)).works
    });
    asking.join().unwrap_or_else(|_| Err("asking criu broke off".into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_criu_that_is_not_there_is_a_warning_and_not_wanting_one_is_fine() {
        let missing = CheckpointSection { criu: "/nosuch/criu".into(), ..Default::default() };
        assert!(
            findings(&missing)[0].to_string().contains("warn  checkpoints     /nosuch/criu is not installed")
        );
        let unwanted = CheckpointSection { allow: Allow::None, ..missing };
        assert!(findings(&unwanted)[0].to_string().starts_with("ok"));
    }
}
