//! `cargo xtask vm`: tests in a virtual machine with cgroup v2, systemd, and AppArmor or SELinux.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use berth_test::criu::CRIU_VARIABLE;
use berth_test::node::PRIVATE_NETWORK;
use berth_test::programs::{Programs, cargo_command, workspace};
use berth_test::vm::{self, Lsm, Options};
use berth_test::{bench, tools};

use crate::tasks::{prepare_critest, value};

/// What runs in the guest.
enum Work<'a> {
    /// The runtime's tests against the kernel.
    Runtime(&'a [&'a str]),
    /// critest with the systemd cgroup driver.
    Critest(&'a [&'a str]),
    /// The OCI validation suite, with both cgroup drivers.
    Oci(&'a [&'a str]),
    /// The benchmark of the runtime, on cgroup2 alone.
    Bench(&'a [&'a str]),
    /// A file of end-to-end tests, and a filter.
    Node(&'a str, &'a [&'a str]),
    Command(&'a [&'a str]),
}

pub(crate) fn vm(args: &[&str]) -> Result<()> {
    let (options, work) = read(args)?;
    let command = match work {
        Work::Runtime(filter) => runtime_tests(filter)?,
        Work::Critest(args) => as_engine(options.lsm, critest(args)?),
        Work::Oci(args) => oci(args)?,
        Work::Bench(args) => bench(args)?,
        Work::Node(file, filter) => as_engine(options.lsm, node(file, filter)?),
        Work::Command(words) => words.iter().map(|word| quoted(word)).collect::<Vec<_>>().join(" "),
    };
    let status = vm::run(&options, &command)?;
    ensure!(status == 0, "the command in the virtual machine ended with {status}");
    Ok(())
}

fn read<'a>(args: &'a [&'a str]) -> Result<(Options, Work<'a>)> {
    let mut options = Options::default();
    let mut at = 0;
    loop {
        let word =
            *args.get(at).context("vm needs a task: runtime, critest, node, oci, bench, or -- COMMAND")?;
        let rest = args.get(at + 1..).unwrap_or_default();
        match word {
            "--lsm" => options.lsm = Lsm::parse(&value(word, rest.first())?)?,
            "--timeout" => {
                let seconds = value(word, rest.first())?.parse().context("--timeout")?;
                options.timeout = Duration::from_secs(seconds);
            }
            "runtime" => return Ok((options, Work::Runtime(rest))),
            "critest" => return Ok((options, Work::Critest(rest))),
            "oci" => return Ok((options, Work::Oci(rest))),
            "node" => {
                let (file, filter) = rest.split_first().context("which file of tests: node_selinux, …")?;
                return Ok((options, Work::Node(file, filter)));
            }
            "bench" => return Ok((options, Work::Bench(rest))),
            "--" if !rest.is_empty() => return Ok((options, Work::Command(rest))),
            other => bail!("vm has no task {other}: runtime, critest, node, oci, bench, or -- COMMAND"),
        }
        at += 2;
    }
}

/// Debian's kernel tests run there as they are: the guest has a newer C library than the oldest we build on.
fn runtime_tests(filter: &[&str]) -> Result<String> {
    let programs = test_programs(&["--package", "runtime", "--test", "kernel", "--test", "cgroup_kernel"])?;
    let filter: String = filter.iter().map(|word| format!(" {}", quoted(word))).collect();
    let run = |program: &PathBuf| {
        let program = quoted(&program.display().to_string());
        format!("{CRIU_VARIABLE}=/usr/sbin/criu {program}{filter} --test-threads=2")
    };
    Ok(programs.iter().map(run).collect::<Vec<_>>().join(" && "))
}

fn critest(args: &[&str]) -> Result<String> {
    prepare_critest()?;
    berth_test::critest::make_place()?;
    Ok(format!("{PRIVATE_NETWORK}=1 {}", this_program(&[&["critest", "--systemd-cgroup"], args].concat())?))
}

fn bench(args: &[&str]) -> Result<String> {
    tools::ensure_packages(tools::COST_PACKAGES)?;
    Programs::build_static()?;
    bench::runtime::prepare_for_a_guest()?;
    let again = this_program(&[&["bench", "runtime"], args].concat())?;
    Ok(format!("unshare --net --mount -- env {PRIVATE_NETWORK}=1 {again}"))
}

/// `cargo xtask ARGS`, for the guest's shell.
fn this_program(args: &[&str]) -> Result<String> {
    let program = std::env::current_exe().context("finding this program")?;
    let words = [&[program.to_str().context("a path of letters")?], args].concat();
    Ok(words.iter().map(|word| quoted(word)).collect::<Vec<_>>().join(" "))
}

/// Where the guest's Debian has the peers.
const PEERS: [&str; 2] = ["/usr/sbin/runc", "/usr/bin/crun"];

