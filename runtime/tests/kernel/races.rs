//! Paths that are exchanged while a container is made of them: whoever wins, nothing happens outside.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{CWD, RenameFlags, renameat_with};
use serde_json::json;

use crate::bundle::{Bundle, is_root};

/// Exchanges two paths without pause until dropped.
fn while_exchanging<T>(one: &Path, other: &Path, work: impl FnOnce() -> T) -> T {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                // A runtime that makes what it misses may be in the middle of it.
                let _ = renameat_with(CWD, one, CWD, other, RenameFlags::EXCHANGE);
            }
        });
        let done = work();
        stop.store(true, Ordering::Relaxed);
        done
    })
}

/// A directory on the host that nobody may change, and a volume that holds a directory and a link to it.
struct Trap {
    outside: tempfile::TempDir,
    volume: tempfile::TempDir,
}

impl Trap {
    fn new() -> Trap {
        let (outside, volume) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::write(outside.path().join("secret"), "secret").unwrap();
        fs::create_dir(volume.path().join("dir")).unwrap();
        let way_out = format!("../../../../../../../..{}", outside.path().display());
        symlink(way_out, volume.path().join("link")).unwrap();
        Trap { outside, volume }
    }

    fn dir(&self) -> PathBuf {
        self.volume.path().join("dir")
    }

    fn link(&self) -> PathBuf {
        self.volume.path().join("link")
    }

    /// A container with the volume at /vol, made `rounds` times while its parts change places.
    fn spring(&self, rounds: u32, script: &str, change: impl Fn(&mut Bundle)) -> Vec<String> {
        while_exchanging(&self.dir(), &self.link(), || {
            let one = |_| {
                let mut bundle = Bundle::new(script);
                bundle.bind(self.volume.path(), "/vol", &["rbind", "rw"]);
                change(&mut bundle);
                bundle.run().out
            };
            (0..rounds).map(one).collect()
        })
    }

