//! A security context and its parts as text: `USER:ROLE:TYPE:LEVEL`, a level as `s0:c1,c5` or a range of two.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Categories of every policy with multi-category security.
pub const CATEGORIES: u16 = 1024;
/// The kernel takes contexts up to a page.
const WORD_MAX: usize = 255;
const SENSITIVITIES: u16 = 1024;

pub(super) const NO_WORD: &str = "is not made of letters, digits, '.', '-' and '_'";
const NO_LEVEL: &str = "is no level such as s0:c4,c5 or range such as s0-s0:c0.c1023";

/// A whole context.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Label {
    pub user: String,
    pub role: String,
    pub kind: String,
    /// None where the policy has neither levels nor categories.
    pub level: Option<Level>,
}

/// A level, or a range from a lower to a higher one.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Level(String);

impl Level {
    /// Sensitivity 0 with two categories.
    pub fn of_pair(low: u16, high: u16) -> Level {
        Level(format!("s0:c{low},c{high}"))
    }

    /// The lower end, which is what a file has.
    #[must_use]
    pub fn low(&self) -> Level {
        Level(self.0.split('-').next().unwrap_or(&self.0).to_owned())
    }
}

impl FromStr for Level {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Level, &'static str> {
        let ends: Vec<&str> = text.split('-').collect();
        let fine = ends.len() <= 2 && ends.iter().all(|end| is_level(end));
        if fine { Ok(Level(text.to_owned())) } else { Err(NO_LEVEL) }
    }
}

impl FromStr for Label {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Label, &'static str> {
        let mut parts = text.splitn(4, ':');
        let mut word = || parts.next().filter(|word| is_word(word)).map(str::to_owned).ok_or(NO_WORD);
        let (user, role, kind) = (word()?, word()?, word()?);
        let level = parts.next().map(Level::from_str).transpose()?;
        Ok(Label { user, role, kind, level })
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.user, self.role, self.kind)?;
        self.level.iter().try_for_each(|level| write!(f, ":{level}"))
    }
}

impl TryFrom<String> for Label {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Label, &'static str> {
        text.parse()
    }
}

impl From<Label> for String {
    fn from(label: Label) -> String {
        label.to_string()
    }
}

impl TryFrom<String> for Level {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Level, &'static str> {
        text.parse()
    }
}

impl From<Level> for String {
    fn from(level: Level) -> String {
        level.0
    }
}

pub(super) fn is_word(word: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
    !word.is_empty() && word.len() <= WORD_MAX && word.bytes().all(allowed)
}

/// `sN`, and after a colon categories: `cN`, or `cN.cM` for all from the one to the other, between commas.
fn is_level(text: &str) -> bool {
    let (sensitivity, categories) = match text.split_once(':') {
        Some((sensitivity, categories)) => (sensitivity, Some(categories)),
        None => (text, None),
    };
    let sensitive = number(sensitivity, 's').is_some_and(|n| n < SENSITIVITIES);
    sensitive && categories.is_none_or(|categories| categories.split(',').all(is_category))
}

fn is_category(text: &str) -> bool {
    let category = |text| number(text, 'c').filter(|n| *n < CATEGORIES);
    match text.split_once('.') {
        Some((first, last)) => {
            category(first).is_some_and(|first| category(last).is_some_and(|last| first < last))
        }
        None => category(text).is_some(),
    }
}

/// Digits alone: `u16::from_str` would take a sign.
fn number(text: &str, letter: char) -> Option<u16> {
    let digits = text.strip_prefix(letter)?;
    digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_is_one_or_a_range_of_two() {
        for fine in ["s0", "s0:c1", "s0:c4,c5", "s0:c0.c1023", "s0-s0:c0.c1023", "s15:c1,c3.c7,c9"] {
            assert_eq!(fine.parse::<Level>().map(|level| level.to_string()), Ok(fine.to_owned()));
        }
        for wrong in [
            "",
            "s",
            "s0,c4,c5",
            "s0:",
            "s0:c",
            "s0:c1024",
            "s0:c5.c4",
            "s0:c+1",
            "s0:c1,",
            "s0-s0-s0",
            "c1",
            "s0:c1 ",
            "s0:c1\n",
            "S0",
            "s99999999",
            "s0:c1:c2",
        ] {
            assert!(wrong.parse::<Level>().is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_files_level_is_the_lower_end() {
        let low = |text: &str| text.parse::<Level>().unwrap().low().to_string();
        assert_eq!(low("s0:c1,c2"), "s0:c1,c2");
        assert_eq!(low("s0-s0:c0.c1023"), "s0");
    }

    #[test]
    fn a_label_is_read_as_it_is_written() {
        for fine in ["system_u:system_r:container_t:s0:c1,c2", "a:b:c", "u:object_r:x.y-z_t:s0"] {
            let label: Label = fine.parse().unwrap();
            assert_eq!(label.to_string(), fine);
            assert_eq!(
                serde_json::from_str::<Label>(&serde_json::to_string(&label).unwrap()).unwrap(),
                label
            );
        }
        for wrong in ["", "a", "a:b", "a::c", "a:b:c:", "a:b:c:x", "a b:c:d", "a:b:c,context=x:s0"] {
            assert!(wrong.parse::<Label>().is_err(), "{wrong:?}");
        }
    }
}
