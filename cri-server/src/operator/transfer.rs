//! `berth image copy` and `inspect`: from one place to another, and a look at what a place has. They work in
//! this process: no daemon need run, and none is held up.

use std::path::Path;
use std::time::Duration;

use image_service::platform::Platform;
use image_service::transfer::{self, Copy, Inspected, Location};
use image_service::{Progress, Settings};
use tokio::sync::watch;

use super::image::Bars;
use super::say::say;
use super::service::{PROGRESS_EVERY, layers};
use super::{Choice, CopyArguments, Error, Format, InspectArguments, config_command};

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

pub(super) async fn inspect(config: &Path, arguments: &InspectArguments) -> Result<(), Error> {
    let location = Location::read(&arguments.image)?;
    let platform = arguments.choice.platform()?;
    let auth_files = &arguments.choice.auth_file;
    let found = transfer::inspect(&settings(config)?, &location, &platform, auth_files).await?;
    show(&found, arguments)
}

fn show(found: &Inspected, arguments: &InspectArguments) -> Result<(), Error> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    match (arguments.raw, arguments.config_blob, arguments.format) {
        (true, _, Format::Json) => say(&text(&found.raw)),
        (_, true, Format::Json) => say(&text(&found.config)),
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
