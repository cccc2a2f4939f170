//! Images and configurations that mean harm, by the CVE that taught each.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use serde_json::json;

use crate::bundle::{Bundle, is_root};

fn replace_by_link(path: &Path, target: &str) {
    fs::remove_dir_all(path).unwrap();
    symlink(target, path).unwrap();
}

#[test]
fn cve_2024_21626_a_working_directory_is_no_way_out() {
    if !is_root() {
        return;
    }
    let mut bundle = Bundle::new("pwd");
    for number in 0..20 {
        bundle.spec["process"]["cwd"] = json!(format!("/proc/self/fd/{number}"));
        bundle.run().refused(&["working directory"]);
    }
    symlink("/proc/self/fd/7", bundle.rootfs().join("link")).unwrap();
    bundle.spec["process"]["cwd"] = json!("/link");
    bundle.run().refused(&["working directory"]);
}

#[test]
fn only_three_descriptors_reach_the_container() {
    if !is_root() {
        return;
    }
    let mut bundle = Bundle::new("");
    // The fourth is the directory that ls reads.
    bundle.spec["process"]["args"] = json!(["ls", "/proc/self/fd"]);
    assert_eq!(bundle.run().ok(), "0\n1\n2\n3");
    bundle.spec["process"]["args"] = json!(["sleep", "100"]);
    bundle.start();
    assert_eq!(bundle.say(&["exec", "ID", "ls", "/proc/self/fd"]).ok(), "0\n1\n2\n3");
    let fds = fs::read_dir(format!("/proc/{}/fd", bundle.pid())).unwrap().count();
    assert_eq!(fds, 3);
}

#[test]
fn cve_2019_19921_proc_and_sys_may_not_be_links() {
    if !is_root() {
        return;
    }
    for name in ["proc", "sys"] {
        let bundle = Bundle::new("true");
        replace_by_link(&bundle.rootfs().join(name), "/tmp");
        bundle.run().refused(&[name, "symbolic link"]);
        assert_eq!(fs::read_dir(bundle.rootfs().join("tmp")).unwrap().count(), 0);
    }
}

#[test]
fn cve_2019_16884_nothing_covers_proc() {
    if !is_root() {
        return;
    }
    let mut bundle = Bundle::new("true");
    bundle.bind(Path::new("/tmp"), "/proc", &["bind"]);
    bundle.run().refused(&["/proc"]);
    bundle.spec["mounts"].as_array_mut().unwrap().pop();
    symlink("/proc/self/attr", bundle.rootfs().join("way")).unwrap();
    bundle.mount(json!({"destination": "/way", "type": "tmpfs", "source": "tmpfs"}));
    bundle.run().refused(&["refusing a mount inside /proc"]);
}

#[test]
fn cve_2026_41579_a_dev_that_is_a_link_writes_nothing_outside() {
    if !is_root() {
        return;
    }
    let outside = tempfile::tempdir().unwrap();
    let bundle = Bundle::new("true");
    replace_by_link(&bundle.rootfs().join("dev"), outside.path().to_str().unwrap());
    bundle.run();
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0);
}

#[test]
fn cve_2025_31133_masks_are_the_null_device_or_nothing_runs() {
    if !is_root() {
        return;
    }
    let mut bundle = Bundle::new("cat /proc/keys");
    let mounts = bundle.spec["mounts"].as_array_mut().unwrap();
    mounts.retain(|mount| !mount["destination"].as_str().unwrap().starts_with("/dev"));
    // A bound /dev is filled by whoever bound it.
    let dev = tempfile::tempdir().unwrap();
    symlink("/etc/passwd", dev.path().join("null")).unwrap();
    bundle.bind(dev.path(), "/dev", &["bind"]);
    bundle.run().refused(&["masking", "/proc/k"]);
}

/// The host's policy of cryptography, mounted where an image has a link: Podman and CRI-O followed it on the host.
#[test]
fn cve_2024_9341_a_mount_over_an_image_s_link_stays_inside() {
    if !is_root() {
        return;
    }
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("secret"), "the host's").unwrap();
    let source = tempfile::tempdir().unwrap();
    fs::write(source.path().join("f"), "inside").unwrap();
    let mut bundle = Bundle::new("cat /etc/crypto-policies/back-ends/f");
    fs::create_dir_all(bundle.rootfs().join("etc/crypto-policies")).unwrap();
    symlink(outside.path(), bundle.rootfs().join("etc/crypto-policies/back-ends")).unwrap();
    bundle.bind(source.path(), "/etc/crypto-policies/back-ends", &["bind", "ro"]);
    assert_eq!(bundle.run().ok(), "inside");
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 1);
}

#[test]
fn cve_2024_45310_mount_points_behind_links_are_made_inside() {
    if !is_root() {
        return;
    }
    let outside = tempfile::tempdir().unwrap();
    let there = outside.path().display().to_string();
    let source = tempfile::tempdir().unwrap();
    fs::write(source.path().join("f"), "inside").unwrap();
    let mut bundle = Bundle::new("cat /etc/resolv.conf /vol/deep/f");
    symlink(format!("{there}/dangling/resolv.conf"), bundle.rootfs().join("etc/resolv.conf")).unwrap();
    symlink(format!("../../../../../..{there}"), bundle.rootfs().join("vol")).unwrap();
    bundle.bind(&source.path().join("f"), "/etc/resolv.conf", &["bind", "ro"]);
    bundle.bind(source.path(), "/vol/deep", &["bind", "ro"]);
    assert_eq!(bundle.run().ok(), "insideinside");
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0);
}

