//! ASCII armour (RFC 9580, 6.2), as `gpg --export --armor` writes it.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;

const BEGIN: &str = "-----BEGIN PGP PUBLIC KEY BLOCK-----";

/// The bytes of all blocks; Some(None) when the file is not armoured, None when the armour is damaged.
pub(super) fn open(bytes: &[u8]) -> Option<Option<Vec<u8>>> {
    // A packet's first byte has its highest bit set, so binary keys are no text.
    let Some(text) = std::str::from_utf8(bytes).ok().filter(|text| text.contains(BEGIN)) else {
        return Some(None);
    };
    let mut all = Vec::new();
    for block in text.split(BEGIN).skip(1) {
        all.extend(decode(block)?);
    }
    Some(Some(all))
}

fn decode(block: &str) -> Option<Vec<u8>> {
    // Headers end at the first blank line; the checksum begins with `=` and adds nothing to a trusted file.
    let lines = block.lines().map(str::trim).skip(1).skip_while(|line| !line.is_empty());
    let data: String = lines
        .take_while(|line| !line.starts_with("-----END"))
        .filter(|line| !line.starts_with('='))
        .collect();
    BASE64.decode(data).ok()
}
