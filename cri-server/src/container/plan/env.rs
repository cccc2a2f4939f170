//! The environment: ours, then the image's, then the pod's, a later name replacing an earlier one.

use std::collections::HashMap;

use proto::v1::{ContainerConfig, KeyValue};

use super::invalid::require;
use super::{Inputs, Invalid};

/// What a container gets that names no PATH of its own.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// `NAME=value`, each name once. `home` is the home directory of the user that runs the process.
pub(super) fn env(inputs: &Inputs<'_>, home: &str) -> Result<Vec<String>, Invalid> {
    let mut env = Environment::default();
    env.set("PATH", PATH);
    if inputs.config.tty {
        env.set("TERM", "xterm");
    }
    env.set_all(&inputs.settings.default_env);
    env.set_all(inputs.image.env);
    env.set("HOSTNAME", inputs.sandbox.hostname);
    for (name, value) in asked(inputs.config)? {
        env.set(name, value);
    }
    env.set_all(&inputs.host.cdi.env);
    env.check_home()?;
    env.set_default("HOME", home);
    Ok(env.entries.into_iter().map(|(name, value)| format!("{name}={value}")).collect())
}

fn asked(config: &ContainerConfig) -> Result<Vec<(&str, &str)>, Invalid> {
    config.envs.iter().enumerate().map(|(index, entry)| checked(index, entry)).collect()
}

/// The interface carries bytes, the OCI configuration only text.
fn checked(index: usize, entry: &KeyValue) -> Result<(&str, &str), Invalid> {
    let field = format!("envs[{index}]");
    let key_fits = !entry.key.is_empty() && !entry.key.contains(['=', '\0']);
    require(key_fits, &field, || format!("{:?} cannot be the name of a variable", entry.key))?;
    require(!entry.value.contains(&0), &field, || format!("the value of {} has a NUL byte", entry.key))?;
    let value = std::str::from_utf8(&entry.value).map_err(|_| {
        let reason =
            format!("the value of {} is not UTF-8, which the OCI configuration cannot hold", entry.key);
        Invalid::wrong(&*field, reason)
    })?;
    Ok((&entry.key, value))
}

/// Variables in the order in which their names first came, thousands of them in a crowded namespace.
#[derive(Debug, Default)]
struct Environment {
    entries: Vec<(String, String)>,
    places: HashMap<String, usize>,
}

impl Environment {
    fn set(&mut self, name: &str, value: &str) {
        match self.places.get(name) {
            Some(place) => value.clone_into(&mut self.entries[*place].1),
            None => {
                self.places.insert(name.to_owned(), self.entries.len());
                self.entries.push((name.to_owned(), value.to_owned()));
            }
        }
    }

    fn set_default(&mut self, name: &str, value: &str) {
        if !self.places.contains_key(name) {
            self.set(name, value);
        }
    }

    /// An entry without `=` or with a NUL, which no process could be given, is passed over.
    fn set_all(&mut self, entries: &[String]) {
        for (name, value) in entries.iter().filter_map(|entry| entry.split_once('=')) {
            if !name.is_empty() && !name.contains('\0') && !value.contains('\0') {
                self.set(name, value);
            }
        }
    }

    /// A home directory ends up in passwd lines, there as here byte for byte (CVE-2022-4318).
    fn check_home(&self) -> Result<(), Invalid> {
        let Some(place) = self.places.get("HOME") else { return Ok(()) };
        let home = &self.entries[*place].1;
        require(!home.contains(['\n', ':', '\0']), "envs", || {
            format!("HOME is {home:?}: a home directory has no newline, colon or NUL")
        })
    }
}
