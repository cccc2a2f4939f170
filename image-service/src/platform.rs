//! Platforms (`linux/arm64/v8`): the host's own, and the choice of one entry of an index for it.
//!
//! The choice follows containers/image and containerd: the host's own variant first, then the older
//! ones it can run, then entries that name no variant, then (amd64 only) 386, and last an entry that
//! names no platform at all. Among equals one marked as zstd wins, then the first.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::manifest::Descriptor;

/// OCI image-spec, image-index.md, `platform`. Windows' `os.version` and `os.features` say nothing here.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Platform {
    #[serde(default)]
    pub os: String,
    #[serde(default)]
    pub architecture: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
}

/// The text is not `os/architecture[/variant]`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a platform like linux/arm64/v8")]
pub struct InvalidPlatform(String);

/// containers/image writes this beside instances whose layers are zstd.
const ZSTD_MARK: &str = "io.github.containers.compression.zstd";

impl Platform {
    /// What this program was built for, in the words of GOARCH.
    pub fn host() -> Platform {
        let (architecture, variant) = match std::env::consts::ARCH {
            "x86_64" => ("amd64", None),
            "x86" => ("386", None),
            "aarch64" => ("arm64", Some("v8")),
            "arm" => ("arm", Some("v7")),
            "powerpc64" if cfg!(target_endian = "little") => ("ppc64le", None),
            "loongarch64" => ("loong64", None),
            other => (other, None),
        };
        Platform {
            os: "linux".to_owned(),
            architecture: architecture.to_owned(),
            variant: variant.map(str::to_owned),
        }
    }

    pub fn parse(text: &str) -> Result<Platform, InvalidPlatform> {
        let parts: Vec<&str> = text.split('/').collect();
        let plain = |part: &str| {
            !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
        };
        if !(2..=3).contains(&parts.len()) || !parts.iter().all(|part| plain(part)) {
            return Err(InvalidPlatform(text.to_owned()));
        }
        Ok(Platform {
            os: parts[0].to_owned(),
            architecture: parts[1].to_owned(),
            variant: parts.get(2).map(|variant| (*variant).to_owned()),
        })
    }

    /// Whether an image made for `other` runs here.
    pub fn runs(&self, other: &Platform) -> bool {
        self.rank(other).is_some()
    }

    /// The entry of an index to use here, if any.
    pub fn choose<'a>(&self, entries: &'a [Descriptor]) -> Option<&'a Descriptor> {
        let rank = |entry: &Descriptor| match &entry.platform {
            Some(platform) => self.rank(platform),
            None => Some(usize::MAX),
        };
        let plain = |entry: &Descriptor| entry.annotations.get(ZSTD_MARK).is_none_or(|mark| mark != "true");
        entries
            .iter()
            .filter_map(|entry| rank(entry).map(|rank| ((rank, plain(entry)), entry)))
            .min_by_key(|(key, _)| *key)
            .map(|(_, entry)| entry)
    }

    fn rank(&self, other: &Platform) -> Option<usize> {
        if self.os != other.os {
            return None;
        }
        let variant = other.variant.as_deref().unwrap_or_default();
        self.accepted().iter().position(|(arch, v)| *arch == other.architecture && *v == variant)
    }

    /// Every (architecture, variant) that runs here, the best first.
    fn accepted(&self) -> Vec<(&str, &str)> {
        let own = self.architecture.as_str();
        let variant = self.variant.as_deref().unwrap_or_default();
        match own {
            "amd64" => vec![(own, variant), (own, ""), (own, "v1"), ("386", "")],
            "arm64" => {
                let mut list = vec![(own, variant), (own, "v8"), (own, "")];
                list.extend(arm_variants("v8"));
                list
            }
            "arm" => arm_variants(if variant.is_empty() { "v7" } else { variant }),
            _ => vec![(own, variant), (own, "")],
        }
    }
}

