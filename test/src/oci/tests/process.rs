//! config.md, "Process" and "User": program, arguments, environment, directory, identity.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};

use serde_json::{Value, json};

use super::super::bundle::tried;
use super::super::verdict::{is, same, that};
use super::super::{Test, must, should};

const PROCESS: &str = "config.md#process";
const USER: &str = "config.md#posix-platform-user";
const LINUX: &str = "config.md#linux-process";

pub(crate) fn tests() -> Vec<Test> {
    [program(), directory(), user(), privileges(), inheritance()].into_iter().flatten().collect()
}

fn program() -> Vec<Test> {
    vec![
        must(PROCESS, "arguments arrive as they are", |lab| {
            let mut bundle = lab.bundle()?;
            let args = ["/probe", "a b", "", "\"'$\\", "ünï", "-x"];
            is("argv", &bundle.args(&args).report()?["args"], json!(args))
        }),
        must(PROCESS, "a name without a slash is looked for in PATH", |lab| {
            let mut bundle = lab.bundle()?;
            bundle.args(&["probe", "report"]).set("/process/env", json!(["PATH=/nosuch:/"]));
            is("argv[0]", &bundle.report()?["args"][0], "probe")
        }),
        must(PROCESS, "a name that is nowhere in PATH is an error", |lab| {
            let mut bundle = lab.bundle()?;
            bundle.args(&["probe", "report"]).set("/process/env", json!(["PATH=/nosuch"]));
            bundle.refused()
        }),
        must(PROCESS, "a program that is not there is an error", |lab| {
            lab.bundle()?.args(&["/nosuch"]).refused()
        }),
        must(PROCESS, "a program that cannot be executed is an error", |lab| {
            let mut bundle = lab.bundle()?;
            fs::write(bundle.rootfs().join("data"), "x")?;
            bundle.args(&["/data"]).refused()
        }),
        must(PROCESS, "a directory as program is an error", |lab| lab.bundle()?.args(&["/tmp"]).refused()),
        must(PROCESS, "no arguments is an error", |lab| {
            lab.bundle()?.set("/process/args", json!([])).refused()
        }),
        must(PROCESS, "absent arguments are an error", |lab| lab.bundle()?.unset("/process/args").refused()),
        must(PROCESS, "the environment holds what was given, and no variable of the runtime's", |lab| {
            let mut bundle = lab.bundle()?;
            let given = ["PATH=/", "A=1=2", "EMPTY=", "UTF=ü", "SPACE= x "];
            let report = bundle.set("/process/env", json!(given)).report()?;
            let found = strings(&report["env"]);
            // runc and crun add HOME, which shells rely on.
            let rest: Vec<&str> =
                found.iter().map(String::as_str).filter(|variable| !variable.starts_with("HOME=")).collect();
            same("environment", rest, given)
        }),
        must(PROCESS, "an absent environment is no error", |lab| {
            lab.bundle()?.unset("/process/env").report().map(drop).map_err(Into::into)
        }),
        must(PROCESS, "the exit code of the program is that of the run", |lab| {
            let mut bundle = lab.bundle()?;
            same("exit code", bundle.args(&["/probe", "exit", "42"]).run()?.code, 42)
        }),
    ]
}

fn strings(list: &Value) -> Vec<String> {
    list.as_array().into_iter().flatten().filter_map(|text| text.as_str().map(str::to_owned)).collect()
}