    #[track_caller]
    fn is_untouched(&self) {
        let names: Vec<_> =
            fs::read_dir(self.outside.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(names, ["secret"]);
        assert_eq!(fs::read_to_string(self.outside.path().join("secret")).unwrap(), "secret");
    }
}

#[test]
fn cve_2024_45310_directories_and_files_for_mounts_are_made_inside() {
    if !is_root() {
        return;
    }
    let trap = Trap::new();
    let source = tempfile::NamedTempFile::new().unwrap();
    trap.spring(40, "true", |bundle| {
        bundle.bind(source.path(), "/vol/dir/made/deep/file", &["bind", "ro"]);
    });
    trap.is_untouched();
}

#[test]
fn cve_2021_30465_devices_are_made_inside() {
    if !is_root() {
        return;
    }
    let trap = Trap::new();
    trap.spring(40, "true", |bundle| {
        bundle.spec["linux"]["devices"] =
            json!([{"path": "/vol/dir/null", "type": "c", "major": 1, "minor": 3}]);
    });
    trap.is_untouched();
}

#[test]
fn cve_2026_55686_a_working_directory_is_made_inside() {
    if !is_root() {
        return;
    }
    let trap = Trap::new();
    let said = trap.spring(40, "pwd; ls", |bundle| {
        bundle.spec["process"]["cwd"] = json!("/vol/dir/new/deep");
    });
    trap.is_untouched();
    assert!(said.iter().all(|said| !said.contains("secret")), "{said:?}");
}

#[test]
fn cve_2024_21626_a_working_directory_that_is_exchanged_shows_nothing_of_the_host() {
    if !is_root() {
        return;
    }
    let trap = Trap::new();
    fs::remove_file(trap.link()).unwrap();
    symlink("/proc/self/fd/8", trap.link()).unwrap();
    let said = trap.spring(30, "ls /proc/self/cwd/../../../../etc", |bundle| {
        bundle.spec["process"]["cwd"] = json!("/vol/dir");
    });
    assert!(said.iter().all(|said| !said.contains("passwd")), "{said:?}");
}

#[test]
fn cve_2025_31133_a_null_device_that_is_exchanged_masks_or_nothing_runs() {
    if !is_root() {
        return;
    }
    let dev = tempfile::tempdir().unwrap();
    let secret = dev.path().join("secret");
    fs::write(&secret, "secret").unwrap();
    let null = dev.path().join("null");
    let mode = rustix::fs::Mode::from_raw_mode(0o666);
    let kind = rustix::fs::FileType::CharacterDevice;
    rustix::fs::mknodat(CWD, &null, kind, mode, rustix::fs::makedev(1, 3)).unwrap();
    let link = dev.path().join("link");
    symlink("secret", &link).unwrap();
    let said = while_exchanging(&null, &link, || {
        let one = |_| {
            let mut bundle = Bundle::new("cat /proc/keys; echo end");
            let mounts = bundle.spec["mounts"].as_array_mut().unwrap();
            mounts.retain(|mount| !mount["destination"].as_str().unwrap().starts_with("/dev"));
            bundle.bind(dev.path(), "/dev", &["bind"]);
            bundle.run()
        };
        (0..60).map(one).collect::<Vec<_>>()
    });
    for said in said {
        // Masked or refused; never the file that the link names, never the kernel's own.
        assert!(said.out.is_empty() || said.out == "end\n", "{}", said.out);
    }
}

#[test]
fn cve_2023_28642_a_proc_that_is_exchanged_is_a_procfs_or_nothing_runs() {
    if !is_root() {
        return;
    }
    let bundle = Bundle::new("grep -c ' /proc ' /proc/self/mounts");
    let (proc, link) = (bundle.rootfs().join("proc"), bundle.rootfs().join("link"));
    symlink("/tmp", &link).unwrap();
    // They change places by chance, so one works in the end.
    let said = while_exchanging(&proc, &link, || {
        let mut said: Vec<_> = (0..60).map(|_| bundle.run()).collect();
        while said.iter().all(|said| said.code != 0) && said.len() < 2000 {
            said.push(bundle.run());
        }
        said
    });
    for said in &said {
        assert!(said.code != 0 || said.out.trim() == "1", "out {} err {}", said.out, said.err);
    }
    assert!(said.iter().any(|said| said.code == 0), "never once: {}", said[0].err);
}

#[test]
fn cve_2025_52881_nothing_gets_below_proc_by_way_of_an_exchanged_directory() {
    if !is_root() {
        return;
    }
    let bundle = || {
        let mut bundle =
            Bundle::new("grep ' /proc/sys/net' /proc/self/mounts; cat /proc/sys/net/ipv4/ip_forward");
        bundle.spec["linux"]["readonlyPaths"] = json!([]);
        bundle.spec["linux"]["sysctl"] = json!({"net.ipv4.ip_forward": "1"});
        bundle
    };
    let trap = Trap::new();
    fs::remove_file(trap.link()).unwrap();
    symlink("/proc/sys/net", trap.link()).unwrap();
    let said = while_exchanging(&trap.dir(), &trap.link(), || {
        let one = |_| {
            let mut bundle = bundle();
            bundle.bind(trap.volume.path(), "/vol", &["rbind"]);
            bundle.mount(json!({"destination": "/vol/dir", "type": "tmpfs", "source": "tmpfs"}));
            bundle.run()
        };
        (0..60).map(one).collect::<Vec<_>>()
    });
    for said in said {
        assert!(said.code != 0 || said.out == "1\n", "out {} err {}", said.out, said.err);
    }
}

#[test]
fn cve_2025_52565_a_console_that_is_exchanged_is_bound_inside_or_nothing_runs() {
    if !is_root() {
        return;
    }
    let trap = Trap::new();
    let (console, link) = (trap.volume.path().join("console"), trap.volume.path().join("other"));
    for dir in ["pts", "shm"] {
        fs::create_dir(trap.volume.path().join(dir)).unwrap();
    }
    fs::write(&console, "").unwrap();
    symlink("/proc/sysrq-trigger", &link).unwrap();
    let socket = trap.volume.path().join("socket");
    let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    while_exchanging(&console, &link, || {
        for _ in 0..30 {
            let mut bundle = Bundle::new("sleep 100");
            let mounts = bundle.spec["mounts"].as_array_mut().unwrap();
            mounts.retain(|mount| mount["destination"] != "/dev");
            mounts.insert(1, json!({"destination": "/dev", "type": "bind", "source": trap.volume.path(), "options": ["bind"]}));
            bundle.spec["process"]["terminal"] = json!(true);
            bundle.write();
            let said = bundle.say(&["create", "--console-socket", socket.to_str().unwrap(), "ID"]);
            if said.code != 0 {
                continue;
            }
            let mounts = fs::read_to_string(format!("/proc/{}/mountinfo", bundle.pid())).unwrap();
            let terminals: Vec<&str> = mounts.lines().filter(|line| line.contains(" devpts ")).collect();
            let is_good = |line: &&&str| line.contains(" /dev/pts ") || line.contains(" /dev/console ");
            assert_eq!(terminals.iter().filter(is_good).count(), terminals.len(), "{terminals:?}");
        }
    });
    trap.is_untouched();
}
