//! JSON Web Encryption (RFC 7516, JSON serializations), as far as ocicrypt writes it: A256GCM, the content key
//! wrapped by RSA-OAEP, RSA-OAEP-256 or ECDH-ES+A256KW.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;
use ctr::cipher::{BlockCipherDecrypt, KeyInit};
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use ring::digest::{SHA1_FOR_LEGACY_USE_ONLY, SHA256, digest};
use serde::Deserialize;

use super::private_key::PrivateKey;

const ECDH_A256KW: &str = "ECDH-ES+A256KW";

/// RFC 7516, 7.2: recipients in a list, or one flattened into the message.
#[derive(Deserialize)]
struct Message {
    protected: String,
    #[serde(default)]
    unprotected: Header,
    #[serde(default)]
    recipients: Vec<Recipient>,
    #[serde(default)]
    header: Header,
    #[serde(default)]
    encrypted_key: String,
    #[serde(default)]
    aad: Option<String>,
    iv: String,
    ciphertext: String,
    tag: String,
}

#[derive(Deserialize)]
struct Recipient {
    #[serde(default)]
    header: Header,
    #[serde(default)]
    encrypted_key: String,
}

#[derive(Deserialize, Default, Clone)]
struct Header {
    alg: Option<String>,
    enc: Option<String>,
    epk: Option<Epk>,
    apu: Option<String>,
    apv: Option<String>,
    /// Says that the content is compressed, or that unknown fields matter; neither is understood.
    zip: Option<serde_json::Value>,
    crit: Option<serde_json::Value>,
}

/// The ephemeral key of the sender (RFC 7518, 4.6.1.1).
#[derive(Deserialize, Clone)]
struct Epk {
    kty: String,
    crv: String,
    x: String,
    y: String,
}

/// The content, when one of the keys opens it. Whatever is wrong looks the same from outside. Each recipient that is
/// tried takes one of the `tries`.
pub(super) fn open(message: &[u8], keys: &[PrivateKey], tries: &mut usize) -> Option<Vec<u8>> {
    let message: Message = serde_json::from_slice(message).ok()?;
    let protected: Header = serde_json::from_slice(&bytes(&message.protected)?).ok()?;
    let one = [Recipient { header: message.header.clone(), encrypted_key: message.encrypted_key.clone() }];
    let recipients = if message.recipients.is_empty() { &one[..] } else { &message.recipients[..] };
    for recipient in recipients {
        *tries = tries.checked_sub(1)?;
        let header = protected.clone().or(&message.unprotected).or(&recipient.header);
        if header.enc.as_deref() != Some("A256GCM") || header.zip.is_some() || header.crit.is_some() {
            continue;
        }
        let Some(wrapped) = bytes(&recipient.encrypted_key) else { continue };
        let contents = keys.iter().filter_map(|key| header.unwrap(&wrapped, key));
        if let Some(content) = contents.filter_map(|content_key| message.content(&content_key)).next() {
            return Some(content);
        }
    }
    None
}

impl Message {
    /// RFC 7516, 5.2, steps 14 to 16.
    fn content(&self, key: &[u8]) -> Option<Vec<u8>> {
        let key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, key).ok()?);
        let nonce = Nonce::try_assume_unique_for_key(&bytes(&self.iv)?).ok()?;
        let aad = match &self.aad {
            None => self.protected.clone(),
            Some(aad) => format!("{}.{aad}", self.protected),
        };
        let mut content = bytes(&self.ciphertext)?;
        content.extend(bytes(&self.tag)?);
        let length = key.open_in_place(nonce, Aad::from(aad.as_bytes()), &mut content).ok()?.len();
        content.truncate(length);
        Some(content)
    }
}

impl Header {
    /// What several headers say together. Where two speak, the first one counts.
    fn or(self, other: &Header) -> Header {
        Header {
            alg: self.alg.or_else(|| other.alg.clone()),
            enc: self.enc.or_else(|| other.enc.clone()),
            epk: self.epk.or_else(|| other.epk.clone()),
            apu: self.apu.or_else(|| other.apu.clone()),
            apv: self.apv.or_else(|| other.apv.clone()),
            zip: self.zip.or_else(|| other.zip.clone()),
            crit: self.crit.or_else(|| other.crit.clone()),
        }
    }

