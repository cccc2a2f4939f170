//! The time, and how the log format writes it. By hand: formatting machinery costs memory in every pod.

use rustix::time::{ClockId, clock_gettime};

const NS: i64 = 1_000_000_000;

/// Nanoseconds since the Unix epoch.
pub(crate) fn now_ns() -> i64 {
    let now = clock_gettime(ClockId::Realtime);
    now.tv_sec * NS + now.tv_nsec
}

/// Nanoseconds that only go forward, for deadlines.
pub(crate) fn monotonic_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    (now.tv_sec * NS + now.tv_nsec).unsigned_abs()
}

/// `2026-11-21T12:00:00.000000001Z`: RFC 3339 with nine digits, always this long.
pub(crate) fn rfc3339(at_ns: i64) -> [u8; 30] {
    let (seconds, nanos) = (at_ns.div_euclid(NS), at_ns.rem_euclid(NS));
    let (days, second_of_day) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    let (year, month, day) = civil(days);
    let mut text = *b"0000-00-00T00:00:00.000000000Z";
    digits(&mut text[0..4], year);
    digits(&mut text[5..7], month);
    digits(&mut text[8..10], day);
    digits(&mut text[11..13], second_of_day / 3600);
    digits(&mut text[14..16], second_of_day / 60 % 60);
    digits(&mut text[17..19], second_of_day % 60);
    digits(&mut text[20..29], nanos);
    text
}

fn digits(place: &mut [u8], mut number: i64) {
    for digit in place.iter_mut().rev() {
        *digit = b'0' + (number % 10).unsigned_abs() as u8;
        number /= 10;
    }
}

/// Year, month and day of a day since 1970-01-01, counting years from March so that a leap day comes last
/// (H. Hinnant, "chrono-compatible low-level date algorithms").
fn civil(days: i64) -> (i64, i64, i64) {
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_rfc_3339_with_nine_digits() {
        let check = |at_ns: i64, text: &str| assert_eq!(std::str::from_utf8(&rfc3339(at_ns)).unwrap(), text);
        check(0, "1970-01-01T00:00:00.000000000Z");
        check(1, "1970-01-01T00:00:00.000000001Z");
        check(951_782_400 * NS, "2000-02-29T00:00:00.000000000Z");
        check(951_868_800 * NS, "2000-03-01T00:00:00.000000000Z");
        check(1_475_712_996 * NS + 669_794_202, "2016-10-06T00:16:36.669794202Z");
        check(1_735_689_599 * NS + 999_999_999, "2024-12-31T23:59:59.999999999Z");
        check(4_107_542_400 * NS, "2100-03-01T00:00:00.000000000Z");
        check(-1, "1969-12-31T23:59:59.999999999Z");
    }
}
