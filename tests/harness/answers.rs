//! Who answered how often: what the labtool's clients count, and the checks on it.
//!
//! Must not know: how requests are made.

use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt;

/// Answers by the answering server's name, and failures.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answers {
    /// Requests that each server answered.
    pub by_name: BTreeMap<String, u64>,
    /// Requests without an answer.
    pub failed: u64,
    /// The first few distinct reasons.
    pub reasons: Vec<String>,
}

impl Answers {
    /// Reads `{"answers": {name: count}, "failed": n, "reasons": [..]}`.
    ///
    /// # Errors
    /// When a part is missing.
    pub fn from_json(value: &Value) -> Result<Self> {
        let map = value["answers"].as_object().context("no answers")?;
        let by_name = map.iter().map(|(name, n)| (name.clone(), n.as_u64().unwrap_or(0))).collect();
        let reasons = value["reasons"].as_array().into_iter().flatten();
        Ok(Self {
            by_name,
            failed: value["failed"].as_u64().context("no failed")?,
            reasons: reasons.filter_map(|reason| reason.as_str().map(String::from)).collect(),
        })
    }

    /// Answered requests.
    pub fn total(&self) -> u64 {
        self.by_name.values().sum()
    }

    /// What `name` answered.
    pub fn of(&self, name: &str) -> u64 {
        self.by_name.get(name).copied().unwrap_or(0)
    }

    /// Passes only if every named server answered exactly so often, nobody else did, and nothing
    /// failed.
    ///
    /// # Errors
    /// With both distributions.
    pub fn exactly(&self, expected: &[(&str, u64)]) -> Result<()> {
        let wanted: BTreeMap<String, u64> =
            expected.iter().map(|(name, n)| ((*name).to_string(), *n)).collect();
        if self.failed > 0 || self.by_name != wanted {
            bail!("expected {wanted:?} and no failure, got {self}");
        }
        Ok(())
    }

    /// Passes only if nothing failed and something was answered.
    ///
    /// # Errors
    /// With the reasons.
    pub fn unbroken(&self) -> Result<()> {
        if self.failed > 0 || self.total() == 0 {
            bail!("expected answers and no failure, got {self}");
        }
        Ok(())
    }
}

impl fmt::Display for Answers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}, {} failed", self.by_name, self.failed)?;
        if !self.reasons.is_empty() {
            write!(f, " ({})", self.reasons.join("; "))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn answers(rs1: u64, rs2: u64, failed: u64) -> Answers {
        let value = json!({"answers": {"rs1": rs1, "rs2": rs2}, "failed": failed, "reasons": []});
        Answers::from_json(&value).expect("it is complete")
    }

    #[test]
    fn an_exact_distribution_passes() {
        answers(50, 50, 0).exactly(&[("rs1", 50), ("rs2", 50)]).expect("it is exact");
    }

    #[test]
    fn one_request_too_many_anywhere_is_found() {
        assert!(answers(51, 49, 0).exactly(&[("rs1", 50), ("rs2", 50)]).is_err());
        assert!(answers(50, 50, 1).exactly(&[("rs1", 50), ("rs2", 50)]).is_err());
        assert!(answers(50, 50, 0).exactly(&[("rs1", 100)]).is_err());
    }

    #[test]
    fn a_run_without_answers_is_not_unbroken() {
        assert!(answers(0, 0, 0).unbroken().is_err());
        assert!(answers(1, 0, 1).unbroken().is_err());
        answers(1, 0, 0).unbroken().expect("one answer, no failure");
    }
}
