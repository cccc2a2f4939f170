//! `exec` of the command line: not of the specification, yet what every engine's probes and shells are.

use serde_json::{Value, json};

use super::super::bundle::{Bundle, tried};
use super::super::verdict::{fails, is, same, that};
use super::super::{Test, command};

pub(crate) fn tests() -> Vec<Test> {
    vec![
        command("exec joins all namespaces of the container", |lab| {
            let mut bundle = lab.bundle()?;
            bundle.push("/linux/namespaces", json!({"type": "cgroup"})).running()?;
            let report = exec(&bundle, &[], &[])?;
            let pid = bundle.pid()?;
            for kind in ["cgroup", "ipc", "mnt", "net", "pid", "uts"] {
                let of_init = std::fs::read_link(format!("/proc/{pid}/ns/{kind}"))?;
                is(kind, &report["namespaces"][kind], json!(of_init))?;
            }
            Ok(())
        }),
        command("exec joins the container's cgroup", |lab| {
            let mut bundle = lab.bundle()?;
            bundle.running()?;
            let init = std::fs::read_to_string(format!("/proc/{}/cgroup", bundle.pid()?))?;
            let report = exec(&bundle, &[], &[])?;
            is("cgroup", &report["cgroup"], json!(init.lines().collect::<Vec<_>>()))
        }),
        command("exec has the container's capabilities, none inheritable", |lab| {
            let mut bundle = lab.bundle()?;
            bundle.running()?;
            let report = exec(&bundle, &[], &[])?;
            let status = std::fs::read_to_string(format!("/proc/{}/status", bundle.pid()?))?;
            let of_init = status.lines().find_map(|line| line.strip_prefix("CapBnd:\t")).unwrap_or_default();
            let bounding = report["capabilities"]["bounding"].as_u64().unwrap_or_default();
            same("bounding", format!("{bounding:016x}"), of_init)?;
            is("inheritable", &report["capabilities"]["inheritable"], 0)
        }),
        command("exec has the container's seccomp filter", |lab| {
            let mut bundle = lab.bundle()?;
            bundle.set(
                "/linux/seccomp",
                json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
                {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 71}]}),
            );
            bundle.running()?;
            same("mkdir", tried(&exec(&bundle, &[], &["mkdir:/tmp/x"])?, "mkdir:/tmp/x"), "EPROTO")
        }),
        command("exec --cwd, --env and --user are the process's", |lab| {
            let mut bundle = lab.bundle()?;
            bundle.running()?;
            let report = exec(&bundle, &["--cwd", "/tmp", "--env", "X=y", "--user", "5:6"], &[])?;
            is("cwd", &report["cwd"], "/tmp")?;
            is("uid", &report["uid"][0], 5)?;
            is("gid", &report["gid"][0], 6)?;
            let env = report["env"].as_array().cloned().unwrap_or_default();
            that(env.contains(&json!("X=y")), || format!("env is {env:?}"))
        }),
        command("exec's exit code is the program's", |lab| {
            let mut bundle = lab.bundle()?;
            bundle.running()?;
            same("exit code", bundle.say(&["exec", "ID", "/probe", "exit", "7"])?.code, 7)
        }),
        command("exec of a program that is not there fails", |lab| {
            let mut bundle = lab.bundle()?;
            bundle.running()?;
            let said = bundle.say(&["exec", "ID", "/nosuch"])?;
            that(said.code > 0, || said.last_words())
        }),
        command("exec in a stopped container fails", |lab| {
            let bundle = lab.bundle()?;
            bundle.create()?;
            bundle.stop()?;
            let said = bundle.say(&["exec", "ID", "/probe", "exit", "0"])?;
            that(said.code > 0, || said.last_words())
        }),
        command("exec leaves only three descriptors open", |lab| {
            let mut bundle = lab.bundle()?;
            bundle.running()?;
            let report = exec(&bundle, &[], &[])?;
            same("descriptors", report["fds"].as_object().map(serde_json::Map::len), Some(3))
        }),
        command("exec --pid-file names a process of the container", |lab| {
            let mut bundle = lab.bundle()?;
            bundle.running()?;
            let file = bundle.outside("pid");
            let file = file.to_string_lossy();
            let said = bundle.say(&[
                "exec",
                "--detach",
                "--pid-file",
                &file,
                "ID",
                "/probe",
                "report",
                "sleep:3000",
            ])?;
            that(said.is_ok(), || said.last_words())?;
            let pid = std::fs::read_to_string(&*file)?;
            let status = std::fs::read_to_string(format!("/proc/{}/status", pid.trim()))?;
            that(status.contains("NSpid:"), || "no process".into())?;
            same("Name", status.lines().next(), Some("Name:\tprobe"))
        }),
        command("kill --all reaches what exec added", |lab| {
            let mut bundle = lab.bundle()?;
            bundle.running()?;
            bundle.say(&["exec", "--detach", "ID", "/probe", "report", "sleep:60000"])?;
            let said = bundle.say(&["kill", "--all", "ID", "KILL"])?;
            that(said.is_ok(), || said.last_words())?;
            bundle.until_stopped().map_err(Into::into)
        }),
        command("delete --force takes a running container away", |lab| {
            let mut bundle = lab.bundle()?;
            bundle.running()?;
            let said = bundle.say(&["delete", "--force", "ID"])?;
            that(said.is_ok(), || said.last_words())?;
            match bundle.say(&["state", "ID"])?.code {
                0 => fails("it is still there"),
                _ => same("cgroups", bundle.cgroups().len(), 0),
            }
        }),
        command("delete --force of what is not there is no error", |lab| {
            let bundle = lab.bundle()?;
            let said = bundle.say(&["delete", "--force", "ID"])?;
            that(said.is_ok(), || said.last_words())
        }),
        command("create --pid-file names the init", |lab| {
            let bundle = lab.bundle()?;
            bundle.write()?;
            let file = bundle.outside("pid");
            let said = bundle.say(&["create", "--pid-file", &file.to_string_lossy(), "ID"])?;
            that(said.is_ok(), || said.last_words())?;
            same("pid", std::fs::read_to_string(file)?, bundle.pid()?.to_string())
        }),
        command("list --format json has the container", |lab| {
            let bundle = lab.bundle()?;
            bundle.create()?;
            let said = bundle.say(&["list", "--format", "json"])?;
            let list: Value = serde_json::from_str(&said.out).unwrap_or_default();
            same("id", list[0]["id"].as_str(), Some(bundle.id.as_str()))?;
            is("status", &list[0]["status"], "created")
        }),
        command("--log names a file that errors go to, as JSON if asked", |lab| {
            let bundle = lab.bundle()?;
            let log = bundle.outside("log");
            let log = log.to_string_lossy();
            bundle.say(&["--log", &log, "--log-format", "json", "start", "ID"])?;
            let text = std::fs::read_to_string(&*log)?;
            let line: Value =
                serde_json::from_str(text.lines().last().unwrap_or_default()).unwrap_or_default();
            is("level", &line["level"], "error")
        }),
    ]
}

fn exec(bundle: &Bundle<'_>, options: &[&str], tries: &[&str]) -> anyhow::Result<Value> {
    let words = [&["exec"], options, &["ID", "/probe", "report"], tries].concat();
    let said = bundle.say(&words)?;
    anyhow::ensure!(said.is_ok(), "exec: {}", said.last_words());
    Ok(serde_json::from_str(said.out.trim())?)
}
