//! Finds the signatures of an image, wherever cosign puts them: under the tag `sha256-<hex>.sig`, and among
//! the manifests that refer to the image. What is found is believed by nobody yet.

use super::sigstore::Attachment;
use crate::digest::Digest;
use crate::registry::{Artifact, Error, Repository};

/// Of a layer that is a signature, and of the artifacts that hold nothing else.
const LAYER: &str = "application/vnd.dev.cosign.simplesigning.v1+json";
const ARTIFACT: &str = "application/vnd.dev.cosign.artifact.sig.v1+json";
/// As many as containers/image reads.
const MAX_SIGNATURES: usize = 128;
/// The payload names one image.
const MAX_PAYLOAD_BYTES: u64 = 1 << 20;
/// distribution-spec, "Pulling manifests".
const MAX_TAG_CHARS: usize = 128;

/// All that was found, and what stood in the way of finding more.
#[derive(Debug, Default)]
pub(super) struct Gathered {
    /// With where each was found.
    pub(super) attachments: Vec<(String, Attachment)>,
    /// Where nothing was, or nothing of use.
    elsewhere: Vec<String>,
}

impl Gathered {
    /// What to tell somebody who finds none.
    pub(super) fn looked(&self) -> String {
        self.elsewhere.join("; ")
    }
}

/// An error only where it is not known whether there are signatures, so that asking again may help.
pub(super) async fn attachments(repository: &Repository, image: &Digest) -> Result<Gathered, Error> {
    let mut gathered = Gathered::default();
    let tag = format!("{}-{}.sig", image.algorithm().name(), image.hex());
    if tag.len() <= MAX_TAG_CHARS {
        match repository.artifact(&tag).await {
            Ok(Some(artifact)) => gathered.add(repository, &format!("tag {tag}"), &artifact).await?,
            Ok(None) => gathered.elsewhere.push(format!("the tag {tag} is not there")),
            Err(error) => gathered.passed(format!("the tag {tag}"), error)?,
        }
    }
    let referrers = match repository.referrers(image, Some(ARTIFACT)).await {
        Ok(found) => found,
        Err(error) => {
            // Not all registries have it, and their ways to say so are many.
            gathered.elsewhere.push(format!("what refers to {image} can't be listed: {error}"));
            return Ok(gathered);
        }
    };
    if referrers.is_empty() {
        gathered.elsewhere.push(format!("nothing of type {ARTIFACT} refers to {image}"));
    }
    for referrer in referrers.iter().take(MAX_SIGNATURES) {
        let origin = format!("referrer {}", referrer.digest);
        match repository.artifact(referrer.digest.as_str()).await {
            Ok(Some(artifact)) => gathered.add(repository, &origin, &artifact).await?,
            Ok(None) => gathered.elsewhere.push(format!("{origin} is not there")),
            Err(error) => gathered.passed(origin, error)?,
        }
    }
    Ok(gathered)
}

impl Gathered {
    async fn add(&mut self, repository: &Repository, origin: &str, artifact: &Artifact) -> Result<(), Error> {
        let layers = artifact.manifest.layers.iter().enumerate();
        let mut any = false;
        for (number, layer) in layers.filter(|(_, layer)| layer.media_type == LAYER) {
            any = true;
            if self.attachments.len() >= MAX_SIGNATURES {
                self.elsewhere.push(format!("only the first {MAX_SIGNATURES} signatures are read"));
                return Ok(());
            }
            let origin = format!("signature {} of {origin}", number + 1);
            match repository.small_blob(layer, MAX_PAYLOAD_BYTES).await {
                Ok(payload) => {
                    let (payload, annotations) = (payload.to_vec(), layer.annotations.clone());
                    self.attachments.push((origin, Attachment { payload, annotations }));
                }
                Err(error) => self.passed(origin, error)?,
            }
        }
        if !any {
            self.elsewhere.push(format!("{origin} has no layer of type {LAYER}"));
        }
        Ok(())
    }

    /// Passes over what is damaged: a good signature beside it counts.
    fn passed(&mut self, origin: String, error: Error) -> Result<(), Error> {
        match error {
            Error::NotFound(_) | Error::Verification(_) | Error::Invalid(_) => {
                self.elsewhere.push(format!("{origin}: {error}"));
                Ok(())
            }
            other => Err(other),
        }
    }
}
