//! The signal that asks a container to stop: the pod's word, then the image's, then SIGTERM.

use proto::v1;

use super::{ImageFacts, Invalid};

const SIGTERM: i32 = 15;
const SIGRTMIN: i32 = 34;
const SIGRTMAX: i32 = 64;

/// signal(7), x86 and ARM; the names that the interface knows.
const NUMBERS: [(&str, i32); 35] = [
    ("ABRT", 6),
    ("ALRM", 14),
    ("BUS", 7),
    ("CHLD", 17),
    ("CLD", 17),
    ("CONT", 18),
    ("FPE", 8),
    ("HUP", 1),
    ("ILL", 4),
    ("INT", 2),
    ("IO", 29),
    ("IOT", 6),
    ("KILL", 9),
    ("PIPE", 13),
    ("POLL", 29),
    ("PROF", 27),
    ("PWR", 30),
    ("QUIT", 3),
    ("SEGV", 11),
    ("STKFLT", 16),
    ("STOP", 19),
    ("SYS", 31),
    ("TERM", SIGTERM),
    ("TRAP", 5),
    ("TSTP", 20),
    ("TTIN", 21),
    ("TTOU", 22),
    ("URG", 23),
    ("USR1", 10),
    ("USR2", 12),
    ("VTALRM", 26),
    ("WINCH", 28),
    ("XCPU", 24),
    ("XFSZ", 25),
    ("UNUSED", 31),
];

pub(super) fn stop_signal(config: &v1::ContainerConfig, image: &ImageFacts<'_>) -> Result<i32, Invalid> {
    let asked = v1::Signal::try_from(config.stop_signal)
        .map_err(|_| Invalid::wrong("stop_signal", format!("there is no signal {}", config.stop_signal)))?;
    if asked != v1::Signal::RuntimeDefault {
        let name = asked.as_str_name();
        return number(name).ok_or_else(|| Invalid::unsupported("stop_signal", name));
    }
    match image.stop_signal {
        "" => Ok(SIGTERM),
        name => number(name)
            .ok_or_else(|| Invalid::wrong("image", format!("the stop signal of {} is {name:?}", image.name))),
    }
}

/// `SIGUSR1`, `usr1`, `10`, `SIGRTMIN+3`, and the interface's `SIGNAL_SIGRTMINPLUS3`.
pub(crate) fn number(name: &str) -> Option<i32> {
    if let Ok(number) = name.parse() {
        return (1..=SIGRTMAX).contains(&number).then_some(number);
    }
    let name = name.to_ascii_uppercase().replace("PLUS", "+").replace("MINUS", "-");
    let name = name.strip_prefix("SIGNAL_").unwrap_or(&name);
    let name = name.strip_prefix("SIG").unwrap_or(name);
    let known = NUMBERS.iter().find(|(known, _)| *known == name).map(|(_, number)| *number);
    known.or_else(|| real_time(name))
}

fn real_time(name: &str) -> Option<i32> {
    let (base, offset) = match (name.strip_prefix("RTMIN"), name.strip_prefix("RTMAX")) {
        (Some(offset), _) => (SIGRTMIN, offset),
        (_, Some(offset)) => (SIGRTMAX, offset),
        _ => return None,
    };
    let offset: i32 = if offset.is_empty() { 0 } else { offset.parse().ok()? };
    let number = base.checked_add(offset)?;
    (SIGRTMIN..=SIGRTMAX).contains(&number).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_signal_of_the_interface_has_a_number() {
        for value in 1..=65 {
            let signal = v1::Signal::try_from(value).unwrap();
            assert!(number(signal.as_str_name()).is_some(), "{}", signal.as_str_name());
        }
    }

    #[test]
    fn names_and_numbers_are_understood_and_nothing_else() {
        let check = |name: &str, expected: Option<i32>| assert_eq!(number(name), expected, "{name}");
        check("SIGTERM", Some(15));
        check("term", Some(15));
        check("9", Some(9));
        check("0", None);
        check("65", None);
        check("RTMIN+3", Some(37));
        check("SIGRTMAX-14", Some(50));
        check("RTMAX+1", None);
        check("SIGNAL_SIGRTMAXMINUS1", Some(63));
        check("NOPE", None);
    }
}
