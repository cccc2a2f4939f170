//! What a test comes to: nothing to say, a failure, or that it does not apply.

use std::fmt::Debug;

use serde_json::Value;

pub(crate) type Outcome = Result<(), Verdict>;

#[derive(Debug, Clone)]
pub(crate) enum Verdict {
    Fails(String),
    /// With the reason: this machine or this runtime has no such thing.
    NotApplicable(String),
}

impl From<anyhow::Error> for Verdict {
    fn from(error: anyhow::Error) -> Verdict {
        Verdict::Fails(format!("{error:#}"))
    }
}

impl From<std::io::Error> for Verdict {
    fn from(error: std::io::Error) -> Verdict {
        Verdict::Fails(error.to_string())
    }
}

pub(crate) fn fails(why: impl Into<String>) -> Outcome {
    Err(Verdict::Fails(why.into()))
}

pub(crate) fn not_applicable(why: impl Into<String>) -> Outcome {
    Err(Verdict::NotApplicable(why.into()))
}

pub(crate) fn that(is_so: bool, otherwise: impl FnOnce() -> String) -> Outcome {
    if is_so { Ok(()) } else { fails(otherwise()) }
}

pub(crate) fn same<T: PartialEq<U> + Debug, U: Debug>(what: &str, found: T, wanted: U) -> Outcome {
    that(found == wanted, || format!("{what} is {found:?}, not {wanted:?}"))
}

/// `same` for a value of a JSON document.
pub(crate) fn is(what: &str, found: &Value, wanted: impl Into<Value>) -> Outcome {
    let wanted = wanted.into();
    that(*found == wanted, || format!("{what} is {found}, not {wanted}"))
}
