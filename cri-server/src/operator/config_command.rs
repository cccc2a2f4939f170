//! `berth config`.

use std::path::Path;

use super::say::say;
use super::{ConfigCommand, Error};
use crate::config::{self, Config};

pub(super) fn run(command: &ConfigCommand, file: &Path) -> Result<(), Error> {
    match command {
        ConfigCommand::Default => say(&Config::default_text()),
        ConfigCommand::Check => {
            read(file)?;
            say(&format!("{} is in order\n", file.display()))
        }
        ConfigCommand::Show => {
            let text = toml::to_string_pretty(&read(file)?);
            say(&text.expect("settings are made of what TOML can hold"))
        }
    }
}

/// The default file may be absent, one that was named may not.
pub(super) fn read(file: &Path) -> Result<Config, config::Error> {
    Config::read(file, file != Path::new(config::DEFAULT_FILE))
}
