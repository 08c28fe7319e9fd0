//! Tokens against forged forms: bound to a user, good for one change and for half a day.
//!
//! A token is a random number, the time until which it holds, and an HMAC over both and the user's
//! name, so that handing out needs no memory. What was used is remembered until it is over.
//!
//! Must not know: HTTP, what is changed.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use aws_lc_rs::{hmac, rand};
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD as BASE64;

/// Makes and takes tokens.
pub(super) struct Tokens {
    key: hmac::Key,
    start: Instant,
    used: Mutex<HashMap<[u8; NONCE], u64>>,
}

/// Why a token is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refused {
    /// It was not made here, or for another user.
    #[error("the token is not yours: open the page again")]
    Forged,
    /// It was used before.
    #[error("the token was used before: open the page again")]
    Replayed,
    /// Its time is over.
    #[error("the token is too old: open the page again")]
    Expired,
    /// More was used than is remembered.
    #[error("too many changes by tokens: wait, or use application/json")]
    Full,
}

impl Tokens {
    /// With a key of its own, which dies with the daemon.
    ///
    /// # Errors
    /// When the system has no random numbers.
    pub(super) fn new() -> anyhow::Result<Self> {
        let key = hmac::Key::generate(hmac::HMAC_SHA256, &rand::SystemRandom::new())
            .map_err(|_| anyhow::anyhow!("the system gives no random numbers"))?;
        Ok(Self { key, start: Instant::now(), used: Mutex::default() })
    }

    /// A fresh token; `None` when the system has no random numbers.
    pub(super) fn issue(&self, user: &str, now: Instant) -> Option<String> {
        let mut nonce = [0; NONCE];
        rand::fill(&mut nonce).ok()?;
        let until = self.seconds(now) + LIFE.as_secs();
        let mut token = [nonce.as_slice(), &until.to_be_bytes()].concat();
        token.extend_from_slice(hmac::sign(&self.key, &signed(user, &nonce, until)).as_ref());
        Some(BASE64.encode(token))
    }

    /// Takes a token, which is used then.
    pub(super) fn take(&self, user: &str, token: &str, now: Instant) -> Result<(), Refused> {
        let bytes = BASE64.decode(token).map_err(|_| Refused::Forged)?;
        let (nonce, rest) = bytes.split_first_chunk::<NONCE>().ok_or(Refused::Forged)?;
        let (until, tag) = rest.split_first_chunk::<8>().ok_or(Refused::Forged)?;
        let until = u64::from_be_bytes(*until);
        let message = signed(user, nonce, until);
        hmac::verify(&self.key, &message, tag).map_err(|_| Refused::Forged)?;
        let now = self.seconds(now);
        if until <= now {
            return Err(Refused::Expired);
        }
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        if used.contains_key(nonce) {
            return Err(Refused::Replayed);
        }
        if used.len() >= MAX_USED {
            used.retain(|_, until| *until > now);
        }
        // Forgetting one early would let it be used again.
        if used.len() >= MAX_USED {
            return Err(Refused::Full);
        }
        used.insert(*nonce, until);
        Ok(())
    }

    fn seconds(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.start).as_secs()
    }
}

fn signed(user: &str, nonce: &[u8; NONCE], until: u64) -> Vec<u8> {
    [nonce.as_slice(), &until.to_be_bytes(), user.as_bytes()].concat()
}

const NONCE: usize = 16;
/// A page may be open for a working day; its script fetches a new one with every refresh.
const LIFE: Duration = Duration::from_secs(12 * 3600);
const MAX_USED: usize = 8192;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_good_once_for_its_user_and_time() {
        let tokens = Tokens::new().expect("tokens");
        let now = Instant::now();
        let token = tokens.issue("ada", now).expect("a token");
        assert!(token.len() >= 16);
        assert_eq!(tokens.take("eve", &token, now), Err(Refused::Forged));
        assert_eq!(tokens.take("ada", &token, now + LIFE), Err(Refused::Expired));
        assert_eq!(tokens.take("ada", &token, now), Ok(()));
        assert_eq!(tokens.take("ada", &token, now), Err(Refused::Replayed));
        for wrong in ["", "x", "AAAA", &token[1..], &format!("{token}AA"), &"A".repeat(74)] {
            assert_eq!(tokens.take("ada", wrong, now), Err(Refused::Forged), "{wrong}");
        }
        let other = Tokens::new().expect("tokens").issue("ada", now).expect("a token");
        assert_eq!(tokens.take("ada", &other, now), Err(Refused::Forged), "of another daemon");
    }

    #[test]
    fn used_tokens_are_remembered_within_bounds_and_never_forgotten_early() {
        let tokens = Tokens::new().expect("tokens");
        let now = Instant::now();
        let first = tokens.issue("ada", now).expect("a token");
        assert_eq!(tokens.take("ada", &first, now), Ok(()));
        for _ in 1..MAX_USED {
            let token = tokens.issue("ada", now).expect("a token");
            assert_eq!(tokens.take("ada", &token, now), Ok(()));
        }
        let one_more = tokens.issue("ada", now).expect("a token");
        assert_eq!(tokens.take("ada", &one_more, now), Err(Refused::Full));
        assert_eq!(tokens.take("ada", &first, now), Err(Refused::Replayed));
        let later = now + LIFE + Duration::from_secs(1);
        let fresh = tokens.issue("ada", later).expect("a token");
        assert_eq!(tokens.take("ada", &fresh, later), Ok(()), "what is over makes room");
    }
}
