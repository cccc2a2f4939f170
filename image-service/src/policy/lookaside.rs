//! Signatures kept beside the registry, one file or URL each:
//! `BASE/REPOSITORY@ALGORITHM=HEX/signature-N`, from 1 on without gaps (containers-signature(5)).

use std::path::PathBuf;

use super::json::{Field, Flaw};
use super::sigstore::Attachment;
use crate::bounded;
use crate::digest::Digest;
use crate::error::Error;
use crate::pull::blocking;
use crate::reference::Reference;
use crate::registry::Repository;

/// A signature names one image.
const MAX_BYTES: u64 = 1 << 20;

/// What a stored signature is.
#[derive(Debug)]
pub(super) enum Stored {
    Simple(Vec<u8>),
    Sigstore(Attachment),
}

/// The signature of the image that has this number under `base`, with its URL; there is none after the last, which are
/// counted from 1.
pub(super) async fn signature(
    repository: &Repository,
    reference: &Reference,
    base: &str,
    image: &Digest,
    number: usize,
) -> Result<Option<(String, Vec<u8>)>, Error> {
    let place = format!("{}@{}={}", reference.path(), image.algorithm().name(), image.hex());
    let url = format!("{}/{place}/signature-{number}", base.trim_end_matches('/'));
    let bytes = match url.strip_prefix("file://") {
        Some(path) => file(PathBuf::from(path)).await?,
        None => {
            let answer = repository.lookaside(&url, MAX_BYTES as usize).await;
            answer
                .map_err(|error| Error::registry(&reference.to_string(), error))?
                .map(|bytes| bytes.to_vec())
        }
    };
    Ok(bytes.map(|bytes| (url, bytes)))
}

async fn file(path: PathBuf) -> Result<Option<Vec<u8>>, Error> {
    blocking(move || match bounded::read(&path, MAX_BYTES) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::io("reading the signature", &path, error)),
    })
    .await
}

impl Stored {
    /// A packet of OpenPGP has its highest bit set; anything else says what it is after a zero byte.
    pub(super) fn read(bytes: Vec<u8>) -> Result<Stored, Flaw> {
        const SIGSTORE: &[u8] = b"\0sigstore-json\n";
        if bytes.first().is_some_and(|first| first & 0x80 != 0) {
            return Ok(Stored::Simple(bytes));
        }
        let json = bytes.strip_prefix(SIGSTORE).ok_or_else(|| Flaw::new("", "its format is not known"))?;
        let mut fields = Field::parse(json)?.fields()?;
        fields.want("mimeType")?.text()?;
        let payload = super::requirement::data(fields.want("payload")?)?;
        let mut annotations = std::collections::BTreeMap::new();
        for (name, value) in fields.want("annotations")?.fields()?.rest() {
            annotations.insert(name, value.text()?);
        }
        fields.finish()?;
        Ok(Stored::Sigstore(Attachment { payload, annotations }))
    }
}
