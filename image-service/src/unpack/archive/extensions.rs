//! What PAX and GNU headers say of the entry after them.

use crate::unpack::entry::Time;
use crate::unpack::error::{MAX_XATTR_NAMES, Refusal};

/// What extension headers said about the entry after them.
#[derive(Default)]
pub(super) struct Extensions {
    pub(super) path: Option<Vec<u8>>,
    pub(super) link: Option<Vec<u8>>,
    /// GNU's long name and link are heard over PAX's, as in Go.
    pub(super) gnu_path: Option<Vec<u8>>,
    pub(super) gnu_link: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    pub(super) uid: Option<u64>,
    pub(super) gid: Option<u64>,
    pub(super) mtime: Option<Time>,
    pub(super) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    pub(super) sparse: bool,
}

impl Extensions {
    /// Takes a PAX header in place of one before it, as Go does, so that headers in a row don't add up.
    /// GNU's names have headers of their own and stay.
    pub(super) fn replace_pax(&mut self, body: &[u8]) -> Result<(), Refusal> {
        let (gnu_path, gnu_link) = (self.gnu_path.take(), self.gnu_link.take());
        *self = Extensions { gnu_path, gnu_link, ..Extensions::default() };
        self.read_pax(body).ok_or(Refusal::BadExtension)?;
        let names: usize = self.xattrs.iter().map(|(name, _)| name.len() + 1).sum();
        if names > MAX_XATTR_NAMES { Err(Refusal::ManyAttributes) } else { Ok(()) }
    }

    /// Records are `LENGTH KEY=VALUE\n`. None when they are not.
    fn read_pax(&mut self, mut body: &[u8]) -> Option<()> {
        while !body.is_empty() {
            let space = body.iter().take(20).position(|b| *b == b' ')?;
            let length = usize::try_from(decimal(&body[..space])?).ok()?;
            let record = body.get(space + 1..length)?.strip_suffix(b"\n")?;
            body = &body[length..];
            let equals = record.iter().position(|b| *b == b'=')?;
            self.record(&record[..equals], &record[equals + 1..])?;
        }
        Some(())
    }

    fn record(&mut self, key: &[u8], value: &[u8]) -> Option<()> {
        if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
            self.xattrs.push((name.to_vec(), value.to_vec()));
            return Some(());
        }
        if key.starts_with(b"GNU.sparse.") {
            self.sparse = true;
        }
        // An empty value takes back what an earlier record said.
        let given = (!value.is_empty()).then_some(value);
        match key {
            b"path" => self.path = given.map(<[u8]>::to_vec),
            b"linkpath" => self.link = given.map(<[u8]>::to_vec),
            b"size" => self.size = given.map(decimal).map_or(Some(None), |n| n.map(Some))?,
            b"uid" => self.uid = given.map(decimal).map_or(Some(None), |n| n.map(Some))?,
            b"gid" => self.gid = given.map(decimal).map_or(Some(None), |n| n.map(Some))?,
            b"mtime" => self.mtime = given.map(time).map_or(Some(None), |n| n.map(Some))?,
            _ => {}
        }
        Some(())
    }
}

fn decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// `-12.5`: seconds with any number of digits after the point; nanoseconds count forward.
fn time(text: &[u8]) -> Option<Time> {
    let (negative, text) = match text.strip_prefix(b"-") {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let point = text.iter().position(|b| *b == b'.').unwrap_or(text.len());
    let seconds = i64::try_from(decimal(&text[..point])?).ok()?;
    let fraction = text.get(point + 1..).unwrap_or_default();
    if !fraction.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let digits = fraction.iter().copied().chain(std::iter::repeat(b'0')).take(9);
    let nanoseconds = digits.fold(0, |n, digit| n * 10 + u32::from(digit - b'0'));
    Some(match (negative, nanoseconds) {
        (false, nanoseconds) => Time { seconds, nanoseconds },
        (true, 0) => Time { seconds: -seconds, nanoseconds },
        (true, nanoseconds) => Time { seconds: -seconds - 1, nanoseconds: 1_000_000_000 - nanoseconds },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pax_times_keep_their_fraction() {
        let check = |text: &str, seconds, nanoseconds| {
            assert_eq!(time(text.as_bytes()), Some(Time { seconds, nanoseconds }), "{text}");
        };
        check("12", 12, 0);
        check("12.5", 12, 500_000_000);
        check("12.0000000019", 12, 1);
        check("-1.25", -2, 750_000_000);
        check("-3", -3, 0);
        for bad in ["", ".", "1.x", "x", "99999999999999999999"] {
            assert_eq!(time(bad.as_bytes()), None, "{bad}");
        }
    }

    #[test]
    fn malformed_extensions_are_no_extensions() {
        let read = |body: &[u8]| Extensions::default().read_pax(body).is_some();
        assert!(read(b"11 path=ab\n"));
        for bad in [
            &b"12 path=ab\n"[..],
            b"10 path=ab\n",
            b"path=ab\n",
            b"0 \n",
            b"3 \n",
            b"99999999999999999999999 path=ab\n",
            b"12 size=abc\n\n",
            b"9 pathab\n",
        ] {
            assert!(!read(bad), "{:?}", String::from_utf8_lossy(bad));
        }
    }
}
