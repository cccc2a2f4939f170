//! `checkpoint` and `restore`: runc's options, told to criu.

use std::path::PathBuf;

use runtime::checkpoint::{After, CgroupMode, CheckpointRequest, Images, RestoreRequest, Then};
use runtime::{CreateRequest, Force, Process, Rootfs, Stdio};

use super::args::{Args, unknown};
use super::{Error, Global, bundle, console, handover, wait};

/// What both have.
struct Common {
    images: Images,
}

impl Common {
    fn new(global: &Global) -> Common {
        Common {
            images: Images {
                program: global.criu.clone(),
                dir: PathBuf::from("checkpoint"),
                work_dir: None,
                tcp_established: false,
                tcp_close: false,
                tcp_skip_in_flight: false,
                external_unix_sockets: false,
                link_remap: false,
                shell_job: false,
                file_locks: false,
                auto_dedup: false,
                lazy_pages: false,
                cgroups: CgroupMode::Soft,
                empty_namespaces: 0,
            },
        }
    }

    /// Whether it was one of them.
    fn take(&mut self, option: &str, args: &mut Args) -> Result<bool, Error> {
        let images = &mut self.images;
        match option {
            "--image-path" => images.dir = absolute(args.value(option)?)?,
            "--work-path" => images.work_dir = Some(absolute(args.value(option)?)?),
            "--tcp-established" => images.tcp_established = args.flag(option)?,
            "--tcp-skip-in-flight" => images.tcp_skip_in_flight = args.flag(option)?,
            "--link-remap" => images.link_remap = args.flag(option)?,
            "--ext-unix-sk" => images.external_unix_sockets = args.flag(option)?,
            "--shell-job" => images.shell_job = args.flag(option)?,
            "--file-locks" => images.file_locks = args.flag(option)?,
            "--auto-dedup" => images.auto_dedup = args.flag(option)?,
            "--lazy-pages" => images.lazy_pages = args.flag(option)?,
            "--manage-cgroups-mode" => images.cgroups = cgroup_mode(&args.value(option)?)?,
            "--empty-ns" => images.empty_namespaces |= namespace(&args.value(option)?)?,
            _ => return Ok(false),
        }
        Ok(true)
    }
}

pub(crate) fn checkpoint(global: &Global, mut args: Args) -> Result<u8, Error> {
    let mut common = Common::new(global);
    common.images.dir = absolute("checkpoint".into())?;
    let (mut after, mut parent, mut page_server, mut status_fd) = (After::Delete, None, None, None);
    while let Some(option) = args.option() {
        match option.as_str() {
            "--leave-running" => after = if args.flag(&option)? { After::LeaveRunning } else { after },
            "--pre-dump" => after = if args.flag(&option)? { After::PreDump } else { after },
            "--parent-path" => parent = Some(relative(&args.value(&option)?)?),
            "--page-server" => page_server = Some(server(&args.value(&option)?)?),
            "--status-fd" => status_fd = Some(args.integer(&option)?),
            _ if common.take(&option, &mut args)? => {}
            _ => return Err(unknown(&option)),
        }
    }
    let id = args.id()?;
    args.end()?;
    let request = CheckpointRequest { images: common.images, after, parent, page_server, status_fd };
    global.runtime.checkpoint(&id, &request)?;
    Ok(0)
}

struct Options {
    common: Common,
    bundle: PathBuf,
    pid_file: Option<PathBuf>,
    console_socket: Option<PathBuf>,
    detach: bool,
    lsm_profile: Option<String>,
    lsm_mount_context: Option<String>,
    id: String,
}

