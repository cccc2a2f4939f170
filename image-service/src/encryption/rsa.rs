//! RSA-OAEP with a private key (RFC 8017, 7.1.2), on powers that take the same time whatever the key.

use std::fmt;

use crypto_bigint::modular::{BoxedMontyForm, BoxedMontyParams};
use crypto_bigint::{BoxedUint, Odd};
use ring::digest::{Algorithm, digest};

use crate::policy::der::{Der, INTEGER};

/// Fewer are weak, and more are slow: each layer costs a power.
const BITS: std::ops::RangeInclusive<u32> = 2048..=8192;

/// Without the primes: decrypting a layer's key once is no place to save three quarters of ten milliseconds by
/// the shortcut that faults and timing have broken most often.
pub(super) struct RsaKey {
    modulus: BoxedMontyParams,
    bytes: usize,
    exponent: BoxedUint,
}

impl fmt::Debug for RsaKey {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "RsaKey({} bits)", self.bytes * 8)
    }
}

impl RsaKey {
    /// An RSAPrivateKey (RFC 8017, A.1.2).
    pub(super) fn from_der(der: &[u8]) -> Option<RsaKey> {
        let mut fields = Der::only(der)?;
        fields.take(INTEGER)?;
        let modulus = unsigned(fields.take(INTEGER)?);
        fields.take(INTEGER)?;
        let exponent = unsigned(fields.take(INTEGER)?);
        let bits = u32::try_from(modulus.len()).ok()? * 8;
        if !BITS.contains(&bits) || exponent.len() > modulus.len() || exponent.is_empty() {
            return None;
        }
        let number = |bytes: &[u8]| BoxedUint::from_be_slice(bytes, bits).ok();
        let odd = Option::<Odd<BoxedUint>>::from(Odd::new(number(modulus)?))?;
        Some(RsaKey {
            modulus: BoxedMontyParams::new(odd),
            bytes: modulus.len(),
            exponent: number(exponent)?,
        })
    }

    /// What was encrypted with an empty label and MGF1 over the same hash. None whatever is wrong with it.
    pub(super) fn open_oaep(&self, encrypted: &[u8], hash: &'static Algorithm) -> Option<Vec<u8>> {
        let length = hash.output_len();
        if encrypted.len() != self.bytes || self.bytes < 2 * length + 2 {
            return None;
        }
        let number = BoxedUint::from_be_slice(encrypted, self.modulus.bits_precision()).ok()?;
        if number >= *self.modulus.modulus().as_ref() {
            return None;
        }
        let opened = BoxedMontyForm::new(number, &self.modulus).pow(&self.exponent).retrieve().to_be_bytes();
        let encoded = &opened[opened.len() - self.bytes..];
        let (first, rest) = encoded.split_first()?;
        let (masked_seed, masked_block) = rest.split_at(length);
        let mut seed = masked_seed.to_vec();
        mask(&mut seed, masked_block, hash);
        let mut block = masked_block.to_vec();
        mask(&mut block, &seed, hash);
        unpad(*first, &block, digest(hash, b"").as_ref())
    }
}

/// RFC 8017, 7.1.2, step 3.g: all is looked at before anything is said, so that the answer comes as late for
/// one flaw as for another (Manger's attack).
fn unpad(first: u8, block: &[u8], label: &[u8]) -> Option<Vec<u8>> {
    let (found, padded) = block.split_at(label.len());
    let mut wrong = first;
    for (found, label) in found.iter().zip(label) {
        wrong |= found ^ label;
    }
    let (mut start, mut before) = (0usize, 1u8);
    for (at, byte) in padded.iter().enumerate() {
        let is_one = u8::from(*byte == 1) & before;
        let is_other = u8::from(*byte > 1) & before;
        start |= (at + 1) * usize::from(is_one);
        wrong |= is_other;
        before &= !is_one & 1;
    }
    (wrong == 0 && before == 0).then(|| padded[start..].to_vec())
}

/// MGF1 (RFC 8017, B.2.1), laid over the data.
fn mask(data: &mut [u8], seed: &[u8], hash: &'static Algorithm) {
    for (counter, piece) in (0u32..).zip(data.chunks_mut(hash.output_len())) {
        let mask = digest(hash, &[seed, &counter.to_be_bytes()[..]].concat());
        piece.iter_mut().zip(mask.as_ref()).for_each(|(byte, mask)| *byte ^= mask);
    }
}

/// DER's integers have a zero before what would look negative.
fn unsigned(integer: &[u8]) -> &[u8] {
    let zeros = integer.iter().take_while(|byte| **byte == 0).count();
    &integer[zeros..]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_right_padding_is_taken_off() {
        let label = [5, 6];
        assert_eq!(unpad(0, &[5, 6, 0, 0, 1, 9, 1], &label), Some(vec![9, 1]));
        assert_eq!(unpad(0, &[5, 6, 1], &label), Some(vec![]));
        for (first, block) in
            [(1, &[5, 6, 0, 1, 9][..]), (0, &[5, 7, 0, 1, 9]), (0, &[5, 6, 0, 2, 1, 9]), (0, &[5, 6, 0, 0])]
        {
            assert_eq!(unpad(first, block, &label), None, "{first} {block:?}");
        }
    }
}
