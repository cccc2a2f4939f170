//! `--rootless`: whether a container may do without the cgroups that we may not make.

use runtime::Cgroups;

use super::Error;

pub(crate) fn read(word: &str) -> Result<Cgroups, Error> {
    match word {
        "auto" => Ok(Cgroups::AsAllowed),
        // What Go takes for a truth.
        "true" | "1" | "t" | "T" | "TRUE" | "True" => Ok(Cgroups::Optional),
        "false" | "0" | "f" | "F" | "FALSE" | "False" => Ok(Cgroups::Required),
        other => Err(Error::Usage(format!("--rootless: {other:?} is none of true, false and auto"))),
    }
}
