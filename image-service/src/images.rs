//! The service: what the daemon asks of images, each a few words long.

mod judge;
mod namespace;
mod settings;

use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tracing::{Instrument, Span};

use crate::digest::Digest;
use crate::error::Error;
use crate::image::Image;
use crate::import::Opened;
use crate::policy::{Manifest, Policy, Verdict};
use crate::pull::counted::Counted;
use crate::pull::{PullRequest, PullUnderWay, Pulls, blocking};
use crate::reference::Reference;
use crate::registries_conf::RegistriesConf;
use crate::registry::{self, Registry, Repository, Resolved};
use crate::store::layers::Damaged;
use crate::store::writable::Writables;
use crate::store::{Content, Name, Store};

use self::namespace::Policies;
pub(crate) use self::namespace::{namespace_auth_file, policy_file, policy_in_force};
pub use self::settings::Settings;

/// What lies on the disk.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Usage {
    pub path: PathBuf,
    pub bytes: u64,
    pub inodes: u64,
}

/// What a container's root is mounted from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RootfsPlan {
    /// The topmost first, as overlay wants it.
    pub lower: Vec<PathBuf>,
    pub upper: PathBuf,
    pub work: PathBuf,
}

/// The images of this node; cheap to clone.
#[derive(Debug, Clone)]
pub struct Images {
    pub(crate) inner: Arc<Inner>,
}

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) settings: Settings,
    registry: Registry,
    policies: Policies,
    pub(crate) pulls: Pulls,
    pub(crate) writables: Writables,
}

/// What a name came to in a registry.
struct Found {
    reference: Reference,
    repository: Repository,
    resolved: Resolved,
    /// Where the policy wants signatures: what is to be remembered of them.
    verdict: Option<Verdict>,
}

impl Images {
    /// Opens the store, drops what is damaged, removes what a crash left behind.
    pub async fn open(settings: Settings) -> Result<Images, Error> {
        blocking(move || {
            settings.pull_cgroup.sweep();
            Ok(Images { inner: Arc::new(Inner::open(settings)?) })
        })
        .await
    }

    /// Pulls and gives the image; whoever asks for the same at the same time joins.
    /// Dropping the future of the last who asks cancels it and leaves nothing.
    pub async fn pull(&self, request: PullRequest) -> Result<Arc<Image>, Error> {
        let name = request.reference.as_str();
        let resolving = self.resolve(&request).instrument(step("image.resolve", name));
        let Found { reference, repository, resolved, verdict } = resolving.await?;
        let names = names(&reference, resolved.digest());
        let settings = &self.inner.settings;
        let pod_cgroup = request.pod_cgroup.as_deref();
        let counted = Counted::choose(&settings.pull_cgroup, &settings.unpacker, pod_cgroup);
        let content =
            self.inner.pulls.content(&request.reference, repository, resolved, counted, request.progress);
        let content = content.await?;
        self.commit(content, names, verdict).await
    }

    /// Takes in an OCI layout (directory or tar) or a docker archive. `name` is given to its only image.
    pub async fn import(&self, archive: &Path, name: Option<&str>) -> Result<Vec<Arc<Image>>, Error> {
        let name = name.map(Reference::parse).transpose()?;
        let (opened, policy) = self.open_archive(archive).await?;
        let found = opened.images(&self.inner.settings.platform, name.as_ref())?;
        for found in &found {
            let checked = policy.check_file(opened.transport(), archive, found.tag.as_deref());
            checked.map_err(Error::Policy)?;
        }
        let mut images = Vec::with_capacity(found.len());
        for found in found {
            let names = found.names.clone();
            let content = self.inner.pulls.import(&opened, found).await?;
            images.push(self.commit(content, names, None).await?);
        }
        Ok(images)
    }

    /// Reads `registries.conf` again; pulls under way go on by the old one. After an error all do. (Auth
    /// files, certificates, `hosts.toml` and the policy are read at each pull.)
    pub async fn reload(&self) -> Result<(), Error> {
        let inner = self.inner.clone();
        blocking(move || {
            let settings = &inner.settings;
            let registries = RegistriesConf::load(&settings.registries_conf, &settings.registries_conf_dir);
            inner.registry.set_registries(registries.map_err(Error::registries)?);
            Ok(())
        })
        .await
    }

