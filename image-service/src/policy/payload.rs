//! What a signature says: "this manifest is that image" (containers-signature(5), "JSON data format"; cosign
//! writes the same). Only read after the signature over its bytes was found good.

use super::identity::{Name, SignedIdentity};
use super::json::{Field, Flaw};
use super::unfit::Unfit;
use crate::digest::Digest;

/// Which of the two kinds of signature the payload must say it is.
pub(super) const ATOMIC: &str = "atomic container signature";
pub(super) const COSIGN: &str = "cosign container image signature";

/// What the signature is wanted to be for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Subject<'a> {
    /// None for images out of files.
    pub(crate) name: Option<&'a Name>,
    /// The manifest's bytes, as they are going to be stored.
    pub(crate) manifest: &'a [u8],
}

#[derive(Debug, PartialEq, Eq)]
struct Claim {
    digest: String,
    reference: String,
}

/// Whether the payload speaks of the subject.
pub(super) fn check(
    payload: &[u8],
    kind: &str,
    identity: &SignedIdentity,
    subject: &Subject<'_>,
) -> Result<(), Unfit> {
    let claim = read(payload, kind)?;
    if !identity.accepts(subject.name, &claim.reference) {
        return Err(Unfit::Identity { signed: claim.reference.chars().take(300).collect() });
    }
    let signed = Digest::parse(&claim.digest).map_err(|_| Unfit::Not("its digest is no digest"))?;
    let found = Digest::of(signed.algorithm(), subject.manifest);
    if found == signed { Ok(()) } else { Err(Unfit::Digest { signed, found }) }
}

/// Strict in `critical`, as the format demands; in `optional` only what it gives a meaning to is looked at.
fn read(payload: &[u8], kind: &str) -> Result<Claim, Flaw> {
    let mut whole = Field::parse(payload)?.fields()?;
    let mut critical = whole.want("critical")?.fields()?;
    // cosign writes null where it has nothing to say.
    if let Some(optional) = whole.take("optional").filter(|field| field.value != super::json::Json::Null) {
        let mut optional = optional.fields()?;
        optional.take("creator").map(Field::text).transpose()?;
        optional.take("timestamp").map(Field::whole).transpose()?;
    }
    whole.finish()?;
    let found = critical.want("type")?;
    let at = found.at.clone();
    if found.text()? != kind {
        return Err(Flaw::new(&at, format!("it is not {kind:?}")));
    }
    let mut image = critical.want("image")?.fields()?;
    let digest = image.want("docker-manifest-digest")?.text()?;
    image.finish()?;
    let mut identity = critical.want("identity")?.fields()?;
    let reference = identity.want("docker-reference")?.text()?;
    identity.finish()?;
    critical.finish()?;
    Ok(Claim { digest, reference })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_format_itself_is_a_claim() {
        let good = r#"{"critical":{"identity":{"docker-reference":"a.io/x:1"},"image":{"docker-manifest-digest":"sha256:0"},
            "type":"cosign container image signature"},"optional":null}"#;
        let claim = Claim { digest: "sha256:0".to_owned(), reference: "a.io/x:1".to_owned() };
        assert_eq!(read(good.as_bytes(), COSIGN).unwrap(), claim);
        let with = |from: &str, to: &str| read(good.replace(from, to).as_bytes(), COSIGN);
        assert_eq!(with("null", r#"{"creator":"x","timestamp":1,"other":{}}"#).unwrap(), claim);
        let refused = [
            ("null", r#"{"timestamp":"now"}"#, "optional.timestamp"),
            ("null", r#"{"creator":1}"#, "optional.creator"),
            ("cosign container", "atomic container", "critical.type"),
            (r#""docker-reference":"#, r#""docker-reference":"b.io/x:1","docker-reference":"#, "comes twice"),
            (r#""image":{"#, r#""image":{"more":1,"#, "critical.image.more"),
            (r#""critical":{"#, r#""critical":{"more":1,"#, "critical.more"),
            (r#","optional":null"#, r#","more":null"#, "more"),
            ("a.io/x:1\"", "a.io/x:1\\\"", "the document"),
        ];
        for (from, to, why) in refused {
            let flaw = with(from, to).unwrap_err().to_string();
            assert!(flaw.contains(why), "{to}: {flaw}");
        }
        assert!(read(good.as_bytes(), ATOMIC).is_err());
    }
}
