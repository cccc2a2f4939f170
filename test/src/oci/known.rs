//! What our own runtime is known not to pass, each with its reason. Anything else that fails is an error, and so is
//! a line here that passes by now.

use anyhow::{Result, ensure};

use super::verdict::Verdict;
use super::{Row, Runtime};

/// Section and name, and why.
const KNOWN: &[(&str, &str, &str)] = &[];

pub(crate) fn check(runtimes: &[Runtime], rows: &[Row], complete: bool) -> Result<()> {
    let Some(i) = runtimes.iter().position(Runtime::is_ours) else { return Ok(()) };
    let known =
        |row: &Row| KNOWN.iter().any(|(section, name, _)| *section == row.section && *name == row.name);
    let mut surprises = Vec::new();
    for row in rows {
        match &row.outcomes[i] {
            Err(Verdict::Fails(why)) if !known(row) => {
                surprises.push(format!("{} {}: {why}", row.section, row.name));
            }
            Ok(()) if known(row) => {
                surprises.push(format!("{} {} passes: take it off the list", row.section, row.name));
            }
            _ => {}
        }
    }
    for (section, name, _) in KNOWN.iter().filter(|_| complete) {
        if !rows.iter().any(|row| row.section == *section && row.name == *name) {
            surprises.push(format!("{section} {name} is on the list and there is no such test"));
        }
    }
    ensure!(surprises.is_empty(), "unexpected:\n{}", surprises.join("\n"));
    Ok(())
}