    /// The pulls that go on, the oldest first: those of the kubelet as well as an operator's.
    pub fn pulls(&self) -> Vec<PullUnderWay> {
        self.inner.pulls.under_way()
    }

    /// All images, sorted by id.
    pub fn list(&self) -> Vec<Arc<Image>> {
        self.store().snapshot().list()
    }

    /// By name (`:latest` and `docker.io/library` implied), `name@digest`, id, or unambiguous start of an id.
    pub fn find(&self, name_or_id: &str) -> Option<Arc<Image>> {
        let snapshot = self.store().snapshot();
        if let Some(image) = snapshot.by_id(name_or_id) {
            return Some(image.clone());
        }
        // What a short name was pulled as, its order of candidates says.
        let candidates = self.inner.registry.registries().candidates(name_or_id).unwrap_or_default();
        let plain = Reference::parse(name_or_id).ok();
        let named = candidates.iter().chain(&plain).find_map(|reference| snapshot.by_reference(reference));
        named.or_else(|| snapshot.by_id_prefix(name_or_id)).cloned()
    }

    /// Forgets the image with all its names. Layers that a container uses stay until it is gone.
    pub async fn remove(&self, name_or_id: &str) -> Result<(), Error> {
        let Some(image) = self.find(name_or_id) else { return Ok(()) };
        let id = Digest::parse(&image.id).expect("an image's id is the digest of its configuration");
        let store = self.store().clone();
        blocking(move || store.remove(&id)).await
    }

    /// Whether the image is on the disk, record and layers: a pull is answered before that, and a power cut until then
    /// is as if it had come before the pull.
    pub fn is_settled(&self, image: &Image) -> bool {
        Digest::parse(&image.id).is_ok_and(|id| self.store().is_settled(&id))
    }

    /// What images take, and what is kept of broken pulls. Walks the latter: for a thread that may wait.
    pub fn usage(&self) -> Usage {
        let (bytes, inodes) = self.store().usage();
        Usage { path: self.inner.settings.root.clone(), bytes, inodes }
    }

    /// What writable layers take. Walks them: for a thread that may wait, not for the hot path.
    pub fn container_usage(&self) -> Usage {
        self.inner.writables.usage_of_all()
    }

    /// Makes a container's writable layer and holds the image's layers for it. Repeatable.
    pub async fn make_writable(&self, container_id: &str, image: &Image) -> Result<RootfsPlan, Error> {
        let (inner, container_id, image) = (self.inner.clone(), container_id.to_owned(), image.clone());
        blocking(move || inner.writables.make(&container_id, &image)).await
    }

    /// Removes a container's writable layer and lets go of the layers below. Gone is done.
    pub async fn unmake_writable(&self, container_id: &str) -> Result<(), Error> {
        let (inner, container_id) = (self.inner.clone(), container_id.to_owned());
        blocking(move || inner.writables.unmake(&container_id)).await
    }

    /// The containers that have a writable layer.
    pub fn writables(&self) -> Vec<String> {
        self.inner.writables.list()
    }

    /// What one writable layer takes; walks it, so ask from a thread that may wait.
    pub fn writable_usage(&self, container_id: &str) -> Usage {
        self.inner.writables.usage(container_id)
    }

    pub(crate) fn store(&self) -> &Arc<Store> {
        &self.inner.pulls.store
    }

    /// Marks a layer as damaged, or says which container uses it.
    pub(crate) async fn mark_damaged(&self, layer: &Digest) -> Result<Result<Damaged, String>, Error> {
        let (inner, layer) = (self.inner.clone(), layer.clone());
        blocking(move || Ok(inner.writables.mark_damaged(&layer))).await
    }

    pub(crate) fn settings(&self) -> &Settings {
        &self.inner.settings
    }

    /// Fetches what is not whole of an image that is there, which keeps its names.
    pub(crate) async fn pull_again(&self, request: PullRequest, id: Digest) -> Result<(), Error> {
        let Found { repository, resolved, verdict, .. } = self.resolve(&request).await?;
        let content = self.inner.pulls.content(&request.reference, repository, resolved, None, None);
        let content = content.await?;
        if content.id != id {
            let why = format!("the registry means {} by it now", content.id);
            return Err(Error::invalid(request.reference, why));
        }
        let store = self.store().clone();
        let names = store.names(&id);
        let (renewed, documents) = (store.clone(), content.documents.clone());
        blocking(move || renewed.rewrite(documents)).await?;
        self.commit(content, names, verdict).await?;
        Ok(())
    }

