//! A monitor played by the test: it runs what it is asked to exec as plain processes of this machine, and
//! echoes what is sent to an attached container.

use std::io::{IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};

use conmon_protocol::{Answer, Ask, Decoder, Event, ExecPlan, Message, Refusal, RefusalKind, Request};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryMessage, SendFlags};

/// Listens in a pod's directory until the test ends.
pub(crate) fn listen(pod_dir: &Path) {
    let listener = UnixListener::bind(pod_dir.join("monitor.sock")).unwrap();
    std::thread::spawn(move || {
        while let Ok((stream, _)) = listener.accept() {
            let fake = Fake { stream: Arc::new(stream), writing: Arc::default() };
            std::thread::spawn(move || fake.serve());
        }
    });
}

#[derive(Clone)]
struct Fake {
    stream: Arc<UnixStream>,
    writing: Arc<Mutex<()>>,
}

impl Fake {
    fn serve(&self) {
        let (mut decoder, mut fds) = (Decoder::new(), Vec::new());
        while let Some(bytes) = self.receive(&mut fds) {
            decoder.push(&bytes);
            while let Some(frame) = decoder.next_frame().unwrap() {
                let own = fds.drain(..usize::from(frame.fd_count)).collect();
                self.take(frame.parse().unwrap(), own);
            }
        }
    }

    fn receive(&self, fds: &mut Vec<OwnedFd>) -> Option<Vec<u8>> {
        let mut bytes = [0; 4096];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::CMSG_CLOEXEC;
        let got = rustix::net::recvmsg(&self.stream, &mut [IoSliceMut::new(&mut bytes)], &mut control, flags)
            .ok()?;
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(some) = message {
                fds.extend(some);
            }
        }
        (got.bytes > 0).then(|| bytes[..got.bytes].to_vec())
    }

    fn take(&self, request: Request, fds: Vec<OwnedFd>) {
        let seq = request.seq;
        match request.ask {
            Ask::Exec(plan) => self.exec(seq, &plan, fds),
            Ask::Attach { container_id, .. } if container_id == "gone" => {
                let refusal = Refusal { kind: RefusalKind::NotFound, message: "no container gone".into() };
                self.say(&Message::Answer { seq, answer: Err(refusal) }, &[]);
            }
            Ask::Attach { .. } => {
                self.say(&Message::Answer { seq, answer: Ok(Answer::Done) }, &[]);
                fds.into_iter().for_each(|socket| drop(std::thread::spawn(move || echo(&socket))));
            }
            // It has nothing to keep.
            Ask::Keep => self.say(&Message::Answer { seq, answer: Ok(Answer::Done) }, &[]),
            other => panic!("the fake monitor was asked {other:?}"),
        }
    }

    fn exec(&self, seq: u64, plan: &ExecPlan, fds: Vec<OwnedFd>) {
        let args: Vec<String> = serde_json::from_value(plan.process["args"].clone()).unwrap();
        if args[0] == "no-such-command" {
            let message = "exec no-such-command: not found in PATH".into();
            let refusal = Refusal { kind: RefusalKind::NoSuchCommand, message };
            return self.say(&Message::Answer { seq, answer: Err(refusal) }, &[]);
        }
        let mut fds = fds.into_iter();
        let mut stdio = |on: bool| if on { Stdio::from(fds.next().unwrap()) } else { Stdio::null() };
        let (command, console) = if plan.terminal {
            let (master, slave) = terminal();
            let mut command = Command::new("setsid");
            command.args(["--ctty", "--wait"]).args(&args);
            let end = || Stdio::from(slave.try_clone().unwrap());
            command.stdin(end()).stdout(end()).stderr(end());
            (command, Some(master))
        } else {
            let mut command = Command::new(&args[0]);
            command.args(&args[1..]);
            command.stdin(stdio(plan.stdin)).stdout(stdio(plan.stdout)).stderr(stdio(plan.stderr));
            (command, None)
        };
        let mut command = command;
        let mut child = command.spawn().unwrap();
        drop(command);
        let console: Vec<BorrowedFd<'_>> = console.iter().map(AsFd::as_fd).collect();
        let answer = Ok(Answer::ExecStarted { pid: child.id() as i32 });
        self.say(&Message::Answer { seq, answer }, &console);
        let (fake, exec_id) = (self.clone(), plan.exec_id.clone());
        std::thread::spawn(move || {
            let code = child.wait().unwrap().code().unwrap_or(137);
            fake.say(&Message::Event(Event::ExecExited { exec_id, code, timed_out: false }), &[]);
        });
    }

    fn say(&self, message: &Message, fds: &[BorrowedFd<'_>]) {
        let _one = self.writing.lock().unwrap();
        let bytes = conmon_protocol::encode(message, fds.len() as u8).unwrap();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
        let mut control = rustix::net::SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() {
            control.push(SendAncillaryMessage::ScmRights(fds));
        }
        let flags = SendFlags::NOSIGNAL;
        let Ok(sent) = rustix::net::sendmsg(&self.stream, &[IoSlice::new(&bytes)], &mut control, flags)
        else {
            return;
        };
        let _ = (&*self.stream).write_all(&bytes[sent..]);
    }
}

fn terminal() -> (OwnedFd, OwnedFd) {
    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let master = openpt(flags).unwrap();
    grantpt(&master).unwrap();
    unlockpt(&master).unwrap();
    let name = ptsname(&master, Vec::new()).unwrap();
    let flags = rustix::fs::OFlags::RDWR | rustix::fs::OFlags::NOCTTY | rustix::fs::OFlags::CLOEXEC;
    let slave = rustix::fs::open(name.as_c_str(), flags, rustix::fs::Mode::empty()).unwrap();
    (master, slave)
}

/// A container that repeats what it hears, and says "bye" on stderr when its input ends.
fn echo(socket: &OwnedFd) {
    let mut socket = std::fs::File::from(socket.try_clone().unwrap());
    let mut packet = vec![0; 1 + conmon_protocol::ATTACH_PACKET];
    while let Ok(count @ 1..) = socket.read(&mut packet[1..]) {
        packet[0] = conmon_protocol::STREAM_STDOUT;
        if socket.write(&packet[..=count]).is_err() {
            return;
        }
    }
    let _ = socket.write(&[&[conmon_protocol::STREAM_STDERR], &b"bye"[..]].concat());
}
