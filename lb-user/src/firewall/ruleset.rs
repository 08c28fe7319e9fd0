//! What `nft -j list ruleset` says, by chain.
//!
//! What is not understood is left out: a chain without rules lets everything pass, so nothing is
//! accused for it.
//!
//! Must not know: packets, what rules mean.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use serde_json::Value as Json;
use thiserror::Error;

/// The output is no list of rules.
#[derive(Debug, Error)]
pub enum Unreadable {
    /// There is no JSON in it.
    #[error("it holds no JSON")]
    NoJson,
    /// It is no JSON, or it was cut off.
    #[error("{0}")]
    Json(#[from] serde_json::Error),
    /// There is no array `nftables`.
    #[error("it holds no array \"nftables\"")]
    NoRuleset,
}

/// Family, table, and the name of a chain or set.
type Name = (String, String, String);

/// A listing, sorted.
#[derive(Debug, Default)]
pub(super) struct Ruleset {
    /// Chains that hang on a hook, in the order of the listing.
    pub(super) bases: Vec<Base>,
    rules: BTreeMap<Name, Vec<Rule>>,
    sets: BTreeMap<Name, Vec<Json>>,
}

/// A chain that hangs on a hook.
#[derive(Debug)]
pub(super) struct Base {
    /// `ip`, `inet` and so on.
    pub(super) family: String,
    pub(super) table: String,
    pub(super) name: String,
    /// `filter`, `nat` or `route`.
    pub(super) kind: String,
    pub(super) hook: String,
    /// Lower ones come first.
    pub(super) priority: i64,
    /// Whether what comes to its end is dropped.
    pub(super) drops: bool,
    /// The interfaces of an ingress hook; empty if the listing does not say them.
    pub(super) devices: Vec<String>,
}

/// A rule.
#[derive(Debug)]
pub(super) struct Rule {
    pub(super) handle: u64,
    pub(super) statements: Vec<Json>,
    pub(super) comment: Option<String>,
}

impl Ruleset {
    /// Reads what `nft` wrote, which may begin with warnings.
    pub(super) fn read(listing: &str) -> Result<Self, Unreadable> {
        let begin = listing.find('{').ok_or(Unreadable::NoJson)?;
        let mut reader = serde_json::Deserializer::from_str(&listing[begin..]);
        let whole = Json::deserialize(&mut reader)?;
        let objects =
            whole.get("nftables").and_then(Json::as_array).ok_or(Unreadable::NoRuleset)?;
        let mut ruleset = Self::default();
        let mut dormant = BTreeSet::new();
        for object in objects {
            let Some((kind, what)) = object.as_object().and_then(|o| o.iter().next()) else {
                continue;
            };
            match kind.as_str() {
                "table" if strings(what, "flags").iter().any(|flag| flag == "dormant") => {
                    dormant.insert((text(what, "family"), text(what, "name")));
                }
                "chain" if what.get("hook").is_some() => ruleset.bases.push(base(what)),
                "rule" => {
                    let rules = ruleset.rules.entry(name(what, "chain")).or_default();
                    rules.push(rule(what));
                }
                "set" | "map" => {
                    // An empty one has no "elem".
                    let elements = what.get("elem").and_then(Json::as_array).cloned();
                    ruleset.sets.insert(name(what, "name"), elements.unwrap_or_default());
                }
                _ => {}
            }
        }
        ruleset.bases.retain(|base| !dormant.contains(&(base.family.clone(), base.table.clone())));
        Ok(ruleset)
    }

    /// The rules of a chain in the table of `base`.
    pub(super) fn rules(&self, base: &Base, chain: &str) -> &[Rule] {
        self.rules.get(&base.own(chain)).map(Vec::as_slice).unwrap_or_default()
    }

    /// The elements of a set or map in the table of `base`.
    pub(super) fn elements(&self, base: &Base, set: &str) -> Option<&[Json]> {
        self.sets.get(&base.own(set)).map(Vec::as_slice)
    }
}

impl Base {
    fn own(&self, name: &str) -> Name {
        (self.family.clone(), self.table.clone(), name.to_owned())
    }
}

fn base(what: &Json) -> Base {
    Base {
        family: text(what, "family"),
        table: text(what, "table"),
        name: text(what, "name"),
        kind: text(what, "type"),
        hook: text(what, "hook"),
        priority: what.get("prio").and_then(Json::as_i64).unwrap_or_default(),
        drops: text(what, "policy") == "drop",
        devices: strings(what, "dev"),
    }
}

fn rule(what: &Json) -> Rule {
    Rule {
        handle: what.get("handle").and_then(Json::as_u64).unwrap_or_default(),
        statements: what.get("expr").and_then(Json::as_array).cloned().unwrap_or_default(),
        comment: what.get("comment").and_then(Json::as_str).map(str::to_owned),
    }
}

fn name(what: &Json, key: &str) -> Name {
    (text(what, "family"), text(what, "table"), text(what, key))
}

fn text(what: &Json, key: &str) -> String {
    what.get(key).and_then(Json::as_str).unwrap_or_default().to_owned()
}

/// A string, or a list of them.
fn strings(what: &Json, key: &str) -> Vec<String> {
    let found = what.get(key);
    let list = found.and_then(Json::as_array).map(Vec::as_slice);
    let list = list.or(found.map(std::slice::from_ref)).unwrap_or_default();
    list.iter().filter_map(Json::as_str).map(str::to_owned).collect()
}
