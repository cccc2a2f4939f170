//! ListImages over many images, its answer taken as bytes: a client built for tests would measure itself.

use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use bytes::{Buf, BufMut};
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::{Request, Status};

use super::disk::Disk;
use super::images;
use super::pullers::Puller;
use crate::bench::samples::Samples;
use crate::node::channel;
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
    ensure!(answer.images.len() == LISTED, "{} images are listed", answer.images.len());
    let mut grpc = tonic::client::Grpc::new(channel(puller.socket().context("berthd has a socket")?).await?);
    let mut samples = Samples::default();
    for _ in 0..ASKED {
        grpc.ready().await?;
        let path = http::uri::PathAndQuery::from_static("/runtime.v1.ImageService/ListImages");
        let start = Instant::now();
        let bytes = grpc.unary(Request::new(()), path, Bytes).await?.into_inner();
        samples.add("list", start.elapsed());
        ensure!(bytes > LISTED * 64, "an answer of {bytes} bytes is no list");
    }
    Ok(samples.p50("list"))
}

/// An empty request, and an answer of so many bytes.
#[derive(Debug, Clone, Copy, Default)]
struct Bytes;

impl Codec for Bytes {
    type Encode = ();
    type Decode = usize;
    type Encoder = Bytes;
    type Decoder = Bytes;

    fn encoder(&mut self) -> Bytes {
        Bytes
    }

    fn decoder(&mut self) -> Bytes {
        Bytes
    }
}

impl Encoder for Bytes {
    type Item = ();
    type Error = Status;

    fn encode(&mut self, (): (), into: &mut EncodeBuf<'_>) -> Result<(), Status> {
        into.put_slice(&[]);
        Ok(())
    }
}

impl Decoder for Bytes {
    type Item = usize;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<usize>, Status> {
        let bytes = from.remaining();
        from.advance(bytes);
        Ok(Some(bytes))
    }
}
