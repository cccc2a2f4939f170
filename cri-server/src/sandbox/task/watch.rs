//! The task and the pod's monitor: losing one, reaching another, and believing what it says.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use conmon_protocol::{Event as MonitorEvent, Exit, PodState};
use tokio::sync::broadcast;

use super::slot::Stage;
use super::stop::Stopping;
use super::{Outcome, SIGKILL, Task};
use crate::container;
use crate::container::life::{Deed, Stop};
use crate::error::{Error, chain};
use crate::monitor::{Monitor, Reached};
use crate::sandbox::Life;
use crate::sandbox::life::Event;

impl Task {
    pub(super) fn adopt(&mut self, monitor: Monitor, events: broadcast::Receiver<MonitorEvent>) {
        self.events = Some(events);
        if let Some(lost) = self.lost.take() {
            lost.succeed(&monitor);
        }
        self.monitor = Some(monitor);
    }

    /// It died, or was killed. Another takes up its pod: the containers have not noticed.
    pub(super) fn lose_monitor(&mut self) {
        self.lost = self.monitor.take();
        self.events = None;
        if matches!(self.life, Life::Ready | Life::Stopping) && self.stop != Stopping::Stilling {
            tracing::warn!(sandbox = &*self.facts.id, "the pod's monitor is gone; starting another");
            self.publish();
            let pause = self.pace.lost(Instant::now());
            self.reach(pause);
        }
    }

    pub(super) fn reach(&mut self, pause: Duration) {
        let (node, id, monitor) = (self.node.clone(), self.facts.id.clone(), self.monitor.clone());
        self.work_on(async move {
            tokio::time::sleep(pause).await;
            let reached = match monitor.filter(|monitor| !monitor.is_closed()) {
                Some(monitor) => Reached::by(monitor).await,
                None => node.monitors.reach(node.store.sandbox(&id).dir()).await,
            };
            Outcome::Reached(reached.map_err(Error::from))
        });
    }

    pub(super) fn hear_reached(&mut self, reached: Result<Reached, Error>) {
        match reached {
            Ok(Reached { monitor, state, events }) => {
                self.pace.reached(Instant::now());
                if self.monitor.is_none() {
                    self.adopt(monitor, events);
                }
                self.catch_up(&state);
                self.publish();
                self.say_caught_up();
            }
            Err(error) => {
                let pause = self.pace.failed();
                tracing::error!(
                    sandbox = &*self.facts.id,
                    error = chain(&error),
                    ?pause,
                    "no monitor for the pod; trying again"
                );
                self.say_caught_up();
                self.reach(pause);
            }
        }
    }

    /// Brings every container's life up to what the monitor has.
    pub(super) fn catch_up(&mut self, state: &PodState) {
        let lost = Exit { code: Exit::UNSEEN, oom_killed: false, finished_at_ns: self.node.now_ns() };
        let phases: HashMap<&str, _> =
            state.containers.iter().map(|c| (c.container_id.as_str(), c.phase)).collect();
        let ids: Vec<Arc<str>> = self.containers.keys().cloned().collect();
        for id in ids {
            let Some(Stage::Made { life, .. }) = self.containers.get(&id).map(|slot| &slot.stage) else {
                continue;
            };
            let (before, after) = (*life, life.corrected(phases.get(&*id).copied(), lost));
            if before != after {
                self.set_life(&id, after);
            }
            self.take_up(&id, after);
        }
        for unknown in phases.into_keys() {
            if !self.containers.contains_key(unknown) {
                self.unmake_unknown(unknown.into());
            }
        }
        if !state.made && self.life == Life::Ready {
            tracing::error!(sandbox = &*self.facts.id, "the pod's namespaces are gone; stopping it");
            self.set(Event::StopBegun);
        }
    }

    /// A container that was half made when the daemon or the monitor died; nobody was told its id.
    pub(super) fn unmake_unknown(&mut self, id: Arc<str>) {
        let (node, sandbox_id, monitor) = (self.node.clone(), self.facts.id.clone(), self.monitor.clone());
        self.work_on(async move {
            let unmade = container::unmake::unmake(&node, &sandbox_id, &id, monitor.as_ref()).await;
            Outcome::ContainerUnmade { id, unmade }
        });
    }

    /// What was in flight when the last monitor was lost is sent anew.
    pub(super) fn take_up(&mut self, id: &Arc<str>, life: container::Life) {
        match life {
            container::Life::Stopping { stop: Stop::Killed, .. } => self.signal(id, SIGKILL),
            container::Life::Removing { .. } => self.begin(id, Deed::Remove),
            container::Life::Making
            | container::Life::Created { .. }
            | container::Life::Starting { .. }
            | container::Life::Running { .. }
            | container::Life::Stopping { stop: Stop::Asked { .. }, .. }
            | container::Life::Exited { .. }
            | container::Life::Broken { .. } => {}
        }
    }

    pub(super) fn say_caught_up(&mut self) {
        if let Some(caught_up) = self.caught_up.take() {
            let _ = caught_up.send(());
        }
    }
}
