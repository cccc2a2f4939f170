//! Containers of ordinary users, and of who is root only in somebody's user namespace.
//!
//! An ordinary user here is a number that nobody has: no account is needed.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::bundle::{Bundle, Said, is_root, wait_until};

const NOBODYS: u32 = 54_321;

/// A bundle that belongs to the ordinary user, whose runtime directory it also holds.
pub(crate) struct Ordinary {
    pub(crate) bundle: Bundle,
    program: PathBuf,
    uid: u32,
    /// XDG_RUNTIME_DIR.
    runtime_dir: PathBuf,
    /// Before each command.
    global: &'static [&'static str],
}

impl Ordinary {
    fn new(script: &str, change: impl FnOnce(&mut Value)) -> Ordinary {
        Ordinary::of(NOBODYS, None, &[], script, change)
    }

    /// Of a user who may have a runtime directory already.
    pub(crate) fn of(
        uid: u32,
        runtime_dir: Option<PathBuf>,
        global: &'static [&'static str],
        script: &str,
        change: impl FnOnce(&mut Value),
    ) -> Ordinary {
        let bundle = Bundle::new("true");
        let program = bundle.path().join("program");
        // The build's own directory may be closed to others.
        // By another process, since one that is cloned here meanwhile would hold it open for writing.
        let copied =
            Command::new("cp").arg(env!("CARGO_BIN_EXE_berth-runtime")).arg(&program).status().unwrap();
        assert!(copied.success());
        fs::set_permissions(bundle.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let runtime_dir = runtime_dir.unwrap_or_else(|| bundle.path().to_owned());
        let ordinary = Ordinary { bundle, program, uid, runtime_dir, global };
        ordinary.own();
        ordinary.say(&["spec", "--rootless"]).ok();
        let path = ordinary.bundle.path().join("config.json");
        let mut spec: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        spec["process"]["terminal"] = json!(false);
        spec["process"]["args"] = json!(["sh", "-c", script]);
        spec["process"]["env"] = json!(["PATH=/bin"]);
        change(&mut spec);
        fs::write(&path, serde_json::to_vec(&spec).unwrap()).unwrap();
        ordinary
    }

    pub(crate) fn set_runtime_dir(&mut self, dir: &std::path::Path) {
        std::os::unix::fs::chown(dir, Some(self.uid), Some(self.uid)).unwrap();
        self.runtime_dir = dir.to_owned();
    }

    fn own(&self) {
        let owner = format!("{0}:{0}", self.uid);
        assert!(
            Command::new("chown").args(["-hR", &owner]).arg(self.bundle.path()).status().unwrap().success()
        );
    }

    fn command(&self, words: &[&str]) -> Command {
        use std::os::unix::process::CommandExt as _;
        let mut command = Command::new(&self.program);
        let words = words.iter().map(|word| if *word == "ID" { self.bundle.id.as_str() } else { word });
        command.args(self.global).args(words).current_dir(self.bundle.path()).uid(self.uid).gid(self.uid);
        command.env_remove("DBUS_SESSION_BUS_ADDRESS").env("XDG_RUNTIME_DIR", &self.runtime_dir);
        command.stdin(Stdio::null());
        command
    }

    pub(crate) fn say(&self, words: &[&str]) -> Said {
        Said::from(self.command(words).output().unwrap())
    }

    pub(crate) fn start(&self) {
        let log = self.bundle.path().join("log");
        let err = fs::File::create(&log).unwrap();
        let status = self.command(&["run", "-d", "ID"]).stdout(Stdio::null()).stderr(err).status().unwrap();
        assert!(status.success(), "{}", fs::read_to_string(log).unwrap());
    }
}

impl Drop for Ordinary {
    fn drop(&mut self) {
        let said = self.say(&["delete", "--force", "ID"]);
        if !std::thread::panicking() {
            said.ok();
            assert!(!self.runtime_dir.join("berth-runtime").join(&self.bundle.id).exists());
        }
    }
}

