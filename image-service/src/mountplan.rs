//! Which layers an overlay is mounted from. Pure.

use std::collections::BTreeSet;

use crate::digest::Digest;
use crate::image::Layer;

/// The lower directories, topmost first. Left out is what would change nothing: empty layers, what an
/// opaque root hides (overlay does not look for the mark on a layer's root), and a layer's lower copy
/// when an image has it twice (overlay refuses the same directory twice; the upper copy covers all of
/// the lower one's).
pub(crate) fn lower(layers: &[Layer]) -> Vec<&Digest> {
    let mut seen = BTreeSet::new();
    let mut lower = Vec::new();
    for layer in layers.iter().rev() {
        if layer.inodes > 0 && seen.insert(&layer.diff_id) {
            lower.push(&layer.diff_id);
        }
        if layer.opaque_root {
            break;
        }
    }
    lower
}

/// The layer that says what `/` is like: the topmost that has an entry for it. Overlay takes the root of
/// the writable layer for it, so that one is made alike.
pub(crate) fn root(layers: &[Layer]) -> Option<&Digest> {
    layers.iter().rev().find(|layer| layer.has_root).map(|layer| &layer.diff_id)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layer(name: u8) -> Layer {
        Layer {
            diff_id: Digest::sha256(&[name]),
            bytes: 0,
            inodes: 1,
            has_root: false,
            opaque_root: false,
            undescribed: Vec::new(),
        }
    }

    fn check(layers: &[Layer], topmost_first: &[u8]) {
        let expected: Vec<_> = topmost_first.iter().map(|name| Digest::sha256(&[*name])).collect();
        assert_eq!(lower(layers), expected.iter().collect::<Vec<_>>());
    }

    #[test]
    fn the_topmost_comes_first() {
        check(&[layer(1), layer(2), layer(3)], &[3, 2, 1]);
        check(&[], &[]);
    }

    #[test]
    fn what_changes_nothing_is_left_out() {
        check(&[layer(1), Layer { inodes: 0, ..layer(2) }, layer(3)], &[3, 1]);
        check(&[layer(1), layer(2), layer(1)], &[1, 2]);
        check(&[layer(1), Layer { opaque_root: true, ..layer(2) }, layer(3)], &[3, 2]);
    }

    #[test]
    fn the_root_is_the_topmost_that_is_told() {
        let told = |name| Layer { has_root: true, ..layer(name) };
        assert_eq!(root(&[told(1), told(2), layer(3)]), Some(&Digest::sha256(&[2])));
        assert_eq!(root(&[layer(1)]), None);
    }
}
