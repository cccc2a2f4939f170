//! `registries.conf`: which endpoints are asked for a reference, and in which order.

use std::path::Path;

use crate::reference::Reference;

/// Everything the files said.
#[derive(Debug, Clone, Default)]
pub struct RegistriesConf {}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("reading {path}")]
    Read { path: std::path::PathBuf, source: std::io::Error },
}

impl RegistriesConf {
    /// Reads the file and its drop-in directory (`*.conf`, by name). What is not there says nothing.
    pub fn load(_file: &Path, _drop_ins: &Path) -> Result<RegistriesConf, Error> {
        Ok(RegistriesConf {})
    }

    /// The full references that a name as written may mean, in the order to try them.
    pub fn candidates(&self, _text: &str) -> Result<Vec<Reference>, Error> {
        Ok(Vec::new())
    }
}
