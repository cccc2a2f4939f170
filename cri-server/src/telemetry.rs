//! What the daemon says of itself while it works: lines on stderr, and OpenTelemetry spans to a collector.
//!
//! Every request has an id, which its lines bear: the trace's when the client sent one (W3C Trace Context), so that
//! both can be found together. Spans are made under one target, `berth::span`, whoever makes them; lines and spans
//! have filters of their own, so neither changes the other.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use http::HeaderMap;
use opentelemetry::trace::{
    SpanContext, SpanId, TraceContextExt, TraceFlags, TraceId, TraceState, TracerProvider,
};
use opentelemetry::{Context, KeyValue};
use opentelemetry_otlp::{SpanExporter, WithExportConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{BatchSpanProcessor, Sampler, SdkTracerProvider};
use tracing::{Level, Span};
use tracing_opentelemetry::OpenTelemetrySpanExt;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::prelude::*;
use tracing_subscriber::{EnvFilter, Layer, Registry, reload};

use crate::config::{Config, LogFormat, TracingSection};

mod layer;

pub use layer::Requests;

/// The target of all spans that are sent; at debug, so that they are not part of lines unless asked for.
pub const SPANS: &str = "berth::span";

/// A collector that does not answer must not hold up the daemon's end, nor its exporting thread for long.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(5);
const LAST_EXPORT: Duration = Duration::from_secs(1);

/// Whether spans are sent. (`tracing::enabled!` would tell, but leaves layers' filters with its own answer, which the
/// next span then gets: tokio-rs/tracing's per-layer filters keep it in the thread.)
static SENDS: AtomicBool = AtomicBool::new(false);

/// What a wrong setting is refused with.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("setting log to {filter:?}: {source}")]
    Filter { filter: String, source: tracing_subscriber::filter::ParseError },
    #[error("setting tracing.endpoint to {endpoint:?}: {why}")]
    Endpoint { endpoint: String, why: String },
    #[error("changing what is logged: {0}")]
    Reload(#[from] reload::Error),
}

/// Lines and spans, running.
#[derive(Debug)]
pub struct Telemetry {
    filter: reload::Handle<EnvFilter, Registry>,
    provider: Option<SdkTracerProvider>,
}

impl Telemetry {
    /// Starts both, for the whole process. Called within a tokio runtime, whose threads carry the spans away.
    ///
    /// # Errors
    /// Names the setting that is wrong. A collector that is not there is none: spans are dropped until it is.
    pub fn start(config: &Config) -> Result<Arc<Self>, Error> {
        let (filter, handle) = reload::Layer::new(filter(config)?);
        let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(false);
        let lines = match config.log_format {
            LogFormat::Text => lines.boxed(),
            LogFormat::Json => lines.json().flatten_event(true).with_span_list(true).boxed(),
        };
        let provider = provider(&config.tracing)?;
        let spans = provider.as_ref().map(|provider| {
            tracing_opentelemetry::layer()
                .with_tracer(provider.tracer("berthd"))
                .with_location(false)
                .with_threads(false)
                .with_target(false)
                .with_filter(Targets::new().with_target(SPANS, Level::DEBUG))
        });
        tracing_subscriber::registry().with(lines.with_filter(filter)).with(spans).init();
        SENDS.store(provider.is_some(), Ordering::Relaxed);
        Ok(Arc::new(Self { filter: handle, provider }))
    }

    /// Changes what is logged, at once.
    ///
    /// # Errors
    /// When the filter makes no sense; the one before stays.
    pub fn reload(&self, config: &Config) -> Result<(), Error> {
        Ok(self.filter.reload(filter(config)?)?)
    }

    /// Sends what has not been sent yet.
    pub fn stop(&self) {
        if let Some(Err(error)) = self.provider.as_ref().map(|it| it.shutdown_with_timeout(LAST_EXPORT)) {
            tracing::warn!(%error, "the last spans were not sent");
        }
    }
}

fn filter(config: &Config) -> Result<EnvFilter, Error> {
    let wrong = |source| Error::Filter { filter: config.log.clone(), source };
    EnvFilter::try_new(&config.log).map_err(wrong)
}

/// None without an endpoint.
fn provider(settings: &TracingSection) -> Result<Option<SdkTracerProvider>, Error> {
    let Some(endpoint) = endpoint(&settings.endpoint)? else { return Ok(None) };
    let wrong = |why: String| Error::Endpoint { endpoint: settings.endpoint.clone(), why };
    let exporter = SpanExporter::builder().with_tonic().with_endpoint(endpoint).with_timeout(EXPORT_TIMEOUT);
    let exporter = exporter.build().map_err(|error| wrong(error.to_string()))?;
    let share = f64::from(settings.sampling_per_million.min(1_000_000)) / 1e6;
    let node = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let resource = Resource::builder_empty()
        .with_service_name("berthd")
        .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
        .with_attribute(KeyValue::new("host.name", node));
    let provider = SdkTracerProvider::builder()
        .with_span_processor(BatchSpanProcessor::builder(exporter).build())
        .with_sampler(Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(share))))
        .with_resource(resource.build());
    Ok(Some(provider.build()))
}

