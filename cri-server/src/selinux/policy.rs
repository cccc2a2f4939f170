//! What the node's SELinux policy has for containers: lxc_contexts(5) of the policy that is loaded.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

use super::{Label, Level};

/// Where the kernel tells of itself.
pub const SELINUXFS: &str = "/sys/fs/selinux";
const CONFIG: &str = "/etc/selinux/config";
/// Both files are a page at most.
const FILE_MAX_BYTES: u64 = 1 << 16;

/// Labels of containers, before any pod has its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    pub process: Label,
    pub file: Label,
    /// The type of a process that starts an init system, where the policy has one.
    pub init: Option<String>,
}

/// Why containers cannot be labelled on this node.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(
        "the SELinux policy knows no context {label}: install one with container types (Debian: selinux-policy-default, \
         Fedora: container-selinux), or set container.selinux = \"off\""
    )]
    Unknown { label: Label },
    #[error("{file}: {line:?} is not NAME = \"CONTEXT\"")]
    Line { file: String, line: String },
}

impl Policy {
    /// Of the policy that is loaded.
    ///
    /// # Errors
    /// Its file of contexts is broken, or the kernel does not know them.
    pub fn read() -> Result<Policy, Error> {
        let config = read_file(CONFIG).unwrap_or_default();
        let name = policy_name(&config);
        let file = format!("/etc/selinux/{name}/contexts/lxc_contexts");
        let policy = Policy::parse(&file, &read_file(&file).unwrap_or_default())?;
        for label in [&policy.process, &policy.file] {
            if !is_known(&label.to_string()) {
                return Err(Error::Unknown { label: label.clone() });
            }
        }
        let init = policy.init.clone();
        let known =
            init.filter(|kind| is_known(&Label { kind: kind.clone(), ..policy.process.clone() }.to_string()));
        Ok(Policy { init: known, ..policy })
    }

    /// A policy without such a file is taken for one with the names that all have.
    fn parse(file: &str, text: &str) -> Result<Policy, Error> {
        let find = |name: &str| find(file, text, name);
        let process = find("process")?.unwrap_or_else(|| default("system_r", "container_t"));
        let files = find("file")?.unwrap_or_else(|| default("object_r", "container_file_t"));
        Ok(Policy { process, file: files, init: find("init_process")?.map(|label| label.kind) })
    }
}

/// `SELINUXTYPE=` of selinux_config(5).
fn policy_name(config: &str) -> &str {
    let name = config.lines().find_map(|line| line.trim().strip_prefix("SELINUXTYPE="));
    let name = name.map(str::trim).filter(|name| super::label::is_word(name) && !name.starts_with('.'));
    name.unwrap_or("targeted")
}

fn find(file: &str, text: &str, name: &str) -> Result<Option<Label>, Error> {
    let entries = text.lines().filter_map(|line| Some((line, line.split_once('=')?)));
    let Some((line, (_, value))) = entries.into_iter().find(|(_, (key, _))| key.trim() == name) else {
        return Ok(None);
    };
    let label = value.trim().trim_matches('"').parse();
    label.map(Some).map_err(|_| Error::Line { file: file.to_owned(), line: line.to_owned() })
}

fn default(role: &str, kind: &str) -> Label {
    let level: Option<Level> = "s0".parse().ok();
    Label { user: "system_u".into(), role: role.into(), kind: kind.into(), level }
}

/// Whether the kernel does; where it has no SELinux, nothing is.
pub fn is_known(label: &str) -> bool {
    std::fs::write(Path::new(SELINUXFS).join("context"), label).is_ok()
}

/// Whether the kernel has SELinux and a policy.
pub fn is_on() -> bool {
    Path::new(SELINUXFS).join("enforce").exists()
}

fn read_file(path: &str) -> io::Result<String> {
    let mut text = String::new();
    File::open(path)?.take(FILE_MAX_BYTES).read_to_string(&mut text)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_policys_name_is_in_its_configuration() {
        assert_eq!(policy_name("# x\nSELINUX=enforcing\nSELINUXTYPE=default\n"), "default");
        assert_eq!(policy_name(""), "targeted");
        assert_eq!(policy_name("SELINUXTYPE=../../tmp\n"), "targeted");
        assert_eq!(policy_name("SELINUXTYPE=..\n"), "targeted");
    }

    #[test]
    fn contexts_are_read_and_have_defaults() {
        let text = "process = \"system_u:system_r:svirt_t:s0\"\n# no\nfile=\"system_u:object_r:svirt_file_t:s0\"\n\
                    init_process = \"system_u:system_r:container_init_t:s0\"\n";
        let policy = Policy::parse("f", text).unwrap();
        assert_eq!(policy.process.kind, "svirt_t");
        assert_eq!(policy.file.to_string(), "system_u:object_r:svirt_file_t:s0");
        assert_eq!(policy.init.as_deref(), Some("container_init_t"));
        let empty = Policy::parse("f", "").unwrap();
        assert_eq!(empty.process.to_string(), "system_u:system_r:container_t:s0");
        assert_eq!((empty.file.kind.as_str(), empty.init), ("container_file_t", None));
        let error = Policy::parse("lxc_contexts", "file = \"x\"\n").unwrap_err().to_string();
        assert!(error.contains("lxc_contexts"), "{error}");
    }
}
