//! config-linux.md, "Seccomp": actions, conditions, and what makes a profile invalid.

use std::io::Read as _;
use std::os::unix::net::UnixListener;

use serde_json::{Value, json};

use super::super::bundle::tried;
use super::super::verdict::{fails, is, same, that};
use super::super::{Test, must};

const SECCOMP: &str = "config-linux.md#seccomp";
const MKDIR: &str = "mkdir:/tmp/x";

pub(crate) fn tests() -> Vec<Test> {
    let mut tests = actions();
    tests.extend(conditions());
    tests.extend(whole_profiles());
    tests.extend(invalid());
    tests.push(listener());
    tests
}

/// mkdir(2) under an action.
fn on_mkdir(action: &str, more: Value) -> Value {
    let mut rule = json!({"names": ["mkdir", "mkdirat"], "action": action});
    for (key, value) in more.as_object().into_iter().flatten() {
        rule[key] = value.clone();
    }
    json!({"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64"], "syscalls": [rule]})
}

fn actions() -> Vec<Test> {
    let answers = |name: &'static str, profile: Value, wanted: &'static str| {
        must(SECCOMP, name, move |lab| {
            let mut bundle = lab.bundle()?;
            same("mkdir", bundle.set("/linux/seccomp", profile.clone()).attempt(MKDIR)?, wanted)
        })
    };
    let ends = |name: &'static str, action: &'static str, signal: i32| {
        must(SECCOMP, name, move |lab| {
            let mut bundle = lab.bundle()?;
            bundle.set("/linux/seccomp", on_mkdir(action, json!({}))).tries(&[MKDIR]);
            same("exit code", bundle.run()?.code, 128 + signal)
        })
    };
    vec![
        answers("SCMP_ACT_ALLOW allows", on_mkdir("SCMP_ACT_ALLOW", json!({})), "ok"),
        answers("SCMP_ACT_LOG allows", on_mkdir("SCMP_ACT_LOG", json!({})), "ok"),
        answers("SCMP_ACT_ERRNO is EPERM by default", on_mkdir("SCMP_ACT_ERRNO", json!({})), "EPERM"),
        answers(
            "errnoRet is what ERRNO answers",
            on_mkdir("SCMP_ACT_ERRNO", json!({"errnoRet": 71})),
            "EPROTO",
        ),
        answers("SCMP_ACT_TRACE without a tracer is ENOSYS", on_mkdir("SCMP_ACT_TRACE", json!({})), "ENOSYS"),
        ends("SCMP_ACT_KILL_PROCESS kills", "SCMP_ACT_KILL_PROCESS", 31),
        ends("SCMP_ACT_KILL kills", "SCMP_ACT_KILL", 31),
        ends("SCMP_ACT_TRAP is SIGSYS", "SCMP_ACT_TRAP", 31),
        must(SECCOMP, "SCMP_ACT_KILL_THREAD kills", |lab| {
            let mut bundle = lab.bundle()?;
            bundle.set("/linux/seccomp", on_mkdir("SCMP_ACT_KILL_THREAD", json!({}))).tries(&[MKDIR]);
            same("exit code", bundle.run()?.code, 128 + 31)
        }),
    ]
}

/// A rule on the first argument of socket(2), and which families it then denies.
fn conditions() -> Vec<Test> {
    const FAMILIES: [(&str, u64); 3] = [("socket:1", 1), ("socket:2", 2), ("socket:10", 10)];
    let on_family = |name: &'static str, args: Value, denied: &'static [u64]| {
        must(SECCOMP, name, move |lab| {
            let mut bundle = lab.bundle()?;
            let rule = json!({"names": ["socket"], "action": "SCMP_ACT_ERRNO", "errnoRet": 71, "args": args});
            bundle.set("/linux/seccomp", json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]}));
            let report = bundle.tries(&FAMILIES.map(|(what, _)| what)).report()?;
            for (what, family) in FAMILIES {
                let is_denied = tried(&report, what) == "EPROTO";
                same(&format!("family {family} denied"), is_denied, denied.contains(&family))?;
            }
            Ok(())
        })
    };
    let one = |op: &str| json!([{"index": 0, "value": 2, "op": op}]);
    vec![
        on_family("SCMP_CMP_EQ", one("SCMP_CMP_EQ"), &[2]),
        on_family("SCMP_CMP_NE", one("SCMP_CMP_NE"), &[1, 10]),
        on_family("SCMP_CMP_LT", one("SCMP_CMP_LT"), &[1]),
        on_family("SCMP_CMP_LE", one("SCMP_CMP_LE"), &[1, 2]),
        on_family("SCMP_CMP_GE", one("SCMP_CMP_GE"), &[2, 10]),
        on_family("SCMP_CMP_GT", one("SCMP_CMP_GT"), &[10]),
        on_family(
            "SCMP_CMP_MASKED_EQ: value is the mask",
            json!([{"index": 0, "value": 2, "valueTwo": 2, "op": "SCMP_CMP_MASKED_EQ"}]),
            &[2, 10],
        ),
        on_family(
            "several conditions hold together",
            json!([{"index": 0, "value": 1, "op": "SCMP_CMP_GT"}, {"index": 1, "value": 3, "op": "SCMP_CMP_LT"},
                   {"index": 2, "value": 0, "op": "SCMP_CMP_EQ"}]),
            &[2, 10],
        ),
        on_family(
            "64 bits are compared",
            json!([{"index": 0, "value": 4_294_967_298_u64, "op": "SCMP_CMP_LT"}]),
            &[1, 2, 10],
        ),
    ]
}

