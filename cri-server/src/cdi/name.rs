//! `vendor.com/class=name`, by the rules of the CDI specification.

use super::Error;

/// A device, fully named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceName {
    /// `vendor.com/class`.
    pub(super) kind: String,
    pub(super) device: String,
}

impl std::fmt::Display for DeviceName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}={}", self.kind, self.device)
    }
}

impl DeviceName {
    /// # Errors
    /// Says which part breaks which rule.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let wrong = |why| Error::Name { name: text.to_owned(), why };
        let (kind, device) = text.split_once('=').ok_or_else(|| wrong("it has no ="))?;
        check_kind(kind).map_err(wrong)?;
        check_device(device).map_err(wrong)?;
        Ok(Self { kind: kind.to_owned(), device: device.to_owned() })
    }
}

pub(super) fn check_kind(kind: &str) -> Result<(), &'static str> {
    let (vendor, class) = kind.split_once('/').ok_or("its kind has no /")?;
    let begins = |text: &str| text.starts_with(|c: char| c.is_ascii_alphabetic());
    let ends = |text: &str| text.ends_with(|c: char| c.is_ascii_alphanumeric());
    let of = |text: &str, more: &str| text.chars().all(|c| c.is_ascii_alphanumeric() || more.contains(c));
    if !begins(vendor) || !ends(vendor) || !of(vendor, "_-.") {
        return Err("its vendor is not made of letters, digits, _, - and .");
    }
    if !begins(class) || !ends(class) || !of(class, "_-") {
        return Err("its class is not made of letters, digits, _ and -");
    }
    Ok(())
}

pub(super) fn check_device(device: &str) -> Result<(), &'static str> {
    let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    let within = device.chars().all(|c| c.is_ascii_alphanumeric() || "_-.:".contains(c));
    if edge(device.chars().next()) && edge(device.chars().next_back()) && within {
        Ok(())
    } else {
        Err("its name is not made of letters, digits, _, -, . and :")
    }
}
