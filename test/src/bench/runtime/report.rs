//! The tables and the ratios, as text.

use std::fmt::Write as _;

use super::contender::Contender;

const COMMANDS: &[&str] = &["run", "create", "start", "exec", "kill", "delete", "create_start_delete"];
const MEMORY: &[(&str, &str)] = &[("run_rss", "run"), ("create_rss", "create"), ("exec_rss", "exec")];

pub(super) fn text(contenders: &[Contender], rounds: u32) -> String {
    let mut sorted: Vec<&Contender> = contenders.iter().collect();
    let order = ["berth-runtime", "crun", "runc", "floor"];
    sorted.sort_by_key(|contender| order.iter().position(|name| *name == contender.name));
    let mut text = format!("{rounds} rounds, 60 ms idle before each command\n");
    table(&mut text, &sorted, "ms, p50 (p10)", COMMANDS, |contender, name| {
        let samples = &contender.samples;
        format!("{:.2} ({:.2})", samples.p50(name), samples.percentile(name, 10.0))
    });
    let names: Vec<&str> = MEMORY.iter().map(|(name, _)| *name).collect();
    table(&mut text, &sorted, "peak RSS, KiB", &names, |contender, name| {
        format!("{:.0}", contender.samples.percentile(name, 100.0))
    });
    table(&mut text, &sorted, "system calls", &["run"], |contender, _| contender.system_calls.to_string());
    ratios(&mut text, &sorted);
    text
}

fn table(
    text: &mut String,
    contenders: &[&Contender],
    title: &str,
    rows: &[&str],
    cell: impl Fn(&Contender, &str) -> String,
) {
    // Writing to a `String` cannot fail.
    let _ = write!(text, "\n{title:<20}");
    for contender in contenders {
        let _ = write!(text, "{:>18}", contender.name);
    }
    for row in rows {
        let _ = write!(text, "\n{row:<20}");
        contenders.iter().for_each(|contender| {
            let cell =
                if contender.samples.p50(row).is_nan() { "-".to_owned() } else { cell(contender, row) };
            let _ = write!(text, "{cell:>18}");
        });
    }
    text.push('\n');
}

fn ratios(text: &mut String, contenders: &[&Contender]) {
    let p50 = |who: &str, what: &str| {
        let contender = contenders.iter().find(|contender| contender.name == who);
        contender.map_or(f64::NAN, |contender| contender.samples.p50(what))
    };
    text.push('\n');
    for peer in ["crun", "runc"] {
        for what in ["run", "exec", "create_start_delete"] {
            let ratio = p50("berth-runtime", what) / p50(peer, what);
            let _ = writeln!(text, "ratio {what}_vs_{peer} {ratio:.3}");
        }
    }
    let _ = writeln!(text, "ratio run_vs_floor {:.3}", p50("berth-runtime", "run") / p50("floor", "run"));
}
