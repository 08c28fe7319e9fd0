//! What is wrong with how the addresses of one pair move: from what was seen to findings that say
//! the arithmetic and the remedy.
//!
//! Must not know: how elections are run.

use super::failure::{self, Failure, What};
use super::pairs::Pair;
use super::report::{self, Finding, Kind};
use super::{Owner, Owners, Scene, Seen};
use crate::vrrp::priority::{OWNER, Part, Tracked, effective};

/// Everything to be said of how one pair's addresses move. The first start is that of both nodes,
/// each further one a state in which the other node has taken over and keeps the addresses.
pub(super) fn of(scene: &Scene<'_>, pair: usize, starts: &[Seen<'_>]) -> Vec<Finding> {
    let judge = Judge { scene, pair, of: &scene.pairs[pair] };
    let mut findings = judge.deafness();
    let Some((start, later)) = starts.split_first() else { return findings };
    if judge.of.both().is_none() || !findings.is_empty() {
        return findings;
    }
    let masters = match start.owner {
        Owner::Node(node) => vec![node],
        Owner::Tie => vec![0, 1],
        Owner::Both | Owner::Nobody => {
            let owner = report::owner(scene, start.owner);
            findings.push(judge.error(format!("with nothing wrong, {owner} owns the addresses")));
            return findings;
        }
    };
    findings.extend(judge.tie(start.owner));
    findings.extend(judge.against_priority(start.owner));
    for (failure, owners) in &start.cases {
        if masters.contains(&failure.node) {
            findings.extend(judge.of_master(failure, *owners));
        } else if owners.after != start.owner {
            findings.push(judge.odd(failure, owners.after));
        }
    }
    for seen in later {
        let Owner::Node(master) = seen.owner else { continue };
        findings.push(judge.stays(1 - master));
        for (failure, owners) in seen.cases.iter().filter(|(f, _)| f.node == master) {
            let once = format!("once {} owns the addresses: ", judge.name(master));
            let found = judge.of_master(failure, *owners);
            findings.extend(found.map(|f| Finding { message: once + &f.message, ..f }));
        }
    }
    findings
}

struct Judge<'a> {
    scene: &'a Scene<'a>,
    pair: usize,
    of: &'a Pair<'a>,
}

