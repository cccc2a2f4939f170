//! berth's own tasks: `cargo xtask demo | test | unit | node | critest | bench | build`.
//!
//! Each test task ends with one plain line, `NAME: N passed, N failed`. Tasks that
//! run pods put themselves into a network namespace of their own first.

mod fuzz;
mod namespace;
mod oci;
mod tasks;
mod vm;

use std::process::ExitCode;

const USAGE: &str = "\
usage: cargo xtask TASK

  demo       a tour on a private node: pull, run, exec, restart, clean up
  test       everything that CI runs
  unit       formatting, lints, licences, unit and crate tests (run as root)
  node       end-to-end tests on private nodes (root)
  critest    the CRI conformance suite [--websocket] [--parallel N] [--seed N] [--focus REGEX] [--peer]
             or its benchmarks: [--benchmark]; with the specs that no release has yet: [--main [--source DIR]]
  oci        the OCI runtime validation suite beside runc and crun [--runtime PATH]... [--alone]
             [--systemd-cgroup] [--focus TEXT] [--probe PATH]
  criu       fetches a criu that knows this kernel; its path is for tests in BERTH_CRIU
  fuzz       the fuzz targets of the runtime [--seconds N each] [--target NAME]
  bench [pod]  pod start, exec and memory beside containerd [--rounds N] [--pods N]
  bench pull an image's pull beside containerd and skopeo [--rounds N] [--only SHAPE] [--no-peers] [--backing DIR]
  bench lists  what a kubelet polls on a full, busy node, beside containerd [--pods N] [--churn N] [--rounds N]
              [--alone]
  vm         in a virtual machine with systemd, cgroup v2 and a security module (root):
             [--lsm apparmor|selinux|none] [--timeout S] runtime [FILTER] | critest [ARGS] | node FILE [FILTER]
             | oci [--cgroupfs | --systemd-cgroup] [--alone] [--focus TEXT] | bench [--rounds N] | -- COMMAND
  bench runtime  berth-runtime beside crun, runc and the kernel's own cost [--rounds N]
  build      berthd, berth, berth-conmon and berth-runtime into target/berth
";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let outcome = match words.as_slice() {
        ["demo"] => tasks::demo(),
        ["test"] => tasks::test(),
        ["unit"] => tasks::unit(),
        ["node", rest @ ..] => tasks::node(rest),
        ["critest", rest @ ..] => tasks::critest(rest),
        ["oci", rest @ ..] => oci::oci(rest),
        ["criu"] => tasks::fetch_criu(),
        ["fuzz", rest @ ..] => fuzz::fuzz(rest),
        ["bench"] => tasks::bench_pod(&[]),
        ["bench", "pod", rest @ ..] => tasks::bench_pod(rest),
        ["bench", "pull", rest @ ..] => tasks::bench_pull(rest),
        ["bench", "lists", rest @ ..] => tasks::bench_lists(rest),
        ["vm", rest @ ..] => vm::vm(rest),
        ["bench", "runtime", rest @ ..] => tasks::bench_runtime(rest),
        ["build"] => tasks::build(),
        _ => {
            eprint!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("cargo xtask {}: {error:#}", words.join(" "));
            ExitCode::FAILURE
        }
    }
}
