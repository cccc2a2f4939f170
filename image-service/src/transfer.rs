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
mod stored;
mod tarfile;
mod target;

use std::path::PathBuf;

use tokio::sync::watch;

pub use copy::{Copied, Copy, copy};
pub use inspect::{Inspected, inspect};
pub use location::{InvalidLocation, Location};

use crate::error::Error;
use crate::images::{Images, Settings};
use crate::pull::Progress;
use crate::registries_conf::RegistriesConf;
use crate::registry::{self, Registry};

/// Writes an image of the node's store to a layout or an archive. Reads and writes files: for a thread that may
/// wait, on which it runs to its end.
///
/// # Errors
/// When the image is not there or not provable, or the target can't be written.
pub fn export(
    images: &Images,
    name: &str,
    target: &Location,
    progress: &watch::Sender<Progress>,
) -> Result<Copied, Error> {
    if matches!(target, Location::Registry { .. }) {
        let why = "an export goes to oci:, oci-archive: or docker-archive:; to a registry, copy it from one";
        return Err(Error::invalid(target.to_string(), why));
    }
    let source = source::Source::Stored(stored::Stored::open(images, name)?);
    let registry = registry(images.settings(), &[])?;
    let handle = tokio::runtime::Handle::current();
    handle.block_on(async {
        let top = source.top().await?;
        copy::pour(&source, target, &registry, &[top], progress).await
    })
}

/// What the store has of an image, for [`Inspected::json`].
///
/// # Errors
/// When there is no such image.
pub fn inspect_stored(images: &Images, name: &str) -> Result<Inspected, Error> {
    stored::inspect(images, name)
}

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
