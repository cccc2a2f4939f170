//! CheckpointContainer: one container, to an archive at a place of the client's choice. It runs on.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use proto::v1;
use tokio::time::Instant;

use super::capture::{self, Subject};
use super::partial::Partial;
use super::{Error, archive, blocking, may_checkpoint, to_its_end};
use crate::error::Error as Failed;
use crate::node::Node;

/// Goes on to its end when the client goes away.
///
/// # Errors
/// Names what is in the way. Nothing is left at the place then.
pub async fn checkpoint_container(
    node: &Arc<Node>,
    request: v1::CheckpointContainerRequest,
    deadline: Option<Instant>,
) -> Result<(), Failed> {
    let node = node.clone();
    to_its_end(async move { checkpoint(&node, request, deadline).await }).await
}

async fn checkpoint(
    node: &Arc<Node>,
    request: v1::CheckpointContainerRequest,
    deadline: Option<Instant>,
) -> Result<(), Failed> {
    let world = node.world.now();
    let container = world.container(&request.container_id)?;
    let sandbox = world.sandbox(&container.facts.sandbox_id)?;
    // It may be on a file system whose server is gone.
    let wanted = request.location;
    let (location, folder) = blocking(move || place(&wanted)).await?;
    let criu = may_checkpoint(node).await?;
    let until = capture::deadline(deadline, request.timeout);
    let root = node.config().root.clone();
    let partial = blocking(move || Partial::make(&root, &folder, Vec::new())).await?;
    let subject = Subject { container, dir: partial.dir.clone() };
    let captured = capture::capture(node, &sandbox, vec![subject], criu, until).await;
    let is_whole = captured.is_ok();
    let finished = blocking(move || {
        // What is not whole is gone before the answer.
        if is_whole { put_in_place(partial, &location, until) } else { Ok(()) }
    });
    captured.and(finished.await)
}

fn put_in_place(partial: Partial, location: &Path, until: std::time::Instant) -> Result<(), Error> {
    let packed = partial.dir.join("packed");
    archive::pack(&partial.dir, &packed, until)?;
    std::fs::rename(&packed, location).map_err(Error::io("putting in place", location))?;
    partial.done()
}

/// The file, and the folder that it is to be in.
fn place(location: &str) -> Result<(PathBuf, PathBuf), Error> {
    let path = Path::new(location);
    let refuse = |why: &str| Error::Request(format!("location: {location:?} {why}"));
    if !path.is_absolute() {
        return Err(refuse("is not an absolute path"));
    }
    let folder =
        path.parent().filter(|_| path.file_name().is_some()).ok_or_else(|| refuse("names no file"))?;
    if path.is_dir() {
        return Err(refuse("is a folder"));
    }
    if !folder.is_dir() {
        return Err(refuse("is in no folder that exists"));
    }
    Ok((path.into(), folder.into()))
}