fn directory() -> Vec<Test> {
    vec![
        must(PROCESS, "cwd is the working directory", |lab| {
            is("cwd", &lab.bundle()?.set("/process/cwd", "/tmp").report()?["cwd"], "/tmp")
        }),
        must(PROCESS, "a cwd that is not absolute is an error", |lab| {
            lab.bundle()?.set("/process/cwd", "tmp").refused()
        }),
        must(PROCESS, "an empty cwd is an error", |lab| lab.bundle()?.set("/process/cwd", "").refused()),
        must(PROCESS, "a cwd that is a file is an error", |lab| {
            lab.bundle()?.set("/process/cwd", "/probe").refused()
        }),
        must(PROCESS, "a cwd through a link means what it means inside", |lab| {
            let mut bundle = lab.bundle()?;
            symlink("/tmp", bundle.rootfs().join("link"))?;
            is("cwd", &bundle.set("/process/cwd", "/link").report()?["cwd"], "/tmp")
        }),
        must(PROCESS, "a cwd that only the user may enter is entered as the user", |lab| {
            let mut bundle = lab.bundle()?;
            let home = bundle.rootfs().join("home");
            fs::create_dir(&home)?;
            fs::set_permissions(&home, fs::Permissions::from_mode(0o700))?;
            std::os::unix::fs::chown(&home, Some(1000), Some(1000))?;
            bundle.set("/process/user", json!({"uid": 1000, "gid": 1000})).set("/process/cwd", "/home");
            is("cwd", &bundle.report()?["cwd"], "/home")
        }),
        must("config.md#root", "a cwd in a mount is that of the mount", |lab| {
            let mut bundle = lab.bundle()?;
            let source = bundle.outside("volume");
            fs::create_dir_all(source.join("deep"))?;
            bundle.bind(&source, "/mnt", &[]).set("/process/cwd", "/mnt/deep");
            is("cwd", &bundle.report()?["cwd"], "/mnt/deep")
        }),
    ]
}

fn user() -> Vec<Test> {
    vec![
        must(USER, "uid is all four of the process's user ids", |lab| {
            let mut bundle = lab.bundle()?;
            let report = bundle.set("/process/user", json!({"uid": 1234, "gid": 0})).report()?;
            is("uids", &report["uid"], json!([1234, 1234, 1234, 1234]))
        }),
        must(USER, "gid is all four of the process's group ids", |lab| {
            let mut bundle = lab.bundle()?;
            let report = bundle.set("/process/user", json!({"uid": 0, "gid": 4321})).report()?;
            is("gids", &report["gid"], json!([4321, 4321, 4321, 4321]))
        }),
        must(USER, "the largest valid id works", |lab| {
            let mut bundle = lab.bundle()?;
            let id = u32::MAX - 1;
            let report = bundle.set("/process/user", json!({"uid": id, "gid": id})).report()?;
            is("uid", &report["uid"][0], json!(id))?;
            is("gid", &report["gid"][0], json!(id))
        }),
        must(USER, "additionalGids are the supplementary groups", |lab| {
            let mut bundle = lab.bundle()?;
            bundle.set("/process/user", json!({"uid": 1, "gid": 2, "additionalGids": [10, 70000]}));
            let mut groups = numbers(&bundle.report()?["groups"]);
            groups.sort_unstable();
            groups.retain(|group| *group != 2);
            same("groups", groups, [10, 70000])
        }),
        must(USER, "without additionalGids none of the runtime's groups stay", |lab| {
            let mut bundle = lab.bundle()?;
            bundle.set("/process/user", json!({"uid": 1000, "gid": 1000}));
            let mut groups = numbers(&bundle.report()?["groups"]);
            groups.retain(|group| *group != 1000);
            same("groups", groups, Vec::<u64>::new())
        }),
        must(USER, "umask is the process's", |lab| {
            let mut bundle = lab.bundle()?;
            is("umask", &bundle.set("/process/user/umask", 0o27).report()?["umask"], 0o27)
        }),
        must(USER, "a umask of 0 is one", |lab| {
            let mut bundle = lab.bundle()?;
            is("umask", &bundle.set("/process/user/umask", 0).report()?["umask"], 0)
        }),
        must(USER, "a uid below 0 is an error", |lab| {
            lab.bundle()?.set("/process/user", json!({"uid": -1, "gid": 0})).refused()
        }),
        must(USER, "a uid above 32 bits is an error", |lab| {
            lab.bundle()?.set("/process/user", json!({"uid": 4_294_967_296_u64, "gid": 0})).refused()
        }),
        must(USER, "a name as uid is an error", |lab| {
            lab.bundle()?.set("/process/user", json!({"uid": "root", "gid": 0})).refused()
        }),
    ]
}