/// `HOST:PORT` is what the kubelet and CRI-O write; a URL is what the collector's documentation does.
fn endpoint(setting: &str) -> Result<Option<String>, Error> {
    let wrong = |why: &str| Error::Endpoint { endpoint: setting.into(), why: why.into() };
    match setting.split_once("://") {
        None if setting.is_empty() => Ok(None),
        None | Some(("http", _)) => {
            let url = if setting.contains("://") { setting.into() } else { format!("http://{setting}") };
            let uri: http::Uri = url.parse().map_err(|_| wrong("is neither HOST:PORT nor an address"))?;
            uri.port().ok_or_else(|| wrong("needs a port; a collector for gRPC has 4317"))?;
            Ok(Some(url))
        }
        Some((scheme, _)) => {
            Err(wrong(&format!("{scheme} is not spoken here; run a collector on the node and use http")))
        }
    }
}

/// The span of a call, beneath the client's own when it sent one. It is of the highest level, so that every line
/// bears its id; one span for lines and collector, so that whoever goes on in it goes on in both.
pub fn request(call: &str, headers: &HeaderMap) -> Span {
    let parent = headers.get("traceparent").and_then(|value| parent(value.to_str().ok()?));
    let id = match &parent {
        Some(parent) => parent.trace_id().to_string(),
        None => format!("{:016x}", random()),
    };
    if !SENDS.load(Ordering::Relaxed) {
        return tracing::error_span!("request", call, id);
    }
    let span = tracing::error_span!(
        target: SPANS,
        "request",
        call,
        id,
        otel.name = call,
        otel.kind = "server",
        otel.status_code = tracing::field::Empty,
        otel.status_description = tracing::field::Empty,
    );
    if let Some(parent) = parent {
        // It fails only for spans that nobody sends.
        let _ = span.set_parent(Context::new().with_remote_span_context(parent));
    }
    span
}

/// Marks the span of the call that is being answered.
pub fn failed(why: &str) {
    Span::current().record("otel.status_code", "ERROR").record("otel.status_description", why);
}

/// Reads the header of W3C Trace Context: `00-TRACE-SPAN-FLAGS`, and what later versions add after it.
fn parent(header: &str) -> Option<SpanContext> {
    let mut parts = header.split('-');
    let (version, trace, span, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let is_digit = |it: u8| it.is_ascii_digit() || (b'a'..=b'f').contains(&it);
    let exact = |text: &str, length| text.len() == length && text.bytes().all(is_digit);
    if !(exact(version, 2) && exact(trace, 32) && exact(span, 16) && exact(flags, 2)) || version == "ff" {
        return None;
    }
    if version == "00" && parts.next().is_some() {
        return None;
    }
    let flags = TraceFlags::new(u8::from_str_radix(flags, 16).ok()?) & TraceFlags::SAMPLED;
    let (trace, span) = (TraceId::from_hex(trace).ok()?, SpanId::from_hex(span).ok()?);
    Some(SpanContext::new(trace, span, flags, true, TraceState::NONE)).filter(SpanContext::is_valid)
}

fn random() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    // Each state is keyed from the kernel's randomness and a counter: unlike every other, and needs no call.
    std::collections::hash_map::RandomState::new().build_hasher().finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clients_trace_is_read_from_its_header() {
        let good = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let context = parent(good).unwrap();
        assert_eq!(context.trace_id().to_string(), "4bf92f3577b34da6a3ce929d0e0e4736");
        assert!(context.is_sampled() && context.is_remote());
        assert!(!parent("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00").unwrap().is_sampled());
        assert!(parent(&format!("{good}-more").replacen("00", "01", 1)).is_some(), "a later version adds");
        for wrong in [
            "",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-+bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
        ] {
            assert!(parent(wrong).is_none(), "{wrong}");
        }
    }

    #[test]
    fn an_endpoint_is_a_host_and_port_or_an_address() {
        assert_eq!(endpoint("").unwrap(), None);
        assert_eq!(endpoint("127.0.0.1:4317").unwrap().as_deref(), Some("http://127.0.0.1:4317"));
        assert_eq!(endpoint("http://[::1]:4317").unwrap().as_deref(), Some("http://[::1]:4317"));
        for wrong in ["localhost", "https://collector:4317", "unix:///x", "a b:1"] {
            assert!(endpoint(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn no_two_requests_have_one_id() {
        assert_ne!(random(), random());
    }
}
