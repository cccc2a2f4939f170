//! Images from one place to another without unpacking them, and a look at what a place has: what an operator
//! would use skopeo for. Digests stay what they are; what is there already is not sent.
//!
//! ```text
//! Location ─► Source ─┬─► Inspected
//!                     └─► copy ─► Target (registry, layout, archive)
//! ```
//! It is for a process of its own: it reads and writes files where it runs, so it never runs on the daemon's
//! own threads.

mod copy;
mod docker_archive;
mod files;
mod inspect;
mod layout;
mod location;
mod source;
mod tarfile;
mod target;

use std::path::PathBuf;

pub use copy::{Copied, Copy, copy};
pub use inspect::{Inspected, inspect};
pub use location::{InvalidLocation, Location};

use crate::error::Error;
use crate::images::Settings;
use crate::registries_conf::RegistriesConf;
use crate::registry::{self, Registry};

/// A client of registries as the node's settings have it; `auth_files` are looked at before the node's own.
fn registry(settings: &Settings, auth_files: &[PathBuf]) -> Result<Registry, Error> {
    let registries = RegistriesConf::load(&settings.registries_conf, &settings.registries_conf_dir)
        .map_err(Error::registries)?;
    Ok(Registry::new(registry::Settings {
        registries,
        certs_dirs: settings.certs_dirs.clone(),
        auth_files: auth_files.iter().chain(&settings.auth_files).cloned().collect(),
        ..registry::Settings::default()
    }))
}
