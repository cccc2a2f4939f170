//! Who makes the containers: the handlers' programs, what they say they can do, and the classes of RDT that are wanted.

use super::Finding;
use crate::config::{Config, RuntimeSection};
use crate::handlers::Handlers;
use crate::rdt;

const WHAT: &str = "handler";

pub(super) fn findings(config: &Config) -> Vec<Finding> {
    let mut findings = of_handlers(&config.runtime);
    findings.extend(of_classes(config));
    findings
}

fn of_handlers(config: &RuntimeSection) -> Vec<Finding> {
    let known = ask(config);
    let others = config.handlers.iter().filter(|(_, handler)| !handler.is_in_tree());
    others
        .map(|(name, handler)| match known.fault(name) {
            Some(why) if *name == config.default_handler => Finding::broken(
                WHAT,
                format!("{name}, the default: {why}"),
                "install it, or correct its path",
            ),
            Some(why) => {
                Finding::poor(WHAT, format!("{name}: {why}"), "install it; until then its pods are refused")
            }
            None => {
                let can = known.features(name);
                let has =
                    |there: bool, what: &str| format!("{} {what}", if there { "with" } else { "without" });
                let rro = has(can.recursive_read_only_mounts, "recursive read-only mounts");
                let users = has(can.user_namespaces, "users of a pod's own");
                Finding::fine(WHAT, format!("{name} ({}), {rro}, {users}", handler.path.display()))
            }
        })
        .collect()
}

/// In a thread of its own: whoever calls may be in a runtime already.
fn ask(config: &RuntimeSection) -> Handlers {
    let config = config.clone();
    let asking = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().ok()?;
        Some(runtime.block_on(Handlers::ask(&config, &Handlers::default())))
    });
    asking.join().ok().flatten().unwrap_or_default()
}

/// Only where the operator wants some.
fn of_classes(config: &Config) -> Option<Finding> {
    const WHAT: &str = "RDT classes";
    let file = &config.container.rdt_config_file;
    if file.as_os_str().is_empty() {
        return None;
    }
    let found = rdt::root().and_then(|root| rdt::look(&root, file));
    Some(match found {
        Ok(classes) => Finding::fine(WHAT, classes.join(", ")),
        Err(error) => Finding::poor(
            WHAT,
            crate::error::chain(&error),
            "until then containers that name a class are refused; or leave container.rdt_config_file out",
        ),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::HandlerSection;

    #[test]
    fn a_missing_program_is_a_failure_for_the_default_and_a_warning_for_others() {
        let mut config = Config::default();
        let handler = |path: &str| HandlerSection { path: path.into(), ..HandlerSection::default() };
        config.runtime.handlers.insert("gone".into(), handler("/nosuch/runtime"));
        config.runtime.handlers.insert("there".into(), handler("/bin/true"));
        config.runtime.handlers.insert("ours".into(), HandlerSection::default());
        let said = |config: &Config| findings(config).iter().map(ToString::to_string).collect::<Vec<_>>();
        let lines = said(&config);
        assert!(lines[0].starts_with("warn  handler") && lines[0].contains("/nosuch/runtime"), "{lines:?}");
        assert!(lines[1].starts_with("ok    handler") && lines[1].contains("without recursive"), "{lines:?}");
        assert_eq!(lines.len(), 2, "{lines:?}");
        config.runtime.default_handler = "gone".into();
        config.container.rdt_config_file = "/nosuch/rdt.yaml".into();
        let lines = said(&config);
        assert!(lines[0].starts_with("FAIL  handler"), "{lines:?}");
        assert!(lines[2].starts_with("warn  RDT classes"), "{lines:?}");
    }
}
