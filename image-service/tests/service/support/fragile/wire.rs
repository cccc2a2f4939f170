//! As much of FUSE (`linux/fuse.h`) as a loop device asks for: one directory of files that are read, written and
//! flushed. Numbers are the machine's own, here little-endian.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::time::Duration;

use rustix::mount::MountFlags;

use super::medium::Media;

const LOOKUP: u32 = 1;
const FORGET: u32 = 2;
const GETATTR: u32 = 3;
const SETATTR: u32 = 4;
const OPEN: u32 = 14;
const READ: u32 = 15;
const WRITE: u32 = 16;
const RELEASE: u32 = 18;
const FSYNC: u32 = 20;
const FLUSH: u32 = 25;
const INIT: u32 = 26;
const INTERRUPT: u32 = 36;
const DESTROY: u32 = 38;
const BATCH_FORGET: u32 = 42;

const ENOENT: i32 = -2;
const ENOSYS: i32 = -38;

const HEADER_BYTES: usize = 40;
/// Of READ and WRITE, before the data.
const INPUT_BYTES: usize = 40;
const MAX_WRITE: u32 = 1 << 20;
/// `FUSE_BIG_WRITES` and `FUSE_MAX_PAGES`.
const FLAGS: u32 = 1 << 5 | 1 << 22;
/// Each write comes at once: no cache of the host's lies before the one that we play.
const FOPEN_DIRECT_IO: u32 = 1;
/// What a disk that spins takes for it: long enough for the power to fail before it is done.
const FLUSH_TAKES: Duration = Duration::from_millis(25);
/// The file that is the directory; disk 0 is none, so that numbers of disks and of files are the same but for one.
const ROOT: u64 = 1;

pub(super) fn mount(at: &Path) -> File {
    let connection = File::options().read(true).write(true).open("/dev/fuse").unwrap();
    let options = format!("fd={},rootmode=40000,user_id=0,group_id=0", connection.as_raw_fd());
    let options = std::ffi::CString::new(options).unwrap();
    rustix::mount::mount("berth-test", at, "fuse", MountFlags::NOSUID | MountFlags::NODEV, &*options)
        .unwrap();
    connection
}

/// Until the file system is unmounted.
pub(super) fn serve(mut connection: &File, media: &Media) {
    let mut request = vec![0; MAX_WRITE as usize + 4096];
    loop {
        let read = match connection.read(&mut request) {
            Ok(read) => read,
            // What asked was interrupted before it was heard.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(_) => return,
        };
        let request = Request(&request[..read]);
        let answer = match request.opcode() {
            FORGET | BATCH_FORGET | INTERRUPT => continue,
            _ => answer(&request, media),
        };
        let (error, body) = answer.map_or_else(|error| (error, Vec::new()), |body| (0, body));
        let mut bytes = Vec::with_capacity(16 + body.len());
        bytes.extend((16 + body.len() as u32).to_le_bytes());
        bytes.extend(error.to_le_bytes());
        bytes.extend(request.unique().to_le_bytes());
        bytes.extend(body);
        // Whoever asked may be gone.
        _ = connection.write(&bytes);
    }
}

fn answer(request: &Request<'_>, media: &Media) -> Result<Vec<u8>, i32> {
    let disk = request.node() - ROOT;
    let input = request.input();
    match request.opcode() {
        INIT => Ok(init()),
        LOOKUP => {
            let name = input.split(|byte| *byte == 0).next().unwrap_or_default();
            let disk = std::str::from_utf8(name).ok().and_then(|name| name.parse::<u64>().ok());
            let disk = disk.filter(|disk| media.bytes(*disk).is_some()).ok_or(ENOENT)?;
            // Its number, and no generation; kept for a second, and its attributes for none.
            let entry = [words(&[disk + ROOT, 0, 1, 0]), vec![0; 8]].concat();
            Ok([entry, attributes(disk, media)].concat())
        }
        // A file that is made longer or shorter is neither.
        GETATTR | SETATTR => Ok([words(&[0, 0]), attributes(disk, media)].concat()),
        OPEN => Ok([&words(&[0])[..], &FOPEN_DIRECT_IO.to_le_bytes(), &[0; 4]].concat()),
        READ => Ok(media.read(disk, request.long(8), request.word(16) as usize)),
        WRITE => {
            let length = request.word(16);
            media.write(disk, request.long(8), &input[INPUT_BYTES..][..length as usize]);
            Ok(words(&[u64::from(length)]))
        }
        FSYNC => {
            std::thread::sleep(FLUSH_TAKES);
            media.flush(disk);
            Ok(Vec::new())
        }
        FLUSH | RELEASE | DESTROY => Ok(Vec::new()),
        _ => Err(ENOSYS),
    }
}

fn init() -> Vec<u8> {
    let mut answer = Vec::new();
    // The version, how far is read ahead, what we can do.
    for word in [7, 31, 0, FLAGS] {
        answer.extend(u32::to_le_bytes(word));
    }
    // Requests in the background: so many, and from when on there are too many.
    answer.extend([16, 0, 12, 0]);
    for word in [MAX_WRITE, 1, MAX_WRITE / 4096] {
        answer.extend(word.to_le_bytes());
    }
    answer.resize(64, 0);
    answer
}

/// `struct fuse_attr`.
fn attributes(disk: u64, media: &Media) -> Vec<u8> {
    let (mode, bytes): (u32, u64) = match media.bytes(disk) {
        Some(bytes) => (0o100600, bytes),
        None => (0o040700, 0),
    };
    let mut answer = words(&[disk + ROOT, bytes, bytes / 512, 0, 0, 0]);
    // After three fractions of seconds.
    for word in [0, 0, 0, mode, 1, 0, 0, 0, 4096, 0] {
        answer.extend(word.to_le_bytes());
    }
    answer
}

fn words(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

struct Request<'a>(&'a [u8]);

impl<'a> Request<'a> {
    fn opcode(&self) -> u32 {
        u32::from_le_bytes(self.0[4..8].try_into().unwrap())
    }

    fn unique(&self) -> u64 {
        u64::from_le_bytes(self.0[8..16].try_into().unwrap())
    }

    fn node(&self) -> u64 {
        u64::from_le_bytes(self.0[16..24].try_into().unwrap()).max(ROOT)
    }

    fn input(&self) -> &'a [u8] {
        &self.0[HEADER_BYTES..]
    }

    fn long(&self, at: usize) -> u64 {
        u64::from_le_bytes(self.input()[at..at + 8].try_into().unwrap())
    }

    fn word(&self, at: usize) -> u32 {
        u32::from_le_bytes(self.input()[at..at + 4].try_into().unwrap())
    }
}
