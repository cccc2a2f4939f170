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
        match word.split_once('=') {
            Some((name, value)) if name.starts_with("--") => {
                self.value = Some(value.to_owned());
                Some(name.to_owned())
            }
            _ => Some(word),
        }
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

    /// A flag that may be written `--name=false`.
    pub(crate) fn flag(&mut self) -> bool {
        self.value.take().is_none_or(|value| value != "false")
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
