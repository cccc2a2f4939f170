//! Where errors and warnings go: standard error, and the file that `--log` names, which engines read.

use std::io::Write as _;
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use super::Error;

#[derive(Debug, Default)]
pub(crate) struct Log {
    pub(crate) file: Option<PathBuf>,
    pub(crate) debug: bool,
    format: Format,
}

#[derive(Debug, Default, Clone, Copy)]
enum Format {
    #[default]
    Text,
    Json,
}

impl Log {
    pub(crate) fn set_format(&mut self, name: &str) -> Result<(), Error> {
        self.format = match name {
            "text" => Format::Text,
            "json" => Format::Json,
            other => return Err(Error::Usage(format!("--log-format: {other:?} is neither text nor json"))),
        };
        Ok(())
    }

    pub(crate) fn error(&self, text: &str) {
        eprintln!("berth-runtime: {text}");
        self.append("error", text);
    }

    pub(crate) fn warn(&self, text: &str) {
        match self.file {
            Some(_) => self.append("warning", text),
            None => eprintln!("berth-runtime: warning: {text}"),
        }
    }

    /// Only when asked for: to the log, or to standard error where there is none.
    pub(crate) fn debug(&self, text: &str) {
        match (self.debug, &self.file) {
            (false, _) => {}
            (true, Some(_)) => self.append("debug", text),
            (true, None) => eprintln!("berth-runtime: debug: {text}"),
        }
    }

    fn append(&self, level: &str, text: &str) {
        let Some(path) = &self.file else { return };
        let time = rfc3339(now_s());
        let line = match self.format {
            Format::Text => format!("time=\"{time}\" level={level} msg={text:?}\n"),
            Format::Json => format!("{}\n", serde_json::json!({"level": level, "msg": text, "time": time})),
        };
        let file = std::fs::OpenOptions::new().create(true).append(true).open(path);
        // Standard error has it already.
        let _ = file.and_then(|mut file| file.write_all(line.as_bytes()));
    }
}

fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// Seconds since the epoch as a date: the civil calendar from a count of days, in 400-year eras from March.
pub(crate) fn rfc3339(seconds: u64) -> String {
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    let z = days + 719_468;
    let (era, day_of_era) = (z / 146_097, z % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", second / 3600, second / 60 % 60, second % 60)
}

#[cfg(test)]
mod tests {
    use super::rfc3339;

    #[test]
    fn dates_are_those_of_the_calendar() {
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00Z");
        assert_eq!(rfc3339(951_782_399), "2000-02-28T23:59:59Z");
        assert_eq!(rfc3339(951_782_400), "2000-02-29T00:00:00Z");
        assert_eq!(rfc3339(1_795_262_400), "2026-11-21T12:00:00Z");
    }
}
