//! What is remembered of an image that was found to be signed as the policy wants it.

use serde::{Deserialize, Serialize};

use super::identity::SignedIdentity;
use super::requirement::{Keys, Requirement, Signer, Sigstore};
use super::trusted::{BadKeys, contents};
use crate::digest::Digest;

/// This manifest is signed for this name as these requirements want it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Verdict {
    /// `repository:tag` or `repository@digest`.
    pub(crate) name: String,
    pub(crate) manifest: Digest,
    /// Of all that they say, and of the very keys: whatever changes there has the registry asked again.
    pub(crate) requirements: Digest,
}

/// The digest of what is asked for. Reads the keys.
pub(super) fn fingerprint<'a>(
    requirements: &[&'a Requirement],
) -> Result<Digest, (&'a Requirement, BadKeys)> {
    let mut words = Words(Vec::new());
    for requirement in requirements {
        words.requirement(requirement).map_err(|bad| (*requirement, bad))?;
    }
    Ok(Digest::sha256(&words.0))
}

/// Each with its length before it, so that no two lists of words are the same bytes.
struct Words(Vec<u8>);

impl Words {
    fn add(&mut self, word: impl AsRef<[u8]>) {
        let word = word.as_ref();
        self.0.extend((word.len() as u64).to_be_bytes());
        self.0.extend(word);
    }

    fn requirement(&mut self, requirement: &Requirement) -> Result<(), BadKeys> {
        self.add(requirement.kind());
        match requirement {
            Requirement::Anything | Requirement::Reject | Requirement::BaseLayer => Ok(()),
            Requirement::SignedBy { keys, identity } => {
                self.keys(keys)?;
                self.identity(identity);
                Ok(())
            }
            Requirement::Sigstore(sigstore) => self.sigstore(sigstore),
        }
    }

    fn sigstore(&mut self, Sigstore { signer, rekor, identity }: &Sigstore) -> Result<(), BadKeys> {
        match signer {
            Signer::Keys(keys) => {
                self.add("keys");
                self.keys(keys)?;
            }
            Signer::Fulcio { roots, issuer, email } => {
                self.add("fulcio");
                self.keys(roots)?;
                self.add(issuer);
                self.add(email);
            }
            Signer::Pki { roots, intermediates, email, hostname } => {
                self.add("pki");
                self.keys(roots)?;
                self.maybe_keys(intermediates.as_ref())?;
                self.maybe(email.as_deref());
                self.maybe(hostname.as_deref());
            }
        }
        self.maybe_keys(rekor.as_ref())?;
        self.identity(identity);
        Ok(())
    }

    fn keys(&mut self, keys: &Keys) -> Result<(), BadKeys> {
        let contents = contents(keys)?;
        self.add(contents.len().to_string());
        contents.into_iter().for_each(|(_, bytes)| self.add(bytes));
        Ok(())
    }

    fn maybe_keys(&mut self, keys: Option<&Keys>) -> Result<(), BadKeys> {
        match keys {
            Some(keys) => self.keys(keys),
            None => {
                self.add("none");
                Ok(())
            }
        }
    }

    fn maybe(&mut self, word: Option<&str>) {
        match word {
            Some(word) => {
                self.add("some");
                self.add(word);
            }
            None => self.add("none"),
        }
    }

    fn identity(&mut self, identity: &SignedIdentity) {
        identity.words().into_iter().for_each(|word| self.add(word));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::json::Field;

    fn print(requirement: &str) -> Digest {
        let read = Requirement::read(Field::parse(requirement.as_bytes()).unwrap()).unwrap();
        fingerprint(&[&read]).map_err(|(_, bad)| bad).unwrap()
    }

    #[test]
    fn each_word_of_a_requirement_and_each_byte_of_a_key_counts() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("key").display().to_string();
        std::fs::write(&file, "x").unwrap();
        let asks = [
            r#"{"type": "sigstoreSigned", "keyData": "eA=="}"#,
            r#"{"type": "sigstoreSigned", "keyData": "eQ=="}"#,
            r#"{"type": "sigstoreSigned", "keyDatas": ["eA==", "eQ=="]}"#,
            r#"{"type": "sigstoreSigned", "keyData": "eA==", "rekorPublicKeyData": "eA=="}"#,
            r#"{"type": "sigstoreSigned", "keyData": "eA==", "signedIdentity": {"type": "matchExact"}}"#,
            r#"{"type": "sigstoreSigned", "keyData": "eA==", "signedIdentity": {"type": "matchRepository"}}"#,
            r#"{"type": "sigstoreSigned", "keyData": "eA==",
                "signedIdentity": {"type": "exactRepository", "dockerRepository": "a.io/x"}}"#,
            r#"{"type": "sigstoreSigned", "keyData": "eA==",
                "signedIdentity": {"type": "exactReference", "dockerReference": "a.io/x:1"}}"#,
            r#"{"type": "sigstoreSigned", "keyData": "eA==",
                "signedIdentity": {"type": "remapIdentity", "prefix": "a.io", "signedPrefix": "b.io"}}"#,
            r#"{"type": "sigstoreSigned", "keyData": "eA==",
                "signedIdentity": {"type": "remapIdentity", "prefix": "b.io", "signedPrefix": "a.io"}}"#,
            r#"{"type": "sigstoreSigned", "rekorPublicKeyData": "eA==",
                "fulcio": {"caData": "eA==", "oidcIssuer": "i", "subjectEmail": "e"}}"#,
            r#"{"type": "sigstoreSigned", "rekorPublicKeyData": "eA==",
                "fulcio": {"caData": "eA==", "oidcIssuer": "e", "subjectEmail": "i"}}"#,
            r#"{"type": "sigstoreSigned", "pki": {"caRootsData": "eA==", "subjectEmail": "e"}}"#,
            r#"{"type": "sigstoreSigned", "pki": {"caRootsData": "eA==", "subjectHostname": "e"}}"#,
            r#"{"type": "sigstoreSigned",
                "pki": {"caRootsData": "eA==", "caIntermediatesData": "eA==", "subjectHostname": "e"}}"#,
            r#"{"type": "signedBy", "keyType": "GPGKeys", "keyData": "eA=="}"#,
        ];
        let prints: std::collections::BTreeSet<Digest> = asks.iter().map(|ask| print(ask)).collect();
        assert_eq!(prints.len(), asks.len());
        let by_path = format!(r#"{{"type": "sigstoreSigned", "keyPath": "{file}"}}"#);
        assert_eq!(print(&by_path), print(asks[0]), "where a key lies is nobody's concern");
        std::fs::write(&file, "y").unwrap();
        assert_eq!(print(&by_path), print(asks[1]));
    }
}
