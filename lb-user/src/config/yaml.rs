//! Reads YAML text into a tree whose nodes are numbered in reading order.
//!
//! serde_yaml tells no positions of values that it could read. It does tell where an error was
//! raised, so [`position`] reads the text once more and fails at the wanted number. The tree is
//! our own, not `serde_yaml::Value`, to keep duplicate keys, to bound what aliases expand to, and
//! to have the same numbering in both readings. Merge keys (`<<`) are applied here.
//!
//! Must not know: the contract, the model, units.

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use std::cell::Cell;
use std::collections::HashSet;
use std::fmt;

/// A value of the document.
#[derive(Debug)]
pub(super) struct Node {
    /// Number in reading order, unique in the tree.
    pub(super) id: u32,
    /// What it holds.
    pub(super) kind: Kind,
}

/// The YAML 1.2 core types. `no`, `off` and `yes` are text there, and so is `010`.
#[derive(Debug)]
pub(super) enum Kind {
    /// `~`, `null` or nothing.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A whole number; larger ones are clamped.
    Int(i128),
    /// Any other number.
    Float(f64),
    /// Everything else.
    Text(String),
    /// A sequence.
    List(Vec<Node>),
    /// A mapping in written order, duplicates included, merged entries last.
    Map(Vec<Entry>),
}

/// One line of a mapping.
#[derive(Debug)]
pub(super) struct Entry {
    /// Number of the key's own node.
    pub(super) key_id: u32,
    /// The key; numbers and booleans as text.
    pub(super) key: String,
    /// Its value.
    pub(super) value: Node,
}

/// Why a text is not a YAML document that can be used.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Fault {
    /// Line from 1.
    pub(super) line: usize,
    /// Column in characters from 1.
    pub(super) column: usize,
    /// What is wrong.
    pub(super) message: String,
}

/// Reads the one document in `text`.
pub(super) fn parse(text: &str) -> Result<Node, Fault> {
    if text.len() > MAX_LEN {
        let message = format!("the file is longer than {} MiB", MAX_LEN >> 20);
        return Err(Fault { line: 1, column: 1, message });
    }
    check_characters(text)?;
    let walk = Walk::new(text, None);
    match Seed(&walk).deserialize(serde_yaml::Deserializer::from_str(text)) {
        Ok(node) => Ok(node),
        Err(error) => Err(fault(text, &error)),
    }
}

/// Line and column, from 1, of node number `id` of a text that [`parse`] accepts. A value given
/// by an alias is where its anchor is.
pub(super) fn position(text: &str, id: u32) -> (usize, usize) {
    let walk = Walk::new(text, Some(id));
    let result = Seed(&walk).deserialize(serde_yaml::Deserializer::from_str(text));
    result.err().and_then(|e| location(&e)).unwrap_or((1, 1))
}

fn location(error: &serde_yaml::Error) -> Option<(usize, usize)> {
    error.location().map(|l| (l.line(), l.column()))
}

/// Words for the error of a failed reading.
fn fault(text: &str, error: &serde_yaml::Error) -> Fault {
    let Some((line, column)) = location(error) else {
        // Of all errors without a place this is the one that a user can write.
        let second = serde_yaml::Deserializer::from_str(text).nth(1);
        let (line, column, message) = match second {
            Some(document) => {
                let walk = Walk::new(text, Some(0));
                let stopped = Seed(&walk).deserialize(document).err();
                let (line, column) = stopped.and_then(|e| location(&e)).unwrap_or((1, 1));
                (line, column, "a second YAML document starts here; only one is allowed".into())
            }
            None => (1, 1, format!("not usable as YAML: {error}")),
        };
        let (line, column) = End::of(text).clamp((line, column));
        return Fault { line, column, message };
    };
    let mut message =
        error.to_string().replacen(&format!(" at line {line} column {column}"), "", 1);
    if let Some(own) = message.find(OWN) {
        message = message.split_off(own + OWN.len());
    } else if at_tab(text, line, column) {
        message = "a tab cannot indent YAML; use spaces".into();
    } else {
        message = format!("not valid YAML: {message}");
    }
    let (line, column) = End::of(text).clamp((line, column));
    Fault { line, column, message }
}

/// Where a text ends. The parser puts the end of a text without a final line break on a line of
/// its own.
pub(super) struct End {
    line: usize,
    column: usize,
}

impl End {
    /// The end of `text`, by YAML's line breaks.
    pub(super) fn of(text: &str) -> Self {
        let lines = text.split(['\n', '\r', '\u{85}', '\u{2028}', '\u{2029}']);
        let (line, last) = lines.enumerate().last().map_or((1, ""), |(n, last)| (n + 1, last));
        Self { line, column: last.chars().count() + 1 }
    }

    /// A position that lies in the text.
    pub(super) fn clamp(&self, (line, column): (usize, usize)) -> (usize, usize) {
        if line > self.line { (self.line, self.column) } else { (line, column) }
    }
}

fn at_tab(text: &str, line: usize, column: usize) -> bool {
    let line = text.lines().nth(line - 1).unwrap_or("");
    line.chars().nth(column - 1) == Some('\t') && line.chars().take(column).all(char::is_whitespace)
}

