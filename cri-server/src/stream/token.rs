//! One-use tokens: what a URL stands for until its client comes.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::Full;

/// A client that was given a URL comes at once; this is what the kubelet's own server allows.
const LIFETIME: Duration = Duration::from_secs(60);
/// URLs that may wait for their client, as with the kubelet's own server.
const WAITING_MAX: usize = 1000;
/// Nobody guesses that many.
const TOKEN_BYTES: usize = 16;

/// What waits for a client, by token.
#[derive(Debug)]
pub(super) struct Tokens<T> {
    waiting: Mutex<HashMap<String, (Instant, T)>>,
}

impl<T> Tokens<T> {
    pub(super) fn new() -> Tokens<T> {
        Tokens { waiting: Mutex::new(HashMap::new()) }
    }

    /// A token for this, for one use within a minute of `now`.
    pub(super) fn give(&self, value: T, now: Instant) -> Result<String, Full> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.retain(|_, (since, _)| fresh(*since, now));
        if waiting.len() >= WAITING_MAX {
            return Err(Full);
        }
        let token = random();
        waiting.insert(token.clone(), (now, value));
        Ok(token)
    }

    /// What the token stands for, the first time.
    pub(super) fn take(&self, token: &str, now: Instant) -> Option<T> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let (since, value) = waiting.remove(token)?;
        fresh(since, now).then_some(value)
    }
}

fn fresh(since: Instant, now: Instant) -> bool {
    now.duration_since(since) < LIFETIME
}

fn random() -> String {
    let mut bytes = [0; TOKEN_BYTES];
    let mut filled = 0;
    while filled < bytes.len() {
        // It cannot fail for so few bytes; a signal may come between (getrandom(2)).
        filled +=
            rustix::rand::getrandom(&mut bytes[filled..], rustix::rand::GetRandomFlags::empty()).unwrap_or(0);
    }
    URL_SAFE_NO_PAD.encode(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_good_once() {
        let (tokens, now) = (Tokens::new(), Instant::now());
        let token = tokens.give(7, now).unwrap();
        assert_eq!(tokens.take("other", now), None);
        assert_eq!(tokens.take(&token, now), Some(7));
        assert_eq!(tokens.take(&token, now), None);
    }

    #[test]
    fn a_token_is_good_for_a_minute() {
        let (tokens, now) = (Tokens::new(), Instant::now());
        let (first, second) = (tokens.give(1, now).unwrap(), tokens.give(2, now).unwrap());
        assert_eq!(tokens.take(&first, now + Duration::from_secs(59)), Some(1));
        assert_eq!(tokens.take(&second, now + LIFETIME), None);
    }

    #[test]
    fn a_thousand_wait_and_no_more() {
        let (tokens, now) = (Tokens::new(), Instant::now());
        for n in 0..WAITING_MAX {
            tokens.give(n, now).unwrap();
        }
        assert!(tokens.give(0, now).is_err());
        assert!(tokens.give(0, now + LIFETIME).is_ok(), "old ones make room");
    }
}
