//! The way of a packet through the chains, and who drops it on that way.
//!
//! A rule is named when it drops what gets as far as it; `perhaps` before it says that this depends
//! on something that a listing does not tell, such as a limit or a match of iptables. A rule behind
//! one that drops perhaps is still certain: what the first one lets through, the second one drops.
//! An accept ends a base chain only; the next one on the way sees the packet again. A drop ends
//! everything, so what comes after a certain one is not named.
//!
//! Must not know: how rules are listed, what is done with the findings.

use serde_json::Value as Json;

use super::compare::{Tri, equals, matches};
use super::packet::{Packet, Place, Value};
use super::ruleset::{Base, Rule, Ruleset, Unreadable};
use super::text;

/// Every rule and policy of a listing, the output of `nft -j -a list ruleset`, that drops the
/// packet: lines like `inet filter input: handle 7: ip protocol vrrp drop`, in the order of its
/// way.
pub fn judge(listing: &str, packet: &Packet) -> Result<Vec<String>, Unreadable> {
    let ruleset = Ruleset::read(listing)?;
    let mut walk = Walk { ruleset: &ruleset, packet, found: Vec::new(), over: false, rules: 0 };
    let mut bases: Vec<(usize, &Base)> =
        ruleset.bases.iter().filter_map(|base| Some((stage(base, packet)?, base))).collect();
    // Those of equal priority are called in the order in which they were made.
    bases.sort_by_key(|(stage, base)| (*stage, base.priority));
    for (stage, base) in bases {
        walk.base(stage, base);
    }
    Ok(walk.found)
}

/// Which of the hooks on the way a chain hangs on; `None` if the packet does not meet it.
///
/// Adverts are heard by a packet socket on the interface itself, so what happens below it, in a
/// bridge, is not in question.
fn stage(base: &Base, packet: &Packet) -> Option<usize> {
    let is_own_family = match base.family.as_str() {
        "ip" => packet.is_v4(),
        "ip6" => !packet.is_v4(),
        "inet" => true,
        "netdev" => base.hook == "ingress",
        _ => false,
    };
    let is_elsewhere = !base.devices.is_empty() && !base.devices.contains(&packet.interface);
    if !is_own_family || (base.hook == "ingress" && is_elsewhere) {
        return None;
    }
    HOOKS.iter().position(|hook| *hook == base.hook)
}

/// What a rule does with what it matches.
enum Verdict<'a> {
    Accept,
    Drop,
    Return,
    Jump(&'a str),
    Goto(&'a str),
    /// It leads the packet elsewhere, where it may get lost.
    Divert,
}

/// What became of a packet in a chain.
#[derive(Clone, Copy, Default)]
struct Flow {
    /// It may come back from there.
    back: bool,
    /// It may have been accepted there.
    accepted: bool,
}

/// What is said of chains that the kernel would not load.
const ANYTHING: Flow = Flow { back: true, accepted: true };

/// One packet on its way.
struct Walk<'a> {
    ruleset: &'a Ruleset,
    packet: &'a Packet,
    found: Vec<String>,
    /// It was dropped for certain.
    over: bool,
    /// Rules that were looked at.
    rules: usize,
}

/// A chain on the way.
#[derive(Clone, Copy)]
struct Chain<'a> {
    base: &'a Base,
    name: &'a str,
    place: Place,
    /// How many jumps led here.
    depth: usize,
    /// Whether it is certain that what was not dropped yet gets here.
    reached: Tri,
}

impl<'a> Walk<'a> {
    fn base(&mut self, stage: usize, base: &'a Base) {
        if self.over {
            return;
        }
        let is_early = stage == 0 || (stage == 1 && base.priority < CONNTRACK);
        let place = if is_early { Place::Early } else { Place::Tracked };
        // A nat chain sees the first packet of a connection only.
        let is_known = (base.hook != "ingress" || !base.devices.is_empty()) && base.kind != "nat";
        let reached = if is_known { Tri::Yes } else { Tri::Perhaps };
        let flow = self.chain(Chain { base, name: &base.name, place, depth: 0, reached });
        if flow.back && base.drops {
            let certain = if flow.accepted { Tri::Perhaps } else { reached };
            self.report(base, &base.name, "policy drop", certain);
        }
    }

