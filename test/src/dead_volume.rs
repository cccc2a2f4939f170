//! A volume whose server is away: a FUSE file system that takes every request and answers none. Whoever asks it anything
//! is kept by the kernel, SIGKILL or not, until it is taken away.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

/// linux/fuse.h.
const FUSE_INIT: u32 = 26;
const IN_HEADER: usize = 40;
/// No request that is not a write is longer (FUSE_MIN_READ_BUFFER).
const MAX_REQUEST: usize = 128 << 10;

/// Mounted until it is dropped.
#[derive(Debug)]
pub struct DeadVolume {
    /// Made and removed with it; nothing else is in it.
    path: PathBuf,
    server: Option<std::thread::JoinHandle<()>>,
}

impl DeadVolume {
    /// Mounts one in a directory of its own: whoever removed a directory above it would be kept as well.
    ///
    /// # Errors
    /// Without root or without FUSE.
    pub fn mount() -> std::io::Result<DeadVolume> {
        let path = &tempfile::Builder::new().prefix("berth-dead-").tempdir()?.keep();
        let device = File::options().read(true).write(true).open("/dev/fuse")?;
        let options = format!("fd={},rootmode=40000,user_id=0,group_id=0", device.as_raw_fd());
        let options = std::ffi::CString::new(options)?;
        mount("dead", path, "fuse", MountFlags::NOSUID | MountFlags::NODEV, options.as_c_str())?;
        let server = std::thread::spawn(move || serve(device));
        Ok(DeadVolume { path: path.into(), server: Some(server) })
    }

    /// The root of it.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for DeadVolume {
    fn drop(&mut self) {
        // Force ends the connection: whoever was kept is told ECONNABORTED, or dies of its SIGKILL.
        let _ = unmount(&self.path, UnmountFlags::FORCE | UnmountFlags::DETACH);
        let _ = self.server.take().map(std::thread::JoinHandle::join);
        let _ = std::fs::remove_dir(&self.path);
    }
}

fn serve(mut device: File) {
    let mut request = vec![0; MAX_REQUEST];
    while let Ok(length) = device.read(&mut request) {
        let number =
            |at: usize| u32::from_ne_bytes([request[at], request[at + 1], request[at + 2], request[at + 3]]);
        if length >= IN_HEADER && number(4) == FUSE_INIT && device.write_all(&init_answer(&request)).is_err()
        {
            return;
        }
    }
}

/// `fuse_out_header`, and `fuse_init_out` of version 7.31 with nothing asked for.
fn init_answer(request: &[u8]) -> Vec<u8> {
    let mut answer = Vec::new();
    answer.extend_from_slice(&80_u32.to_ne_bytes());
    answer.extend_from_slice(&0_i32.to_ne_bytes());
    answer.extend_from_slice(&request[8..16]);
    for number in [7_u32, 31, 0, 0, 0, 4096, 1] {
        answer.extend_from_slice(&number.to_ne_bytes());
    }
    answer.resize(80, 0);
    answer
}
