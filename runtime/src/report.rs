//! What a child between clone and exec says to its parent: numbers only, since it has no words.
//!
//! One packet of a SOCK_SEQPACKET pair is one message. The parent turns (step, errno, index) into an error with
//! the object's name, which it knows from the plan.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};

/// Declares the steps with the words that the parent uses for them.
macro_rules! steps {
    ($($name:ident = $words:literal,)*) => {
        /// Where a child is.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[repr(u32)]
        pub(crate) enum Step { $($name),* }

        impl Step {
            const ALL: &[Step] = &[$(Step::$name),*];

            pub(crate) fn words(self) -> &'static str {
                match self { $(Step::$name => $words),* }
            }
        }
    };
}

steps! {
    Undumpable = "hiding from ptrace",
    JoinCgroup = "joining the cgroup",
    JoinNamespace = "joining the namespace",
    NewNamespace = "making a namespace",
    Fork = "cloning into the new namespaces",
    WaitForParent = "waiting for the id maps",
    BecomeRoot = "becoming root of the user namespace",
    TimeOffsets = "setting the time offsets",
    Session = "starting a session",
    Keyring = "joining a new session keyring",
    Hostname = "setting the host name",
    Domainname = "setting the domain name",
    Loopback = "bringing the loopback interface up",
    Privacy = "making the mounts private",
    AttachRoot = "attaching the root file system",
    PivotRoot = "pivoting into the root file system",
    MountFs = "mounting",
    MapIds = "mapping the ids of",
    Remount = "remounting",
    CopyUp = "copying what is covered by",
    MountTarget = "making the mount point",
    MountOnProc = "refusing a mount inside /proc at",
    MountCgroup = "mounting the cgroups at",
    Device = "making the device",
    DeviceLink = "linking in /dev",
    Console = "opening a terminal from /dev/pts",
    Procfs = "mounting a private procfs",
    Sysctl = "setting the sysctl",
    Mask = "masking",
    Readonly = "making read-only",
    RootPropagation = "setting the propagation of the root file system",
    RootReadonly = "making the root file system read-only",
    Rlimit = "setting the limit",
    Scheduler = "setting the scheduler",
    IoPriority = "setting the I/O priority",
    Affinity = "setting the CPU affinity",
    MemoryPolicy = "setting the memory policy",
    Personality = "setting the personality",
    Stdio = "setting up standard input and output",
    Label = "setting the security label",
    Cwd = "entering the working directory",
    BoundingSet = "dropping capabilities from the bounding set",
    User = "becoming the user",
    Capabilities = "setting capabilities",
    NoNewPrivileges = "setting no_new_privs",
    Seccomp = "loading the seccomp filter",
    Listener = "handing over the seccomp listener",
    WaitForHooks = "waiting for the createRuntime hooks",
    Hook = "running a createContainer hook",
    Report = "reporting",
    Command = "command",
}

/// A step that did not work.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Failure {
    pub(crate) step: Step,
    pub(crate) errno: Errno,
    /// Which of the plan's objects, where a step has many.
    pub(crate) index: u32,
}

/// Names the step on the way up.
pub(crate) trait At<T> {
    fn at(self, step: Step, index: usize) -> Result<T, Failure>;
}

impl<T> At<T> for rustix::io::Result<T> {
    fn at(self, step: Step, index: usize) -> Result<T, Failure> {
        self.map_err(|errno| Failure { step, errno, index: index as u32 })
    }
}

/// From child to parent.
#[derive(Debug)]
pub(crate) enum Word {
    Failed(Failure),
    /// The intermediate child has cloned the init.
    Cloned {
        pid: i32,
    },
    /// Mounts are made, the root not yet pivoted: the moment of createRuntime hooks.
    BeforePivot,
    /// All is made, with the master of the terminal.
    Ready {
        console: Option<OwnedFd>,
    },
    /// The filter is loaded, and its listener is this descriptor of the process; it waits until that was taken.
    Listening {
        number: i32,
    },
}

const PACKET: usize = 16;

/// One end of the pair.
#[derive(Debug)]
pub(crate) struct Line(OwnedFd);

/// The parent's end, and the child's.
pub(crate) fn lines() -> rustix::io::Result<(Line, Line)> {
    let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    Ok((Line(ours), Line(theirs)))
}

