//! Encrypted layers as ocicrypt makes them: what opens one, by its annotations and the node's keys.
//!
//! A layer's key is wrapped for each recipient as a JWE (`org.opencontainers.image.enc.keys.jwe`); the other
//! ways to wrap it (PGP, PKCS #7, PKCS #11, key providers) are told by their names and refused. Who has no key
//! doesn't get a layer that others have unpacked on this node either (CVE-2022-24778).

mod jwe;
mod private_key;
mod rsa;

use std::io;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::Deserialize;

use self::private_key::PrivateKey;
use crate::bounded;
use crate::manifest::Descriptor;
use crate::unpack::decrypt::Cipher;

const KEYS: &str = "org.opencontainers.image.enc.keys.";
const JWE: &str = "org.opencontainers.image.enc.keys.jwe";
const PUBLIC_OPTIONS: &str = "org.opencontainers.image.enc.pubopts";
/// The only one that ocicrypt has.
const AES_256_CTR: &str = "AES_256_CTR_HMAC_SHA256";
/// A PEM file with a key.
const MAX_KEY_BYTES: u64 = 64 << 10;
/// Keys of one node, and recipients of one layer in all its messages: each pair may cost a power of a large number.
const MAX_KEYS: usize = 64;
const MAX_RECIPIENTS: usize = 64;

/// The node's private keys.
#[derive(Debug, Default)]
pub(crate) struct Keys {
    dir: PathBuf,
    keys: Vec<PrivateKey>,
    /// What lies there and is no key, and why.
    bad: Vec<String>,
}

/// Why a layer stays shut.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Shut {
    #[error("it is encrypted, and there is no key in {dir}{bad}; put the private key (PEM) there")]
    NoKeys { dir: String, bad: String },
    #[error("it is encrypted for others: none of the {count} keys in {dir} opens it{bad}")]
    WrongKeys { dir: String, count: usize, bad: String },
    #[error("its key is wrapped as {0}, and only JWE can be opened here; encrypt it with `jwe:`")]
    Wrapping(String),
    #[error("what its annotations say of its encryption can't be used: {0}")]
    Annotations(&'static str),
    #[error("reading its keys in {dir}: {why}")]
    Unreadable { dir: String, why: String },
}

/// `PublicLayerBlockCipherOptions` of ocicrypt. Its nonce is never taken from here: nobody vouches for it.
#[derive(Deserialize)]
struct PublicOptions {
    #[serde(default)]
    cipher: String,
    #[serde(default)]
    hmac: Option<String>,
    #[serde(default, rename = "cipheroptions")]
    more: Option<PublicMore>,
}

#[derive(Deserialize)]
struct PublicMore {
    #[serde(default)]
    hmac: Option<String>,
}

/// `PrivateLayerBlockCipherOptions` of ocicrypt, which is what is wrapped.
#[derive(Deserialize)]
struct PrivateOptions {
    symkey: String,
    cipheroptions: PrivateMore,
}

#[derive(Deserialize)]
struct PrivateMore {
    nonce: String,
}

impl Keys {
    /// The keys of a directory: every file of it is one, in PEM. No directory is no keys.
    pub(crate) fn load(dir: &Path) -> Result<Keys, Shut> {
        let mut loaded = Keys { dir: dir.to_owned(), ..Keys::default() };
        let unreadable =
            |error: io::Error| Shut::Unreadable { dir: dir.display().to_string(), why: error.to_string() };
        let entries = match std::fs::read_dir(dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(loaded),
            other => other.map_err(unreadable)?,
        };
        let mut files: Vec<PathBuf> = Vec::new();
        for entry in entries {
            let path = entry.map_err(unreadable)?.path();
            // A FIFO would be waited for. What a mounted Secret has beside its keys is a directory.
            if path.metadata().is_ok_and(|metadata| metadata.is_file()) {
                files.push(path);
            }
        }
        files.sort();
        for path in files.iter().take(MAX_KEYS) {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            match bounded::read(path, MAX_KEY_BYTES) {
                Err(error) => loaded.bad.push(format!("{name}: {error}")),
                Ok(pem) => match PrivateKey::from_pem(&pem) {
                    Ok(key) => loaded.keys.push(key),
                    Err(why) => loaded.bad.push(format!("{name}: {why}")),
                },
            }
        }
        Ok(loaded)
    }

