//! Holding the store against its digests, and mending what is damaged by pulling that, and only that, again.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::watch;

use crate::digest::Digest;
use crate::error::{Error, chain};
use crate::image::Image;
use crate::images::Images;
use crate::pull::{PullRequest, blocking};
use crate::store::proof::Proof;

/// How far it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Verifying {
    /// Layers and documents' images looked at, and how many there are.
    pub done: usize,
    pub all: usize,
}

/// What is to become of what is damaged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Repair {
    /// It is only told.
    Leave,
    /// It is pulled again, with the credentials of these files or of the node's own.
    Mend { auth_files: Vec<PathBuf> },
}

impl Repair {
    /// With the node's own credentials.
    pub fn mend() -> Repair {
        Repair::Mend { auth_files: Vec::new() }
    }
}

/// Something that is not as it should be, or that nobody can tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The image's name, or its id where it has none.
    pub image: String,
    /// The digest of the layer or document.
    pub object: String,
    pub why: String,
    pub outcome: Outcome,
}

/// What became of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It can't be told whether it is damaged.
    Unknown,
    /// It is damaged, and nobody asked to mend it.
    Left,
    Mended,
    /// Why it was not mended.
    Not(String),
}

/// What was found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Verified {
    pub images: usize,
    pub layers: usize,
    pub findings: Vec<Finding>,
}

impl Images {
    /// Looks at these images, or all, and does with what is damaged what `repair` says. Pulls and containers go
    /// on meanwhile; a layer that a container uses is not exchanged under it.
    pub async fn verify(
        &self,
        names: &[String],
        repair: &Repair,
        progress: watch::Sender<Verifying>,
    ) -> Result<Verified, Error> {
        let images = self.chosen(names)?;
        // A layer is looked at once, however many images have it.
        let mut layers: BTreeMap<Digest, Arc<Image>> = BTreeMap::new();
        for image in &images {
            for layer in &image.layers {
                layers.entry(layer.diff_id.clone()).or_insert_with(|| image.clone());
            }
        }
        let all = images.len() + layers.len();
        progress.send_replace(Verifying { done: 0, all });
        let mut verified = Verified { images: images.len(), layers: layers.len(), findings: Vec::new() };
        for image in &images {
            verified.findings.extend(self.verify_documents(image, repair).await?);
            progress.send_modify(|now| now.done += 1);
        }
        for (diff_id, image) in layers {
            verified.findings.extend(self.verify_layer(&diff_id, &image, repair).await?);
            progress.send_modify(|now| now.done += 1);
        }
        Ok(verified)
    }

    fn chosen(&self, names: &[String]) -> Result<Vec<Arc<Image>>, Error> {
        if names.is_empty() {
            return Ok(self.list());
        }
        let missing = |name: &String| Error::NotFound { name: name.clone(), source: None };
        names.iter().map(|name| self.find(name).ok_or_else(|| missing(name))).collect()
    }

    async fn verify_documents(&self, image: &Arc<Image>, repair: &Repair) -> Result<Vec<Finding>, Error> {
        let (store, id) = (self.store().clone(), image_id(image));
        let damaged = blocking(move || store.damaged_documents(&id)).await?;
        let Some(first) = damaged.first() else { return Ok(Vec::new()) };
        let outcome = match repair {
            Repair::Mend { auth_files } => self.mend(image, auth_files).await,
            Repair::Leave => Outcome::Left,
        };
        let why = format!("{} of its documents are not what their digests say", damaged.len());
        Ok(vec![Finding { image: called(image), object: first.to_string(), why, outcome }])
    }

    async fn verify_layer(
        &self,
        diff_id: &Digest,
        image: &Arc<Image>,
        repair: &Repair,
    ) -> Result<Option<Finding>, Error> {
        let store = self.store().clone();
        // Held, so that nobody takes it away while it is looked at. One that went meanwhile is nobody's.
        let Some(hold) = store.layers.hold([diff_id]) else { return Ok(None) };
        let looked = diff_id.clone();
        let proof = blocking(move || {
            let proof = store.prove(&looked);
            drop(hold);
            Ok(proof)
        });
        let finding = |why: String, outcome| Finding {
            image: called(image),
            object: diff_id.to_string(),
            why,
            outcome,
        };
        Ok(match proof.await? {
            Proof::Whole => None,
            Proof::Unknown(why) => Some(finding(why.to_owned(), Outcome::Unknown)),
            Proof::Damaged(why) => Some(match repair {
                Repair::Leave => finding(why, Outcome::Left),
                Repair::Mend { auth_files } => {
                    finding(why, self.mend_layer(diff_id, image, auth_files).await)
                }
            }),
        })
    }

    async fn mend_layer(&self, diff_id: &Digest, image: &Arc<Image>, auth_files: &[PathBuf]) -> Outcome {
        // Whoever gives up the verifying drops the mark too.
        let mark = match self.mark_damaged(diff_id).await {
            Ok(Ok(mark)) => mark,
            Ok(Err(container)) => {
                return Outcome::Not(format!("container {container} uses it; remove that and verify again"));
            }
            Err(error) => return Outcome::Not(chain(&error)),
        };
        let outcome = self.mend(image, auth_files).await;
        drop(mark);
        if outcome != Outcome::Mended {
            return outcome;
        }
        let (store, looked) = (self.store().clone(), diff_id.clone());
        match blocking(move || Ok(store.prove(&looked))).await {
            Ok(Proof::Whole) => Outcome::Mended,
            Ok(other) => Outcome::Not(format!("it was pulled again, and is still {other:?}")),
            Err(error) => Outcome::Not(error.to_string()),
        }
    }

    /// Pulls an image again by what it was pulled as. What is whole is not fetched.
    async fn mend(&self, image: &Arc<Image>, auth_files: &[PathBuf]) -> Outcome {
        let Some(name) = image.repo_digests.first().or(image.repo_tags.first()) else {
            return Outcome::Not("it was not pulled but imported; import it again".to_owned());
        };
        let (reference, auth_files) = (name.clone(), auth_files.to_vec());
        let request = PullRequest { reference, auth_files, ..PullRequest::default() };
        match self.pull_again(request, image_id(image)).await {
            Ok(()) => Outcome::Mended,
            // Whatever pod it was pulled for had them; the node keeps none of a pod's.
            Err(error @ Error::Unauthorized { .. }) => Outcome::Not(format!(
                "{name} is given only to who has credentials: verify it again with --auth-file FILE, or pull it anew; {}",
                chain(&error)
            )),
            Err(error) => Outcome::Not(chain(&error)),
        }
    }
}

fn image_id(image: &Image) -> Digest {
    Digest::parse(&image.id).expect("an image's id is the digest of its configuration")
}

fn called(image: &Image) -> String {
    image.repo_tags.first().or(image.repo_digests.first()).unwrap_or(&image.id).clone()
}
