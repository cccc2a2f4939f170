//! `berth`, the operator's command, and the service of the daemon that it asks what CRI has no words for.
//!
//! Everything but `doctor`, `config`, `image explain`, `copy` and `inspect` of another place goes through the CRI socket: the daemon owns the facts.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::config;

mod client;
mod config_command;
mod doctor;
mod image;
mod measure;
mod pulls;
mod say;
pub mod service;
mod status;
mod table;
mod transfer;
mod verify;
mod work;

/// Looks after the node runtime berth.
#[derive(Debug, Parser)]
#[command(name = "berth", version, about, arg_required_else_help = true)]
struct Arguments {
    /// The settings of berthd, which also say where its socket is.
    #[arg(long, global = true, value_name = "FILE", default_value = config::DEFAULT_FILE)]
    config: PathBuf,
    /// The socket of berthd, when it is not where the settings say.
    #[arg(long, global = true, value_name = "PATH")]
    socket: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Says what this machine has and lacks for berth, and what to do about it.
    Doctor,
    /// Shows and checks settings.
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Brings images to this node and lists them.
    #[command(subcommand)]
    Image(ImageCommand),
    /// Says how the daemon is and what runs.
    Status,
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Prints every setting with its default and what it means.
    Default,
    /// Reads the settings and says whether berthd would take them.
    Check,
    /// Prints the settings as berthd would use them, drop-ins merged.
    Show,
}

#[derive(Debug, Subcommand)]
enum ImageCommand {
    /// Takes in an OCI layout (directory or tar) or a docker archive from this machine's disk.
    Import(ImportArguments),
    /// Says whom a pull of a name would ask, with whose credentials, what the policy says, and why.
    Explain {
        name: String,
        /// For pods of this namespace, which may have credentials of their own.
        #[arg(long)]
        namespace: Option<String>,
    },
    /// Copies an image between a registry, an OCI layout and an archive; needs no daemon.
    Copy(CopyArguments),
    /// Writes an image of this node to an OCI layout or an archive.
    Export {
        name: String,
        /// `oci:DIR[:REF]`, `oci-archive:FILE[:REF]` or `docker-archive:FILE[:NAME]`.
        target: String,
    },
    /// Shows an image: `docker://NAME`, `oci:DIR[:REF]`, `oci-archive:FILE[:REF]` or `docker-archive:FILE[:NAME]`
    /// without pulling it and without a daemon, or the NAME of one on this node.
    Inspect(InspectArguments),
    /// Holds the images of this node against their digests, and pulls what is damaged again.
    Verify {
        /// All, when none is named.
        names: Vec<String>,
        /// Only says what is damaged.
        #[arg(long)]
        no_repair: bool,
        /// A file with credentials for what is pulled again, looked at before the node's own.
        #[arg(long, value_name = "FILE")]
        auth_file: Vec<PathBuf>,
    },
    /// Lists the images of this node.
    List,
    /// Pulls an image as the kubelet would.
    Pull {
        /// `registry/repository:tag` or `@sha256:…`.
        reference: String,
        /// A file with credentials, looked at before the node's own.
        #[arg(long, value_name = "FILE")]
        auth_file: Vec<PathBuf>,
    },
    /// Lists the pulls that go on, the kubelet's as well, and how far each is.
    Pulls,
}

#[derive(Debug, Args)]
struct ImportArguments {
    archive: PathBuf,
    /// The name for the archive's only image, instead of the archive's own.
    #[arg(long)]
    name: Option<String>,
}

#[derive(Debug, Args)]
struct CopyArguments {
    /// `docker://NAME`, `oci:DIR[:REF]`, `oci-archive:FILE[:REF]` or `docker-archive:FILE[:NAME]`.
    source: String,
    /// The same; an archive must not be there yet.
    target: String,
    /// Every image of an index, and the index, instead of the one for this platform.
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    choice: Choice,
}

#[derive(Debug, Args)]
struct InspectArguments {
    image: String,
    /// Prints what the name means as it is: a manifest or an index.
    #[arg(long, conflicts_with = "config_blob")]
    raw: bool,
    /// Prints the image's configuration as it is.
    #[arg(long = "config-blob")]
    config_blob: bool,
    #[arg(long, value_enum, default_value = "json")]
    format: Format,
    #[command(flatten)]
    choice: Choice,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Format {
    Json,
}

#[derive(Debug, Args)]
struct Choice {
    /// Of an index the image for this platform, as `linux/arm64/v8`; default: this machine's.
    #[arg(long)]
    platform: Option<String>,
    /// A file with credentials, looked at before the node's own.
    #[arg(long, value_name = "FILE")]
    auth_file: Vec<PathBuf>,
}

/// Why a command could not do its work.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("no berthd answers on {}; is it running? (systemctl status berth)", socket.display())]
    NoDaemon { socket: PathBuf, source: tonic::transport::Error },
    #[error("{} is root's: run as root", socket.display())]
    NotRoot { socket: PathBuf },
    #[error("{}", .0.message())]
    Refused(Box<tonic::Status>),
    #[error("this berthd is not of the version of this command; restart it")]
    OtherVersion,
    #[error(transparent)]
    Config(#[from] config::Error),
    #[error(transparent)]
    Images(#[from] image_service::Error),
    #[error(transparent)]
    Location(#[from] image_service::transfer::InvalidLocation),
    #[error(transparent)]
    Platform(#[from] image_service::platform::InvalidPlatform),
    #[error("{what}")]
    Io { what: String, source: std::io::Error },
    #[error(
        "{0:?} has a colon, which parts a path from a reference; go into another directory, or write elsewhere"
    )]
    Colon(String),
    #[error("something is missing")]
    Unwell,
    #[error("standard output is closed")]
    NobodyListens,
}

impl From<tonic::Status> for Error {
    fn from(status: tonic::Status) -> Self {
        match status.code() {
            tonic::Code::Unimplemented => Self::OtherVersion,
            _ => Self::Refused(Box::new(status)),
        }
    }
}

/// Runs the command that the process was started with.
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(&arguments) {
        Ok(()) | Err(Error::NobodyListens) => ExitCode::SUCCESS,
        // The lines above say it already.
        Err(Error::Unwell) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("berth: {}", crate::error::chain(&error));
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<(), Error> {
    match &arguments.command {
        Command::Doctor => doctor::doctor(&arguments.config, arguments.socket.as_deref()),
        Command::Config(command) => config_command::run(command, &arguments.config),
        Command::Image(ImageCommand::Explain { name, namespace }) => {
            image::explain(&arguments.config, name, namespace.as_deref())
        }
        Command::Image(ImageCommand::Copy(copy)) => wait(transfer::copy(&arguments.config, copy)),
        Command::Image(ImageCommand::Inspect(inspect)) => match transfer::place(inspect)? {
            Some(place) => wait(transfer::inspect(&arguments.config, &place, inspect)),
            None => wait(transfer::inspect_stored(&arguments.socket()?, inspect)),
        },
        Command::Image(command) => wait(image::run(command, &arguments.socket()?)),
        Command::Status => wait(status::status(&arguments.socket()?)),
    }
}

impl Arguments {
    fn socket(&self) -> Result<PathBuf, Error> {
        match &self.socket {
            Some(socket) => Ok(socket.clone()),
            None => Ok(config_command::read(&self.config)?.socket()),
        }
    }
}

/// One command is one conversation: one thread is enough for it.
fn wait(work: impl Future<Output = Result<(), Error>>) -> Result<(), Error> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|source| Error::Io { what: "starting to wait".to_owned(), source })?;
    runtime.block_on(work)
}
