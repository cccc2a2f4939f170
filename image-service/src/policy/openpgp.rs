//! OpenPGP (RFC 4880, RFC 9580), as far as signed messages of version 4 need it: what `gpg --sign` makes of a
//! payload, checked against the keys of a file that the operator trusts.
//!
//! It is our own, on ring: verifying needs a tenth of what the OpenPGP crates bring, which are ninety crates
//! with a second set of hashes (rPGP) or not of a licence that can be linked (Sequoia). Only reading and
//! verifying is here, nothing secret is ever held. Message: attacker's; keys: the operator's.
//!
//! A key counts only as long as gpg would take it: bound by signatures of its own, not revoked, not expired.

mod armor;
mod key;
mod packet;
mod signature;

use std::io::Read;

pub(super) use self::key::Keyring;
use self::packet::{COMPRESSED, LITERAL, MARKER, ONE_PASS, Packets, SIGNATURE};
use self::signature::Signature;

/// What a payload can be when it is unpacked; it names one image.
const MAX_MESSAGE_BYTES: u64 = 1 << 20;
/// A signature whose time is this far ahead of our clock is not refused for it.
const CLOCK_SLACK_SECONDS: u64 = 300;

/// Why a message is not a good signature by a good key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Bad {
    #[error("it is no OpenPGP message")]
    Form,
    #[error("it is longer than {MAX_MESSAGE_BYTES} bytes")]
    TooLong,
    #[error("it is not exactly one signature over one payload")]
    Count,
    #[error("it is packed in a way that is not known (zip and zlib are)")]
    Compression,
    #[error("its signature is of a version, type or digest that is not known or too weak")]
    Kind,
    #[error("its signature says something critical that is not known")]
    Critical,
    #[error("none of the policy's keys made it, or its payload was changed")]
    Key,
    #[error("its signature has expired")]
    Expired,
    #[error("its signature was made before its key, or is from the future")]
    Time,
    #[error("the key that made it is revoked")]
    KeyRevoked,
    #[error("the key that made it has expired")]
    KeyExpired,
    #[error("the key that made it is not for signing, or nothing binds it")]
    KeyUse,
}

impl Keyring {
    /// The payload of a signed message, when a key of this ring made it. `now` is in seconds since 1970.
    pub(super) fn open(&self, message: &[u8], now: u64) -> Result<Vec<u8>, Bad> {
        let unpacked = unpack(message)?;
        let (payload, signature) = parts(unpacked.as_deref().unwrap_or(message))?;
        let signature = Signature::read(&signature)?;
        if signature.kind != signature::BINARY || signature.is_weak() {
            return Err(Bad::Kind);
        }
        let made = signature.created.ok_or(Bad::Kind)?;
        let made_by = self.keys().find(|key| signature.is_by(key.public(), &[&payload]));
        let key = made_by.ok_or(Bad::Key)?;
        if signature.is_expired(now) {
            return Err(Bad::Expired);
        }
        if made < key.public().created || u64::from(made) > now + CLOCK_SLACK_SECONDS {
            return Err(Bad::Time);
        }
        key.check(now)?;
        Ok(payload)
    }
}

/// None when it is not compressed. What is packed twice is refused with the rest of what is no message.
fn unpack(message: &[u8]) -> Result<Option<Vec<u8>>, Bad> {
    let mut packets = Packets::new(message);
    let (tag, body) = packets.next().ok_or(Bad::Form)??;
    if tag != COMPRESSED {
        return Ok(None);
    }
    if packets.next().is_some() {
        return Err(Bad::Count);
    }
    let (algorithm, packed) = body.split_first().ok_or(Bad::Form)?;
    let mut unpacked = Vec::new();
    let limit = MAX_MESSAGE_BYTES + 1;
    let read = match algorithm {
        0 => packed.take(limit).read_to_end(&mut unpacked),
        1 => flate2::read::DeflateDecoder::new(packed).take(limit).read_to_end(&mut unpacked),
        2 => flate2::read::ZlibDecoder::new(packed).take(limit).read_to_end(&mut unpacked),
        _ => return Err(Bad::Compression),
    };
    read.map_err(|_| Bad::Form)?;
    if unpacked.len() as u64 >= limit { Err(Bad::TooLong) } else { Ok(Some(unpacked)) }
}

/// The payload and the signature's packet. Two of either, and it could be argued what was signed.
fn parts(message: &[u8]) -> Result<(Vec<u8>, Vec<u8>), Bad> {
    let (mut payload, mut signature) = (None, None);
    for packet in Packets::new(message) {
        let (tag, body) = packet?;
        let twice = match tag {
            LITERAL => payload.replace(literal(&body).ok_or(Bad::Form)?).is_some(),
            SIGNATURE => signature.replace(body).is_some(),
            // Says beforehand what the signature says; it isn't signed itself.
            ONE_PASS | MARKER => false,
            _ => return Err(Bad::Form),
        };
        if twice {
            return Err(Bad::Count);
        }
    }
    payload.zip(signature).ok_or(Bad::Count)
}

/// RFC 9580, 5.9: a format, a file's name and its time, which are not signed, and the data.
fn literal(body: &[u8]) -> Option<Vec<u8>> {
    let (_format, rest) = body.split_first()?;
    let (name, rest) = rest.split_first()?;
    rest.get(usize::from(*name) + 4..).map(<[u8]>::to_vec)
}