    /// Goes through the rules of a chain.
    fn chain(&mut self, chain: Chain<'a>) -> Flow {
        let mut flow = Flow::default();
        // Whether what came into the chain and was not dropped is still here.
        let mut here = Tri::Yes;
        for rule in self.ruleset.rules(chain.base, chain.name) {
            if self.rules > RULES {
                return ANYTHING;
            }
            for (matched, verdict) in self.verdicts(chain, rule) {
                let certain = chain.reached.and(here).and(matched);
                let mut goes_on = matched != Tri::Yes;
                match verdict {
                    Verdict::Drop => self.drop(chain, rule, certain),
                    Verdict::Divert => {
                        self.drop(chain, rule, Tri::Perhaps);
                        flow.accepted = true;
                    }
                    Verdict::Accept => flow.accepted = true,
                    Verdict::Return => flow.back = true,
                    Verdict::Jump(name) => {
                        let inner = self.call(chain, name, certain);
                        flow.accepted |= inner.accepted;
                        goes_on |= inner.back;
                    }
                    Verdict::Goto(name) => {
                        let inner = self.call(chain, name, certain);
                        flow.accepted |= inner.accepted;
                        flow.back |= inner.back;
                    }
                }
                if !goes_on || self.over {
                    return flow;
                }
                if flow.accepted || flow.back {
                    here = Tri::Perhaps;
                }
            }
        }
        flow.back = true;
        flow
    }

    fn call(&mut self, from: Chain<'a>, name: &'a str, reached: Tri) -> Flow {
        if from.depth >= JUMPS {
            return ANYTHING;
        }
        self.chain(Chain { name, depth: from.depth + 1, reached, ..from })
    }

    fn drop(&mut self, chain: Chain<'a>, rule: &Rule, certain: Tri) {
        let text = format!("handle {}: {}", rule.handle, text::rule(rule));
        self.report(chain.base, chain.name, &text, certain);
    }

    fn report(&mut self, base: &Base, chain: &str, what: &str, certain: Tri) {
        let perhaps = if certain == Tri::Yes { "" } else { "perhaps " };
        let place = text::plain(&format!("{} {} {chain}", base.family, base.table));
        let line = format!("{perhaps}{place}: {what}");
        // A chain that is jumped to twice is one place to look at.
        if !self.found.contains(&line) && self.found.len() < FINDINGS {
            self.found.push(line);
        }
        self.over |= certain == Tri::Yes;
    }

    /// What a rule may do with the packet, and how certain it is that it comes to that.
    fn verdicts(&mut self, chain: Chain<'a>, rule: &'a Rule) -> Vec<(Tri, Verdict<'a>)> {
        self.rules += 1;
        let mut matched = Tri::Yes;
        for statement in &rule.statements {
            let Some((kind, what)) = statement.as_object().and_then(|s| s.iter().next()) else {
                // `notrack` and the like were plain words in early versions.
                continue;
            };
            let step = self.statement(chain, kind, what);
            match step {
                Step::On(so) => matched = matched.and(so),
                Step::Verdict(verdict) => return vec![(matched, verdict)],
                Step::Perhaps(verdict) => return vec![(Tri::Perhaps, verdict)],
                Step::Map(entries) => {
                    return entries.into_iter().map(|(so, v)| (so.and(matched), v)).collect();
                }
            }
            if matched == Tri::No {
                return Vec::new();
            }
        }
        if rule.statements.last().is_some_and(|last| last.get("xt").is_some_and(Json::is_null)) {
            // Some target of iptables that this version of nft cannot name.
            return vec![(Tri::Perhaps, Verdict::Drop)];
        }
        Vec::new()
    }

