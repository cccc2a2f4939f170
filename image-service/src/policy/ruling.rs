//! What the policy says of one image, and whether its signatures meet it.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use rustls_pki_types::UnixTime;

use super::gather::Gathered;
use super::payload::{self, ATOMIC, Subject};
use super::refusal::Refusal;
use super::requirement::Requirement;
use super::trusted::BadKeys;
use super::unfit::Unfit;
use super::{sigstore, trusted};

/// What the file says of one image.
pub(super) struct Ruling<'a> {
    pub(super) image: String,
    pub(super) scope: String,
    pub(super) requirements: &'a [Requirement],
}

impl<'a> Ruling<'a> {
    /// What needs no look at signatures.
    pub(super) fn check_plain(&self) -> Result<(), Refusal> {
        let (image, scope) = (self.image.clone(), self.scope.clone());
        for requirement in self.requirements {
            match requirement {
                Requirement::Anything | Requirement::Sigstore(_) | Requirement::SignedBy { .. } => {}
                Requirement::Reject => return Err(Refusal::Rejected { image, scope }),
                Requirement::BaseLayer => {
                    return Err(Refusal::Unsupported { image, scope, kind: requirement.kind().to_owned() });
                }
            }
        }
        Ok(())
    }

    /// Those that ask for a signature.
    pub(super) fn signatures(&self) -> Vec<&'a Requirement> {
        self.requirements.iter().filter(|requirement| **requirement != Requirement::Anything).collect()
    }

    /// One good signature is enough for a requirement.
    pub(super) fn signed(
        &self,
        requirement: &Requirement,
        gathered: &Gathered,
        subject: &Subject<'_>,
    ) -> Result<(), Refusal> {
        let checked = match requirement {
            Requirement::Anything | Requirement::Reject | Requirement::BaseLayer => {
                return self.check_plain();
            }
            Requirement::Sigstore(wanted) => {
                let trusted = trusted::read(wanted).map_err(|bad| self.bad_keys(requirement, bad))?;
                let check = |found: &sigstore::Attachment| trusted.check(found, subject, UnixTime::now());
                first_good(&gathered.attachments, check)
            }
            Requirement::SignedBy { keys, identity } => {
                let rings = trusted::keyrings(keys).map_err(|bad| self.bad_keys(requirement, bad))?;
                first_good(&gathered.simple, |message: &Vec<u8>| {
                    let payload =
                        rings.open(message, now()).map_err(|bad| Unfit::OpenPgp(bad.to_string()))?;
                    payload::check(&payload, ATOMIC, identity, subject)
                })
            }
        };
        let Some(unfit) = checked else { return Ok(()) };
        if unfit.is_empty() {
            return Err(self.unsigned(requirement, gathered.looked()));
        }
        let (image, scope, kind) = self.told(requirement);
        Err(Refusal::Untrusted { image, scope, kind, found: unfit })
    }

    /// For what can bear none; `looked` says why.
    pub(super) fn check_without_signatures(&self, looked: &str) -> Result<(), Refusal> {
        self.check_plain()?;
        let demanded =
            self.signatures().first().map(|requirement| self.unsigned(requirement, looked.to_owned()));
        demanded.map_or(Ok(()), Err)
    }

    pub(super) fn unsigned(&self, requirement: &Requirement, looked: String) -> Refusal {
        let (image, scope, kind) = self.told(requirement);
        Refusal::Unsigned { image, scope, kind, looked }
    }

    pub(super) fn bad_keys(&self, requirement: &Requirement, bad: BadKeys) -> Refusal {
        let (image, scope, kind) = self.told(requirement);
        Refusal::Keys { image, scope, kind, source: Arc::new(bad) }
    }

    fn told(&self, requirement: &Requirement) -> (String, String, String) {
        (self.image.clone(), self.scope.clone(), requirement.kind().to_owned())
    }
}

/// None when one of them is good, else why each is not.
fn first_good<T>(
    found: &[(String, T)],
    check: impl Fn(&T) -> Result<(), Unfit>,
) -> Option<Vec<(String, Unfit)>> {
    let mut unfit = Vec::new();
    for (origin, signature) in found {
        match check(signature) {
            Ok(()) => return None,
            Err(why) => unfit.push((origin.clone(), why)),
        }
    }
    Some(unfit)
}

/// In seconds since 1970.
pub(super) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
