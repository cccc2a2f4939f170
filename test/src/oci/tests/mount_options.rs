//! config.md, "Linux mount options": each word of its table, and what the mount is like with it.

use std::fs;

use serde_json::{Value, json};

use super::super::verdict::{Outcome, fails, is, same, that};
use super::super::{Lab, Level, Test, must};
use super::mounts::mount_at;

const OPTIONS: &str = "config.md#linux-mount-options";

/// What a word does to a tmpfs, as mountinfo tells it.
#[derive(Clone, Copy)]
enum Seen {
    /// This is among the mount's options.
    Has(&'static str),
    /// This is not, though the word before it set it.
    Not(&'static str),
    /// Among the file system's own options.
    Data(&'static str),
    /// It is taken and nothing shows.
    Taken,
    /// The mount is in this propagation state; empty for private.
    Propagation(&'static str),
}

use Seen::{Data, Has, Not, Propagation, Taken};

/// The words for all mounts, each after those that it is to undo, and the level of the table.
const WORDS: &[(&[&str], Seen, Level, u32)] = &[
    (&["async"], Taken, Level::Must, 0),
    (&["noatime", "atime"], Not("noatime"), Level::Must, 0),
    (&["defaults"], Taken, Level::Must, 0),
    (&["nodev", "dev"], Not("nodev"), Level::Must, 0),
    (&["nodiratime", "diratime"], Not("nodiratime"), Level::Must, 0),
    (&["dirsync"], Data("dirsync"), Level::Must, 0),
    (&["noexec", "exec"], Not("noexec"), Level::Must, 0),
    (&["iversion"], Taken, Level::Must, 1),
    (&["lazytime"], Data("lazytime"), Level::Must, 1),
    (&["loud"], Taken, Level::Must, 1),
    (&["noatime"], Has("noatime"), Level::Must, 0),
    (&["nodev"], Has("nodev"), Level::Must, 0),
    (&["nodiratime"], Has("nodiratime"), Level::Must, 0),
    (&["noexec"], Has("noexec"), Level::Must, 0),
    (&["noiversion"], Taken, Level::Must, 1),
    (&["nolazytime"], Taken, Level::Must, 1),
    (&["norelatime"], Not("relatime"), Level::Must, 0),
    (&["strictatime", "nostrictatime"], Has("relatime"), Level::Must, 0),
    (&["nosuid"], Has("nosuid"), Level::Must, 0),
    (&["nosymfollow"], Has("nosymfollow"), Level::Should, 1),
    (&["private"], Propagation(""), Level::Must, 0),
    (&["relatime"], Has("relatime"), Level::Must, 0),
    (&["ro"], Has("ro"), Level::Must, 0),
    (&["rprivate"], Propagation(""), Level::Must, 0),
    (&["rshared"], Propagation("shared:"), Level::Must, 0),
    (&["rslave"], Propagation(""), Level::Must, 0),
    (&["runbindable"], Propagation("unbindable"), Level::Must, 0),
    (&["ro", "rw"], Has("rw"), Level::Must, 0),
    (&["shared"], Propagation("shared:"), Level::Must, 0),
    (&["silent"], Taken, Level::Must, 1),
    (&["slave"], Propagation(""), Level::Must, 0),
    (&["strictatime"], Not("relatime"), Level::Must, 0),
    (&["nosuid", "suid"], Not("nosuid"), Level::Must, 0),
    (&["nosymfollow", "symfollow"], Not("nosymfollow"), Level::Should, 1),
    (&["sync"], Data("sync"), Level::Must, 0),
    (&["unbindable"], Propagation("unbindable"), Level::Must, 0),
];

/// Those for a whole tree: what both mounts of it have, or have not.
const RECURSIVE: &[(&str, Seen)] = &[
    ("rro", Has("ro")),
    ("rrw", Has("rw")),
    ("rnodev", Has("nodev")),
    ("rdev", Not("nodev")),
    ("rnosuid", Has("nosuid")),
    ("rsuid", Not("nosuid")),
    ("rnoexec", Has("noexec")),
    ("rexec", Not("noexec")),
    ("rnodiratime", Has("nodiratime")),
    ("rdiratime", Not("nodiratime")),
    ("rnoatime", Has("noatime")),
    ("ratime", Not("noatime")),
    ("rrelatime", Has("relatime")),
    ("rnorelatime", Not("relatime")),
    ("rstrictatime", Not("relatime")),
    ("rnostrictatime", Has("relatime")),
    ("rnosymfollow", Has("nosymfollow")),
    ("rsymfollow", Not("nosymfollow")),
];

pub(crate) fn tests() -> Vec<Test> {
    let mut tests: Vec<Test> = WORDS.iter().map(one).collect();
    tests.extend(RECURSIVE.iter().map(recursive));
    tests.extend(effects());
    tests.extend(others());
    tests
}

fn one(&(words, seen, level, since): &'static (&[&str], Seen, Level, u32)) -> Test {
    let test = must(OPTIONS, words.last().copied().unwrap_or_default(), move |lab| {
        let mut bundle = lab.bundle()?;
        bundle.mount("/mnt", "tmpfs", words);
        shows(&bundle.report()?, "/mnt", seen)
    });
    Test { level, ..test }.since(since)
}

/// On a bound tree of two mounts.
fn recursive(&(word, seen): &'static (&str, Seen)) -> Test {
    let test = must(OPTIONS, format!("{word}, on a mount and the one below it"), move |lab| {
        let mut bundle = lab.bundle()?;
        let source = bundle.outside("tree");
        fs::create_dir(&source)?;
        tmpfs_like_its_opposite(&source, seen)?;
        fs::create_dir(source.join("sub"))?;
        tmpfs_like_its_opposite(&source.join("sub"), seen)?;
        if matches!(seen, Has("rw")) {
            let readonly = rustix::mount::MountFlags::BIND | rustix::mount::MountFlags::RDONLY;
            for dir in [source.join("sub"), source.clone()] {
                rustix::mount::mount_remount(&dir, readonly, "").map_err(std::io::Error::from)?;
            }
        }
        bundle.bind(&source, "/mnt", &["rbind", word]);
        let report = bundle.report()?;
        shows(&report, "/mnt", seen)?;
        shows(&report, "/mnt/sub", seen)
    });
    Test { level: Level::Should, ..test }.since(1)
}

/// A tmpfs that has what the word is to take away.
fn tmpfs_like_its_opposite(target: &std::path::Path, seen: Seen) -> anyhow::Result<()> {
    use rustix::mount::MountFlags as Flags;
    let flags = match seen {
        Not("nodev") => Flags::NODEV,
        Not("nosuid") => Flags::NOSUID,
        Not("noexec") => Flags::NOEXEC,
        Not("nodiratime") => Flags::NODIRATIME,
        Not("noatime") => Flags::NOATIME,
        Has("relatime") => Flags::STRICTATIME,
        Not("relatime") => Flags::RELATIME,
        Not("nosymfollow") => Flags::from_bits_retain(256),
        _ => Flags::empty(),
    };
    rustix::mount::mount("berth-oci", target, "tmpfs", flags, None::<&std::ffi::CStr>)?;
    Ok(())
}

fn shows(report: &Value, target: &str, seen: Seen) -> Outcome {
    let Some(mount) = mount_at(report, target) else {
        return fails(format!("nothing is mounted on {target}"));
    };
    let has = |field: &str, word: &str| {
        mount[field].as_array().is_some_and(|words| words.iter().any(|known| known == word))
    };
    let told = || format!("{target} has {} / {} / {}", mount["options"], mount["data"], mount["propagation"]);
    match seen {
        Has(word) => that(has("options", word), told),
        Not(word) => that(!has("options", word), told),
        Data(word) => that(has("data", word), told),
        Taken => Ok(()),
        Propagation("") => is("propagation", &mount["propagation"], json!([])),
        Propagation(word) => that(mount["propagation"].to_string().contains(word), told),
    }
}

/// That the kernel does as the words say.
fn effects() -> Vec<Test> {
    vec![
        must(OPTIONS, "ro: writing is refused", |lab| {
            let mut bundle = lab.bundle()?;
            same("creating", bundle.mount("/mnt", "tmpfs", &["ro"]).attempt("create:/mnt/x")?, "EROFS")
        }),
        must(OPTIONS, "noexec: executing is refused", |lab| {
            same("running", with_probe(lab, &["noexec"], "run:/mnt/probe id")?, "EACCES")
        }),
        must(OPTIONS, "nosuid: a setuid program is just a program", |lab| {
            same("running", with_probe(lab, &["nosuid"], "run:/mnt/setuid id")?, "ok: 0 1000")
        }),
        must(OPTIONS, "nodev: a device is just a name", |lab| {
            same("opening", with_probe(lab, &["nodev"], "read:/mnt/zero")?, "EACCES")
        }),
        must(OPTIONS, "rslave: what the host mounts later shows, and not the other way", |lab| {
            let mut bundle = lab.bundle()?;
            let source = shared_source(&bundle.outside("shared"))?;
            bundle.bind(&source, "/mnt", &["rbind", "rslave"]).running()?;
            mount_below(&source)?;
            let said = bundle.say(&["exec", "ID", "/probe", "report", "ls:/mnt/later"])?;
            that(said.out.contains("\"ok: there\""), || format!("it sees {}", tail(&said.out)))
        }),
        must(OPTIONS, "rprivate: what the host mounts later does not show", |lab| {
            let mut bundle = lab.bundle()?;
            let source = shared_source(&bundle.outside("shared"))?;
            bundle.bind(&source, "/mnt", &["rbind", "rprivate"]).running()?;
            mount_below(&source)?;
            let said = bundle.say(&["exec", "ID", "/probe", "report", "ls:/mnt/later"])?;
            that(!said.out.contains("\"ok: there\""), || "it does".into())
        }),
        must(OPTIONS, "rshared: what the container mounts shows on the host", |lab| {
            let mut bundle = lab.bundle()?;
            let source = shared_source(&bundle.outside("shared"))?;
            for set in ["bounding", "effective", "permitted"] {
                bundle.push(&format!("/process/capabilities/{set}"), "CAP_SYS_ADMIN");
            }
            // What engines ask for beside it.
            bundle.set("/linux/rootfsPropagation", "shared").bind(&source, "/mnt", &["rbind", "rshared"]);
            same("mounting", bundle.attempt("mount:/mnt/later")?, "ok")?;
            let mounts = fs::read_to_string("/proc/self/mountinfo")?;
            that(mounts.contains(&source.join("later").display().to_string()), || "it does not".into())
        }),
    ]
}

fn tail(text: &str) -> String {
    text.split("\"tries\"").nth(1).unwrap_or(text).chars().take(200).collect()
}

/// A directory that is a shared mount of its own.
fn shared_source(dir: &std::path::Path) -> anyhow::Result<std::path::PathBuf> {
    use rustix::mount::{MountPropagationFlags, mount_change};
    fs::create_dir(dir)?;
    rustix::mount::mount(
        "berth-oci",
        dir,
        "tmpfs",
        rustix::mount::MountFlags::empty(),
        None::<&std::ffi::CStr>,
    )?;
    mount_change(dir, MountPropagationFlags::SHARED)?;
    fs::create_dir(dir.join("later"))?;
    Ok(dir.to_owned())
}

fn mount_below(source: &std::path::Path) -> anyhow::Result<()> {
    let later = source.join("later");
    rustix::mount::mount(
        "berth-oci",
        &later,
        "tmpfs",
        rustix::mount::MountFlags::empty(),
        None::<&std::ffi::CStr>,
    )?;
    fs::write(later.join("there"), "")?;
    Ok(())
}

/// A bound directory with a program, a setuid one and a device; tried as a user.
fn with_probe(lab: &Lab<'_>, options: &[&str], what: &str) -> anyhow::Result<String> {
    use std::os::unix::fs::PermissionsExt as _;
    let mut bundle = lab.bundle()?;
    let dir = bundle.outside("dir");
    fs::create_dir(&dir)?;
    for (name, mode) in [("probe", 0o755), ("setuid", 0o4755)] {
        fs::copy(&lab.probe, dir.join(name))?;
        fs::set_permissions(dir.join(name), fs::Permissions::from_mode(mode))?;
    }
    let kind = rustix::fs::FileType::CharacterDevice;
    let mode = rustix::fs::Mode::from_raw_mode(0o666);
    rustix::fs::mknodat(rustix::fs::CWD, dir.join("zero"), kind, mode, rustix::fs::makedev(1, 5))?;
    bundle.set("/process/user", json!({"uid": 1000, "gid": 1000})).bind(&dir, "/mnt", options);
    bundle.attempt(what)
}

fn others() -> Vec<Test> {
    vec![
        must(OPTIONS, "remount changes a mount that is there", |lab| {
            let mut bundle = lab.bundle()?;
            bundle.mount("/mnt", "tmpfs", &["rw"]).mount("/mnt", "tmpfs", &["remount", "ro"]);
            let report = bundle.tries(&["create:/mnt/x"]).report()?;
            let count =
                report["mounts"].as_array().into_iter().flatten().filter(|m| m["target"] == "/mnt").count();
            same("mounts there", count, 1)?;
            shows(&report, "/mnt", Has("ro"))
        }),
        must(OPTIONS, "an option that neither the runtime nor the file system knows is an error", |lab| {
            lab.bundle()?.mount("/mnt", "tmpfs", &["nosuchoption"]).refused()
        }),
        Test {
            level: Level::Should,
            ..must(OPTIONS, "an unknown option goes to the file system", |lab| {
                let mut bundle = lab.bundle()?;
                bundle.mount("/mnt", "tmpfs", &["nr_inodes=77"]);
                shows(&bundle.report()?, "/mnt", Data("nr_inodes=77"))
            })
        },
        Test {
            level: Level::Should,
            ..must(OPTIONS, "tmpcopyup fills the tmpfs with what was there", |lab| {
                let mut bundle = lab.bundle()?;
                fs::write(bundle.rootfs().join("etc/kept"), "there")?;
                bundle.mount("/etc", "tmpfs", &["tmpcopyup"]);
                same("the file", bundle.attempt("read:/etc/kept")?, "ok: there")
            })
        },
    ]
}
