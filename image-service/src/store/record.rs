//! What the index remembers of an image, and the rules of names. Pure.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::image::Layer;
use crate::policy::Verdict;

/// Names of one image, times policies of namespaces; what is forgotten is asked for again.
const MAX_VERDICTS: usize = 64;

/// One image in the index, under its id.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    /// The digest of the configuration; with it everything else of the image is fixed.
    pub(crate) id: Digest,
    pub(crate) repo_tags: Vec<String>,
    pub(crate) repo_digests: Vec<String>,
    /// From the bottom up.
    pub(crate) layers: Vec<Layer>,
    /// Manifests and indexes that led here, and the configuration.
    pub(crate) documents: Vec<Digest>,
    pub(crate) documents_bytes: u64,
    pub(crate) pulled_at_ms: u64,
    /// The page cache that its layers were made in (see `settle`), until they are known to be on the disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) unsynced_in: Option<String>,
    /// Signatures that were found good, the latest last; an older berth wrote none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) verdicts: Vec<Verdict>,
}

/// A name an image gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Name {
    /// `repository:tag`
    Tag(String),
    /// `repository@digest`
    Digest(String),
}

impl Record {
    /// What it takes on disk.
    pub(crate) fn size_bytes(&self) -> u64 {
        self.layers.iter().map(|layer| layer.bytes).sum::<u64>() + self.documents_bytes
    }

    /// Keeps a verdict.
    pub(crate) fn remember(&mut self, verdict: &Verdict) {
        if !self.verdicts.contains(verdict) {
            let over = (self.verdicts.len() + 1).saturating_sub(MAX_VERDICTS);
            self.verdicts.drain(..over);
            self.verdicts.push(verdict.clone());
        }
    }

    fn names_mut(&mut self, name: &Name) -> (&mut Vec<String>, String) {
        match name {
            Name::Tag(text) => (&mut self.repo_tags, text.clone()),
            Name::Digest(text) => (&mut self.repo_digests, text.clone()),
        }
    }

    /// Gains a name; false when it has it.
    fn gain(&mut self, name: &Name) -> bool {
        let (names, text) = self.names_mut(name);
        match names.binary_search(&text) {
            Ok(_) => false,
            Err(at) => {
                names.insert(at, text);
                true
            }
        }
    }

    fn lose(&mut self, name: &Name) -> bool {
        let (names, text) = self.names_mut(name);
        let before = names.len();
        names.retain(|known| *known != text);
        names.len() != before
    }
}

/// Gives `record` the names and takes them from all others. Answers the records that come out changed,
/// `record` last and always. An image that loses its last tag stays, untagged.
pub(crate) fn claim<'a>(
    others: impl Iterator<Item = &'a Record>,
    mut record: Record,
    names: &[Name],
) -> Vec<Record> {
    let mut changed = Vec::new();
    for other in others.filter(|other| other.id != record.id) {
        let mut other = other.clone();
        // No short circuit: every name is taken.
        if names.iter().filter(|name| other.lose(name)).count() > 0 {
            changed.push(other);
        }
    }
    for name in names {
        record.gain(name);
    }
    changed.push(record);
    changed
}

/// The documents of `gone` that no other record needs.
pub(crate) fn orphans<'a>(others: impl Iterator<Item = &'a Record>, gone: &Record) -> Vec<Digest> {
    let mut orphans: BTreeMap<&Digest, ()> = gone.documents.iter().map(|document| (document, ())).collect();
    for other in others.filter(|other| other.id != gone.id) {
        for document in &other.documents {
            orphans.remove(document);
        }
    }
    orphans.into_keys().cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(id: u8, tags: &[&str]) -> Record {
        Record {
            id: Digest::sha256(&[id]),
            repo_tags: tags.iter().map(|tag| (*tag).to_owned()).collect(),
            repo_digests: Vec::new(),
            layers: Vec::new(),
            documents: vec![Digest::sha256(&[id]), Digest::sha256(b"shared")],
            documents_bytes: 0,
            pulled_at_ms: 0,
            unsynced_in: None,
            verdicts: Vec::new(),
        }
    }

    #[test]
    fn a_moved_tag_leaves_the_old_image_untagged() {
        let old = record(1, &["a:1", "a:2"]);
        let other = record(2, &["b:1"]);
        let names = [Name::Tag("a:1".to_owned()), Name::Digest("a@x".to_owned())];
        let changed = claim([&old, &other].into_iter(), record(3, &[]), &names);
        let tags: Vec<_> = changed.iter().map(|record| record.repo_tags.join(" ")).collect();
        assert_eq!(tags, ["a:2", "a:1"]);
        assert_eq!(changed[1].repo_digests, ["a@x"]);
    }

    #[test]
    fn a_name_it_has_already_changes_nothing() {
        let image = record(1, &["a:1"]);
        assert_eq!(claim([&image].into_iter(), image.clone(), &[Name::Tag("a:1".to_owned())]), [image]);
    }

    #[test]
    fn verdicts_are_kept_once_and_the_oldest_go_first() {
        let mut image = record(1, &[]);
        let verdict = |n: usize| Verdict {
            name: format!("a.io/x:{n}"),
            manifest: Digest::sha256(b"m"),
            requirements: Digest::sha256(b"r"),
        };
        for n in 0..=MAX_VERDICTS {
            image.remember(&verdict(n));
            image.remember(&verdict(n));
        }
        assert_eq!((image.verdicts.len(), &image.verdicts[0]), (MAX_VERDICTS, &verdict(1)));
    }

    /// As the first berth wrote it.
    #[test]
    fn a_record_without_verdicts_is_read() {
        let json = serde_json::to_value(record(1, &["a:1"])).unwrap();
        assert!(json.get("verdicts").is_none());
        assert_eq!(serde_json::from_value::<Record>(json).unwrap(), record(1, &["a:1"]));
    }

    #[test]
    fn shared_documents_stay() {
        let (one, two) = (record(1, &[]), record(2, &[]));
        assert_eq!(orphans([&one, &two].into_iter(), &one), [Digest::sha256(&[1])]);
        assert_eq!(orphans([&one].into_iter(), &one).len(), 2);
    }
}
