//! `list`.

use super::args::{Args, unknown};
use super::log::rfc3339;
use super::{Error, Global};

#[derive(Clone, Copy)]
enum Format {
    Table,
    Json,
    Ids,
}

pub(crate) fn list(global: &Global, mut args: Args) -> Result<u8, Error> {
    let mut format = Format::Table;
    while let Some(option) = args.option() {
        match option.as_str() {
            "-q" | "--quiet" if args.flag() => format = Format::Ids,
            "-f" | "--format" => match args.value(&option)?.as_str() {
                "table" => format = Format::Table,
                "json" => format = Format::Json,
                other => return Err(Error::Usage(format!("--format: {other:?} is neither table nor json"))),
            },
            _ => return Err(unknown(&option)),
        }
    }
    args.end()?;
    let states = global.runtime.list()?;
    match format {
        Format::Ids => states.iter().for_each(|(state, _)| println!("{}", state.id)),
        Format::Table => table(&states),
        Format::Json => println!("{}", json(&states)),
    }
    Ok(0)
}

fn table(states: &[(runtime::state::State, u64)]) {
    println!("{:<24} {:<8} {:<9} {:<32} CREATED", "ID", "PID", "STATUS", "BUNDLE");
    for (state, created_s) in states {
        let (pid, bundle) = (state.pid.unwrap_or(0), state.bundle.display());
        println!(
            "{:<24} {pid:<8} {:<9} {bundle:<32} {}",
            state.id,
            state.status.as_str(),
            rfc3339(*created_s)
        );
    }
}

/// runc's field names.
fn json(states: &[(runtime::state::State, u64)]) -> serde_json::Value {
    let one = |(state, created_s): &(runtime::state::State, u64)| {
        serde_json::json!({
            "ociVersion": state.oci_version,
            "id": state.id,
            "pid": state.pid.unwrap_or(0),
            "status": state.status,
            "bundle": state.bundle,
            "created": rfc3339(*created_s),
            "annotations": state.annotations,
        })
    };
    states.iter().map(one).collect()
}
