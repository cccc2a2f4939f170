//! `berth image copy`, `export` and `inspect`: from one place to another, and a look at what a place has. What is
//! not on this node is looked at in this process: no daemon need run, and none is held up.

use std::path::Path;
use std::time::Duration;

use image_service::digest::Digest;
use image_service::platform::Platform;
use image_service::transfer::{self, Copy, Inspected, Location};
use image_service::{Progress, Settings};
use proto::operator::operator_client::OperatorClient;
use proto::operator::{ExportImageRequest, InspectImageRequest};
use tokio::sync::watch;
use tonic::transport::Channel;

use super::image::{Bars, follow, text};
use super::say::say;
use super::service::{PROGRESS_EVERY, layers};
use super::{Choice, CopyArguments, Error, Format, InspectArguments, client, config_command};

pub(super) async fn copy(config: &Path, arguments: &CopyArguments) -> Result<(), Error> {
    let (progress, seen) = watch::channel(Progress::default());
    let order = Copy {
        source: Location::read(&arguments.source)?,
        target: Location::read(&arguments.target)?,
        all: arguments.all,
        platform: arguments.choice.platform()?,
        auth_files: arguments.choice.auth_file.clone(),
        progress,
    };
    let (target, settings) = (order.target.to_string(), settings(config)?);
    let mut bars = Bars::new(&format!("copying {}", arguments.source));
    let work = transfer::copy(&settings, order);
    tokio::pin!(work);
    let mut looks = tokio::time::interval(PROGRESS_EVERY.max(Duration::from_millis(1)));
    let copied = loop {
        tokio::select! {
            done = &mut work => break done,
            _ = looks.tick() => bars.show(&layers(&seen.borrow())),
        }
    };
    bars.show(&layers(&seen.borrow()));
    bars.end();
    let copied = copied?;
    let (sent, were_there) = (copied.sent, copied.were_there);
    say(&format!("{target}  {}  {sent} blobs sent, {were_there} were there\n", copied.digest))
}

/// The place that is to be inspected; None when a name of this node's is meant.
pub(super) fn place(arguments: &InspectArguments) -> Result<Option<Location>, Error> {
    Ok(Location::parse(&arguments.image).transpose()?)
}

pub(super) async fn inspect(
    config: &Path,
    place: &Location,
    arguments: &InspectArguments,
) -> Result<(), Error> {
    let platform = arguments.choice.platform()?;
    let auth_files = &arguments.choice.auth_file;
    let found = transfer::inspect(&settings(config)?, place, &platform, auth_files).await?;
    show(&found, arguments)
}

pub(super) async fn inspect_stored(socket: &Path, arguments: &InspectArguments) -> Result<(), Error> {
    let channel = client::connect(socket).await?;
    let request = InspectImageRequest { name: arguments.image.clone() };
    let answer = OperatorClient::new(channel).inspect_image(request).await?.into_inner();
    let found = Inspected {
        name: answer.name,
        digest: Digest::parse(&answer.digest).ok(),
        tags: answer.tags,
        raw: answer.raw.into(),
        manifest: answer.manifest.into(),
        config: answer.config.into(),
    };
    show(&found, arguments)
}

/// The daemon writes the files itself, so the path must mean the same to it.
pub(super) async fn export(channel: Channel, name: &str, target: &str) -> Result<(), Error> {
    let location = match Location::read(target)? {
        Location::File { kind, path, reference } => {
            let absolute = std::path::absolute(&path);
            let path = absolute.map_err(|source| Error::Io { what: path.display().to_string(), source })?;
            let path = text(path)?;
            if path.contains(':') {
                return Err(Error::Colon(path.to_owned()));
            }
            Location::File { kind, path: path.into(), reference }
        }
        registry @ Location::Registry { .. } => registry,
    };
    let request = ExportImageRequest { name: name.to_owned(), target: location.to_string() };
    let answers = OperatorClient::new(channel).export_image(request).await?.into_inner();
    follow(&format!("exporting {name}"), answers).await?;
    say(&format!("{location}\n"))
}

fn show(found: &Inspected, arguments: &InspectArguments) -> Result<(), Error> {
    let whole = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    match (arguments.raw, arguments.config_blob, arguments.format) {
        (true, _, Format::Json) => say(&whole(&found.raw)),
        (_, true, Format::Json) => say(&whole(&found.config)),
        (false, false, Format::Json) => say(&format!("{:#}\n", found.json()?)),
    }
}

fn settings(config: &Path) -> Result<Settings, Error> {
    Ok(config_command::read(config)?.image_settings())
}

impl Choice {
    fn platform(&self) -> Result<Platform, Error> {
        self.platform.as_deref().map_or_else(|| Ok(Platform::host()), |text| Ok(Platform::parse(text)?))
    }
}
