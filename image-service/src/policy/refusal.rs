//! Why an image may not be used.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use super::json::Flaw;
use super::registries_d::BadRegistriesD;
use super::trusted::BadKeys;
use super::unfit::Unfit;

/// The policy said no, or nothing that can be understood.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Refusal {
    #[error("the policy rejects {image} (by its entry for {scope})")]
    Rejected { image: String, scope: String },
    #[error(
        "the policy wants {image} to be {kind} (by its entry for {scope}), which no tool can check; ask for sigstoreSigned"
    )]
    Unsupported { image: String, scope: String, kind: String },
    #[error(
        "the policy wants {image} to be {kind} (by its entry for {scope}), and there is no such signature: {looked}"
    )]
    Unsigned { image: String, scope: String, kind: String, looked: String },
    #[error(
        "the policy wants {image} to be {kind} (by its entry for {scope}), and no signature does: {}",
        listed(found)
    )]
    Untrusted { image: String, scope: String, kind: String, found: Vec<(String, Unfit)> },
    #[error("the policy wants {image} to be {kind} (by its entry for {scope}), and its keys can't be used")]
    Keys { image: String, scope: String, kind: String, source: Arc<BadKeys> },
    #[error("the policy wants {image} to be signed, and where its signatures lie can't be read")]
    Registries { image: String, source: Arc<BadRegistriesD> },
    #[error(
        "the policy wants {image} to be signed, this node knows of no signature, and nobody can be asked for one"
    )]
    Unasked { image: String, source: Arc<crate::Error> },
    #[error("without a policy that can be read nothing is allowed")]
    Unreadable(#[source] Arc<Invalid>),
}

fn listed(found: &[(String, Unfit)]) -> String {
    /// The rest is more of the same.
    const TOLD: usize = 8;
    let told = found.iter().take(TOLD).map(|(origin, unfit)| format!("{origin}: {unfit}"));
    let mut text = told.collect::<Vec<_>>().join("; ");
    if found.len() > TOLD {
        text.push_str(&format!("; and {} more", found.len() - TOLD));
    }
    text
}

/// The file can't be used; then nothing may be pulled.
#[derive(Debug, thiserror::Error)]
pub enum Invalid {
    #[error("reading the policy {}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("the policy {} is not what containers-policy.json(5) describes", path.display())]
    Json { path: PathBuf, source: Flaw },
}
