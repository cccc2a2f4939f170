//! A line in a file: what a hook was told, and where it ran.

use std::fs;
use std::io::{Read as _, Write as _};
use std::process::ExitCode;

use serde_json::{Value, json};

/// `how`: `fail` ends with an error, `hang` not at all for a minute; `stay` keeps running after the note.
pub(crate) fn note(file: &str, name: &str, how: &[&str]) -> ExitCode {
    let line = format!("{}\n", noted(name, !how.contains(&"quiet")));
    let written = fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(file)
        .and_then(|mut file| file.write_all(line.as_bytes()));
    if let Err(error) = written {
        eprintln!("probe: {file}: {error}");
        return ExitCode::from(3);
    }
    if how.contains(&"hang") || how.contains(&"stay") {
        std::thread::sleep(std::time::Duration::from_secs(60));
    }
    if how.contains(&"fail") { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

fn noted(name: &str, reads_stdin: bool) -> Value {
    let mut stdin = String::new();
    if reads_stdin {
        // A hook's input is the state; what cannot be read shows as no state.
        let _ = std::io::stdin().lock().take(1 << 20).read_to_string(&mut stdin);
    }
    let state: Value = serde_json::from_str(&stdin).unwrap_or(Value::Null);
    let pid = state["pid"].as_i64();
    json!({
        "name": name,
        "state": state,
        "target": pid.map(command_line),
        "args": std::env::args().collect::<Vec<_>>(),
        "env": std::env::vars().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>(),
        "namespaces": crate::report::namespaces(),
        "cwd": std::env::current_dir().ok(),
        "root": fs::read_dir("/").map(names).unwrap_or_default(),
    })
}

fn command_line(pid: i64) -> Vec<String> {
    let bytes = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    text.split('\0').filter(|word| !word.is_empty()).map(str::to_owned).collect()
}

fn names(entries: fs::ReadDir) -> Vec<String> {
    entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}
