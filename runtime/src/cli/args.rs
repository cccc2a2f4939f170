//! The words of a command line, taken one by one: `--name value`, `--name=value`, then what is left.

use std::collections::VecDeque;

use super::Error;

pub(crate) struct Args {
    words: VecDeque<String>,
    /// The value of `--name=value`, until it is asked for.
    value: Option<String>,
}

impl Args {
    pub(crate) fn new(words: Vec<String>) -> Args {
        Args { words: words.into(), value: None }
    }

    /// The next word if it is an option; `--` ends them.
    pub(crate) fn option(&mut self) -> Option<String> {
        let word = self.words.front()?;
        if word == "--" {
            self.words.pop_front();
            return None;
        }
        if !word.starts_with('-') || word == "-" {
            return None;
        }
        let word = self.words.pop_front()?;
        // Go's flags, which runc has: one dash is as good as two, and a value may follow any of them.
        let (name, value) = match word.split_once('=') {
            Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
            None => (word, None),
        };
        self.value = value;
        let is_long = name.trim_start_matches('-').len() > 1;
        Some(if is_long { format!("--{}", name.trim_start_matches('-')) } else { name })
    }

    /// The value of the option that was just taken.
    pub(crate) fn value(&mut self, option: &str) -> Result<String, Error> {
        let value = self.value.take().or_else(|| self.words.pop_front());
        value.ok_or_else(|| Error::Usage(format!("{option} needs a value")))
    }

    pub(crate) fn number(&mut self, option: &str) -> Result<u32, Error> {
        let value = self.value(option)?;
        value.parse().map_err(|_| Error::Usage(format!("{option}: {value:?} is no number")))
    }

    /// A whole number, which may be negative.
    pub(crate) fn integer<T: std::str::FromStr>(&mut self, option: &str) -> Result<T, Error> {
        let value = self.value(option)?;
        value.parse().map_err(|_| Error::Usage(format!("{option}: {value:?} is no number that it can be")))
    }

    /// A flag, which may be written with any of the values that Go's `strconv.ParseBool` takes, and runc with it.
    pub(crate) fn flag(&mut self, option: &str) -> Result<bool, Error> {
        match self.value.take().as_deref() {
            None | Some("1" | "t" | "T" | "true" | "TRUE" | "True") => Ok(true),
            Some("0" | "f" | "F" | "false" | "FALSE" | "False") => Ok(false),
            Some(other) => Err(Error::Usage(format!("{option}: {other:?} is neither true nor false"))),
        }
    }

    pub(crate) fn peek(&self) -> Option<&str> {
        self.words.front().map(String::as_str)
    }

    pub(crate) fn next(&mut self) -> Option<String> {
        self.words.pop_front()
    }

    /// Puts a command's name in front, for options that are commands.
    pub(crate) fn command(&mut self, name: &str) {
        self.words.clear();
        self.words.push_back(name.to_owned());
    }

    pub(crate) fn id(&mut self) -> Result<String, Error> {
        self.next().ok_or_else(|| Error::Usage("which container? Its id is missing".into()))
    }

    pub(crate) fn rest(self) -> Vec<String> {
        self.words.into()
    }

    pub(crate) fn end(self) -> Result<(), Error> {
        match self.words.front() {
            None => Ok(()),
            Some(word) => Err(Error::Usage(format!("what does {word:?} mean here?"))),
        }
    }
}

pub(crate) fn unknown(option: &str) -> Error {
    Error::Usage(format!("unknown option {option}"))
}
