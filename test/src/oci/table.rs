//! The table: a line a test as it is done, then the reasons, then a line a runtime.

use super::verdict::{Outcome, Verdict};
use super::{Level, Row, Runtime};

const WIDTH: usize = 92;

pub(crate) fn line(row: &Row) {
    let title = format!("{} {} {}", level(row.level), row.section, row.name);
    let cells: Vec<&str> = row.outcomes.iter().map(cell).collect();
    println!("{title:WIDTH$} {}", cells.join("  "));
}

fn level(level: Level) -> &'static str {
    match level {
        Level::Must => "MUST  ",
        Level::Should => "SHOULD",
        Level::Command => "CLI   ",
    }
}

fn cell(outcome: &Outcome) -> &'static str {
    match outcome {
        Ok(()) => "pass",
        Err(Verdict::Fails(_)) => "FAIL",
        Err(Verdict::NotApplicable(_)) => "n.a.",
    }
}

/// Reasons by runtime, then the counts: the last lines are for programs to read.
pub(crate) fn summary(runtimes: &[Runtime], rows: &[Row]) {
    for (i, runtime) in runtimes.iter().enumerate() {
        println!("\n{} ({}):", runtime.name, runtime.version);
        for row in rows {
            let words = match &row.outcomes[i] {
                Ok(()) => continue,
                Err(Verdict::Fails(why)) => format!("FAIL {}", why.replace('\n', " ")),
                Err(Verdict::NotApplicable(why)) => format!("n.a. {why}"),
            };
            println!("  {} {}: {words}", row.section, row.name);
        }
    }
    println!();
    for (i, runtime) in runtimes.iter().enumerate() {
        let count = |wanted: &str| rows.iter().filter(|row| cell(&row.outcomes[i]) == wanted).count();
        let must =
            rows.iter().filter(|row| row.level == Level::Must && cell(&row.outcomes[i]) == "FAIL").count();
        println!(
            "{}: {} passed, {} failed ({must} of them MUST), {} not applicable",
            runtime.name,
            count("pass"),
            count("FAIL"),
            count("n.a.")
        );
    }
}
