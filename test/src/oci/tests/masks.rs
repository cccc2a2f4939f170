//! config-linux.md: masked paths, read-only paths, root propagation, sysctls.

use std::fs;

use serde_json::{Value, json};

use super::super::bundle::tried;
use super::super::verdict::{not_applicable, same, that};
use super::super::{Test, must};
use super::mounts::mount_at;

const MASKED: &str = "config-linux.md#masked-paths";
const READONLY: &str = "config-linux.md#readonly-paths";
const PROPAGATION: &str = "config-linux.md#rootfs-mount-propagation";
const SYSCTL: &str = "config-linux.md#sysctl";

pub(crate) fn tests() -> Vec<Test> {
    [masked(), readonly(), propagation(), sysctls()].into_iter().flatten().collect()
}

fn masked() -> Vec<Test> {
    vec![
        must(MASKED, "a file cannot be read", |lab| {
            let mut bundle = lab.bundle()?;
            fs::write(bundle.rootfs().join("etc/secret"), "secret")?;
            same(
                "it",
                bundle.set("/linux/maskedPaths", json!(["/etc/secret"])).attempt("read:/etc/secret")?,
                "ok",
            )
        }),
        must(MASKED, "a directory shows nothing", |lab| {
            let mut bundle = lab.bundle()?;
            fs::create_dir(bundle.rootfs().join("etc/secrets"))?;
            fs::write(bundle.rootfs().join("etc/secrets/one"), "secret")?;
            same(
                "it",
                bundle.set("/linux/maskedPaths", json!(["/etc/secrets"])).attempt("ls:/etc/secrets")?,
                "ok",
            )
        }),
        must(MASKED, "a masked directory cannot be written", |lab| {
            let mut bundle = lab.bundle()?;
            fs::create_dir(bundle.rootfs().join("etc/secrets"))?;
            let found =
                bundle.set("/linux/maskedPaths", json!(["/etc/secrets"])).attempt("create:/etc/secrets/x")?;
            that(found != "ok", || "it can".into())
        }),
        must(MASKED, "files of /proc and /sys", |lab| {
            let mut bundle = lab.bundle()?;
            let paths =
                ["/proc/kcore", "/proc/keys", "/proc/timer_list", "/proc/interrupts", "/sys/firmware"];
            bundle.set("/linux/maskedPaths", json!(paths));
            let report =
                bundle.tries(&["read:/proc/keys", "read:/proc/interrupts", "ls:/sys/firmware"]).report()?;
            same("keys", tried(&report, "read:/proc/keys"), "ok")?;
            same("interrupts", tried(&report, "read:/proc/interrupts"), "ok")?;
            let firmware = tried(&report, "ls:/sys/firmware");
            that(firmware == "ok" || firmware == "ENOENT", || firmware.into())
        }),
        must(MASKED, "a path that is not there is no error", |lab| {
            Ok(lab
                .bundle()?
                .set("/linux/maskedPaths", json!(["/nosuch", "/nosuch/deep"]))
                .report()
                .map(drop)?)
        }),
    ]
}

fn readonly() -> Vec<Test> {
    vec![
        must(READONLY, "a directory cannot be written", |lab| {
            let mut bundle = lab.bundle()?;
            same(
                "creating",
                bundle.set("/linux/readonlyPaths", json!(["/etc"])).attempt("create:/etc/x")?,
                "EROFS",
            )
        }),
        must(READONLY, "a file cannot be written, and can be read", |lab| {
            let mut bundle = lab.bundle()?;
            fs::write(bundle.rootfs().join("etc/file"), "there")?;
            bundle.set("/linux/readonlyPaths", json!(["/etc/file"]));
            let report = bundle.tries(&["write:/etc/file:x", "read:/etc/file"]).report()?;
            same("writing", tried(&report, "write:/etc/file:x"), "EROFS")?;
            same("reading", tried(&report, "read:/etc/file"), "ok: there")
        }),
        must(READONLY, "/proc/sys", |lab| {
            let mut bundle = lab.bundle()?;
            bundle.set("/linux/readonlyPaths", json!(["/proc/sys"]));
            same("writing", bundle.attempt("write:/proc/sys/kernel/domainname:x")?, "EROFS")
        }),
        must(READONLY, "a mount keeps its other restrictions", |lab| {
            let mut bundle = lab.bundle()?;
            bundle
                .mount("/mnt", "tmpfs", &["noexec", "nosuid", "nodev"])
                .set("/linux/readonlyPaths", json!(["/mnt"]));
            let report = bundle.report()?;
            let options =
                mount_at(&report, "/mnt").map(|mount| mount["options"].to_string()).unwrap_or_default();
            let all = ["ro", "noexec", "nosuid", "nodev"].iter().all(|word| options.contains(word));
            that(all, || format!("options {options}"))
        }),
        must(READONLY, "a path that is not there is no error", |lab| {
            Ok(lab.bundle()?.set("/linux/readonlyPaths", json!(["/nosuch"])).report().map(drop)?)
        }),
    ]
}

