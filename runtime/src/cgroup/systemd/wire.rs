//! D-Bus messages as bytes (D-Bus specification, "Marshaling" and "Message Format"): the few types that
//! systemd's manager takes, and the few that it answers with.

mod reader;

use super::Failure;
use reader::Reader;

/// A value, with its type.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    Bool(bool),
    Byte(u8),
    I16(i16),
    U16(u16),
    I32(i32),
    U32(u32),
    I64(i64),
    U64(u64),
    Double(f64),
    Text(String),
    Path(String),
    Signature(String),
    /// With the signature of one item, which an empty one has too.
    Array(String, Vec<Value>),
    Struct(Vec<Value>),
    Variant(Box<Value>),
}

impl Value {
    pub(super) fn text(text: impl Into<String>) -> Value {
        Value::Text(text.into())
    }

    pub(super) fn signature(&self) -> String {
        match self {
            Value::Bool(_) => "b".into(),
            Value::Byte(_) => "y".into(),
            Value::I16(_) => "n".into(),
            Value::U16(_) => "q".into(),
            Value::I32(_) => "i".into(),
            Value::U32(_) => "u".into(),
            Value::I64(_) => "x".into(),
            Value::U64(_) => "t".into(),
            Value::Double(_) => "d".into(),
            Value::Text(_) => "s".into(),
            Value::Path(_) => "o".into(),
            Value::Signature(_) => "g".into(),
            Value::Variant(_) => "v".into(),
            Value::Array(item, _) => format!("a{item}"),
            Value::Struct(fields) => {
                format!("({})", fields.iter().map(Value::signature).collect::<String>())
            }
        }
    }
}

/// What the alignment of a type is, by the first letter of its signature.
fn alignment(signature: &str) -> usize {
    match signature.as_bytes().first() {
        Some(b'n' | b'q') => 2,
        Some(b'b' | b'i' | b'u' | b's' | b'o' | b'a') => 4,
        Some(b'x' | b't' | b'd' | b'(' | b'{') => 8,
        _ => 1,
    }
}

/// Bytes under construction, little-endian.
#[derive(Debug, Default)]
struct Writer(Vec<u8>);

impl Writer {
    fn pad(&mut self, to: usize) {
        self.0.resize(self.0.len().next_multiple_of(to), 0);
    }

    fn number(&mut self, bytes: &[u8]) {
        self.pad(bytes.len());
        self.0.extend_from_slice(bytes);
    }

    fn text(&mut self, text: &str) {
        self.number(&(text.len() as u32).to_le_bytes());
        self.0.extend_from_slice(text.as_bytes());
        self.0.push(0);
    }

    fn signature(&mut self, signature: &str) {
        self.0.push(signature.len() as u8);
        self.0.extend_from_slice(signature.as_bytes());
        self.0.push(0);
    }

    fn put(&mut self, value: &Value) {
        match value {
            Value::Bool(yes) => self.number(&u32::from(*yes).to_le_bytes()),
            Value::Byte(byte) => self.0.push(*byte),
            Value::I16(number) => self.number(&number.to_le_bytes()),
            Value::U16(number) => self.number(&number.to_le_bytes()),
            Value::I32(number) => self.number(&number.to_le_bytes()),
            Value::U32(number) => self.number(&number.to_le_bytes()),
            Value::I64(number) => self.number(&number.to_le_bytes()),
            Value::U64(number) => self.number(&number.to_le_bytes()),
            Value::Double(number) => self.number(&number.to_le_bytes()),
            Value::Text(text) | Value::Path(text) => self.text(text),
            Value::Signature(signature) => self.signature(signature),
            Value::Variant(inner) => {
                self.signature(&inner.signature());
                self.put(inner);
            }
            Value::Struct(fields) => {
                self.pad(8);
                fields.iter().for_each(|field| self.put(field));
            }
            Value::Array(item, items) => self.array(item, items),
        }
    }

    /// The length counts neither itself nor the padding before the first item.
    fn array(&mut self, item: &str, items: &[Value]) {
        self.number(&[0; 4]);
        let length_at = self.0.len() - 4;
        self.pad(alignment(item));
        let begin = self.0.len();
        items.iter().for_each(|item| self.put(item));
        let length = (self.0.len() - begin) as u32;
        self.0[length_at..length_at + 4].copy_from_slice(&length.to_le_bytes());
    }
}

