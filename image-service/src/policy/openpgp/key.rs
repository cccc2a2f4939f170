//! Keys as `gpg --export` writes them: a primary key, its user IDs and subkeys, and what binds and revokes them.

use super::packet::{PUBLIC_KEY, PUBLIC_SUBKEY, Packets, SIGNATURE, USER_ATTRIBUTE, USER_ID, mpi};
use super::signature::{
    CERTIFICATION_REVOCATION, CERTIFICATIONS, Claim, DIRECT, KEY_REVOCATION, MAY_SIGN, PRIMARY_BINDING,
    SUBKEY_BINDING, SUBKEY_REVOCATION, Signature,
};
use super::{Bad, armor};

/// The keys of one file, each of which may sign.
#[derive(Debug, Clone)]
pub(in crate::policy) struct Keyring {
    keys: Vec<Key>,
}

#[derive(Debug, Clone)]
pub(super) struct PublicKey {
    /// Its packet, which is what signatures over it are made of.
    body: Vec<u8>,
    /// Seconds since 1970.
    pub(super) created: u32,
    pub(super) material: Material,
}

#[derive(Debug, Clone)]
pub(super) enum Material {
    Rsa {
        modulus: Vec<u8>,
        exponent: Vec<u8>,
    },
    Ed25519(Vec<u8>),
    P256(Vec<u8>),
    P384(Vec<u8>),
    /// It can't have made anything that is checked here.
    Other,
}

/// A primary key or a subkey, and whether it may sign.
#[derive(Debug, Clone)]
pub(super) struct Key {
    public: PublicKey,
    standing: Standing,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    Revoked,
    /// May sign until then, in seconds since 1970; u64::MAX for ever.
    Until(u64),
    /// For something else, or bound by nothing.
    Useless,
}

/// One part of a key's block and the signatures behind it.
struct Part {
    tag: u8,
    body: Vec<u8>,
    signatures: Vec<Signature>,
    /// Those that can't be read.
    unread: Vec<Claim>,
}

impl Part {
    fn new(tag: u8, body: Vec<u8>) -> Part {
        Part { tag, body, signatures: Vec::new(), unread: Vec::new() }
    }

    /// What can't be read binds nothing; but a revocation that nobody can check may be the owner's.
    fn add(&mut self, body: &[u8]) {
        match Signature::read(body) {
            Ok(signature) => self.signatures.push(signature),
            Err(_) => self.unread.extend(Claim::read(body)),
        }
    }

    fn may_be_revoked(&self, kind: u8, primary: &PublicKey) -> bool {
        self.unread.iter().any(|claim| claim.kind == kind && claim.may_be_by(primary))
    }
}

impl Keyring {
    /// Reads binary and armoured exports; None when there is no key in it.
    pub(in crate::policy) fn read(bytes: &[u8]) -> Option<Keyring> {
        let armoured = armor::open(bytes)?;
        let mut blocks: Vec<Vec<Part>> = Vec::new();
        for packet in Packets::new(armoured.as_deref().unwrap_or(bytes)) {
            let (tag, body) = packet.ok()?;
            match tag {
                PUBLIC_KEY => blocks.push(vec![Part::new(tag, body)]),
                USER_ID | USER_ATTRIBUTE | PUBLIC_SUBKEY => {
                    blocks.last_mut()?.push(Part::new(tag, body));
                }
                SIGNATURE => blocks.last_mut()?.last_mut()?.add(&body),
                // Trust packets and padding.
                _ => {}
            }
        }
        let keys: Vec<Key> = blocks.iter().filter_map(|block| keys(block)).flatten().collect();
        (!keys.is_empty()).then_some(Keyring { keys })
    }

    pub(in crate::policy) fn join(rings: Vec<Keyring>) -> Keyring {
        Keyring { keys: rings.into_iter().flat_map(|ring| ring.keys).collect() }
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = &Key> {
        self.keys.iter()
    }
}

impl Key {
    pub(super) fn public(&self) -> &PublicKey {
        &self.public
    }

    /// Whether what it signed counts now, as gpg sees it: a key that expired later takes its signatures along.
    pub(super) fn check(&self, now: u64) -> Result<(), Bad> {
        match self.standing {
            Standing::Revoked => Err(Bad::KeyRevoked),
            Standing::Useless => Err(Bad::KeyUse),
            Standing::Until(end) if end <= now => Err(Bad::KeyExpired),
            Standing::Until(_) => Ok(()),
        }
    }
}

impl PublicKey {
    fn read(body: &[u8]) -> Option<PublicKey> {
        let (head, mut rest) = body.split_first_chunk::<6>()?;
        let [4, a, b, c, d, algorithm] = *head else { return None };
        let material = match algorithm {
            1 | 3 => Material::Rsa { modulus: mpi(&mut rest)?.to_vec(), exponent: mpi(&mut rest)?.to_vec() },
            19 | 22 => curve(rest)?,
            _ => Material::Other,
        };
        Some(PublicKey { body: body.to_vec(), created: u32::from_be_bytes([a, b, c, d]), material })
    }

    /// RFC 9580, 5.5.4.2: the end of the fingerprint of a key of version 4.
    pub(super) fn id(&self) -> [u8; 8] {
        let print = ring::digest::digest(&ring::digest::SHA1_FOR_LEGACY_USE_ONLY, &self.hashed());
        *print.as_ref().last_chunk().expect("SHA-1 has twenty bytes")
    }