fn propagation() -> Vec<Test> {
    let state = |word: &'static str, is_so: fn(&Value) -> bool| {
        must(PROPAGATION, word, move |lab| {
            let mut bundle = lab.bundle()?;
            let report = bundle.set("/linux/rootfsPropagation", word).report()?;
            let fields = mount_at(&report, "/").map(|mount| mount["propagation"].clone()).unwrap_or_default();
            that(is_so(&fields), || format!("the root's fields are {fields}"))
        })
    };
    vec![
        state("shared", |fields| fields.to_string().contains("shared:")),
        // A slave of nobody is private: it depends on what the bundle lies on.
        state("slave", |fields| !fields.to_string().contains("shared:")),
        state("private", |fields| *fields == json!([])),
        state("unbindable", |fields| fields.to_string().contains("unbindable")),
        must(PROPAGATION, "unbindable cannot be bound", |lab| {
            let mut bundle = lab.bundle()?;
            for set in ["bounding", "effective", "permitted"] {
                bundle.push(&format!("/process/capabilities/{set}"), "CAP_SYS_ADMIN");
            }
            same(
                "binding",
                bundle.set("/linux/rootfsPropagation", "unbindable").attempt("bind:/etc:/tmp")?,
                "EINVAL",
            )
        }),
        must(PROPAGATION, "an unknown word is an error", |lab| {
            lab.bundle()?.set("/linux/rootfsPropagation", "nosuch").refused()
        }),
    ]
}

fn sysctls() -> Vec<Test> {
    let set = |name: &'static str, value: &'static str, file: &'static str| {
        must(SYSCTL, name, move |lab| {
            let mut bundle = lab.bundle()?;
            let found = bundle
                .set("/linux/sysctl", json!({name: value}))
                .attempt(&format!("read:/proc/sys/{file}"))?;
            same(name, found, format!("ok: {value}"))
        })
    };
    let refused = |name: &'static str, sysctl: &'static str| {
        must(SYSCTL, name, move |lab| lab.bundle()?.set("/linux/sysctl", json!({sysctl: "1"})).refused())
    };
    vec![
        set("net.ipv4.ip_forward", "1", "net/ipv4/ip_forward"),
        set("net.core.somaxconn", "256", "net/core/somaxconn"),
        set("kernel.shm_rmid_forced", "1", "kernel/shm_rmid_forced"),
        set("kernel.msgmax", "4096", "kernel/msgmax"),
        set("fs.mqueue.msg_max", "11", "fs/mqueue/msg_max"),
        refused("one that does not exist is an error", "net.berth.nosuch"),
        refused("one that belongs to the host is an error", "vm.swappiness"),
        must(SYSCTL, "one of a namespace that is the host's is an error", |lab| {
            let mut bundle = lab.bundle()?;
            bundle.without_namespace("ipc").set("/linux/sysctl", json!({"kernel.msgmax": "4096"}));
            bundle.refused()
        }),
        must(SYSCTL, "the host's value is left alone", |lab| {
            let before = fs::read_to_string("/proc/sys/net/core/somaxconn")?;
            if before.trim() == "257" {
                return not_applicable("the host's value is the test's");
            }
            lab.bundle()?.set("/linux/sysctl", json!({"net.core.somaxconn": "257"})).report()?;
            same("the host's", fs::read_to_string("/proc/sys/net/core/somaxconn")?, before)
        }),
    ]
}