#[test]
fn an_ordinary_user_runs_a_container() {
    if !is_root() {
        return;
    }
    let ordinary = Ordinary::new("id -u; cat /proc/self/uid_map; echo x > /dev/null && echo $$", |_| {});
    let said = ordinary.say(&["run", "ID"]);
    let words: Vec<&str> = said.ok().split_whitespace().collect();
    assert_eq!(words, ["0", "0", "0", "1", "1"]);
    assert_eq!(ordinary.say(&["list", "-q"]).ok(), "");
}

#[test]
fn an_ordinary_user_joins_kills_and_deletes_it() {
    if !is_root() {
        return;
    }
    let ordinary = Ordinary::new("exec sleep 100", |_| {});
    // The maps are written while the init may hide already: more than once, so that it shows.
    for _ in 0..5 {
        ordinary.start();
        assert_eq!(
            ordinary.say(&["exec", "ID", "sh", "-c", "id -u; ps | grep -c '[s]leep 100'"]).ok(),
            "0\n1"
        );
        assert!(ordinary.say(&["exec", "-t", "ID", "tty"]).ok().starts_with("/dev/pts/"));
        assert_eq!(ordinary.say(&["exec", "ID", "sh", "-c", "exit 9"]).code, 9);
        let state: Value = serde_json::from_str(ordinary.say(&["state", "ID"]).ok()).unwrap();
        assert_eq!((&state["status"], &state["owner"]), (&json!("running"), &json!(format!("#{NOBODYS}"))));
        let host = fs::read_to_string(format!("/proc/{}/status", state["pid"])).unwrap();
        assert!(host.contains(&format!("Uid:\t{NOBODYS}\t")), "{host}");
        ordinary.say(&["kill", "--all", "ID", "KILL"]).ok();
        wait_until(|| ordinary.say(&["state", "ID"]).out.contains("stopped"), "stopped");
        ordinary.say(&["delete", "ID"]).ok();
    }
}

/// The container's root is who owns the program, and no mount can be cloned.
#[test]
fn cve_2019_5736_an_ordinary_users_own_program_is_a_sealed_copy() {
    if !is_root() {
        return;
    }
    let ordinary = Ordinary::new("exec sleep 100", |_| {});
    let log = ordinary.bundle.path().join("log");
    let err = fs::File::create(&log).unwrap();
    let made = ordinary.command(&["create", "ID"]).stdout(Stdio::null()).stderr(err).status().unwrap();
    assert!(made.success(), "{}", fs::read_to_string(log).unwrap());
    let state: Value = serde_json::from_str(ordinary.say(&["state", "ID"]).ok()).unwrap();
    // What a container sees of us: the init that has not become its program yet.
    let link = format!("/proc/{}/exe", state["pid"]);
    let seen = fs::read_link(&link).unwrap();
    assert!(seen.to_string_lossy().starts_with("/memfd:berth-runtime"), "{}", seen.display());
    let program = fs::File::open(&link).unwrap();
    assert!(rustix::fs::fcntl_get_seals(&program).unwrap().contains(rustix::fs::SealFlags::WRITE));
}

#[test]
fn cve_2019_5736_where_memory_may_not_be_run_the_copy_is_a_file_without_a_name() {
    if !is_root() {
        return;
    }
    let ordinary = Ordinary::new("echo ran", |_| {});
    let own = ordinary.command(&["run", "ID"]);
    let user = NOBODYS.to_string();
    // The setting is of a PID namespace and those below.
    let script =
        "echo 2 > /proc/sys/vm/memfd_noexec && exec setpriv --reuid $0 --regid $0 --clear-groups \"$@\"";
    let mut command = Command::new("unshare");
    command.args(["--pid", "--fork", "--mount-proc", "--kill-child", "sh", "-c", script, &user]);
    command.arg(own.get_program()).args(own.get_args()).current_dir(ordinary.bundle.path());
    command.env("XDG_RUNTIME_DIR", ordinary.bundle.path());
    assert_eq!(Said::from(command.output().unwrap()).ok(), "ran");
}

