//! The steps of making, by name.
//!
//! One name serves three: the error of a caller who gave up waiting says at which step the work is, the
//! trace (`berth::trace`) says how long each step took, and a build with the feature `failpoints` can be
//! killed before any of them (`BERTH_FAILPOINT=sandbox.network=kill`).

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use tracing::{Instrument, Span};

use crate::telemetry::SPANS;

/// Everything that is done between a request and a pod or container, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    SandboxStore,
    SandboxMonitor,
    SandboxNamespaces,
    SandboxFiles,
    SandboxNetwork,
    SandboxPlugins,
    SandboxReady,
    ContainerPlan,
    ContainerPlugins,
    ContainerStore,
    ContainerRootfs,
    ContainerCreate,
    ContainerCreated,
    ContainerStart,
    ContainerStarted,
}

impl Step {
    /// All steps, for the test that kills the daemon at each.
    pub const ALL: [Step; 15] = [
        Step::SandboxStore,
        Step::SandboxMonitor,
        Step::SandboxNamespaces,
        Step::SandboxFiles,
        Step::SandboxNetwork,
        Step::SandboxPlugins,
        Step::SandboxReady,
        Step::ContainerPlan,
        Step::ContainerPlugins,
        Step::ContainerStore,
        Step::ContainerRootfs,
        Step::ContainerCreate,
        Step::ContainerCreated,
        Step::ContainerStart,
        Step::ContainerStarted,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Step::SandboxStore => "sandbox.store",
            Step::SandboxMonitor => "sandbox.monitor",
            Step::SandboxNamespaces => "sandbox.namespaces",
            Step::SandboxFiles => "sandbox.files",
            Step::SandboxNetwork => "sandbox.network",
            Step::SandboxPlugins => "sandbox.plugins",
            Step::SandboxReady => "sandbox.ready",
            Step::ContainerPlan => "container.plan",
            Step::ContainerPlugins => "container.plugins",
            Step::ContainerStore => "container.store",
            Step::ContainerRootfs => "container.rootfs",
            Step::ContainerCreate => "container.create",
            Step::ContainerCreated => "container.created",
            Step::ContainerStart => "container.start",
            Step::ContainerStarted => "container.started",
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// How far a making is. Its maker moves it on; those who wait may look.
#[derive(Debug, Clone)]
pub struct Progress {
    id: Arc<str>,
    began: Instant,
    /// The request's, beneath which the steps' are.
    request: Span,
    at: Arc<Mutex<At>>,
}

/// Where a making is, and since when. The step's span ends with it.
#[derive(Debug)]
struct At {
    step: Step,
    since: Instant,
    span: Span,
}

impl Progress {
    pub fn new(id: Arc<str>, first: Step) -> Self {
        let (began, request) = (Instant::now(), Span::current());
        let at = At { step: first, since: began, span: span(&request, &id, first.name()) };
        Self { id, began, request, at: Arc::new(Mutex::new(at)) }
    }

    /// The next step begins, and so the one before has ended.
    pub fn enter(&self, step: Step) {
        fail(step);
        let now = Instant::now();
        let mut at = self.lock();
        if at.step == step {
            at.since = now;
            return;
        }
        let next = At { step, since: now, span: span(&self.request, &self.id, step.name()) };
        let last = std::mem::replace(&mut *at, next);
        drop(at);
        trace(&self.id, last.step, last.since, now);
    }

    /// Does the step's work within its span, so that what it leads to is found beneath it.
    pub async fn within<T>(&self, work: impl Future<Output = T>) -> T {
        let span = self.lock().span.clone();
        work.instrument(span).await
    }

    /// The last step has ended.
    pub fn finish(&self) {
        let now = Instant::now();
        let mut at = self.lock();
        at.span = Span::none();
        trace(&self.id, at.step, at.since, now);
        drop(at);
        let total_ms = (now - self.began).as_secs_f64() * 1e3;
        tracing::trace!(target: "berth::trace", id = &*self.id, total_ms, "made");
    }

    /// The request that it is made for.
    pub fn request(&self) -> &Span {
        &self.request
    }

    pub fn step(&self) -> Step {
        self.lock().step
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, At> {
        self.at.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Of a step, beneath the request's.
fn span(request: &Span, id: &str, step: &'static str) -> Span {
    tracing::debug_span!(target: SPANS, parent: request, "step", otel.name = step, id)
}

fn trace(id: &str, step: Step, since: Instant, now: Instant) {
    trace_named(id, step.name(), since, now);
}

fn trace_named(id: &str, step: &'static str, since: Instant, now: Instant) {
    let ms = (now - since).as_secs_f64() * 1e3;
    tracing::trace!(target: "berth::trace", id, step, ms);
}

/// Traces work that takes away. It has no place where it might be stopped: it is safe from any.
pub async fn traced<T>(id: &str, step: &'static str, work: impl Future<Output = T>) -> T {
    let since = Instant::now();
    let done = work.instrument(span(&Span::current(), id, step)).await;
    trace_named(id, step, since, Instant::now());
    done
}

/// Dies before the step that `BERTH_FAILPOINT` names. Only in a build for tests.
#[cfg(feature = "failpoints")]
fn fail(step: Step) {
    static FAILPOINT: std::sync::LazyLock<Option<String>> =
        std::sync::LazyLock::new(|| std::env::var("BERTH_FAILPOINT").ok());
    let Some((name, action)) = FAILPOINT.as_deref().and_then(|point| point.split_once('=')) else { return };
    if name == step.name() && action == "kill" {
        let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
    }
}

#[cfg(not(feature = "failpoints"))]
fn fail(_step: Step) {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_steps_have_one_name() {
        let mut names: Vec<&str> = Step::ALL.iter().map(|step| step.name()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), Step::ALL.len());
    }

    #[test]
    fn progress_names_the_step_it_is_at() {
        let progress = Progress::new("x".into(), Step::SandboxStore);
        progress.enter(Step::SandboxNetwork);
        assert_eq!(progress.step().to_string(), "sandbox.network");
    }
}
