//! A folder for what is not whole yet, which a crash leaves nothing of: a note of it is made before it is, in
//! `ROOT/checkpoints`, and the next start removes what notes name.
//!
//! Notes and places may be on two disks, of which either may be behind when the power fails. So a note is on its disk
//! before what it names is made, and what is done is on its own before the note is taken away; and only when that is on
//! the disk as well, so that no later start can take the checkpoint for an unfinished one, anybody is told of it.

use std::fs::{self, File};
use std::io::{ErrorKind, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::Error;
use crate::node::{Node, new_id};

const NOTES: &str = "checkpoints";
const PREFIX: &str = ".berth-checkpoint-";
/// How long a request waits for what an earlier daemon left to be removed.
const SWEEP_WAIT: Duration = Duration::from_secs(5);
/// Between two tries to remove what somebody writes in.
const AGAIN: Duration = Duration::from_secs(2);

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
        sync(&notes)?;
        private(&partial.dir, false)?;
        Ok(partial)
    }

    /// One that the daemon needs for itself.
    pub(super) fn of_our_own(root: &Path) -> Result<Partial, Error> {
        private(&notes(root), true)?;
        Partial::make(root, &notes(root), Vec::new())
    }

    /// Everything in it is on the disk, so that it can be put in place.
    pub(super) fn settle(&self) -> Result<(), Error> {
        let dir = File::open(&self.dir).map_err(Error::io("opening", &self.dir))?;
        rustix::fs::syncfs(dir).map_err(|errno| Error::io("syncing", &self.dir)(errno.into()))
    }

    /// What was put beside it is whole and stays, whatever happens to the node from here on.
    pub(super) fn done(mut self) -> Result<(), Error> {
        let (place, notes) = (parent(&self.dir), parent(&self.note));
        remove(&self.dir);
        sync(&place)?;
        // Whether that is gone or not: it names what is whole now.
        remove(&self.note);
        sync(&notes)?;
        self.beside.clear();
        Ok(())
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        let paths = self.beside.iter().chain([&self.dir]).cloned().collect();
        let mut left = vec![(self.note.clone(), paths)];
        try_to_forget(&mut left);
        if !left.is_empty() {
            // A criu that outlived its monitor writes there still.
            std::thread::spawn(move || forget_in_time(left, |_| {}));
        }
    }
}

/// What the daemon before did not finish, while it is being removed. It lies where clients chose, on servers that may be
/// away by now, so nobody waits for it but who may be in its way.
#[derive(Debug, Default)]
pub struct Leftovers(watch::Sender<Vec<PathBuf>>);

/// A note, and what it names.
type Left = (PathBuf, Vec<PathBuf>);

impl Leftovers {
    fn are(&self, left: &[Left]) {
        self.0.send_replace(left.iter().flat_map(|(_, paths)| paths.clone()).collect());
    }

    /// A folder of a name that nobody else has is in nobody's way.
    fn are_in_the_way(&self, left: &[Left]) {
        let is_ours = |path: &PathBuf| {
            path.file_name().is_some_and(|name| name.as_bytes().starts_with(PREFIX.as_bytes()))
        };
        let paths = left.iter().flat_map(|(_, paths)| paths);
        self.0.send_replace(paths.filter(|path| !is_ours(path)).cloned().collect());
    }

    /// # Errors
    /// When something is there still.
    pub(super) async fn gone(&self) -> Result<(), Error> {
        let mut left = self.0.subscribe();
        if let Ok(Ok(_)) = tokio::time::timeout(SWEEP_WAIT, left.wait_for(Vec::is_empty)).await {
            return Ok(());
        }
        let paths: Vec<String> = self.0.borrow().iter().map(|path| path.display().to_string()).collect();
        Err(Error::State(format!(
            "what an earlier checkpoint left is still being removed ({}); if its file system does not answer, bring it back \
             or unmount it by force, and ask again",
            paths.join(", ")
        )))
    }
}

/// Removes what the daemon before did not finish, beside everything else that a daemon does. Call it before anything new
/// is begun.
pub fn sweep(node: &Arc<Node>) {
    let left = left(&node.config().root);
    node.leftovers.are(&left);
    let node = node.clone();
    for (_, paths) in &left {
        tracing::info!(?paths, "removing a checkpoint that was not finished");
    }
    tokio::task::spawn_blocking(move || forget_in_time(left, |left| node.leftovers.are_in_the_way(left)));
}

