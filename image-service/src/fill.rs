//! A container's writable layer, filled with the changes that another container had made.

use std::fs::File;
use std::io::BufReader;
use std::path::{Component, Path, PathBuf};

use crate::error::Error;
use crate::images::{Images, RootfsPlan};
use crate::pull::blocking;
use crate::unpack::{self, Limits};

/// No list of files that are gone is longer.
const MAX_HIDDEN: usize = 1_000_000;
/// The mark of a file that is gone (image-spec, layer.md, "Whiteouts").
const WHITEOUT: &str = ".wh.";

impl Images {
    /// The layers of a container, while it has a writable one.
    pub fn writable(&self, container_id: &str) -> Option<RootfsPlan> {
        self.inner.writables.plan_of(container_id)
    }

    /// Unpacks changes into a container's writable layer, which exists, and hides what was removed: paths from the
    /// container's root. Everything is confined to the layer, whatever the archive says.
    ///
    /// # Errors
    /// When the archive is damaged, too large or wants out; then the layer holds any part of it.
    pub async fn fill_writable(
        &self,
        container_id: &str,
        changes: Option<File>,
        hidden: Vec<PathBuf>,
    ) -> Result<(), Error> {
        let plan = self.writable(container_id);
        let plan = plan.ok_or_else(|| Error::NotFound { name: container_id.to_owned(), source: None })?;
        let limits = Limits::new(self.inner.settings.max_layer_bytes);
        blocking(move || fill(&plan.upper, changes, &hidden, limits)).await
    }
}

fn fill(upper: &Path, changes: Option<File>, hidden: &[PathBuf], limits: Limits) -> Result<(), Error> {
    let failed = |error| Error::io("filling the writable layer", upper, error);
    let open = || unpack::open_root(upper).map_err(|errno| failed(errno.into()));
    let unpacked =
        |done: Result<_, unpack::Error>| done.map(drop).map_err(|e| failed(std::io::Error::other(e)));
    if let Some(changes) = changes {
        unpacked(unpack::unpack_changes(BufReader::new(changes), open()?, limits))?;
    }
    if hidden.is_empty() {
        return Ok(());
    }
    let marks = marks(hidden).map_err(failed)?;
    unpacked(unpack::unpack_changes(&marks[..], open()?, limits))
}

/// An archive that hides paths, so that they go the confined way as well.
fn marks(hidden: &[PathBuf]) -> std::io::Result<Vec<u8>> {
    if hidden.len() > MAX_HIDDEN {
        return Err(std::io::Error::other(format!("more than {MAX_HIDDEN} files are said to be gone")));
    }
    let mut archive = tar::Builder::new(Vec::new());
    for path in hidden {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Regular);
        header.set_size(0);
        header.set_mode(0o600);
        archive.append_data(&mut header, mark(path)?, std::io::empty())?;
    }
    archive.into_inner()
}

fn mark(path: &Path) -> std::io::Result<PathBuf> {
    let wrong = || std::io::Error::other(format!("{} is no path of a file that is gone", path.display()));
    let relative = path.strip_prefix("/").unwrap_or(path);
    if relative.components().any(|part| !matches!(part, Component::Normal(_) | Component::CurDir)) {
        return Err(wrong());
    }
    let name = relative.file_name().and_then(|name| name.to_str()).ok_or_else(wrong)?;
    Ok(relative.with_file_name(format!("{WHITEOUT}{name}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::FileTypeExt as _;

    fn archive(entries: &[(&str, &str)]) -> File {
        let mut file = tempfile::tempfile().unwrap();
        let mut archive = tar::Builder::new(&mut file);
        for (path, text) in entries {
            let mut header = tar::Header::new_gnu();
            header.set_size(text.len() as u64);
            header.set_mode(0o644);
            header.as_gnu_mut().unwrap().name[..path.len()].copy_from_slice(path.as_bytes());
            header.set_cksum();
            archive.append(&header, text.as_bytes()).unwrap();
        }
        archive.finish().unwrap();
        drop(archive);
        std::io::Seek::rewind(&mut file).unwrap();
        file
    }

    fn is_root() -> bool {
        rustix::process::geteuid().is_root()
    }

    #[test]
    fn changes_are_laid_over_and_what_is_gone_is_hidden() {
        if !is_root() {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let changes = archive(&[("etc/new", "text")]);
        let hidden = ["/etc/old".into(), "usr/bin/tool".into()];
        fill(dir.path(), Some(changes), &hidden, Limits::new(1 << 20)).unwrap();
        assert_eq!(std::fs::read_to_string(dir.path().join("etc/new")).unwrap(), "text");
        for path in ["etc/old", "usr/bin/tool"] {
            let kind = dir.path().join(path).symlink_metadata().unwrap().file_type();
            assert!(kind.is_char_device(), "{path} is no whiteout");
        }
    }

    #[test]
    fn nothing_gets_out_of_the_layer_and_nothing_is_endless() {
        if !is_root() {
            return;
        }
        let outer = tempfile::tempdir().unwrap();
        let upper = outer.path().join("upper");
        std::fs::create_dir(&upper).unwrap();
        let check = |changes: Option<File>, hidden: &[PathBuf], limit: u64| {
            assert!(fill(&upper, changes, hidden, Limits::new(limit)).is_err());
        };
        check(Some(archive(&[("../escaped", "x")])), &[], 1 << 20);
        check(None, &["../escaped".into()], 1 << 20);
        check(None, &["/".into()], 1 << 20);
        check(Some(archive(&[("large", &"x".repeat(4096))])), &[], 2048);
        std::os::unix::fs::symlink(outer.path(), upper.join("way")).unwrap();
        let _ = fill(&upper, Some(archive(&[("way/escaped", "x")])), &[], Limits::new(1 << 20));
        let names: Vec<_> =
            std::fs::read_dir(outer.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(names, ["upper"], "something is outside");
    }
}
