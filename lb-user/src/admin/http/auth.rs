//! Who asks: HTTP Basic (RFC 7617) against argon2id hashes.
//!
//! A verification costs tens of milliseconds and megabytes on purpose, so it runs on a blocking
//! thread, few at once, and what was found right is remembered for some minutes after its last use
//! under a keyed hash. An unknown user costs as much as a wrong password.
//!
//! Must not know: routes, what is asked.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use argon2::password_hash::{PasswordHash, PasswordVerifier as _};
use argon2::{Argon2, Params};
use aws_lc_rs::{hmac, rand};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use hyper::header::HeaderValue;
use tokio::sync::Semaphore;

use crate::admin::http::throttle::Throttle;
use crate::model::{Role, User};

/// Who was let in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    /// The user's name; empty when no users are configured.
    pub(super) name: String,
    /// What it may do.
    pub(super) role: Role,
}

/// Why somebody was not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Denied {
    /// No credentials, or none that are understood.
    Unknown,
    /// A wrong password, or no such user: the name that was given.
    Wrong(String),
    /// Too many of these: seconds to wait.
    Wait(u64),
    /// Too many others are being verified.
    Busy,
}

/// The users of one configuration.
pub(super) struct Users {
    list: Vec<User>,
    /// Verified against for unknown names.
    decoy: String,
    key: hmac::Key,
    /// What was found right: whose it is, until when; each use begins the time anew.
    known: Mutex<HashMap<[u8; 32], (usize, Instant)>>,
    verifying: Arc<Semaphore>,
}

impl Users {
    /// # Errors
    /// When the system has no random numbers.
    pub(super) fn new(list: Vec<User>) -> anyhow::Result<Self> {
        let key = hmac::Key::generate(hmac::HMAC_SHA256, &rand::SystemRandom::new())
            .map_err(|_| anyhow::anyhow!("the system gives no random numbers"))?;
        // As costly as the first user's, so that time tells nothing about which names exist.
        let params = list.first().map_or_else(Params::default, |user| {
            let hash = PasswordHash::new(&user.password_hash).ok();
            hash.and_then(|hash| Params::try_from(&hash).ok()).unwrap_or_default()
        });
        let (m, t, p) = (params.m_cost(), params.t_cost(), params.p_cost());
        let decoy = format!("$argon2id$v=19$m={m},t={t},p={p}${SALT}${NOBODYS}");
        let verifying = Arc::new(Semaphore::new(VERIFICATIONS));
        Ok(Self { list, decoy, key, known: Mutex::default(), verifying })
    }

    /// No users: everybody may look.
    pub(super) fn is_open(&self) -> bool {
        self.list.is_empty()
    }

    /// Who sends this `Authorization` from `source`.
    pub(super) async fn identify(
        &self,
        authorization: Option<&HeaderValue>,
        source: IpAddr,
        throttle: &Throttle,
    ) -> Result<Identity, Denied> {
        if self.is_open() {
            return Ok(Identity { name: String::new(), role: Role::ReadOnly });
        }
        let (name, password) = authorization.and_then(basic).ok_or(Denied::Unknown)?;
        let credentials = self.keyed(&name, &password);
        if let Some(user) = self.recall(&credentials, Instant::now()) {
            return Ok(identity(user));
        }
        let wait = throttle.wait(source, Instant::now());
        if !wait.is_zero() {
            return Err(Denied::Wait(wait.as_millis().div_ceil(1000) as u64));
        }
        let at = self.list.iter().position(|user| user.name == name);
        let hash = at.map_or(&self.decoy, |at| &self.list[at].password_hash).clone();
        let permit = Arc::clone(&self.verifying).acquire_owned();
        let permit = tokio::time::timeout(PATIENCE, permit).await;
        let Ok(Ok(permit)) = permit else { return Err(Denied::Busy) };
        if let Some(user) = self.recall(&credentials, Instant::now()) {
            return Ok(identity(user));
        }
        // Others may have guessed while this one waited.
        let wait = throttle.wait(source, Instant::now());
        if !wait.is_zero() {
            return Err(Denied::Wait(wait.as_millis().div_ceil(1000) as u64));
        }
        // Charged before it is known, so that hanging up meanwhile makes no guess free.
        throttle.failed(source, Instant::now());
        let verified = tokio::task::spawn_blocking(move || {
            let is_right = is_right(&password, &hash);
            drop(permit);
            is_right
        });
        match (verified.await, at) {
            (Ok(true), Some(at)) => {
                throttle.succeeded(source);
                self.remember(credentials, at, Instant::now());
                Ok(identity(&self.list[at]))
            }
            _ => Err(Denied::Wrong(name)),
        }
    }

    fn keyed(&self, name: &str, password: &str) -> [u8; 32] {
        // A name has no NUL, so no two pairs are one text.
        let text = [name.as_bytes(), b"\0", password.as_bytes()].concat();
        let mut keyed = [0; 32];
        keyed.copy_from_slice(hmac::sign(&self.key, &text).as_ref());
        keyed
    }

    fn recall(&self, credentials: &[u8; 32], now: Instant) -> Option<&User> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let (at, until) = known.get_mut(credentials).filter(|(_, until)| *until > now)?;
        *until = now + REMEMBERED;
        self.list.get(*at)
    }

    fn remember(&self, credentials: [u8; 32], at: usize, now: Instant) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|_, (_, until)| *until > now);
        // There is one right password for each user.
        known.insert(credentials, (at, now + REMEMBERED));
    }
}

