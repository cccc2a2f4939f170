//! Reads what people write by hand. A file that is too long is refused, never cut: the half of it that is read may mean
//! something else.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

/// The whole file, which must be UTF-8.
///
/// # Errors
/// Whatever opening and reading say, and `FileTooLarge` above `max_bytes`.
pub(crate) fn read_text(path: &Path, max_bytes: u64) -> io::Result<String> {
    let mut text = String::new();
    let mut file = File::open(path)?.take(max_bytes + 1);
    let read = file.read_to_string(&mut text);
    if file.limit() == 0 {
        let why = format!("it is larger than {max_bytes} bytes");
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, why));
    }
    read.map(|_| text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_whole_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let read = |max_bytes| read_text(&path, max_bytes).map_err(|error| (error.kind(), error.to_string()));
        assert_eq!(read(4).unwrap_err().0, io::ErrorKind::NotFound);
        std::fs::write(&path, "for\u{e9}").unwrap();
        assert_eq!(read(5).as_deref(), Ok("for\u{e9}"));
        // Also where the cut goes through a character.
        for max_bytes in [4, 3] {
            let why = format!("it is larger than {max_bytes} bytes");
            assert_eq!(read(max_bytes).unwrap_err(), (io::ErrorKind::FileTooLarge, why));
        }
        std::fs::write(&path, [0xff]).unwrap();
        assert_eq!(read(4).unwrap_err().0, io::ErrorKind::InvalidData);
    }
}
