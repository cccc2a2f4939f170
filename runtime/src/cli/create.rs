//! `create` and `run`.

use std::os::fd::AsFd as _;
use std::path::PathBuf;

use runtime::{CreateRequest, Force, Keyring, Process, RootChange, Rootfs, Runtime, Stdio};

use super::args::{Args, unknown};
use super::{Error, Global, bundle, console, handover, inherited, notify, wait};

struct Options {
    bundle: PathBuf,
    pid_file: Option<PathBuf>,
    console_socket: Option<PathBuf>,
    pidfd_socket: Option<PathBuf>,
    preserve_fds: u32,
    /// Before those, of socket activation.
    sockets: u32,
    keyring: Keyring,
    root_change: RootChange,
    mode: Mode,
    keep: bool,
    id: String,
}

/// Who waits for the container's end.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Foreground,
    Detached,
}

impl Options {
    fn read(mut args: Args, mut mode: Mode) -> Result<Options, Error> {
        let (mut keyring, mut root_change, mut keep) = (Keyring::New, RootChange::Pivot, false);
        let (mut bundle, mut pid_file, mut console_socket, mut preserve_fds) =
            (PathBuf::from("."), None, None, 0);
        let mut pidfd_socket = None;
        while let Some(option) = args.option() {
            match option.as_str() {
                "-b" | "--bundle" => bundle = args.value(&option)?.into(),
                "--pid-file" => pid_file = Some(args.value(&option)?.into()),
                "--console-socket" => console_socket = Some(args.value(&option)?.into()),
                "--pidfd-socket" => pidfd_socket = Some(args.value(&option)?.into()),
                "--preserve-fds" => preserve_fds = args.number(&option)?,
                "-d" | "--detach" => mode = if args.flag(&option)? { Mode::Detached } else { mode },
                "--no-new-keyring" => {
                    keyring = if args.flag(&option)? { Keyring::Inherit } else { Keyring::New }
                }
                "--no-pivot" => {
                    root_change = if args.flag(&option)? { RootChange::Chroot } else { RootChange::Pivot }
                }
                "--keep" => keep = args.flag(&option)?,
                // Only our own child is waited for, and that needs no subreaper; and a mount that is refused is never tried
                // in another way.
                "--no-subreaper" | "--no-mount-fallback" => drop(args.flag(&option)?),
                _ => return Err(unknown(&option)),
            }
        }
        let id = args.id()?;
        args.end()?;
        // Before anything of ours is open.
        let sockets = inherited::sockets();
        inherited::check(sockets + preserve_fds)?;
        Ok(Options {
            sockets,
            bundle,
            pid_file,
            console_socket,
            pidfd_socket,
            preserve_fds,
            keyring,
            root_change,
            mode,
            keep,
            id,
        })
    }
}

pub(crate) fn create(global: &Global, args: Args) -> Result<u8, Error> {
    let options = Options::read(args, Mode::Detached)?;
    make(global, &options)?;
    Ok(0)
}

pub(crate) fn run(global: &Global, args: Args) -> Result<u8, Error> {
    let options = Options::read(args, Mode::Foreground)?;
    if options.mode == Mode::Detached {
        let mut made = make(global, &options)?;
        let proxy = notify::listen(global, &options.id);
        start(global, &options, &mut made)?;
        notify::wait(global, proxy.as_ref(), made.pidfd.as_fd(), made.pid);
        return Ok(0);
    }
    // Signals for us are the container's from before it exists.
    let signals = wait::Signals::take()?;
    let mut process = make(global, &options)?;
    let proxy = notify::listen(global, &options.id);
    start(global, &options, &mut process)?;
    let code = signals.forward_until_end(&process, proxy);
    match code {
        _ if options.keep => {}
        Ok(_) => warn(global, &global.runtime.delete_ended(&process)?),
        Err(_) => warn(global, &global.runtime.delete(&options.id, Force::Kill)?),
    }
    // They close with us, which is now.
    std::mem::forget((process, signals));
    code
}

fn start(global: &Global, options: &Options, made: &mut Process) -> Result<(), Error> {
    let started = global.runtime.start_made(made);
    started.inspect_err(|_| handover::take_away(global, &options.id)).map_err(Error::from)
}

fn make(global: &Global, options: &Options) -> Result<Process, Error> {
    let (bundle, mut spec) = bundle::load(&options.bundle)?;
    let terminal = spec.process.as_ref().is_some_and(|process| process.terminal);
    console::check(terminal, options.mode == Mode::Detached, options.console_socket.as_deref())?;
    inherited::announce(options.sockets, &mut spec);
    let notify = notify::announce(global, &options.id, &mut spec)?;
    runtime::enter_user_namespace(&mut spec)?;
    let (keyring, root_change) = (options.keyring, options.root_change);
    let runtime = Runtime { keyring, root_change, notify, ..global.runtime.clone() };
    let process = runtime.create(CreateRequest {
        id: &options.id,
        bundle: &bundle,
        spec,
        rootfs: Rootfs::Bundle,
        stdio: if terminal { Stdio::Terminal } else { Stdio::Inherit },
        preserve_fds: options.sockets + options.preserve_fds,
    })?;
    for warning in &process.warnings {
        global.log.warn(warning);
    }
    let (socket, pid_file) = (options.console_socket.as_deref(), options.pid_file.as_deref());
    handover::hand_over(&process, socket, options.pidfd_socket.as_deref(), pid_file)
        .inspect_err(|_| handover::take_away(global, &options.id))?;
    Ok(process)
}

fn warn(global: &Global, warnings: &[String]) {
    warnings.iter().for_each(|warning| global.log.warn(warning));
}
