//! Finds the signatures of an image: where cosign puts them, under the tag `sha256-<hex>.sig` and among the
//! manifests that refer to the image; in the registry's own extension; and in the lookaside storage. What is
//! found is believed by nobody yet.

use super::lookaside::{self, Stored};
use super::sigstore::Attachment;
use crate::digest::Digest;
use crate::manifest::Descriptor;
use crate::reference::Reference;
use crate::registry::{Artifact, Error, Repository};

/// Of a layer that is a signature, and of the artifacts that hold nothing else.
const LAYER: &str = "application/vnd.dev.cosign.simplesigning.v1+json";
const ARTIFACT: &str = "application/vnd.dev.cosign.artifact.sig.v1+json";
/// The beginning of the types of sigstore's own bundles (`application/vnd.dev.sigstore.bundle.v0.3+json`).
const BUNDLE: &str = "application/vnd.dev.sigstore.bundle";
/// As many as containers/image reads.
const MAX_SIGNATURES: usize = 128;
/// The payload names one image.
const MAX_PAYLOAD_BYTES: u64 = 1 << 20;
/// distribution-spec, "Pulling manifests".
const MAX_TAG_CHARS: usize = 128;

/// All that was found, and what stood in the way of finding more.
#[derive(Debug, Default)]
pub(super) struct Gathered {
    /// OpenPGP messages, each with where it was found.
    pub(super) simple: Vec<(String, Vec<u8>)>,
    pub(super) attachments: Vec<(String, Attachment)>,
    /// Where nothing was, or nothing of use.
    elsewhere: Vec<String>,
}

/// What is to be looked for, and where.
#[derive(Debug)]
pub(super) struct Wanted<'a> {
    /// The manifest that must be signed.
    pub(super) image: &'a Digest,
    /// The base URL of the lookaside storage.
    pub(super) lookaside: &'a str,
    pub(super) simple: bool,
    /// Sigstore's, in the registry.
    pub(super) attachments: bool,
}

impl Gathered {
    /// What to tell somebody who finds none.
    pub(super) fn looked(&self) -> String {
        const TOLD: usize = 8;
        let told = &self.elsewhere[..self.elsewhere.len().min(TOLD)];
        told.join("; ")
    }
}

/// An error only where it is not known whether there are signatures, so that asking again may help.
pub(super) async fn signatures(
    repository: &Repository,
    reference: &Reference,
    wanted: &Wanted<'_>,
) -> Result<Gathered, crate::Error> {
    let failed = |error| crate::Error::registry(&reference.to_string(), error);
    let mut gathered = Gathered::default();
    let mut kept = None;
    if wanted.simple {
        kept = repository.own_signatures(wanted.image).await.map_err(failed)?;
    }
    match kept {
        // A registry that keeps signatures is the place for them, as with containers/image.
        Some(own) => gathered.add_own(own),
        None => gathered.add_lookaside(repository, reference, wanted).await?,
    }
    if wanted.attachments {
        gathered.add_attachments(repository, wanted.image).await.map_err(failed)?;
    }
    Ok(gathered)
}

impl Gathered {
    fn add_own(&mut self, own: Vec<Vec<u8>>) {
        self.elsewhere.push("the registry itself keeps nothing else for it".to_owned());
        let named = |(number, message)| (format!("signature {} of the registry", number + 1), message);
        self.simple.extend(own.into_iter().take(MAX_SIGNATURES).enumerate().map(named));
    }

    async fn add_lookaside(
        &mut self,
        repository: &Repository,
        reference: &Reference,
        wanted: &Wanted<'_>,
    ) -> Result<(), crate::Error> {
        if wanted.simple {
            self.elsewhere.push("the registry keeps no signatures itself".to_owned());
        }
        let base = wanted.lookaside;
        let found = lookaside::signatures(repository, reference, base, wanted.image, MAX_SIGNATURES).await?;
        if found.is_empty() {
            self.elsewhere.push(format!("{base} has none"));
        }
        for (url, bytes) in found {
            match Stored::read(bytes) {
                Ok(Stored::Simple(message)) => self.simple.push((url, message)),
                Ok(Stored::Sigstore(attachment)) => self.attachments.push((url, attachment)),
                Err(flaw) => self.elsewhere.push(format!("{url}: {flaw}")),
            }
        }
        Ok(())
    }

    /// Where cosign puts them.
    async fn add_attachments(&mut self, repository: &Repository, image: &Digest) -> Result<(), Error> {
        let tag = format!("{}-{}.sig", image.algorithm().name(), image.hex());
        if tag.len() <= MAX_TAG_CHARS {
            match repository.artifact(&tag).await {
                Ok(Some(artifact)) => self.add(repository, &format!("tag {tag}"), &artifact).await?,
                Ok(None) => self.elsewhere.push(format!("the tag {tag} is not there")),
                Err(error) => self.passed(format!("the tag {tag}"), error)?,
            }
        }
        let referrers = match repository.referrers(image, None).await {
            Ok(found) => found,
            Err(error) => {
                // Not all registries have it, and their ways to say so are many.
                self.elsewhere.push(format!("what refers to {image} can't be listed: {error}"));
                return Ok(());
            }
        };
        self.tell_bundles(&referrers);
        let referrers: Vec<Descriptor> =
            referrers.into_iter().filter(|referrer| referrer.is_of(ARTIFACT)).collect();
        if referrers.is_empty() {
            self.elsewhere.push(format!("nothing of type {ARTIFACT} refers to {image}"));
        }
        for referrer in referrers.iter().take(MAX_SIGNATURES) {
            let origin = format!("referrer {}", referrer.digest);
            match repository.artifact(referrer.digest.as_str()).await {
                Ok(Some(artifact)) => self.add(repository, &origin, &artifact).await?,
                Ok(None) => self.elsewhere.push(format!("{origin} is not there")),
                Err(error) => self.passed(origin, error)?,
            }
        }
        Ok(())
    }

    /// cosign 3 signs a digest and no name unless it is told to do as before; then there is no identity to hold
    /// against the policy's `signedIdentity`, and no implementation of policy.json takes it.
    fn tell_bundles(&mut self, referrers: &[Descriptor]) {
        let is_bundle = |referrer: &&Descriptor| {
            referrer.artifact_type.as_deref().is_some_and(|kind| kind.starts_with(BUNDLE))
        };
        if let Some(bundle) = referrers.iter().find(is_bundle) {
            let digest = &bundle.digest;
            self.elsewhere.push(format!(
                "{digest} is a sigstore bundle, which names no image, so no signedIdentity can be matched: sign with \
                 `cosign sign --new-bundle-format=false`"
            ));
        }
    }

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
