//! Copying and inspecting, against registries and tools that are not ours: Debian's docker-registry, skopeo
//! and podman.

mod archives;
mod broken;
mod registries;

use std::process::Command;

use image_service::transfer::{Copied, Copy, Location, copy, inspect};
use image_service::{Error, Platform, Settings};
use serde_json::Value;

/// What the tests' images are for, whatever this machine is.
fn amd64() -> Platform {
    Platform::parse("linux/amd64").unwrap()
}

fn order(source: &str, target: &str, all: bool) -> Copy {
    Copy {
        source: Location::read(source).unwrap(),
        target: Location::read(target).unwrap(),
        all,
        platform: amd64(),
        auth_files: Vec::new(),
        progress: tokio::sync::watch::channel(Default::default()).0,
    }
}

async fn copied(settings: &Settings, source: &str, target: &str) -> Copied {
    copy(settings, order(source, target, false)).await.unwrap_or_else(|error| panic!("{}", told(&error)))
}

/// An error with all its causes.
fn told(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

async fn refused(settings: &Settings, source: &str, target: &str) -> String {
    told(&copy(settings, order(source, target, false)).await.unwrap_err())
}

async fn shown(settings: &Settings, place: &str) -> Result<Value, Error> {
    inspect(settings, &Location::read(place).unwrap(), &amd64(), &[]).await?.json()
}

/// What another program says when it does its work.
fn said(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    let output = output.unwrap_or_else(|error| panic!("{program} must be installed: {error}"));
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {complaint}");
    String::from_utf8(output.stdout).unwrap()
}