/// Goes on until nobody can write there any more. What is left then has its note still, for the next start.
fn forget_in_time(mut left: Vec<Left>, tell: impl Fn(&[Left])) {
    let until = Instant::now() + super::PATIENCE + AGAIN;
    while !left.is_empty() && Instant::now() < until {
        try_to_forget(&mut left);
        tell(&left);
        if !left.is_empty() {
            std::thread::sleep(AGAIN);
        }
    }
    for (_, paths) in &left {
        tracing::error!(?paths, "what is left of a checkpoint stays until the next start");
    }
    tell(&[]);
}

/// Keeps what is there still, and its note: as long as that is there, the next start looks for it.
fn try_to_forget(left: &mut Vec<Left>) {
    left.retain_mut(|(note, paths)| {
        paths.retain(|path| !remove(path));
        !paths.is_empty() || !remove(note)
    });
}

/// Looks at our own folder alone.
pub(super) fn left(root: &Path) -> Vec<Left> {
    let entries = fs::read_dir(notes(root)).into_iter().flatten().flatten().map(|entry| entry.path());
    let named = |note: &Path| fs::read(note).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
    entries.map(|note| (named(&note).unwrap_or_default(), note)).map(|(paths, note)| (note, paths)).collect()
}

fn notes(root: &Path) -> PathBuf {
    root.join(NOTES)
}

/// Whether it is gone.
fn remove(path: &Path) -> bool {
    let removed = match fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            tracing::warn!(path = %path.display(), %error, "what is left of a checkpoint stays for now");
            false
        }
        _ => true,
    }
}

fn private(path: &Path, there_is_fine: bool) -> Result<(), Error> {
    fs::DirBuilder::new().recursive(there_is_fine).mode(0o700).create(path).map_err(Error::io("making", path))
}

pub(super) fn parent(path: &Path) -> PathBuf {
    path.parent().unwrap_or(Path::new("/")).to_owned()
}

/// Its names are on the disk.
pub(super) fn sync(dir: &Path) -> Result<(), Error> {
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(Error::io("syncing", dir))
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
                partial.done().unwrap();
            } else {
                drop(partial);
            }
            assert_eq!(beside.exists(), done);
            assert_eq!(fs::read_dir(place.path()).unwrap().count(), usize::from(done));
            assert_eq!(fs::read_dir(notes(root.path())).unwrap().count(), 0);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_may_be_in_the_way_waits_for_what_is_left_and_not_for_ever() {
        let leftovers = Leftovers::default();
        leftovers.gone().await.unwrap();
        leftovers.0.send_replace(vec!["/away/pod.dump".into()]);
        let refused = leftovers.gone().await.unwrap_err().to_string();
        assert!(refused.contains("(/away/pod.dump)"), "{refused}");
        let removed = async {
            tokio::time::sleep(SWEEP_WAIT / 2).await;
            leftovers.0.send_modify(Vec::clear);
        };
        let (gone, ()) = tokio::join!(leftovers.gone(), removed);
        gone.unwrap();
    }

    #[test]
    fn what_cannot_be_removed_yet_keeps_its_note() {
        let (root, place) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let partial = Partial::make(root.path(), place.path(), Vec::new()).unwrap();
        let dir = partial.dir.clone();
        // Nobody, root neither, removes what is below a file.
        std::mem::forget(partial);
        let mut unfinished = left(root.path());
        let blocked = place.path().join("file");
        fs::write(&blocked, "x").unwrap();
        unfinished[0].1.push(blocked.join("below"));
        try_to_forget(&mut unfinished);
        assert!(!dir.exists());
        assert_eq!(unfinished[0].1, [blocked.join("below")]);
        assert_eq!(left(root.path()).len(), 1, "the note stays");
        fs::remove_file(blocked).unwrap();
        try_to_forget(&mut unfinished);
        assert!(unfinished.is_empty() && left(root.path()).is_empty());
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
        try_to_forget(&mut left(root.path()));
        assert_eq!(fs::read_dir(notes(root.path())).unwrap().count(), 0);
        let left: Vec<_> =
            fs::read_dir(place.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, ["another's"]);
    }
}
