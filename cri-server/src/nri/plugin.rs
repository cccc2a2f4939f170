//! One plugin: its name and place, what it wants to hear of, and how it is asked.

use std::sync::Arc;
use std::time::Duration;

use prost::Message;
use proto::nri::{
    ConfigureRequest, ConfigureResponse, Container, ContainerUpdate, Empty, Event, PodSandbox,
    RegisterPluginRequest, StartContainerRequest, StateChangeEvent, SynchronizeRequest, SynchronizeResponse,
    UpdateContainersRequest, UpdateContainersResponse,
};
use tokio::net::UnixStream;
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};

use super::link::{Call, CallError, Link};
use super::ttrpc::{self, Status};
use super::{events, update};
use crate::node::Node;

/// What the interface's own library is called that we speak like.
const NRI_VERSION: &str = "v0.12.2";
const RUNTIME_SERVICE: &str = "nri.pkg.api.v1alpha1.Runtime";
/// One message of a synchronization; the rest goes into the next.
const SYNC_BYTES_MAX: usize = ttrpc::MESSAGE_MAX - (64 << 10);
/// A name is part of log lines and errors.
const NAME_MAX: usize = 128;

/// How long plugins are waited for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    pub(super) registration: Duration,
    pub(super) request: Duration,
}

/// Two digits and a name: plugins are called in the order of their digits.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Identity {
    pub(super) index: String,
    pub(super) name: String,
}

/// Why somebody who connected is no plugin.
#[derive(Debug, thiserror::Error)]
pub(super) enum JoinError {
    #[error("{0:?} is not NN-NAME: two digits, and a name of letters, digits and -_.+")]
    Name(String),
    #[error("it did not register within {0:?}")]
    Unregistered(Duration),
    #[error("it went away before it registered")]
    Left,
    #[error("configuring it")]
    Configure(#[source] CallError),
    #[error("it wants to hear of events that there are not: {0:#x}")]
    Events(i32),
}

/// Cheap to clone; all are the same plugin.
#[derive(Debug, Clone)]
pub(super) struct Plugin {
    pub(super) identity: Arc<Identity>,
    /// A bit for each event.
    pub(super) events: u32,
    pub(super) link: Link,
    pub(super) patience: Patience,
    /// Held while it is connected: there is a bound.
    _place: Arc<OwnedSemaphorePermit>,
}

impl Identity {
    pub(super) fn parse(text: &str) -> Result<Self, JoinError> {
        let fits = |(index, name): &(&str, &str)| {
            index.len() == 2
                && index.bytes().all(|byte| byte.is_ascii_digit())
                && (1..=NAME_MAX).contains(&name.len())
                && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.+".contains(&byte))
        };
        let parts = text.split_once('-').filter(fits);
        let (index, name) = parts.ok_or_else(|| JoinError::Name(text.chars().take(NAME_MAX).collect()))?;
        Ok(Self { index: index.to_owned(), name: name.to_owned() })
    }
}

impl std::fmt::Display for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}-{}", self.index, self.name)
    }
}

/// A connection that may become a plugin.
#[derive(Debug)]
pub(super) struct Joining {
    pub(super) socket: UnixStream,
    /// One that we started has its name from its file.
    pub(super) identity: Option<Identity>,
    pub(super) config: String,
    pub(super) place: OwnedSemaphorePermit,
}

/// Waits until it registers, and tells it who we are.
pub(super) async fn join(
    node: &Arc<Node>,
    joining: Joining,
    patience: Patience,
) -> Result<Plugin, JoinError> {
    let (link, calls) = Link::new(joining.socket);
    let (registered, registration) = oneshot::channel();
    let service = Service {
        node: node.clone(),
        link: link.clone(),
        patience,
        registered: Some(registered),
        launched: joining.identity.clone(),
        identity: None,
    };
    tokio::spawn(service.run(calls));
    let joined = configure(&link, registration, joining.identity, &joining.config, patience).await;
    match joined {
        Ok((identity, events)) => {
            let (identity, place) = (Arc::new(identity), Arc::new(joining.place));
            Ok(Plugin { identity, events, link, patience, _place: place })
        }
        Err(error) => {
            link.close();
            Err(error)
        }
    }
}