#[test]
fn what_takes_root_is_refused_by_name() {
    if !is_root() {
        return;
    }
    let without = Ordinary::new("true", |spec| {
        spec["linux"]["namespaces"].as_array_mut().unwrap().retain(|one| one["type"] != "user");
    });
    without.say(&["run", "ID"]).refused(&["linux.namespaces", "user namespace", "spec --rootless"]);
    let limited = Ordinary::new("true", |spec| {
        spec["linux"]["resources"] = json!({"memory": {"limit": 1 << 26}});
    });
    limited.say(&["run", "ID"]).refused(&["cgroup", "Permission denied"]);
    let insisting = Ordinary::new("true", |_| {});
    insisting.say(&["--rootless", "false", "run", "ID"]).refused(&["cgroup", "Permission denied"]);
    let foreign = Ordinary::new("true", |spec| {
        spec["linux"]["uidMappings"] = json!([{"containerID": 0, "hostID": 4_000_000_000_u32, "size": 10}]);
    });
    foreign.say(&["run", "ID"]).refused(&["linux.uidMappings", "/etc/subuid"]);
}

/// As the containers of one pod do.
#[test]
fn an_ordinary_user_joins_namespaces_of_his_own() {
    if !is_root() {
        return;
    }
    let pod = Ordinary::new("exec sleep 100", |_| {});
    pod.start();
    let state: Value = serde_json::from_str(&pod.say(&["state", "ID"]).out).unwrap();
    let of_pod = |name: &str| format!("/proc/{}/ns/{name}", state["pid"]);
    let ids = |name: &str| fs::read_link(of_pod(name)).unwrap().display().to_string();
    let script = "id -u; for n in user uts ipc; do readlink /proc/self/ns/$n; done; exec sleep 100";
    let joins = |spec: &mut Value| {
        for one in spec["linux"]["namespaces"].as_array_mut().unwrap() {
            let kind = one["type"].as_str().unwrap().to_owned();
            if ["user", "uts", "ipc"].contains(&kind.as_str()) {
                one["path"] = json!(of_pod(&kind));
            }
        }
        spec.as_object_mut().unwrap().remove("hostname");
        spec["process"]["args"][2] = json!("exec sleep 100");
    };
    let member = Ordinary::new(script, joins);
    member.start();
    let said = member.say(&["exec", "ID", "sh", "-c", script.trim_end_matches("exec sleep 100")]);
    assert_eq!(said.ok(), format!("0\n{}\n{}\n{}", ids("user"), ids("uts"), ids("ipc")));
    member.say(&["kill", "ID", "KILL"]).ok();
    let foreign = Ordinary::new("true", |spec| {
        for one in spec["linux"]["namespaces"].as_array_mut().unwrap() {
            if one["type"] == "user" {
                one["path"] = json!("/proc/1/ns/user");
            }
        }
    });
    foreign.say(&["run", "ID"]).refused(&["/proc/1/ns/user (linux.namespaces["]);
}

#[test]
fn who_is_root_in_a_user_namespace_runs_containers_there() {
    if !is_root() || Command::new("unshare").arg("--version").output().is_err() {
        println!("skipped: no unshare(1)");
        return;
    }
    let mut bundle = Bundle::new("id -u; ls /dev/null; exec sleep 100");
    bundle.spec["mounts"].as_array_mut().unwrap().retain(|mount| mount["type"] != "sysfs");
    bundle.spec["linux"]["namespaces"].as_array_mut().unwrap().retain(|one| one["type"] != "cgroup");
    bundle.write();
    let program = env!("CARGO_BIN_EXE_berth-runtime");
    let inside = |script: &str| {
        let script = script.replace("R ", &format!("{program} --root state "));
        let mut command = Command::new("unshare");
        command.args(["--user", "--map-root-user", "--mount", "sh", "-ec", &script]);
        Said::from(command.current_dir(bundle.path()).stdin(Stdio::null()).output().unwrap())
    };
    let id = &bundle.id;
    let said = inside(&format!(
        "R run -d {id} >out 2>err </dev/null || {{ cat err >&2; exit 1; }}
         R exec {id} sh -c 'ps | grep -c \"[s]leep 100\"'; R kill {id} KILL; sleep 0.2; R delete {id}; cat out"
    ));
    assert_eq!(said.ok(), "1\n0\n/dev/null", "{}", said.err);
}