impl From<Line> for OwnedFd {
    fn from(line: Line) -> OwnedFd {
        line.0
    }
}

impl Line {
    pub(crate) fn failed(&self, failure: Failure) {
        let errno = failure.errno.raw_os_error() as u32;
        // Nobody is left to hear that this failed as well.
        let _ = self.send([0, failure.step as u32, errno, failure.index], None);
    }

    pub(crate) fn cloned(&self, pid: i32) -> rustix::io::Result<()> {
        self.send([1, pid as u32, 0, 0], None)
    }

    pub(crate) fn before_pivot(&self) -> rustix::io::Result<()> {
        self.send([2, 0, 0, 0], None)
    }

    pub(crate) fn ready(&self, console: Option<BorrowedFd<'_>>) -> rustix::io::Result<()> {
        self.send([3, 0, 0, 0], console)
    }

    /// By write(2) alone: under the filter that was just loaded, others may wait for the listener.
    pub(crate) fn listening(&self, number: i32) -> rustix::io::Result<()> {
        rustix::io::write(&self.0, &encode([5, number as u32, 0, 0])).map(drop)
    }

    /// Parent to child: go on.
    pub(crate) fn go(&self) -> rustix::io::Result<()> {
        self.send([4, 0, 0, 0], None)
    }

    /// Waits for `go`; the parent's end gone means that nobody wants us.
    pub(crate) fn wait(&self) -> rustix::io::Result<()> {
        match self.receive()? {
            Some((_, _)) => Ok(()),
            None => Err(Errno::PIPE),
        }
    }

    /// The next word; `None` when the child's end is closed, by exec or by death.
    pub(crate) fn hear(&self) -> rustix::io::Result<Option<Word>> {
        let Some((packet, console)) = self.receive()? else { return Ok(None) };
        match packet[0] {
            0 => Ok(Some(Word::Failed(failure(packet)?))),
            1 => Ok(Some(Word::Cloned { pid: packet[1] as i32 })),
            2 => Ok(Some(Word::BeforePivot)),
            3 => Ok(Some(Word::Ready { console })),
            5 => Ok(Some(Word::Listening { number: packet[1] as i32 })),
            _ => Err(Errno::PROTO),
        }
    }

    fn send(&self, packet: [u32; 4], fd: Option<BorrowedFd<'_>>) -> rustix::io::Result<()> {
        let bytes = encode(packet);
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let fds = fd.map(|fd| [fd]);
        if let Some(fds) = &fds {
            control.push(SendAncillaryMessage::ScmRights(fds));
        }
        sendmsg(&self.0, &[IoSlice::new(&bytes)], &mut control, SendFlags::NOSIGNAL).map(drop)
    }

    fn receive(&self) -> rustix::io::Result<Option<([u32; 4], Option<OwnedFd>)>> {
        let mut bytes = [0; PACKET];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let received = loop {
            let mut slices = [IoSliceMut::new(&mut bytes)];
            match recvmsg(&self.0, &mut slices, &mut control, RecvFlags::CMSG_CLOEXEC) {
                Err(Errno::INTR) => {}
                // A child that dies with our last word unread resets the pair.
                Err(Errno::CONNRESET) => return Ok(None),
                other => break other?,
            }
        };
        if received.bytes == 0 {
            return Ok(None);
        }
        let fd = control.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
            _ => None,
        });
        Ok(Some((decode(bytes), fd)))
    }
}

fn failure(packet: [u32; 4]) -> rustix::io::Result<Failure> {
    let step = *Step::ALL.get(packet[1] as usize).ok_or(Errno::PROTO)?;
    Ok(Failure { step, errno: Errno::from_raw_os_error(packet[2] as i32), index: packet[3] })
}

fn encode(packet: [u32; 4]) -> [u8; PACKET] {
    let mut bytes = [0; PACKET];
    for (to, from) in bytes.chunks_exact_mut(4).zip(packet) {
        to.copy_from_slice(&from.to_ne_bytes());
    }
    bytes
}

fn decode(bytes: [u8; PACKET]) -> [u32; 4] {
    let mut packet = [0; 4];
    for (to, from) in packet.iter_mut().zip(bytes.chunks_exact(4)) {
        *to = u32::from_ne_bytes([from[0], from[1], from[2], from[3]]);
    }
    packet
}