#[test]
fn links_in_a_ring_are_an_error_rather_than_a_loop() {
    if !is_root() {
        return;
    }
    let mut bundle = Bundle::new("true");
    symlink("b", bundle.rootfs().join("a")).unwrap();
    symlink("a", bundle.rootfs().join("b")).unwrap();
    bundle.mount(json!({"destination": "/a/x", "type": "tmpfs", "source": "tmpfs"}));
    bundle.run().refused(&["mount point", "/a/x", "symbolic links"]);
}

#[test]
fn cve_2025_4437_a_passwd_without_end_is_not_read() {
    if !is_root() {
        return;
    }
    let mut bundle = Bundle::new("echo $HOME");
    let passwd = bundle.rootfs().join("etc/passwd");
    bundle.spec["process"]["user"] = json!({"uid": 5, "gid": 5});
    fs::write(&passwd, "five:x:5:5::/five:/bin/sh\n").unwrap();
    assert_eq!(bundle.run().ok(), "/five");
    fs::OpenOptions::new().write(true).open(&passwd).unwrap().set_len(1 << 40).unwrap();
    assert_eq!(bundle.run().ok(), "/");
    fs::remove_file(&passwd).unwrap();
    let (kind, mode) = (rustix::fs::FileType::Fifo, rustix::fs::Mode::from_raw_mode(0o644));
    rustix::fs::mknodat(rustix::fs::CWD, &passwd, kind, mode, 0).unwrap();
    assert_eq!(bundle.run().ok(), "/");
    fs::remove_file(&passwd).unwrap();
    symlink("../dev/zero", &passwd).unwrap();
    assert_eq!(bundle.run().ok(), "/");
}

#[test]
fn cve_2016_3697_users_are_never_looked_up_by_name() {
    if !is_root() {
        return;
    }
    let mut bundle = Bundle::new("id -u");
    fs::write(bundle.rootfs().join("etc/passwd"), "1000:x:0:0::/:/bin/sh\n").unwrap();
    bundle.spec["process"]["user"] = json!({"uid": 1000, "gid": 1000});
    assert_eq!(bundle.run().ok(), "1000");
    bundle.spec["process"]["user"] = json!({"uid": 4_294_967_295_u32, "gid": 0});
    bundle.run().refused(&["process.user.uid"]);
}

#[test]
fn cve_2019_5736_the_runtimes_binary_is_on_a_read_only_mount() {
    if !is_root() {
        return;
    }
    let bundle = Bundle::new("exec sleep 100");
    bundle.create();
    // What a container sees of us: the init that has not become its program yet.
    let link = format!("/proc/{}/exe", bundle.pid());
    let flags = rustix::fs::statvfs(&link).unwrap().f_flag;
    assert!(flags.contains(rustix::fs::StatVfsMountFlags::RDONLY));
    assert!(fs::File::options().write(true).open(&link).is_err());
}

#[test]
fn cve_2019_5736_proc_self_exe_as_entry_point_runs_nothing_of_the_host() {
    if !is_root() {
        return;
    }
    let mut bundle = Bundle::new("");
    fs::write(bundle.rootfs().join("script"), "#!/proc/self/exe\n").unwrap();
    std::process::Command::new("chmod").arg("755").arg(bundle.rootfs().join("script")).status().unwrap();
    let before = fs::read(env!("CARGO_BIN_EXE_berth-runtime")).unwrap();
    for program in ["/proc/self/exe", "/script"] {
        bundle.spec["process"]["args"] = json!([program, "delete", "--force", "x"]);
        bundle.run();
    }
    assert!(fs::read(env!("CARGO_BIN_EXE_berth-runtime")).unwrap() == before);
}

#[test]
fn a_bundle_that_is_no_json_is_named() {
    let bundle = Bundle::new("true");
    fs::write(bundle.path().join("config.json"), "{\"process\": 3}").unwrap();
    bundle.say(&["run", "ID"]).refused(&["config.json", "line 1"]);
    bundle.say(&["run", "../x"]).refused(&["config.json"]);
}

#[test]
fn an_id_cannot_be_a_path() {
    let bundle = Bundle::new("true");
    bundle.write();
    bundle.say(&["run", "../x"]).refused(&["container id"]);
    bundle.say(&["delete", "--force", ".."]).refused(&["container id"]);
}

#[test]
fn cve_2021_30465_a_mount_point_that_is_exchanged_meanwhile_stays_inside() {
    if !is_root() {
        return;
    }
    let outside = tempfile::tempdir().unwrap();
    let volume = tempfile::tempdir().unwrap();
    fs::create_dir(volume.path().join("dir")).unwrap();
    symlink(format!("../../../../../..{}", outside.path().display()), volume.path().join("link")).unwrap();
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let (dir, link) = (volume.path().join("dir"), volume.path().join("link"));
            let exchange = rustix::fs::RenameFlags::EXCHANGE;
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                rustix::fs::renameat_with(rustix::fs::CWD, &dir, rustix::fs::CWD, &link, exchange).unwrap();
            }
        });
        for _ in 0..30 {
            let mut bundle = Bundle::new("true");
            bundle.bind(volume.path(), "/vol", &["rbind", "rw"]);
            bundle.mount(json!({"destination": "/vol/dir/made", "type": "tmpfs", "source": "tmpfs"}));
            bundle.mount(json!({"destination": "/vol/dir/made/more", "type": "tmpfs", "source": "tmpfs"}));
            // Whether it works depends on who is first; where it happens does not.
            bundle.run();
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0);
}
