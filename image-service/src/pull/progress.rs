//! How far a pull is, told to whoever watches.

use tokio::sync::watch;

use crate::digest::Digest;
use crate::manifest;

/// How far a pull is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Progress {
    pub layers: Vec<LayerProgress>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerProgress {
    pub digest: Digest,
    pub size_bytes: u64,
    pub done_bytes: u64,
    pub stage: LayerStage,
}

/// How far one layer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LayerStage {
    Coming,
    /// Came with this pull; whole and verified.
    Fetched,
    /// Needed no fetching.
    WasThere,
}

impl LayerStage {
    pub fn is_finished(self) -> bool {
        match self {
            LayerStage::Coming => false,
            LayerStage::Fetched | LayerStage::WasThere => true,
        }
    }
}

/// One layer's place in the progress of its pull.
#[derive(Clone, Copy)]
pub(crate) struct LayerWatch<'a> {
    pub(super) progress: &'a watch::Sender<Progress>,
    pub(super) at: usize,
}

impl LayerWatch<'_> {
    pub(super) fn came(&self, bytes: usize) {
        self.progress.send_modify(|progress| progress.layers[self.at].done_bytes += bytes as u64);
    }

    /// What had come was of no use.
    pub(super) fn again(&self) {
        self.progress.send_modify(|progress| progress.layers[self.at].done_bytes = 0);
    }

    pub(super) fn finished(&self, stage: LayerStage) {
        self.progress.send_modify(|progress| {
            let layer = &mut progress.layers[self.at];
            layer.done_bytes = layer.size_bytes;
            layer.stage = stage;
        });
    }
}

impl Progress {
    pub(super) fn of(manifest: &manifest::Manifest) -> Progress {
        let coming = |blob: &manifest::Descriptor| LayerProgress {
            digest: blob.digest.clone(),
            size_bytes: blob.size,
            done_bytes: 0,
            stage: LayerStage::Coming,
        };
        let layers = manifest.layers.iter().map(|layer| &layer.descriptor);
        let files = manifest.files.iter().map(|file| &file.blob);
        Progress { layers: layers.chain(files).map(coming).collect() }
    }
}
