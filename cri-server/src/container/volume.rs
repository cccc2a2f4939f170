//! Images as volumes of a container: each mounted read-only below the container's directory, from where the runtime,
//! whichever it is, binds it to its place.
//!
//! ```text
//! containers/<cid>/images/<index of the mount>
//! ```
//! In a pod with users of its own its files belong to those, when the mount has the pod's ID maps: as in the root file
//! system it is the layers that are shifted, since the kernel shifts no overlay.
//! A sub path is found inside the image alone, whatever links it has there, and it is all that stays mounted.

use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use image_service::{Image, RootfsPlan};
use proto::v1;
use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags, fstat, openat2};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags,
    fsconfig_create, fsconfig_set_string, fsmount, fsopen, move_mount, open_tree, unmount,
};

use super::make::Order;
use super::plan::{images_dir, is_mapped};
use super::trust;
use crate::error::{Error, chain};
use crate::node::Node;
use crate::store::Record;

/// What mount(2) takes for all options together, where the kernel does not take layers one by one (before 6.8).
const OPTIONS_MAX: usize = 4095;
/// What holds the layers of a volume for a container is named for both.
const HELD: &str = "-image-";

/// The images that the names of a container's volumes mean now, by the index of the mount; none where the mount is of
/// the host.
///
/// # Errors
/// When one is not on the node, or the policy does not let it be used.
pub async fn images(node: &Node, order: &Order) -> Result<Vec<Option<Arc<Image>>>, Error> {
    let mut images = Vec::with_capacity(order.config.mounts.len());
    for mount in &order.config.mounts {
        let Some(spec) = asked(mount) else {
            images.push(None);
            continue;
        };
        let missing = || Error::ImageVolume {
            image: spec.image.clone(),
            why: "it is not on this node; pull it first".into(),
        };
        let image = node.images.find(&spec.image).ok_or_else(missing)?;
        trust::judge(node, order, &image, spec).await?;
        images.push(Some(image));
    }
    Ok(images)
}

/// Mounts what the order wants of its `images`. `label`: SELinux, of all files in them.
///
/// # Errors
/// When an image is gone from the node, or has no such sub path.
pub async fn mount(
    node: &Node,
    order: &Order,
    images: &[Option<Arc<Image>>],
    container_dir: &Path,
    label: Option<&str>,
) -> Result<(), Error> {
    for (index, (mount, image)) in order.config.mounts.iter().zip(images).enumerate() {
        let Some(image) = image else { continue };
        let name = asked(mount).map_or(&image.id, |spec| &spec.image);
        let failed = |why: String| Error::ImageVolume { image: name.clone(), why };
        let target = images_dir(container_dir).join(index.to_string());
        note(&target).map_err(|error| failed(chain(&error)))?;
        let layers = node.images.make_writable(&held(&order.id, index), image).await?;
        let userns = order.sandbox.plan.pod.pod_dir.join("ns/user");
        let userns = Some(userns).filter(|_| is_mapped(mount));
        let shown = Shown { layers, label: label.map(str::to_owned), userns };
        let sub_path = mount.image_sub_path.clone();
        let mounting = tokio::task::spawn_blocking(move || mount_one(&shown, &target, &sub_path));
        mounting.await.map_err(|_| Error::Stopping)?.map_err(|error| failed(chain(&error)))?;
    }
    Ok(())
}

/// Before anything is held for it: what is held is found again by what is in the directory of images.
fn note(target: &Path) -> Result<(), Failed> {
    let whole = target.with_extension(&WHOLE[1..]);
    fs::create_dir_all(&whole).map_err(|error| Failed::Make(whole, error))
}

/// None where the mount is of the host.
fn asked(mount: &v1::Mount) -> Option<&v1::ImageSpec> {
    mount.image.as_ref().filter(|image| !image.image.is_empty())
}

/// Takes all of a container's volumes away. Safe from any point, and twice.
///
/// # Errors
/// Tells what is still there.
pub async fn unmount_all(node: &Node, record: &Record, container_id: &str) -> Result<(), Error> {
    let dir = images_dir(record.dir());
    let Ok(entries) = fs::read_dir(&dir) else { return Ok(()) };
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let index = [WHOLE, SHIFTED].iter().find_map(|end| name.strip_suffix(end)).unwrap_or(&name);
        let failed = |error| Error::io(format!("unmounting {}", entry.path().display()), error);
        detach(&entry.path()).map_err(failed)?;
        node.images.unmake_writable(&format!("{container_id}{HELD}{index}")).await?;
    }
    Ok(())
}

/// The container for which a hold of layers is.
pub fn owner(held: &str) -> &str {
    held.split_once(HELD).map_or(held, |(owner, _)| owner)
}

fn held(container_id: &str, index: usize) -> String {
    format!("{container_id}{HELD}{index}")
}

/// The image as a whole, for the moment in which its sub path is looked for.
const WHOLE: &str = ".whole";
/// Its layers with other owners, until they are mounted together.
const SHIFTED: &str = ".shifted";

