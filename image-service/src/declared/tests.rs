//! Volumes in layers made by hand: what is there afterwards, and whose it is.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown, symlink};

use rustix::fs::{CWD, FileType, makedev, mknodat, setxattr};

use super::*;
use crate::unpack::tree::OPAQUE;

/// Two layers and a writable one; `None` for those who may not give files away.
fn layers() -> Option<(tempfile::TempDir, RootfsPlan)> {
    if !rustix::process::geteuid().is_root() {
        return None;
    }
    let dir = tempfile::tempdir().unwrap();
    let [top, bottom, upper] = ["top", "bottom", "upper"].map(|name| dir.path().join(name));
    for path in
        [top.join("srv/data/new"), bottom.join("srv/data/old/deep"), bottom.join("var"), upper.clone()]
    {
        fs::create_dir_all(path).unwrap();
    }
    let plan = RootfsPlan { lower: vec![top, bottom], upper, work: dir.path().join("work") };
    Some((dir, plan))
}

fn owners() -> Owners {
    let range = vec![IdRange { image: 0, disk: 100_000, length: 65_536 }];
    Owners { uid: 101_000, gid: 102_000, uids: range.clone(), gids: range }
}

fn made(plan: &RootfsPlan, path: &str, owners: &Owners) -> Result<(), Error> {
    each(plan, &[path.to_owned()], |layers, path, _| make(layers, plan, path, owners))
}

fn told(path: &Path) -> (u32, u32, u32) {
    let found = fs::symlink_metadata(path).unwrap();
    (found.uid(), found.gid(), found.mode() & 0o7777)
}

#[test]
fn what_an_image_lacks_is_made_and_the_way_to_it_looks_as_before() {
    let Some((_dir, plan)) = layers() else { return };
    let var = plan.lower[1].join("var");
    chown(&var, Some(7), Some(8)).unwrap();
    fs::set_permissions(&var, fs::Permissions::from_mode(0o2750)).unwrap();
    setxattr(&var, "user.note", b"kept", XattrFlags::empty()).unwrap();
    made(&plan, "/var/lib/x/", &owners()).unwrap();
    assert_eq!(told(&plan.upper.join("var")), (100_007, 100_008, 0o2750));
    let mut value = [0; 4];
    rustix::fs::getxattr(plan.upper.join("var"), "user.note", &mut value[..]).unwrap();
    assert_eq!(&value, b"kept");
    assert_eq!(told(&plan.upper.join("var/lib")), (101_000, 102_000, 0o755));
    assert_eq!(told(&plan.upper.join("var/lib/x")), (101_000, 102_000, 0o755));
    made(&plan, "var/lib/x", &Owners::default()).unwrap();
    assert_eq!(told(&plan.upper.join("var/lib/x")), (101_000, 102_000, 0o755), "it is there already");
    made(&plan, "/srv/data/old", &owners()).unwrap();
    assert!(!plan.upper.join("srv").exists(), "the image has it");
}

#[test]
fn what_a_restored_container_had_taken_away_stays_away() {
    let Some((_dir, plan)) = layers() else { return };
    let gone = plan.upper.join("srv");
    mknodat(CWD, &gone, FileType::CharacterDevice, Mode::empty(), makedev(0, 0)).unwrap();
    made(&plan, "/srv/data", &owners()).unwrap();
    assert!(!gone.is_dir());
}

#[test]
fn a_way_stays_inside_of_the_layers() {
    let Some((dir, plan)) = layers() else { return };
    symlink(dir.path(), plan.lower[0].join("out")).unwrap();
    symlink("../../../../../..", plan.lower[0].join("up")).unwrap();
    symlink("loop", plan.lower[0].join("loop")).unwrap();
    fs::write(plan.lower[0].join("file"), "").unwrap();
    made(&plan, "/out/a", &owners()).unwrap();
    made(&plan, "/up/b", &owners()).unwrap();
    made(&plan, "/../../c/d/../e", &owners()).unwrap();
    assert!(!dir.path().join("a").exists() && !dir.path().join("b").exists());
    let inside = plan.upper.join(dir.path().strip_prefix("/").unwrap()).join("a");
    assert!(inside.is_dir() && plan.upper.join("b").is_dir() && plan.upper.join("c/e").is_dir());
    let why = |path: &str| made(&plan, path, &owners()).unwrap_err().to_string();
    assert!(why("/loop/x").contains("too many"), "{}", why("/loop/x"));
    assert!(why("/file").contains("/file") && why("/file/x").contains("no directory"), "{}", why("/file/x"));
}

#[test]
fn a_path_that_the_kernel_would_not_take_is_refused() {
    let Some((_dir, plan)) = layers() else { return };
    let refused = made(&plan, &"/d".repeat(1 << 20), &owners()).unwrap_err().to_string();
    assert!(refused.contains("2097152 bytes") && refused.len() < 500, "{refused:.500}");
    assert!(!plan.upper.join("d").exists());
    made(&plan, &"/d".repeat(1000), &owners()).unwrap();
    // What is said of the disk names a place on it.
    let refused = made(&plan, &format!("/{}", "n".repeat(300)), &owners()).unwrap_err().to_string();
    assert!(refused.contains(plan.upper.to_str().unwrap()), "{refused}");
    let trash = open_root(plan.upper.parent().unwrap()).unwrap();
    crate::unpack::remove::tree_at(trash.as_fd(), b"upper").unwrap();
}

#[test]
fn a_copy_is_what_all_layers_show_together() {
    let Some((dir, plan)) = layers() else { return };
    let [top, bottom] = [&plan.lower[0], &plan.lower[1]].map(|layer| layer.join("srv/data"));
    fs::write(bottom.join("old/deep/kept"), "kept").unwrap();
    fs::write(bottom.join("gone"), "gone").unwrap();
    fs::write(bottom.join("new"), "a file that a directory hides").unwrap();
    mknodat(CWD, top.join("gone"), FileType::CharacterDevice, Mode::empty(), makedev(0, 0)).unwrap();
    fs::create_dir(bottom.join("opaque")).unwrap();
    fs::write(bottom.join("opaque/hidden"), "").unwrap();
    fs::create_dir(top.join("opaque")).unwrap();
    setxattr(top.join("opaque"), OPAQUE, b"y", XattrFlags::empty()).unwrap();
    fs::write(top.join("new/program"), "text").unwrap();
    chown(top.join("new/program"), Some(5), Some(6)).unwrap();
    fs::set_permissions(top.join("new/program"), fs::Permissions::from_mode(0o4711)).unwrap();
    symlink("/etc/shadow", top.join("way")).unwrap();
    chown(&top, Some(9), None).unwrap();
    let target = dir.path().join("copy");
    let copied = |path: &str, target: &Path| {
        each(&plan, &[path.to_owned()], |layers, path, _| copy(layers, path, target, &Owners::default()))
    };
    copied("/srv/data", &target).unwrap();
    assert_eq!(told(&target), (9, 0, 0o755));
    assert_eq!(told(&target.join("new/program")), (5, 6, 0o4711));
    assert_eq!(fs::read_to_string(target.join("old/deep/kept")).unwrap(), "kept");
    assert_eq!(fs::read_link(target.join("way")).unwrap(), Path::new("/etc/shadow"));
    assert!(!target.join("gone").exists() && !target.join("opaque/hidden").exists());
    assert!(target.join("opaque").is_dir());
    let fresh = dir.path().join("fresh");
    copied("/nothing/there", &fresh).unwrap();
    assert_eq!(told(&fresh), (0, 0, 0o755));
}
