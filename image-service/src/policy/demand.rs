//! The signatures that the policy wants of one image: looks for them, and says what is to be remembered of
//! having found them.

use std::path::Path;
use std::sync::Arc;

use super::Policy;
use super::gather::{self, Wanted};
use super::identity::Name;
use super::payload::Subject;
use super::refusal::Refusal;
use super::registries_d::RegistriesD;
use super::requirement::Requirement;
use super::ruling::Ruling;
use super::scope::scopes;
use super::verdict::{Verdict, fingerprint};
use crate::digest::Digest;
use crate::error::Error;
use crate::reference::Reference;
use crate::registry::{Repository, Resolved};

/// Never without a requirement that asks for a signature.
pub(crate) struct Demand<'a> {
    ruling: Ruling<'a>,
    reference: &'a Reference,
    requirements: Vec<&'a Requirement>,
}

/// The manifest that must be signed.
#[derive(Debug, Clone)]
pub(crate) struct Manifest<'a> {
    pub(crate) digest: &'a Digest,
    pub(crate) bytes: &'a [u8],
}

impl<'a> Manifest<'a> {
    pub(crate) fn of(resolved: &'a Resolved) -> Manifest<'a> {
        let last = resolved.documents.last().expect("what is resolved ends in a manifest");
        Manifest { digest: &last.digest, bytes: &last.bytes }
    }
}

impl Policy {
    /// None when the image is accepted without any signature.
    pub(crate) fn demand<'a>(&'a self, reference: &'a Reference) -> Result<Option<Demand<'a>>, Refusal> {
        let ruling = self.ruling(reference);
        ruling.check_plain()?;
        let requirements = ruling.signatures();
        Ok((!requirements.is_empty()).then_some(Demand { ruling, reference, requirements }))
    }

    /// Whether an image that has no name on this node may be used: what is for all images decides, and a
    /// signature is always one for a name.
    pub(crate) fn check_unnamed(&self, id: &str) -> Result<(), Refusal> {
        let ruling = self.judge("docker", &[], id.to_owned());
        let looked = "it has no name on this node, and signatures are for names; pull it by one";
        ruling.check_without_signatures(looked)
    }
}

impl Demand<'_> {
    pub(crate) fn reference(&self) -> &Reference {
        self.reference
    }

    /// The verdict that would meet it, by the keys as they are now.
    pub(crate) fn verdict(&self, manifest: &Digest) -> Result<Verdict, Refusal> {
        let requirements = fingerprint(&self.requirements)
            .map_err(|(requirement, bad)| self.ruling.bad_keys(requirement, bad))?;
        let name = Name::of(self.reference).to_string();
        Ok(Verdict { name, manifest: manifest.clone(), requirements })
    }

    /// Whether the manifest bears the signatures that it must. For an image out of an index that is the instance
    /// for this platform, as with containers/image. `registries_d` says where signatures lie.
    ///
    /// None: it does, by keys that changed meanwhile; then nothing is to be remembered.
    pub(crate) async fn verify(
        &self,
        repository: &Repository,
        manifest: &Manifest<'_>,
        registries_d: &Path,
    ) -> Result<Option<Verdict>, Error> {
        let verdict = self.verdict(manifest.digest).map_err(Error::Policy)?;
        let config = RegistriesD::load(registries_d).map_err(|bad| {
            Error::Policy(Refusal::Registries { image: self.ruling.image.clone(), source: Arc::new(bad) })
        })?;
        let (scopes, asked) = (scopes(self.reference), &self.requirements);
        let wanted = Wanted {
            image: manifest.digest,
            lookaside: config.lookaside(&scopes),
            simple: asked.iter().any(|asked| matches!(asked, Requirement::SignedBy { .. })),
            attachments: config.use_attachments(&scopes)
                && asked.iter().any(|asked| matches!(asked, Requirement::Sigstore(_))),
        };
        // Boxed: most pulls ask for none, and all would carry its state along.
        let gathered = Box::pin(gather::signatures(repository, self.reference, &wanted)).await?;
        let name = Name::of(self.reference);
        let subject = Subject { name: Some(&name), manifest: manifest.bytes };
        let judge = |requirement: &&Requirement| self.ruling.signed(requirement, &gathered, &subject);
        asked.iter().try_for_each(judge).map_err(Error::Policy)?;
        let unchanged = self.verdict(manifest.digest).is_ok_and(|now| now == verdict);
        Ok(unchanged.then_some(verdict))
    }

    /// There is no manifest that could be signed.
    pub(crate) fn without_manifest(&self) -> Refusal {
        let looked = "it came out of an archive that has no manifest, and that is what is signed; pull it";
        self.ruling.unsigned(self.requirements[0], looked.to_owned())
    }

    /// Nobody knows whether it is signed.
    pub(crate) fn unasked(&self, source: Error) -> Refusal {
        Refusal::Unasked { image: self.ruling.image.clone(), source: Arc::new(source) }
    }
}