/// Once with each cgroup driver, unless one is named. The guest has no cargo, so it is told where everything is.
fn oci(args: &[&str]) -> Result<String> {
    Programs::build_static()?;
    let programs = Programs::built();
    let alone = args.contains(&"--alone");
    let own = programs.runtime.display().to_string();
    let runtimes = std::iter::once(own.as_str()).chain(PEERS.into_iter().filter(|_| !alone));
    let program = std::env::current_exe().context("finding this program")?;
    let mut command = format!("{} oci", quoted(&program.display().to_string()));
    for runtime in runtimes {
        command += &format!(" --runtime {}", quoted(runtime));
    }
    command += &format!(" --probe {}", quoted(&programs.probe.display().to_string()));
    let driver = |word: &&&str| matches!(**word, "--systemd-cgroup" | "--cgroupfs");
    for arg in args.iter().filter(|word| !driver(word)) {
        command += &format!(" {}", quoted(arg));
    }
    let (cgroupfs, systemd) = (command.clone(), format!("{command} --systemd-cgroup"));
    let named = |word| args.contains(&word);
    Ok(match (named("--cgroupfs"), named("--systemd-cgroup")) {
        (true, false) => cgroupfs,
        (false, true) => systemd,
        _ => format!(
            "echo with the cgroupfs driver; {cgroupfs}; first=$?; echo with the systemd driver; {systemd} && \
             exit $first"
        ),
    })
}

fn node(file: &str, filter: &[&str]) -> Result<String> {
    prepare_critest()?;
    let programs = test_programs(&["--package", "berth-test", "--test", file])?;
    let program = programs.first().with_context(|| format!("no file of tests is named {file}"))?;
    let filter: String = filter.iter().map(|word| format!(" {}", quoted(word))).collect();
    let program = quoted(&program.display().to_string());
    Ok(format!("{PRIVATE_NETWORK}=1 {program}{filter} --include-ignored --test-threads=1 --nocapture"))
}

/// Where SELinux enforces, only a container engine may start containers: the policy that an operator of berth loads, and
/// the daemon's domain of it for all that comes, since the shares' files have no labels of their own. Debian's policy
/// leaves root in a container without capabilities unless this boolean is set.
fn as_engine(lsm: Lsm, command: String) -> String {
    if lsm != Lsm::SeLinux {
        return command;
    }
    let policy = quoted(&workspace().join("contrib/selinux/berth.cil").display().to_string());
    format!(
        "semodule --install {policy} && setsebool container_use_host_all_caps on && \
         runcon system_u:system_r:berth_t:s0 env {command}"
    )
}

/// Builds tests and answers where they are.
fn test_programs(args: &[&str]) -> Result<Vec<PathBuf>> {
    let mut command = cargo_command();
    command.args(["test", "--no-run", "--message-format=json"]).args(args).current_dir(workspace());
    let output = command.stderr(std::process::Stdio::inherit()).output().context("running cargo")?;
    ensure!(output.status.success(), "building the tests failed");
    let lines = String::from_utf8(output.stdout).context("cargo's words")?;
    let of = |line: &str| {
        let message: serde_json::Value = serde_json::from_str(line).ok()?;
        let is_test = message["profile"]["test"].as_bool() == Some(true);
        message["executable"].as_str().filter(|_| is_test).map(PathBuf::from)
    };
    Ok(lines.lines().filter_map(of).collect())
}

/// For the guest's shell.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn words_keep_their_shape_in_the_guests_shell() {
        let check = |word: &str| {
            let said =
                Command::new("sh").args(["-c", &format!("printf %s {}", quoted(word))]).output().unwrap();
            assert_eq!(String::from_utf8(said.stdout).unwrap(), word);
        };
        check("plain");
        check("it's $HOME; \"x\" `y`\n\\");
    }

    #[test]
    fn an_engine_has_its_policy_only_where_selinux_enforces() {
        assert_eq!(as_engine(Lsm::AppArmor, "X=1 a b".into()), "X=1 a b");
        let command = as_engine(Lsm::SeLinux, "X=1 a b".into());
        assert!(command.contains("contrib/selinux/berth.cil"), "{command}");
        assert!(command.ends_with("runcon system_u:system_r:berth_t:s0 env X=1 a b"), "{command}");
    }

    #[test]
    fn a_task_is_read_with_its_options() {
        let (options, work) = read(&["--lsm", "selinux", "--timeout", "7", "--", "a", "b"]).unwrap();
        assert_eq!((options.lsm, options.timeout), (Lsm::SeLinux, Duration::from_secs(7)));
        assert!(matches!(work, Work::Command(["a", "b"])));
        let (_, work) = read(&["node", "node_selinux", "one"]).unwrap();
        assert!(matches!(work, Work::Node("node_selinux", ["one"])));
        for wrong in [&[][..], &["--lsm", "smack", "runtime"], &["--"], &["sleep"], &["node"]] {
            assert!(read(wrong).is_err(), "{wrong:?}");
        }
    }
}
