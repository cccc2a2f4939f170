//! monitor.log: where a monitor says what it could not say to anybody else. Bounded, and never in the way.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};

use crate::clock;

/// One monitor.log, and one older; a monitor has little to say, and a pod's directory is on a tmpfs.
const MAX_BYTES: u64 = 64 << 10;

#[derive(Debug)]
pub(crate) struct Journal {
    path: PathBuf,
}

impl Journal {
    pub(crate) fn open(pod_dir: &Path) -> Journal {
        Journal { path: pod_dir.join("monitor.log") }
    }

    /// Writes one line. The file is opened for each: a healthy monitor holds no descriptor for it.
    pub(crate) fn note(&self, text: &str) {
        // Nobody is left to hear of a failure here.
        let _ = self.append(text);
    }

    fn append(&self, text: &str) -> std::io::Result<()> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::APPEND | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let mut file = File::from(rustix::fs::open(&self.path, flags, Mode::from_raw_mode(0o600))?);
        if file.metadata()?.len() > MAX_BYTES {
            std::fs::rename(&self.path, self.path.with_extension("log.old"))?;
            file = File::from(rustix::fs::open(&self.path, flags, Mode::from_raw_mode(0o600))?);
        }
        let mut line = Vec::with_capacity(text.len() + 40);
        line.extend_from_slice(&clock::rfc3339(clock::now_ns()));
        line.push(b' ');
        line.extend(text.bytes().map(|byte| if byte == b'\n' { b' ' } else { byte }));
        line.push(b'\n');
        file.write_all(&line)
    }

    /// Takes the files away; gone already is fine.
    pub(crate) fn remove(&self) {
        let _ = std::fs::remove_file(&self.path);
        let _ = std::fs::remove_file(self.path.with_extension("log.old"));
    }
}
