//! ListImages over many images, its answer taken as bytes: a client built for tests would measure itself.

use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, ensure};

use super::disk::Disk;
use super::images;
use super::pullers::Puller;
use crate::bench::samples::Samples;
use crate::bench::wire::Wire;
use crate::registry::DockerRegistry;

/// So many images are listed, so often.
pub(super) const LISTED: usize = 1000;
const ASKED: usize = 200;

/// The median, in milliseconds.
pub(super) async fn list(backing: &Path, registry: &DockerRegistry) -> Result<f64> {
    println!("list: {LISTED} images");
    let disk = Disk::make(backing)?;
    let picture = images::tiny(0);
    let puller = Puller::start("berth", disk.root(), registry.address(), &picture).await?;
    let mut client = puller.client().await?;
    for number in 0..LISTED {
        registry.push("tiny", &[&format!("{number}")], &images::tiny(number).built).await?;
        client.pull(&format!("{}/tiny:{number}", registry.address())).await?;
    }
    let answer = client.images.list_images(proto::v1::ListImagesRequest::default()).await?.into_inner();
    ensure!(answer.items.len() == LISTED, "{} images are listed", answer.items.len());
    let mut wire = Wire::connect(puller.socket().context("berthd has a socket")?)?;
    let mut samples = Samples::default();
    for _ in 0..ASKED {
        let start = Instant::now();
        let answer = wire.call("ImageService/ListImages", &proto::v1::ListImagesRequest::default())?;
        samples.add("list", start.elapsed());
        ensure!(answer.len() > LISTED * 64, "an answer of {} bytes is no list", answer.len());
    }
    Ok(samples.p50("list"))
}