fn numbers(list: &Value) -> Vec<u64> {
    list.as_array().into_iter().flatten().filter_map(Value::as_u64).collect()
}

fn privileges() -> Vec<Test> {
    vec![
        must(LINUX, "noNewPrivileges sets the flag", |lab| {
            let mut bundle = lab.bundle()?;
            is("NoNewPrivs", &bundle.set("/process/noNewPrivileges", true).report()?["no_new_privs"], "1")
        }),
        must(LINUX, "noNewPrivileges keeps a setuid program from its owner's rights", |lab| {
            let mut bundle = lab.bundle()?;
            setuid_copy(&bundle.rootfs())?;
            bundle
                .set("/process/noNewPrivileges", true)
                .set("/process/user", json!({"uid": 1000, "gid": 1000}));
            same("its user", bundle.attempt("run:/setuid id")?, "ok: 0 1000")
        }),
        must(LINUX, "without noNewPrivileges a setuid program has them", |lab| {
            let mut bundle = lab.bundle()?;
            setuid_copy(&bundle.rootfs())?;
            bundle
                .set("/process/noNewPrivileges", false)
                .set("/process/user", json!({"uid": 1000, "gid": 1000}));
            let report = bundle.tries(&["run:/setuid id"]).report()?;
            is("NoNewPrivs", &report["no_new_privs"], "0")?;
            same("its user", tried(&report, "run:/setuid id"), "ok: 0 0")
        }),
        must(LINUX, "apparmorProfile is the process's", |lab| {
            if !std::path::Path::new("/sys/kernel/security/apparmor/profiles").exists() {
                return super::super::verdict::not_applicable("this kernel has no AppArmor");
            }
            let mut bundle = lab.bundle()?;
            is(
                "label",
                &bundle.set("/process/apparmorProfile", "unconfined").report()?["label"],
                "unconfined",
            )
        }),
        must(LINUX, "an apparmorProfile that is not there is an error", |lab| {
            lab.bundle()?.set("/process/apparmorProfile", "berth-nosuch-profile").refused()
        }),
        must(LINUX, "an selinuxLabel that cannot be is an error", |lab| {
            lab.bundle()?.set("/process/selinuxLabel", "berth_nosuch_label").refused()
        }),
    ]
}

fn setuid_copy(rootfs: &std::path::Path) -> anyhow::Result<()> {
    let copy = rootfs.join("setuid");
    fs::copy(rootfs.join("probe"), &copy)?;
    fs::set_permissions(&copy, fs::Permissions::from_mode(0o4755))?;
    Ok(())
}

/// What nobody asked for and everybody relies on.
fn inheritance() -> Vec<Test> {
    vec![
        should(PROCESS, "only the three standard descriptors are open", |lab| {
            let report = lab.bundle()?.report()?;
            let mut fds: Vec<&String> =
                report["fds"].as_object().into_iter().flat_map(|fds| fds.keys()).collect();
            fds.sort();
            same("descriptors", fds, ["0", "1", "2"])
        }),
        should(PROCESS, "no signal is blocked or ignored", |lab| {
            let report = lab.bundle()?.report()?;
            is("blocked", &report["blocked_signals"], 0)?;
            // Rust programs ignore SIGPIPE themselves, and 32 and 33 are the C library's own.
            let ignored = report["ignored_signals"].as_u64().unwrap_or(1) & !(1 << 12 | 1 << 31 | 1 << 32);
            same("ignored", ignored, 0)
        }),
        should(PROCESS, "the process leads a session of its own", |lab| {
            let report = lab.bundle()?.report()?;
            that(report["session"] == report["pid"], || {
                format!("session {} of {}", report["session"], report["pid"])
            })
        }),
        should(USER, "an absent umask is the caller's or the usual 022", |lab| {
            is("umask", &lab.bundle()?.report()?["umask"], 0o22)
        }),
    ]
}