    /// As it stands in what signatures over keys are made of (RFC 9580, 5.2.4).
    fn hashed(&self) -> Vec<u8> {
        let length = u16::try_from(self.body.len()).unwrap_or(u16::MAX).to_be_bytes();
        [&[0x99], &length[..], &self.body].concat()
    }
}

/// A curve by its OID and a point on it (RFC 9580, 9.2).
fn curve(material: &[u8]) -> Option<Material> {
    let (length, rest) = material.split_first()?;
    let (oid, mut rest) = rest.split_at_checked(usize::from(*length))?;
    let point = mpi(&mut rest)?;
    Some(match oid {
        [0x2b, 0x06, 0x01, 0x04, 0x01, 0xda, 0x47, 0x0f, 0x01] => {
            Material::Ed25519(point.strip_prefix(&[0x40])?.to_vec())
        }
        [0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07] => Material::P256(point.to_vec()),
        [0x2b, 0x81, 0x04, 0x00, 0x22] => Material::P384(point.to_vec()),
        _ => Material::Other,
    })
}

/// The primary key of a block and its subkeys.
fn keys(block: &[Part]) -> Option<Vec<Key>> {
    let (first, parts) = block.split_first()?;
    let primary = PublicKey::read(&first.body)?;
    let hashed = primary.hashed();
    let by = |signature: &&Signature, data: &[&[u8]]| signature.is_by(&primary, data);
    let revocations = first.signatures.iter().filter(|signature| signature.kind == KEY_REVOCATION);
    let is_revoked = revocations.filter(|signature| by(signature, &[&hashed])).count() > 0
        || first.may_be_revoked(KEY_REVOCATION, &primary);
    let direct = first.signatures.iter().filter(|signature| signature.kind == DIRECT);
    let mut words: Vec<&Signature> = direct.filter(|signature| by(signature, &[&hashed])).collect();
    words.extend(parts.iter().filter_map(|part| certification(&primary, &hashed, part)));
    // The newest says what holds.
    let word = words.into_iter().max_by_key(|signature| signature.created);
    let standing = match word {
        _ if is_revoked => Standing::Revoked,
        None => Standing::Useless,
        Some(word) => until(&primary, word, word.key_flags.unwrap_or(MAY_SIGN)),
    };
    let mut keys = vec![Key { public: primary.clone(), standing }];
    let end = match standing {
        Standing::Until(end) => Some(end),
        // A primary key that is only for certifying still speaks for its subkeys.
        Standing::Useless => word.map(|word| ends(&primary, word)),
        Standing::Revoked => None,
    };
    let subkeys = parts.iter().filter(|part| part.tag == PUBLIC_SUBKEY);
    keys.extend(subkeys.filter_map(|part| subkey(&primary, &hashed, part, is_revoked, end)));
    Some(keys)
}

/// The newest of the primary key's own words on a user ID, unless it took it back.
fn certification<'a>(primary: &PublicKey, hashed: &[u8], part: &'a Part) -> Option<&'a Signature> {
    let mark = match part.tag {
        USER_ID => 0xb4,
        USER_ATTRIBUTE => 0xd1,
        _ => return None,
    };
    let length = u32::try_from(part.body.len()).ok()?.to_be_bytes();
    let own = |signature: &&Signature| signature.is_by(primary, &[hashed, &[mark], &length, &part.body]);
    let latest = |wanted: &dyn Fn(u8) -> bool| {
        let of_kind = part.signatures.iter().filter(|signature| wanted(signature.kind));
        of_kind.filter(own).max_by_key(|signature| signature.created)
    };
    if part.may_be_revoked(CERTIFICATION_REVOCATION, primary) {
        return None;
    }
    let made = latest(&|kind| CERTIFICATIONS.contains(&kind))?;
    let taken_back = latest(&|kind| kind == CERTIFICATION_REVOCATION);
    taken_back.is_none_or(|back| back.created < made.created).then_some(made)
}

/// A subkey; it ends when its primary key does, at the latest.
fn subkey(
    primary: &PublicKey,
    hashed: &[u8],
    part: &Part,
    is_revoked: bool,
    end: Option<u64>,
) -> Option<Key> {
    let public = PublicKey::read(&part.body)?;
    let own_hashed = public.hashed();
    let own = |kind: u8| {
        let of_kind = part.signatures.iter().filter(move |signature| signature.kind == kind);
        of_kind.filter(|signature| signature.is_by(primary, &[hashed, &own_hashed]))
    };
    let binding = own(SUBKEY_BINDING).max_by_key(|signature| signature.created);
    let is_gone = own(SUBKEY_REVOCATION).next().is_some() || part.may_be_revoked(SUBKEY_REVOCATION, primary);
    let standing = match (binding, end) {
        _ if is_revoked || is_gone => Standing::Revoked,
        (Some(binding), Some(end)) if agrees(&public, binding, &[hashed, &own_hashed]) => {
            match until(&public, binding, binding.key_flags.unwrap_or(0)) {
                Standing::Until(own_end) => Standing::Until(own_end.min(end)),
                other => other,
            }
        }
        _ => Standing::Useless,
    };
    Some(Key { public, standing })
}

/// A signing subkey must say itself that it belongs to the primary key: else anyone could adopt it, and with
/// it all that it signed.
fn agrees(subkey: &PublicKey, binding: &Signature, data: &[&[u8]]) -> bool {
    let embedded = binding.embedded.as_deref().and_then(|body| Signature::read(body).ok());
    embedded.is_some_and(|word| word.kind == PRIMARY_BINDING && word.is_by(subkey, data))
}

fn until(key: &PublicKey, word: &Signature, flags: u8) -> Standing {
    if flags & MAY_SIGN == 0 { Standing::Useless } else { Standing::Until(ends(key, word)) }
}

fn ends(key: &PublicKey, word: &Signature) -> u64 {
    word.key_lasts.map_or(u64::MAX, |lasts| u64::from(key.created) + u64::from(lasts))
}
