//! A seccomp filter whose questions go to an agent (SCMP_ACT_NOTIFY).
//!
//! The agent of these tests lets go of the listener, upon which the kernel answers ENOSYS for it.

use std::io::{IoSliceMut, Read as _};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use serde_json::{Value, json};

use crate::bundle::{Bundle, is_root};

/// What one connection brought: the state, what the descriptor is, and when it was let go of.
struct Heard {
    state: Value,
    link: String,
    released: Instant,
}

/// Takes so many listeners, holding each for a moment.
fn agent(bundle: &Bundle, count: usize) -> JoinHandle<Vec<Heard>> {
    let socket = UnixListener::bind(bundle.path().join("agent")).unwrap();
    std::thread::spawn(move || (0..count).map(|_| hear(accept(&socket))).collect())
}

/// A runtime that never comes is a failure, not a wait.
fn accept(socket: &UnixListener) -> UnixStream {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let time = Timespec { tv_sec: 20, tv_nsec: 0 };
    let ready = poll(&mut [PollFd::new(socket, PollFlags::IN)], Some(&time)).unwrap();
    assert_eq!(ready, 1, "nobody sent a listener");
    socket.accept().unwrap().0
}

fn hear(mut stream: UnixStream) -> Heard {
    let mut bytes = vec![0; 8192];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let length = recvmsg(&stream, &mut [IoSliceMut::new(&mut bytes)], &mut control, RecvFlags::CMSG_CLOEXEC)
        .unwrap()
        .bytes;
    bytes.truncate(length);
    let mut fds: Vec<OwnedFd> = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            fds.extend(rights);
        }
    }
    // One state a connection, which ends with it.
    stream.read_to_end(&mut bytes).unwrap();
    assert_eq!(fds.len(), 1);
    let link = std::fs::read_link(format!("/proc/self/fd/{}", fds[0].as_raw_fd())).unwrap();
    std::thread::sleep(Duration::from_millis(300));
    let released = Instant::now();
    drop(fds);
    Heard { state: serde_json::from_slice(&bytes).unwrap(), link: link.display().to_string(), released }
}

fn ask(bundle: &mut Bundle, calls: &[&str]) {
    let path = bundle.path().join("agent");
    bundle.spec["linux"]["seccomp"] = json!({
        "defaultAction": "SCMP_ACT_ALLOW", "listenerPath": path, "listenerMetadata": "for the agent",
        "syscalls": [{"names": calls, "action": "SCMP_ACT_NOTIFY"}]
    });
    bundle.spec["annotations"] = json!({"key": "value"});
}

#[test]
fn the_agent_gets_the_listener_with_the_containers_state_and_its_calls_wait_for_it() {
    if !is_root() {
        return;
    }
    for no_new_privileges in [true, false] {
        let mut bundle = Bundle::new("mkdir /x; echo done");
        bundle.spec["process"]["noNewPrivileges"] = json!(no_new_privileges);
        ask(&mut bundle, &["mkdir", "mkdirat"]);
        let agent = agent(&bundle, 1);
        let said = bundle.run();
        let ended = Instant::now();
        assert_eq!(said.ok(), "done");
        assert!(said.err.contains("Function not implemented"), "{}", said.err);
        let heard = agent.join().unwrap().pop().unwrap();
        assert_eq!(heard.link, "anon_inode:seccomp notify");
        assert!(heard.released < ended, "the call waited for its answer");
        let state = &heard.state;
        assert_eq!(state["fds"], json!(["seccompFd"]));
        assert_eq!(state["metadata"], "for the agent");
        assert_eq!(state["ociVersion"], "1.3.0");
        assert_eq!(state["state"]["id"], bundle.id.as_str());
        assert_eq!(state["state"]["status"], "creating");
        assert_eq!(state["state"]["annotations"]["key"], "value");
        assert_eq!(state["state"]["bundle"], json!(bundle.path()));
        assert!(state["pid"].as_i64().unwrap() > 1 && state["pid"] == state["state"]["pid"], "{state}");
    }
}

#[test]
fn an_exec_has_a_listener_of_its_own() {
    if !is_root() {
        return;
    }
    let mut bundle = Bundle::new("exec sleep 100");
    ask(&mut bundle, &["mkdir", "mkdirat"]);
    let agent = agent(&bundle, 2);
    bundle.start();
    let said = bundle.say(&["exec", "ID", "sh", "-c", "mkdir /x; echo done"]);
    assert_eq!(said.ok(), "done");
    assert!(said.err.contains("Function not implemented"), "{}", said.err);
    let heard = agent.join().unwrap();
    assert_eq!(heard[1].state["state"]["status"], "running");
    assert_eq!(heard[1].state["state"]["pid"], json!(bundle.pid()));
    assert_ne!(heard[1].state["pid"], heard[1].state["state"]["pid"]);
}

/// The calls that we make ourselves to say that the filter is loaded may be the agent's to judge too.
#[test]
fn calls_of_ours_that_the_agent_judges_are_no_deadlock() {
    if !is_root() {
        return;
    }
    let mut bundle = Bundle::new("echo done");
    ask(&mut bundle, &["sendmsg", "sendto", "mkdir"]);
    let agent = agent(&bundle, 1);
    // ENOSYS for our own sendmsg, once the agent has gone: no container, and no hang.
    let said = bundle.run();
    assert_ne!(said.code, 0, "{}", said.out);
    agent.join().unwrap();
}

#[test]
fn without_an_agent_there_is_no_container() {
    if !is_root() {
        return;
    }
    let mut bundle = Bundle::new("echo done");
    ask(&mut bundle, &["mkdir"]);
    let place = bundle.path().join("agent").display().to_string();
    bundle.run().refused(&[
        "sending the seccomp listener to",
        &place,
        "linux.seccomp.listenerPath",
        "No such file",
    ]);
    bundle.spec["linux"]["seccomp"]["listenerPath"] = json!("");
    bundle.run().refused(&["linux.seccomp", "config-linux.md, Seccomp", "listenerPath is empty"]);
    // A path that no rule needs is ignored.
    bundle.spec["linux"]["seccomp"]["listenerPath"] = json!("/nosuch");
    bundle.spec["linux"]["seccomp"]["syscalls"][0]["action"] = json!("SCMP_ACT_ERRNO");
    assert_eq!(bundle.run().ok(), "done");
}