async fn configure(
    link: &Link,
    registration: oneshot::Receiver<Result<Identity, String>>,
    launched: Option<Identity>,
    config: &str,
    patience: Patience,
) -> Result<(Identity, u32), JoinError> {
    let registered = tokio::select! {
        registered = tokio::time::timeout(patience.registration, registration) => {
            registered.map_err(|_| JoinError::Unregistered(patience.registration))?.map_err(|_| JoinError::Left)?
        }
        () = link.closed() => return Err(JoinError::Left),
    };
    let registered = registered.map_err(JoinError::Name)?;
    let ms = |duration: Duration| i64::try_from(duration.as_millis()).unwrap_or(i64::MAX);
    let request = ConfigureRequest {
        config: config.to_owned(),
        runtime_name: "berth".into(),
        runtime_version: env!("CARGO_PKG_VERSION").into(),
        registration_timeout: ms(patience.registration),
        request_timeout: ms(patience.request),
        nri_version: NRI_VERSION.into(),
    };
    let answer: ConfigureResponse =
        link.call("Configure", &request, patience.request).await.map_err(JoinError::Configure)?;
    let events = events::mask(answer.events).ok_or(JoinError::Events(answer.events))?;
    Ok((launched.unwrap_or(registered), events))
}

impl Plugin {
    pub(super) fn wants(&self, event: Event) -> bool {
        self.events & events::bit(event) != 0
    }

    pub(super) async fn call<Q: Message, A: Message + Default>(
        &self,
        event: Event,
        request: &Q,
    ) -> Result<A, CallError> {
        self.link.call(events::method(event), request, self.patience.request).await
    }

    /// Tells of an event by its own call, or as plugins older than that call hear of it.
    pub(super) async fn tell<A: Message + Default>(
        &self,
        event: Event,
        pod: &PodSandbox,
        container: Option<&Container>,
    ) -> Result<A, CallError> {
        // All requests with a pod and perhaps a container look the same.
        let request = StartContainerRequest { pod: Some(pod.clone()), container: container.cloned() };
        match self.call(event, &request).await {
            Err(refused) if refused.is_unimplemented() => {
                let change =
                    StateChangeEvent { event: event.into(), pod: request.pod, container: request.container };
                let heard: Result<Empty, _> =
                    self.link.call("StateChange", &change, self.patience.request).await;
                heard.map(|_| A::default())
            }
            answer => answer,
        }
    }

    /// Tells all there is; in pieces, when it is more than one message may hold. A plugin that takes stock of a whole
    /// node may take as long for each as for coming at all.
    pub(super) async fn synchronize(
        &self,
        pods: Vec<PodSandbox>,
        containers: Vec<Container>,
    ) -> Result<Vec<ContainerUpdate>, CallError> {
        let patience = self.patience.registration.max(self.patience.request);
        for request in pieces(pods, containers) {
            let answer: SynchronizeResponse = self.link.call("Synchronize", &request, patience).await?;
            if !request.more {
                return Ok(answer.update);
            }
            if !answer.more || !answer.update.is_empty() {
                self.link.close();
                return Err(CallError::Undecodable);
            }
        }
        Ok(Vec::new())
    }

    pub(super) async fn shut_down(&self, patience: Duration) {
        let told: Result<Empty, CallError> = self.link.call("Shutdown", &Empty {}, patience).await;
        if let Err(error) = told {
            tracing::debug!("telling NRI plugin {} that berthd ends: {error}", self.identity);
        }
        self.link.close();
    }
}

/// At least one, the last without `more`.
fn pieces(pods: Vec<PodSandbox>, containers: Vec<Container>) -> Vec<SynchronizeRequest> {
    let mut pieces = vec![SynchronizeRequest::default()];
    let mut bytes = 0;
    let mut make_room = |pieces: &mut Vec<SynchronizeRequest>, more: usize| {
        // A key and a length go with each.
        bytes += more + 8;
        if bytes > SYNC_BYTES_MAX {
            bytes = more + 8;
            pieces.push(SynchronizeRequest::default());
        }
    };
    for pod in pods {
        make_room(&mut pieces, pod.encoded_len());
        pieces.last_mut().expect("there is one").pods.push(pod);
    }
    for container in containers {
        make_room(&mut pieces, container.encoded_len());
        pieces.last_mut().expect("there is one").containers.push(container);
    }
    let last = pieces.len() - 1;
    pieces.iter_mut().take(last).for_each(|piece| piece.more = true);
    pieces
}

/// Answers what the plugin asks, one call after the other.
struct Service {
    node: Arc<Node>,
    link: Link,
    patience: Patience,
    registered: Option<oneshot::Sender<Result<Identity, String>>>,
    launched: Option<Identity>,
    identity: Option<Identity>,
}

