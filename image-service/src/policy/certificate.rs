//! Certificates of signers: the chain to a root that the policy names, and whom the certificate is for.

use std::time::Duration;

use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use webpki::{
    EndEntityCert, ExtendedKeyUsageValidator, KeyPurposeId, KeyPurposeIdIter, KeyUsage,
    RequiredEkuNotFoundContext,
};

use super::der::{Der, GENERALIZED_TIME, INTEGER, OCTET_STRING, OID, SEQUENCE, UTC_TIME, UTF8_STRING};
use super::key::PublicKey;
use super::unfit::Unfit;

/// 1.3.6.1.5.5.7.3.3, codeSigning.
const CODE_SIGNING: &[u8] = &[0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x03, 0x03];
/// 2.5.29.37.0, anyExtendedKeyUsage.
const ANY_USE: &[u8] = &[0x55, 0x1d, 0x25, 0x00];
/// 2.5.29.17, subjectAltName.
const SUBJECT_ALT_NAME: &[u8] = &[0x55, 0x1d, 0x11];
/// 1.3.6.1.4.1.57264.1.1: Fulcio's first way to name the issuer, the bare text.
const FULCIO_ISSUER: &[u8] = &[0x2b, 0x06, 0x01, 0x04, 0x01, 0x83, 0xbf, 0x30, 0x01, 0x01];
/// 1.3.6.1.4.1.57264.1.8: its second, a UTF8String.
const FULCIO_ISSUER_V2: &[u8] = &[0x2b, 0x06, 0x01, 0x04, 0x01, 0x83, 0xbf, 0x30, 0x01, 0x08];
/// Nobody has a chain this long.
const MAX_CHAIN: usize = 10;

/// Whom the policy trusts to vouch for signers.
#[derive(Debug, Clone)]
pub(super) struct Authorities {
    pub(super) roots: Vec<CertificateDer<'static>>,
    pub(super) intermediates: Vec<CertificateDer<'static>>,
}

/// The certificates of a PEM file, at least one; None when it is anything else.
pub(super) fn read_pem(pem: &[u8]) -> Option<Vec<CertificateDer<'static>>> {
    let found: Vec<_> = CertificateDer::pem_slice_iter(pem).collect::<Result<_, _>>().ok()?;
    (!found.is_empty()).then_some(found)
}

/// What a certificate may be used for, as Go's verifier has it, by which containers/image goes: to sign code, anything,
/// or nothing said.
struct SigningCode;

impl ExtendedKeyUsageValidator for SigningCode {
    fn validate(&self, uses: KeyPurposeIdIter<'_, '_>) -> Result<(), webpki::Error> {
        let mut present = Vec::new();
        for used in uses {
            let used = used?;
            if [CODE_SIGNING, ANY_USE].map(KeyPurposeId::new).contains(&used) {
                return Ok(());
            }
            present.push(used.to_decoded_oid());
        }
        if present.is_empty() {
            return Ok(());
        }
        let required = KeyUsage::required_if_present(CODE_SIGNING);
        Err(webpki::Error::RequiredEkuNotFoundContext(RequiredEkuNotFoundContext { required, present }))
    }
}

/// A signer's certificate whose chain leads to one of the roots at the time given.
pub(super) struct Signer<'a>(&'a CertificateDer<'static>);

impl<'a> Signer<'a> {
    /// `chain` is the signature's own word: it can help to find the way, and gives no trust.
    pub(super) fn verify(
        leaf: &'a CertificateDer<'static>,
        chain: &[CertificateDer<'static>],
        authorities: &Authorities,
        at: UnixTime,
    ) -> Result<Signer<'a>, Unfit> {
        if chain.len() > MAX_CHAIN {
            return Err(Unfit::Not("its chain of certificates is too long"));
        }
        let bad = |error: webpki::Error| Unfit::Certificate(error.to_string());
        let cert = EndEntityCert::try_from(leaf).map_err(bad)?;
        // webpki doesn't ask how old a root is.
        let valid = authorities.roots.iter().filter(|root| is_valid(root, at));
        let anchors: Vec<_> = valid.filter_map(|root| webpki::anchor_from_trusted_cert(root).ok()).collect();
        if anchors.is_empty() {
            return Err(Unfit::Not("none of the policy's roots was valid when it was made"));
        }
        let between: Vec<_> = authorities.intermediates.iter().chain(chain).cloned().collect();
        let known = rustls::crypto::ring::default_provider().signature_verification_algorithms.all;
        cert.verify_for_usage(known, &anchors, &between, at, SigningCode, None, None).map_err(bad)?;
        Ok(Signer(leaf))
    }

