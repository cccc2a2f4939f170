//! Credentials: what the kubelet or the node's files say, and how it is kept from sight.

use std::fmt;

/// What a caller may show a registry. The kubelet's AuthConfig, in our words.
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
