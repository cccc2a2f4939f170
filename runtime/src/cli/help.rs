//! `help`: what the commands are and what each takes.

use super::args::Args;

pub(crate) const ALL: &str = "\
berth-runtime: an OCI runtime

usage: berth-runtime [GLOBAL OPTIONS] COMMAND [OPTIONS] ...

commands:
  create      make a container that waits for start
  start       let a created container run its program
  run         create and start; in the foreground, wait for its end and delete it
  exec        run one more process in a container
  state       one container as JSON
  list        all containers under the root
  ps          the processes of a container
  kill        send a signal to a container
  delete      take a container away
  pause       freeze all processes of a container
  resume      let them go on
  update      change the limits of a container
  events      statistics and out-of-memory kills of a container, as they happen
  checkpoint  write a container's processes to images, through criu
  restore     make a running container of images
  spec        write a config.json to start from
  features    what this runtime can do, as JSON
  help        this, or what one command takes: help COMMAND, or COMMAND --help

global options:
  --root DIR            where containers are recorded (/run/berth-runtime, or below $XDG_RUNTIME_DIR)
  --log FILE            where errors and warnings go besides standard error
  --log-format FORMAT   text or json
  --debug               say more in the log
  --criu PROGRAM        criu, for checkpoint and restore
  --rootless WHEN       true, false or auto: whether to do without cgroups that may not be made
  --systemd-cgroup      make cgroups through systemd
  --version, --help
";

const COMMANDS: &[(&str, &str)] = &[
    (
        "create",
        "[-b|--bundle BUNDLE] [--pid-file FILE] [--console-socket SOCKET] [--pidfd-socket SOCKET]\n  [--preserve-fds N] [--no-pivot] [--no-new-keyring] ID",
    ),
    ("start", "ID"),
    (
        "run",
        "[-d|--detach] [--keep] [-b|--bundle BUNDLE] [--pid-file FILE] [--console-socket SOCKET]\n  [--pidfd-socket SOCKET] [--preserve-fds N] [--no-pivot] [--no-new-keyring] [--no-subreaper] ID",
    ),
    (
        "exec",
        "[-d|--detach] [-t|--tty] [--console-socket SOCKET] [--pidfd-socket SOCKET] [--pid-file FILE]\n  [--preserve-fds N] [--ignore-paused] [--cgroup [CONTROLLER,...:]CGROUP]\n  (-p|--process PROCESS.json ID |\n  [--cwd DIR] [-e|--env K=V]... [-u|--user UID[:GID]] [-g|--additional-gids GID]...\n  [-c|--cap CAP]... [--no-new-privs] [--apparmor PROFILE] [--process-label LABEL] ID COMMAND [ARG]...)",
    ),
    ("state", "ID"),
    ("list", "[-q|--quiet] [-f|--format table|json]"),
    ("ps", "[-f|--format table|json] ID [PS OPTION]..."),
    ("kill", "[-a|--all] ID [SIGNAL]"),
    ("delete", "[-f|--force] ID"),
    ("pause", "ID"),
    ("resume", "ID"),
    (
        "update",
        "(-r|--resources FILE|- | [--memory BYTES] [--memory-reservation BYTES] [--memory-swap BYTES] [--pids-limit N]\n  [--cpu-share N] [--cpu-quota US] [--cpu-period US] [--cpu-burst US] [--cpu-idle 0|1]\n  [--cpu-rt-runtime US] [--cpu-rt-period US] [--cpuset-cpus LIST] [--cpuset-mems LIST]\n  [--blkio-weight N]) [--l3-cache-schema LINES] [--mem-bw-schema LINE] ID",
    ),
    ("events", "[--stats] [--interval DURATION] ID"),
    (
        "checkpoint",
        "[--image-path DIR] [--work-path DIR] [--leave-running | --pre-dump] [--parent-path DIR]\n  [--tcp-established] [--tcp-skip-in-flight] [--link-remap] [--ext-unix-sk] [--shell-job] [--file-locks]\n  [--auto-dedup] [--lazy-pages] [--status-fd N]\n  [--page-server ADDRESS:PORT] [--manage-cgroups-mode soft|full|strict|ignore] [--empty-ns network] ID",
    ),
    (
        "restore",
        "[-d|--detach] [-b|--bundle BUNDLE] [--image-path DIR] [--work-path DIR] [--pid-file FILE]\n  [--console-socket SOCKET] [--tcp-established] [--ext-unix-sk] [--shell-job] [--file-locks] [--auto-dedup] [--lazy-pages]\n  [--manage-cgroups-mode soft|full|strict|ignore] [--empty-ns network] [--lsm-profile TYPE:NAME]\n  [--lsm-mount-context CONTEXT] [--no-pivot] [--no-subreaper] ID",
    ),
    ("spec", "[-b|--bundle BUNDLE] [--rootless]"),
    ("features", ""),
];

/// Of one command, or of all.
pub(crate) fn help(mut args: Args) -> u8 {
    of(&args.next().unwrap_or_default())
}

pub(crate) fn of(command: &str) -> u8 {
    match COMMANDS.iter().find(|(name, _)| *name == command) {
        Some((name, takes)) => println!("usage: berth-runtime {name} {takes}"),
        None => print!("{ALL}"),
    }
    0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_is_in_both_lists() {
        for (name, _) in COMMANDS {
            assert!(ALL.contains(&format!("\n  {name} ")), "{name}");
        }
        let listed = ALL.split("commands:\n").nth(1).unwrap().split("\n\n").next().unwrap();
        assert_eq!(listed.lines().count(), COMMANDS.len() + 1);
    }
}
