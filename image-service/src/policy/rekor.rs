//! The transparency log's promise that a signature was entered: the signed entry timestamp of a `bundle`
//! annotation, checked against the log's key that the policy names. Nobody is asked; the promise is enough.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;

use super::json::{Field, Flaw};
use super::key::PublicKey;
use super::unfit::Unfit;
use crate::digest::{Algorithm, Digest};

/// What a signature consists of, as the log must have it.
pub(super) struct Entered<'a> {
    pub(super) payload: &'a [u8],
    pub(super) signature: &'a [u8],
    /// The PEM of the signer's certificate or the SubjectPublicKeyInfo of the key.
    pub(super) signer: SignedWith<'a>,
}

pub(super) enum SignedWith<'a> {
    Key(&'a [u8]),
    Certificate(&'a [u8]),
}

/// When the log took the signature in, in seconds since 1970.
pub(super) fn entered_at(bundle: &str, keys: &[PublicKey], entered: &Entered<'_>) -> Result<u64, Unfit> {
    let promise = Promise::read(bundle).map_err(Unfit::RekorForm)?;
    let timestamp = BASE64.decode(&promise.timestamp);
    let timestamp = timestamp.map_err(|_| Unfit::Rekor("its signed timestamp is not base64"))?;
    let canonical = promise.canonical();
    if !keys.iter().any(|key| key.signed(canonical.as_bytes(), &timestamp)) {
        return Err(Unfit::Rekor("none of the policy's logs signed it"));
    }
    let body = BASE64.decode(&promise.body).map_err(|_| Unfit::Rekor("its body is not base64"))?;
    let body = Body::read(&body).map_err(Unfit::RekorForm)?;
    body.check(entered)?;
    u64::try_from(promise.integrated_time).map_err(|_| Unfit::Rekor("its time is before 1970"))
}

struct Promise {
    timestamp: String,
    body: String,
    integrated_time: i64,
    log_index: i64,
    log_id: String,
}

impl Promise {
    fn read(bundle: &str) -> Result<Promise, Flaw> {
        let mut bundle = Field::parse(bundle.as_bytes())?.fields()?;
        let timestamp = bundle.want("SignedEntryTimestamp")?.text()?;
        let mut payload = bundle.want("Payload")?.fields()?;
        bundle.finish()?;
        let number = |field: Field| {
            let at = field.at.clone();
            i64::try_from(field.whole()?).map_err(|_| Flaw::new(&at, "the number is too large"))
        };
        let promise = Promise {
            timestamp,
            body: payload.want("body")?.text()?,
            integrated_time: number(payload.want("integratedTime")?)?,
            log_index: number(payload.want("logIndex")?)?,
            log_id: payload.want("logID")?.text()?,
        };
        payload.finish()?;
        Ok(promise)
    }

    /// What the log signs: the payload by RFC 8785 (keys sorted, no spaces).
    fn canonical(&self) -> String {
        let text = |text: &str| serde_json::Value::from(text).to_string();
        let (body, id) = (text(&self.body), text(&self.log_id));
        let (time, index) = (self.integrated_time, self.log_index);
        format!(r#"{{"body":{body},"integratedTime":{time},"logID":{id},"logIndex":{index}}}"#)
    }
}

/// An entry of type `hashedrekord`, the only one that is made of image signatures.
struct Body {
    hash: String,
    signature: String,
    public_key: String,
}

impl Body {
    fn read(body: &[u8]) -> Result<Body, Flaw> {
        let mut entry = Field::parse(body)?.fields()?;
        is(entry.want("kind")?, "hashedrekord")?;
        is(entry.want("apiVersion")?, "0.0.1")?;
        let mut spec = entry.want("spec")?.fields()?;
        entry.finish()?;
        let mut signature = spec.want("signature")?.fields()?;
        let content = signature.want("content")?.text()?;
        let public_key = signature.want("publicKey")?.fields()?.want("content")?.text()?;
        let mut hash = spec.want("data")?.fields()?.want("hash")?.fields()?;
        is(hash.want("algorithm")?, "sha256")?;
        Ok(Body { hash: hash.want("value")?.text()?, signature: content, public_key })
    }

    /// The entry must be of this very signature: else any entry of the log would do for all.
    fn check(&self, entered: &Entered<'_>) -> Result<(), Unfit> {
        let signature = BASE64.decode(&self.signature);
        if signature.as_deref() != Ok(entered.signature) {
            return Err(Unfit::Rekor("it is of another signature"));
        }
        if self.hash != Digest::of(Algorithm::Sha256, entered.payload).hex() {
            return Err(Unfit::Rekor("it is of another payload"));
        }
        let pem = BASE64.decode(&self.public_key).unwrap_or_default();
        let same = match entered.signer {
            SignedWith::Key(spki) => PublicKey::from_pem(&pem).is_ok_and(|key| key.spki == spki),
            SignedWith::Certificate(cert) => {
                matches!(super::certificate::read_pem(&pem).as_deref(), Some([only]) if only.as_ref() == cert)
            }
        };
        if same { Ok(()) } else { Err(Unfit::Rekor("it is of another signer")) }
    }
}

fn is(field: Field, wanted: &str) -> Result<(), Flaw> {
    let at = field.at.clone();
    if field.text()? == wanted { Ok(()) } else { Err(Flaw::new(&at, format!("only {wanted} is known"))) }
}
