//! config.md, "POSIX process" and "Linux Process": rlimits, oom_score_adj, schedulers.

use serde_json::{Value, json};

use super::super::bundle::{Bundle, tried};
use super::super::verdict::{is, not_applicable, same};
use super::super::{CAP_SYS_NICE, CAP_SYS_RESOURCE, Lab, Outcome, Test, must};

const POSIX: &str = "config.md#posix-process";
const LINUX: &str = "config.md#linux-process";

pub(crate) fn tests() -> Vec<Test> {
    [rlimits(), oom(), schedulers(), io_priorities(), affinity()].into_iter().flatten().collect()
}

fn rlimits() -> Vec<Test> {
    const LIMITS: [(&str, u64, u64); 16] = [
        ("RLIMIT_AS", 1 << 33, 1 << 34),
        ("RLIMIT_CORE", 0, 4096),
        ("RLIMIT_CPU", 100, 200),
        ("RLIMIT_DATA", 1 << 33, 1 << 34),
        ("RLIMIT_FSIZE", 1 << 30, 1 << 31),
        ("RLIMIT_LOCKS", 10, 20),
        ("RLIMIT_MEMLOCK", 65536, 131_072),
        ("RLIMIT_MSGQUEUE", 4096, 8192),
        ("RLIMIT_NICE", 1, 2),
        ("RLIMIT_NOFILE", 512, 1024),
        ("RLIMIT_NPROC", 4000, 5000),
        ("RLIMIT_RSS", 1 << 30, 1 << 31),
        ("RLIMIT_RTPRIO", 1, 2),
        ("RLIMIT_RTTIME", 1000, 2000),
        ("RLIMIT_SIGPENDING", 100, 200),
        ("RLIMIT_STACK", 1 << 20, 1 << 23),
    ];
    let mut tests: Vec<Test> = LIMITS
        .into_iter()
        .map(|(name, soft, hard)| {
            must(POSIX, format!("rlimits: {name}"), move |lab| {
                // Above what everybody has, which is 0.
                if matches!(name, "RLIMIT_NICE" | "RLIMIT_RTPRIO") {
                    lab.host.needs(CAP_SYS_RESOURCE)?;
                }
                if name == "RLIMIT_CORE" {
                    core_up_to(lab, Some(hard))?;
                }
                let mut bundle = lab.bundle()?;
                bundle.set("/process/rlimits", json!([{"type": name, "soft": soft, "hard": hard}]));
                is(name, &bundle.report()?["rlimits"][name], json!([soft, hard]))
            })
        })
        .collect();
    let refused = |name: &'static str, limits: Value| {
        must(POSIX, name, move |lab| lab.bundle()?.set("/process/rlimits", limits.clone()).refused())
    };
    let nofile = json!({"type": "RLIMIT_NOFILE", "soft": 10, "hard": 10});
    tests.extend([
        refused(
            "rlimits: an unknown type is an error",
            json!([{"type": "RLIMIT_NOSUCH", "soft": 1, "hard": 1}]),
        ),
        refused("rlimits: the same type twice is an error", json!([nofile, nofile])),
        refused(
            "rlimits: soft above hard is an error",
            json!([{"type": "RLIMIT_NOFILE", "soft": 11, "hard": 10}]),
        ),
        must(POSIX, "rlimits: the largest number is no limit", |lab| {
            core_up_to(lab, None)?;
            let mut bundle = lab.bundle()?;
            bundle.set(
                "/process/rlimits",
                json!([{"type": "RLIMIT_CORE", "soft": u64::MAX, "hard": u64::MAX}]),
            );
            is("core", &bundle.report()?["rlimits"]["RLIMIT_CORE"], json!([u64::MAX, u64::MAX]))
        }),
    ]);
    tests
}

/// sudo takes core files from whoever it runs; getting them back wants a capability. `None` is no limit.
fn core_up_to(lab: &Lab<'_>, hard: Option<u64>) -> Outcome {
    let ours = rustix::process::getrlimit(rustix::process::Resource::Core).maximum;
    let within = ours.is_none_or(|ours| hard.is_some_and(|hard| hard <= ours));
    if within { Ok(()) } else { lab.host.needs(CAP_SYS_RESOURCE) }
}

fn oom() -> Vec<Test> {
    let mut tests: Vec<Test> = [-1000, -1, 0, 100, 1000]
        .into_iter()
        .map(|value| {
            must(LINUX, format!("oomScoreAdj: {value} is set"), move |lab| {
                if value < 0 {
                    lab.host.needs(CAP_SYS_RESOURCE)?;
                }
                let mut bundle = lab.bundle()?;
                is("it", &bundle.set("/process/oomScoreAdj", value).report()?["oom_score_adj"], json!(value))
            })
        })
        .collect();
    tests.extend([
        must(LINUX, "oomScoreAdj: unset, it stays the runtime's", |lab| {
            let ours = std::fs::read_to_string("/proc/self/oom_score_adj")?;
            let report = lab.bundle()?.report()?;
            same("it", report["oom_score_adj"].to_string(), ours.trim())
        }),
        must(LINUX, "oomScoreAdj: above 1000 is an error", |lab| {
            lab.bundle()?.set("/process/oomScoreAdj", 1001).refused()
        }),
    ]);
    tests
}

