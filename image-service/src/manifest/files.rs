//! The files of an artifact: its layers, each named by the title that its maker gave it (image-spec,
//! annotations.md, `org.opencontainers.image.title`). A title is text from a stranger that becomes a path.

use std::collections::BTreeSet;

use super::{ArtifactManifest, Descriptor, Error};

const TITLE: &str = "org.opencontainers.image.title";
/// path_resolution(7): NAME_MAX, and a path that fits into PATH_MAX with the layer's own.
const MAX_NAME_BYTES: usize = 255;
const MAX_TITLE_BYTES: usize = 2048;
/// Artifacts are flat, or nearly so.
const MAX_DEPTH: usize = 16;

/// One file of an artifact.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArtifactFile {
    /// Relative, plain parts joined by single slashes.
    pub path: String,
    pub blob: Descriptor,
}

/// What the artifact consists of. None when nothing of it has a title: then nobody could name the files.
pub(super) fn files(artifact: &ArtifactManifest) -> Result<Option<Vec<ArtifactFile>>, Error> {
    let title = |layer: &Descriptor| layer.annotations.get(TITLE).cloned();
    if artifact.layers.iter().all(|layer| title(layer).is_none()) {
        return Ok(None);
    }
    let mut files = Vec::with_capacity(artifact.layers.len());
    let mut taken = BTreeSet::new();
    for layer in &artifact.layers {
        let path = title(layer).ok_or_else(|| Error::Untitled(layer.digest.clone()))?;
        check(&path).map_err(|why| refused(&path, why))?;
        if !taken.insert(path.clone()) {
            return Err(refused(&path, "another file has it already"));
        }
        files.push(ArtifactFile { path, blob: layer.clone() });
    }
    let above = |path: &str| path.match_indices('/').any(|(slash, _)| taken.contains(&path[..slash]));
    match files.iter().find(|file| above(&file.path)) {
        Some(file) => Err(refused(&file.path, "another file has the name of its directory")),
        None => Ok(Some(files)),
    }
}

fn refused(title: &str, why: &'static str) -> Error {
    Error::Title { title: title.chars().take(100).collect(), why }
}

fn check(title: &str) -> Result<(), &'static str> {
    let parts: Vec<&str> = title.split('/').collect();
    match () {
        () if title.is_empty() => Err("it is empty"),
        () if title.len() > MAX_TITLE_BYTES => Err("it is too long"),
        () if title.starts_with('/') => Err("it is absolute"),
        () if title.bytes().any(|byte| byte.is_ascii_control()) => Err("it has control characters"),
        () if parts.iter().any(|part| matches!(*part, "" | "." | "..")) => Err("it leads elsewhere"),
        () if parts.iter().any(|part| part.len() > MAX_NAME_BYTES) => Err("a part of it is too long"),
        () if parts.len() > MAX_DEPTH => Err("it is too deep"),
        () => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Digest;
    use crate::manifest::MediaType;

    fn read(titles: &[Option<&str>]) -> Result<Option<Vec<ArtifactFile>>, Error> {
        let layer = |title: &Option<&str>| {
            let mut layer = Descriptor::new("text/plain", Digest::sha256(b""), 0);
            layer.annotations.extend(title.map(|title| (TITLE.to_owned(), title.to_owned())));
            layer
        };
        files(&ArtifactManifest {
            media_type: MediaType::OciManifest,
            artifact_type: "x/y".to_owned(),
            config: Descriptor::new("application/vnd.oci.empty.v1+json", Digest::sha256(b"{}"), 2),
            layers: titles.iter().map(layer).collect(),
            subject: None,
            annotations: Default::default(),
        })
    }

    #[test]
    fn files_are_called_by_their_titles() {
        let found = read(&[Some("model.bin"), Some("docs/read me.txt"), Some("..."), Some("ä")]).unwrap();
        let names: Vec<_> = found.unwrap().into_iter().map(|file| file.path).collect();
        assert_eq!(names, ["model.bin", "docs/read me.txt", "...", "ä"]);
        assert_eq!(read(&[None, None]).unwrap(), None);
        assert_eq!(read(&[]).unwrap(), None);
    }

    #[test]
    fn titles_that_could_be_anything_else_are_refused() {
        let long = "x".repeat(256);
        let deep = vec!["a"; 17].join("/");
        for (titles, why) in [
            (vec![""], "empty"),
            (vec!["../x"], "elsewhere"),
            (vec!["a/../../x"], "elsewhere"),
            (vec![".."], "elsewhere"),
            (vec!["."], "elsewhere"),
            (vec!["a//b"], "elsewhere"),
            (vec!["a/"], "elsewhere"),
            (vec!["/etc/passwd"], "absolute"),
            (vec!["a\0b"], "control"),
            (vec!["a\nb"], "control"),
            (vec![long.as_str()], "too long"),
            (vec![deep.as_str()], "too deep"),
            (vec!["a", "a"], "already"),
            (vec!["a", "a/b"], "its directory"),
            (vec!["a/b", "a"], "its directory"),
        ] {
            let titles: Vec<Option<&str>> = titles.into_iter().map(Some).collect();
            let error = read(&titles).unwrap_err().to_string();
            assert!(error.contains(why), "{titles:?}: {error}");
        }
        assert!(matches!(read(&[Some("a"), None]), Err(Error::Untitled(_))));
    }
}