fn identity(user: &User) -> Identity {
    Identity { name: user.name.clone(), role: user.role }
}

/// Name and password of RFC 7617.
fn basic(header: &HeaderValue) -> Option<(String, String)> {
    let (scheme, encoded) = header.to_str().ok()?.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let decoded = BASE64_STANDARD.decode(encoded.trim()).ok()?;
    let text = String::from_utf8(decoded).ok()?;
    let (name, password) = text.split_once(':')?;
    let is_plain = !text.contains(char::is_control);
    let is_short = name.len() <= MAX_NAME && password.len() <= MAX_PASSWORD;
    (is_plain && is_short).then(|| (name.to_owned(), password.to_owned()))
}

fn is_right(password: &str, hash: &str) -> bool {
    let hash = PasswordHash::new(hash);
    hash.is_ok_and(|hash| Argon2::default().verify_password(password.as_bytes(), &hash).is_ok())
}

/// Each takes a processor, and the memory that its hash names: forwarding and VRRP need the rest.
const VERIFICATIONS: usize = 1;
/// How long a login waits for others.
const PATIENCE: Duration = Duration::from_secs(3);
const REMEMBERED: Duration = Duration::from_secs(5 * 60);
const MAX_NAME: usize = 64;
const MAX_PASSWORD: usize = 512;
const SALT: &str = "c29tZXNhbHRzb21lc2FsdA";
/// 32 bytes of nothing: no password is known that has it.
const NOBODYS: &str = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A hash of little cost.
    pub(in crate::admin::http) fn hash(password: &str) -> String {
        use argon2::password_hash::{PasswordHasher as _, SaltString};
        let params = Params::new(64, 1, 1, None).expect("parameters");
        let salt = SaltString::from_b64(SALT).expect("a salt");
        let argon2 = Argon2::new(argon2::Algorithm::Argon2id, argon2::Version::V0x13, params);
        argon2.hash_password(password.as_bytes(), &salt).expect("a hash").to_string()
    }

    pub(in crate::admin::http) fn user(name: &str, password: &str, role: Role) -> User {
        User { name: name.to_owned(), password_hash: hash(password), role }
    }

    fn header(name: &str, password: &str) -> HeaderValue {
        let text = BASE64_STANDARD.encode(format!("{name}:{password}"));
        HeaderValue::from_str(&format!("Basic {text}")).expect("a header")
    }

    #[test]
    fn what_is_no_basic_authorization_is_nobodys() {
        let encode = |text: &[u8]| format!("Basic {}", BASE64_STANDARD.encode(text));
        let long = format!("a:{}", "x".repeat(MAX_PASSWORD + 1));
        for wrong in [
            "",
            "Basic",
            "Basic ",
            "Basic !!!",
            "Bearer YTpi",
            &encode(b"nocolon"),
            &encode(b"a:\xff"),
            &encode(b"a\n:b"),
            &encode(long.as_bytes()),
        ] {
            assert_eq!(basic(&HeaderValue::from_str(wrong).expect("a header")), None, "{wrong:?}");
        }
        let right = Some(("ada".to_owned(), "a:b".to_owned()));
        assert_eq!(basic(&header("ada", "a:b")), right);
        assert_eq!(basic(&HeaderValue::from_static("bAsIc YWRhOmE6Yg==")), right);
    }

    #[tokio::test(flavor = "current_thread")]
    async fn the_right_password_is_remembered_and_wrong_ones_are_slowed() {
        let users = vec![user("ada", "right", Role::Admin), user("bob", "other", Role::ReadOnly)];
        let users = Users::new(users).expect("users");
        let throttle = Throttle::default();
        let source: IpAddr = "192.0.2.1".parse().expect("an address");
        let ask = |name: &'static str, password: &'static str| {
            let (users, throttle) = (&users, &throttle);
            async move { users.identify(Some(&header(name, password)), source, throttle).await }
        };
        assert_eq!(users.identify(None, source, &throttle).await, Err(Denied::Unknown));
        let ada = Identity { name: "ada".to_owned(), role: Role::Admin };
        assert_eq!(ask("ada", "right").await, Ok(ada.clone()));
        assert_eq!(ask("bob", "right").await, Err(Denied::Wrong("bob".to_owned())));
        assert_eq!(ask("eve", "right").await, Err(Denied::Wrong("eve".to_owned())));
        for _ in 0..4 {
            assert_eq!(ask("bob", "guess").await, Err(Denied::Wrong("bob".to_owned())));
        }
        assert_eq!(ask("bob", "other").await, Err(Denied::Wait(1)), "even the right one");
        assert_eq!(ask("ada", "right").await, Ok(ada), "one that is known is let in");
        let credentials = users.keyed("ada", "right");
        assert!(users.recall(&credentials, Instant::now() + REMEMBERED).is_none());
    }

    /// The decoy must cost what a real hash costs, so it has to be a hash.
    #[test]
    fn an_unknown_user_is_verified_too() {
        let users = Users::new(vec![user("ada", "right", Role::Admin)]).expect("users");
        let decoy = PasswordHash::new(&users.decoy).expect("a hash");
        let params = Params::try_from(&decoy).expect("parameters");
        assert_eq!((params.m_cost(), params.t_cost(), params.p_cost()), (64, 1, 1));
        assert!(!is_right("right", &users.decoy));
    }
}
