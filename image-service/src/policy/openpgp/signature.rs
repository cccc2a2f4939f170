//! One signature of version 4 (RFC 9580, 5.2.3): what it says of itself, and whether a key made it.

use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ED25519, RSA_PKCS1_2048_8192_SHA1_FOR_LEGACY_USE_ONLY,
    RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_2048_8192_SHA384, RSA_PKCS1_2048_8192_SHA512, RsaParameters,
    RsaPublicKeyComponents, UnparsedPublicKey,
};

use super::Bad;
use super::key::{Material, PublicKey};
use super::packet::{mpi, padded};

/// Types (RFC 9580, 5.2.1).
pub(super) const BINARY: u8 = 0x00;
pub(super) const CERTIFICATIONS: std::ops::RangeInclusive<u8> = 0x10..=0x13;
pub(super) const SUBKEY_BINDING: u8 = 0x18;
pub(super) const PRIMARY_BINDING: u8 = 0x19;
pub(super) const DIRECT: u8 = 0x1f;
pub(super) const KEY_REVOCATION: u8 = 0x20;
pub(super) const SUBKEY_REVOCATION: u8 = 0x28;
pub(super) const CERTIFICATION_REVOCATION: u8 = 0x30;

/// Key flag: may sign data.
pub(super) const MAY_SIGN: u8 = 0x02;

#[derive(Debug, Clone)]
pub(super) struct Signature {
    pub(super) kind: u8,
    digest: Digest,
    algorithm: u8,
    /// What is hashed after the data: the packet from its version to its hashed subpackets.
    hashed: Vec<u8>,
    numbers: Vec<u8>,
    /// Seconds since 1970.
    pub(super) created: Option<u32>,
    /// Seconds after `created`; None for ever.
    lasts: Option<u32>,
    /// Of a key's own signature: how many seconds after its making the key expires.
    pub(super) key_lasts: Option<u32>,
    pub(super) key_flags: Option<u8>,
    /// A signing subkey's own word that it belongs to the primary key.
    pub(super) embedded: Option<Vec<u8>>,
}

/// What a signature that can't be read says of itself, as far as that can be told. Nobody can check it, so it is
/// believed only where it takes something away.
#[derive(Debug, Clone)]
pub(super) struct Claim {
    pub(super) kind: u8,
    /// The key IDs of whoever is said to have made it; empty when that can't be told either.
    issuers: Vec<[u8; 8]>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Digest {
    Sha1,
    Sha256,
    Sha384,
    Sha512,
}

impl Signature {
    pub(super) fn read(body: &[u8]) -> Result<Signature, Bad> {
        let [version, kind, algorithm, digest, ..] = *body else { return Err(Bad::Form) };
        if version != 4 {
            return Err(Bad::Kind);
        }
        let digest = match digest {
            2 => Digest::Sha1,
            8 => Digest::Sha256,
            9 => Digest::Sha384,
            10 => Digest::Sha512,
            _ => return Err(Bad::Kind),
        };
        let (subpackets, rest) = area(&body[4..]).ok_or(Bad::Form)?;
        let hashed = body[..6 + subpackets.len()].to_vec();
        // What is not hashed is nobody's word; only a signature in a signature proves itself.
        let (unhashed, rest) = area(rest).ok_or(Bad::Form)?;
        let numbers = rest.get(2..).ok_or(Bad::Form)?.to_vec();
        let mut signature = Signature {
            kind,
            digest,
            algorithm,
            hashed,
            numbers,
            created: None,
            lasts: None,
            key_lasts: None,
            key_flags: None,
            embedded: None,
        };
        for subpacket in Subpackets(subpackets) {
            signature.hear(subpacket?)?;
        }
        let embedded = Subpackets(unhashed).flatten().find(|subpacket| subpacket.kind == 32);
        signature.embedded = signature.embedded.or(embedded.map(|subpacket| subpacket.body.to_vec()));
        Ok(signature)
    }

    fn hear(&mut self, subpacket: Subpacket<'_>) -> Result<(), Bad> {
        let number = || subpacket.body.try_into().map(u32::from_be_bytes).map_err(|_| Bad::Form);
        match subpacket.kind {
            2 => self.created = Some(number()?),
            3 => self.lasts = Some(number()?).filter(|seconds| *seconds > 0),
            9 => self.key_lasts = Some(number()?).filter(|seconds| *seconds > 0),
            27 => self.key_flags = Some(subpacket.body.first().copied().unwrap_or(0)),
            32 => self.embedded = Some(subpacket.body.to_vec()),
            // Exportable, trust, revocable, preferences, revocation key, issuer, key server, primary user ID,
            // policy URL, signer's user ID, reason, features, target, fingerprint: decide nothing here.
            4 | 5 | 7 | 11 | 12 | 16 | 21..=26 | 28..=31 | 33..=35 => {}
            _ if subpacket.is_critical => return Err(Bad::Critical),
            _ => {}
        }
        Ok(())
    }

    /// SHA-1 is good enough for what old keys say of themselves, in a file that the operator trusts.
    pub(super) fn is_weak(&self) -> bool {
        self.digest == Digest::Sha1
    }

    pub(super) fn is_expired(&self, now: u64) -> bool {
        let ends = self.created.zip(self.lasts).map(|(created, lasts)| u64::from(created) + u64::from(lasts));
        ends.is_some_and(|ends| ends <= now)
    }

    /// Whether the key made this signature over the data, given in pieces.
    pub(super) fn is_by(&self, key: &PublicKey, data: &[&[u8]]) -> bool {
        let length = u32::try_from(self.hashed.len()).unwrap_or(u32::MAX).to_be_bytes();
        let mut whole = data.concat();
        whole.extend_from_slice(&self.hashed);
        whole.extend_from_slice(&[4, 0xff]);
        whole.extend_from_slice(&length);
        self.verify(key, &whole).is_some()
    }

