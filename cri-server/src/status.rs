//! The gRPC code of every error. The only place that knows them.

use conmon_protocol::RefusalKind;
use tonic::{Code, Status};

use crate::error::{Error, chain};
use crate::{checkpoint, container};
use crate::{monitor, sandbox};

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        Status::new(code(&error), chain(&error))
    }
}

/// As design and CRI have it: the kubelet acts on NOT_FOUND, DEADLINE_EXCEEDED and UNAVAILABLE, and knows a
/// registry that is away or a refused signature only by the first word of an UNKNOWN.
pub fn code(error: &Error) -> Code {
    match error {
        Error::NotFound { .. } | Error::NoImage { .. } => Code::NotFound,
        Error::Ambiguous { .. } | Error::Request(_) => Code::InvalidArgument,
        Error::Plan(invalid) => of_plan(invalid),
        Error::SandboxPlan(invalid) => of_sandbox_plan(invalid),
        Error::State { .. } | Error::Selinux { .. } | Error::Handler { .. } => Code::FailedPrecondition,
        Error::Exists { .. } => Code::AlreadyExists,
        Error::Recovering | Error::NetworkNotReady(_) | Error::Stopping => Code::Unavailable,
        Error::StillMaking { .. } | Error::ExecTimeout { .. } | Error::SlowHost { .. } => {
            Code::DeadlineExceeded
        }
        Error::Making { source, .. } | Error::Leftovers { first: source, .. } => code(source),
        Error::ImageVolume { .. } => Code::Unknown,
        Error::Image(error) => of_image(error),
        Error::Network { source, .. } | Error::PodRanges(source) => of_network(source),
        Error::Monitor(error) => of_monitor(error),
        Error::Streams(_) => Code::ResourceExhausted,
        Error::Stats { source, .. } => of_stats(source),
        Error::Checkpoint(error) => of_checkpoint(error),
        Error::Nri(error) => of_plugins(error),
        Error::MonitorDied { .. } | Error::Store(_) | Error::Config(_) | Error::Io { .. } => Code::Internal,
    }
}

/// A plugin's no is neither the request's fault nor the daemon's.
fn of_plugins(error: &crate::nri::Error) -> Code {
    use crate::nri::Error as E;
    match error {
        E::Other { source, .. } => code(source),
        E::Refused { .. } | E::Merge(_) | E::Unfit(_) | E::Rejected { .. } | E::Unjudged { .. } => {
            Code::Unknown
        }
    }
}

fn of_plan(invalid: &container::plan::Invalid) -> Code {
    if invalid.is_unsupported() { Code::Unimplemented } else { Code::InvalidArgument }
}

fn of_sandbox_plan(invalid: &sandbox::plan::Invalid) -> Code {
    match invalid {
        sandbox::plan::Invalid::Wrong { .. } => Code::InvalidArgument,
        sandbox::plan::Invalid::Unsupported { .. } => Code::Unimplemented,
    }
}

fn of_image(error: &image_service::Error) -> Code {
    use image_service::Error as E;
    match error {
        E::NotFound { .. } => Code::NotFound,
        E::RegistryUnavailable { .. } | E::Policy(_) => Code::Unknown,
        E::Unauthorized { .. } => Code::PermissionDenied,
        E::InvalidReference(_) => Code::InvalidArgument,
        E::Cancelled => Code::Cancelled,
        // The rest, also of what may come.
        _ => Code::Internal,
    }
}

fn of_network(error: &network::Error) -> Code {
    use network::Error as E;
    match error {
        E::NotReady(_) => Code::Unavailable,
        E::Invalid { .. } | E::BadRanges { .. } => Code::InvalidArgument,
        // A plugin's no, as the kubelet hears it from CRI-O and containerd.
        E::Refused { .. } | E::NoFreeAddress { .. } => Code::Unknown,
        // The rest, also of what may come.
        _ => Code::Internal,
    }
}

/// The kubelet tells its client that a node can't checkpoint by UNIMPLEMENTED.
fn of_checkpoint(error: &checkpoint::Error) -> Code {
    use checkpoint::Error as E;
    match error {
        E::NoCheckpoints | E::NoRestore | E::Criu(_) => Code::Unimplemented,
        E::Request(_) | E::Damaged { .. } => Code::InvalidArgument,
        E::State(_) => Code::FailedPrecondition,
        E::Io { .. } => Code::Internal,
        E::Late => Code::DeadlineExceeded,
    }
}

fn of_monitor(error: &monitor::Error) -> Code {
    match error {
        monitor::Error::Gone => Code::Unavailable,
        monitor::Error::Refused(refusal) => of_refusal(refusal.kind),
        monitor::Error::Program { .. }
        | monitor::Error::Spawn { .. }
        | monitor::Error::Connect { .. }
        | monitor::Error::Silent
        | monitor::Error::Unseen
        | monitor::Error::Descriptors(_)
        | monitor::Error::Confused
        | monitor::Error::Encode(_) => Code::Internal,
    }
}

fn of_refusal(kind: RefusalKind) -> Code {
    match kind {
        RefusalKind::NotFound => Code::NotFound,
        RefusalKind::Exists => Code::AlreadyExists,
        RefusalKind::State => Code::FailedPrecondition,
        // The command was named by the request, and is not in the container.
        RefusalKind::Invalid | RefusalKind::NoSuchCommand => Code::InvalidArgument,
        RefusalKind::Unsupported => Code::Unimplemented,
        RefusalKind::Failed => Code::Internal,
        RefusalKind::TimedOut => Code::DeadlineExceeded,
    }
}

fn of_stats(error: &crate::stats::Error) -> Code {
    match error {
        crate::stats::Error::Gone { .. } => Code::NotFound,
        crate::stats::Error::Hierarchy { .. } | crate::stats::Error::Open { .. } => Code::Internal,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Noun;
    use crate::step::Step;
    use std::sync::Arc;

    #[test]
    fn errors_have_the_codes_of_the_table() {
        let check = |error: Error, code: Code, words: &str| {
            let status = Status::from(error);
            assert_eq!(status.code(), code, "{}", status.message());
            assert!(status.message().contains(words), "{}", status.message());
        };
        let id = || "c1".to_string();
        let noun = Noun::Container;
        check(Error::NotFound { noun, id: id() }, Code::NotFound, "no container \"c1\"");
        check(
            Error::State { noun, id: id(), why: "is gone" },
            Code::FailedPrecondition,
            "container c1: is gone",
        );
        check(Error::Recovering, Code::Unavailable, "ask once more");
        let still = Error::StillMaking { noun: Noun::Sandbox, id: id(), step: Step::SandboxNetwork };
        check(still, Code::DeadlineExceeded, "making sandbox c1 is at sandbox.network");
        let refused =
            conmon_protocol::Refusal { kind: RefusalKind::NoSuchCommand, message: "no \"x\"".into() };
        let source = Arc::new(Error::from(monitor::Error::from(refused)));
        let making = Error::Making { noun, id: id(), step: Step::ContainerCreate, source };
        check(making, Code::InvalidArgument, "making container c1: container.create: no \"x\"");
        let refusal = network::Refusal { code: 11, msg: "the switch is away".into(), details: String::new() };
        let (plugin, network) = ("bridge".into(), "net1".into());
        let source = Arc::new(network::Error::Refused { plugin, verb: "ADD", network, refusal });
        check(Error::Network { id: id(), source }, Code::Unknown, "network net1: the switch is away");
        let command = "sleep".into();
        check(Error::ExecTimeout { command, timeout_s: 1 }, Code::DeadlineExceeded, "\"sleep\"");
    }
}
