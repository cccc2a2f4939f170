//! The task and the containers that are made: what is asked of them, and what happens to them.

use std::sync::Arc;
use std::time::Duration;

use conmon_protocol::{Ask as MonitorAsk, Scope};
use proto::v1::ContainerEventType;

use super::slot::{Slot, Stage};
use super::stop::Stopping;
use super::{Outcome, Reply, SIGKILL, Task, without};
use crate::container::life::{Answer as ContainerAnswer, Ask as ContainerAsk, Deed, Event as ContainerEvent};
use crate::container::{self, Container};
use crate::error::{Error, Noun, chain};
use crate::monitor::Monitor;
use crate::nri::Event;
use crate::sandbox::Life;

impl Task {
    pub(super) fn settle_container(&mut self, id: &Arc<str>) {
        let Some(slot) = self.containers.get_mut(id) else { return };
        slot.waiting.retain(|(_, reply)| !reply.is_closed());
        for (ask, reply) in std::mem::take(&mut slot.waiting) {
            match self.answer_container(id, ask) {
                ContainerAnswer::Already => drop(reply.send(Ok(()))),
                ContainerAnswer::No(why) => {
                    let error = Error::State { noun: Noun::Container, id: id.to_string(), why };
                    drop(reply.send(Err(error)));
                }
                ContainerAnswer::Join => self.keep_waiting(id, ask, reply),
                ContainerAnswer::Do(deed) => {
                    self.begin(id, deed);
                    self.keep_waiting(id, ask, reply);
                }
            }
        }
    }

    pub(super) fn answer_container(&self, id: &Arc<str>, ask: ContainerAsk) -> ContainerAnswer {
        match self.stage(id) {
            Some(Stage::Made { life, .. }) => match life.answer(ask) {
                ContainerAnswer::Do(_) if self.is_between() => ContainerAnswer::Join,
                answer => answer,
            },
            Some(Stage::Making { .. } | Stage::Failed { .. } | Stage::Undoing { .. }) | None => {
                ContainerAnswer::Join
            }
        }
    }

    /// Whether nothing can be asked of the monitor just now, but soon can or need not be.
    pub(super) fn is_between(&self) -> bool {
        let away = self.monitor.as_ref().is_none_or(Monitor::is_closed);
        self.stop == Stopping::Stilling || (away && matches!(self.life, Life::Ready | Life::Stopping))
    }

    pub(super) fn stage(&self, id: &Arc<str>) -> Option<&Stage> {
        self.containers.get(id).map(|slot| &slot.stage)
    }

    pub(super) fn keep_waiting(&mut self, id: &Arc<str>, ask: ContainerAsk, reply: Reply) {
        match self.containers.get_mut(id) {
            Some(slot) => slot.waiting.push((ask, reply)),
            None => drop(reply.send(without(id, ask))),
        }
    }

    pub(super) fn begin(&mut self, id: &Arc<str>, deed: Deed) {
        match deed {
            Deed::Start => self.begin_start(id),
            Deed::AskToEnd { kill_at_ms } => {
                self.change(id, ContainerEvent::StopBegun { kill_at_ms });
                let signal = self.stop_signal(id);
                self.signal(id, signal);
            }
            Deed::Hurry { kill_at_ms } => self.change(id, ContainerEvent::StopBegun { kill_at_ms }),
            Deed::Kill => {
                self.change(id, ContainerEvent::Killed);
                self.signal(id, SIGKILL);
            }
            Deed::Remove => self.begin_container_removal(id),
        }
    }

    pub(super) fn begin_start(&mut self, id: &Arc<str>) {
        let Some(monitor) = self.monitor.clone() else { return };
        let subject = self.subject(id);
        self.change(id, ContainerEvent::StartBegun);
        let (node, id) = (self.node.clone(), id.clone());
        self.work_on(async move {
            let asked = match subject {
                Some(subject) => node.nri.ask(Event::StartContainer, subject).await,
                None => Ok(()),
            };
            let started = match asked {
                Ok(()) => container::make::start(&monitor, id.clone()).await,
                Err(refused) => Err(refused),
            };
            Outcome::Started { id, started }
        });
    }