fn whole_profiles() -> Vec<Test> {
    vec![
        must(SECCOMP, "defaultErrnoRet is what the default answers", |lab| {
            // Everything that is not one of the first 20 names of a shell's life: what the probe needs is allowed.
            let mut bundle = lab.bundle()?;
            let mut profile = allow_all_but_mkdir();
            profile["defaultErrnoRet"] = json!(71);
            same("mkdir", bundle.set("/linux/seccomp", profile).attempt(MKDIR)?, "EPROTO")
        })
        .since(1),
        must(SECCOMP, "defaultAction is for what no rule names", |lab| {
            let mut bundle = lab.bundle()?;
            same("mkdir", bundle.set("/linux/seccomp", allow_all_but_mkdir()).attempt(MKDIR)?, "EPERM")
        }),
        must(SECCOMP, "the filter is there with and without noNewPrivileges", |lab| {
            for flag in [true, false] {
                let mut bundle = lab.bundle()?;
                bundle
                    .set("/linux/seccomp", on_mkdir("SCMP_ACT_ERRNO", json!({})))
                    .set("/process/noNewPrivileges", flag);
                let report = bundle.tries(&[MKDIR]).report()?;
                is("mode", &report["seccomp"], "2")?;
                same("mkdir", tried(&report, MKDIR), "EPERM")?;
            }
            Ok(())
        }),
        must(SECCOMP, "without a profile there is no filter", |lab| {
            is("mode", &lab.bundle()?.report()?["seccomp"], "0")
        }),
        must(SECCOMP, "a name that no kernel has is no error", |lab| {
            let mut bundle = lab.bundle()?;
            let mut profile = on_mkdir("SCMP_ACT_ERRNO", json!({}));
            profile["syscalls"][0]["names"] = json!(["berth_nosuch_call", "mkdir", "mkdirat"]);
            same("mkdir", bundle.set("/linux/seccomp", profile).attempt(MKDIR)?, "EPERM")
        }),
        must(SECCOMP, "several architectures", |lab| {
            let mut bundle = lab.bundle()?;
            let mut profile = on_mkdir("SCMP_ACT_ERRNO", json!({}));
            profile["architectures"] = json!(["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"]);
            same("mkdir", bundle.set("/linux/seccomp", profile).attempt(MKDIR)?, "EPERM")
        }),
        must(SECCOMP, "flags are taken", |lab| {
            let mut bundle = lab.bundle()?;
            let mut profile = on_mkdir("SCMP_ACT_ERRNO", json!({}));
            profile["flags"] = json!(["SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_SPEC_ALLOW"]);
            same("mkdir", bundle.set("/linux/seccomp", profile).attempt(MKDIR)?, "EPERM")
        }),
    ]
}

/// mkdir is denied by the default, and everything else by number is too much to list: what the probe and the runtimes
/// use after the filter is on.
fn allow_all_but_mkdir() -> Value {
    const NEEDED: &str = "access arch_prctl bind brk capget capset chdir clock_gettime clone clone3 close close_range connect \
        dup dup2 dup3 epoll_create1 epoll_ctl epoll_pwait eventfd2 execve execveat exit exit_group faccessat faccessat2 fchdir \
        fchown fcntl fstat fstatfs futex getcwd getdents64 getegid geteuid getgid getpeername getpid getppid getrandom \
        getrlimit getsid getsockname gettid gettimeofday getuid ioctl lseek lstat madvise membarrier mmap mprotect mremap \
        munmap nanosleep newfstatat open openat openat2 pipe pipe2 poll ppoll prctl pread64 prlimit64 pwrite64 read readlink \
        readlinkat recvfrom recvmsg rseq rt_sigaction rt_sigprocmask rt_sigreturn sched_getaffinity sched_yield seccomp sendmsg \
        sendto set_robust_list set_tid_address setgid setgroups setresgid setresuid setsid setuid sigaltstack socket socketpair \
        stat statfs statx sysinfo tgkill umask uname wait4 waitid write writev";
    let names: Vec<&str> = NEEDED.split_whitespace().collect();
    json!({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{"names": names, "action": "SCMP_ACT_ALLOW"}]})
}

