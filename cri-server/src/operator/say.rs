//! What the command has to say, on standard output.

use std::io::{self, Write as _};

use super::Error;

/// Says all of it, or ends quietly when nobody listens any more, as `berth status | head -1` does.
pub(super) fn say(text: &str) -> Result<(), Error> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(Error::NobodyListens),
        said => said.map_err(|source| Error::Io { what: "writing to standard output".to_owned(), source }),
    }
}
