//! The layer table: which module may name which.
//!
//! Each module stands on a floor and may name modules of lower floors, and its relatives (modules
//! under the same top-level module) on its own floor. A module that is not in the table is an
//! error: whoever adds one says where it stands.
//!
//! Must not know: what the modules do.

use super::mask::{modules, words};
use super::{File, Problem};

/// A crate's modules with their floors, the ground first.
struct Table {
    /// Folder of the sources.
    folder: &'static str,
    /// Module paths by floor.
    floors: &'static [&'static [&'static str]],
    /// Pairs that may name each other although they share a floor, with good reason.
    peers: &'static [(&'static str, &'static str)],
}

/// Every crate with layers.
const TABLES: [Table; 2] = [
    Table {
        folder: "lb-user/src/",
        floors: &[
            &["model"],
            &["sched", "metrics", "vrrp::priority", "vrrp::timing", "watchdog"],
            &["config"],
            &["exec", "logging", "trusted"],
            &["plan", "health::fsm", "health::report", "health::ways", "vrrp"],
            &[
                "dataplane",
                "failover",
                "firewall",
                "health",
                "health::probe",
                "health::runner",
                "netlink",
                "notify",
                "track",
            ],
            &["speaker"],
            &["controller", "real_server"],
            &["admin", "doctor"],
            &["cli"],
        ],
        peers: &[],
    },
    Table {
        folder: "lb-common/src/",
        floors: &[
            &["pod", "abi", "state"],
            &["csum", "verdict", "hash"],
            &["key"],
            &["wire"],
            &["access", "conn", "decap", "encap", "fragment", "rewrite", "service", "expire"],
            &["bare", "detour", "icmp", "sched", "table", "via"],
        ],
        peers: &[],
    },
];

/// Reports names of higher floors, and modules that are not in the table.
pub(super) fn check(file: &File, problems: &mut Vec<Problem>) {
    let Some((table, path)) =
        TABLES.iter().find_map(|table| Some((table, file.path.strip_prefix(table.folder)?)))
    else {
        return;
    };
    let own = module_of(path);
    if own.is_empty() {
        // lib.rs and main.rs hold the house together and may name everything.
        return;
    }
    let Some(own_key) = table.key(&own) else {
        let message = format!(
            "the module {} is not in the layer table: add it to xtask/src/tidy/layers.rs",
            own[0]
        );
        problems.push(file.problem(0, message));
        return;
    };
    for (at, target) in named(&file.code, &own) {
        match table.key(&target) {
            Some(key) if table.may_name(own_key, key) => {}
            Some(key) => {
                let message =
                    format!("{own_key} may not name {key}, which is not on a lower floor");
                problems.push(file.problem(at, message));
            }
            None if target.is_empty() || is_macro(&file.code, at) => {}
            None => {
                let message = format!(
                    "{own_key} names crate::{}, which is no module of the layer table",
                    target[0]
                );
                problems.push(file.problem(at, message));
            }
        }
    }
}

impl Table {
    /// The longest entry of the table that is a prefix of `path`.
    fn key(&self, path: &[String]) -> Option<&'static str> {
        let matches = |key: &str| {
            let mut parts = key.split("::").enumerate();
            parts.all(|(at, part)| path.get(at).is_some_and(|own| own == part))
        };
        self.floors
            .iter()
            .flat_map(|floor| floor.iter())
            .copied()
            .filter(|key| matches(key))
            .max_by_key(|key| key.len())
    }

    fn may_name(&self, own: &str, target: &str) -> bool {
        let floor = |key| self.floors.iter().position(|floor| floor.contains(&key));
        let top = |key: &str| key.split("::").next().map(str::to_owned);
        let peers = self.peers.iter().any(|pair| *pair == (own, target) || *pair == (target, own));
        peers
            || floor(target) < floor(own)
            || (floor(target) == floor(own) && top(own) == top(target))
    }
}

/// The module path of a source file; empty for the crate's root.
fn module_of(path: &str) -> Vec<String> {
    let mut parts: Vec<String> =
        path.trim_end_matches(".rs").split('/').map(str::to_owned).collect();
    if parts.last().is_some_and(|last| last == "mod") || matches!(path, "lib.rs" | "main.rs") {
        parts.pop();
    }
    parts
}

/// Every path that masked code names from the crate's root, through `crate::` or `super::`,
/// groups taken apart: place and segments.
fn named(code: &str, own: &[String]) -> Vec<(usize, Vec<String>)> {
    let mut paths = Vec::new();
    for at in words(code, "crate") {
        // `$crate` names a crate from a macro; `pub(in crate::x)` names no item.
        if code[at + 5..].starts_with("::")
            && !code[..at].ends_with('$')
            && !code[..at].ends_with("(in ")
        {
            expand(&code[at + 7..], Vec::new(), at, &mut paths);
        }
    }
    for at in words(code, "super") {
        if !code[at + 5..].starts_with("::") || code[..at].ends_with("super::") {
            continue;
        }
        let ups = code[at..].split("::").take_while(|part| *part == "super").count();
        let inside =
            modules(code).iter().filter(|(_, open, end)| (*open..*end).contains(&at)).count();
        let depth = own.len().saturating_sub(ups.saturating_sub(inside));
        if ups > inside {
            expand(&code[at + 7 * ups..], own[..depth].to_vec(), at, &mut paths);
        }
    }
    paths
}

