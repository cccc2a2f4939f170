//! The names of a UTS namespace that restored processes join: criu gives it those that the images have, and it has its own.

use std::fs::File;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use kernel::clone_flags as flag;
use rustix::fs::{Mode, OFlags};
use rustix::system::{setdomainname, sethostname, uname};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::Error;
use crate::plan::Plan;

#[derive(Debug)]
pub(super) struct Names {
    namespace: OwnedFd,
    host: Vec<u8>,
    domain: Vec<u8>,
}

impl Names {
    /// As they are now; `None` when there is no namespace to be joined.
    pub(super) fn of(plan: &Plan) -> Result<Option<Names>, Error> {
        let Some(joined) = plan.namespaces.joined.iter().find(|joined| joined.flag == flag::NEWUTS) else {
            return Ok(None);
        };
        let at = |e| Error::step("opening the namespace", joined.path.display().to_string(), e);
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let namespace = rustix::fs::open(&joined.path, flags, Mode::empty()).map_err(at)?;
        let (host, domain) = inside(namespace.as_fd(), || {
            let names = uname();
            Ok((names.nodename().to_bytes().to_vec(), names.domainname().to_bytes().to_vec()))
        })?;
        Ok(Some(Names { namespace, host, domain }))
    }

    pub(super) fn give_back(self) -> Result<(), Error> {
        inside(self.namespace.as_fd(), || {
            sethostname(&self.host)?;
            setdomainname(&self.domain)
        })
    }
}

/// We have one thread, which goes there and comes back.
fn inside<T>(namespace: BorrowedFd<'_>, work: impl FnOnce() -> rustix::io::Result<T>) -> Result<T, Error> {
    const OWN: &str = "/proc/thread-self/ns/uts";
    let own = File::open(OWN).map_err(|e| Error::step("opening", OWN, e))?;
    let kind = Some(LinkNameSpaceType::HostNameAndNISDomainName);
    let at = |e| Error::step("joining", "the UTS namespace", e);
    move_into_link_name_space(namespace, kind).map_err(at)?;
    let done = work();
    move_into_link_name_space(own.as_fd(), kind).map_err(at)?;
    done.map_err(|e| Error::step("naming", "the UTS namespace", e))
}
