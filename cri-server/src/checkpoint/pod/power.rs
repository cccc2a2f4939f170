//! The power fails right after a pod's checkpoint was acknowledged: what the disk holds then is taken as it is, as in
//! `image-service/tests/service/power.rs`. Needs root and mkfs.xfs (xfsprogs), whose file system clones a disk at one moment.

use std::fs::{self, File};

use super::restore::read;
use super::tests::dump;
use super::{Begun, begin, put_in_place};
use crate::checkpoint::partial;

#[path = "../../../../image-service/tests/service/support/disk.rs"]
#[allow(dead_code, reason = "its other users need more of it")]
mod disk;

use disk::Disk;

#[test]
fn an_acknowledged_checkpoint_is_whole_after_a_power_cut_and_no_start_removes_it() {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: mounting needs root");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let _clones = Disk::make("xfs", 512 << 20, &at("xfs"), &at("clones"));
    let clone = |name: &str, cut: &str| {
        let (from, to) =
            (File::open(at("clones").join(name)).unwrap(), at("clones").join(format!("{name}.{cut}")));
        rustix::fs::ioctl_ficlone(File::create(&to).unwrap(), &from).unwrap();
        Disk::mount(&to, &at(&format!("{name}.{cut}")))
    };
    let places = Disk::make("ext4", 64 << 20, &at("clones/places"), &at("places"));
    let roots = Disk::make("ext4", 64 << 20, &at("clones/roots"), &at("roots"));
    let output = places.root.join("output");
    let pages = b"memory".repeat(100_000);

    let Begun { partial, dirs, .. } = begin(&roots.root, &output, &["a".into()]).unwrap();
    fs::write(dirs[0].join("pages-1.img"), &pages).unwrap();
    let (begun, begun_roots) = (clone("places", "begun"), clone("roots", "begun"));
    let left = partial::left(&begun_roots.root);
    assert_eq!(left.len(), 1, "what is begun is noted before it is there");
    drop((begun, begun_roots));

    put_in_place(partial, &output, &dump(&["a"])).unwrap();
    let (cut, cut_roots) = (clone("places", "done"), clone("roots", "done"));
    let output = cut.root.join("output");
    assert_eq!(read(&output).unwrap(), dump(&["a"]));
    assert!(fs::read(output.join("containers/a/pages-1.img")).unwrap() == pages, "it is cut");
    assert!(partial::left(&cut_roots.root).is_empty(), "the next start would remove it");
}
