//! Strict JSON: a key that comes twice is an error, and so is one that nobody knows. Errors say where in
//! the file, as in `default[0].keyPath`.
//!
//! Policies and the payloads of signatures are read by this: where two readers could understand a document
//! in two ways, one of them is deceived.

use std::fmt;

use serde::Deserialize;
use serde::de::{self, Deserializer, MapAccess, SeqAccess, Visitor};

/// Any JSON value; the keys of an object are unique.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Json {
    Null,
    Bool,
    /// A whole number that a `u64` or an `i64` holds.
    Whole(i128),
    Float,
    Text(String),
    List(Vec<Json>),
    Object(Vec<(String, Json)>),
}

/// What is wrong and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{at}: {why}")]
pub struct Flaw {
    at: String,
    why: String,
}

impl Flaw {
    /// Keys come from whoever wrote the document: an error is no place for a megabyte of them.
    pub(crate) fn new(at: &str, why: impl Into<String>) -> Flaw {
        const MAX_CHARS: usize = 300;
        let at = if at.is_empty() { "the document" } else { at };
        let short = |text: &str| text.chars().take(MAX_CHARS).collect();
        Flaw { at: short(at), why: short(&why.into()) }
    }
}

/// A value and its place.
#[derive(Debug, Clone)]
pub(crate) struct Field {
    pub(crate) at: String,
    pub(crate) value: Json,
}

/// An object whose keys are taken one by one; what is left at the end nobody knows.
#[derive(Debug)]
pub(crate) struct Fields {
    pub(crate) at: String,
    left: Vec<(String, Json)>,
}

impl Field {
    pub(crate) fn parse(bytes: &[u8]) -> Result<Field, Flaw> {
        let value = serde_json::from_slice(bytes).map_err(|error| Flaw::new("", error.to_string()))?;
        Ok(Field { at: String::new(), value })
    }

    pub(crate) fn flaw(&self, why: impl Into<String>) -> Flaw {
        Flaw::new(&self.at, why)
    }

    pub(crate) fn fields(self) -> Result<Fields, Flaw> {
        match self.value {
            Json::Object(left) => Ok(Fields { at: self.at, left }),
            _ => Err(self.flaw("an object is wanted here")),
        }
    }

    pub(crate) fn list(self) -> Result<Vec<Field>, Flaw> {
        let Json::List(values) = self.value else { return Err(self.flaw("a list is wanted here")) };
        let item = |(n, value)| Field { at: format!("{}[{n}]", self.at), value };
        Ok(values.into_iter().enumerate().map(item).collect())
    }

    pub(crate) fn text(self) -> Result<String, Flaw> {
        match self.value {
            Json::Text(text) => Ok(text),
            _ => Err(self.flaw("a string is wanted here")),
        }
    }

    pub(crate) fn whole(self) -> Result<i128, Flaw> {
        match self.value {
            Json::Whole(number) => Ok(number),
            _ => Err(self.flaw("a whole number is wanted here")),
        }
    }

    /// A list of strings, at least one.
    pub(crate) fn texts(self) -> Result<Vec<String>, Flaw> {
        let at = self.at.clone();
        let texts: Vec<String> = self.list()?.into_iter().map(Field::text).collect::<Result<_, _>>()?;
        if texts.is_empty() { Err(Flaw::new(&at, "the list is empty")) } else { Ok(texts) }
    }
}

impl Fields {
    pub(crate) fn take(&mut self, key: &str) -> Option<Field> {
        let at = self.left.iter().position(|(name, _)| name == key)?;
        let (name, value) = self.left.swap_remove(at);
        Some(Field { at: self.place(&name), value })
    }

    pub(crate) fn want(&mut self, key: &str) -> Result<Field, Flaw> {
        self.take(key).ok_or_else(|| Flaw::new(&self.at, format!("{key:?} is missing")))
    }

    /// The rest of the fields, in the order of the file.
    pub(crate) fn rest(self) -> Vec<(String, Field)> {
        let place = |key: &str| quoted(&self.at, key);
        self.left
            .iter()
            .map(|(key, value)| (key.clone(), Field { at: place(key), value: value.clone() }))
            .collect()
    }

    /// Nothing may be left.
    pub(crate) fn finish(self) -> Result<(), Flaw> {
        match self.left.first() {
            None => Ok(()),
            Some((key, _)) => Err(Flaw::new(&self.place(key), "this key is not known here")),
        }
    }

    fn place(&self, key: &str) -> String {
        let plain =
            key.chars().all(|letter| letter.is_ascii_alphanumeric() || letter == '-' || letter == '_');
        match (plain && !key.is_empty(), self.at.is_empty()) {
            (true, true) => key.to_owned(),
            (true, false) => format!("{}.{key}", self.at),
            (false, _) => quoted(&self.at, key),
        }
    }
}

fn quoted(at: &str, key: &str) -> String {
    format!("{at}[{key:?}]")
}

impl<'de> Deserialize<'de> for Json {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Json, D::Error> {
        deserializer.deserialize_any(Reader)
    }
}

struct Reader;

impl<'de> Visitor<'de> for Reader {
    type Value = Json;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Json, E> {
        Ok(Json::Null)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Json, E> {
        Ok(Json::Bool)
    }

    fn visit_u64<E>(self, number: u64) -> Result<Json, E> {
        Ok(Json::Whole(number.into()))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Json, E> {
        Ok(Json::Whole(number.into()))
    }

    fn visit_f64<E>(self, _: f64) -> Result<Json, E> {
        Ok(Json::Float)
    }

    fn visit_str<E>(self, text: &str) -> Result<Json, E> {
        Ok(Json::Text(text.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut values: A) -> Result<Json, A::Error> {
        let mut list = Vec::new();
        while let Some(value) = values.next_element()? {
            list.push(value);
        }
        Ok(Json::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Json, A::Error> {
        let mut object = Vec::<(String, Json)>::new();
        let mut seen = std::collections::HashSet::new();
        while let Some((key, value)) = entries.next_entry::<String, Json>()? {
            if !seen.insert(key.clone()) {
                return Err(de::Error::custom(format!("the key {key:?} comes twice")));
            }
            object.push((key, value));
        }
        Ok(Json::Object(object))
    }
}
