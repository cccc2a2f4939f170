//! Lazy pages: a restored container runs before its memory is there, and the checkpoint serves it page by page.

use std::fs;
use std::io::Read as _;
use std::process::{Child, Command, Stdio};

use serde_json::json;

use super::{COUNTING, Killed, Lab, NOT_YET_AGAIN};
use crate::bundle::{Said, wait_until};

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
        let mut command = Command::new("sh");
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
    let mut fetcher = Command::new(&lab.criu);
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
