//! Each question of a daemon, and who in the monitor answers it.

use std::os::fd::OwnedFd;

use conmon_protocol::{Answer, Ask, ContainerPlan, Images, KeptExec, PodPlan, RefusalKind, Request, VERSION};
use rustix::event::epoll::EventFlags;

use crate::attach::{Attached, MAX_ATTACHED, Wanted};
use crate::clock;
use crate::container::{Container, Key};
use crate::error::{Error, Named as _};
use crate::handler;
use crate::life::{self, Asked};
use crate::monitor::{Asker, Monitor};
use crate::placing;
use crate::pod;
use crate::poll::Token;

/// In a pod at once, the exited ones too; more are refused.
const MAX_CONTAINERS: usize = 1024;
/// A process that is still there so long after SIGKILL is stuck in the kernel.
const DEATH_NS: u64 = 20_000_000_000;

type Answered = Result<Answer, Error>;

impl Monitor {
    pub(crate) fn hear(&mut self, daemon: Key, request: Request, fds: Vec<OwnedFd>) {
        let asker = Asker { daemon, seq: request.seq };
        self.untidy = true;
        let answer = match request.ask {
            Ask::Hello { version } => self.hello(version),
            Ask::MakePod(plan) => self.make_pod(&plan),
            Ask::Look { paths, patience_ms } => return self.look(asker, paths, patience_ms),
            Ask::Create(plan) => return self.create(asker, plan),
            Ask::Restore { plan, from } => return self.restore(asker, plan, &from),
            Ask::Checkpoint { dumps, criu, patience_ms } => {
                return self.checkpoint(asker, dumps, criu, patience_ms);
            }
            Ask::Thaw => {
                self.thaw();
                Ok(Answer::Done)
            }
            Ask::Start { container_id } => return self.start(asker, &container_id),
            Ask::Signal { container_id, signal, scope } => {
                return self.signal(asker, &container_id, signal, scope);
            }
            Ask::Resize { container_id, columns, rows } => self.resize(&container_id, columns, rows),
            Ask::Update { container_id, resources } => return self.update(asker, &container_id, resources),
            Ask::Reopen { container_id } => self.reopen(&container_id),
            Ask::KillExec { exec_id } => self.kill_exec(&exec_id),
            Ask::Attach { container_id, stdin, stdout, stderr } => {
                self.attach(&container_id, Wanted { stdin, stdout, stderr }, fds)
            }
            Ask::Keep => {
                self.give_all_to_keep(daemon);
                Ok(Answer::Done)
            }
            Ask::TakeBack { container_id, .. } | Ask::TakeBackExec(KeptExec { container_id, .. }) => {
                let message = format!("what was kept of container {container_id} comes too late");
                Err(Error::refused(RefusalKind::State, message))
            }
            Ask::Exec(plan) => return self.exec(asker, plan, fds),
            Ask::Delete { container_id } => return self.delete(asker, &container_id),
            Ask::UnmakePod => return self.unmake_pod(asker),
        };
        self.answer(asker, answer, Vec::new());
    }

    pub(crate) fn refuse_unknown(&mut self, daemon: Key, seq: u64, why: &str) {
        let message = format!("this monitor speaks version {VERSION}: {why}");
        self.answer(
            Asker { daemon, seq },
            Err(Error::refused(RefusalKind::Unsupported, message)),
            Vec::new(),
        );
    }

    fn hello(&mut self, version: u32) -> Answered {
        if version == VERSION {
            return Ok(Answer::Hello(self.state()));
        }
        let message = format!("this monitor speaks version {VERSION}, not {version}");
        Err(Error::refused(RefusalKind::Unsupported, message))
    }

    fn make_pod(&mut self, plan: &PodPlan) -> Answered {
        self.not_while_unmaking()?;
        if self.pod.is_none() {
            placing::settle(plan, None)?;
            self.pod = Some(pod::make(plan)?);
        }
        Ok(Answer::Done)
    }

    fn create(&mut self, asker: Asker, plan: ContainerPlan) {
        if let Err(error) = self.may_create(&plan.container_id) {
            return self.answer(asker, Err(error), Vec::new());
        }
        let key = self.next_key();
        if !plan.volumes.is_empty() || handler::is_command(&plan) {
            return self.begin_making(key, asker, &plan, None);
        }
        let answer = match Container::make(key, plan, &self.poll) {
            Ok(container) => Ok(Answer::Created { pid: self.add_made(container) }),
            Err(error) => Err(error),
        };
        self.answer(asker, answer, Vec::new());
    }

    /// A child does it: criu takes its time.
    fn restore(&mut self, asker: Asker, plan: ContainerPlan, from: &Images) {
        if let Err(error) = self.may_create(&plan.container_id) {
            return self.answer(asker, Err(error), Vec::new());
        }
        let key = self.next_key();
        self.begin_making(key, asker, &plan, Some(from));
    }

