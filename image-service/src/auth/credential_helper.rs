//! Credential helpers: `docker-credential-NAME get`, the server on stdin, JSON on stdout. The command
//! is found on the PATH only, its answer is bounded, and it has [`DEADLINE`] to give it.

use std::process::Stdio;
use std::time::Duration;

use serde::Deserialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command};

use super::Credentials;

/// A helper may ask a cloud's API; one that takes longer than this is stuck.
const DEADLINE: Duration = Duration::from_secs(30);
const MAX_ANSWER_BYTES: u64 = 1 << 20;
/// What a helper prints when it knows nothing (docker-credential-helpers, `credentials/error.go`).
const NOT_FOUND: &str = "credentials not found";

#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("{0:?} is no name of a credential helper")]
    Name(String),
    #[error("credential helper {name}")]
    Run { name: String, source: std::io::Error },
    #[error("credential helper {name} took longer than {} seconds", DEADLINE.as_secs())]
    TimedOut { name: String },
    #[error("credential helper {name} failed: {said}")]
    Failed { name: String, said: String },
    #[error("credential helper {name} gave an answer that is not its JSON")]
    Answer { name: String },
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    #[serde(default)]
    username: String,
    #[serde(default)]
    secret: String,
}

/// Asks the helper; None when it knows nothing of the server.
pub(crate) async fn get(name: &str, server: &str) -> Result<Option<Credentials>, Error> {
    if !is_name(name) {
        return Err(Error::Name(name.to_owned()));
    }
    ask(&format!("docker-credential-{name}"), server, DEADLINE).await
}

/// What may follow `docker-credential-`: never a path.
pub(crate) fn is_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
}

async fn ask(program: &str, server: &str, deadline: Duration) -> Result<Option<Credentials>, Error> {
    let name = program.to_owned();
    let failed = |source| Error::Run { name: program.to_owned(), source };
    let child = Command::new(program)
        .arg("get")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .map_err(failed)?;
    let talk = tokio::time::timeout(deadline, talk(child, server));
    let (succeeded, answer) =
        talk.await.map_err(|_| Error::TimedOut { name: name.clone() })?.map_err(failed)?;
    if !succeeded {
        let said: String = String::from_utf8_lossy(&answer).trim().chars().take(200).collect();
        return if said.contains(NOT_FOUND) { Ok(None) } else { Err(Error::Failed { name, said }) };
    }
    let answer: Answer = serde_json::from_slice(&answer).map_err(|_| Error::Answer { name })?;
    Ok(Some(answer.into_credentials()))
}

async fn talk(mut child: Child, server: &str) -> std::io::Result<(bool, Vec<u8>)> {
    if let Some(mut stdin) = child.stdin.take() {
        // A helper that doesn't read gets EPIPE's silence; its answer tells the rest.
        let _ = stdin.write_all(server.as_bytes()).await;
    }
    let mut answer = Vec::new();
    if let Some(stdout) = child.stdout.take() {
        stdout.take(MAX_ANSWER_BYTES).read_to_end(&mut answer).await?;
    }
    Ok((child.wait().await?.success(), answer))
}

impl Answer {
    fn into_credentials(self) -> Credentials {
        // The protocol's word for "the secret is an identity token".
        if self.username == "<token>" {
            return Credentials { identity_token: self.secret, ..Credentials::default() };
        }
        Credentials { username: self.username, password: self.secret, ..Credentials::default() }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    async fn run(script: &str) -> Result<Option<Credentials>, Error> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("docker-credential-test");
        std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        ask(path.to_str().unwrap(), "a.io", Duration::from_secs(2)).await
    }

    #[tokio::test]
    async fn a_helper_gives_a_password_or_a_token() {
        let echo = r#"test "$1" = get || exit 9; read s; echo "{\"ServerURL\":\"$s\",\"Username\":\"u-$s\",\"Secret\":\"p\"}""#;
        let credentials = run(echo).await.unwrap().unwrap();
        assert_eq!((credentials.username.as_str(), credentials.password.as_str()), ("u-a.io", "p"));
        let token = run(r#"echo '{"Username":"<token>","Secret":"t"}'"#).await.unwrap().unwrap();
        assert_eq!((token.username.as_str(), token.identity_token.as_str()), ("", "t"));
    }

    #[tokio::test]
    async fn a_helper_that_knows_nothing_fails_or_hangs_is_told_apart() {
        assert_eq!(run("echo credentials not found in native keychain; exit 1").await.unwrap(), None);
        assert!(
            matches!(run("echo locked; exit 1").await, Err(Error::Failed { said, .. }) if said == "locked")
        );
        assert!(matches!(run("echo nonsense").await, Err(Error::Answer { .. })));
        assert!(matches!(run("exec sleep 60").await, Err(Error::TimedOut { .. })));
        assert!(matches!(get("../evil", "a.io").await, Err(Error::Name(_))));
        assert!(matches!(get("no-such-helper", "a.io").await, Err(Error::Run { .. })));
    }
}
