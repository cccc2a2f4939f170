//! config.md, "Root" and "Mounts"; config-linux.md, "Default Filesystems".

use std::fs;
use std::os::unix::fs::symlink;

use serde_json::{Value, json};

use super::super::bundle::tried;
use super::super::verdict::{same, that};
use super::super::{Test, must, should};

const ROOT: &str = "config.md#root";
const MOUNTS: &str = "config.md#mounts";
const POSIX: &str = "config.md#posix-platform-mounts";

pub(crate) fn tests() -> Vec<Test> {
    [root(), places(), binds(), file_systems(), mappings()].into_iter().flatten().collect()
}

fn root() -> Vec<Test> {
    vec![
        must(ROOT, "a path relative to the bundle", |lab| Ok(lab.bundle()?.report().map(drop)?)),
        must(ROOT, "an absolute path", |lab| {
            let mut bundle = lab.bundle()?;
            let path = bundle.rootfs().display().to_string();
            Ok(bundle.set("/root/path", path).report().map(drop)?)
        }),
        must(ROOT, "absent, it is an error", |lab| lab.bundle()?.unset("/root").refused()),
        must(ROOT, "a path that is not there is an error", |lab| {
            lab.bundle()?.set("/root/path", "nosuch").refused()
        }),
        must(ROOT, "a path that is no directory is an error", |lab| {
            lab.bundle()?.set("/root/path", "config.json").refused()
        }),
        must(ROOT, "an empty path is an error", |lab| lab.bundle()?.set("/root/path", "").refused()),
        must(ROOT, "readonly: true is read-only", |lab| {
            same("creating a file", lab.bundle()?.set("/root/readonly", true).attempt("create:/x")?, "EROFS")
        }),
        must(ROOT, "readonly: absent is writable", |lab| {
            same("creating a file", lab.bundle()?.attempt("create:/x")?, "ok")
        }),
        must(ROOT, "readonly does not reach mounts", |lab| {
            let mut bundle = lab.bundle()?;
            bundle.set("/root/readonly", true).mount("/tmp", "tmpfs", &[]);
            same("creating a file", bundle.attempt("create:/tmp/x")?, "ok")
        }),
        must(ROOT, "readonly does not change the directory on the host", |lab| {
            let bundle = lab.bundle()?;
            fs::write(bundle.rootfs().join("before"), "")?;
            let mut bundle = bundle;
            bundle.set("/root/readonly", true).report()?;
            fs::write(bundle.rootfs().join("after"), "").map_err(Into::into)
        }),
        must(ROOT, "nothing of the host's root is seen", |lab| {
            let report = lab.bundle()?.tries(&["ls:/"]).report()?;
            same("the root", tried(&report, "ls:/"), "ok: busybox dev etc out probe proc sys tmp")
        }),
    ]
}