fn invalid() -> Vec<Test> {
    let refused = |name: &'static str, profile: Value| {
        must(SECCOMP, name, move |lab| lab.bundle()?.set("/linux/seccomp", profile.clone()).refused())
    };
    let with = |pointer: &str, value: Value| {
        let mut profile =
            on_mkdir("SCMP_ACT_ERRNO", json!({"args": [{"index": 0, "value": 0, "op": "SCMP_CMP_EQ"}]}));
        match profile.pointer_mut(pointer) {
            Some(place) => *place = value,
            None => profile[pointer.trim_start_matches('/')] = value,
        }
        profile
    };
    vec![
        refused("an unknown defaultAction is an error", with("/defaultAction", json!("SCMP_ACT_NOSUCH"))),
        refused("an absent defaultAction is an error", json!({"syscalls": []})),
        refused("an unknown action is an error", with("/syscalls/0/action", json!("SCMP_ACT_NOSUCH"))),
        refused("an unknown operator is an error", with("/syscalls/0/args/0/op", json!("SCMP_CMP_NOSUCH"))),
        refused("an unknown architecture is an error", with("/architectures", json!(["SCMP_ARCH_NOSUCH"]))),
        refused("an unknown flag is an error", with("/flags", json!(["SECCOMP_FILTER_FLAG_NOSUCH"]))),
        refused("an argument's index above 5 is an error", with("/syscalls/0/args/0/index", json!(6))),
        refused("empty names are an error", with("/syscalls/0/names", json!([]))),
        refused(
            "errnoRet with an action that has none is an error",
            on_mkdir("SCMP_ACT_ALLOW", json!({"errnoRet": 1})),
        )
        .since(1),
        refused(
            "defaultErrnoRet with an action that has none is an error",
            json!({"defaultAction": "SCMP_ACT_ALLOW", "defaultErrnoRet": 1}),
        )
        .since(1),
        refused("listenerMetadata without listenerPath is an error", with("/listenerMetadata", json!("x")))
            .since(1),
        refused("SCMP_ACT_NOTIFY without listenerPath is an error", on_mkdir("SCMP_ACT_NOTIFY", json!({})))
            .since(1),
        must(SECCOMP, "listenerPath that nobody listens at is an error", |lab| {
            let mut bundle = lab.bundle()?;
            let mut profile = on_mkdir("SCMP_ACT_NOTIFY", json!({}));
            profile["listenerPath"] = json!(bundle.outside("nobody.sock"));
            bundle.set("/linux/seccomp", profile).refused()
        })
        .since(1),
        must(SECCOMP, "listenerPath without SCMP_ACT_NOTIFY is ignored", |lab| {
            let mut bundle = lab.bundle()?;
            let mut profile = on_mkdir("SCMP_ACT_ERRNO", json!({}));
            profile["listenerPath"] = json!(bundle.outside("nobody.sock"));
            same("mkdir", bundle.set("/linux/seccomp", profile).attempt(MKDIR)?, "EPERM")
        })
        .since(1),
    ]
}

/// The agent gets the state as JSON and a descriptor; here it only reads.
fn listener() -> Test {
    must(
        "config-linux.md#the-container-process-state",
        "an agent is told state, pid, fds and metadata",
        |lab| {
            let mut bundle = lab.bundle()?;
            let path = bundle.outside("agent.sock");
            let listener = UnixListener::bind(&path)?;
            listener.set_nonblocking(true)?;
            let mut profile = on_mkdir("SCMP_ACT_NOTIFY", json!({}));
            profile["listenerPath"] = json!(path);
            profile["listenerMetadata"] = json!("some=data");
            bundle.set("/linux/seccomp", profile).set("/process/noNewPrivileges", false).create()?;
            let mut text = String::new();
            match listener.accept() {
                Ok((mut stream, _)) => {
                    stream.set_nonblocking(false)?;
                    stream.set_read_timeout(Some(std::time::Duration::from_secs(5)))?;
                    stream.read_to_string(&mut text)?;
                }
                Err(error) => return fails(format!("nobody called: {error}")),
            }
            let told: Value =
                serde_json::from_str(&text).map_err(|error| anyhow::anyhow!("{error} in {text:?}"))?;
            is("fds", &told["fds"], json!(["seccompFd"]))?;
            is("metadata", &told["metadata"], "some=data")?;
            same("state.id", told["state"]["id"].as_str(), Some(bundle.id.as_str()))?;
            same("pid", told["pid"].as_i64(), Some(bundle.pid()?))?;
            that(told["ociVersion"].is_string(), || "no ociVersion".into())
        },
    )
    .since(1)
}
