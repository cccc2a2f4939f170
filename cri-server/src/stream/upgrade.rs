//! What a client asks for with its HTTP request: which session, over which protocol. Headers in, answer out.

use http::header::{CONNECTION, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION, UPGRADE};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::remote::Telling;
use super::websocket::Format;

const SPDY: &str = "SPDY/3.1";
/// Of Kubernetes: what is spoken inside SPDY.
const STREAM_PROTOCOL: HeaderName = HeaderName::from_static("x-stream-protocol-version");
const ACCEPTED_PROTOCOLS: HeaderName = HeaderName::from_static("x-accepted-stream-protocol-versions");

/// What the URL is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    Remote,
    PortForward,
}

/// How client and session will talk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Transport {
    Spdy(Telling),
    WebSocket(Format, Telling),
    /// SPDY inside WebSocket.
    Tunnel,
}

/// The answer that makes the connection ours.
#[derive(Debug)]
pub(super) struct Accepted {
    pub(super) transport: Transport,
    pub(super) headers: HeaderMap,
}

/// The answer when it cannot be.
#[derive(Debug)]
pub(super) struct Rejected {
    pub(super) status: StatusCode,
    pub(super) message: String,
    /// The protocols that would have done.
    accepted: &'static [Protocol],
}

#[derive(Debug)]
struct Protocol {
    name: &'static str,
    transport: Transport,
}

const fn protocol(name: &'static str, transport: Transport) -> Protocol {
    Protocol { name, transport }
}

/// Version 5 differs from 4 over WebSocket only, where a stream could not be half closed before.
const REMOTE_SPDY: &[Protocol] = &[
    protocol("v4.channel.k8s.io", Transport::Spdy(Telling::Status)),
    protocol("v3.channel.k8s.io", Transport::Spdy(Telling::Words)),
    protocol("v2.channel.k8s.io", Transport::Spdy(Telling::Words)),
    protocol("channel.k8s.io", Transport::Spdy(Telling::Words)),
];
const REMOTE_WEBSOCKET: &[Protocol] = &[
    protocol("v5.channel.k8s.io", Transport::WebSocket(Format::BinaryClosing, Telling::Status)),
    protocol("v4.channel.k8s.io", Transport::WebSocket(Format::Binary, Telling::Status)),
    protocol("v4.base64.channel.k8s.io", Transport::WebSocket(Format::Base64, Telling::Status)),
    protocol("v3.channel.k8s.io", Transport::WebSocket(Format::Binary, Telling::Words)),
    protocol("v2.channel.k8s.io", Transport::WebSocket(Format::Binary, Telling::Words)),
    protocol("channel.k8s.io", Transport::WebSocket(Format::Binary, Telling::Words)),
    protocol("base64.channel.k8s.io", Transport::WebSocket(Format::Base64, Telling::Words)),
];
const FORWARD_SPDY: &[Protocol] = &[protocol("portforward.k8s.io", Transport::Spdy(Telling::Words))];
const FORWARD_WEBSOCKET: &[Protocol] = &[
    protocol("SPDY/3.1+portforward.k8s.io", Transport::Tunnel),
    protocol("v2.portforward.k8s.io", Transport::Tunnel),
    protocol("v4.channel.k8s.io", Transport::WebSocket(Format::Binary, Telling::Words)),
    protocol("v4.base64.channel.k8s.io", Transport::WebSocket(Format::Base64, Telling::Words)),
];
/// What a WebSocket client speaks that names nothing.
const UNNAMED: Transport = Transport::WebSocket(Format::Binary, Telling::Words);

/// Finds the protocol that both speak; the client's order decides.
pub(super) fn negotiate(purpose: Purpose, request: &HeaderMap) -> Result<Accepted, Rejected> {
    if !mentions(request, &CONNECTION, "upgrade") {
        return Err(reject("this URL is for a streaming client: the request asks for no upgrade"));
    }
    if mentions(request, &UPGRADE, "websocket") {
        websocket(purpose, request)
    } else if mentions(request, &UPGRADE, SPDY) {
        spdy(purpose, request)
    } else {
        Err(reject("only upgrades to SPDY/3.1 and websocket are served"))
    }
}