    /// The content's key, when this private key is of the kind that it was wrapped for.
    fn unwrap(&self, wrapped: &[u8], key: &PrivateKey) -> Option<Vec<u8>> {
        match (self.alg.as_deref()?, key) {
            ("RSA-OAEP", PrivateKey::Rsa(key)) => key.open_oaep(wrapped, &SHA1_FOR_LEGACY_USE_ONLY),
            ("RSA-OAEP-256", PrivateKey::Rsa(key)) => key.open_oaep(wrapped, &SHA256),
            (ECDH_A256KW, key) => {
                let epk = self.epk.as_ref().filter(|epk| epk.kty == "EC")?;
                let shared = key.agree(&epk.crv, &bytes(&epk.x)?, &bytes(&epk.y)?)?;
                unwrap_key(&self.derive(&shared)?, wrapped)
            }
            _ => None,
        }
    }

    /// Concat KDF for 256 bits (RFC 7518, 4.6.2): one round of SHA-256 is enough.
    fn derive(&self, shared: &[u8]) -> Option<[u8; 32]> {
        let mut input = 1u32.to_be_bytes().to_vec();
        input.extend(shared);
        for part in [Some(ECDH_A256KW.as_bytes().to_vec()), info(&self.apu)?, info(&self.apv)?] {
            let part = part.unwrap_or_default();
            input.extend(u32::try_from(part.len()).ok()?.to_be_bytes());
            input.extend(part);
        }
        input.extend(256u32.to_be_bytes());
        digest(&SHA256, &input).as_ref().try_into().ok()
    }
}

/// None when it is damaged; else what it says, if anything.
fn info(text: &Option<String>) -> Option<Option<Vec<u8>>> {
    text.as_deref().map_or(Some(None), |text| bytes(text).map(Some))
}

fn bytes(text: &str) -> Option<Vec<u8>> {
    BASE64URL.decode(text).ok()
}

/// AES key wrap (RFC 3394, 2.2.2) of a 256-bit key. None when the integrity check fails.
fn unwrap_key(key: &[u8; 32], wrapped: &[u8]) -> Option<Vec<u8>> {
    const BLOCKS: usize = 4;
    let cipher = aes::Aes256::new(&(*key).into());
    let wrapped: &[u8; 8 * (BLOCKS + 1)] = wrapped.try_into().ok()?;
    let (check, rest) = wrapped.split_at(8);
    let mut check: [u8; 8] = check.try_into().ok()?;
    let mut blocks = rest.to_vec();
    for step in (1..=6 * BLOCKS).rev() {
        let at = (step - 1) % BLOCKS * 8;
        let mut block = [0; 16];
        let counted = u64::from_be_bytes(check) ^ step as u64;
        block[..8].copy_from_slice(&counted.to_be_bytes());
        block[8..].copy_from_slice(&blocks[at..at + 8]);
        let mut block = block.into();
        cipher.decrypt_block(&mut block);
        check.copy_from_slice(&block[..8]);
        blocks[at..at + 8].copy_from_slice(&block[8..]);
    }
    (check == [0xa6; 8]).then_some(blocks)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_unwrapped_as_the_rfc_does() {
        // RFC 3394, 4.6.
        let hex = |text: &str| -> Vec<u8> {
            (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
        };
        let key = hex("000102030405060708090A0B0C0D0E0F101112131415161718191A1B1C1D1E1F");
        let key: [u8; 32] = key.try_into().unwrap();
        let wrapped = hex("28C9F404C4B810F4CBCCB35CFB87F8263F5786E2D80ED326CBC7F0E71A99F43BFB988B9B7A02DD21");
        let plain = hex("00112233445566778899AABBCCDDEEFF000102030405060708090A0B0C0D0E0F");
        assert_eq!(unwrap_key(&key, &wrapped), Some(plain));
        for at in 0..wrapped.len() {
            let mut flipped = wrapped.clone();
            flipped[at] ^= 1;
            assert_eq!(unwrap_key(&key, &flipped), None, "flipped at {at}");
        }
        assert_eq!(unwrap_key(&key, &wrapped[..32]), None);
    }

    #[test]
    fn a_shared_secret_becomes_a_key_as_the_rfc_does() {
        // RFC 7518, appendix C, has another algorithm and length; the shape of what is hashed is the same.
        let header = Header { apu: Some("QWxpY2U".into()), apv: Some("Qm9i".into()), ..Header::default() };
        let mut input = vec![0, 0, 0, 1, 7, 7];
        input.extend([0, 0, 0, 14]);
        input.extend(b"ECDH-ES+A256KW");
        input.extend([0, 0, 0, 5]);
        input.extend(b"Alice");
        input.extend([0, 0, 0, 3]);
        input.extend(b"Bob");
        input.extend([0, 0, 1, 0]);
        assert_eq!(header.derive(&[7, 7]).unwrap(), digest(&SHA256, &input).as_ref());
        assert_eq!(Header { apu: Some("!".into()), ..Header::default() }.derive(&[7]), None);
    }
}
