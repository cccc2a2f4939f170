//! Mounts, propagation, masks, devices and the root.

use std::fs;
use std::path::Path;

use serde_json::json;

use crate::bundle::{Bundle, is_root, wait_until};

#[test]
fn file_systems_are_mounted_with_their_options() {
    if !is_root() {
        return;
    }
    let mut bundle =
        Bundle::new("mount; test -c /dev/pts/ptmx && cat /sys/fs/cgroup/*/cgroup.procs | head -1");
    bundle.mount(json!({"destination": "/deep/er/place", "type": "tmpfs", "source": "mine", "options": ["ro", "noexec", "size=1m"]}));
    bundle.mount(json!({"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue"}));
    bundle.mount(json!({"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["ro", "nosuid"]}));
    let said = bundle.run();
    let text = said.ok();
    assert!(text.contains("mine on /deep/er/place type tmpfs (ro,noexec,relatime,size=1024k"), "{text}");
    assert!(text.contains("mqueue on /dev/mqueue"), "{text}");
    for line in text.lines().filter(|line| line.contains(" on /sys/fs/cgroup")) {
        assert!(line.contains("(ro,nosuid"), "{line}");
    }
}

#[test]
fn bind_mounts_honour_read_only_and_depth() {
    if !is_root() {
        return;
    }
    let source = tempfile::tempdir().unwrap();
    fs::write(source.path().join("file"), "words").unwrap();
    let mut bundle =
        Bundle::new("cat /ro/file /rw/file /one; touch /rw/new; touch /ro/new && exit 9; exit 0");
    bundle.bind(source.path(), "/ro", &["rbind", "ro"]);
    bundle.bind(source.path(), "/rw", &["rbind", "rw"]);
    bundle.bind(&source.path().join("file"), "/one", &["bind"]);
    assert_eq!(bundle.run().ok(), "wordswordswords");
    assert!(source.path().join("new").exists());
}

#[test]
fn a_read_only_root_is_so_and_what_is_mounted_on_it_is_not() {
    if !is_root() {
        return;
    }
    let mut bundle = Bundle::new("touch /x && exit 9; touch /dev/x && echo yes");
    bundle.spec["root"]["readonly"] = json!(true);
    assert_eq!(bundle.run().ok(), "yes");
}

#[test]
fn masked_paths_are_empty_and_read_only_paths_read_only() {
    if !is_root() {
        return;
    }
    let bundle = Bundle::new(
        "wc -c < /proc/keys; ls /sys/firmware | wc -l; ls /proc/acpi | wc -l; touch /sys/firmware/x && exit 9; \
         echo 1 > /proc/sys/kernel/core_pattern && exit 8; grep -c ' /proc/keys ' /proc/self/mountinfo",
    );
    assert_eq!(bundle.run().ok(), "0\n0\n0\n1");
}

#[test]
fn all_masked_directories_share_one_tmpfs() {
    if !is_root() {
        return;
    }
    let mut bundle = Bundle::new("stat -c %d /sys/firmware /proc/acpi /proc/irq");
    bundle.spec["linux"]["maskedPaths"] = json!(["/sys/firmware", "/proc/acpi", "/proc/irq"]);
    let said = bundle.run();
    let devices: Vec<&str> = said.ok().lines().collect();
    assert!(devices.iter().all(|device| *device == devices[0]), "{devices:?}");
}

#[test]
fn default_devices_and_links_are_there() {
    if !is_root() {
        return;
    }
    let mut bundle = Bundle::new(
        "for d in null zero full random urandom tty; do stat -c '%n %t:%T %a' /dev/$d; done; \
         for l in fd stdin stdout stderr ptmx; do readlink /dev/$l; done; stat -c '%n %t:%T %a %u %F' /dev/mine; \
         echo x > /dev/null && head -c 3 /dev/zero | wc -c",
    );
    bundle.spec["linux"]["devices"] =
        json!([{"path": "/dev/mine", "type": "c", "major": 1, "minor": 5, "fileMode": 0o600, "uid": 7}]);
    bundle.spec["linux"]["resources"]["devices"] = json!([{"allow": false, "access": "rwm"}, {"allow": true, "type": "c", "major": 1, "minor": 5, "access": "rwm"}]);
    let said = bundle.run();
    let lines: Vec<&str> = said.ok().lines().collect();
    assert_eq!(lines[..2], ["/dev/null 1:3 666", "/dev/zero 1:5 666"]);
    assert_eq!(
        lines[5..11],
        [
            "/dev/tty 5:0 666",
            "/proc/self/fd",
            "/proc/self/fd/0",
            "/proc/self/fd/1",
            "/proc/self/fd/2",
            "pts/ptmx"
        ]
    );
    assert_eq!(lines[11..], ["/dev/mine 1:5 600 7 character special file", "3"]);
}

#[test]
fn a_device_that_was_not_allowed_can_be_neither_made_nor_opened() {
    if !is_root() {
        return;
    }
    let mut bundle = Bundle::new("mknod /dev/m c 1 1 && head -c 1 /dev/m && exit 9; exit 0");
    let all = json!(["CAP_MKNOD", "CAP_SYS_RAWIO", "CAP_DAC_OVERRIDE"]);
    bundle.spec["process"]["capabilities"] = json!({"bounding": all, "effective": all, "permitted": all});
    bundle.run().ok();
}

#[test]
fn a_mount_on_the_host_reaches_a_slave_and_one_in_a_shared_volume_reaches_the_host() {
    if !is_root() {
        return;
    }
    let volume = tempfile::Builder::new().prefix("berth-vol-").tempdir().unwrap();
    let path = volume.path();
    let shared = SharedMount::make(path);
    fs::create_dir(path.join("from-host")).unwrap();
    fs::create_dir(path.join("from-inside")).unwrap();
    let mut bundle = Bundle::new(
        "until test -e /slave/from-host/x; do sleep 0.01; done; test -e /private/from-host/x && exit 9; \
         mount -t tmpfs inside /shared/from-inside && touch /shared/from-inside/y && sleep 100",
    );
    let admin = json!(["CAP_SYS_ADMIN"]);
    bundle.spec["process"]["capabilities"] =
        json!({"bounding": admin, "effective": admin, "permitted": admin});
    bundle.bind(path, "/slave", &["rbind", "rslave"]);
    bundle.bind(path, "/shared", &["rbind", "rshared"]);
    bundle.bind(path, "/private", &["rbind", "rprivate"]);
    bundle.start();
    mount("tmpfs", &path.join("from-host"));
    fs::write(path.join("from-host/x"), "").unwrap();
    wait_until(|| path.join("from-inside/y").exists(), "seen outside");
    bundle.say(&["delete", "--force", "ID"]).ok();
    drop(shared);
}

fn mount(kind: &str, at: &Path) {
    let status = std::process::Command::new("mount").args(["-t", kind, kind]).arg(at).status().unwrap();
    assert!(status.success());
}

/// A tmpfs that is shared, as a node's volumes are.
struct SharedMount(std::path::PathBuf);

impl SharedMount {
    fn make(at: &Path) -> SharedMount {
        mount("tmpfs", at);
        let status = std::process::Command::new("mount").arg("--make-rshared").arg(at).status().unwrap();
        assert!(status.success());
        SharedMount(at.to_owned())
    }
}

impl Drop for SharedMount {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg("-R").arg(&self.0).status();
    }
}

#[test]
fn the_mounts_of_a_container_do_not_show_on_the_host() {
    if !is_root() {
        return;
    }
    let bundle = Bundle::new("exec sleep 100");
    bundle.start();
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(&bundle.path().display().to_string()));
}

/// A volume of the node, and another file system in it.
fn volume_with_a_mount_below() -> (tempfile::TempDir, SharedMount) {
    let volume = tempfile::Builder::new().prefix("berth-vol-").tempdir().unwrap();
    let shared = SharedMount::make(volume.path());
    fs::create_dir(volume.path().join("below")).unwrap();
    mount("tmpfs", &volume.path().join("below"));
    (volume, shared)
}

#[test]
fn recursive_attributes_reach_the_mounts_below() {
    if !is_root() {
        return;
    }
    let (volume, shared) = volume_with_a_mount_below();
    let mut bundle = Bundle::new("touch /ro/below/x && echo not; touch /rro/below/x || echo deep");
    bundle.bind(volume.path(), "/ro", &["rbind", "ro"]);
    bundle.bind(volume.path(), "/rro", &["rbind", "rro"]);
    assert_eq!(bundle.run().ok(), "not\ndeep");
    drop(shared);
}

#[test]
fn ids_are_shifted_as_far_down_as_it_was_said() {
    if !is_root() {
        return;
    }
    let (volume, shared) = volume_with_a_mount_below();
    let mut bundle = Bundle::new("stat -c %u:%g /one /one/below /all /all/below");
    let maps = json!([{"containerID": 0, "hostID": 5000, "size": 10}]);
    for (destination, word) in [("/one", "idmap"), ("/all", "ridmap")] {
        bundle.mount(json!({"destination": destination, "type": "bind", "source": volume.path(),
            "options": ["rbind", word], "uidMappings": maps, "gidMappings": maps}));
    }
    assert_eq!(bundle.run().ok(), "5000:5000\n0:0\n5000:5000\n5000:5000");
    drop(shared);
}

/// config.md, POSIX-platform Mounts: not bind mounts alone have mappings.
#[test]
fn a_new_file_system_shows_other_ids_than_it_has() {
    if !is_root() {
        return;
    }
    let maps =
        json!([{"containerID": 0, "hostID": 0, "size": 1}, {"containerID": 5, "hostID": 7, "size": 1}]);
    let mut bundle = Bundle::new("stat -c %u:%g /t /t/five /new; echo > /t/y; stat -c %u:%g /t/y");
    fs::create_dir(bundle.rootfs().join("t")).unwrap();
    fs::write(bundle.rootfs().join("t/five"), "").unwrap();
    std::os::unix::fs::chown(bundle.rootfs().join("t/five"), Some(7), Some(7)).unwrap();
    bundle.mount(
        json!({"destination": "/t", "type": "tmpfs", "source": "t", "options": ["idmap", "tmpcopyup"],
        "uidMappings": maps, "gidMappings": maps}),
    );
    bundle.mount(
        json!({"destination": "/new", "type": "tmpfs", "source": "t", "options": ["idmap", "uid=5", "gid=5"],
        "uidMappings": maps, "gidMappings": maps}),
    );
    assert_eq!(bundle.run().ok(), "0:0\n7:7\n7:7\n0:0");
    bundle.mount(json!({"destination": "/proc", "type": "proc", "options": ["idmap"],
        "uidMappings": maps, "gidMappings": maps}));
    bundle.run().refused(&["mapping the ids of", "/proc"]);
}

#[test]
fn the_root_has_the_propagation_that_was_asked_for() {
    if !is_root() {
        return;
    }
    let mut bundle = Bundle::new("grep ' / / \\| /rootfs / \\|/rootfs / ' /proc/self/mountinfo");
    let mut propagation = |word: &str| {
        bundle.spec["linux"]["rootfsPropagation"] = json!(word);
        bundle.run().ok().to_owned()
    };
    assert!(propagation("rshared").contains(" shared:"));
    let private = propagation("rprivate");
    assert!(!private.contains(" shared:") && !private.contains(" master:"), "{private}");
    assert!(!propagation("rslave").contains(" shared:"));
}

#[test]
fn a_tmpfs_can_begin_with_what_it_covers() {
    if !is_root() {
        return;
    }
    let mut bundle = Bundle::new(
        "stat -c '%n %a %u %F' /etc /etc/deep/file /etc/deep /etc/link /etc/fifo; cat /etc/deep/file; readlink /etc/link; \
         ls -A /etc/empty | wc -l; touch /etc/new && echo written; grep -c ' /etc ro' /proc/self/mountinfo; true",
    );
    let etc = bundle.rootfs().join("etc");
    fs::create_dir_all(etc.join("deep")).unwrap();
    fs::create_dir(etc.join("empty")).unwrap();
    fs::write(etc.join("deep/file"), "words\n").unwrap();
    std::os::unix::fs::symlink("/nosuch/outside", etc.join("link")).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        etc.join("fifo"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::from_raw_mode(0o640),
        0,
    )
    .unwrap();
    std::os::unix::fs::chown(etc.join("deep/file"), Some(7), Some(8)).unwrap();
    let mode = |path: &str, mode: u32| {
        fs::set_permissions(etc.join(path), std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
    };
    mode("deep/file", 0o4755);
    mode("deep", 0o750);
    mode("", 0o751);
    bundle.mount(
        json!({"destination": "/etc", "type": "tmpfs", "source": "tmpfs", "options": ["tmpcopyup", "nodev"]}),
    );
    let text = bundle.run().ok().to_owned();
    let expected = "/etc 751 0 directory\n/etc/deep/file 4755 7 regular file\n/etc/deep 750 0 directory\n\
        /etc/link 777 0 symbolic link\n/etc/fifo 640 0 fifo\nwords\n/nosuch/outside\n0\nwritten\n0";
    assert_eq!(text, expected);
    assert!(!etc.join("new").exists(), "the image is untouched");
    bundle.spec["mounts"].as_array_mut().unwrap().last_mut().unwrap()["options"] = json!(["tmpcopyup", "ro"]);
    bundle.spec["process"]["args"] =
        json!(["sh", "-c", "cat /etc/deep/file; touch /etc/new || echo read-only"]);
    assert_eq!(bundle.run().ok(), "words\nread-only");
}

#[test]
fn a_mount_of_the_list_can_be_changed_by_a_later_entry() {
    if !is_root() {
        return;
    }
    let mut bundle = Bundle::new("grep ' /t ' /proc/self/mountinfo; touch /t/x || echo read-only");
    bundle.mount(
        json!({"destination": "/t", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "size=64k"]}),
    );
    bundle.mount(json!({"destination": "/t", "options": ["remount", "bind", "ro"]}));
    let text = bundle.run().ok().to_owned();
    assert!(text.contains(" ro,nosuid,relatime ") && text.contains("- tmpfs tmpfs rw,size=64k"), "{text}");
    assert!(text.ends_with("read-only"));
    bundle.spec["mounts"].as_array_mut().unwrap().last_mut().unwrap()["options"] =
        json!(["remount", "ro", "size=128k"]);
    let text = bundle.run().ok().to_owned();
    assert!(text.contains(" ro,nosuid,relatime ") && text.contains("- tmpfs tmpfs ro,size=128k"), "{text}");
    bundle.spec["mounts"].as_array_mut().unwrap().last_mut().unwrap()["destination"] = json!("/tmp");
    bundle.run().refused(&["remounting /tmp (mounts[5])", "Invalid argument"]);
}

#[test]
fn a_dev_of_the_host_is_left_alone_and_devices_elsewhere_are_made() {
    if !is_root() {
        return;
    }
    let dev = tempfile::tempdir().unwrap();
    let mut bundle = Bundle::new("ls /dev | wc -l; stat -c '%n %t:%T' /srv/zero");
    bundle.spec["mounts"].as_array_mut().unwrap().drain(1..3);
    bundle.bind(dev.path(), "/dev", &["rbind"]);
    bundle.spec["linux"]["devices"] = json!([
        {"path": "/srv/zero", "type": "c", "major": 1, "minor": 5},
        {"path": "/dev/mine", "type": "c", "major": 1, "minor": 5}
    ]);
    bundle.spec["linux"]["maskedPaths"] = json!([]);
    assert_eq!(bundle.run().ok(), "0\n/srv/zero 1:5");
    assert_eq!(fs::read_dir(dev.path()).unwrap().count(), 0);
}

#[test]
fn an_overlay_may_have_more_layers_than_one_string_holds() {
    if !is_root() {
        return;
    }
    let layers = tempfile::tempdir_in("/var/tmp").unwrap();
    let dirs: Vec<String> =
        (0..12).map(|i| layers.path().join(format!("{i:0>40}")).display().to_string()).collect();
    for (i, dir) in dirs.iter().enumerate() {
        fs::create_dir(dir).unwrap();
        fs::write(Path::new(dir).join(format!("file-{i}")), "").unwrap();
    }
    let mut bundle = Bundle::new("ls /o | wc -l");
    let lower = format!("lowerdir={}", dirs.join(":"));
    bundle.mount(json!({"destination": "/o", "type": "overlay", "source": "overlay", "options": [lower]}));
    assert_eq!(bundle.run().ok(), "12");
}

#[test]
fn the_root_can_be_unbindable() {
    if !is_root() {
        return;
    }
    let mut bundle = Bundle::new("grep ' / / \\| /rootfs / \\|/rootfs / ' /proc/self/mountinfo");
    bundle.spec["linux"]["rootfsPropagation"] = json!("unbindable");
    assert!(bundle.run().ok().contains(" unbindable "));
}
