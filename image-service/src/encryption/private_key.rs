//! Private keys that open layers: RSA, and EC on P-256 and P-384, in PEM (PKCS #8, PKCS #1, SEC 1).

use p256::elliptic_curve::sec1::{FromSec1Point, ModulusSize, ToSec1Point};
use p256::elliptic_curve::{AffinePoint, CurveArithmetic, FieldBytesSize, PublicKey, SecretKey};
use rustls_pki_types::PrivateKeyDer;
use rustls_pki_types::pem::PemObject;

use super::rsa::RsaKey;
use crate::policy::der::{Der, INTEGER, OCTET_STRING, OID, SEQUENCE};

/// 1.2.840.113549.1.1.1, rsaEncryption.
const RSA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01];
/// 1.2.840.10045.2.1, ecPublicKey.
const EC: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];
/// 1.2.840.10045.3.1.7, prime256v1.
const P256: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
/// 1.3.132.0.34, secp384r1.
const P384: &[u8] = &[0x2b, 0x81, 0x04, 0x00, 0x22];

#[derive(Debug)]
pub(super) enum PrivateKey {
    Rsa(RsaKey),
    P256(p256::SecretKey),
    P384(p384::SecretKey),
}

impl PrivateKey {
    /// The first private key of the text, or why there is none.
    pub(super) fn from_pem(pem: &[u8]) -> Result<PrivateKey, &'static str> {
        if pem.windows(9).any(|window| window == b"ENCRYPTED") {
            return Err("it wants a passphrase; a node has nobody to ask");
        }
        let der = PrivateKeyDer::from_pem_slice(pem).map_err(|_| "it holds no private key in PEM")?;
        let key = match &der {
            PrivateKeyDer::Pkcs1(der) => RsaKey::from_der(der.secret_pkcs1_der()).map(PrivateKey::Rsa),
            PrivateKeyDer::Pkcs8(der) => pkcs8(der.secret_pkcs8_der()),
            PrivateKeyDer::Sec1(der) => sec1(der.secret_sec1_der(), None),
            _ => None,
        };
        key.ok_or("it is of another kind than RSA from 2048 bits and EC on P-256 or P-384")
    }

    /// ECDH with somebody's public point: the x of the product (RFC 7518, 4.6). None for a point that is not on
    /// the curve, or a curve that is not this key's.
    pub(super) fn agree(&self, curve: &str, x: &[u8], y: &[u8]) -> Option<Vec<u8>> {
        let point = [&[4], x, y].concat();
        match (self, curve) {
            (PrivateKey::P256(key), "P-256") => agree(key, &point),
            (PrivateKey::P384(key), "P-384") => agree(key, &point),
            _ => None,
        }
    }
}

fn agree<C>(key: &SecretKey<C>, point: &[u8]) -> Option<Vec<u8>>
where
    C: CurveArithmetic,
    AffinePoint<C>: FromSec1Point<C> + ToSec1Point<C>,
    FieldBytesSize<C>: ModulusSize,
{
    let point = PublicKey::<C>::from_sec1_bytes(point).ok()?;
    let shared = p256::elliptic_curve::ecdh::diffie_hellman(key.to_nonzero_scalar(), point.as_affine());
    Some(shared.raw_secret_bytes().to_vec())
}

/// A PrivateKeyInfo (RFC 5958).
fn pkcs8(der: &[u8]) -> Option<PrivateKey> {
    let mut info = Der::only(der)?;
    info.take(INTEGER)?;
    let mut algorithm = Der(info.take(SEQUENCE)?);
    let kind = algorithm.take(OID)?;
    let key = info.take(OCTET_STRING)?;
    match kind {
        RSA => RsaKey::from_der(key).map(PrivateKey::Rsa),
        EC => sec1(key, Some(algorithm.take(OID)?)),
        _ => None,
    }
}

/// An ECPrivateKey (RFC 5915). Inside PKCS #8 the curve is named outside.
fn sec1(der: &[u8], curve: Option<&[u8]>) -> Option<PrivateKey> {
    let mut fields = Der::only(der)?;
    fields.take(INTEGER)?;
    let secret = fields.take(OCTET_STRING)?;
    let own = fields.maybe(0xa0).and_then(|named| Der(named).take(OID));
    match curve.or(own)? {
        P256 => p256::SecretKey::from_slice(secret).ok().map(PrivateKey::P256),
        P384 => p384::SecretKey::from_slice(secret).ok().map(PrivateKey::P384),
        _ => None,
    }
}
