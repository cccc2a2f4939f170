//! The configuration directory under watch: what it says is published, and readers never wait.
//!
//! The directory may not be there yet, and may be removed and made again (package managers and CNI
//! installers do), so its nearest living ancestor is watched too.
//!
//! ```text
//!   change in the directory ─► settle 50 ms ─► read files ─► ask plugins VERSION, STATUS ─► publish
//!   every 10 s, for a 1.1 network ───────────────────────────► ask plugins STATUS ────────► publish
//! ```

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use futures_util::StreamExt;
use inotify::{Inotify, WatchMask};
use serde_json::{Map, Value};
use tokio::task::AbortHandle;

use crate::conf::{Chain, Version, choose};
use crate::error::{Error, NotReady};
use crate::plugin::{Run, Runner, Target, Verb};

/// A file is often written in several steps; the last one counts.
const SETTLE: Duration = Duration::from_millis(50);
/// How often the plugins of a 1.1 network are asked whether they are ready.
const STATUS_EVERY: Duration = Duration::from_secs(10);

/// What the directory says today.
#[derive(Debug, Clone)]
pub(crate) struct Published {
    /// Those that a pod joins, the default one first; one at least.
    pub(crate) chains: Result<Vec<Arc<Chain>>, NotReady>,
    /// What their plugins say.
    pub(crate) status: Result<(), NotReady>,
}

/// The watch, and what it last published. It ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Watch {
    published: Arc<ArcSwap<Published>>,
    task: AbortHandle,
}

/// Where to look and whom to ask.
#[derive(Debug, Clone)]
pub(crate) struct Source {
    pub(crate) conf_dir: PathBuf,
    pub(crate) default_network: Option<String>,
    /// How many networks a pod joins at most.
    pub(crate) max_networks: usize,
    pub(crate) runner: Runner,
}

impl Watch {
    pub(crate) fn start(source: Source) -> Result<Watch, Error> {
        let failed = |error| Error::Watch { doing: "watching", path: source.conf_dir.clone(), source: error };
        let inotify = Inotify::init().map_err(failed)?;
        arm(&inotify, &source.conf_dir).map_err(failed)?;
        let published = Arc::new(ArcSwap::from_pointee(source.read()));
        let events = inotify.into_event_stream([0; 4096]).map_err(failed)?;
        let task = tokio::spawn(follow(source, published.clone(), events)).abort_handle();
        Ok(Watch { published, task })
    }