    fn verify(&self, key: &PublicKey, data: &[u8]) -> Option<()> {
        let mut numbers = self.numbers.as_slice();
        match (&key.material, self.algorithm) {
            (Material::Rsa { modulus, exponent }, 1 | 3) => {
                let signature = padded(mpi(&mut numbers)?, modulus.len())?;
                let key = RsaPublicKeyComponents { n: modulus, e: exponent };
                key.verify(self.rsa(), data, &signature).ok()
            }
            (Material::Ed25519(point), 22) => {
                let signature = pair(&mut numbers, 32)?;
                let digest = ring::digest::digest(self.digest.algorithm(), data);
                UnparsedPublicKey::new(&ED25519, point).verify(digest.as_ref(), &signature).ok()
            }
            (Material::P256(point), 19) if self.digest == Digest::Sha256 => {
                let signature = pair(&mut numbers, 32)?;
                UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point).verify(data, &signature).ok()
            }
            (Material::P384(point), 19) if self.digest == Digest::Sha384 => {
                let signature = pair(&mut numbers, 48)?;
                UnparsedPublicKey::new(&ECDSA_P384_SHA384_FIXED, point).verify(data, &signature).ok()
            }
            _ => None,
        }
    }

    fn rsa(&self) -> &'static RsaParameters {
        match self.digest {
            Digest::Sha1 => &RSA_PKCS1_2048_8192_SHA1_FOR_LEGACY_USE_ONLY,
            Digest::Sha256 => &RSA_PKCS1_2048_8192_SHA256,
            Digest::Sha384 => &RSA_PKCS1_2048_8192_SHA384,
            Digest::Sha512 => &RSA_PKCS1_2048_8192_SHA512,
        }
    }
}

impl Claim {
    /// Versions 2 and 3 have type and key ID at fixed places (RFC 4880, 5.2.2), later ones the type first.
    pub(super) fn read(body: &[u8]) -> Option<Claim> {
        match *body {
            [2 | 3, _, kind, ..] => {
                let issuer = body.get(7..15).and_then(|id| id.try_into().ok());
                Some(Claim { kind, issuers: issuer.into_iter().collect() })
            }
            [version, kind, ..] => {
                let issuers = if version == 4 { issuers(body).unwrap_or_default() } else { Vec::new() };
                Some(Claim { kind, issuers })
            }
            _ => None,
        }
    }

    /// Whether the key may have made it.
    pub(super) fn may_be_by(&self, key: &PublicKey) -> bool {
        self.issuers.is_empty() || self.issuers.contains(&key.id())
    }
}

/// Issuer and issuer fingerprint (RFC 9580, 5.2.3.12 and 5.2.3.35), hashed or not.
fn issuers(body: &[u8]) -> Option<Vec<[u8; 8]>> {
    let (hashed, rest) = area(body.get(4..)?)?;
    let (unhashed, _) = area(rest)?;
    let subpackets = Subpackets(hashed).chain(Subpackets(unhashed)).flatten();
    let issuer = |subpacket: Subpacket<'_>| match (subpacket.kind, subpacket.body) {
        (16, id) => id.try_into().ok(),
        // Of a key of version 4 the ID is the end of the fingerprint.
        (33, [4, print @ ..]) => print.last_chunk().copied(),
        _ => None,
    };
    Some(subpackets.filter_map(issuer).collect())
}

impl Digest {
    fn algorithm(self) -> &'static ring::digest::Algorithm {
        match self {
            Digest::Sha1 => &ring::digest::SHA1_FOR_LEGACY_USE_ONLY,
            Digest::Sha256 => &ring::digest::SHA256,
            Digest::Sha384 => &ring::digest::SHA384,
            Digest::Sha512 => &ring::digest::SHA512,
        }
    }
}

/// Two numbers, each of so many bytes.
fn pair(numbers: &mut &[u8], length: usize) -> Option<Vec<u8>> {
    let (first, second) = (mpi(numbers)?, mpi(numbers)?);
    Some([padded(first, length)?, padded(second, length)?].concat())
}

/// An area of subpackets, and what is behind it.
fn area(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<2>()?;
    rest.split_at_checked(usize::from(u16::from_be_bytes(*length)))
}

struct Subpackets<'a>(&'a [u8]);

struct Subpacket<'a> {
    kind: u8,
    is_critical: bool,
    body: &'a [u8],
}

impl<'a> Subpackets<'a> {
    fn subpacket(&mut self) -> Option<Subpacket<'a>> {
        let (&first, rest) = self.0.split_first()?;
        let (length, rest) = match first {
            0..192 => (usize::from(first), rest),
            192..255 => {
                let (&second, rest) = rest.split_first()?;
                (((usize::from(first) - 192) << 8) + usize::from(second) + 192, rest)
            }
            255 => {
                let (length, rest) = rest.split_first_chunk::<4>()?;
                (usize::try_from(u32::from_be_bytes(*length)).ok()?, rest)
            }
        };
        let (whole, rest) = rest.split_at_checked(length)?;
        let (&kind, body) = whole.split_first()?;
        self.0 = rest;
        Some(Subpacket { kind: kind & 0x7f, is_critical: kind & 0x80 != 0, body })
    }
}

impl<'a> Iterator for Subpackets<'a> {
    type Item = Result<Subpacket<'a>, Bad>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let subpacket = self.subpacket();
        if subpacket.is_none() {
            self.0 = &[];
        }
        Some(subpacket.ok_or(Bad::Form))
    }
}