    pub(super) fn hear_started(&mut self, id: &Arc<str>, started: Result<i64, Error>) {
        match started {
            Ok(started_at_ns) => {
                let ended = self.ended_early(id);
                self.change(id, ContainerEvent::Started { started_at_ns });
                self.tell_of(ContainerEventType::ContainerStartedEvent, id.clone());
                self.tell_plugins(Event::PostStartContainer, id);
                self.answer_all(id, |ask| ask == ContainerAsk::Start, &Ok(()));
                if let Some(exit) = ended {
                    self.change(id, ContainerEvent::Exited(exit));
                }
            }
            Err(error) => {
                // Whether it runs is not known when the monitor went away before it could say.
                if !error.is_monitor_gone() || self.ended_early(id).is_some() {
                    self.change(id, ContainerEvent::StartFailed);
                    self.answer_all(id, |ask| ask == ContainerAsk::Start, &Err(error));
                }
            }
        }
    }

    fn ended_early(&self, id: &Arc<str>) -> Option<conmon_protocol::Exit> {
        match self.stage(id)? {
            Stage::Made { life, .. } => life.ended_early(),
            Stage::Making { .. } | Stage::Failed { .. } | Stage::Undoing { .. } => None,
        }
    }

    pub(super) fn stop_signal(&self, id: &Arc<str>) -> i32 {
        match self.stage(id) {
            Some(Stage::Made { facts, .. }) => facts.made.plan.stop_signal,
            Some(Stage::Making { .. } | Stage::Failed { .. } | Stage::Undoing { .. }) | None => SIGKILL,
        }
    }

    pub(super) fn signal(&mut self, id: &Arc<str>, signal: i32) {
        let Some(monitor) = self.monitor.clone() else { return };
        let scope = if signal == SIGKILL { Scope::All } else { Scope::Init };
        let id = id.clone();
        self.work_on(async move {
            let ask = MonitorAsk::Signal { container_id: id.to_string(), signal, scope };
            let sent = monitor.order(ask).await.map_err(Error::from);
            Outcome::Signalled { id, sent }
        });
    }

    pub(super) fn hear_signalled(&mut self, id: &Arc<str>, sent: Result<(), Error>) {
        match sent {
            Ok(()) => {}
            // The next monitor is asked again.
            Err(gone) if gone.is_monitor_gone() => {}
            // It does not know the container, so nothing of it runs. All it knows says how that came.
            Err(Error::Monitor(error)) if error.is_not_found() => self.reach(Duration::ZERO),
            // The whole pod is to go; the monitor has other means for that.
            Err(_) if self.life == Life::Stopping => self.begin_stilling(),
            Err(error) => {
                self.change(id, ContainerEvent::StopFailed);
                self.answer_all(id, |ask| matches!(ask, ContainerAsk::Stop { .. }), &Err(error));
            }
        }
    }

    pub(super) fn begin_container_removal(&mut self, id: &Arc<str>) {
        self.change(id, ContainerEvent::RemovalBegun);
        let (node, sandbox_id, id) = (self.node.clone(), self.facts.id.clone(), id.clone());
        let monitor = self.monitor.clone();
        self.work_on(async move {
            let unmade = container::unmake::unmake(&node, &sandbox_id, &id, monitor.as_ref()).await;
            Outcome::ContainerUnmade { id, unmade }
        });
    }

