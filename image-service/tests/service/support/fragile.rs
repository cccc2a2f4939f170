//! Disks that lose what was not flushed when their power is cut: files of a FUSE file system, which is served by a
//! process of its own. Below a loop device each is a block device with a volatile cache, whose flush is an fsync here.
//!
//! A cut makes a second disk of what the first had at that moment: all that was flushed, and of the rest nothing, some,
//! or all, write by write and in no order, as a real disk's cache would leave it. The first goes on, so nothing but the
//! cut itself decides what is lost.
//!
//! The process is this program told to run [`serve`] and nothing else: should it and the file systems above be of one
//! process, that one's end would wait for itself.

mod medium;
mod wire;

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

pub(crate) use medium::{Random, Unflushed};

/// Where the process is to mount its files.
const AT: &str = "BERTH_TEST_FRAGILE_AT";

/// The process that has the disks, and what it is told by.
pub(crate) struct Disks {
    at: PathBuf,
    process: Child,
    orders: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
    made: u64,
}

/// What a cut did: writes that were not flushed, and how many of them are not there.
pub(crate) struct Lost {
    pub(crate) unflushed: u64,
    pub(crate) lost: u64,
}

impl Disks {
    /// `server`: the test that calls [`serve`].
    pub(crate) fn start(server: &str, at: &Path) -> Disks {
        std::fs::create_dir_all(at).unwrap();
        let mut process = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", server, "--ignored", "--nocapture", "--test-threads=1"])
            .env(AT, at)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (orders, answers) = (process.stdin.take(), BufReader::new(process.stdout.take().unwrap()));
        let mut disks = Disks { at: at.to_owned(), process, orders, answers, made: 0 };
        disks.answer();
        disks
    }

    /// A new disk of zeros, and the file that it is.
    pub(crate) fn make(&mut self, bytes: u64) -> (u64, PathBuf) {
        self.made += 1;
        self.order(&format!("make {} {bytes}", self.made));
        (self.made, self.file(self.made))
    }

    /// What the power's end leaves of a disk.
    pub(crate) fn cut(&mut self, disk: u64, unflushed: Unflushed, seed: u64) -> (u64, Lost) {
        self.made += 1;
        let told = self.order(&format!("cut {disk} {} {} {seed}", self.made, unflushed.word()));
        let mut numbers = told.iter().map(|word| word.parse().unwrap());
        (self.made, Lost { unflushed: numbers.next().unwrap(), lost: numbers.next().unwrap() })
    }

    /// How many writes a cut could take now.
    pub(crate) fn unflushed(&mut self, disk: u64) -> u64 {
        self.order(&format!("unflushed {disk}"))[0].parse().unwrap()
    }

    pub(crate) fn file(&self, disk: u64) -> PathBuf {
        self.at.join(disk.to_string())
    }

    /// Gives back its memory; whoever has it open reads zeros.
    pub(crate) fn forget(&mut self, disk: u64) {
        self.order(&format!("forget {disk}"));
    }

    fn order(&mut self, line: &str) -> Vec<String> {
        writeln!(self.orders.as_mut().unwrap(), "{line}").unwrap();
        self.answer()
    }

    /// The test's own runner talks on the same line.
    fn answer(&mut self) -> Vec<String> {
        let mut line = String::new();
        loop {
            line.clear();
            assert!(self.answers.read_line(&mut line).unwrap() > 0, "the process of the disks has ended");
            if let Some((_, answer)) = line.split_once("disks:") {
                return answer.split_whitespace().map(str::to_owned).collect();
            }
        }
    }
}

impl Drop for Disks {
    /// With its orders' end the process unmounts and goes; what still waits for a disk gets an I/O error.
    fn drop(&mut self) {
        drop(self.orders.take());
        _ = self.process.wait();
    }
}

/// The process itself: serves until nobody gives orders any more.
pub(crate) fn serve() {
    let Some(at) = std::env::var_os(AT).map(PathBuf::from) else { return };
    let media = medium::Media::default();
    let connection = wire::mount(&at);
    let served = media.clone();
    std::thread::spawn(move || wire::serve(&connection, &served));
    println!("disks: ready");
    for line in std::io::stdin().lines() {
        let line = line.unwrap();
        let words: Vec<&str> = line.split_whitespace().collect();
        let number = |at: usize| words[at].parse::<u64>().unwrap();
        match words[0] {
            "make" => media.make(number(1), number(2)),
            "forget" => media.forget(number(1)),
            "cut" => {
                let lost = media.cut(number(1), number(2), Unflushed::of(words[3]), number(4));
                println!("disks: {} {}", lost.unflushed, lost.lost);
                continue;
            }
            "unflushed" => {
                println!("disks: {}", media.unflushed(number(1)));
                continue;
            }
            other => panic!("{other} is no order"),
        }
        println!("disks: done");
    }
    _ = rustix::mount::unmount(&at, rustix::mount::UnmountFlags::DETACH);
    // Whoever serves still waits for requests: with the process its connection ends, and all who wait on it are told.
    std::process::exit(0);
}
