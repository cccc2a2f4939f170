//! Opens the keys of a pull's encrypted layers, before anything is fetched.

use super::{Pulls, blocking};
use crate::encryption::Keys;
use crate::error::Error;
use crate::manifest::Descriptor;
use crate::unpack::decrypt::Cipher;

impl Pulls {
    /// What decrypts each layer: `encrypted` has the descriptor of those that are encrypted.
    pub(crate) async fn ciphers(
        &self,
        encrypted: impl Iterator<Item = Option<&Descriptor>>,
    ) -> Result<Vec<Option<Cipher>>, Error> {
        let encrypted: Vec<Option<Descriptor>> = encrypted.map(Option::<&Descriptor>::cloned).collect();
        if encrypted.iter().all(Option::is_none) {
            return Ok(vec![None; encrypted.len()]);
        }
        let dir = self.decryption_keys_path.clone();
        blocking(move || {
            let keys = Keys::load(&dir).map_err(|why| Error::invalid("an encrypted layer", why))?;
            let open = |layer: &Option<Descriptor>| match layer {
                Some(layer) => keys
                    .open(layer)
                    .map(Some)
                    .map_err(|why| Error::invalid(format!("layer {}", layer.digest), why)),
                None => Ok(None),
            };
            encrypted.iter().map(open).collect()
        })
        .await
    }
}
