//! A layer's packed bytes, decrypted on their way where the layer is encrypted: AES-256-CTR, and HMAC-SHA256 over
//! what came (ocicrypt's `AES_256_CTR_HMAC_SHA256`).
//!
//! What is decrypted is inflated and unpacked before its code can be compared; nobody is shown any of it until
//! then, and it goes when the code is wrong.

use std::fmt;
use std::io::{self, BufRead, Read};

use aes::Aes256;
use ctr::Ctr128BE;
use ctr::cipher::{KeyIvInit, StreamCipher};
use ring::hmac;

use super::stream::{Source, read_from_buffer};
use crate::digest::Digest;

/// What is decrypted at once.
const BUFFER_BYTES: usize = 256 << 10;

/// What opens one layer. Never written to a file; told to the process that unpacks, where that is one of its own.
#[derive(Clone, serde::Serialize, serde::Deserialize)]
pub(crate) struct Cipher {
    pub(crate) key: [u8; 32],
    pub(crate) nonce: [u8; 16],
    /// Of the encrypted bytes.
    pub(crate) mac: Vec<u8>,
}

impl fmt::Debug for Cipher {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Cipher(…)")
    }
}

/// The packed bytes: as they came, or decrypted.
pub(crate) struct Packed<R> {
    source: Source<R>,
    decrypter: Option<Box<Decrypter>>,
}

struct Decrypter {
    stream: Ctr128BE<Aes256>,
    hmac: hmac::Context,
    mac: Vec<u8>,
    buffer: Vec<u8>,
    consumed: usize,
}

impl<R: BufRead> Packed<R> {
    pub(crate) fn new(source: Source<R>, cipher: Option<&Cipher>) -> Packed<R> {
        Packed { source, decrypter: cipher.map(|cipher| Box::new(Decrypter::new(cipher))) }
    }

    /// How many bytes came in.
    pub(crate) fn count(&self) -> u64 {
        self.source.count()
    }

    /// Whether all that was read is what was encrypted. What is not encrypted makes no such promise.
    pub(crate) fn is_authentic(&self) -> bool {
        self.decrypter.as_deref().is_none_or(Decrypter::is_authentic)
    }

    /// The digest of what came in.
    pub(crate) fn finish(self) -> Digest {
        self.source.finish()
    }
}

impl Decrypter {
    fn new(cipher: &Cipher) -> Decrypter {
        Decrypter {
            stream: Ctr128BE::new(&cipher.key.into(), &cipher.nonce.into()),
            hmac: hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, &cipher.key)),
            mac: cipher.mac.clone(),
            buffer: Vec::new(),
            consumed: 0,
        }
    }

    fn refill<R: BufRead>(&mut self, source: &mut Source<R>) -> io::Result<()> {
        let came = source.fill_buf()?;
        let came = &came[..came.len().min(BUFFER_BYTES)];
        self.hmac.update(came);
        self.buffer.clear();
        self.buffer.extend_from_slice(came);
        let length = came.len();
        source.consume(length);
        self.stream.apply_keystream(&mut self.buffer);
        self.consumed = 0;
        Ok(())
    }

    fn is_authentic(&self) -> bool {
        let found = self.hmac.clone().sign();
        // The code is in the manifest for all to see: there is nothing to learn from how long this takes.
        found.as_ref() == self.mac
    }
}

impl<R: BufRead> Read for Packed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        read_from_buffer(self, buffer)
    }
}

impl<R: BufRead> BufRead for Packed<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        match &mut self.decrypter {
            None => self.source.fill_buf(),
            Some(decrypter) => {
                if decrypter.consumed == decrypter.buffer.len() {
                    decrypter.refill(&mut self.source)?;
                }
                Ok(&decrypter.buffer[decrypter.consumed..])
            }
        }
    }

    fn consume(&mut self, n: usize) {
        match &mut self.decrypter {
            None => self.source.consume(n),
            Some(decrypter) => decrypter.consumed += n,
        }
    }
}
