//! `spec`: a config.json to start from.

use std::io::Write as _;
use std::path::PathBuf;

use super::Error;
use super::args::{Args, unknown};

const TEMPLATE: &str = include_str!("spec.json");

pub(crate) fn spec(mut args: Args) -> Result<u8, Error> {
    let mut bundle = PathBuf::from(".");
    while let Some(option) = args.option() {
        match option.as_str() {
            "-b" | "--bundle" => bundle = args.value(&option)?.into(),
            _ => return Err(unknown(&option)),
        }
    }
    args.end()?;
    let path = bundle.join("config.json");
    let at = |e| Error::io("writing", path.display().to_string(), e);
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).open(&path).map_err(at)?;
    file.write_all(TEMPLATE.as_bytes()).map_err(at)?;
    Ok(0)
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_template_is_a_configuration() {
        let spec: runtime::spec::Spec = serde_json::from_str(super::TEMPLATE).unwrap();
        assert_eq!(spec.oci_version, runtime::spec::OCI_VERSION);
    }
}