#[derive(Debug, thiserror::Error)]
enum Failed {
    #[error("the image has no {0}")]
    NoSubPath(String),
    #[error("the sub path {0} is neither a directory nor a file")]
    Special(String),
    #[error("its {0} layers need a kernel that takes them one by one (Linux 6.8)")]
    TooManyLayers(usize),
    #[error("{doing}")]
    Kernel { doing: &'static str, source: std::io::Error },
    #[error("making {}", .0.display())]
    Make(PathBuf, #[source] std::io::Error),
}

impl Failed {
    fn kernel(doing: &'static str) -> impl Fn(Errno) -> Failed {
        move |errno| Failed::Kernel { doing, source: errno.into() }
    }
}

/// An image, and how it is to look.
#[derive(Clone)]
struct Shown {
    layers: RootfsPlan,
    /// SELinux, of all of it.
    label: Option<String>,
    /// The users that its files belong to, as the host's.
    userns: Option<PathBuf>,
}

fn mount_one(shown: &Shown, target: &Path, sub_path: &str) -> Result<(), Failed> {
    let Some(userns) = &shown.userns else { return mount_part(shown, target, sub_path) };
    let place = target.with_extension(&SHIFTED[1..]);
    fs::create_dir_all(&place).map_err(|error| Failed::Make(place.clone(), error))?;
    let shifting = |source| Failed::Kernel { doing: "shifting the owners of the image's files", source };
    let mounted = image_service::shift(&shown.layers, userns, &place)
        .map_err(shifting)
        .and_then(|layers| mount_part(&Shown { layers, userns: None, ..shown.clone() }, target, sub_path));
    // The mount has its own of them.
    let detached =
        detach(&place).map_err(|source| Failed::Kernel { doing: "unmounting the image's layers", source });
    mounted.and(detached)
}

fn mount_part(shown: &Shown, target: &Path, sub_path: &str) -> Result<(), Failed> {
    let make = |path: &Path| fs::create_dir_all(path).map_err(|error| Failed::Make(path.into(), error));
    if sub_path.is_empty() {
        make(target)?;
        return overlay(shown, target);
    }
    let whole = target.with_extension(&WHOLE[1..]);
    make(&whole)?;
    overlay(shown, &whole)?;
    let found = part(&whole, sub_path).and_then(|(tree, kind)| {
        match kind {
            FileType::Directory => make(target)?,
            _ => drop(fs::File::create(target).map_err(|error| Failed::Make(target.into(), error))?),
        }
        attach(&tree, target).map_err(Failed::kernel("mounting the sub path"))
    });
    let detached = detach(&whole).map_err(|source| Failed::Kernel { doing: "unmounting the image", source });
    found.and(detached)
}

/// A mount of the sub path alone, and what is there.
fn part(whole: &Path, sub_path: &str) -> Result<(OwnedFd, FileType), Failed> {
    let open = Failed::kernel("opening the image");
    let root = rustix::fs::open(whole, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .map_err(&open)?;
    let inside = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let found = match openat2(&root, sub_path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), inside) {
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Err(Failed::NoSubPath(sub_path.to_owned())),
        found => found.map_err(&open),
    }?;
    let kind = FileType::from_raw_mode(fstat(&found).map_err(&open)?.st_mode);
    if !matches!(kind, FileType::Directory | FileType::RegularFile) {
        return Err(Failed::Special(sub_path.to_owned()));
    }
    let clone =
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    Ok((open_tree(&found, "", clone).map_err(Failed::kernel("taking the sub path"))?, kind))
}

fn attach(tree: impl AsFd, target: &Path) -> rustix::io::Result<()> {
    move_mount(tree, "", CWD, target, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
}

/// Read-only, as image volumes are defined (KEP-4639).
fn overlay(shown: &Shown, target: &Path) -> Result<(), Failed> {
    match detached_overlay(shown) {
        Ok(mount) => attach(mount, target).map_err(Failed::kernel("mounting the image")),
        Err(Errno::INVAL | Errno::NOSYS) => older_overlay(shown, target),
        Err(errno) => Err(Failed::kernel("mounting the image")(errno)),
    }
}

fn detached_overlay(Shown { layers, label, .. }: &Shown) -> rustix::io::Result<OwnedFd> {
    let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    let context = context.as_fd();
    fsconfig_set_string(context, "source", "overlay")?;
    for layer in &layers.lower {
        fsconfig_set_string(context, "lowerdir+", layer)?;
    }
    // Without an upper directory an overlay of one layer is none to the kernel.
    fsconfig_set_string(context, "upperdir", &layers.upper)?;
    fsconfig_set_string(context, "workdir", &layers.work)?;
    if let Some(label) = label {
        fsconfig_set_string(context, "context", label.as_str())?;
    }
    fsconfig_create(context)?;
    let sealed = MountAttrFlags::MOUNT_ATTR_RDONLY
        | MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV;
    fsmount(context, FsMountFlags::FSMOUNT_CLOEXEC, sealed)
}

fn older_overlay(Shown { layers, label, .. }: &Shown, target: &Path) -> Result<(), Failed> {
    let lower: Vec<String> = layers.lower.iter().map(|path| path.display().to_string()).collect();
    let label = label.as_ref().map_or_else(String::new, |label| format!(",context=\"{label}\""));
    let options = format!(
        "lowerdir={},upperdir={},workdir={}{label}",
        lower.join(":"),
        layers.upper.display(),
        layers.work.display()
    );
    if options.len() > OPTIONS_MAX {
        return Err(Failed::TooManyLayers(lower.len()));
    }
    let flags = MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV;
    let options = std::ffi::CString::new(options).map_err(|_| Failed::TooManyLayers(lower.len()))?;
    rustix::mount::mount("overlay", target, "overlay", flags, Some(options.as_c_str()))
        .map_err(Failed::kernel("mounting the image"))
}

/// All that is mounted here; nothing mounted, and nothing there, is done.
fn detach(path: &Path) -> std::io::Result<()> {
    loop {
        match unmount(path, UnmountFlags::DETACH) {
            Ok(()) => {}
            Err(Errno::INVAL | Errno::NOENT) => return Ok(()),
            Err(errno) => return Err(errno.into()),
        }
    }
}