    fn statement(&self, chain: Chain<'a>, kind: &str, what: &'a Json) -> Step<'a> {
        if let Some(verdict) = verdict(kind, what) {
            return Step::Verdict(verdict);
        }
        let sets = |name: &str| self.ruleset.elements(chain.base, name);
        let read = |key: &str| {
            what.get(key).map_or(Value::Unknown, |key| self.packet.read(key, chain.place))
        };
        Step::On(match kind {
            "match" => {
                let operator = what.get("op").and_then(Json::as_str).unwrap_or_default();
                let right = what.get("right").unwrap_or(&Json::Null);
                matches(&read("left"), operator, right, &sets)
            }
            "vmap" => return Step::Map(self.map(chain, what)),
            "xt" => return xt(what),
            "set" if read("elem") == Value::Absent => Tri::No,
            "meter" if read("key") == Value::Absent => Tri::No,
            "mangle" if read("key") == Value::Absent => Tri::No,
            "set" if what.get("stmt").is_none() => Tri::Yes,
            _ if EFFECTS.contains(&kind) => Tri::Yes,
            _ => Tri::Perhaps,
        })
    }

    fn map(&self, chain: Chain<'a>, what: &'a Json) -> Vec<(Tri, Verdict<'a>)> {
        let Some(key) = what.get("key") else { return Vec::new() };
        let value = self.packet.read(key, chain.place);
        let data = what.get("data").unwrap_or(&Json::Null);
        let named = data.as_str().and_then(|name| name.strip_prefix('@'));
        let entries = match named {
            Some(name) => self.ruleset.elements(chain.base, name),
            None => data.get("set").and_then(Json::as_array).map(Vec::as_slice),
        };
        let sets = |name: &str| self.ruleset.elements(chain.base, name);
        let (mut verdicts, mut others) = (Vec::new(), None);
        for entry in entries.unwrap_or_default() {
            let Some([key, data]) = entry.as_array().map(Vec::as_slice) else { continue };
            let of = data.as_object().and_then(|data| data.iter().next());
            let Some(verdict) = of.and_then(|(kind, what)| verdict(kind, what)) else { continue };
            if key == "*" {
                others = Some(verdict);
                continue;
            }
            match equals(&value, key, &sets) {
                Tri::Yes => return vec![(Tri::Yes, verdict)],
                Tri::Perhaps => verdicts.push((Tri::Perhaps, verdict)),
                Tri::No => {}
            }
        }
        if value != Value::Absent {
            // What perhaps had no other entry ends here for certain.
            verdicts.extend(others.map(|verdict| (Tri::Yes, verdict)));
        }
        verdicts
    }
}

/// What comes of a statement.
enum Step<'a> {
    /// Whether it goes on with the next one.
    On(Tri),
    Verdict(Verdict<'a>),
    /// A verdict that is not understood well enough.
    Perhaps(Verdict<'a>),
    Map(Vec<(Tri, Verdict<'a>)>),
}

fn verdict<'a>(kind: &str, what: &'a Json) -> Option<Verdict<'a>> {
    let target = || what.get("target").and_then(Json::as_str).unwrap_or_default();
    Some(match kind {
        "accept" => Verdict::Accept,
        // What is forwarded from the ingress hook does not come in.
        "drop" | "reject" | "fwd" => Verdict::Drop,
        "return" => Verdict::Return,
        "jump" => Verdict::Jump(target()),
        "goto" => Verdict::Goto(target()),
        "queue" | "dnat" | "redirect" | "tproxy" | "synproxy" => Verdict::Divert,
        _ => return None,
    })
}

/// A match or target of iptables, of which a listing has the name only.
fn xt<'a>(what: &Json) -> Step<'a> {
    let text = |key: &str| what.get(key).and_then(Json::as_str).unwrap_or_default();
    match (text("type"), text("name")) {
        ("target", "DROP" | "REJECT") => Step::Verdict(Verdict::Drop),
        ("target", name) if TARGETS.contains(&name) => Step::On(Tri::Yes),
        ("target", _) => Step::Perhaps(Verdict::Divert),
        ("match", "comment") => Step::On(Tri::Yes),
        _ => Step::On(Tri::Perhaps),
    }
}

/// The hooks on the way to a local socket.
const HOOKS: [&str; 3] = ["ingress", "prerouting", "input"];

/// The priority of conntrack at prerouting.
const CONNTRACK: i64 = -200;

/// The kernel's limit of jumps within jumps.
const JUMPS: usize = 16;

/// No more rules are looked at than this: chains that jump to each other could take for ever.
const RULES: usize = 1_000_000;

/// No more lines than this: there are people to read them.
const FINDINGS: usize = 16;

/// Statements that do something and go on.
const EFFECTS: [&str; 15] = [
    "counter",
    "log",
    "notrack",
    "mangle",
    "dup",
    "flow",
    "last",
    "comment",
    "secmark",
    "ct helper",
    "ct timeout",
    "ct expectation",
    "continue",
    "snat",
    "masquerade",
];

/// Targets of iptables that let a packet go on.
const TARGETS: [&str; 24] = [
    "AUDIT",
    "CHECKSUM",
    "CLASSIFY",
    "CONNMARK",
    "CONNSECMARK",
    "CT",
    "DSCP",
    "HL",
    "HMARK",
    "IDLETIMER",
    "LED",
    "LOG",
    "MARK",
    "MASQUERADE",
    "NFLOG",
    "NOTRACK",
    "RATEEST",
    "SECMARK",
    "SET",
    "SNAT",
    "TCPMSS",
    "TEE",
    "TOS",
    "TTL",
];