fn spdy(purpose: Purpose, request: &HeaderMap) -> Result<Accepted, Rejected> {
    let known = match purpose {
        Purpose::Remote => REMOTE_SPDY,
        Purpose::PortForward => FORWARD_SPDY,
    };
    let offered: Vec<&str> = words(request, &STREAM_PROTOCOL).collect();
    if offered.is_empty() {
        return Err(reject("the header X-Stream-Protocol-Version is missing"));
    }
    let Some(chosen) = choose(&offered, known) else {
        let message = format!("none of {} is served", offered.join(", "));
        return Err(Rejected { status: StatusCode::FORBIDDEN, message, accepted: known });
    };
    let mut headers = switching(SPDY);
    headers.insert(STREAM_PROTOCOL, HeaderValue::from_static(chosen.name));
    Ok(Accepted { transport: chosen.transport, headers })
}

fn websocket(purpose: Purpose, request: &HeaderMap) -> Result<Accepted, Rejected> {
    let known = match purpose {
        Purpose::Remote => REMOTE_WEBSOCKET,
        Purpose::PortForward => FORWARD_WEBSOCKET,
    };
    if !mentions(request, &SEC_WEBSOCKET_VERSION, "13") {
        return Err(reject("only version 13 of WebSocket is served"));
    }
    let key =
        request.get(SEC_WEBSOCKET_KEY).ok_or_else(|| reject("the header Sec-WebSocket-Key is missing"))?;
    let accept =
        HeaderValue::try_from(derive_accept_key(key.as_bytes())).expect("base64 is a header's value");
    let mut headers = switching("websocket");
    headers.insert(http::header::SEC_WEBSOCKET_ACCEPT, accept);
    let offered: Vec<&str> = words(request, &SEC_WEBSOCKET_PROTOCOL).collect();
    if offered.is_empty() {
        return Ok(Accepted { transport: UNNAMED, headers });
    }
    let chosen = choose(&offered, known)
        .ok_or_else(|| reject(format!("none of {} is served over WebSocket", offered.join(", "))))?;
    headers.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(chosen.name));
    Ok(Accepted { transport: chosen.transport, headers })
}

fn choose(offered: &[&str], known: &'static [Protocol]) -> Option<&'static Protocol> {
    offered.iter().find_map(|name| known.iter().find(|protocol| protocol.name == *name))
}

fn switching(to: &'static str) -> HeaderMap {
    let upgrade =
        [(CONNECTION, HeaderValue::from_static("Upgrade")), (UPGRADE, HeaderValue::from_static(to))];
    upgrade.into_iter().collect()
}

fn reject(message: impl Into<String>) -> Rejected {
    Rejected { status: StatusCode::BAD_REQUEST, message: message.into(), accepted: &[] }
}

impl Rejected {
    /// Nobody knows this URL, or not any more.
    pub(super) fn no_such_session() -> Rejected {
        let message = "no such streaming session: each URL is good once, for a minute".into();
        Rejected { status: StatusCode::NOT_FOUND, message, accepted: &[] }
    }

    pub(super) fn headers(&self) -> HeaderMap {
        let names = self.accepted.iter().map(|protocol| HeaderValue::from_static(protocol.name));
        names.map(|name| (ACCEPTED_PROTOCOLS, name)).collect()
    }
}

/// The words of a header that is a list, be it in one line or several.
fn words<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    let lines = headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok());
    lines.flat_map(|line| line.split(',')).map(str::trim).filter(|word| !word.is_empty())
}