fn places() -> Vec<Test> {
    vec![
        must(MOUNTS, "mounted in the listed order: a later one covers an earlier one", |lab| {
            let mut bundle = lab.bundle()?;
            let (first, second) = (bundle.outside("first"), bundle.outside("second"));
            for dir in [&first, &second] {
                fs::create_dir(dir)?;
                fs::write(dir.join("who"), dir.file_name().unwrap_or_default().as_encoded_bytes())?;
            }
            bundle.bind(&first, "/mnt", &[]).bind(&second, "/mnt", &[]);
            same("who", bundle.attempt("read:/mnt/who")?, "ok: second")
        }),
        must(MOUNTS, "mounted in the listed order: a later one lies in an earlier one", |lab| {
            let mut bundle = lab.bundle()?;
            bundle.mount("/mnt", "tmpfs", &[]).mount("/mnt/deep/er", "tmpfs", &["ro"]);
            let report = bundle.tries(&["create:/mnt/x", "create:/mnt/deep/er/x"]).report()?;
            same("the outer", tried(&report, "create:/mnt/x"), "ok")?;
            same("the inner", tried(&report, "create:/mnt/deep/er/x"), "EROFS")
        }),
        should(MOUNTS, "a destination that is missing is made", |lab| {
            let mut bundle = lab.bundle()?;
            bundle.mount("/new/place", "tmpfs", &[]);
            that(mount_at(&bundle.report()?, "/new/place").is_some(), || "nothing is mounted there".into())
        }),
        must(MOUNTS, "a relative destination is relative to /", |lab| {
            let mut bundle = lab.bundle()?;
            bundle.mount("mnt", "tmpfs", &[]);
            that(mount_at(&bundle.report()?, "/mnt").is_some(), || "nothing is mounted there".into())
        })
        .since(1),
        must(MOUNTS, "a destination through a link stays inside", |lab| {
            let mut bundle = lab.bundle()?;
            symlink("/../../../../tmp", bundle.rootfs().join("link"))?;
            bundle.mount("/link", "tmpfs", &[]);
            that(mount_at(&bundle.report()?, "/tmp").is_some(), || "nothing is mounted on /tmp".into())
        }),
        must(MOUNTS, "a destination with .. stays inside", |lab| {
            let mut bundle = lab.bundle()?;
            bundle.mount("/../../mnt", "tmpfs", &[]);
            that(mount_at(&bundle.report()?, "/mnt").is_some(), || "nothing is mounted there".into())
        }),
        must(MOUNTS, "an absent destination is an error", |lab| {
            lab.bundle()?.push("/mounts", json!({"type": "tmpfs", "source": "tmpfs"})).refused()
        }),
    ]
}

fn binds() -> Vec<Test> {
    vec![
        must(MOUNTS, "bind: a directory", |lab| {
            let mut bundle = lab.bundle()?;
            let source = bundle.outside("dir");
            fs::create_dir(&source)?;
            fs::write(source.join("f"), "there")?;
            same("f", bundle.bind(&source, "/mnt", &[]).attempt("read:/mnt/f")?, "ok: there")
        }),
        must(MOUNTS, "bind: a file", |lab| {
            let mut bundle = lab.bundle()?;
            let source = bundle.outside("file");
            fs::write(&source, "there")?;
            same(
                "it",
                bundle.bind(&source, "/etc/deep/file", &[]).attempt("read:/etc/deep/file")?,
                "ok: there",
            )
        }),
        must(MOUNTS, "bind: a source relative to the bundle", |lab| {
            let mut bundle = lab.bundle()?;
            fs::write(bundle.outside("file"), "there")?;
            same("it", bundle.bind("file".as_ref(), "/etc/file", &[]).attempt("read:/etc/file")?, "ok: there")
        }),
        must(MOUNTS, "bind: by the option alone, whatever the type", |lab| {
            let mut bundle = lab.bundle()?;
            let source = bundle.outside("file");
            fs::write(&source, "there")?;
            bundle.push(
                "/mounts",
                json!({"destination": "/f", "type": "none", "source": source, "options": ["bind"]}),
            );
            same("it", bundle.attempt("read:/f")?, "ok: there")
        }),
        must(MOUNTS, "bind: without a type", |lab| {
            let mut bundle = lab.bundle()?;
            let source = bundle.outside("file");
            fs::write(&source, "there")?;
            bundle
                .push("/mounts", json!({"destination": "/f", "source": source, "options": ["rbind", "ro"]}));
            same("it", bundle.attempt("read:/f")?, "ok: there")
        }),
        must(MOUNTS, "bind: a source that is not there is an error", |lab| {
            lab.bundle()?.bind("/nosuch".as_ref(), "/mnt", &[]).refused()
        }),
        must(MOUNTS, "bind: what is mounted in the source is left out, rbind brings it", |lab| {
            let mut bundle = lab.bundle()?;
            let source = bundle.outside("dir");
            fs::create_dir_all(source.join("sub"))?;
            mount_tmpfs(&source.join("sub"))?;
            fs::write(source.join("sub/f"), "there")?;
            bundle.bind(&source, "/one", &[]).bind(&source, "/all", &["rbind"]);
            let report = bundle.tries(&["read:/one/sub/f", "read:/all/sub/f"]).report()?;
            same("bind", tried(&report, "read:/one/sub/f"), "ENOENT")?;
            same("rbind", tried(&report, "read:/all/sub/f"), "ok: there")
        }),
        must(MOUNTS, "bind: writing goes to the source", |lab| {
            let mut bundle = lab.bundle()?;
            let source = bundle.outside("dir");
            fs::create_dir(&source)?;
            same("creating", bundle.bind(&source, "/mnt", &["rw"]).attempt("create:/mnt/new")?, "ok")?;
            that(source.join("new").exists(), || "it is not on the host".into())
        }),
        must(MOUNTS, "bind: read-only leaves the source writable", |lab| {
            let mut bundle = lab.bundle()?;
            let source = bundle.outside("dir");
            fs::create_dir(&source)?;
            same("creating", bundle.bind(&source, "/mnt", &["ro"]).attempt("create:/mnt/new")?, "EROFS")?;
            fs::write(source.join("ours"), "").map_err(Into::into)
        }),
    ]
}