    pub(crate) fn published(&self) -> Arc<Published> {
        self.published.load_full()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

type Events = inotify::EventStream<[u8; 4096]>;

async fn follow(source: Source, published: Arc<ArcSwap<Published>>, mut events: Events) {
    let mut watches = events.watches();
    let mut again = tokio::time::interval(STATUS_EVERY);
    let mut changed = true;
    loop {
        if changed {
            let mut read = source.read();
            source.settle_versions(&mut read).await;
            published.store(Arc::new(source.ask_status(read).await));
        } else if published.load().chains.iter().flatten().any(|chain| has_status(chain)) {
            let asked = source.ask_status(published.load().as_ref().clone()).await;
            published.store(Arc::new(asked));
        }
        changed = tokio::select! {
            event = events.next() => match event {
                Some(_) => true,
                None => return,
            },
            _ = again.tick() => false,
        };
        if changed {
            calm(&mut events).await;
            if let Err(error) = arm_with(&mut watches, &source.conf_dir) {
                tracing::warn!(dir = %source.conf_dir.display(), %error, "cannot watch CNI configuration");
            }
        }
    }
}

/// Waits until nothing has happened for a moment.
async fn calm(events: &mut Events) {
    while let Ok(Some(_)) = tokio::time::timeout(SETTLE, events.next()).await {}
}

fn arm(inotify: &Inotify, dir: &Path) -> std::io::Result<()> {
    arm_with(&mut inotify.watches(), dir)
}

/// Watches the directory and its nearest living ancestor. Watching twice is watching once.
fn arm_with(watches: &mut inotify::Watches, dir: &Path) -> std::io::Result<()> {
    let names = WatchMask::CREATE | WatchMask::DELETE | WatchMask::MOVE | WatchMask::ONLYDIR;
    let own = names | WatchMask::CLOSE_WRITE | WatchMask::DELETE_SELF | WatchMask::MOVE_SELF;
    let mut outcome = Ok(());
    for ancestor in dir.ancestors().skip(1) {
        outcome = watches.add(existing_name(ancestor), names | WatchMask::DELETE_SELF).map(drop);
        if outcome.is_ok() {
            break;
        }
    }
    // The child after the parent: one that appears between the two is either seen here or announced.
    let there = watches.add(dir, own);
    if there.is_err() { outcome } else { Ok(()) }
}

/// The parent of a relative `net.d` is the directory that we are in.
fn existing_name(path: &Path) -> &Path {
    if path.as_os_str() == OsStr::new("") { Path::new(".") } else { path }
}

impl Source {
    fn read(&self) -> Published {
        let chosen = choose(&self.conf_dir, self.default_network.as_deref(), self.max_networks);
        let chains = chosen.and_then(|chains| {
            chains.iter().try_for_each(|chain| self.has_programs(chain))?;
            Ok(chains.into_iter().map(Arc::new).collect())
        });
        Published { chains, status: Ok(()) }
    }

    fn has_programs(&self, chain: &Chain) -> Result<(), NotReady> {
        let missing = chain.plugins.iter().find(|plugin| self.runner.find(&plugin.kind).is_err());
        match missing {
            None => Ok(()),
            Some(plugin) => Err(NotReady::PluginNotFound {
                plugin: plugin.kind.clone(),
                network: chain.name.clone(),
                bin_dirs: self.runner.bin_dirs.clone(),
            }),
        }
    }

    async fn settle_versions(&self, published: &mut Published) {
        let Ok(chains) = &mut published.chains else { return };
        for chain in chains {
            match self.settle_version(chain).await {
                Ok(settled) => *chain = Arc::new(settled),
                Err(refused) => {
                    published.chains = Err(refused);
                    return;
                }
            }
        }
    }

    /// Takes the best version that the file offers and every plugin speaks.
    async fn settle_version(&self, chain: &Chain) -> Result<Chain, NotReady> {
        let mut common = chain.offered.clone();
        for plugin in &chain.plugins {
            let spoken = self.runner.versions(&plugin.kind, &chain.name).await;
            if spoken.is_empty() {
                continue;
            }
            common.retain(|version| spoken.contains(version));
            if common.is_empty() {
                return Err(speaks_none(plugin.kind.clone(), chain, &spoken));
            }
        }
        Ok(Chain { version: common[0], ..chain.clone() })
    }

    async fn ask_status(&self, published: Published) -> Published {
        let mut status = Ok(());
        for chain in published.chains.iter().flatten().filter(|chain| has_status(chain)) {
            status = self.status(chain).await;
            if status.is_err() {
                break;
            }
        }
        Published { status, ..published }
    }

    async fn status(&self, chain: &Chain) -> Result<(), NotReady> {
        let target = Target::default();
        for plugin in &chain.plugins {
            let run = Run { verb: Verb::Status, kind: &plugin.kind, network: &chain.name, target: &target };
            let conf = crate::chain::conf_for(chain, plugin, &Map::new(), None::<&Value>);
            if let Err(error) = self.runner.run(run, &conf).await {
                let reason = error.to_string();
                return Err(NotReady::Status {
                    plugin: plugin.kind.clone(),
                    network: chain.name.clone(),
                    reason,
                });
            }
        }
        Ok(())
    }
}

fn has_status(chain: &Chain) -> bool {
    chain.version >= Version::V1_1_0
}

fn speaks_none(plugin: String, chain: &Chain, spoken: &[Version]) -> NotReady {
    NotReady::Version {
        plugin,
        network: chain.name.clone(),
        offered: chain.offered.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
        spoken: spoken.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
    }
}