    pub(super) fn key(&self) -> Option<PublicKey> {
        PublicKey::from_spki(tbs(self.0)?.spki)
    }

    /// The certificate must name the address (subjectAltName, rfc822Name).
    pub(super) fn check_email(&self, wanted: &str) -> Result<(), Unfit> {
        let found = emails(self.0);
        if found.contains(&wanted) {
            return Ok(());
        }
        let found = if found.is_empty() { "nobody".to_owned() } else { found.join(", ") };
        Err(Unfit::Subject { wanted: wanted.to_owned(), found: found.chars().take(300).collect() })
    }

    pub(super) fn check_hostname(&self, wanted: &str) -> Result<(), Unfit> {
        let other = || Unfit::Subject { wanted: wanted.to_owned(), found: "other hosts".to_owned() };
        let name = ServerName::try_from(wanted).map_err(|_| other())?;
        let cert = EndEntityCert::try_from(self.0).map_err(|error| Unfit::Certificate(error.to_string()))?;
        cert.verify_is_valid_for_subject_name(&name).map_err(|_| other())
    }

    /// Who told Fulcio that the address is the signer's. Where it says so twice, both must agree.
    pub(super) fn check_issuer(&self, wanted: &str) -> Result<(), Unfit> {
        let old = extension(self.0, FULCIO_ISSUER);
        let new = match extension(self.0, FULCIO_ISSUER_V2) {
            None => None,
            Some(value) => {
                Some(text(value).ok_or(Unfit::Not("its certificate's issuer extension is damaged"))?)
            }
        };
        let found: Vec<&[u8]> = old.into_iter().chain(new).collect();
        if !found.is_empty() && found.iter().all(|issuer| *issuer == wanted.as_bytes()) {
            return Ok(());
        }
        let found =
            found.iter().map(|issuer| String::from_utf8_lossy(issuer).into_owned()).collect::<Vec<_>>();
        let found = format!(
            "identities of {}",
            if found.is_empty() { "nobody".to_owned() } else { found.join(", ") }
        );
        Err(Unfit::Subject { wanted: format!("those of {wanted}"), found: found.chars().take(300).collect() })
    }
}

/// The parts of a TBSCertificate that are read here (RFC 5280, 4.1).
struct Tbs<'a> {
    validity: &'a [u8],
    /// With its own tag and length.
    spki: &'a [u8],
    extensions: &'a [u8],
}

fn tbs(cert: &[u8]) -> Option<Tbs<'_>> {
    let mut fields = Der(Der::only(cert)?.take(SEQUENCE)?);
    fields.maybe(0xa0);
    fields.take(INTEGER)?;
    fields.take(SEQUENCE)?;
    fields.take(SEQUENCE)?;
    let validity = fields.take(SEQUENCE)?;
    fields.take(SEQUENCE)?;
    let before = fields.0;
    fields.take(SEQUENCE)?;
    let spki = &before[..before.len() - fields.0.len()];
    fields.maybe(0x81);
    fields.maybe(0x82);
    let extensions = fields.maybe(0xa3).map_or(Some(&[][..]), |wrapped| Der(wrapped).take(SEQUENCE))?;
    Some(Tbs { validity, spki, extensions })
}

