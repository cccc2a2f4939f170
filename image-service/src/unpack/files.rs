//! The regular files of an archive that nobody vouches for, for who takes some of them and wants no tree: with the same
//! bounds on names, extensions and sizes as a layer has.

use std::fs::File;
use std::io::{self, BufRead, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use rustix::io::Errno;

use super::archive::Archive;
use super::decrypt::Packed;
use super::entry::Kind;
use super::stream::{Diff, Inflater, Source};
use super::{Error, Limits, error};
use crate::digest::Algorithm;

/// Asks for each regular file, by its name within the archive, where its content goes; `None` passes it over. What else
/// there is, links and devices and directories, is passed over as well.
///
/// # Errors
/// When the archive is damaged, too large or wants out, or a file that was given can't be written.
pub fn files(
    source: impl BufRead,
    limits: Limits,
    mut take: impl FnMut(&Path) -> io::Result<Option<File>>,
) -> Result<(), Error> {
    let algorithm = Algorithm::Sha256;
    let packed = Packed::new(Source::new(source, algorithm), None);
    let inflater = Inflater::new(packed).map_err(Error::Stream)?;
    let mut archive = Archive::new(Diff::new(inflater, algorithm, limits), limits.entries);
    while let Some(entry) = archive.next_entry()? {
        let Kind::File { .. } = entry.kind else { continue };
        let failed = |error: io::Error| Error::Step {
            entry: error::shown(&entry.path),
            step: "writing",
            errno: Errno::from_io_error(&error).unwrap_or(Errno::IO),
        };
        let path = Path::new(std::ffi::OsStr::from_bytes(&entry.path));
        if let Some(mut file) = take(path).map_err(failed)? {
            archive.content(&entry.path, |bytes| file.write_all(bytes).map_err(failed))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::unpack::Refusal;
    use tar::EntryType;

    fn header(name: &str, kind: EntryType, size: u64) -> tar::Header {
        let mut header = tar::Header::new_gnu();
        header.set_path(name).unwrap();
        header.set_entry_type(kind);
        header.set_size(size);
        header.set_mode(0o600);
        header.set_cksum();
        header
    }

    fn read(bytes: &[u8]) -> (Vec<(String, String)>, Result<(), Error>) {
        let dir = tempfile::tempdir().unwrap();
        let mut names = Vec::new();
        let done = files(bytes, Limits::new(1 << 20), |path| {
            let name = path.display().to_string();
            if name == "passed/over" {
                return Ok(None);
            }
            let file = File::create_new(dir.path().join(names.len().to_string()))?;
            names.push(name);
            Ok(Some(file))
        });
        let text = |at: usize| std::fs::read_to_string(dir.path().join(at.to_string())).unwrap();
        (names.iter().enumerate().map(|(at, name)| (name.clone(), text(at))).collect(), done)
    }

    #[test]
    fn what_is_taken_is_written_and_the_rest_is_passed_over() {
        let mut tar = tar::Builder::new(Vec::new());
        for (name, text) in [("one", "1"), ("passed/over", "2"), (&*"long/".repeat(40), "3")] {
            let name = format!("{name}{}", if name.ends_with('/') { "end" } else { "" });
            let mut header = header("x", EntryType::Regular, text.len() as u64);
            tar.append_data(&mut header, name, text.as_bytes()).unwrap();
        }
        tar.append(&header("folder/", EntryType::Directory, 0), io::empty()).unwrap();
        let (read, done) = read(&tar.into_inner().unwrap());
        done.unwrap();
        let long = format!("{}end", "long/".repeat(40));
        assert_eq!(read, [("one".into(), "1".into()), (long, "3".into())]);
    }

    /// Told to be a terabyte, as a sparse file could have it at no cost.
    #[test]
    fn a_name_or_an_extension_without_end_is_refused_before_it_is_read() {
        for (kind, why) in [
            (EntryType::GNULongName, Refusal::LongName),
            (EntryType::GNULongLink, Refusal::LongName),
            (EntryType::XHeader, Refusal::LargeExtension),
            (EntryType::XGlobalHeader, Refusal::LargeExtension),
        ] {
            let endless = header("x", kind, 1 << 40);
            let source = io::Read::chain(&endless.as_bytes()[..], io::repeat(0));
            let limits = Limits::new(1 << 20);
            let refused = files(io::BufReader::new(source), limits, |_| Ok(None)).unwrap_err();
            assert!(matches!(refused, Error::Refused { why: found, .. } if found == why), "{refused}");
        }
    }
}
