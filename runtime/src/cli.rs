//! The command line: global options, one module a group of commands, and how errors leave.

mod args;
mod bundle;
mod checkpoint;
mod console;
mod create;
mod events;
mod exec;
mod features;
mod freeze;
mod handover;
mod help;
mod inherited;
mod list;
mod log;
mod notify;
mod plain;
mod ps;
mod rootless;
mod spec;
mod update;
mod wait;

use std::path::PathBuf;

use args::Args;
use log::Log;
use runtime::Runtime;
use runtime::cgroup::Driver;

/// Why a command could not do what it was told.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("{0}")]
    Usage(String),
    #[error("{}", runtime::chain(.0))]
    Runtime(#[from] runtime::Error),
    #[error("{what} {object}: {source}")]
    Io { what: &'static str, object: String, source: std::io::Error },
    #[error("{}: {source}", path.display())]
    Json { path: PathBuf, source: runtime::spec::Malformed },
}

impl Error {
    pub(crate) fn io(
        what: &'static str,
        object: impl Into<String>,
        source: impl Into<std::io::Error>,
    ) -> Error {
        Error::Io { what, object: object.into(), source: source.into() }
    }
}

/// What the options before the command's name say.
pub(crate) struct Global {
    pub(crate) runtime: Runtime,
    pub(crate) log: Log,
    pub(crate) criu: PathBuf,
}

/// Exit code of everything that is our own failure, as runc has it.
const FAILED: u8 = 1;
/// runc's again: a program may well end with 1, and this one did not begin.
const EXEC_FAILED: u8 = 255;

/// Answers the exit status.
pub(crate) fn main(words: Vec<String>) -> u8 {
    let mut args = Args::new(words);
    let global = match global(&mut args) {
        Ok(global) => global,
        Err(error) => {
            eprintln!("berth-runtime: {error}");
            return FAILED;
        }
    };
    let failed = if args.peek() == Some("exec") { EXEC_FAILED } else { FAILED };
    match run(&global, args) {
        Ok(code) => code,
        Err(error) => {
            global.log.error(&error.to_string());
            failed
        }
    }
}

fn global(args: &mut Args) -> Result<Global, Error> {
    let mut root = None;
    let mut log = Log::default();
    let mut driver = Driver::Cgroupfs;
    let mut cgroups = runtime::Cgroups::AsAllowed;
    let mut criu = PathBuf::from("criu");
    while let Some(option) = args.option() {
        match option.as_str() {
            "--root" => root = Some(PathBuf::from(args.value(&option)?)),
            "--log" => log.file = Some(args.value(&option)?.into()),
            "--log-format" => log.set_format(&args.value(&option)?)?,
            "--debug" => log.debug = args.flag(&option)?,
            "--criu" => criu = args.value(&option)?.into(),
            "--rootless" => cgroups = rootless::read(&args.value(&option)?)?,
            "--systemd-cgroup" => {
                driver = if args.flag(&option)? { Driver::Systemd } else { Driver::Cgroupfs }
            }
            "--version" | "-v" => args.command("version"),
            "--help" | "-h" => args.command("help"),
            _ => return Err(Error::Usage(format!("unknown option {option}"))),
        }
    }
    let root = root.unwrap_or_else(default_root);
    // No id may hold a colon, so this can be nobody's directory.
    let seccomp_cache = Some(root.join(":seccomp"));
    Ok(Global {
        runtime: Runtime { seccomp_cache, cgroups, cgroup_driver: driver, ..Runtime::new(root) },
        log,
        criu,
    })
}

/// As runc has it: a directory of the user's for ordinary users, and for who is root only in a user namespace.
fn default_root() -> PathBuf {
    let is_root = rustix::process::geteuid().is_root();
    let ordinary = || !is_root || !runtime::in_first_user_namespace();
    let own = std::env::var_os("XDG_RUNTIME_DIR").filter(|dir| !dir.is_empty() && ordinary());
    own.map_or_else(|| PathBuf::from("/run/berth-runtime"), |dir| PathBuf::from(dir).join("berth-runtime"))
}

fn run(global: &Global, mut args: Args) -> Result<u8, Error> {
    let Some(command) = args.next() else {
        return Err(Error::Usage(format!("which command?\n\n{}", help::ALL)));
    };
    if matches!(args.peek(), Some("--help" | "-h")) {
        return Ok(help::of(&command));
    }
    global.log.debug(&format!("{command} under {}", global.runtime.root.display()));
    if matches!(command.as_str(), "create" | "run" | "exec") {
        runtime::run_from_readonly_mount()?;
    }
    kernel::begin();
    match command.as_str() {
        "create" => create::create(global, args),
        "run" => create::run(global, args),
        "start" => plain::start(global, args),
        "state" => list::state(global, args),
        "kill" => plain::kill(global, args),
        "delete" => plain::delete(global, args),
        "exec" => exec::exec(global, args),
        "list" => list::list(global, args),
        "ps" => ps::ps(global, args),
        "pause" => freeze::pause(global, args),
        "resume" => freeze::resume(global, args),
        "update" => update::update(global, args),
        "events" => events::events(global, args),
        "checkpoint" => checkpoint::checkpoint(global, args),
        "restore" => checkpoint::restore(global, args),
        "spec" => spec::spec(args),
        "features" => features::features(args),
        "version" => Ok(version()),
        "help" | "h" => Ok(help::help(args)),
        other => Err(Error::Usage(format!("there is no command {other:?}\n\n{}", help::ALL))),
    }
}

fn version() -> u8 {
    println!("berth-runtime version {}", env!("CARGO_PKG_VERSION"));
    println!("spec: {}", runtime::spec::OCI_VERSION);
    0
}