/// Reads a use tree after its `::` and adds its leaves to `paths`; returns what follows it.
fn expand<'a>(
    text: &'a str,
    prefix: Vec<String>,
    at: usize,
    paths: &mut Vec<(usize, Vec<String>)>,
) -> &'a str {
    let text = text.trim_start();
    if let Some(mut rest) = text.strip_prefix('{') {
        loop {
            rest = rest.trim_start_matches(|c: char| c.is_whitespace() || c == ',');
            if rest.is_empty() || rest.starts_with('}') {
                return rest.strip_prefix('}').unwrap_or(rest);
            }
            let after = expand(rest, prefix.clone(), at, paths);
            // `as name` behind a leaf, and anything that is no use tree, is skipped.
            rest = after.trim_start_matches(|c: char| !matches!(c, ',' | '}'));
        }
    }
    let end = text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len());
    let (name, rest) = text.split_at(end);
    let mut path = prefix;
    if !name.is_empty() && name != "self" {
        path.push(name.to_owned());
    }
    match rest.strip_prefix("::") {
        Some(rest) if !name.is_empty() => expand(rest, path, at, paths),
        _ => {
            paths.push((at, path));
            rest
        }
    }
}

/// Whether the path at `at` calls a macro, which has no module.
fn is_macro(code: &str, at: usize) -> bool {
    let end = code[at..].find(|c: char| !c.is_alphanumeric() && c != '_' && c != ':');
    end.is_some_and(|end| code[at + end..].starts_with('!'))
}

#[cfg(test)]
mod tests {
    use super::super::tests::said;

    #[track_caller]
    fn check(path: &str, body: &str, expected: &[&str]) {
        assert_eq!(said(path, body), expected);
    }

    #[test]
    fn a_lower_floor_may_not_name_a_higher_one() {
        check(
            "lb-user/src/model.rs",
            "use crate::config::raw;\n",
            &["4: model may not name config, which is not on a lower floor"],
        );
        check("lb-user/src/cli/mod.rs", "use crate::config::raw;\n", &[]);
    }

    #[test]
    fn neighbours_on_a_floor_may_not_name_each_other() {
        check(
            "lb-user/src/sched/ring.rs",
            "fn f() { crate::config::load() }\n",
            &["4: sched may not name config, which is not on a lower floor"],
        );
    }

    #[test]
    fn groups_are_taken_apart() {
        check(
            "lb-user/src/plan/mod.rs",
            "use crate::{\n    model::{self, RealServer as Server},\n    admin::{Request},\n    config,\n};\n",
            &["4: plan may not name admin, which is not on a lower floor"],
        );
        check(
            "lb-user/src/health/fsm.rs",
            "use crate::health::{report::Outcome, probe::{self, tcp}};\n",
            &["4: health::fsm may not name health::probe, which is not on a lower floor"; 2],
        );
    }

    #[test]
    fn relatives_on_a_floor_may_name_each_other() {
        check("lb-user/src/health/report.rs", "use crate::health::fsm::HealthEvent;\n", &[]);
        check(
            "lb-user/src/config/raw/cursor.rs",
            "use super::super::units;\nuse super::At;\n",
            &[],
        );
    }

    #[test]
    fn super_is_followed_and_inline_modules_counted() {
        check(
            "lb-user/src/health/fsm.rs",
            "use super::probe::tcp;\nmod tests {\n    use super::*;\n    use super::super::runner;\n}\n",
            &[
                "4: health::fsm may not name health::probe, which is not on a lower floor",
                "7: health::fsm may not name health::runner, which is not on a lower floor",
            ],
        );
    }

    #[test]
    fn an_unknown_module_is_reported() {
        check(
            "lb-user/src/l7/mod.rs",
            "",
            &["1: the module l7 is not in the layer table: add it to xtask/src/tidy/layers.rs"],
        );
        check(
            "lb-user/src/plan/mod.rs",
            "use crate::utils::x;\n",
            &["4: plan names crate::utils, which is no module of the layer table"],
        );
    }

    #[test]
    fn the_shared_crate_has_floors_too() {
        check(
            "lb-common/src/csum.rs",
            "use crate::rewrite::x;\npub(in crate::csum) fn f() { crate::pod! {} }\nuse crate::pod;\n",
            &["4: csum may not name rewrite, which is not on a lower floor"],
        );
        check("lb-common/src/conn.rs", "use crate::wire::Link;\n", &[]);
    }

    #[test]
    fn the_root_names_everything_and_comments_name_nothing() {
        check("lb-user/src/lib.rs", "pub use crate::cli::run;\n", &[]);
        check("lb-user/src/model.rs", "// use crate::cli;\n/// [`crate::cli`]\nstruct A;\n", &[]);
    }
}