impl Service {
    async fn run(mut self, mut calls: mpsc::Receiver<Call>) {
        while let Some(call) = calls.recv().await {
            let outcome = self.answer(&call).await;
            self.link.answer(&call, outcome, self.patience.request).await;
        }
        if let Some(identity) = self.identity {
            tracing::info!("NRI plugin {identity} has left");
        }
    }

    async fn answer(&mut self, call: &Call) -> Result<Vec<u8>, Status> {
        let unreadable = |_| Status::new(ttrpc::code::INVALID_ARGUMENT, "the request is not one");
        let payload = call.request.payload.as_slice();
        match (call.request.service.as_str(), call.request.method.as_str()) {
            (RUNTIME_SERVICE, "RegisterPlugin") => {
                self.register(RegisterPluginRequest::decode(payload).map_err(unreadable)?)
            }
            (RUNTIME_SERVICE, "UpdateContainers") => {
                let request = UpdateContainersRequest::decode(payload).map_err(unreadable)?;
                Ok(self.update(request).await?.encode_to_vec())
            }
            (service, method) => {
                Err(Status::new(ttrpc::code::UNIMPLEMENTED, format!("there is no {service}/{method} here")))
            }
        }
    }

    fn register(&mut self, request: RegisterPluginRequest) -> Result<Vec<u8>, Status> {
        let Some(registered) = self.registered.take() else {
            return Err(Status::new(ttrpc::code::INVALID_ARGUMENT, "the plugin is registered already"));
        };
        let named = format!("{}-{}", request.plugin_idx, request.plugin_name);
        let identity = self.launched.clone().map_or_else(|| Identity::parse(&named), Ok);
        match identity {
            Ok(identity) => {
                tracing::info!("NRI plugin {identity} registers (NRI {})", request.nri_version);
                self.identity = Some(identity.clone());
                let _ = registered.send(Ok(identity));
                Ok(Vec::new())
            }
            Err(error) => {
                let _ = registered.send(Err(named));
                Err(Status::new(ttrpc::code::INVALID_ARGUMENT, error.to_string()))
            }
        }
    }

    async fn update(&self, request: UpdateContainersRequest) -> Result<UpdateContainersResponse, Status> {
        let Some(identity) = &self.identity else {
            return Err(Status::new(ttrpc::code::INVALID_ARGUMENT, "the plugin is not registered yet"));
        };
        let by = identity.to_string();
        let failed = update::all(&self.node, &by, request.update).await;
        for eviction in request.evict {
            update::evict(&self.node, &by, eviction);
        }
        let failed = failed.into_iter().map(|(update, _)| update).collect();
        Ok(UpdateContainersResponse { failed })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_two_digits_and_a_word() {
        let check = |text: &str, fits: bool| assert_eq!(Identity::parse(text).is_ok(), fits, "{text}");
        check("10-logger", true);
        check("00-a.b_c+d-e", true);
        check("1-logger", false);
        check("100-logger", false);
        check("1a-logger", false);
        check("10-", false);
        check("10", false);
        check("10-a b", false);
        check("10-../x", false);
        check(&format!("10-{}", "x".repeat(NAME_MAX + 1)), false);
        assert_eq!(Identity::parse("10-x").unwrap().to_string(), "10-x");
    }

    #[test]
    fn a_synchronization_is_cut_where_a_message_is_full() {
        let [whole] = pieces(vec![PodSandbox::default()], vec![]).try_into().unwrap();
        assert!(!whole.more);
        let pods: Vec<PodSandbox> =
            (0..5).map(|_| PodSandbox { name: "x".repeat(1 << 20), ..Default::default() }).collect();
        let containers: Vec<Container> =
            (0..3).map(|_| Container { name: "y".repeat(1 << 20), ..Default::default() }).collect();
        let cut = pieces(pods.clone(), containers.clone());
        let more: Vec<bool> = cut.iter().map(|piece| piece.more).collect();
        assert_eq!(more, [true, true, false]);
        assert!(cut.iter().all(|piece| piece.encoded_len() <= ttrpc::MESSAGE_MAX - 1024));
        assert_eq!(cut.iter().flat_map(|piece| piece.pods.clone()).collect::<Vec<_>>(), pods);
        assert_eq!(cut.iter().flat_map(|piece| piece.containers.clone()).collect::<Vec<_>>(), containers);
    }
}
