//! `ociVersion`: a semantic version that we are compatible with.

use crate::Error;

const FIELD: &str = "ociVersion";

/// Any 1.x: the specification keeps compatibility within a major version, and drafts of 1.0 are still around.
pub(super) fn check(version: &str) -> Result<(), Error> {
    match numbers(version).map(|[major, ..]| major) {
        Some(1) => Ok(()),
        Some(_) => Err(Error::unsupported(FIELD, format!("{version} is not 1.x"))),
        None if version.is_empty() => Err(Error::invalid(FIELD, "is required")),
        None => Err(Error::invalid(FIELD, format!("{version:?} is no semantic version"))),
    }
}

/// Whether a configuration of that version calls a `linux.resources.pids.limit` of 0 a limit. Until 1.2 it stood for
/// none, and there are engines that write it for "unlimited".
pub(super) fn has_limits_of_zero(version: &str) -> bool {
    numbers(version).is_some_and(|[major, minor, _]| (major, minor) >= (1, 3))
}

/// semver.org 2.0.0: three numbers without needless zeros, then `-drafts` and `+builds` of dotted words.
fn numbers(version: &str) -> Option<[u64; 3]> {
    let (version, build) = version.split_once('+').map_or((version, None), |(v, b)| (v, Some(b)));
    let (core, draft) = version.split_once('-').map_or((version, None), |(v, d)| (v, Some(d)));
    let words = |words: Option<&str>| words.is_none_or(|words| words.split('.').all(is_word));
    let numbers: Vec<u64> = core.split('.').map(number).collect::<Option<_>>()?;
    <[u64; 3]>::try_from(numbers).ok().filter(|_| words(draft) && words(build))
}

fn number(text: &str) -> Option<u64> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    plain.then(|| text.parse().ok()).flatten()
}

fn is_word(word: &str) -> bool {
    !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zero_is_a_limit_since_1_3() {
        assert!(["1.3.0", "1.3.1-rc.1", "1.10.0"].into_iter().all(has_limits_of_zero));
        assert!(!["1.0.2-dev", "1.2.1+dev", "", "x"].into_iter().any(has_limits_of_zero));
    }

    #[test]
    fn versions_of_the_first_major_are_taken_and_what_is_none_is_refused() {
        for good in ["1.0.0", "1.3.0", "1.99.0", "1.0.0-rc5", "1.0.2-dev", "1.2.1+dev", "1.0.0-rc.1+x-1.y"] {
            assert!(check(good).is_ok(), "{good}");
        }
        for bad in [
            "", "1", "1.0", "1.0.0.0", "01.0.0", "1.0.x", "v1.0.0", "1.0.0-", "1.0.0+", "0.9.0", "2.0.0",
            " 1.0.0",
        ] {
            assert!(check(bad).is_err(), "{bad}");
        }
    }
}
