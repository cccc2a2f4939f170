//! Reading JSON files of a bundle, and writing pid files.

use std::fs::{self, File, Metadata};
use std::io::{self, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use runtime::spec::{self, Namespace, NamespaceKind, Spec};
use rustix::process::{getegid, geteuid};
use serde::de::DeserializeOwned;

use super::Error;

/// The bundle's absolute path and its configuration.
pub(crate) fn load(bundle: &Path) -> Result<(PathBuf, Spec), Error> {
    let at = |e| Error::io("opening the bundle", bundle.display().to_string(), e);
    let bundle = std::path::absolute(bundle).map_err(at)?;
    let path = bundle.join("config.json");
    let at = |e| Error::io("reading", path.display().to_string(), e);
    let mut file = File::open(&path).map_err(at)?;
    let config = file.metadata().map_err(at)?;
    let bytes = runtime::read_whole(&mut file).map_err(at)?;
    refuse_anothers("config.json of ", &bundle, config.uid())?;
    if geteuid().is_root() {
        refuse_writable("config.json of ", &bundle, &config)?;
    }
    let spec = spec::parse(&bytes).map_err(|source| Error::Json { path, source })?;
    if geteuid().is_root() {
        refuse_anothers_directory(&bundle, &spec)?;
    }
    Ok((bundle, spec))
}

/// Whoever owns it can put another configuration there, and so can those whom its mode lets write. podman gives the
/// bundle of a container with ids of its own to that container's root: the configuration names that one, or joins the
/// user namespace whose root it is.
fn refuse_anothers_directory(bundle: &Path, spec: &Spec) -> Result<(), Error> {
    let dir = fs::metadata(bundle)
        .map_err(|e| Error::io("looking at the bundle", bundle.display().to_string(), e))?;
    let is_its_roots = spec.linux.as_ref().is_some_and(|linux| {
        let joins = |one: &Namespace| one.kind == NamespaceKind::User && one.path.is_some();
        linux.uid_mappings.iter().any(|map| map.container_id == 0 && map.host_id == dir.uid())
            || linux.namespaces.iter().any(joins)
    });
    if !is_its_roots {
        refuse_anothers("the bundle directory ", bundle, dir.uid())?;
    }
    // In a sticky one everybody has only what is their own.
    if dir.mode() & 0o1000 != 0 { Ok(()) } else { refuse_writable("the bundle directory ", bundle, &dir) }
}

/// Its hooks run with our rights, so whoever can write the configuration has them: root and we may, nobody else.
fn refuse_anothers(what: &str, bundle: &Path, owner: u32) -> Result<(), Error> {
    if owner == 0 || owner == geteuid().as_raw() {
        return Ok(());
    }
    Err(refusal(&format!("{what}{} belongs to user {owner}", bundle.display()), "chown it to root"))
}

fn refuse_writable(what: &str, bundle: &Path, file: &Metadata) -> Result<(), Error> {
    let is_our_group = file.gid() == 0 || file.gid() == getegid().as_raw();
    let who = match file.mode() {
        mode if mode & 0o002 != 0 => "everybody".to_owned(),
        mode if mode & 0o020 != 0 && !is_our_group => format!("group {}", file.gid()),
        _ => return Ok(()),
    };
    Err(refusal(&format!("{who} may write to {what}{}", bundle.display()), "chmod go-w it"))
}

fn refusal(why: &str, next: &str) -> Error {
    Error::Usage(format!(
        "{why}, and its hooks would run with our rights (OCI bundle.md, Filesystem Bundle): {next}"
    ))
}

pub(crate) fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T, Error> {
    let bytes = fs::read(path).map_err(|e| Error::io("reading", path.display().to_string(), e))?;
    spec::parse(&bytes).map_err(|source| Error::Json { path: path.to_owned(), source })
}

/// By rename: whoever waits for the file finds it whole.
pub(crate) fn write_pid(path: &Path, pid: i32) -> Result<(), Error> {
    let at = |e| Error::io("writing", path.display().to_string(), e);
    let mut name = std::ffi::OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    let new = path.with_file_name(name);
    let create = || File::options().write(true).create_new(true).open(&new);
    let mut file = match create() {
        // Somebody's who died half-way, or a link that was laid for us: in either case not what we write to.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            fs::remove_file(&new).and_then(|()| create()).map_err(at)?
        }
        other => other.map_err(at)?,
    };
    file.write_all(pid.to_string().as_bytes()).map_err(at)?;
    fs::rename(&new, path).map_err(at)
}

/// Where the bundle's configuration says that the root file system is; empty when it cannot be read any more.
pub(crate) fn rootfs(bundle: &Path) -> PathBuf {
    let spec: Option<Spec> = read_json(&bundle.join("config.json")).ok();
    spec.and_then(|spec| spec.root).map_or_else(PathBuf::new, |root| bundle.join(root.path))
}
