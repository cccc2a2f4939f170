//! The task and the stop of its sandbox: first the containers end, then everything else.

use std::sync::Arc;
use std::time::Duration;

use conmon_protocol::Exit;
use proto::v1::ContainerEventType;

use super::slot::{Slot, Stage};
use super::{Outcome, Task};
use crate::container::life::{Answer as ContainerAnswer, Ask as ContainerAsk, Event as ContainerEvent};
use crate::error::{Error, chain};
use crate::nri::Event as PluginEvent;
use crate::sandbox::life::Event;
use crate::sandbox::unmake::{self, Refusal};

/// How long the end of a killed container is awaited before the monitor is told to end the whole pod. A process
/// dies in milliseconds unless the kernel holds it.
const KILL_WAIT: Duration = Duration::from_secs(10);

/// Stops that fail because a network plugin does not give back the attachment, so that the kubelet says why in the
/// pod's events. From then on the pod does not wait for it any more: the record keeps the debt.
const STOPS_MAX: u32 = 3;

/// How far a stop of the sandbox is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stopping {
    Not,
    /// The containers were killed; their ends are awaited no longer than this.
    Killing {
        until: tokio::time::Instant,
    },
    /// What is left is the monitor's and the network's to end.
    Stilling,
}

impl Stopping {
    pub(super) fn until(self) -> Option<tokio::time::Instant> {
        match self {
            Stopping::Killing { until } => Some(until),
            Stopping::Not | Stopping::Stilling => None,
        }
    }
}

impl Task {
    /// Kills what runs. Once nothing does, the rest is taken away.
    pub(super) fn quieten(&mut self) {
        if self.stop == Stopping::Not {
            self.stop = Stopping::Killing { until: tokio::time::Instant::now() + KILL_WAIT };
        }
        let ids: Vec<Arc<str>> = self.containers.keys().cloned().collect();
        for id in &ids {
            let Some(Stage::Made { life, .. }) = self.containers.get(id).map(|slot| &slot.stage) else {
                continue;
            };
            let ask = ContainerAsk::Stop { kill_at_ms: 0, now_ms: 0 };
            if let ContainerAnswer::Do(deed) = life.answer(ask)
                && self.monitor.is_some()
            {
                self.begin(id, deed);
            }
        }
        if self.containers.values().all(Slot::is_quiet) {
            self.begin_stilling();
        }
    }

    pub(super) fn begin_stilling(&mut self) {
        if self.stop == Stopping::Stilling {
            return;
        }
        self.stop = Stopping::Stilling;
        let (node, id, monitor) = (self.node.clone(), self.facts.id.clone(), self.monitor.clone());
        let refusal = if self.stops_failed < STOPS_MAX { Refusal::Failure } else { Refusal::Debt };
        let subject = self.subject_of_stop();
        self.work_on(async move {
            // Plugins may still want to look at the pod, but have no say in its end.
            if let Some(subject) = subject
                && let Err(error) = node.nri.ask(PluginEvent::StopPodSandbox, subject).await
            {
                tracing::warn!(sandbox = &*id, error = chain(&error), "telling plugins of the stop");
            }
            Outcome::Stilled(unmake::still(&node, &id, monitor, refusal).await)
        });
    }

    pub(super) fn hear_stilled(&mut self, ended: Result<(), Error>) {
        self.stop = Stopping::Not;
        match ended {
            Ok(()) => {
                self.bury_the_lost();
                self.monitor = None;
                self.lost = None;
                self.events = None;
                self.ips.clear();
                self.set(Event::Stopped);
                self.tell(ContainerEventType::ContainerStoppedEvent);
            }
            Err(error) => {
                self.stops_failed += 1;
                self.set(Event::StopFailed);
                self.refuse_all(&error);
            }
        }
    }

    /// Whoever's end was not heard of is dead all the same: the pod has no processes any more. How it died nobody knows.
    pub(super) fn bury_the_lost(&mut self) {
        let exit = Exit { code: Exit::UNSEEN, oom_killed: false, finished_at_ns: self.node.now_ns() };
        let ids: Vec<Arc<str>> = self.containers.keys().cloned().collect();
        for id in ids {
            self.change(&id, ContainerEvent::Lost(exit));
        }
    }
}