impl Options {
    fn read(global: &Global, mut args: Args) -> Result<Options, Error> {
        let mut common = Common::new(global);
        common.images.dir = absolute("checkpoint".into())?;
        let (mut bundle, mut pid_file, mut console_socket) = (PathBuf::from("."), None, None);
        let (mut detach, mut lsm_profile, mut lsm_mount_context) = (false, None, None);
        while let Some(option) = args.option() {
            match option.as_str() {
                "-b" | "--bundle" => bundle = args.value(&option)?.into(),
                "--pid-file" => pid_file = Some(args.value(&option)?.into()),
                "--console-socket" => console_socket = Some(args.value(&option)?.into()),
                "-d" | "--detach" => detach = args.flag(&option)?,
                "--lsm-profile" => lsm_profile = Some(args.value(&option)?),
                "--lsm-mount-context" => lsm_mount_context = Some(args.value(&option)?),
                // criu pivots by itself, and only our own child is waited for.
                "--no-pivot" | "--no-subreaper" | "--no-mount-fallback" => drop(args.flag(&option)?),
                _ if common.take(&option, &mut args)? => {}
                _ => return Err(unknown(&option)),
            }
        }
        let id = args.id()?;
        args.end()?;
        Ok(Options { common, bundle, pid_file, console_socket, detach, lsm_profile, lsm_mount_context, id })
    }
}

pub(crate) fn restore(global: &Global, args: Args) -> Result<u8, Error> {
    let options = Options::read(global, args)?;
    let signals = if options.detach { None } else { Some(wait::Signals::take()?) };
    let process = make(global, &options)?;
    let Some(signals) = signals else { return Ok(0) };
    let code = signals.forward_until_end(&process, None);
    global.runtime.delete(&options.id, Force::Kill)?;
    code
}

fn make(global: &Global, options: &Options) -> Result<Process, Error> {
    let (bundle, spec) = bundle::load(&options.bundle)?;
    let terminal = spec.process.as_ref().is_some_and(|process| process.terminal);
    console::check(terminal, options.detach, options.console_socket.as_deref())?;
    let process = global.runtime.restore(&RestoreRequest {
        container: CreateRequest {
            id: &options.id,
            bundle: &bundle,
            spec,
            rootfs: Rootfs::Bundle,
            stdio: Stdio::Inherit,
            preserve_fds: 0,
        },
        images: options.common.images.clone(),
        lsm_profile: options.lsm_profile.clone(),
        lsm_mount_context: options.lsm_mount_context.clone(),
        then: Then::Run,
    })?;
    let (socket, pid_file) = (options.console_socket.as_deref(), options.pid_file.as_deref());
    handover::hand_over(&process, socket, None, pid_file)
        .inspect_err(|_| handover::take_away(global, &options.id))?;
    Ok(process)
}

fn absolute(path: String) -> Result<PathBuf, Error> {
    std::path::absolute(&path).map_err(|e| Error::io("finding", path, e))
}

/// criu looks for it from the images.
fn relative(path: &str) -> Result<PathBuf, Error> {
    if path.starts_with('/') {
        return Err(Error::Usage(format!("--parent-path: {path:?} must be relative to --image-path")));
    }
    Ok(path.into())
}

fn server(text: &str) -> Result<(String, u16), Error> {
    let parts = text.rsplit_once(':').and_then(|(address, port)| Some((address, port.parse().ok()?)));
    let (address, port) =
        parts.ok_or_else(|| Error::Usage(format!("--page-server: {text:?} is not ADDRESS:PORT")))?;
    Ok((address.to_owned(), port))
}

fn cgroup_mode(word: &str) -> Result<CgroupMode, Error> {
    match word {
        "soft" => Ok(CgroupMode::Soft),
        "full" => Ok(CgroupMode::Full),
        "strict" => Ok(CgroupMode::Strict),
        "ignore" => Ok(CgroupMode::Ignore),
        other => Err(Error::Usage(format!(
            "--manage-cgroups-mode: {other:?} is none of soft, full, strict, ignore"
        ))),
    }
}

fn namespace(word: &str) -> Result<u64, Error> {
    match word {
        "network" => Ok(kernel::clone_flags::NEWNET),
        other => {
            Err(Error::Usage(format!("--empty-ns: {other:?} is not network, the only one that criu can")))
        }
    }
}
