//! Reads what people write by hand: whole, or not at all.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

/// # Errors
/// Whatever opening and reading say, and `FileTooLarge` above `max_bytes`.
pub(crate) fn read(path: &Path, max_bytes: u64) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    File::open(path)?.take(max_bytes + 1).read_to_end(&mut text)?;
    if text.len() as u64 > max_bytes {
        let why = format!("it is larger than {max_bytes} bytes");
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, why));
    }
    Ok(text)
}