fn mentions(headers: &HeaderMap, name: &HeaderName, word: &str) -> bool {
    words(headers, name).any(|found| found.eq_ignore_ascii_case(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOTH: &str =
        "v5.channel.k8s.io,v4.channel.k8s.io, v3.channel.k8s.io,v2.channel.k8s.io,channel.k8s.io";

    fn request(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let pair = |(name, value): &(&'static str, &str)| {
            (HeaderName::from_static(name), HeaderValue::from_str(value).unwrap())
        };
        pairs.iter().map(pair).collect()
    }

    fn spdy_request(protocols: &str) -> HeaderMap {
        request(&[
            ("connection", "Upgrade"),
            ("upgrade", "SPDY/3.1"),
            ("x-stream-protocol-version", protocols),
        ])
    }

    fn websocket_request(protocols: &str) -> HeaderMap {
        request(&[
            ("connection", "keep-alive, Upgrade"),
            ("upgrade", "WebSocket"),
            ("sec-websocket-version", "13"),
            ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
            ("sec-websocket-protocol", protocols),
        ])
    }

    #[track_caller]
    fn check(purpose: Purpose, request: HeaderMap, expected: Result<(Transport, Option<&str>), u16>) {
        let got = negotiate(purpose, &request);
        let chosen = |accepted: &Accepted| {
            let header =
                accepted.headers.get(STREAM_PROTOCOL).or(accepted.headers.get(SEC_WEBSOCKET_PROTOCOL));
            header.map(|value| value.to_str().unwrap().to_owned())
        };
        match (&got, expected) {
            (Ok(accepted), Ok((transport, name))) => {
                assert_eq!(accepted.transport, transport);
                assert_eq!(chosen(accepted).as_deref(), name);
            }
            (Err(rejected), Err(status)) => {
                assert_eq!(rejected.status.as_u16(), status, "{}", rejected.message)
            }
            (_, expected) => panic!("got {got:?}, expected {expected:?}"),
        }
    }

    #[test]
    fn the_clients_best_known_protocol_is_chosen() {
        use Purpose::{PortForward, Remote};
        let socket = |format, telling| Transport::WebSocket(format, telling);
        let spdy = Transport::Spdy;
        check(Remote, spdy_request(BOTH), Ok((spdy(Telling::Status), Some("v4.channel.k8s.io"))));
        check(Remote, spdy_request("channel.k8s.io"), Ok((spdy(Telling::Words), Some("channel.k8s.io"))));
        check(Remote, spdy_request("v9.channel.k8s.io"), Err(403));
        check(Remote, spdy_request(""), Err(400));
        let five = Ok((socket(Format::BinaryClosing, Telling::Status), Some("v5.channel.k8s.io")));
        check(Remote, websocket_request(BOTH), five);
        let base64 = Ok((socket(Format::Base64, Telling::Status), Some("v4.base64.channel.k8s.io")));
        check(Remote, websocket_request("v4.base64.channel.k8s.io"), base64);
        check(Remote, websocket_request(""), Ok((socket(Format::Binary, Telling::Words), None)));
        check(Remote, websocket_request("portforward.k8s.io"), Err(400));
        check(
            PortForward,
            spdy_request("portforward.k8s.io"),
            Ok((spdy(Telling::Words), Some("portforward.k8s.io"))),
        );
        let tunnel = Ok((Transport::Tunnel, Some("SPDY/3.1+portforward.k8s.io")));
        check(PortForward, websocket_request("SPDY/3.1+portforward.k8s.io"), tunnel);
        check(PortForward, spdy_request(BOTH), Err(403));
    }

    #[test]
    fn a_request_that_is_no_upgrade_is_refused() {
        check(Purpose::Remote, HeaderMap::new(), Err(400));
        check(Purpose::Remote, request(&[("connection", "Upgrade"), ("upgrade", "h2c")]), Err(400));
        check(Purpose::Remote, request(&[("connection", "Upgrade"), ("upgrade", "websocket")]), Err(400));
    }

    /// The example of RFC 6455, section 1.3.
    #[test]
    fn a_websocket_key_is_answered() {
        let accepted = negotiate(Purpose::Remote, &websocket_request(BOTH)).unwrap();
        assert_eq!(accepted.headers["sec-websocket-accept"], "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }
}