fn extension<'a>(cert: &'a [u8], wanted: &[u8]) -> Option<&'a [u8]> {
    let mut extensions = Der(tbs(cert)?.extensions);
    while let Some(extension) = extensions.take(SEQUENCE) {
        let mut extension = Der(extension);
        if extension.take(OID)? == wanted {
            extension.maybe(0x01);
            return extension.take(OCTET_STRING);
        }
    }
    None
}

fn text(value: &[u8]) -> Option<&[u8]> {
    let mut value = Der(value);
    let text = value.take(UTF8_STRING)?;
    value.0.is_empty().then_some(text)
}

fn emails(cert: &[u8]) -> Vec<&str> {
    let names = extension(cert, SUBJECT_ALT_NAME).and_then(Der::only);
    let Some(mut names) = names else { return Vec::new() };
    // [1] is rfc822Name.
    let found = std::iter::from_fn(|| names.next()).filter(|(tag, _)| *tag == 0x81);
    found.filter_map(|(_, name)| std::str::from_utf8(name).ok()).collect()
}

fn is_valid(cert: &[u8], at: UnixTime) -> bool {
    let span = tbs(cert).and_then(|tbs| {
        let mut times = Der(tbs.validity);
        Some((seconds(times.next()?)?, seconds(times.next()?)?))
    });
    span.is_some_and(|(from, to)| (from..=to).contains(&at.as_secs()))
}

/// Seconds since 1970 (RFC 5280, 4.1.2.5).
fn seconds((tag, text): (u8, &[u8])) -> Option<u64> {
    let text = std::str::from_utf8(text).ok()?.strip_suffix('Z')?;
    let number = |from: usize| -> Option<u64> { text.get(from..from + 2)?.parse().ok() };
    let (year, at) = match (tag, text.len()) {
        (UTC_TIME, 12) => (number(0).map(|year| if year < 50 { 2000 + year } else { 1900 + year })?, 2),
        (GENERALIZED_TIME, 14) => (number(0)? * 100 + number(2)?, 4),
        _ => return None,
    };
    let (month, day) = (number(at)?, number(at + 2)?);
    let within = number(at + 4)? * 3600 + number(at + 6)? * 60 + number(at + 8)?;
    let days = days_since_1970(year, month, day)?;
    Some(days * 86_400 + within)
}

fn days_since_1970(year: u64, month: u64, day: u64) -> Option<u64> {
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) || year < 1970 {
        return None;
    }
    let is_leap =
        |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let of_years: u64 = (1970..year).map(|year| if is_leap(year) { 366 } else { 365 }).sum();
    let lengths = [31, 28 + u64::from(is_leap(year)), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    Some(of_years + lengths[..month as usize - 1].iter().sum::<u64>() + day - 1)
}

/// For fuzzing: all that is read of a certificate whose chain nobody checked.
#[cfg(feature = "fuzzing")]
pub(super) fn read_anything(bytes: &[u8]) {
    let cert = CertificateDer::from(bytes.to_vec());
    let signer = Signer(&cert);
    _ = (signer.key(), signer.check_email("a@b.test"), signer.check_issuer("x"), is_valid(bytes, time(0)));
    _ = read_pem(bytes);
    let authorities = Authorities { roots: vec![cert.clone()], intermediates: vec![cert.clone()] };
    _ = Signer::verify(&cert, std::slice::from_ref(&cert), &authorities, time(1_800_000_000)).map(|_| ());
}

/// A time that a log gave, in seconds since 1970.
pub(super) fn time(seconds: u64) -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_secs(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_in_both_forms() {
        let check = |tag, text: &str, answer| assert_eq!(seconds((tag, text.as_bytes())), answer, "{text}");
        check(UTC_TIME, "700101000000Z", Some(0));
        check(UTC_TIME, "240229123456Z", Some(1_709_210_096));
        check(GENERALIZED_TIME, "20500101000000Z", Some(2_524_608_000));
        check(GENERALIZED_TIME, "500101000000Z", None);
        check(UTC_TIME, "241301000000Z", None);
        check(UTC_TIME, "24020100000é", None);
        check(UTC_TIME, "", None);
    }
}
