//! The options of one mount, taken together.

use kernel::{Depth, MountAttr};

use super::super::options::{Change, apply, apply_atime, change};
use super::super::path::c_string;
use crate::{Error, spec};

/// All options of one entry.
#[derive(Debug, Default)]
pub(super) struct Words {
    pub(super) attr: MountAttr,
    pub(super) recursive_attr: MountAttr,
    pub(super) propagation: Option<(u64, Depth)>,
    pub(super) bind: Option<Depth>,
    pub(super) idmap: Option<Depth>,
    pub(super) remount: bool,
    pub(super) copy_up: bool,
    pub(super) data: Vec<String>,
}

impl Words {
    pub(super) fn read(field: &str, options: &[String]) -> Result<Words, Error> {
        let mut words = Words::default();
        for option in options {
            c_string(&format!("{field}.options"), option.as_str())?;
            match change(option) {
                Some(change) => words.take(option, change),
                None => words.data.push(option.clone()),
            }
        }
        Ok(words)
    }

    /// Whether its ids are to be others, in either way to say so.
    pub(super) fn is_shifted(&self, mount: &spec::Mount) -> bool {
        self.idmap.is_some() || !mount.uid_mappings.is_empty() || !mount.gid_mappings.is_empty()
    }

    fn take(&mut self, word: &str, change: Change) {
        match change {
            Change::Set(bits) => apply(&mut self.attr, bits, 0),
            Change::Clear(bits) => apply(&mut self.attr, 0, bits),
            Change::Atime(atime) => apply_atime(&mut self.attr, atime),
            Change::RecursiveSet(bits) => apply(&mut self.recursive_attr, bits, 0),
            Change::RecursiveClear(bits) => apply(&mut self.recursive_attr, 0, bits),
            Change::RecursiveAtime(atime) => apply_atime(&mut self.recursive_attr, atime),
            Change::Propagate(propagation, depth) => self.propagation = Some((propagation, depth)),
            Change::Bind(depth) => self.bind = Some(depth),
            Change::Idmap(depth) => self.idmap = Some(depth),
            Change::Flag => self.data.push(word.to_owned()),
            Change::Unflag(flag) => {
                self.data.retain(|earlier| earlier != flag);
                // The file system that is there already may have it.
                self.data.push(word.to_owned());
            }
            Change::Remount => self.remount = true,
            Change::CopyUp => self.copy_up = true,
            Change::Nothing => {}
        }
    }
}
