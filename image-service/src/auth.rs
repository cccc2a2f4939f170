//! Credentials: what the kubelet or the node's files say about a registry, and how it is kept from sight.
//!
//! This module knows secrets but sends none: `registry` decides who may see them.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};

use crate::reference::{DEFAULT_DOMAIN, Reference, is_short};

pub(crate) mod challenge;
pub(crate) mod credential_helper;
pub(crate) mod files;
pub(crate) mod lookup;

/// What a caller may show a registry: the kubelet's AuthConfig, in our words. An empty field says nothing.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub struct Credentials {
    pub username: String,
    pub password: String,
    /// An OAuth2 refresh token, to be exchanged for access tokens.
    pub identity_token: String,
    /// A bearer token to be sent as it is.
    pub registry_token: String,
    /// The host these are for, when the caller said so; they are not shown to another.
    pub server_address: String,
}

/// The `auth` field is not base64 of `user:password`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the auth field is not the base64 of user:password")]
pub struct InvalidAuth;

impl Credentials {
    /// Reads `auth`, the base64 of `user:password`, as in Docker's configuration and CRI's AuthConfig.
    pub fn from_auth(auth: &str) -> Result<Credentials, InvalidAuth> {
        let auth = auth.trim();
        let bytes =
            STANDARD.decode(auth).or_else(|_| STANDARD_NO_PAD.decode(auth)).map_err(|_| InvalidAuth)?;
        let text = String::from_utf8(bytes).map_err(|_| InvalidAuth)?;
        let (username, password) = text.split_once(':').ok_or(InvalidAuth)?;
        // Docker pads the password with zero bytes in some of its own stores, and strips them.
        let password = password.trim_matches('\0');
        Ok(Credentials {
            username: username.to_owned(),
            password: password.to_owned(),
            ..Credentials::default()
        })
    }

    /// Whether there is nothing here that could be shown.
    pub fn is_empty(&self) -> bool {
        self.username.is_empty() && self.identity_token.is_empty() && self.registry_token.is_empty()
    }

    /// Whether these were given for that registry, as its names go: `host[:port]`, or a URL of it.
    pub(crate) fn are_for(&self, hosts: &[&str]) -> bool {
        let own = host_of(&self.server_address);
        own.is_empty() || hosts.iter().any(|host| host_of(host) == own)
    }

    /// Whether these may go to where a name, as the caller wrote it, turned out to lead. The kubelet chooses
    /// secrets for `busybox` as for `docker.io/library/busybox`, so when aliases or search registries make
    /// something else of a short name, its secrets were not meant for that.
    pub fn suit(&self, written: &str, reference: &Reference) -> bool {
        !self.server_address.is_empty() || !is_short(written) || reference.domain() == DEFAULT_DOMAIN
    }

    pub(crate) fn basic(&self) -> String {
        format!("Basic {}", STANDARD.encode(format!("{}:{}", self.username, self.password)))
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hidden = |secret: &str| if secret.is_empty() { "" } else { "<hidden>" };
        out.debug_struct("Credentials")
            .field("username", &self.username)
            .field("password", &hidden(&self.password))
            .field("identity_token", &hidden(&self.identity_token))
            .field("registry_token", &hidden(&self.registry_token))
            .field("server_address", &self.server_address)
            .finish()
    }
}

/// The host of a key or an address: scheme and path are dropped, and the three names of Docker's own
/// registry are one.
pub(crate) fn host_of(key: &str) -> &str {
    let plain = key.strip_prefix("https://").or_else(|| key.strip_prefix("http://")).unwrap_or(key);
    match plain.split('/').next().unwrap_or_default() {
        "index.docker.io" | "registry-1.docker.io" => "docker.io",
        host => host,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn auth_is_base64_of_user_and_password() {
        let check = |auth: &str, user: &str, password: &str| {
            let credentials = Credentials::from_auth(auth).unwrap();
            assert_eq!((credentials.username.as_str(), credentials.password.as_str()), (user, password));
        };
        check("dXNlcjpwYXNz", "user", "pass");
        check("dXNlcjpwYTpzcw==", "user", "pa:ss");
        check("dXNlcjpwYTpzcw", "user", "pa:ss");
        check("dXNlcjpwYXNzAAA=", "user", "pass");
        for bad in ["", "%%%", "dXNlcg==", "/////w=="] {
            assert_eq!(Credentials::from_auth(bad), Err(InvalidAuth), "{bad}");
        }
    }

    #[test]
    fn secrets_are_not_printed() {
        let credentials = Credentials {
            username: "user".to_owned(),
            password: "s3cret-1".to_owned(),
            identity_token: "s3cret-2".to_owned(),
            registry_token: "s3cret-3".to_owned(),
            server_address: "a.io".to_owned(),
        };
        let text = format!("{credentials:?} {credentials:#?}");
        assert!(!text.contains("s3cret") && text.contains("user"), "{text}");
    }

    #[test]
    fn secrets_for_a_short_name_are_for_docker_s_registry() {
        let check = |written: &str, address: &str, reference: &str, answer| {
            let credentials = Credentials { server_address: address.to_owned(), ..Credentials::default() };
            let reference = Reference::parse(reference).unwrap();
            assert_eq!(credentials.suit(written, &reference), answer, "{written} {address} {reference}");
        };
        check("busybox", "", "docker.io/library/busybox", true);
        check("busybox", "", "search.io/busybox", false);
        check("busybox", "search.io", "search.io/busybox", true);
        check("search.io/busybox", "", "search.io/busybox", true);
    }

    #[test]
    fn credentials_for_one_host_are_not_for_another() {
        let for_host =
            |address: &str| Credentials { server_address: address.to_owned(), ..Credentials::default() };
        for (address, host, answer) in [
            ("", "a.io", true),
            ("a.io", "a.io", true),
            ("https://a.io/v2/", "a.io", true),
            ("a.io:5000", "a.io", false),
            ("a.io", "a.io.evil.io", false),
            ("https://index.docker.io/v1/", "docker.io", true),
            ("docker.io", "registry-1.docker.io", true),
        ] {
            assert_eq!(for_host(address).are_for(&[host]), answer, "{address} for {host}");
        }
    }
}