fn arm_variants(newest: &str) -> Vec<(&'static str, &'static str)> {
    const VARIANTS: [&str; 4] = ["v8", "v7", "v6", "v5"];
    let first = VARIANTS.iter().position(|variant| *variant == newest).unwrap_or(VARIANTS.len());
    VARIANTS[first..].iter().copied().chain([""]).map(|variant| ("arm", variant)).collect()
}

impl Default for Platform {
    fn default() -> Platform {
        Platform::host()
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}/{}", self.os, self.architecture)?;
        match &self.variant {
            Some(variant) => write!(out, "/{variant}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Digest;

    fn entry(platform: &str, n: u8) -> Descriptor {
        let mut descriptor =
            Descriptor::new("application/vnd.oci.image.manifest.v1+json", Digest::sha256(&[n]), 1);
        descriptor.platform = (platform != "-").then(|| Platform::parse(platform).unwrap());
        descriptor
    }

    /// The host, the platforms of the index in order, and which is taken.
    fn check(host: &str, index: &[&str], taken: Option<usize>) {
        let host = Platform::parse(host).unwrap();
        let entries: Vec<_> = index.iter().enumerate().map(|(n, p)| entry(p, n as u8)).collect();
        let chosen = host.choose(&entries).map(|e| entries.iter().position(|o| o == e).unwrap());
        assert_eq!(chosen, taken, "{host} among {index:?}");
    }

    #[test]
    fn the_nearest_platform_is_taken() {
        check("linux/amd64", &["linux/arm64", "linux/amd64"], Some(1));
        check("linux/amd64", &["linux/amd64", "linux/amd64"], Some(0));
        check("linux/amd64", &["windows/amd64"], None);
        check("linux/amd64", &["linux/386", "linux/amd64"], Some(1));
        check("linux/amd64", &["linux/arm64", "linux/386"], Some(1));
        check("linux/amd64", &["linux/amd64/v3", "linux/amd64"], Some(1));
        check("linux/amd64", &["linux/amd64/v3"], None);
        check("linux/amd64/v3", &["linux/amd64", "linux/amd64/v3"], Some(1));
        check("linux/amd64", &["-", "linux/amd64"], Some(1));
        check("linux/amd64", &["linux/s390x", "-"], Some(1));
        check("linux/amd64", &["unknown/unknown", "linux/amd64"], Some(1));
        check("linux/amd64", &[], None);
        check("linux/arm64/v8", &["linux/arm64", "linux/arm64/v8"], Some(1));
        check("linux/arm64/v8", &["linux/arm/v7", "linux/arm64"], Some(1));
        check("linux/arm64/v8", &["linux/arm/v6", "linux/arm/v7"], Some(1));
        check("linux/arm64", &["linux/arm64/v8"], Some(0));
        check("linux/arm/v6", &["linux/arm/v7", "linux/arm/v5", "linux/arm/v6"], Some(2));
        check("linux/arm/v6", &["linux/arm/v7"], None);
        check("linux/arm/v7", &["linux/arm"], Some(0));
        check("linux/s390x", &["linux/amd64", "linux/s390x"], Some(1));
    }

    #[test]
    fn among_equals_the_zstd_one_is_taken() {
        let plain = entry("linux/amd64", 1);
        let mut zstd = entry("linux/amd64", 2);
        zstd.annotations.insert(ZSTD_MARK.to_owned(), "true".to_owned());
        let entries = [plain, zstd];
        assert_eq!(Platform::parse("linux/amd64").unwrap().choose(&entries), Some(&entries[1]));
    }

    #[test]
    fn a_platform_is_two_or_three_plain_words() {
        assert_eq!(Platform::parse("linux/arm64/v8").unwrap().to_string(), "linux/arm64/v8");
        for bad in ["", "linux", "linux/", "/amd64", "linux/amd64/", "linux/a/b/c", "linux/am d64"] {
            assert!(Platform::parse(bad).is_err(), "{bad:?} passed");
        }
        assert_eq!(Platform::host().os, "linux");
    }
}
