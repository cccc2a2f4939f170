//! The hardware address that a pod's annotation asks for: `io.berth.network/mac: 02:00:00:00:00:01`.
//!
//! The CRI has no field for it and no annotation is everybody's: networks that know one of their own (Cilium, Calico)
//! read that themselves. This one is for plugins that declare the capability `mac` (bridge, macvlan, tuning).

use std::collections::BTreeMap;

use crate::error::Error;

const ANNOTATION: &str = "io.berth.network/mac";

/// What the annotation asks for, in small letters.
pub(crate) fn asked_by(annotations: &BTreeMap<String, String>) -> Result<Option<String>, Error> {
    let Some(text) = annotations.get(ANNOTATION) else { return Ok(None) };
    let rule = "a unicast address as 02:00:00:00:00:01";
    let wrong = || Error::Invalid { field: ANNOTATION, value: text.clone(), rule };
    octets(text).filter(is_unicast).map(|_| Some(text.to_ascii_lowercase())).ok_or_else(wrong)
}

fn octets(text: &str) -> Option<[u8; 6]> {
    let is_pair = |pair: &&str| pair.len() == 2 && pair.bytes().all(|byte| byte.is_ascii_hexdigit());
    let pairs = text.split(':').map(|pair| u8::from_str_radix(Some(pair).filter(is_pair)?, 16).ok());
    pairs.collect::<Option<Vec<u8>>>()?.try_into().ok()
}

/// The lowest bit of the first octet is set in group addresses, which no interface can have.
fn is_unicast(octets: &[u8; 6]) -> bool {
    octets[0] & 1 == 0 && *octets != [0; 6]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(text: &str) -> Result<Option<String>, Error> {
        asked_by(&BTreeMap::from([(ANNOTATION.to_owned(), text.to_owned())]))
    }

    #[test]
    fn an_annotation_asks_for_an_address() {
        assert_eq!(asked_by(&BTreeMap::new()).unwrap(), None);
        assert_eq!(asked("0A:00:00:00:00:FF").unwrap().as_deref(), Some("0a:00:00:00:00:ff"));
    }

    #[test]
    fn what_no_interface_can_have_is_refused_by_name() {
        let wrong = [
            "",
            "02:00:00:00:00",
            "02:00:00:00:00:01:02",
            "02-00-00-00-00-01",
            "02:00:00:00:00:1",
            "02:00:00:00:00:+1",
            "01:00:5e:00:00:01",
            "ff:ff:ff:ff:ff:ff",
            "00:00:00:00:00:00",
        ];
        for text in wrong {
            let error = asked(text).unwrap_err().to_string();
            assert!(error.contains(ANNOTATION), "{text}: {error}");
        }
    }
}
