//! berthd and Debian's containerd side by side: the same registry, image and CNI configuration for both.

use anyhow::Result;

use crate::bench::containerd::Containerd;
use crate::image::{Layer, Recipe};
use crate::node::{Node, Options as NodeOptions};
use crate::programs::Programs;
use crate::registry::DockerRegistry;
use crate::stand_ins;

/// Both daemons, for as long as it lives.
pub(crate) struct Beside {
    pub(crate) node: Node,
    pub(crate) containerd: Containerd,
    /// What the pods run: busybox.
    pub(crate) image: String,
    _registry: DockerRegistry,
    _registry_dir: tempfile::TempDir,
}

impl Beside {
    pub(crate) async fn start() -> Result<Beside> {
        let registry_dir = tempfile::tempdir()?;
        let registry = DockerRegistry::start(registry_dir.path())?;
        let programs = Programs::built();
        let pause = Layer::new().file("pause", 0o755, &std::fs::read(&programs.stand_in)?).finish();
        let pause = Recipe::new(vec![pause], serde_json::json!({"Entrypoint": ["/pause"]}));
        registry.push("pause", &["3.9"], &pause.build()).await?;
        registry.push("busybox", &["bench"], &stand_ins::busybox(&programs)?).await?;
        let host = registry.address();
        let node = Node::start(NodeOptions { mirror: Some(host.to_string()), ..Default::default() }).await?;
        let containerd = Containerd::start(&node.dir().join("cni"), &format!("{host}/pause:3.9")).await?;
        let image = format!("{host}/busybox:bench");
        Ok(Beside { node, containerd, image, _registry: registry, _registry_dir: registry_dir })
    }
}
