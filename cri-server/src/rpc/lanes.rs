//! Who does what is asked: what a kubelet polls is answered where it is heard, all else is done by the workers.
//!
//! Making and taking away pods has moments that block a thread (a fork, a file, a netlink answer), and there are as
//! few workers as processors. A list needs none of that, only the published snapshot; so it must not queue behind it.
//! The threads that hear do nothing else, and none of the calls named here may block, start a process or wait.

use std::convert::Infallible;

use http::{Request, Response};
use tokio::runtime::Handle;
use tokio_util::task::AbortOnDropHandle;
use tonic::Status;
use tonic::body::Body;
use tracing::Instrument;

use super::around::{Answer, Around};

/// Answered at once from what is published. Everything else is work.
const POLLED: [&str; 14] = [
    "/runtime.v1.RuntimeService/Version",
    "/runtime.v1.RuntimeService/Status",
    "/runtime.v1.RuntimeService/RuntimeConfig",
    "/runtime.v1.RuntimeService/ListPodSandbox",
    "/runtime.v1.RuntimeService/ListContainers",
    "/runtime.v1.RuntimeService/PodSandboxStatus",
    "/runtime.v1.RuntimeService/ContainerStatus",
    "/runtime.v1.RuntimeService/StreamPodSandboxes",
    "/runtime.v1.RuntimeService/StreamContainers",
    "/runtime.v1.RuntimeService/GetContainerEvents",
    "/runtime.v1.RuntimeService/ListMetricDescriptors",
    "/runtime.v1.ImageService/ListImages",
    "/runtime.v1.ImageService/StreamImages",
    "/runtime.v1.ImageService/ImageStatus",
];

/// Sends work to the workers.
#[derive(Debug, Clone)]
pub struct Lanes {
    workers: Handle,
}

impl Lanes {
    pub fn new(workers: Handle) -> Self {
        Self { workers }
    }
}

impl Around for Lanes {
    fn call<F>(&self, request: Request<Body>, go: impl FnOnce(Request<Body>) -> F) -> Answer
    where
        F: Future<Output = Result<Response<Body>, Infallible>> + Send + 'static,
    {
        let is_polled = POLLED.contains(&request.uri().path());
        let answer = go(request);
        if is_polled {
            return Box::pin(answer);
        }
        let workers = self.workers.clone();
        Box::pin(async move {
            // Whoever goes away takes the call along, as if it were done here.
            let work = AbortOnDropHandle::new(workers.spawn(answer.in_current_span()));
            work.await.unwrap_or_else(|_| Ok(Status::unavailable("the daemon is stopping").into_http()))
        })
    }
}

#[cfg(test)]
mod tests {
    use tower::{Layer as _, Service as _};

    use super::super::Put;
    use super::*;

    /// The name of the thread that does the call.
    async fn thread_of(path: &str, workers: &Handle) -> String {
        let named = tower::service_fn(|_: Request<Body>| async {
            let name = std::thread::current().name().unwrap_or_default().to_owned();
            Ok::<_, Infallible>(Response::builder().header("thread", name).body(Body::empty()).unwrap())
        });
        let request = Request::builder().uri(path).body(Body::empty()).unwrap();
        let answer = Put(Lanes::new(workers.clone())).layer(named).call(request).await.unwrap();
        answer.headers()["thread"].to_str().unwrap().to_owned()
    }

    #[test]
    fn what_is_polled_is_answered_here_and_the_rest_by_the_workers() {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        let workers = builder.worker_threads(1).thread_name("worker").build().unwrap();
        let hearing = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let here = std::thread::current().name().unwrap_or_default().to_owned();
        let check = |path: &str, thread: &str| {
            assert_eq!(hearing.block_on(thread_of(path, workers.handle())), thread, "{path}");
        };
        check("/runtime.v1.RuntimeService/ListPodSandbox", &here);
        check("/runtime.v1.ImageService/ImageStatus", &here);
        check("/runtime.v1.RuntimeService/RunPodSandbox", "worker");
        check("/runtime.v1.RuntimeService/ListContainerStats", "worker");
        check("/berth.Operator/Anything", "worker");
    }
}
