//! Lazy pages: a restored container runs before its memory is there, and the checkpoint serves it page by page.

use std::fs;
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use serde_json::json;

use super::{COUNTING, Killed, Lab, NOT_YET_AGAIN};
use crate::bundle::{Bundle, Said, is_root, wait_until};

/// What serves a container's memory, and the container that is restored of it under another name: the first is deleted
/// only when all pages are fetched.
struct Lazy<'a> {
    lab: &'a Lab,
    id: String,
    server: Child,
}

/// linux/capability.h.
const CAP_SYS_RESOURCE: u32 = 24;

fn has_capability(number: u32) -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:\t")).unwrap();
    u64::from_str_radix(effective, 16).unwrap() & 1 << number != 0
}

/// Of no other test.
const PORT: &str = "27027";

/// A program that does not outlive this test, though it be killed (util-linux).
fn ends_with_us(program: &str) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--", program]);
    command
}

impl Lazy<'_> {
    /// Once criu says that it serves; `Err` with its words when it can't.
    fn serve(lab: &Lab) -> Result<Lazy<'_>, String> {
        let images = lab.images();
        let server = format!("127.0.0.1:{PORT}");
        let words = ["checkpoint", "--image-path", images.to_str().unwrap(), "--lazy-pages", "--page-server"];
        let dump = lab.command(&[&words[..], &[&server, "--status-fd", "7", "ID"]].concat());
        let log = lab.bundle.path().join("checkpoint.log");
        let (mut pipe, theirs) = std::io::pipe().unwrap();
        // Descriptor 7 is what the shell makes of its standard input.
        let mut command = ends_with_us("sh");
        command
            .args(["-c", "exec \"$@\" 7>&0 < /dev/null", "sh"])
            .arg(dump.get_program())
            .args(dump.get_args());
        command.stdin(theirs).stdout(Stdio::null());
        command.stderr(fs::File::create(&log).unwrap()).current_dir(lab.bundle.path());
        let mut server = command.spawn().unwrap();
        drop(command);
        let mut word = [9; 1];
        if pipe.read(&mut word).unwrap() == 0 {
            assert!(!server.wait().unwrap().success());
            return Err(fs::read_to_string(&log).unwrap());
        }
        assert_eq!(word, [0]);
        Ok(Lazy { lab, id: format!("{}-again", lab.bundle.id), server })
    }

    fn say(&self, words: &[&str]) -> Said {
        self.lab.bundle.say(&[words, &[&self.id]].concat())
    }
}

impl Drop for Lazy<'_> {
    fn drop(&mut self) {
        self.say(&["delete", "--force"]);
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

#[test]
fn memory_comes_when_it_is_needed() {
    let Some(mut lab) = Lab::new(COUNTING) else { return };
    if !has_capability(CAP_SYS_RESOURCE) {
        println!(
            "skipped: criu makes larger pipes than root may here, for want of CAP_SYS_RESOURCE (cargo xtask vm)"
        );
        return;
    }
    lab.run();
    lab.wait_until_it_counts();
    // The record of the first one has what it needs of this.
    lab.bundle.spec["linux"]["cgroupsPath"] = json!(format!("/{}-again", lab.bundle.id));
    let mut lazy = match Lazy::serve(&lab) {
        Ok(lazy) => lazy,
        Err(said) => {
            assert!(said.contains("lazy pages"), "{said}");
            println!("skipped: {}", said.trim());
            return;
        }
    };
    let (before, images) = (lab.count(), lab.images());
    let mut fetcher = ends_with_us(&lab.criu);
    fetcher.args(["lazy-pages", "--page-server", "--address", "127.0.0.1", "--port", PORT, "-D"]);
    let mut fetcher =
        Killed(fetcher.arg(&images).stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap());
    wait_until(|| images.join("lazy-pages.socket").exists(), "a daemon that listens");
    lab.bundle.write();
    let words = ["restore", "-d", "--lazy-pages", "--image-path", images.to_str().unwrap(), &lazy.id];
    lab.detached(&words).ok();
    wait_until(|| lab.count() > before, "counting on");
    assert!(lab.count() < before + NOT_YET_AGAIN);
    assert!(lazy.server.wait().unwrap().success());
    assert!(fetcher.0.wait().unwrap().success());
    assert_eq!(lab.bundle.status(), "none", "the first one is deleted");
    assert!(lazy.say(&["state"]).ok().contains("\"running\""));
}

/// Set where this program is started as criu.
const AS_CRIU: &str = "BERTH_TEST_AS_CRIU";
/// What it leaves running as the container's.
const RESTORED: &str = "600.86421";

/// A criu that answers all questions and, asked to restore, makes a process and waits for ever, as the real one does when
/// nobody serves the memory. Its socket is our standard input.
#[test]
fn as_criu() {
    if std::env::var_os(AS_CRIU).is_none() {
        return;
    }
    let socket = rustix::stdio::stdin();
    let mut request = [0; 4096];
    rustix::net::recv(socket, &mut request[..], rustix::net::RecvFlags::empty()).unwrap();
    // The first field is the kind of request; an answer has it too, and success.
    let answer: &[u8] = match request[1] {
        10 => &[8, 10, 16, 1, 0x52, 4, 8, 4, 16, 0],
        9 => &[8, 9, 16, 1, 0x42, 2, 16, 1],
        2 => {
            Command::new("sleep").arg(RESTORED).stdin(Stdio::null()).status().unwrap();
            return;
        }
        other => panic!("request {other}"),
    };
    rustix::net::send(socket, answer, rustix::net::SendFlags::empty()).unwrap();
}

#[test]
fn a_restore_that_waits_in_vain_for_its_memory_is_given_up_and_leaves_nothing() {
    if !is_root() {
        return;
    }
    let bundle = Bundle::new(COUNTING);
    bundle.write();
    let criu = bundle.path().join("criu");
    let test = std::env::current_exe().unwrap();
    let script = format!(
        "#!/bin/bash\n{AS_CRIU}=1 exec {} --exact checkpoint::lazy::as_criu --nocapture 0<&$2 >/dev/null\n",
        test.display()
    );
    fs::write(&criu, script).unwrap();
    fs::set_permissions(&criu, fs::Permissions::from_mode(0o755)).unwrap();
    let begun = Instant::now();
    let words =
        ["--criu", criu.to_str().unwrap(), "restore", "-d", "--lazy-pages", "--image-path", "images", "ID"];
    bundle.say(&words).refused(&["criu", "said nothing for 20 s and was killed", "criu lazy-pages"]);
    assert!((20..30).contains(&begun.elapsed().as_secs()), "{:?}", begun.elapsed());
    assert_eq!(bundle.status(), "none");
    assert_eq!(bundle.leftovers(), Vec::<String>::new());
    let restored = fs::read_dir("/proc").unwrap().flatten().any(|entry| {
        let said = fs::read_to_string(entry.path().join("cmdline")).unwrap_or_default();
        said.contains(RESTORED)
    });
    assert!(!restored, "a process of it lives on");
}
