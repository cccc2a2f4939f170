//! Pulls under a policy that asks for signatures: the whole service against a registry, with keys made on
//! the spot.

mod again;
mod attestations;
mod chains;
mod example;
mod real_cosign;
mod sigstore;
mod simple;

use image_service::Error;
use serde_json::{Value, json};

use crate::support::fake;
use crate::support::picture::Picture;
use crate::support::shelf::{Node, Shelf, image, request, tar};

/// A node, its registry, and one image in it: `one.test/a/b:1`.
pub(crate) struct Case {
    pub(crate) node: Node,
    pub(crate) shelf: Shelf,
    pub(crate) fake: fake::Fake,
    pub(crate) picture: Picture,
}

pub(crate) const NAME: &str = "one.test/a/b:1";
pub(crate) const REPOSITORY: &str = "one.test/a/b";

impl Case {
    pub(crate) fn new() -> Case {
        let picture = image(&[tar(&[("app", "hello")])], json!({}));
        let shelf = Shelf::default();
        shelf.put("a/b:1", &picture);
        let fake = shelf.serve();
        let node = Node::new(&fake.host());
        Case { node, shelf, fake, picture }
    }

    /// Everything is rejected but `one.test`, of which this is asked.
    pub(crate) fn policy(&self, requirements: Value) {
        let policy =
            json!({"default": [{"type": "reject"}], "transports": {"docker": {"one.test": requirements}}});
        std::fs::write(&self.node.settings.policy, policy.to_string()).unwrap();
    }

    pub(crate) fn file(&self, name: &str, content: impl AsRef<[u8]>) -> String {
        let path = self.node.dir.path().join(name);
        std::fs::write(&path, content).unwrap();
        path.to_str().unwrap().to_owned()
    }

    pub(crate) async fn pull(&self, name: &str) -> Result<(), String> {
        self.pull_for(name, None).await
    }

    /// With why not. Of what is refused nothing may be left, and nothing but manifests and signatures asked for.
    pub(crate) async fn pull_for(&self, name: &str, namespace: Option<&str>) -> Result<(), String> {
        let images = self.node.open().await;
        let request = image_service::PullRequest { namespace: namespace.map(str::to_owned), ..request(name) };
        let layer = self.picture.layer.digest.to_string();
        let asked = |fake: &fake::Fake| fake.paths().iter().filter(|path| path.ends_with(&layer)).count();
        let before = asked(&self.fake);
        match images.pull(request).await {
            Ok(pulled) => {
                images.remove(&pulled.id).await.unwrap();
                Ok(())
            }
            Err(error) => {
                assert!(images.list().is_empty());
                assert_eq!(asked(&self.fake), before, "a layer of what is refused was fetched");
                self.node.check_empty().await;
                let policy = matches!(error, Error::Policy(_));
                assert_eq!(policy, error.to_string() == "SignatureValidationFailed");
                Err(told(&error))
            }
        }
    }

    pub(crate) async fn refused(&self, why: &str) {
        let text = self.pull(NAME).await.expect_err(why);
        assert!(
            text.starts_with("SignatureValidationFailed") && text.contains(why),
            "{why:?} is not in {text:?}"
        );
    }
}

fn told(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}