impl Judge<'_> {
    fn error(&self, message: impl Into<String>) -> Finding {
        Finding::new(Kind::Error, Some(self.of), message)
    }

    fn name(&self, node: usize) -> &str {
        &self.scene.nodes[node].name
    }

    fn deafness(&self) -> Vec<Finding> {
        let deaf = |node: usize| {
            let why = self.scene.hears[self.pair].deaf[node].as_ref()?;
            let (own, other) = (self.name(node), self.name(1 - node));
            Some(self.error(format!(
                "{own} does not take the adverts of {other}: {why}; both own the addresses at once"
            )))
        };
        [0, 1].into_iter().filter_map(deaf).collect()
    }

    /// The objects of a node's instance while `failing` fails there.
    fn tracked(&self, node: usize, failing: Option<&What>) -> Option<(u8, Vec<Tracked>)> {
        let instance = self.of.of[node]?;
        let director = self.scene.nodes[node].director;
        Some((instance.priority, failure::tracked(director, instance, failing)))
    }

    fn tie(&self, start: Owner) -> Option<Finding> {
        let shown = [0, 1].map(|node| self.tracked(node, None).map(|(b, t)| arithmetic(b, &t)));
        let [Some(one), Some(other)] = shown else { return None };
        let own = [0, 1].map(|node| self.scene.seat(self.pair, node, None).map(|s| s.priority));
        let figures = format!("{} has {one}, {} has {other}", self.name(0), self.name(1));
        if start == Owner::Tie {
            return Some(self.error(if own[0] == own[1] {
                format!(
                    "a tie: {figures}: the higher primary address decides, which the files do not say; \
                     give one of them the higher priority"
                )
            } else {
                format!(
                    "{figures}, and yet who is master first stays: the priorities of the sync group's \
                     members point to different nodes; give one node the higher one in all of them"
                )
            }));
        }
        let Owner::Node(master) = start else { return None };
        (own[0] == own[1]).then(|| {
            let message = format!(
                "a tie: {figures}: the higher address decides, which is that of {}",
                self.name(master),
            );
            Finding::new(Kind::Warning, Some(self.of), message)
        })
    }

    /// A group whose members are not all first on one node.
    fn against_priority(&self, start: Owner) -> Option<Finding> {
        let Owner::Node(master) = start else { return None };
        let [own, other] = [master, 1 - master]
            .map(|node| self.scene.seat(self.pair, node, None).map(|s| s.priority));
        (own? < other?).then(|| {
            let message = format!(
                "{} has the higher priority and {} owns the addresses: the priorities of the sync group's \
                 members point to different nodes, and who is master first stays; give one node the \
                 higher one in all of them",
                self.name(1 - master),
                self.name(master),
            );
            Finding::new(Kind::Warning, Some(self.of), message)
        })
    }

    /// What is to be said of a failure on a node that may be master.
    fn of_master(&self, failure: &Failure, owners: Owners) -> Option<Finding> {
        let (node, other) = (failure.node, 1 - failure.node);
        let (base, tracked) = self.tracked(node, Some(&failure.what))?;
        let name = failure.what.object();
        let object = tracked.iter().find(|object| Some(&object.name) == name.as_ref());
        let weight = object.map_or(0, |object| object.weight);
        if owners.after == Owner::Node(other) {
            let waits = self.of.of[other].is_some_and(|i| i.preempt && !i.preempt_delay.is_zero());
            return (weight != 0 && waits).then(|| {
                let message = format!(
                    "{}: {} takes over only after its `preempt_delay`; give weight 0, which makes a fault",
                    report::failure(self.scene, failure),
                    self.name(other)
                );
                Finding::new(Kind::Warning, Some(self.of), message)
            });
        }
        if matches!(owners.after, Owner::Both | Owner::Nobody) {
            return Some(self.odd(failure, owners.after));
        }
        if weight == 0 {
            // What concerns another member of the sync group only is told with that one.
            let concerns = object.is_some()
                || matches!(failure.what, What::Node | What::Dataplane)
                || matches!(&failure.what, What::Interface(i) if self.of.of[node].is_some_and(|own| own.interface == *i));
            return concerns.then(|| self.odd(failure, owners.after));
        }
        let (other_base, other_tracked) = self.tracked(other, None)?;
        let message = if base == OWNER {
            format!(
                "no fail-over: {}'s priority 255 does not change, whatever weights say; give weight 0, \
                 which makes a fault, or a priority below 255",
                self.name(node)
            )
        } else {
            let (own, theirs) = (
                effective(base, &tracked).priority,
                effective(other_base, &other_tracked).priority,
            );
            let figures = format!(
                "{} then has {}, {} has {}",
                self.name(node),
                arithmetic(base, &tracked),
                self.name(other),
                arithmetic(other_base, &other_tracked)
            );
            let instance = self.of.of[other]?;
            if own < theirs && !instance.preempt {
                format!(
                    "no fail-over: {figures}, but {} does not preempt while {} lives; give weight 0, \
                     which makes a fault, or `preempt: true`",
                    self.name(other),
                    self.name(node)
                )
            } else if own < theirs {
                format!(
                    "no fail-over: {figures}, but the other members of the sync group do not agree; \
                     give weight 0, which makes a fault, or track the same in every member"
                )
            } else {
                let remedy = match self.least(node, name.as_deref(), weight) {
                    Some(least) => format!("a weight of {least:+} in both files would do, or"),
                    None => "no weight would do; give".to_owned(),
                };
                let why = if own == theirs { ", a tie, in which the master stays" } else { "" };
                format!("no fail-over: {figures}{why}; {remedy} weight 0, which makes a fault")
            }
        };
        let failure = report::failure(self.scene, failure);
        Some(self.error(format!("{failure}: {message}")))
    }

    /// The least weight of the same sign for an object, on both nodes, by which its failure moves
    /// the addresses and its success leaves them where they are.
    fn least(&self, node: usize, object: Option<&str>, weight: i16) -> Option<i16> {
        let priority = |of: usize, failing: bool, weight: i16| {
            let (base, mut tracked) = self.tracked(of, None)?;
            for found in tracked.iter_mut().filter(|tracked| Some(tracked.name.as_str()) == object)
            {
                found.weight = weight;
                found.well = Some(!failing);
            }
            Some(effective(base, &tracked).priority)
        };
        let does = |weight: &i16| {
            let other = priority(1 - node, false, *weight);
            priority(node, true, *weight) < other && priority(node, false, *weight) > other
        };
        (1..=MAX_WEIGHT).map(|n| n * weight.signum()).find(does)
    }

    /// Something that no rule above explains: told as it was seen.
    fn odd(&self, failure: &Failure, owner: Owner) -> Finding {
        let (failure, owner) =
            (report::failure(self.scene, failure), report::owner(self.scene, owner));
        self.error(format!("{failure}: then {owner} owns the addresses"))
    }

    fn stays(&self, master: usize) -> Finding {
        let (name, other) = (self.name(master), self.name(1 - master));
        let why = match self.of.of[master] {
            Some(instance) if !instance.preempt => "`preempt: false`",
            _ => "their priorities, or those of its sync group, do not ask for it",
        };
        let message = format!(
            "once {other} owns the addresses, {name} does not take them back ({why}): only a failure of \
             {other}, or `lb vrrp resign` there, moves them"
        );
        Finding::new(Kind::Warning, Some(self.of), message)
    }
}

/// The sum that makes the effective priority: `105 - 2 = 103`.
fn arithmetic(base: u8, tracked: &[Tracked]) -> String {
    let effective = effective(base, tracked);
    let mut text = base.to_string();
    let mut sum = i32::from(base);
    for reason in &effective.reasons {
        if let Part::Adds(weight) = reason.part {
            let sign = if weight < 0 { '-' } else { '+' };
            text.push_str(&format!(" {sign} {}", weight.unsigned_abs()));
            sum += i32::from(weight);
        }
    }
    if text.len() > base.to_string().len() {
        text.push_str(&format!(" = {sum}"));
    }
    if sum != i32::from(effective.priority) {
        text.push_str(&format!(" (counts as {})", effective.priority));
    }
    text
}

/// keepalived's bound.
const MAX_WEIGHT: i16 = 253;