fn mount_tmpfs(target: &std::path::Path) -> anyhow::Result<()> {
    let flags = rustix::mount::MountFlags::empty();
    rustix::mount::mount("berth-oci", target, "tmpfs", flags, None::<&std::ffi::CStr>)?;
    Ok(())
}

fn file_systems() -> Vec<Test> {
    let defaults = [("/proc", "proc"), ("/sys", "sysfs"), ("/dev/pts", "devpts"), ("/dev/shm", "tmpfs")];
    let mut tests: Vec<Test> = defaults
        .into_iter()
        .map(|(target, kind)| {
            should("config-linux.md#default-filesystems", format!("{target} can be {kind}"), move |lab| {
                let report = lab.bundle()?.report()?;
                same("type", mount_at(&report, target).map(|mount| mount["type"].clone()), Some(json!(kind)))
            })
        })
        .collect();
    tests.extend([
        must(POSIX, "tmpfs with data: size and mode", |lab| {
            let mut bundle = lab.bundle()?;
            bundle.mount("/mnt", "tmpfs", &["size=123k", "mode=1700"]);
            let report = bundle.tries(&["stat:/mnt"]).report()?;
            let data = mount_at(&report, "/mnt").map(|mount| mount["data"].to_string()).unwrap_or_default();
            that(data.contains("size=124k"), || format!("data is {data}"))?;
            that(tried(&report, "stat:/mnt").contains("\"mode\":960"), || tried(&report, "stat:/mnt").into())
        }),
        must(POSIX, "mqueue", |lab| {
            let mut bundle = lab.bundle()?;
            bundle.mount("/dev/mqueue", "mqueue", &["nosuid", "noexec", "nodev"]);
            same(
                "type",
                mount_at(&bundle.report()?, "/dev/mqueue").map(|m| m["type"].clone()),
                Some(json!("mqueue")),
            )
        }),
        must(POSIX, "cgroup: the container's own cgroups are at /sys/fs/cgroup", |lab| {
            let mut bundle = lab.bundle()?;
            bundle.mount("/sys/fs/cgroup", "cgroup", &["nosuid", "noexec", "nodev", "relatime", "ro"]);
            if lab.host.unified {
                // One tree: whoever shares the machine's namespace sees it from the top.
                bundle.push("/linux/namespaces", json!({"type": "cgroup"}));
            }
            let file = if lab.host.unified {
                "/sys/fs/cgroup/cgroup.procs"
            } else {
                "/sys/fs/cgroup/pids/cgroup.procs"
            };
            let what = format!("read:{file}");
            let found = bundle.attempt(&what)?;
            that(found.lines().any(|line| line.trim_start_matches("ok: ") == "1"), || {
                format!("{file}: {found}")
            })
        }),
        must(POSIX, "cgroup: read-only all the way down", |lab| {
            let mut bundle = lab.bundle()?;
            bundle.mount("/sys/fs/cgroup", "cgroup", &["nosuid", "noexec", "nodev", "relatime", "ro"]);
            let dir = if lab.host.unified { "/sys/fs/cgroup/x" } else { "/sys/fs/cgroup/pids/x" };
            same("mkdir", bundle.attempt(&format!("mkdir:{dir}"))?, "EROFS")
        }),
        must(POSIX, "a type that the kernel does not have is an error", |lab| {
            lab.bundle()?.mount("/mnt", "nosuchfs", &[]).refused()
        }),
        must(MOUNTS, "no mount of the container shows on the host", |lab| {
            let mut bundle = lab.bundle()?;
            bundle.mount("/mnt", "tmpfs", &[]).running()?;
            let mounts = fs::read_to_string("/proc/self/mountinfo")?;
            let here = bundle.rootfs().join("mnt").display().to_string();
            that(!mounts.contains(&here), || "it does".into())
        }),
        should(MOUNTS, "the host's mounts are not in the container's table", |lab| {
            let report = lab.bundle()?.report()?;
            let targets: Vec<&str> = report["mounts"]
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(|m| m["target"].as_str())
                .collect();
            that(!targets.iter().any(|target| target.contains("berth-oci")), || format!("{targets:?}"))
        }),
    ]);
    tests
}

