//! What is mounted: a directory or file of the host, or a file system.

use std::ffi::CString;
use std::path::Path;

use kernel::{Depth, clone_flags as flag, mount_attr as attr};

use super::super::Namespaces;
use super::super::namespaces::{Maps, check_map, map};
use super::super::path::{c_path, c_string};
use super::words::Words;
use super::{Content, Idmap, Source};
use crate::{Error, spec};

pub(super) fn bind(
    field: &str,
    mount: &spec::Mount,
    bundle: &Path,
    depth: Depth,
    words: &Words,
    namespaces: &Namespaces,
) -> Result<Source, Error> {
    let Some(source) = mount.source.as_ref().filter(|source| !source.as_os_str().is_empty()) else {
        return Err(Error::invalid(format!("{field}.source"), "is required for a bind mount"));
    };
    c_path(&format!("{field}.source"), source)?;
    if words.copy_up {
        return Err(Error::invalid(format!("{field}.options"), "tmpcopyup is for a tmpfs"));
    }
    let path = bundle.join(source);
    Ok(Source::Bind { path, depth, idmap: idmap(field, mount, words, namespaces)? })
}

fn idmap(
    field: &str,
    mount: &spec::Mount,
    words: &Words,
    namespaces: &Namespaces,
) -> Result<Option<Idmap>, Error> {
    let maps = maps(field, mount)?;
    if maps.is_none() && words.idmap.is_none() {
        return Ok(None);
    }
    if maps.is_none() && !namespaces.has(flag::NEWUSER) {
        return Err(Error::invalid(format!("{field}.options"), "idmap needs mappings or a user namespace"));
    }
    Ok(Some(Idmap { maps, depth: words.idmap.unwrap_or(Depth::One) }))
}

/// A mount's own maps (config.md, POSIX-platform Mounts).
fn maps(field: &str, mount: &spec::Mount) -> Result<Option<Maps>, Error> {
    let uids = format!("{field}.uidMappings");
    if mount.uid_mappings.is_empty() != mount.gid_mappings.is_empty() {
        return Err(Error::invalid(uids, "needs gidMappings beside it, and they it"));
    }
    check_map(&uids, &mount.uid_mappings)?;
    check_map(&format!("{field}.gidMappings"), &mount.gid_mappings)?;
    let maps = || Maps { uids: map(&mount.uid_mappings), gids: map(&mount.gid_mappings) };
    Ok((!mount.uid_mappings.is_empty()).then(maps))
}

/// The container's own cgroups are there already.
pub(super) fn cgroup(field: &str, mount: &spec::Mount, words: &Words) -> Result<Source, Error> {
    if words.is_shifted(mount) || words.copy_up {
        let reason = "cgroups are neither mapped nor filled";
        return Err(Error::invalid(format!("{field}.options"), reason));
    }
    Ok(Source::Cgroup)
}

pub(super) fn file_system(
    field: &str,
    mount: &spec::Mount,
    kind: &str,
    words: &Words,
) -> Result<Source, Error> {
    let idmap = match maps(field, mount)? {
        None if words.idmap.is_some() => {
            let reason =
                "idmap needs uidMappings and gidMappings: a new file system has the container's ids already";
            return Err(Error::invalid(format!("{field}.options"), reason));
        }
        maps => maps,
    };
    let source_field = format!("{field}.source");
    let mut options = Vec::with_capacity(words.data.len() + 1);
    if let Some(source) = &mount.source {
        options.push((c"source".to_owned(), Some(c_path(&source_field, source)?)));
    }
    for word in &words.data {
        match word.strip_prefix("lowerdir=").filter(|dirs| kind == "overlay" && is_long(dirs)) {
            Some(dirs) => options.extend(layers(field, dirs)?),
            None => options.push(option(field, word)?),
        }
    }
    let content = match words.copy_up {
        true if kind != "tmpfs" => {
            return Err(Error::invalid(format!("{field}.options"), "tmpcopyup is for a tmpfs"));
        }
        true => Content::Copied,
        false => Content::Own,
    };
    Ok(Source::Fs { kind: c_string(&format!("{field}.type"), kind)?, options, content, idmap })
}

/// mount(8), FILESYSTEM-INDEPENDENT MOUNT OPTIONS: with `bind` the mount alone changes. What is not said stays.
pub(super) fn remount(field: &str, mount: &spec::Mount, words: &Words) -> Result<Source, Error> {
    if words.is_shifted(mount) || words.copy_up {
        return Err(Error::invalid(
            format!("{field}.options"),
            "remount makes nothing that could be mapped or filled",
        ));
    }
    if words.bind.is_some() {
        return Ok(Source::Remount { options: None });
    }
    let mut options = words.data.iter().map(|word| option(field, word)).collect::<Result<Vec<_>, _>>()?;
    let readonly = [(words.attr.set, c"ro"), (words.attr.clear, c"rw")];
    options.extend(
        readonly
            .iter()
            .filter(|(bits, _)| bits & attr::RDONLY != 0)
            .map(|(_, word)| ((*word).to_owned(), None)),
    );
    Ok(Source::Remount { options: Some(options) })
}

/// fsconfig(2) takes no string of more than 255 bytes. A list with escapes or data layers means more than its parts.
fn is_long(dirs: &str) -> bool {
    dirs.len() > 255 && !dirs.contains('\\') && !dirs.contains("::")
}

/// Layers one by one (Linux 6.7).
fn layers(field: &str, dirs: &str) -> Result<Vec<(CString, Option<CString>)>, Error> {
    let field = format!("{field}.options");
    dirs.split(':').map(|dir| Ok((c"lowerdir+".to_owned(), Some(c_string(&field, dir)?)))).collect()
}

fn option(field: &str, word: &str) -> Result<(CString, Option<CString>), Error> {
    let field = format!("{field}.options");
    match word.split_once('=') {
        Some((key, value)) => Ok((c_string(&field, key)?, Some(c_string(&field, value)?))),
        None => Ok((c_string(&field, word)?, None)),
    }
}