    /// Asks for each thing that the name may mean until one is there.
    async fn resolve(&self, request: &PullRequest) -> Result<Found, Error> {
        let inner = &self.inner;
        let name = &request.reference;
        let policy = inner.policies.in_force(&inner.settings, request.namespace.as_deref());
        let policy = policy.map_err(Error::Policy)?;
        let candidates = inner.registry.registries().candidates(name).map_err(Error::registries)?;
        let own = namespace_auth_file(&inner.settings, request.namespace.as_deref());
        let own: Vec<PathBuf> = request.auth_files.iter().cloned().chain(own).collect();
        let mut last = Error::NotFound { name: name.clone(), source: None };
        for reference in candidates {
            let demand = policy.demand(&reference).map_err(Error::Policy)?;
            let failed = |error| Error::registry(name, error);
            let credentials = request.credentials.as_ref().filter(|given| given.suit(name, &reference));
            let repository = inner.registry.repository_for(&reference, credentials, &own).map_err(failed)?;
            match repository.resolve(&inner.settings.platform).await {
                Ok(resolved) => {
                    let (manifest, registries_d) = (Manifest::of(&resolved), &inner.settings.registries_d);
                    let verdict = match demand {
                        Some(demand) => demand.verify(&repository, &manifest, registries_d).await?,
                        None => None,
                    };
                    return Ok(Found { reference, repository, resolved, verdict });
                }
                Err(error) => last = failed(error),
            }
        }
        Err(last)
    }

    async fn commit(
        &self,
        content: Arc<Content>,
        names: Vec<Name>,
        verdict: Option<Verdict>,
    ) -> Result<Arc<Image>, Error> {
        let store = self.store().clone();
        let span = step("image.commit", content.id.as_str());
        blocking(move || store.commit(&content, &names, verdict.as_ref())).instrument(span).await
    }

    async fn open_archive(&self, archive: &Path) -> Result<(Arc<Opened>, Policy), Error> {
        let (archive, policy) = (archive.to_owned(), self.inner.settings.policy.clone());
        blocking(move || {
            let opened = Opened::open(&archive)?;
            let policy = Policy::in_force(&policy).map_err(Error::Policy)?;
            Ok((Arc::new(opened), policy))
        })
        .await
    }
}

impl Inner {
    fn open(settings: Settings) -> Result<Inner, Error> {
        let registries = RegistriesConf::load(&settings.registries_conf, &settings.registries_conf_dir)
            .map_err(Error::registries)?;
        let registry = Registry::new(registry::Settings {
            registries,
            certs_dirs: settings.certs_dirs.clone(),
            auth_files: settings.auth_files.clone(),
            ..registry::Settings::default()
        });
        let containers = settings.containers_dir.clone();
        make_private_dir(&containers).map_err(|error| Error::io("making", &containers, error))?;
        let (store, writables) = Store::open(&settings, |layers, trash, empty| {
            let boot = settings.boot.clone();
            Writables::open(containers, empty, layers.clone(), trash.clone(), boot)
        })?;
        let store = Arc::new(store);
        store.settle_soon();
        let pulls = Pulls::new(store, &settings);
        Ok(Inner { settings, registry, policies: Policies::default(), pulls, writables })
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.pulls.store.layers.close();
    }
}

/// The names a pull gives: a pull by digest gives no tag.
fn names(reference: &Reference, digest: &Digest) -> Vec<Name> {
    let by_digest = Name::Digest(reference.with_digest(digest.clone()).to_string());
    reference.repo_tag().map(Name::Tag).into_iter().chain([by_digest]).collect()
}

fn make_private_dir(path: &Path) -> std::io::Result<()> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// The span of a part of a pull, for a collector of traces.
pub(crate) fn step(name: &'static str, of: &str) -> Span {
    tracing::debug_span!(target: "berth::span", "step", otel.name = name, of)
}