/// A method to call.
#[derive(Debug)]
pub(super) struct Call<'a> {
    /// None on a connection that has no bus between.
    pub(super) destination: Option<&'a str>,
    pub(super) path: &'a str,
    pub(super) interface: &'a str,
    pub(super) member: &'a str,
    pub(super) arguments: &'a [Value],
    pub(super) wants_reply: bool,
}

const METHOD_CALL: u8 = 1;
const METHOD_RETURN: u8 = 2;
const ERROR: u8 = 3;
const SIGNAL: u8 = 4;
const NO_REPLY_EXPECTED: u8 = 1;
const VERSION: u8 = 1;

impl Call<'_> {
    pub(super) fn bytes(&self, serial: u32) -> Vec<u8> {
        let mut body = Writer::default();
        self.arguments.iter().for_each(|argument| body.put(argument));
        let mut message =
            Writer(vec![b'l', METHOD_CALL, if self.wants_reply { 0 } else { NO_REPLY_EXPECTED }, VERSION]);
        message.put(&Value::U32(body.0.len() as u32));
        message.put(&Value::U32(serial));
        message.put(&Value::Array("(yv)".into(), self.header_fields()));
        message.pad(8);
        message.0.extend(body.0);
        message.0
    }

    fn header_fields(&self) -> Vec<Value> {
        let field =
            |code: u8, value: Value| Value::Struct(vec![Value::Byte(code), Value::Variant(Box::new(value))]);
        let mut fields = vec![
            field(1, Value::Path(self.path.into())),
            field(2, Value::text(self.interface)),
            field(3, Value::text(self.member)),
        ];
        fields.extend(self.destination.map(|destination| field(6, Value::text(destination))));
        if !self.arguments.is_empty() {
            let signature = self.arguments.iter().map(Value::signature).collect();
            fields.push(field(8, Value::Signature(signature)));
        }
        fields
    }
}

/// What came from the other side, as far as it matters.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Message {
    Return {
        to: u32,
    },
    Error {
        to: u32,
        name: String,
        text: String,
    },
    /// A signal with all its leading strings, object paths and unsigned numbers in words.
    Signal {
        member: String,
        words: Vec<String>,
    },
    Other,
}

/// The fixed part of a header, up to the length of its fields.
pub(super) const PROLOGUE: usize = 16;
/// The specification's bound is 128 MiB; nothing that systemd tells us comes near this.
const MAX_MESSAGE: usize = 1 << 20;

/// How long the message that begins with these bytes is.
pub(super) fn length(prologue: &[u8; PROLOGUE]) -> Result<usize, Failure> {
    let reader = Reader { bytes: prologue, at: 0, big: is_big(prologue[0])? };
    let (body, fields) = (reader.u32_at(4)? as usize, reader.u32_at(12)? as usize);
    let whole = fields.saturating_add(PROLOGUE).next_multiple_of(8).saturating_add(body);
    if whole > MAX_MESSAGE { Err(Failure::Malformed("is too long")) } else { Ok(whole) }
}

/// Reads a whole message.
pub(super) fn parse(bytes: &[u8]) -> Result<Message, Failure> {
    let mut reader = Reader { bytes, at: 12, big: is_big(*bytes.first().ok_or(Failure::CUT)?)? };
    let kind = *bytes.get(1).ok_or(Failure::CUT)?;
    let end = reader.u32()? as usize + PROLOGUE;
    let (mut to, mut member, mut name, mut signature) = (0, String::new(), String::new(), String::new());
    while reader.at < end {
        reader.align(8);
        let code = reader.byte()?;
        let type_of = reader.short_text()?;
        match (code, type_of.as_str()) {
            (5, "u") => to = reader.u32()?,
            (3, "s") => member = reader.text()?,
            (4, "s") => name = reader.text()?,
            (8, "g") => signature = reader.short_text()?,
            (_, "s" | "o") => drop(reader.text()?),
            (_, "u") => drop(reader.u32()?),
            (_, "g") => drop(reader.short_text()?),
            _ => return Err(Failure::Malformed("has a header field of an unknown type")),
        }
    }
    reader.align(8);
    Ok(match kind {
        METHOD_RETURN => Message::Return { to },
        ERROR => {
            let text = reader.words(&signature)?.into_iter().next().unwrap_or_default();
            Message::Error { to, name, text }
        }
        SIGNAL => Message::Signal { member, words: reader.words(&signature)? },
        _ => Message::Other,
    })
}

fn is_big(mark: u8) -> Result<bool, Failure> {
    match mark {
        b'l' => Ok(false),
        b'B' => Ok(true),
        _ => Err(Failure::Malformed("has no byte order")),
    }
}

#[cfg(test)]
mod tests;