/// Refuses what YAML 1.2 section 5.1 calls non-printable; the parser would not say where.
fn check_characters(text: &str) -> Result<(), Fault> {
    let bad = |c: char| {
        !matches!(c, '\t' | '\n' | '\r' | ' '..='~' | '\u{85}' | '\u{a0}'..='\u{d7ff}'
            | '\u{e000}'..='\u{fefe}' | '\u{ff00}'..='\u{fffd}' | '\u{10000}'..)
    };
    let Some(at) = text.find(bad) else { return Ok(()) };
    let before = &text[..at];
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or("").chars().count() + 1;
    let code = text[at..].chars().next().map_or(0, u32::from);
    Err(Fault { line, column, message: format!("character U+{code:04X} is not allowed in YAML") })
}

/// State of one reading.
struct Walk {
    next: Cell<u32>,
    limit: u32,
    stop_at: Option<u32>,
}

impl Walk {
    fn new(text: &str, stop_at: Option<u32>) -> Self {
        // Without aliases a text has fewer nodes than bytes.
        let limit = u32::try_from(4 * text.len() + 100_000).unwrap_or(u32::MAX);
        Self { next: Cell::new(0), limit, stop_at }
    }

    /// Numbers the node that is about to be read.
    fn enter<'de, D: Deserializer<'de>>(&self, input: D) -> Result<(u32, D), D::Error> {
        let id = self.next.get();
        self.next.set(id + 1);
        if self.stop_at == Some(id) {
            return Err(match input.deserialize_any(Stop) {
                Err(error) => error,
                Ok(never) => match never {},
            });
        }
        if id >= self.limit {
            return Err(own_error("aliases make this file expand to too many values"));
        }
        Ok((id, input))
    }
}

fn own_error<E: Error>(message: &str) -> E {
    E::custom(format_args!("{OWN}{message}"))
}

enum Never {}

/// Fails on every value, which makes serde_yaml say where that value is.
struct Stop;

impl<'de> Visitor<'de> for Stop {
    type Value = Never;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("nothing")
    }
}

/// Reads one value.
struct Seed<'w>(&'w Walk);

impl<'de> DeserializeSeed<'de> for Seed<'_> {
    type Value = Node;

    fn deserialize<D: Deserializer<'de>>(self, input: D) -> Result<Node, D::Error> {
        let (id, input) = self.0.enter(input)?;
        let kind = input.deserialize_any(Build(self.0))?;
        Ok(Node { id, kind })
    }
}

struct Build<'w>(&'w Walk);

impl<'de> Visitor<'de> for Build<'_> {
    type Value = Kind;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{OWN}YAML tags such as `!x` are not supported")
    }

    fn visit_unit<E>(self) -> Result<Kind, E> {
        Ok(Kind::Null)
    }

    fn visit_none<E>(self) -> Result<Kind, E> {
        Ok(Kind::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Kind, E> {
        Ok(Kind::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Kind, E> {
        Ok(Kind::Int(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Kind, E> {
        Ok(Kind::Int(value.into()))
    }

    fn visit_i128<E>(self, value: i128) -> Result<Kind, E> {
        Ok(Kind::Int(value))
    }

    fn visit_u128<E>(self, value: u128) -> Result<Kind, E> {
        Ok(Kind::Int(i128::try_from(value).unwrap_or(i128::MAX)))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Kind, E> {
        Ok(Kind::Float(value))
    }

    fn visit_str<E>(self, value: &str) -> Result<Kind, E> {
        Ok(Kind::Text(value.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Kind, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element_seed(Seed(self.0))? {
            items.push(item);
        }
        Ok(Kind::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Kind, A::Error> {
        let mut entries = Vec::new();
        let mut merged = Vec::new();
        while let Some((key_id, key)) = map.next_key_seed(KeySeed(self.0))? {
            let value = map.next_value_seed(Seed(self.0))?;
            if key != "<<" {
                entries.push(Entry { key_id, key, value });
            } else if !merge(value.kind, &mut merged) {
                return Err(own_error("the merge key `<<` needs a mapping or a list of them"));
            }
        }
        let mut seen: HashSet<String> = entries.iter().map(|e| e.key.clone()).collect();
        entries.extend(merged.into_iter().filter(|e| seen.insert(e.key.clone())));
        Ok(Kind::Map(entries))
    }
}

/// Takes over the entries of a merged value; false if it is of another kind.
fn merge(value: Kind, into: &mut Vec<Entry>) -> bool {
    match value {
        Kind::Map(entries) => into.extend(entries),
        Kind::List(items) => {
            for item in items {
                let Kind::Map(entries) = item.kind else { return false };
                into.extend(entries);
            }
        }
        _ => return false,
    }
    true
}

/// Reads one key of a mapping.
struct KeySeed<'w>(&'w Walk);

impl<'de> DeserializeSeed<'de> for KeySeed<'_> {
    type Value = (u32, String);

    fn deserialize<D: Deserializer<'de>>(self, input: D) -> Result<(u32, String), D::Error> {
        let (id, input) = self.0.enter(input)?;
        Ok((id, input.deserialize_any(BuildKey)?))
    }
}

struct BuildKey;

impl<'de> Visitor<'de> for BuildKey {
    type Value = String;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{OWN}a key must be text")
    }

    fn visit_str<E>(self, value: &str) -> Result<String, E> {
        Ok(value.to_owned())
    }

    fn visit_bool<E>(self, value: bool) -> Result<String, E> {
        Ok(value.to_string())
    }

    fn visit_u64<E>(self, value: u64) -> Result<String, E> {
        Ok(value.to_string())
    }

    fn visit_i64<E>(self, value: i64) -> Result<String, E> {
        Ok(value.to_string())
    }
}

/// Longest text that is read.
const MAX_LEN: usize = 16 << 20;
/// Marks messages that are ours among the parser's.
const OWN: &str = "config: ";