fn schedulers() -> Vec<Test> {
    let policies = [
        ("SCHED_OTHER", json!({"nice": 5}), json!({"policy": 0, "priority": 0, "nice": 5})),
        ("SCHED_BATCH", json!({"nice": 3}), json!({"policy": 3, "priority": 0, "nice": 3})),
        ("SCHED_IDLE", json!({}), json!({"policy": 5, "priority": 0, "nice": 0})),
        ("SCHED_FIFO", json!({"priority": 7}), json!({"policy": 1, "priority": 7, "nice": 0})),
        ("SCHED_RR", json!({"priority": 9}), json!({"policy": 2, "priority": 9, "nice": 0})),
    ];
    let mut tests: Vec<Test> = policies
        .into_iter()
        .map(|(policy, more, wanted)| {
            must(LINUX, format!("scheduler: {policy}"), move |lab| {
                if matches!(policy, "SCHED_FIFO" | "SCHED_RR") {
                    lab.host.needs(CAP_SYS_NICE)?;
                    if std::path::Path::new("/sys/fs/cgroup/cpu/cpu.rt_runtime_us").exists() {
                        return not_applicable("this kernel wants a real-time budget in each cgroup above");
                    }
                }
                let mut bundle = lab.bundle()?;
                let mut scheduler = more.clone();
                scheduler["policy"] = json!(policy);
                is(
                    "scheduler",
                    &bundle.set("/process/scheduler", scheduler).report()?["scheduler"],
                    wanted.clone(),
                )
            })
            .since(1)
        })
        .collect();
    let refused = |name: &'static str, scheduler: Value| {
        must(LINUX, name, move |lab| lab.bundle()?.set("/process/scheduler", scheduler.clone()).refused())
            .since(1)
    };
    tests.extend([
        refused("scheduler: an unknown policy is an error", json!({"policy": "SCHED_NOSUCH"})),
        refused(
            "scheduler: an unknown flag is an error",
            json!({"policy": "SCHED_OTHER", "flags": ["SCHED_FLAG_X"]}),
        ),
        refused(
            "scheduler: a priority out of range is an error",
            json!({"policy": "SCHED_FIFO", "priority": 100}),
        ),
    ]);
    tests
}

fn io_priorities() -> Vec<Test> {
    let classes = [
        ("IOPRIO_CLASS_RT", 1, "realtime: prio 1"),
        ("IOPRIO_CLASS_BE", 6, "best-effort: prio 6"),
        ("IOPRIO_CLASS_IDLE", 0, "idle"),
    ];
    let mut tests: Vec<Test> = classes
        .into_iter()
        .map(|(class, priority, wanted)| {
            must(LINUX, format!("ioPriority: {class}"), move |lab| {
                let mut bundle = lab.bundle()?;
                bundle.set("/process/ioPriority", json!({"class": class, "priority": priority}));
                same("it", bundle.attempt("run:/busybox ionice -p 1")?, format!("ok: 0 {wanted}"))
            })
            .since(1)
        })
        .collect();
    let refused = |name: &'static str, io: Value| {
        must(LINUX, name, move |lab| lab.bundle()?.set("/process/ioPriority", io.clone()).refused()).since(1)
    };
    tests.extend([
        refused(
            "ioPriority: an unknown class is an error",
            json!({"class": "IOPRIO_CLASS_X", "priority": 0}),
        ),
        refused(
            "ioPriority: a priority above 7 is an error",
            json!({"class": "IOPRIO_CLASS_BE", "priority": 8}),
        ),
    ]);
    tests
}

/// Of processes that join a container; the init has the container's.
fn affinity() -> Vec<Test> {
    vec![
        must(LINUX, "execCPUAffinity: final is where the process runs", |lab| {
            if std::thread::available_parallelism()?.get() < 2 {
                return not_applicable("this machine has one processor");
            }
            let mut bundle = lab.bundle()?;
            same("cpus", exec_cpus(&mut bundle, json!({"initial": "0", "final": "1"}))?, "1")
        })
        .since(2),
        must(LINUX, "execCPUAffinity: the init does not mind it", |lab| {
            let mut bundle = lab.bundle()?;
            let before = bundle.report()?["cpus"].clone();
            bundle.set("/process/execCPUAffinity", json!({"initial": "0", "final": "0"}));
            is("cpus", &bundle.report()?["cpus"], before)
        })
        .since(2),
        must(LINUX, "execCPUAffinity: a list that is none is an error", |lab| {
            let mut bundle = lab.bundle()?;
            match exec_cpus(&mut bundle, json!({"initial": "0-x"})) {
                Ok(cpus) => super::super::verdict::fails(format!("it ran on {cpus}")),
                Err(_) => Ok(()),
            }
        })
        .since(2),
    ]
}

fn exec_cpus(bundle: &mut Bundle<'_>, affinity: Value) -> anyhow::Result<String> {
    let mut process = bundle.config["process"].clone();
    process["execCPUAffinity"] = affinity;
    process["args"] = json!(["/probe", "report", "getcwd"]);
    bundle.running()?;
    let path = bundle.outside("process.json");
    std::fs::write(&path, serde_json::to_vec(&process)?)?;
    let said = bundle.say(&["exec", "--process", &path.to_string_lossy(), "ID"])?;
    anyhow::ensure!(said.is_ok(), "exec: {}", said.last_words());
    let report: Value = serde_json::from_str(said.out.trim())?;
    anyhow::ensure!(tried(&report, "getcwd") == "ok");
    Ok(report["cpus"].as_str().unwrap_or_default().to_owned())
}
