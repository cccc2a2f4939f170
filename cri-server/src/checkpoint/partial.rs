//! A folder for what is not whole yet, which a crash leaves nothing of: a note of it is made before it is, in
//! `ROOT/checkpoints`, and the next start removes what notes name.

use std::fs;
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use super::Error;
use crate::node::new_id;

const NOTES: &str = "checkpoints";
const PREFIX: &str = ".berth-checkpoint-";

/// Removed when dropped, with all that was put in place beside it, unless that is whole.
#[derive(Debug)]
pub(super) struct Partial {
    pub(super) dir: PathBuf,
    note: PathBuf,
    beside: Vec<PathBuf>,
}

impl Partial {
    /// In the folder `place`, so that what is done can be renamed. `beside` are the places of what takes several renames.
    pub(super) fn make(root: &Path, place: &Path, beside: Vec<PathBuf>) -> Result<Partial, Error> {
        let (notes, name) = (notes(root), format!("{PREFIX}{}", &new_id()[..16]));
        private(&notes, true)?;
        let (dir, note) = (place.join(&name), notes.join(&name[PREFIX.len()..]));
        let paths: Vec<&PathBuf> = [&dir].into_iter().chain(&beside).collect();
        let text = serde_json::to_vec(&paths).map_err(|e| Error::damaged(&dir, e.to_string()))?;
        write_note(&note, &text).map_err(Error::io("writing", &note))?;
        let partial = Partial { dir, note, beside };
        private(&partial.dir, false)?;
        Ok(partial)
    }

    /// One that the daemon needs for itself.
    pub(super) fn of_our_own(root: &Path) -> Result<Partial, Error> {
        private(&notes(root), true)?;
        Partial::make(root, &notes(root), Vec::new())
    }

    /// What was put beside it is whole and stays.
    pub(super) fn done(mut self) {
        self.beside.clear();
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        for path in self.beside.iter().chain([&self.dir]) {
            remove(path);
        }
        // Last: as long as it is there, the next start looks for the rest.
        remove(&self.note);
    }
}

/// Removes what the daemon before did not finish.
pub fn sweep(root: &Path) {
    for entry in fs::read_dir(notes(root)).into_iter().flatten().flatten() {
        let note = entry.path();
        let paths: Vec<PathBuf> =
            fs::read(&note).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default();
        tracing::info!(?paths, "removing a checkpoint that was not finished");
        paths.iter().for_each(|path| remove(path));
        remove(&note);
    }
}

fn notes(root: &Path) -> PathBuf {
    root.join(NOTES)
}

fn remove(path: &Path) {
    let removed = match fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            tracing::error!(path = %path.display(), %error, "what is left of a checkpoint stays");
        }
        _ => {}
    }
}

fn private(path: &Path, there_is_fine: bool) -> Result<(), Error> {
    fs::DirBuilder::new().recursive(there_is_fine).mode(0o700).create(path).map_err(Error::io("making", path))
}

/// On the disk before what it names.
fn write_note(path: &Path, text: &[u8]) -> std::io::Result<()> {
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(text)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_done_is_gone_and_what_is_done_stays() {
        let (root, place) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let beside = place.path().join("pod.dump");
        for done in [false, true] {
            let partial = Partial::make(root.path(), place.path(), vec![beside.clone()]).unwrap();
            fs::write(partial.dir.join("x"), "x").unwrap();
            fs::write(&beside, "x").unwrap();
            if done {
                partial.done()
            } else {
                drop(partial)
            }
            assert_eq!(beside.exists(), done);
            assert_eq!(fs::read_dir(place.path()).unwrap().count(), usize::from(done));
            assert_eq!(fs::read_dir(notes(root.path())).unwrap().count(), 0);
        }
    }

    #[test]
    fn the_next_start_removes_what_a_crash_left() {
        let (root, place) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let beside = place.path().join("containers");
        let ours = Partial::of_our_own(root.path()).unwrap();
        let partial = Partial::make(root.path(), place.path(), vec![beside.clone()]).unwrap();
        fs::create_dir(&beside).unwrap();
        fs::write(partial.dir.join("x"), "x").unwrap();
        fs::write(place.path().join("another's"), "x").unwrap();
        std::mem::forget((ours, partial));
        sweep(root.path());
        assert_eq!(fs::read_dir(notes(root.path())).unwrap().count(), 0);
        let left: Vec<_> =
            fs::read_dir(place.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, ["another's"]);
    }
}