    fn may_create(&self, id: &str) -> Result<(), Error> {
        self.not_while_unmaking()?;
        if self.pod.is_none() {
            return Err(Error::refused(RefusalKind::State, "the pod is not made"));
        }
        if self.find(id).is_ok() || self.is_being_made(id).is_some() {
            return Err(Error::refused(RefusalKind::Exists, format!("container {id} exists")));
        }
        if self.containers.len() + self.makings() >= MAX_CONTAINERS {
            let message = format!("the pod has {MAX_CONTAINERS} containers already");
            return Err(Error::refused(RefusalKind::Failed, message));
        }
        Ok(())
    }

    /// Says which process it has.
    pub(crate) fn add_made(&mut self, container: Container) -> i32 {
        let (key, pid) = (container.key, container.life.pid().unwrap_or_default());
        container.warnings.iter().for_each(|warning| self.journal.note(warning));
        self.containers.insert(key, container);
        self.give_to_keep(key);
        pid
    }

    fn resize(&mut self, id: &str, columns: u16, rows: u16) -> Answered {
        let container = self.find(id)?;
        container.may(Asked::Resize)?;
        container.resize(columns, rows)?;
        Ok(Answer::Done)
    }

    fn reopen(&mut self, id: &str) -> Answered {
        let container = self.find_mut(id)?;
        container.may(Asked::Reopen)?;
        container.log.reopen()?;
        Ok(Answer::Done)
    }

    fn attach(&mut self, id: &str, wanted: Wanted, fds: Vec<OwnedFd>) -> Answered {
        let container = self.find(id)?;
        container.may(Asked::Attach)?;
        let key = container.key;
        let Ok([socket]) = <[OwnedFd; 1]>::try_from(fds) else {
            return Err(Error::refused(RefusalKind::Invalid, "attaching needs one descriptor"));
        };
        if self.attached.values().filter(|client| client.container == key).count() >= MAX_ATTACHED {
            let message = format!("{MAX_ATTACHED} clients are attached to container {id} already");
            return Err(Error::refused(RefusalKind::Failed, message));
        }
        let client = self.next_key();
        self.poll.watch(&socket, Token::Attached(client), EventFlags::IN).named("watching", "a client")?;
        self.attached.insert(client, Attached::new(socket, key, wanted));
        Ok(Answer::Done)
    }

    fn delete(&mut self, asker: Asker, id: &str) {
        if let Some(key) = self.is_being_made(id) {
            self.deletes.push((key, asker));
            return self.give_up_job(key);
        }
        let Ok(container) = self.find(id) else {
            return self.answer(asker, Ok(Answer::Done), Vec::new());
        };
        let key = container.key;
        self.deletes.push((key, asker));
        self.give_up_jobs_in(key);
        self.kill_or_unmake(key);
    }

    fn unmake_pod(&mut self, asker: Asker) {
        self.unmakes.push(asker);
        let keys: Vec<Key> = self.containers.keys().copied().collect();
        keys.into_iter().for_each(|key| self.kill_or_unmake(key));
        let jobs: Vec<Key> = self.jobs.keys().copied().collect();
        jobs.into_iter().for_each(|key| self.give_up_job(key));
        let now_ns = clock::monotonic_ns();
        self.jobs.values_mut().for_each(|job| job.need_not_finish(now_ns));
        self.unmake_pod_when_empty();
    }

    /// A living container is killed, and taken away when it has ended.
    pub(crate) fn kill_or_unmake(&mut self, key: Key) {
        let until_ns = clock::monotonic_ns() + DEATH_NS;
        let Some(container) = self.containers.get_mut(&key) else {
            return;
        };
        match (container.life.answer(Asked::Delete), container.life.pid()) {
            (_, None) => self.unmake_container(key),
            (life::Answer::Do, Some(_)) => {
                let result = container.kill(until_ns);
                self.note(result);
            }
            (life::Answer::Already | life::Answer::No(_), Some(_)) => container.dies_until_ns = until_ns,
        }
    }

    fn not_while_unmaking(&self) -> Result<(), Error> {
        if self.unmakes.is_empty() && !self.over {
            return Ok(());
        }
        Err(Error::refused(RefusalKind::State, "the pod is being taken away"))
    }

    pub(crate) fn find(&self, id: &str) -> Result<&Container, Error> {
        self.containers.values().find(|container| container.id() == id).ok_or_else(|| unknown(id))
    }

    pub(crate) fn find_mut(&mut self, id: &str) -> Result<&mut Container, Error> {
        self.containers.values_mut().find(|container| container.id() == id).ok_or_else(|| unknown(id))
    }
}

fn unknown(id: &str) -> Error {
    Error::refused(RefusalKind::NotFound, format!("no container {id} in this pod"))
}
