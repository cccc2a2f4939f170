//! The first process of a PID namespace that a pod's containers share: it reaps, and does nothing else.
//!
//! Containers see it, so there is nothing to be had from it: its root is an empty read-only tmpfs, it has no
//! capability and no descriptor, it can't be traced or read (not dumpable), and its executable is opened
//! through a read-only mount (see [`crate::seal`]). Signals from inside its namespace don't reach it. Where SELinux
//! is on, it and its root have the pod's labels, as all that containers may see.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use conmon_protocol::{PodPlan, RefusalKind};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{SigSet, Signal};
use rustix::fs::CWD;
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountPropagationFlags, MoveMountFlags, UnmountFlags,
    fsconfig_create, fsconfig_set_string, fsmount, fsopen, mount_change, move_mount, unmount,
};
use rustix::process::{DumpableBehavior, chdir, fchdir, pivot_root, set_dumpable_behavior};
use rustix::thread::{CapabilitySet, CapabilitySets, set_capabilities, set_no_new_privs};

use crate::error::{Error, Named as _};
use crate::reap::{self, Birth};

pub(crate) const ARGUMENT: &str = "--pod-init";
const PROCESS_LABEL: &str = "PROCESS_LABEL";
const FILE_LABEL: &str = "FILE_LABEL";
const OWN_LABEL: &str = "/proc/self/attr/current";

/// Starts it as the next child, whose PID namespace the caller has already made, and waits until it is safe. Its
/// pod's directory is in its command line, so that it can be found when nobody could write down who it is.
pub(crate) fn spawn(plan: &PodPlan) -> Result<Birth, Error> {
    let labels = [(PROCESS_LABEL, &plan.process_label), (FILE_LABEL, &plan.file_label)];
    let mut child = Command::new("/proc/self/exe")
        .arg(ARGUMENT)
        .arg(&plan.pod_dir)
        .env_clear()
        .envs(labels.into_iter().filter_map(|(name, label)| Some((name, label.as_ref()?))))
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .named("starting", "the first process of the pod's PID namespace")?;
    let birth = Birth::of(child.id() as i32);
    let mut said = Vec::new();
    let heard = child.stdout.take().map(|stdout| stdout.take(2).read_to_end(&mut said));
    if matches!(heard, Some(Ok(_))) && said == b"r" {
        // Not waited for here: it is reaped with all other children.
        return Ok(birth);
    }
    let _ = child.kill();
    let _ = child.wait();
    Err(Error::refused(RefusalKind::Failed, "the first process of the pod's PID namespace did not get ready"))
}

/// The one of this pod, if it is there.
pub(crate) fn find(pod_dir: &Path) -> Option<Birth> {
    let mut words = Vec::from(ARGUMENT);
    words.push(0);
    words.extend_from_slice(pod_dir.as_os_str().as_bytes());
    words.push(0);
    let processes = std::fs::read_dir("/proc").ok()?.flatten();
    let mut pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.find(|pid| std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line.ends_with(&words)))
        .map(Birth::of)
}

/// What the process itself does, for ever.
pub(crate) fn run() -> ! {
    let mut children = SigSet::empty();
    children.add(Signal::SIGCHLD);
    let ready = || {
        children.thread_block()?;
        leave_everything()?;
        say_ready()
    };
    if ready().is_err() {
        std::process::exit(1);
    }
    loop {
        while reap::next_child().is_some() {}
        let _ = children.wait();
    }
}

fn leave_everything() -> std::io::Result<()> {
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    set_no_new_privs(true)?;
    let label = std::env::var(PROCESS_LABEL).ok();
    let own =
        label.map(|label| Ok::<_, std::io::Error>((File::options().write(true).open(OWN_LABEL)?, label)));
    leave_root(std::env::var(FILE_LABEL).ok().as_deref())?;
    let none = CapabilitySet::empty();
    set_capabilities(None, CapabilitySets { effective: none, permitted: none, inheritable: none })?;
    // Last, since the label of a container allows nothing of this.
    own.transpose()?.map_or(Ok(()), |(mut file, label)| file.write_all(label.as_bytes()))
}

/// Makes an empty tmpfs its root; /proc is where it is put down for a moment, since that always exists.
fn leave_root(label: Option<&str>) -> Result<(), Errno> {
    unshare(CloneFlags::CLONE_NEWNS).map_err(|errno| Errno::from_raw_os_error(errno as i32))?;
    mount_change("/", MountPropagationFlags::REC | MountPropagationFlags::PRIVATE)?;
    let context = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    if let Some(label) = label {
        fsconfig_set_string(&context, "context", label)?;
    }
    fsconfig_create(&context)?;
    let attributes = MountAttrFlags::MOUNT_ATTR_RDONLY
        | MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    let root = fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)?;
    move_mount(&root, "", CWD, "/proc", MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
    fchdir(&root)?;
    pivot_root(".", ".")?;
    unmount(".", UnmountFlags::DETACH)?;
    chdir("/")
}

/// The end of the pipe is the word: by then no descriptor but /dev/null is left. The standard library keeps 0, 1 and
/// 2 for itself, so they are not closed but become what stdin was from the beginning.
fn say_ready() -> std::io::Result<()> {
    let (stdin, stdout) = (std::io::stdin(), std::io::stdout());
    let pipe = rustix::io::fcntl_dupfd_cloexec(&stdout, 3)?;
    rustix::stdio::dup2_stdout(&stdin)?;
    rustix::stdio::dup2_stderr(&stdin)?;
    rustix::io::write(&pipe, b"r")?;
    Ok(())
}
