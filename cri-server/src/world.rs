//! What readers see: one immutable picture of all sandboxes and containers, replaced as a whole.
//!
//! The sandboxes' tasks publish here; List and Status only load the picture: no lock, no waiting, no disk.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use proto::v1::ContainerEventType;
use tokio::sync::{Notify, broadcast};

use crate::container::Container;
use crate::error::{Error, Noun};
use crate::sandbox::Sandbox;

/// Events that a slow watcher may fall behind before it misses some. The kubelet lists anew every 5 min.
const CHANGES: usize = 1024;

/// The published picture.
#[derive(Debug)]
pub struct World {
    now: ArcSwap<Snapshot>,
    /// Writers take turns, so that none loses the other's change.
    turn: Mutex<()>,
    changes: broadcast::Sender<Change>,
    replaced: Notify,
}

/// All there is at one moment.
#[derive(Debug, Default, Clone)]
pub struct Snapshot {
    pub sandboxes: HashMap<Arc<str>, Arc<Sandbox>>,
    pub containers: HashMap<Arc<str>, Arc<Container>>,
}

/// Something that a watcher of containers wants to hear of.
#[derive(Debug, Clone)]
pub struct Change {
    pub kind: ContainerEventType,
    /// Of a container or of a sandbox.
    pub id: Arc<str>,
    pub at_ns: i64,
    pub sandbox: Arc<Sandbox>,
}

impl Default for World {
    fn default() -> Self {
        let (changes, _) = broadcast::channel(CHANGES);
        Self { now: ArcSwap::default(), turn: Mutex::new(()), changes, replaced: Notify::new() }
    }
}

impl World {
    pub fn now(&self) -> Arc<Snapshot> {
        self.now.load_full()
    }

    /// What is to be seen in the first picture, from the present one on, that has it.
    pub async fn once<T>(&self, look: impl Fn(&Snapshot) -> Option<T>) -> T {
        loop {
            let mut replaced = std::pin::pin!(self.replaced.notified());
            replaced.as_mut().enable();
            if let Some(seen) = look(&self.now()) {
                return seen;
            }
            replaced.await;
        }
    }

    pub fn publish_sandbox(&self, sandbox: Arc<Sandbox>) {
        self.change(|world| drop(world.sandboxes.insert(sandbox.facts.id.clone(), sandbox)));
    }

    pub fn publish_container(&self, container: Arc<Container>) {
        self.change(|world| drop(world.containers.insert(container.facts.id.clone(), container)));
    }

    pub fn forget_sandbox(&self, id: &str) {
        self.change(|world| {
            world.sandboxes.remove(id);
            world.containers.retain(|_, container| &*container.facts.sandbox_id != id);
        });
    }

    pub fn forget_container(&self, id: &str) {
        self.change(|world| drop(world.containers.remove(id)));
    }

    /// What changes from now on.
    pub fn changes(&self) -> broadcast::Receiver<Change> {
        self.changes.subscribe()
    }

    pub fn tell(&self, change: Change) {
        // Nobody watching is fine.
        let _ = self.changes.send(change);
    }

    fn change(&self, change: impl FnOnce(&mut Snapshot)) {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let mut next = Snapshot::clone(&self.now.load());
        change(&mut next);
        self.now.store(Arc::new(next));
        self.replaced.notify_waiters();
    }
}

impl Snapshot {
    /// By id, or by the unambiguous beginning of one.
    ///
    /// # Errors
    /// When there is none, or more than one.
    pub fn sandbox(&self, id: &str) -> Result<Arc<Sandbox>, Error> {
        find(&self.sandboxes, id, Noun::Sandbox)
    }

    /// By id, or by the unambiguous beginning of one.
    ///
    /// # Errors
    /// When there is none, or more than one.
    pub fn container(&self, id: &str) -> Result<Arc<Container>, Error> {
        find(&self.containers, id, Noun::Container)
    }

    pub fn containers_of<'a>(&'a self, sandbox_id: &'a str) -> impl Iterator<Item = &'a Arc<Container>> {
        self.containers.values().filter(move |container| &*container.facts.sandbox_id == sandbox_id)
    }
}

fn find<T>(map: &HashMap<Arc<str>, Arc<T>>, id: &str, noun: Noun) -> Result<Arc<T>, Error> {
    if let Some(found) = map.get(id) {
        return Ok(found.clone());
    }
    let mut matches = map.iter().filter(|(full, _)| !id.is_empty() && full.starts_with(id));
    match (matches.next(), matches.count()) {
        (None, _) => Err(Error::NotFound { noun, id: id.into() }),
        (Some((_, found)), 0) => Ok(found.clone()),
        (Some(_), more) => Err(Error::Ambiguous { noun, id: id.into(), count: more + 1 }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn what_is_not_there_yet_is_waited_for() {
        let world = Arc::new(World::default());
        let seen = |snapshot: &Snapshot| (!snapshot.sandboxes.contains_key("gone")).then_some(());
        world.once(seen).await;
        let (asked, looks) = (world.clone(), Arc::new(std::sync::atomic::AtomicUsize::new(0)));
        let counted = looks.clone();
        let third = move |_: &Snapshot| {
            let before = counted.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            (before == 2).then_some(before)
        };
        let waiting = tokio::spawn(async move { asked.once(third).await });
        while !waiting.is_finished() {
            world.forget_container("nothing");
            tokio::task::yield_now().await;
        }
        assert_eq!(waiting.await.unwrap(), 2);
    }

    #[test]
    fn an_id_is_found_by_its_beginning_when_only_one_has_it() {
        let map: HashMap<Arc<str>, Arc<u8>> =
            [("abc", 1), ("abd", 2), ("x", 3)].map(|(id, n)| (id.into(), Arc::new(n))).into();
        let check = |id: &str, expected: Result<u8, &str>| {
            let found = find(&map, id, Noun::Container).map(|n| *n);
            match (found, expected) {
                (Ok(found), Ok(expected)) => assert_eq!(found, expected),
                (Err(error), Err(words)) => assert!(error.to_string().contains(words), "{error}"),
                (found, _) => panic!("{id}: {found:?}"),
            }
        };
        check("abc", Ok(1));
        check("x", Ok(3));
        check("ab", Err("any of 2"));
        check("abcd", Err("no container"));
        check("", Err("no container"));
    }
}