    pub(super) fn hear_container_unmade(&mut self, id: &Arc<str>, unmade: Result<(), Error>) {
        match unmade {
            Ok(()) => {
                self.tell_of(ContainerEventType::ContainerDeletedEvent, id.clone());
                self.tell_plugins_of_removal(id);
                self.node.world.forget_container(id);
                let slot = self.containers.remove(id);
                for (ask, reply) in slot.into_iter().flat_map(|slot| slot.waiting) {
                    let _ = reply.send(without(id, ask));
                }
            }
            // The next monitor is asked again.
            Err(gone) if gone.is_monitor_gone() && self.life == Life::Ready => {}
            Err(error) => {
                self.change(id, ContainerEvent::RemovalFailed);
                self.answer_all(id, |ask| ask == ContainerAsk::Remove, &Err(error));
            }
        }
    }

    pub(super) fn answer_all(
        &mut self,
        id: &Arc<str>,
        which: impl Fn(ContainerAsk) -> bool,
        answer: &Result<(), Error>,
    ) {
        let Some(slot) = self.containers.get_mut(id) else { return };
        let (answered, still_waiting) =
            std::mem::take(&mut slot.waiting).into_iter().partition(|(ask, _)| which(*ask));
        slot.waiting = still_waiting;
        for (_, reply) in answered {
            let _ = reply.send(answer.clone());
        }
    }

    /// The next time at which a container's grace is over.
    pub(super) fn next_kill(&self) -> Option<tokio::time::Instant> {
        let at = self.containers.values().filter_map(Slot::kill_at_ms).min()?;
        Some(self.node.at_ms(at))
    }

    pub(super) fn kill_overdue(&mut self) {
        let now_ms = self.node.now_ms();
        let overdue = |slot: &Slot| slot.kill_at_ms().is_some_and(|at| at <= now_ms);
        let ids: Vec<Arc<str>> =
            self.containers.iter().filter(|(_, slot)| overdue(slot)).map(|(id, _)| id.clone()).collect();
        for id in ids {
            self.begin(&id, Deed::Kill);
        }
    }

    pub(super) fn change(&mut self, id: &str, event: ContainerEvent) {
        let Some((id, _)) = self.containers.get_key_value(id) else { return };
        let id = id.clone();
        match self.containers.get_mut(&id).map(|slot| &mut slot.stage) {
            Some(Stage::Made { life, .. }) => match life.after(event) {
                Some(after) if after != *life => self.set_life(&id, after),
                Some(_) => {}
                None => tracing::error!(container = &*id, ?life, ?event, "cannot happen"),
            },
            Some(Stage::Making { ended, .. }) => {
                if let ContainerEvent::Exited(exit) | ContainerEvent::Lost(exit) = event {
                    *ended = Some(exit);
                }
            }
            Some(Stage::Failed { .. } | Stage::Undoing { .. }) | None => {}
        }
    }

    pub(super) fn set_life(&mut self, id: &Arc<str>, after: container::Life) {
        let Some(Stage::Made { life, .. }) = self.containers.get_mut(id).map(|slot| &mut slot.stage) else {
            return;
        };
        let ended = life.exit().is_none() && after.exit().is_some();
        *life = after;
        self.keep_life(id, after);
        self.publish_container(id);
        if ended {
            if after.exit().is_some_and(|exit| exit.oom_killed) {
                self.node.metrics.ran_out_of_memory();
            }
            self.tell_of(ContainerEventType::ContainerStoppedEvent, id.clone());
            self.tell_plugins(Event::StopContainer, id);
        }
    }

    pub(super) fn keep_life(&self, id: &Arc<str>, life: container::Life) {
        if life.is_worth_keeping() {
            let record = self.node.store.sandbox(&self.facts.id).container(id);
            if let Err(error) = record.write_json("life", &life) {
                tracing::error!(
                    container = &**id,
                    error = chain(&error),
                    "keeping the container's state failed"
                );
            }
        }
    }

    pub(super) fn publish_container(&self, id: &Arc<str>) {
        if let Some(Stage::Made { facts, life, limits }) = self.stage(id) {
            let container = Container { facts: facts.clone(), life: *life, limits: limits.clone() };
            self.node.world.publish_container(Arc::new(container));
        }
    }
}
