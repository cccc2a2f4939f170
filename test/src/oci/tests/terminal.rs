//! config.md, "Process": terminal and consoleSize; config-linux.md: /dev/console.

use std::io::{BufRead as _, BufReader};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;

use anyhow::{Context as _, Result};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use serde_json::{Value, json};

use super::super::bundle::Bundle;
use super::super::verdict::{is, same, that};
use super::super::{Test, must};

const PROCESS: &str = "config.md#process";

pub(crate) fn tests() -> Vec<Test> {
    vec![
        must(PROCESS, "terminal: false is none", |lab| {
            let report = lab.bundle()?.set("/process/terminal", false).report()?;
            is("a terminal", &report["terminal"], false)
        }),
        must(PROCESS, "terminal: true is one on all three streams", |lab| {
            let report = on_terminal(&mut lab.bundle()?)?;
            is("a terminal", &report["terminal"], true)?;
            let name = report["terminal_name"].as_str().unwrap_or_default();
            that(name.starts_with("/dev/pts/"), || format!("it is {name:?}"))?;
            for fd in ["0", "1", "2"] {
                same("a stream", report["fds"][fd].as_str(), Some(name))?;
            }
            Ok(())
        }),
        must(PROCESS, "consoleSize is the terminal's", |lab| {
            let mut bundle = lab.bundle()?;
            bundle.set("/process/consoleSize", json!({"height": 33, "width": 111}));
            is("size", &on_terminal(&mut bundle)?["terminal_size"], json!([33, 111]))
        }),
        must(PROCESS, "consoleSize without a terminal is ignored", |lab| {
            let mut bundle = lab.bundle()?;
            bundle.set("/process/consoleSize", json!({"height": 33, "width": 111}));
            is("size", &bundle.report()?["terminal_size"], Value::Null)
        }),
        must("config-linux.md#default-devices", "/dev/console is the terminal", |lab| {
            let report = on_terminal(&mut lab.bundle()?)?;
            let mounted = |mount: &&Value| mount["target"] == "/dev/console" && mount["type"] == "devpts";
            let mount = report["mounts"].as_array().and_then(|mounts| mounts.iter().find(mounted));
            that(mount.is_some(), || "no devpts file is mounted there".into())?;
            is("kind", &report["dev"]["console"]["kind"], "c")
        }),
        must("config-linux.md#default-devices", "without a terminal there is no /dev/console", |lab| {
            is("/dev/console", &lab.bundle()?.report()?["dev"]["console"], Value::Null)
        }),
        must(PROCESS, "a terminal belongs to the user of the process", |lab| {
            let mut bundle = lab.bundle()?;
            bundle.set("/process/user", json!({"uid": 1000, "gid": 1000}));
            bundle.tries(&["stat:/dev/pts/0"]);
            let report = on_terminal(&mut bundle)?;
            let stat = report["tries"]["stat:/dev/pts/0"].as_str().unwrap_or_default();
            that(stat.contains("\"uid\":1000"), || format!("/dev/pts/0 is {stat}"))
        }),
    ]
}

/// Runs with a terminal whose master comes over a socket, and reads the report from it.
fn on_terminal(bundle: &mut Bundle<'_>) -> Result<Value> {
    bundle.set("/process/terminal", true).write()?;
    let path = bundle.outside("console.sock");
    let listener = UnixListener::bind(&path)?;
    let said = bundle.say(&["create", "--console-socket", &path.to_string_lossy(), "ID"])?;
    anyhow::ensure!(said.is_ok(), "create: {}", said.last_words());
    let master = receive(&listener)?;
    bundle.start()?;
    let reader = BufReader::new(std::fs::File::from(master));
    let line = reader.lines().map_while(Result::ok).find(|line| line.starts_with('{'));
    let line = line.context("the terminal showed no report")?;
    serde_json::from_str(line.trim()).context("the report on the terminal")
}

fn receive(listener: &UnixListener) -> Result<OwnedFd> {
    listener.set_nonblocking(true)?;
    let (stream, _) = listener.accept().context("nobody called at the console socket")?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut bytes = [0_u8; 4096];
    let mut parts = [rustix::io::IoSliceMut::new(&mut bytes)];
    recvmsg(&stream, &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC)?;
    let mut fds = control.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(fds) => Some(fds),
        _ => None,
    });
    fds.next().and_then(|mut fds| fds.next()).context("no descriptor came")
}
