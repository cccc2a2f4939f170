//! `list` and `state`: what there is, in runc's words.

use runtime::Listed;
use serde_json::{Value, json};

use super::args::{Args, unknown};
use super::log::rfc3339;
use super::{Error, Global, bundle};

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
            "-q" | "--quiet" => format = if args.flag(&option)? { Format::Ids } else { format },
            "-f" | "--format" => match args.value(&option)?.as_str() {
                "table" => format = Format::Table,
                "json" => format = Format::Json,
                other => return Err(Error::Usage(format!("--format: {other:?} is neither table nor json"))),
            },
            _ => return Err(unknown(&option)),
        }
    }
    args.end()?;
    let containers = global.runtime.list()?;
    match format {
        Format::Ids => containers.iter().for_each(|one| println!("{}", one.state.id)),
        Format::Table => table(&containers),
        // Go's nil slice: engines expect it where there is nothing.
        Format::Json if containers.is_empty() => println!("null"),
        Format::Json => println!("{}", containers.iter().map(json).collect::<Value>()),
    }
    Ok(0)
}

pub(crate) fn state(global: &Global, mut args: Args) -> Result<u8, Error> {
    if let Some(option) = args.option() {
        return Err(unknown(&option));
    }
    let id = args.id()?;
    args.end()?;
    println!("{:#}", json(&global.runtime.listed(&id)?));
    Ok(0)
}

/// Columns as wide as their longest word, three blanks between them.
fn table(containers: &[Listed]) {
    let mut rows = vec![["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"].map(str::to_owned)];
    rows.extend(containers.iter().map(|one| {
        let state = &one.state;
        let pid = state.pid.unwrap_or(0).to_string();
        let bundle = state.bundle.display().to_string();
        let (created, owner) = (rfc3339(one.created_s), user_name(one.owner_uid));
        [state.id.clone(), pid, state.status.as_str().to_owned(), bundle, created, owner]
    }));
    let widths: Vec<usize> =
        (0..6).map(|i| rows.iter().map(|row| row[i].len()).max().unwrap_or(0).max(9) + 3).collect();
    for row in rows {
        let line: String = row.iter().zip(&widths).map(|(word, &width)| format!("{word:<width$}")).collect();
        println!("{}", line.trim_end());
    }
}

/// runc's field names; a pid of 0 is one that has ended.
fn json(one: &Listed) -> Value {
    let state = &one.state;
    let mut value = json!({
        "ociVersion": state.oci_version,
        "id": state.id,
        "pid": state.pid.unwrap_or(0),
        "status": state.status,
        "bundle": state.bundle,
        "rootfs": bundle::rootfs(&state.bundle),
        "created": rfc3339(one.created_s),
        "owner": if one.owner_uid == 0 { String::new() } else { user_name(one.owner_uid) },
    });
    if !state.annotations.is_empty() {
        value["annotations"] = json!(state.annotations);
    }
    value
}

/// The host's name for it, or `#1000`.
fn user_name(uid: u32) -> String {
    let users = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let name = users.lines().find_map(|line| {
        let mut fields = line.split(':');
        let (name, id) = (fields.next()?, fields.nth(1)?);
        (id.parse() == Ok(uid)).then(|| name.to_owned())
    });
    name.unwrap_or_else(|| format!("#{uid}"))
}
