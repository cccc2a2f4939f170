//! A client of streaming URLs over WebSocket, as newer clients do it: v4 and v5 channels.

use anyhow::{Context, Result, ensure};
use futures_util::{SinkExt, StreamExt};
use proto::v1;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

use crate::node::Client;

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const ERROR: u8 = 3;
/// v5: the channel in the next byte is closed.
const CLOSE: u8 = 255;

/// What came over the channels until the connection ended.
#[derive(Debug, Default)]
pub struct Heard {
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
    pub error: Vec<u8>,
}

/// A connection to a streaming URL.
#[derive(Debug)]
pub struct Channels {
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
}

impl Channels {
    /// Dials; the server must choose the protocol that is asked for.
    pub async fn dial(url: &str, protocol: &str) -> Result<Channels> {
        let mut request = url.replacen("http://", "ws://", 1).into_client_request()?;
        request.headers_mut().insert("sec-websocket-protocol", protocol.parse()?);
        let (socket, response) = tokio_tungstenite::connect_async(request).await?;
        let chosen = response.headers().get("sec-websocket-protocol").context("a protocol is chosen")?;
        ensure!(chosen == protocol, "{chosen:?} was chosen, {protocol} asked for");
        Ok(Channels { socket })
    }

    pub async fn send(&mut self, input: &[u8]) -> Result<()> {
        let framed: Vec<u8> = [&[STDIN], input].concat();
        Ok(self.socket.send(Message::Binary(framed.into())).await?)
    }

    /// The end of stdin, which only v5 can tell.
    pub async fn end_input(&mut self) -> Result<()> {
        Ok(self.socket.send(Message::Binary(vec![CLOSE, STDIN].into())).await?)
    }

    /// The next bytes on stdout; none at the end.
    pub async fn stdout(&mut self) -> Vec<u8> {
        while let Some(Ok(message)) = self.socket.next().await {
            match message {
                Message::Binary(bytes) if bytes.len() > 1 && bytes[0] == STDOUT => {
                    return bytes[1..].to_vec();
                }
                _ => {}
            }
        }
        Vec::new()
    }

    /// All until the connection ends.
    pub async fn rest(mut self) -> Heard {
        let mut heard = Heard::default();
        while let Some(Ok(message)) = self.socket.next().await {
            let Message::Binary(bytes) = message else { continue };
            let Some((channel, data)) = bytes.split_first() else { continue };
            match *channel {
                STDOUT => heard.stdout.extend(data),
                STDERR => heard.stderr.extend(data),
                ERROR => heard.error.extend(data),
                _ => {}
            }
        }
        heard
    }
}

/// Speaks to a streaming URL: sends `input` on stdin, ends it if the protocol can, and listens to the end.
pub async fn talk(url: &str, protocol: &str, input: Option<&[u8]>) -> Result<Heard> {
    let mut channels = Channels::dial(url, protocol).await?;
    if let Some(input) = input {
        channels.send(input).await?;
        if protocol.starts_with("v5") {
            channels.end_input().await?;
        }
    }
    Ok(channels.rest().await)
}

impl Client {
    /// Where to dial for a command in a container.
    pub async fn exec_url(&mut self, container: &str, command: &[&str], stdin: bool) -> Result<String> {
        let request = v1::ExecRequest {
            container_id: container.to_owned(),
            cmd: command.iter().map(|word| (*word).to_owned()).collect(),
            tty: false,
            stdin,
            stdout: true,
            stderr: true,
        };
        Ok(self.runtime.exec(request).await?.into_inner().url)
    }

    /// Where to dial for a container's own streams.
    pub async fn attach_url(&mut self, container: &str) -> Result<String> {
        let container_id = container.to_owned();
        let request = v1::AttachRequest { container_id, stdout: true, stderr: true, ..Default::default() };
        Ok(self.runtime.attach(request).await?.into_inner().url)
    }
}