fn mappings() -> Vec<Test> {
    let map = json!([{"containerID": 0, "hostID": 5000, "size": 1000}]);
    let (both, fresh) = (map.clone(), map.clone());
    vec![
        must(POSIX, "uidMappings and gidMappings with idmap shift the owners", move |lab| {
            let mut bundle = lab.bundle()?;
            let source = bundle.outside("dir");
            fs::create_dir(&source)?;
            fs::write(source.join("f"), "")?;
            std::os::unix::fs::chown(source.join("f"), Some(7), Some(8))?;
            bundle.push(
                "/mounts",
                json!({"destination": "/mnt", "source": source, "options": ["bind", "idmap"],
                "uidMappings": both, "gidMappings": both}),
            );
            let stat = bundle.attempt("stat:/mnt/f")?;
            that(stat.contains("\"uid\":5007") && stat.contains("\"gid\":5008"), || stat)
        })
        .since(1),
        must(POSIX, "uidMappings and gidMappings shift the owners of a new file system", move |lab| {
            let mut bundle = lab.bundle()?;
            bundle.push(
                "/mounts",
                json!({"destination": "/mnt", "type": "tmpfs", "source": "t",
                "options": ["idmap", "uid=7", "gid=8"], "uidMappings": fresh, "gidMappings": fresh}),
            );
            let stat = bundle.attempt("stat:/mnt")?;
            that(stat.contains("\"uid\":5007") && stat.contains("\"gid\":5008"), || stat)
        })
        .since(1),
        must(POSIX, "uidMappings without gidMappings is an error", move |lab| {
            let mut bundle = lab.bundle()?;
            bundle.push(
                "/mounts",
                json!({"destination": "/mnt", "source": "/tmp", "options": ["bind", "idmap"],
                "uidMappings": map}),
            );
            bundle.refused()
        })
        .since(1),
        must(
            "config.md#linux-mount-options",
            "idmap without mappings or user namespace is an error",
            |lab| lab.bundle()?.bind("/tmp".as_ref(), "/mnt", &["idmap"]).refused(),
        )
        .since(2),
        must(
            "config.md#linux-mount-options",
            "ridmap without mappings or user namespace is an error",
            |lab| lab.bundle()?.bind("/tmp".as_ref(), "/mnt", &["ridmap"]).refused(),
        )
        .since(2),
    ]
}

/// The last one at a place: the one that is seen.
pub(crate) fn mount_at<'a>(report: &'a Value, target: &str) -> Option<&'a Value> {
    report["mounts"].as_array()?.iter().rfind(|mount| mount["target"] == target)
}
