//! One attachment through the plugins of its network: which run for a verb, in which order, and what each is told.

use std::path::PathBuf;
use std::time::Instant;

use serde_json::{Map, Value, json};

use crate::conf::{Chain, Plugin, Version};
use crate::network::INTERFACE;
use crate::plugin::{Run, Runner, Target, Verb};
use crate::record::{Key, Record};
use crate::{Attachment, Error, capabilities, netns};

impl Runner {
    /// Runs the chain; each plugin is given what the one before it answered.
    pub(crate) async fn add(&self, record: &Record) -> Result<(Value, Attachment), Error> {
        let target = target_of(record);
        let chain = &record.chain;
        let mut result: Option<Value> = None;
        let mut attachment = None;
        // Only the pod's first network must make it reachable; another may be a mere wire.
        let needs_address = record.interface == INTERFACE;
        for plugin in &chain.plugins {
            let conf = conf_for(chain, plugin, &record.capabilities, result.as_ref());
            let said = self.of_chain(Verb::Add, plugin, chain, &target, &conf).await?;
            let run = Run { verb: Verb::Add, kind: &plugin.kind, network: &chain.name, target: &target };
            let answer: Value =
                serde_json::from_slice(&said).map_err(|error| run.garbage(error.to_string()))?;
            let read = Attachment::read(&answer, &chain.name, &record.interface);
            attachment = Some(read.map_err(|reason| run.garbage(reason))?);
            result = Some(answer);
        }
        match (result, attachment) {
            (Some(result), Some(attachment)) if !needs_address || !attachment.ips.is_empty() => {
                Ok((result, attachment))
            }
            _ => Err(Error::NoAddress { network: chain.name.clone(), sandbox_id: record.sandbox_id.clone() }),
        }
    }

    /// Asks every plugin, last first, and goes on past failures.
    pub(crate) async fn del(&self, record: &Record) -> Result<(), Error> {
        let target = target_of(record);
        let result = record.result.as_ref().filter(|_| record.chain.version >= Version::V0_4_0);
        let mut failures = Vec::new();
        for plugin in record.chain.plugins.iter().rev() {
            let conf = conf_for(&record.chain, plugin, &record.capabilities, result);
            failures.extend(self.of_chain(Verb::Del, plugin, &record.chain, &target, &conf).await.err());
        }
        all_of(failures)
    }

    /// CHECK with what ADD gave; a network that has none, or does not want it, is as it should be.
    pub(crate) async fn check(&self, record: &Record, result: &Value) -> Result<(), Error> {
        if record.chain.disable_check || record.chain.version < Version::V0_4_0 {
            return Ok(());
        }
        let target = target_of(record);
        for plugin in &record.chain.plugins {
            let conf = conf_for(&record.chain, plugin, &record.capabilities, Some(result));
            self.of_chain(Verb::Check, plugin, &record.chain, &target, &conf).await?;
        }
        Ok(())
    }

    /// GC: which attachments of the network are valid (specification 1.1, `cni.dev/valid-attachments`).
    pub(crate) async fn collect(&self, chain: &Chain, valid: &[Key]) -> Vec<Error> {
        if chain.disable_gc || chain.version < Version::V1_1_0 {
            return Vec::new();
        }
        let valid: Vec<Value> = valid
            .iter()
            .map(|key| json!({ "containerID": key.sandbox_id, "ifname": key.interface }))
            .collect();
        let mut failures = Vec::new();
        for plugin in &chain.plugins {
            let mut conf = conf_for(chain, plugin, &Map::new(), None);
            conf.insert("cni.dev/valid-attachments".into(), valid.clone().into());
            failures.extend(self.of_chain(Verb::Gc, plugin, chain, &Target::default(), &conf).await.err());
        }
        failures
    }

    async fn of_chain(
        &self,
        verb: Verb,
        plugin: &Plugin,
        chain: &Chain,
        target: &Target,
        conf: &Map<String, Value>,
    ) -> Result<Vec<u8>, Error> {
        let begun = Instant::now();
        let run = Run { verb, kind: &plugin.kind, network: &chain.name, target };
        let said = self.run(run, conf).await;
        let took_ms = begun.elapsed().as_secs_f64() * 1000.0;
        tracing::debug!(target: "trace", sandbox = %target.container_id, plugin = %plugin.kind,
            verb = verb.name(), took_ms, "CNI plugin");
        said
    }
}

/// A namespace that is gone is passed as none: plugins then skip what was inside it.
fn target_of(record: &Record) -> Target {
    let netns = if netns::is_pinned(&record.netns) { record.netns.clone() } else { PathBuf::new() };
    Target {
        container_id: record.sandbox_id.clone(),
        netns,
        interface: record.interface.clone(),
        args: record.args.clone(),
    }
}

/// What one plugin is given on its stdin.
pub(crate) fn conf_for(
    chain: &Chain,
    plugin: &Plugin,
    said: &Map<String, Value>,
    previous: Option<&Value>,
) -> Map<String, Value> {
    let mut conf = plugin.conf.clone();
    conf.insert("name".into(), chain.name.clone().into());
    conf.insert("cniVersion".into(), chain.version.to_string().into());
    let wanted = capabilities::of(plugin, said);
    if !wanted.is_empty() {
        conf.insert("runtimeConfig".into(), wanted.into());
    }
    if let Some(previous) = previous {
        conf.insert("prevResult".into(), previous.clone());
    }
    conf
}

pub(crate) fn all_of(mut failures: Vec<Error>) -> Result<(), Error> {
    match failures.len() {
        0 => Ok(()),
        1 => Err(failures.remove(0)),
        _ => Err(Error::Several(failures)),
    }
}