    /// What decrypts the layer of this descriptor.
    pub(crate) fn open(&self, layer: &Descriptor) -> Result<Cipher, Shut> {
        let mac = mac(layer)?;
        let wrapped = layer.annotations.get(JWE).filter(|text| !text.is_empty());
        let Some(wrapped) = wrapped else { return Err(other_wrapping(layer)) };
        let dir = self.dir.display().to_string();
        if self.keys.is_empty() {
            return Err(Shut::NoKeys { dir, bad: self.told() });
        }
        let mut tries = MAX_RECIPIENTS;
        for message in wrapped.split(',').take(MAX_RECIPIENTS) {
            let message = BASE64.decode(message).map_err(|_| Shut::Annotations("a JWE is not base64"))?;
            if let Some(private) = jwe::open(&message, &self.keys, &mut tries) {
                return cipher(&private, mac);
            }
        }
        Err(Shut::WrongKeys { dir, count: self.keys.len(), bad: self.told() })
    }

    fn told(&self) -> String {
        if self.bad.is_empty() { String::new() } else { format!(" (no keys: {})", self.bad.join("; ")) }
    }
}

fn other_wrapping(layer: &Descriptor) -> Shut {
    let wrapping = layer.annotations.keys().find_map(|name| name.strip_prefix(KEYS));
    match wrapping {
        Some(name) => Shut::Wrapping(name.chars().take(40).collect()),
        None => Shut::Annotations("there is no wrapped key"),
    }
}

/// The code that the encrypted bytes must have.
fn mac(layer: &Descriptor) -> Result<Vec<u8>, Shut> {
    let bad = Shut::Annotations;
    let text = layer.annotations.get(PUBLIC_OPTIONS).ok_or(bad("there are no public options"))?;
    let json = BASE64.decode(text).map_err(|_| bad("the public options are not base64"))?;
    let options: PublicOptions = serde_json::from_slice(&json)
        .map_err(|_| bad("the public options are not the JSON they should be"))?;
    if options.cipher != AES_256_CTR {
        return Err(bad("the cipher is not AES_256_CTR_HMAC_SHA256, the only one known"));
    }
    // Older versions have it among the options of the cipher, newer ones beside them.
    let text = options.more.and_then(|more| more.hmac).or(options.hmac);
    let mac = BASE64.decode(text.unwrap_or_default()).map_err(|_| bad("the code is not base64"))?;
    if mac.len() == 32 { Ok(mac) } else { Err(bad("there is no authentication code")) }
}

fn cipher(private: &[u8], mac: Vec<u8>) -> Result<Cipher, Shut> {
    let bad = Shut::Annotations;
    let options: PrivateOptions =
        serde_json::from_slice(private).map_err(|_| bad("the wrapped key is not the JSON it should be"))?;
    let bytes = |text: &str| BASE64.decode(text).unwrap_or_default();
    let key = bytes(&options.symkey).try_into().map_err(|_| bad("the wrapped key has not 256 bits"))?;
    let nonce = bytes(&options.cipheroptions.nonce).try_into();
    let nonce = nonce.map_err(|_| bad("the wrapped nonce has not 128 bits"))?;
    Ok(Cipher { key, nonce, mac })
}

/// For fuzzing: a line of public options, then a JWE; and each of them as whatever else a node reads.
#[cfg(feature = "fuzzing")]
pub(crate) fn open_anything(bytes: &[u8]) {
    use std::sync::LazyLock;
    /// Made for this alone.
    static KEYS: LazyLock<Keys> = LazyLock::new(|| {
        let pem = [&include_bytes!("../fuzz/keys/p256.pem")[..], include_bytes!("../fuzz/keys/rsa.pem")];
        let keys = pem.into_iter().map(|pem| PrivateKey::from_pem(pem).expect("a key")).collect();
        Keys { keys, ..Keys::default() }
    });
    let line = bytes.iter().position(|b| *b == b'\n').unwrap_or(bytes.len());
    let (options, message) = (&bytes[..line], bytes.get(line + 1..).unwrap_or_default());
    let mut layer = Descriptor::new("", crate::digest::Digest::sha256(b""), 0);
    layer.annotations.insert(PUBLIC_OPTIONS.to_owned(), BASE64.encode(options));
    layer.annotations.insert(JWE.to_owned(), BASE64.encode(message));
    match KEYS.open(&layer) {
        Ok(cipher) => assert_eq!(cipher.mac.len(), 32, "nothing is opened that has no code"),
        Err(shut) => _ = shut.to_string(),
    }
    assert!(jwe::open(message, &[], &mut { MAX_RECIPIENTS }).is_none(), "nothing is opened without a key");
    _ = PrivateKey::from_pem(bytes).map(drop);
    _ = cipher(bytes, Vec::new()).map(drop);
}
