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
/// Of all signatures together: many times what as many of cosign's take, with their certificates and the log's word.
const MAX_GATHERED_BYTES: usize = 8 << 20;
/// The annotations that a signature is checked by (see `sigstore`); what else there is may be anything.
const READ: [&str; 4] = [
    "dev.cosignproject.cosign/signature",
    "dev.sigstore.cosign/certificate",
    "dev.sigstore.cosign/chain",
    "dev.sigstore.cosign/bundle",
];
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
    /// Signatures that were asked for, good or bad, and what those that are kept take.
    asked: usize,
    bytes: usize,
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
        for (number, message) in own.into_iter().take(MAX_SIGNATURES).enumerate() {
            self.add_simple(format!("signature {} of the registry", number + 1), message);
        }
    }

    fn add_simple(&mut self, origin: String, message: Vec<u8>) {
        if self.has_room(message.len()) {
            self.simple.push((origin, message));
        }
    }

    fn add_attachment(&mut self, origin: String, mut attachment: Attachment) {
        attachment.annotations.retain(|name, _| READ.contains(&name.as_str()));
        let annotations: usize = attachment.annotations.values().map(String::len).sum();
        if self.has_room(attachment.payload.len() + annotations) {
            self.attachments.push((origin, attachment));
        }
    }

    /// Whether so many bytes more may be kept; they count from then on.
    fn has_room(&mut self, bytes: usize) -> bool {
        if self.is_full() {
            return false;
        }
        self.bytes += bytes;
        if self.is_full() {
            self.elsewhere.push(format!("only the first {MAX_GATHERED_BYTES} bytes of signatures are read"));
        }
        !self.is_full()
    }

    fn is_full(&self) -> bool {
        self.bytes > MAX_GATHERED_BYTES
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
        for number in 1..=MAX_SIGNATURES {
            let next = lookaside::signature(repository, reference, base, wanted.image, number).await?;
            let Some((url, bytes)) = next else {
                if number == 1 {
                    self.elsewhere.push(format!("{base} has none"));
                }
                break;
            };
            match Stored::read(bytes) {
                Ok(Stored::Simple(message)) => self.add_simple(url, message),
                Ok(Stored::Sigstore(attachment)) => self.add_attachment(url, attachment),
                Err(flaw) => self.elsewhere.push(format!("{url}: {flaw}")),
            }
            if self.is_full() {
                break;
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
            // A registry in trouble may have a signature: that is no answer, unless one was found already.
            Err(error @ Error::Unavailable(_)) if self.attachments.is_empty() => return Err(error),
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
            if self.is_full() {
                return Ok(());
            }
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
            if self.asked == MAX_SIGNATURES {
                self.elsewhere.push(format!("only the first {MAX_SIGNATURES} signatures are read"));
            }
            if self.asked >= MAX_SIGNATURES || self.is_full() {
                return Ok(());
            }
            self.asked += 1;
            let origin = format!("signature {} of {origin}", number + 1);
            match repository.small_blob(layer, MAX_PAYLOAD_BYTES).await {
                Ok(payload) => {
                    let (payload, annotations) = (payload.to_vec(), layer.annotations.clone());
                    self.add_attachment(origin, Attachment { payload, annotations });
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_signature_s_annotations_only_those_that_are_read_are_kept() {
        let annotation = |name: &str| (name.to_owned(), "x".repeat(1000));
        let mut annotations: std::collections::BTreeMap<_, _> =
            (0..5000).map(|n| annotation(&format!("other{n}"))).collect();
        annotations.extend(READ.map(annotation));
        let mut gathered = Gathered::default();
        gathered.add_attachment("here".to_owned(), Attachment { payload: vec![0; 96], annotations });
        let kept: Vec<_> = gathered.attachments[0].1.annotations.keys().map(String::as_str).collect();
        assert_eq!((kept.len(), gathered.bytes), (READ.len(), 4096));
        for n in 0..20 {
            let payload = vec![0; 1 << 20];
            gathered.add_attachment(format!("{n}"), Attachment { payload, ..Attachment::default() });
        }
        assert_eq!((gathered.attachments.len(), gathered.looked().matches("only the first").count()), (8, 1));
        gathered.add_simple("small".to_owned(), vec![1]);
        assert!(gathered.simple.is_empty());
    }
}
