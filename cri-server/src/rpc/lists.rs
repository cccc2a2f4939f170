//! Lists that are asked for all the time: an item is put into the interface's words, and those into bytes, once for
//! each state of it that was published.
//!
//! What is published never changes; a later state is another [`Arc`]. So bytes are right as long as the item is the very
//! one that they were made of.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use bytes::Bytes;
use proto::{List, ListContainersResponse, ListPodSandboxResponse, v1};

use super::words;
use crate::container::Container;
use crate::sandbox::Sandbox;
use crate::world::Snapshot;

/// The bytes of the pods and containers that were listed last.
#[derive(Debug, Default)]
pub(super) struct Lists {
    sandboxes: Encoded<Sandbox>,
    containers: Encoded<Container>,
}

/// Items of one kind, by their ids.
#[derive(Debug)]
pub(super) struct Encoded<T> {
    known: Mutex<HashMap<Arc<str>, Item<T>>>,
}

#[derive(Debug)]
struct Item<T> {
    /// It keeps the address from being anybody else's, and nothing alive of what was removed.
    of: Weak<T>,
    bytes: Bytes,
}

impl Lists {
    pub(super) fn sandboxes(
        &self,
        world: &Snapshot,
        filter: Option<v1::PodSandboxFilter>,
    ) -> ListPodSandboxResponse {
        let encode = |sandbox: &Sandbox| List::encoded(&words::pod_sandbox(sandbox));
        let found = words::sandboxes(world, filter);
        let found = found.iter().map(|sandbox| (&*sandbox.facts.id, sandbox));
        List { items: Vec::new(), encoded: self.sandboxes.of(found, world.sandboxes.len(), encode) }
    }

    pub(super) fn containers(
        &self,
        world: &Snapshot,
        filter: Option<v1::ContainerFilter>,
    ) -> ListContainersResponse {
        let encode = |container: &Container| List::encoded(&words::container(container));
        let found = words::containers(world, filter);
        let found = found.iter().map(|container| (&*container.facts.id, container));
        List { items: Vec::new(), encoded: self.containers.of(found, world.containers.len(), encode) }
    }
}

impl<T> Encoded<T> {
    /// In the order of `found`; of more than is `there`, what is gone is not kept.
    pub(super) fn of<'a>(
        &self,
        found: impl Iterator<Item = (&'a str, &'a Arc<T>)>,
        there: usize,
        encode: impl Fn(&T) -> Bytes,
    ) -> Vec<Bytes>
    where
        T: 'a,
    {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let encoded = found.map(|(id, item)| match known.get(id) {
            Some(last) if last.of.as_ptr() == Arc::as_ptr(item) => last.bytes.clone(),
            _ => {
                let bytes = encode(item);
                known.insert(id.into(), Item { of: Arc::downgrade(item), bytes: bytes.clone() });
                bytes
            }
        });
        let encoded = encoded.collect();
        if known.len() > there {
            known.retain(|_, item| item.of.strong_count() > 0);
        }
        encoded
    }
}

impl<T> Default for Encoded<T> {
    fn default() -> Self {
        Self { known: Mutex::default() }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    type World = HashMap<Arc<str>, Arc<u8>>;

    fn world(items: &[(&str, &Arc<u8>)]) -> World {
        items.iter().map(|(id, item)| (Arc::from(*id), Arc::clone(item))).collect()
    }

    #[test]
    fn an_item_is_encoded_once_for_each_state_of_it() {
        let (lists, times) = (Encoded::default(), Cell::new(0));
        let check = |world: &World, wanted: &[&str], expected: &[u8], encoded: u32| {
            times.set(0);
            let encode = |item: &u8| {
                times.set(times.get() + 1);
                Bytes::from(vec![*item])
            };
            let found = wanted.iter().map(|id| (*id, &world[*id]));
            assert_eq!(lists.of(found, world.len(), encode).concat(), expected, "{wanted:?}");
            assert_eq!(times.get(), encoded, "{wanted:?}");
        };
        let (a, b) = (Arc::new(1), Arc::new(2));
        let first = world(&[("a", &a), ("b", &b)]);
        check(&first, &["a", "b"], &[1, 2], 2);
        check(&first, &["b", "a"], &[2, 1], 0);
        check(&first, &["b"], &[2], 0);
        // Another state of the same one; the old one may be gone from memory.
        drop(first);
        drop(b);
        let second = world(&[("a", &a), ("b", &Arc::new(3))]);
        check(&second, &["a", "b"], &[1, 3], 1);
        check(&second, &["a", "b"], &[1, 3], 0);
        drop(second);
        let third = world(&[("a", &a)]);
        check(&third, &["a"], &[1], 0);
        assert_eq!(lists.known.lock().unwrap().len(), 1, "what is gone is forgotten");
    }

    #[test]
    fn what_was_listed_is_not_kept_alive() {
        let (lists, item) = (Encoded::default(), Arc::new(1_u8));
        let world = world(&[("a", &item)]);
        lists.of(world.iter().map(|(id, item)| (&**id, item)), world.len(), |item| Bytes::from(vec![*item]));
        drop(world);
        assert_eq!(Arc::strong_count(&item), 1);
    }
}
