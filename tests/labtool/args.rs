//! `--key value` arguments; a key may be given more than once.
//!
//! Must not know: which keys a command has.

use anyhow::{Context, Result, bail};
use std::str::FromStr;
use std::time::Duration;

/// The arguments of one command.
pub(crate) struct Args(Vec<(String, String)>);

impl Args {
    pub(crate) fn parse(mut words: impl Iterator<Item = String>) -> Result<Self> {
        let mut pairs = Vec::new();
        while let Some(key) = words.next() {
            let Some(key) = key.strip_prefix("--") else { bail!("{key:?} is no --key") };
            let value = words.next().with_context(|| format!("--{key} needs a value"))?;
            pairs.push((key.to_string(), value));
        }
        Ok(Self(pairs))
    }

    /// Every value of `key`.
    pub(crate) fn all<'a>(&'a self, key: &str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(name, _)| name == key).map(|(_, value)| value.as_str())
    }

    /// The value of `key`.
    pub(crate) fn text(&self, key: &str) -> Result<&str> {
        self.all(key).next().with_context(|| format!("--{key} is missing"))
    }

    /// The value of `key`, or `default`.
    pub(crate) fn value<T: FromStr>(&self, key: &str, default: T) -> Result<T> {
        let Some(text) = self.all(key).next() else { return Ok(default) };
        text.parse().ok().with_context(|| format!("--{key} {text:?} cannot be read"))
    }

    /// Whether `--key yes` is given.
    pub(crate) fn is_set(&self, key: &str) -> bool {
        self.all(key).any(|value| value == "yes")
    }

    /// A duration in milliseconds.
    pub(crate) fn millis(&self, key: &str, default: u64) -> Result<Duration> {
        Ok(Duration::from_millis(self.value(key, default)?))
    }
}
