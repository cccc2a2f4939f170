//! `ps`: the container's processes, by number or as the host's ps(1) shows them.

use std::process::Command;

use super::args::{Args, unknown};
use super::{Error, Global};

#[derive(Clone, Copy, PartialEq, Eq)]
enum Format {
    Table,
    Json,
}

pub(crate) fn ps(global: &Global, mut args: Args) -> Result<u8, Error> {
    let mut format = Format::Table;
    while let Some(option) = args.option() {
        match option.as_str() {
            "-f" | "--format" => match args.value(&option)?.as_str() {
                "table" => format = Format::Table,
                "json" => format = Format::Json,
                other => return Err(Error::Usage(format!("--format: {other:?} is neither table nor json"))),
            },
            _ => return Err(unknown(&option)),
        }
    }
    let id = args.id()?;
    let pids = global.runtime.pids(&id)?;
    match format {
        Format::Json => println!("{}", serde_json::json!(pids)),
        Format::Table => print!("{}", table(&pids, args.rest())?),
    }
    Ok(0)
}

/// What is after the id is for ps(1).
fn table(pids: &[i32], mut options: Vec<String>) -> Result<String, Error> {
    if options.is_empty() {
        options.push("-ef".into());
    }
    let output = Command::new("ps").args(&options).output().map_err(|e| Error::io("running", "ps", e))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        return Err(Error::Usage(format!("ps {}: {said}", options.join(" "))));
    }
    only(&String::from_utf8_lossy(&output.stdout), pids)
}

/// The heading, and the lines whose PID is one of these.
fn only(text: &str, pids: &[i32]) -> Result<String, Error> {
    let mut lines = text.lines();
    let heading = lines.next().unwrap_or_default();
    let column = heading.split_whitespace().position(|word| word == "PID");
    let column = column.ok_or_else(|| Error::Usage("ps shows no column PID with these options".into()))?;
    let ours = |line: &&str| {
        let pid = line.split_whitespace().nth(column).and_then(|word| word.parse().ok());
        pid.is_some_and(|pid| pids.contains(&pid))
    };
    let shown = std::iter::once(heading).chain(lines.filter(ours));
    Ok(shown.map(|line| format!("{line}\n")).collect())
}

#[cfg(test)]
mod tests {
    use super::only;

    #[test]
    fn lines_are_chosen_by_the_column_of_the_pid() {
        let text = "USER PID CMD\nroot 12 a 7\nroot 7 b\n7 120 c\n";
        assert_eq!(only(text, &[7]).unwrap(), "USER PID CMD\nroot 7 b\n");
        assert!(only("USER CMD\nroot x\n", &[7]).is_err());
    }
}
