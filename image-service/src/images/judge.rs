//! Whether a container may be made of an image that is on the node already. The policy is asked each time, since
//! the image may have come under another one: for another namespace, out of an archive, or before a change.
//!
//! ```text
//! names ─► accepted as they are ──────────────► yes
//!       ─► a verdict that is kept ────────────► yes
//!       ─► signatures, asked for as by a pull ► yes, kept with the image; or why not
//! ```

use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use crate::digest::Digest;
use crate::error::Error;
use crate::image::Image;
use crate::images::{Images, namespace_auth_file};
use crate::policy::{Demand, Manifest, Policy, Refusal};
use crate::pull::blocking;
use crate::reference::Reference;
use crate::store::judged::Judged;

/// For registries that are slow or silent, all together: well below the kubelet's own deadline, so that it hears why.
const PATIENCE: Duration = Duration::from_secs(30);

impl Images {
    /// Asks the policy for pods of `namespace`. `asked`: what the image was asked for as, the user's own word first.
    /// The first of these that is a name of the image is judged. An image that is asked for by its id, or by what
    /// it is not called here, may be used when one of the names that it has may be.
    ///
    /// # Errors
    /// [`Error::Policy`] when the policy refuses it, or when nobody can be asked for the signatures that it wants.
    pub async fn judge(&self, image: &Image, asked: &[&str], namespace: Option<&str>) -> Result<(), Error> {
        let inner = &self.inner;
        let policy = inner.policies.in_force(&inner.settings, namespace).map_err(Error::Policy)?;
        if policy.accepts_all() {
            return Ok(());
        }
        let names = self.judged_as(image, asked);
        // Boxed: most nodes want no signatures, and all makings would carry its state along.
        Box::pin(self.judge_by(&policy, image, &names, namespace)).await
    }

    async fn judge_by(
        &self,
        policy: &Policy,
        image: &Image,
        names: &[Reference],
        namespace: Option<&str>,
    ) -> Result<(), Error> {
        if names.is_empty() {
            return policy.check_unnamed(&image.id).map_err(Error::Policy);
        }
        let (mut demands, mut refused) = (Vec::new(), None);
        for name in names {
            match policy.demand(name) {
                Ok(None) => return Ok(()),
                Ok(Some(demand)) => demands.push(demand),
                Err(refusal) => refused = refused.or(Some(refusal)),
            }
        }
        let id = Digest::parse(&image.id).expect("an image's id is the digest of its configuration");
        let (store, of) = (self.store().clone(), id.clone());
        let judged = blocking(move || store.judged(&of)).await?;
        if demands.iter().any(|demand| is_kept(demand, &judged)) {
            return Ok(());
        }
        let until = Instant::now() + PATIENCE;
        for demand in &demands {
            match timeout_at(until, self.ask(demand, &judged, &id, namespace)).await {
                Ok(Ok(())) => return Ok(()),
                Ok(Err(Error::Policy(refusal))) => refused = Some(refusal),
                Ok(Err(error)) => refused = Some(demand.unasked(error)),
                Err(_) => {
                    refused = Some(demand.unasked(Error::Slow { seconds: PATIENCE.as_secs() }));
                    break;
                }
            }
        }
        Err(Error::Policy(refused.expect("a name that is not accepted is refused or asks for signatures")))
    }

    /// Looks for signatures of what is here; what the name means by now in the registry is nobody's concern.
    async fn ask(
        &self,
        demand: &Demand<'_>,
        judged: &Judged,
        id: &Digest,
        namespace: Option<&str>,
    ) -> Result<(), Error> {
        let inner = &self.inner;
        let (settings, reference) = (&inner.settings, demand.reference());
        let own = namespace_auth_file(settings, namespace);
        let repository = inner.registry.repository_for(reference, None, own.as_slice());
        let repository = repository.map_err(|error| Error::registry(&reference.to_string(), error))?;
        let mut refused = demand.without_manifest();
        for (digest, bytes) in &judged.manifests {
            let manifest = Manifest { digest, bytes };
            match demand.verify(&repository, &manifest, &settings.registries_d).await {
                Ok(None) => return Ok(()),
                Ok(Some(verdict)) => {
                    let (store, id) = (self.store().clone(), id.clone());
                    return blocking(move || store.keep_verdict(&id, &verdict)).await;
                }
                Err(Error::Policy(refusal)) => refused = refusal,
                Err(error) => return Err(error),
            }
        }
        Err(Error::Policy(refused))
    }

    fn judged_as(&self, image: &Image, asked: &[&str]) -> Vec<Reference> {
        let registries = self.inner.registry.registries();
        for asked in asked {
            // A short name means what it was pulled as.
            let candidates = registries.candidates(asked).unwrap_or_default();
            let plain = Reference::parse(asked).ok();
            if let Some(name) = candidates.into_iter().chain(plain).find(|name| is_called(image, name)) {
                return vec![name];
            }
        }
        let own = image.repo_tags.iter().chain(&image.repo_digests);
        own.filter_map(|name| Reference::parse(name).ok()).collect()
    }
}

fn is_called(image: &Image, name: &Reference) -> bool {
    match name.digest() {
        Some(digest) => image.repo_digests.contains(&format!("{}@{digest}", name.repository())),
        None => name.repo_tag().is_some_and(|tag| image.repo_tags.contains(&tag)),
    }
}

/// Keys that can't be read meet nothing; whoever asks on is told of them.
fn is_kept(demand: &Demand<'_>, judged: &Judged) -> bool {
    let kept = |(manifest, _): &(Digest, Vec<u8>)| {
        let wanted: Result<_, Refusal> = demand.verdict(manifest);
        wanted.is_ok_and(|wanted| judged.verdicts.contains(&wanted))
    };
    judged.manifests.iter().any(kept)
}
