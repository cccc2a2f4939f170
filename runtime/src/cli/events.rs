//! `events`: one JSON object a line, as runc writes them.

use std::io::Write as _;
use std::time::{Duration, Instant};

use runtime::Event;
use serde_json::{Value, json};

use super::args::{Args, unknown};
use super::{Error, Global};

const DEFAULT_INTERVAL: Duration = Duration::from_secs(5);

pub(crate) fn events(global: &Global, mut args: Args) -> Result<u8, Error> {
    let (mut interval, mut once) = (DEFAULT_INTERVAL, false);
    while let Some(option) = args.option() {
        match option.as_str() {
            "--interval" => interval = duration(&args.value(&option)?)?,
            "--stats" => once = args.flag(&option)?,
            _ => return Err(unknown(&option)),
        }
    }
    let id = args.id()?;
    args.end()?;
    if once {
        return write(&stats(global, &id)?).map(|()| 0);
    }
    follow(global, &id, interval)
}

/// Until the container ends.
fn follow(global: &Global, id: &str, interval: Duration) -> Result<u8, Error> {
    let mut watch = global.runtime.watch(id)?;
    let mut due = Instant::now() + interval;
    loop {
        match watch.next(due.saturating_duration_since(Instant::now()))? {
            Event::Oom { kills } => {
                for _ in 0..kills {
                    write(&json!({"type": "oom", "id": id}))?;
                }
            }
            Event::Quiet => {
                match stats(global, id) {
                    Ok(stats) => write(&stats)?,
                    // It may have ended meanwhile, which the watch will say.
                    Err(error) => global.log.warn(&error.to_string()),
                }
                due += interval;
            }
            Event::Ended => return Ok(0),
        }
    }
}

fn stats(global: &Global, id: &str) -> Result<Value, Error> {
    Ok(json!({"type": "stats", "id": id, "data": global.runtime.stats(id)?}))
}

fn write(event: &Value) -> Result<(), Error> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{event}").and_then(|()| out.flush()).map_err(|e| Error::io("writing", "an event", e))
}

/// Go's way to write one: numbers with units, such as `1m30s` or `500ms`.
fn duration(text: &str) -> Result<Duration, Error> {
    let wrong = || Error::Usage(format!("--interval: {text:?} is no duration above 0 such as 5s or 500ms"));
    let (mut rest, mut total) = (text, Duration::ZERO);
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(wrong)?;
        let (number, after) = rest.split_at(digits);
        let unit = after.find(|c: char| c.is_ascii_digit()).unwrap_or(after.len());
        let (unit, after) = after.split_at(unit);
        let seconds = match unit {
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 1e-3,
            "us" | "µs" => 1e-6,
            "ns" => 1e-9,
            _ => return Err(wrong()),
        };
        let number: f64 = number.parse().map_err(|_| wrong())?;
        total += Duration::try_from_secs_f64(number * seconds).map_err(|_| wrong())?;
        rest = after;
    }
    if total.is_zero() { Err(wrong()) } else { Ok(total) }
}

#[cfg(test)]
mod tests {
    use super::duration;

    #[test]
    fn durations_are_read_as_go_writes_them() {
        let ms = |text| duration(text).ok().map(|duration| duration.as_millis());
        assert_eq!(ms("1m30s"), Some(90_000));
        assert_eq!(ms("500ms"), Some(500));
        assert_eq!(ms("1.5s"), Some(1500));
        for wrong in ["", "5", "0s", "s", "-1s", "5 s", "1x", "99999999999999999999h"] {
            assert_eq!(ms(wrong), None, "{wrong:?}");
        }
    }
}
