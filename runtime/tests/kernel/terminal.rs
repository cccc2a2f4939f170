//! Terminals: of the container's own devpts, handed over by descriptor.

use std::io::{IoSliceMut, Read as _, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use serde_json::json;

use crate::bundle::{Bundle, is_root};

#[test]
fn a_container_with_a_terminal_hands_its_master_over() {
    if !is_root() {
        return;
    }
    let mut bundle =
        Bundle::new("tty; stty size; read line; echo got $line; test -c /dev/console && echo console");
    bundle.spec["process"]["terminal"] = json!(true);
    bundle.spec["process"]["consoleSize"] = json!({"height": 33, "width": 99});
    bundle.write();
    let socket = bundle.path().join("console.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    let said = bundle.say(&["run", "--detach", "--console-socket", socket.to_str().unwrap(), "ID"]);
    said.ok();
    let mut master = std::fs::File::from(receive(&listener.accept().unwrap().0));
    master.write_all(b"hello\n").unwrap();
    let mut text = String::new();
    // EIO is how a terminal says that nobody is at its other end.
    let _ = master.read_to_string(&mut text);
    for line in ["/dev/pts/0", "33 99", "got hello", "console"] {
        assert!(text.contains(line), "{text:?}");
    }
}

#[test]
fn exec_opens_a_terminal_as_well() {
    if !is_root() {
        return;
    }
    let bundle = Bundle::new("exec sleep 100");
    bundle.start();
    let said = bundle.say(&["exec", "-t", "ID", "tty"]);
    assert_eq!(said.ok(), "/dev/pts/0");
    bundle.say(&["exec", "-t", "-d", "ID", "tty"]).refused(&["--console-socket"]);
}

#[test]
fn a_pidfd_is_sent_to_whoever_listens_for_it() {
    if !is_root() {
        return;
    }
    let bundle = Bundle::new("exec sleep 100");
    bundle.write();
    let listener = UnixListener::bind(bundle.path().join("pidfd.sock")).unwrap();
    let number = || {
        let pidfd = receive(&listener.accept().unwrap().0);
        let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd())).unwrap();
        let pid = info.lines().find_map(|line| line.strip_prefix("Pid:")).unwrap();
        pid.trim().parse::<i32>().unwrap()
    };
    // Who goes on would hold our pipes.
    let detach = |words: &[&str]| {
        let null = std::process::Stdio::null;
        let mut command = bundle.command(words);
        assert!(command.stdin(null()).stdout(null()).stderr(null()).status().unwrap().success());
    };
    let id = bundle.id.as_str();
    detach(&["run", "-d", "--pidfd-socket", "pidfd.sock", id]);
    assert_eq!(number(), bundle.pid());
    detach(&["exec", "-d", "--pidfd-socket=pidfd.sock", "--pid-file", "pid", id, "sleep", "30"]);
    let pid = std::fs::read_to_string(bundle.path().join("pid")).unwrap();
    assert_eq!(number().to_string(), pid);
    bundle.say(&["exec", "--pidfd-socket", "nosuch", "ID", "true"]).refused(&["pidfd", "nosuch"]);
    assert_eq!(
        bundle.say(&["ps", "--format", "json", "ID"]).ok().split(',').count(),
        2,
        "init and sleep alone"
    );
}

/// What somebody sent over a console socket.
pub(crate) fn receive(stream: &UnixStream) -> OwnedFd {
    let mut bytes = [0; 64];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    recvmsg(stream, &mut [IoSliceMut::new(&mut bytes)], &mut control, RecvFlags::CMSG_CLOEXEC).unwrap();
    let fds = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    });
    fds.unwrap()
}
