//! Doing without: the cgroup of a container whose maker may make none.

use rustix::io::Errno;

use super::layout::{Layout, Version};
use super::{Cgroup, Error, limits};
use crate::spec::Resources;

static NOWHERE: Layout = Layout { hierarchies: Vec::new() };

impl Cgroup {
    /// In no hierarchy at all. Its path is empty.
    #[must_use]
    pub fn none() -> Cgroup {
        Cgroup::new(&NOWHERE, String::new())
    }

    #[must_use]
    pub fn is_none(&self) -> bool {
        self.path.is_empty()
    }
}

impl Error {
    /// Whether it says that we are not allowed to, or that there is nothing to be allowed.
    #[must_use]
    pub fn is_refusal(&self) -> bool {
        match self {
            Error::Kernel { source, .. }
            | Error::Limit { source, .. }
            | Error::Unreachable { source, .. } => {
                matches!(*source, Errno::ACCESS | Errno::PERM | Errno::ROFS)
            }
            Error::NoCgroups => true,
            _ => false,
        }
    }
}

/// Whether these promise something that only a cgroup can hold. Rules for devices do not count: who may not make a
/// cgroup may make no device either.
pub(crate) fn has_limits(resources: &Resources) -> bool {
    let planned = limits::plan(resources, &|_| Some(Version::V1));
    planned.map_or(true, |writes| writes.iter().any(limits::Write::must_hold))
}
