//! NOTIFY_SOCKET: what a container says by sd_notify(3) of its readiness reaches who has started it.

use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::fs::symlink;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::bundle::{Bundle, is_root};

/// As a service says it. Debian's perl-base is on every node.
const SAY: &str = r#"/usr/bin/perl -MSocket -e 'socket(my $s, PF_UNIX, SOCK_DGRAM, 0) or die $!; for (@ARGV) { send($s, $_, 0, sockaddr_un($ENV{NOTIFY_SOCKET})) or die $! }' -- STATUS=busy "$(printf 'STATUS=there\nREADY=1\nMAINPID=1')""#;

struct Service {
    bundle: Bundle,
    host: UnixDatagram,
    name: String,
}

impl Service {
    fn new(script: &str) -> Service {
        let mut bundle = Bundle::new(script);
        std::fs::create_dir(bundle.rootfs().join("usr")).unwrap();
        for name in ["lib", "lib64"] {
            symlink(format!("usr/{name}"), bundle.rootfs().join(name)).unwrap();
        }
        bundle.bind(Path::new("/usr"), "/usr", &["rbind", "ro"]);
        bundle.write();
        let path = bundle.path().join("host.sock");
        let host = UnixDatagram::bind(&path).unwrap();
        Service { bundle, host, name: path.to_str().unwrap().to_owned() }
    }

    /// Listens at a name that is no path, as a user's systemd may.
    fn with_abstract_name(script: &str) -> Service {
        let mut service = Service::new(script);
        let name = format!("berth-{}", service.bundle.id);
        service.host = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        service.name = format!("@{name}");
        service
    }

    fn spawn(&self, words: &[&str]) -> Child {
        let words: Vec<&str> =
            words.iter().map(|word| if *word == "ID" { self.bundle.id.as_str() } else { word }).collect();
        let mut command: Command = self.bundle.command(&words);
        command.env("NOTIFY_SOCKET", &self.name).stdin(Stdio::null()).stdout(Stdio::null());
        command.stderr(std::fs::File::create(self.bundle.path().join("log")).unwrap()).spawn().unwrap()
    }

    fn runs(&self, words: &[&str]) {
        let code = self.spawn(words).wait().unwrap().code();
        let log = std::fs::read_to_string(self.bundle.path().join("log")).unwrap();
        assert_eq!((code, log.as_str()), (Some(0), ""), "{words:?}");
    }

    fn hears(&self) -> String {
        self.host.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let mut bytes = [0; 4096];
        let length = self.host.recv(&mut bytes).unwrap();
        String::from_utf8_lossy(&bytes[..length]).into_owned()
    }

    fn hears_no_more(&self) {
        self.host.set_nonblocking(true).unwrap();
        assert!(self.host.recv(&mut [0; 1]).is_err());
    }
}

fn can_run() -> bool {
    let there = PathBuf::from("/usr/bin/perl").exists();
    if !there {
        println!("skipped: saying that a service is ready needs /usr/bin/perl (perl-base)");
    }
    is_root() && there
}

#[test]
fn a_detached_run_ends_when_the_container_is_ready_and_its_init_stands_for_it() {
    if !can_run() {
        return;
    }
    let service = Service::new(&format!("sleep 0.3; {SAY}; exec sleep 100"));
    let begun = Instant::now();
    let mut run = service.spawn(&["run", "-d", "ID"]);
    assert_eq!(service.hears(), "READY=1\n");
    assert!(begun.elapsed() > Duration::from_millis(300));
    assert_eq!(service.hears(), format!("MAINPID={}\n", service.bundle.pid()));
    assert!(run.try_wait().unwrap().is_none(), "it waits until this was read");
    assert_eq!(service.hears(), "BARRIER=1");
    assert!(run.wait().unwrap().success());
    assert_eq!(service.bundle.status(), "running");
    service.hears_no_more();
}

#[test]
fn a_start_waits_for_the_container_and_a_create_does_not() {
    if !can_run() {
        return;
    }
    let service = Service::with_abstract_name(&format!("{SAY}; exec sleep 100"));
    service.runs(&["create", "ID"]);
    let mut start = service.spawn(&["start", "ID"]);
    assert_eq!(service.hears(), "READY=1\n");
    assert_eq!(service.hears(), format!("MAINPID={}\n", service.bundle.pid()));
    assert_eq!(service.hears(), "BARRIER=1");
    assert!(start.wait().unwrap().success());
    assert_eq!(service.bundle.status(), "running");
}

#[test]
fn a_run_in_the_foreground_stands_for_the_container_itself() {
    if !can_run() {
        return;
    }
    let service = Service::new(&format!("{SAY}; {SAY}; exit 7"));
    let mut run = service.spawn(&["run", "ID"]);
    assert_eq!(service.hears(), "READY=1\n");
    assert_eq!(service.hears(), format!("MAINPID={}\n", run.id()));
    assert_eq!(run.wait().unwrap().code(), Some(7));
    service.hears_no_more();
}

#[test]
fn one_that_ends_without_a_word_keeps_nobody_waiting() {
    if !can_run() {
        return;
    }
    let service = Service::new("test -S $NOTIFY_SOCKET && ! touch /run/notify/x 2>/dev/null && exec true");
    service.runs(&["run", "-d", "ID"]);
    service.bundle.wait_for("stopped");
    service.hears_no_more();
}

#[test]
fn who_cannot_be_told_does_not_keep_the_container_from_running() {
    if !can_run() {
        return;
    }
    let mut service = Service::new("exec true");
    service.name = "/nosuch/notify".into();
    let code = service.spawn(&["run", "ID"]).wait().unwrap().code();
    let log = std::fs::read_to_string(service.bundle.path().join("log")).unwrap();
    assert_eq!(code, Some(0), "{log}");
    assert!(log.contains("warning: connecting to /nosuch/notify (NOTIFY_SOCKET)"), "{log}");
}

#[test]
fn without_notify_socket_there_is_none() {
    if !is_root() {
        return;
    }
    let mut bundle = Bundle::new("echo ${NOTIFY_SOCKET-none}; ls -d /run/notify 2>/dev/null");
    bundle.spec["process"]["env"] = json!(["PATH=/bin"]);
    bundle.write();
    let output = bundle.command(&["run", &bundle.id]).env_remove("NOTIFY_SOCKET").output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "none\n");
}
