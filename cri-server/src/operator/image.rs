//! `berth image`: with a bar for each layer while one is pulled.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use proto::operator::operator_client::OperatorClient;
use proto::operator::{ImageProgress, ImportImageRequest, LayerProgress, PullImageRequest, StoredImage};
use proto::v1;
use proto::v1::image_service_client::ImageServiceClient;
use tonic::Streaming;
use tonic::transport::Channel;

use super::measure::size;
use super::say::say;
use super::table::table;
use super::{Error, ImageCommand, ImportArguments, client, config_command, pulls, transfer, verify};

/// Answers of a node with thousands of images.
const ANSWER_MAX_BYTES: usize = 64 << 20;

pub(super) async fn run(command: &ImageCommand, socket: &Path) -> Result<(), Error> {
    let channel = client::connect(socket).await?;
    match command {
        ImageCommand::Import(arguments) => import(channel, arguments).await,
        // These ask no daemon.
        ImageCommand::Explain { .. } | ImageCommand::Copy(_) | ImageCommand::Inspect(_) => Ok(()),
        ImageCommand::Export { name, target } => transfer::export(channel, name, target).await,
        ImageCommand::Verify { names, no_repair, auth_file } => {
            verify::verify(channel, names, !no_repair, absolute(auth_file)?).await
        }
        ImageCommand::List => list(channel).await,
        ImageCommand::Pull { reference, auth_file } => pull(channel, reference, absolute(auth_file)?).await,
        ImageCommand::Pulls => pulls::pulls(channel).await,
    }
}

pub(super) fn explain(config: &Path, name: &str, namespace: Option<&str>) -> Result<(), Error> {
    let settings = config_command::read(config)?.image_settings();
    for explanation in image_service::explain(&settings, name, namespace)? {
        say(&explanation.to_string())?;
    }
    Ok(())
}

/// The daemon reads the archive itself, so the path must mean the same to it.
async fn import(channel: Channel, arguments: &ImportArguments) -> Result<(), Error> {
    let shown = arguments.archive.display().to_string();
    let path =
        arguments.archive.canonicalize().map_err(|source| Error::Io { what: shown.clone(), source })?;
    let path = text(path)?;
    let request = ImportImageRequest { path, name: arguments.name.clone().unwrap_or_default() };
    let answers = OperatorClient::new(channel).import_image(request).await?.into_inner();
    follow(&format!("importing {shown}"), answers).await
}

/// A path as it goes to the daemon.
pub(super) fn text(path: PathBuf) -> Result<String, Error> {
    path.into_os_string().into_string().map_err(|path| Error::Io {
        what: path.display().to_string(),
        source: std::io::Error::new(std::io::ErrorKind::InvalidInput, "the path is not UTF-8"),
    })
}

/// Files that the daemon reads itself, so the paths must mean the same to it.
fn absolute(files: &[PathBuf]) -> Result<Vec<String>, Error> {
    let whole = |file: &PathBuf| {
        let what = file.display().to_string();
        text(file.canonicalize().map_err(|source| Error::Io { what, source })?)
    };
    files.iter().map(whole).collect()
}

async fn pull(channel: Channel, reference: &str, auth_files: Vec<String>) -> Result<(), Error> {
    let request = PullImageRequest { reference: reference.to_owned(), auth_files };
    let answers = OperatorClient::new(channel).pull_image(request).await?.into_inner();
    follow(&format!("pulling {reference}"), answers).await
}

/// Shows what happens until it is done, then what came of it.
pub(super) async fn follow(title: &str, mut answers: Streaming<ImageProgress>) -> Result<(), Error> {
    let mut bars = Bars::new(title);
    while let Some(progress) = answers.message().await? {
        bars.show(&progress.layers);
        for image in &progress.images {
            bars.end();
            say(&line(image))?;
        }
    }
    bars.end();
    Ok(())
}

fn line(image: &StoredImage) -> String {
    let names = image.repo_tags.iter().chain(&image.repo_digests);
    let name = names.map(String::as_str).next().unwrap_or("<no name>");
    format!("{name}  {}  {}\n", image.id, size(image.size_bytes))
}

#[derive(Debug)]
pub(super) struct Bars {
    all: MultiProgress,
    title: ProgressBar,
    layers: HashMap<String, ProgressBar>,
}

impl Bars {
    pub(super) fn new(title: &str) -> Self {
        let all = MultiProgress::new();
        let bar = all.add(ProgressBar::new_spinner().with_message(title.to_owned()));
        bar.enable_steady_tick(Duration::from_millis(120));
        Self { all, title: bar, layers: HashMap::new() }
    }

    pub(super) fn show(&mut self, layers: &[LayerProgress]) {
        for layer in layers {
            let bar = self.layers.entry(layer.digest.clone()).or_insert_with(|| {
                let bar =
                    ProgressBar::new(layer.size_bytes).with_style(style()).with_prefix(short(&layer.digest));
                self.all.add(bar)
            });
            bar.set_length(layer.size_bytes.max(layer.done_bytes));
            bar.set_position(layer.done_bytes);
            if layer.finished && !bar.is_finished() {
                bar.finish();
            }
        }
    }

    pub(super) fn end(&mut self) {
        self.title.finish_and_clear();
        for bar in self.layers.values() {
            bar.finish();
        }
    }
}

fn style() -> ProgressStyle {
    let style =
        ProgressStyle::with_template("  {prefix} [{bar:30}] {bytes:>10}/{total_bytes:10} {bytes_per_sec}");
    style.expect("the template is right").progress_chars("=> ")
}

/// The digest's first twelve digits, as everyone writes them.
pub(super) fn short(digest: &str) -> String {
    let hex = digest.split_once(':').map_or(digest, |(_, hex)| hex);
    hex.chars().take(12).collect()
}

async fn list(channel: Channel) -> Result<(), Error> {
    let mut client = ImageServiceClient::new(channel).max_decoding_message_size(ANSWER_MAX_BYTES);
    let images = client.list_images(v1::ListImagesRequest::default()).await?.into_inner().items;
    let mut rows: Vec<Vec<String>> = images.iter().flat_map(rows).collect();
    rows.sort();
    say(&table(&["NAME", "ID", "SIZE"], &rows))
}

/// A line for each tag; for an image without one, its digests.
fn rows(image: &v1::Image) -> Vec<Vec<String>> {
    let names = if image.repo_tags.is_empty() { &image.repo_digests } else { &image.repo_tags };
    let row = |name: &String| vec![name.clone(), short(&image.id), size(image.size)];
    if names.is_empty() { vec![row(&"<no name>".to_owned())] } else { names.iter().map(row).collect() }
}
