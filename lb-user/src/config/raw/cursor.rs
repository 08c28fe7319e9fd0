//! A place in the tree together with its path; reads typed values and notes what is wrong.
//!
//! A reader returns `None` after it has noted a fault, so callers go on and find the next one.
//! [`Fields`] holds one mapping against the contract: unknown, duplicate and not-yet keys.
//!
//! Must not know: defaults, the model's structures, how keys depend on each other.

use super::super::contract::{self, Key, Words};
use super::super::problem::{Place, Problems, join_index, join_key, plain, quoted};
use super::super::units;
use super::super::yaml::{Entry, Kind, Node};
use super::{At, Written};
use std::collections::{HashMap, HashSet};
use std::ops::RangeInclusive;
use std::time::Duration;

/// A node with the way to it.
#[derive(Clone, Debug)]
pub(in crate::config) struct Cursor<'a> {
    node: &'a Node,
    path: String,
    /// The keys that the contract has here, in list items and in named mappings.
    scope: &'static [Key],
    problems: &'a Problems,
}

impl<'a> Cursor<'a> {
    /// The whole document.
    pub(in crate::config) fn root(node: &'a Node, problems: &'a Problems) -> Self {
        Self { node, path: String::new(), scope: contract::ROOT, problems }
    }

    /// Where this is.
    pub(in crate::config) fn place(&self) -> Place {
        Place { id: self.node.id, path: self.path.clone() }
    }

    /// Notes a fault here.
    pub(in crate::config) fn error<T>(&self, message: impl Into<String>) -> Option<T> {
        self.problems.error(&self.place(), message);
        None
    }

    /// Notes that something of another kind is here.
    fn expected<T>(&self, what: &str) -> Option<T> {
        let found = match &self.node.kind {
            Kind::Null => return self.error(format!("has no value; expected {what}")),
            Kind::Bool(b) => format!("`{b}`"),
            Kind::Int(n) => format!("the number {n}"),
            Kind::Float(n) => format!("the number {n}"),
            Kind::Text(text) => format!("the text {}", quoted(text)),
            Kind::List(_) => "a list".into(),
            Kind::Map(_) => "a mapping".into(),
        };
        self.error(format!("expected {what}, found {found}"))
    }

    /// True for `off`, `none`, `no` and `false`.
    pub(in crate::config) fn is_off(&self) -> bool {
        match &self.node.kind {
            Kind::Bool(on) => !on,
            Kind::Text(text) => matches!(text.as_str(), "off" | "none" | "no" | "false"),
            _ => false,
        }
    }

    /// True for a mapping.
    pub(in crate::config) fn is_map(&self) -> bool {
        matches!(self.node.kind, Kind::Map(_))
    }

    /// True for a list.
    pub(in crate::config) fn is_list(&self) -> bool {
        matches!(self.node.kind, Kind::List(_))
    }

    /// True for text.
    pub(in crate::config) fn is_text(&self) -> bool {
        matches!(self.node.kind, Kind::Text(_))
    }

    /// Text of any content; `what` it is, for messages.
    pub(in crate::config) fn text(&self, what: &str) -> Option<&'a str> {
        match &self.node.kind {
            Kind::Text(text) => Some(text),
            Kind::Int(_) | Kind::Float(_) | Kind::Bool(_) => {
                self.expected(&format!("{what} (in quotes if this is meant)"))
            }
            _ => self.expected(what),
        }
    }

    /// Text in one of the small languages of `units`; `what` it is, for messages.
    pub(in crate::config) fn parsed<T>(
        &self,
        what: &str,
        parse: fn(&str) -> Result<T, String>,
    ) -> Option<T> {
        match parse(self.text(what)?) {
            Ok(value) => Some(value),
            Err(message) => self.error(message),
        }
    }

    /// A whole number in `range`.
    pub(in crate::config) fn number(&self, range: RangeInclusive<u32>) -> Option<u32> {
        let number = self.whole(i64::from(*range.start())..=i64::from(*range.end()))?;
        u32::try_from(number).ok()
    }

    /// A whole number in `range`, which may reach below zero.
    pub(in crate::config) fn whole(&self, range: RangeInclusive<i64>) -> Option<i64> {
        let (low, high) = (*range.start(), *range.end());
        match &self.node.kind {
            Kind::Int(n) => match i64::try_from(*n).ok().filter(|n| range.contains(n)) {
                None => self.error(format!("{n} is not from {low} to {high}")),
                number => number,
            },
            Kind::Text(text) if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) => {
                let why = if text.starts_with('0') { "leading zeros" } else { "quotes" };
                self.error(format!("{} is text; write the number without {why}", quoted(text)))
            }
            _ => self.expected(&format!("a whole number from {low} to {high}")),
        }
    }

    /// A duration of at least a second: the connection table is swept once a second.
    pub(in crate::config) fn long_duration(&self) -> Option<Duration> {
        let duration = self.duration()?;
        if duration < Duration::from_secs(1) {
            return self.error("must be at least 1s");
        }
        Some(duration)
    }

    /// A duration above zero and of at most 31 days.
    pub(in crate::config) fn duration(&self) -> Option<Duration> {
        let duration = self.span()?;
        if duration.is_zero() {
            return self.error("must be more than 0");
        }
        Some(duration)
    }

    /// A duration of at most 31 days; nothing of it is `0s` or `off`.
    pub(in crate::config) fn span_or_off(&self) -> Option<Duration> {
        if self.is_off() { Some(Duration::ZERO) } else { self.span() }
    }

    fn span(&self) -> Option<Duration> {
        let what = "a duration such as 500ms, 5s, 15m or 1h";
        let duration = match &self.node.kind {
            Kind::Text(_) => self.parsed(what, units::duration)?,
            Kind::Int(n) if *n > 0 => return self.error(format!("{n} has no unit; write {n}s")),
            _ => return self.expected(what),
        };
        if duration > LONGEST {
            return self.error("is longer than 31 days (744h)");
        }
        Some(duration)
    }

    /// `true`, or `false` in one of its forms.
    pub(in crate::config) fn flag(&self) -> Option<bool> {
        match &self.node.kind {
            Kind::Bool(on) => Some(*on),
            _ if self.is_off() => Some(false),
            _ => self.expected("true or false"),
        }
    }

    /// One of the words of the contract.
    pub(in crate::config) fn word<T: Copy>(&self, words: &Words<T>) -> Option<T> {
        let Kind::Text(text) = &self.node.kind else {
            let built = units::list(words.built.iter().map(|(word, _)| *word));
            return self.expected(&format!("one of {built}"));
        };
        if let Some((_, meaning)) = words.built.iter().find(|(word, _)| word == text) {
            return Some(*meaning);
        }
        if words.later.contains(&text.as_str()) {
            return self.error(format!("{} `{text}` is not supported yet", words.what));
        }
        let known = || words.built.iter().map(|(word, _)| *word);
        let all = || known().chain(words.later.iter().copied());
        let hint = match units::nearest(text, all()) {
            Some(word) => format!("did you mean `{word}`?"),
            None => format!("expected one of {}", units::list(known())),
        };
        self.error(format!("unknown {} {}; {hint}", words.what, quoted(text)))
    }

    /// The items of a list; nothing is an empty one.
    pub(in crate::config) fn items(&self) -> Option<Vec<Cursor<'a>>> {
        match &self.node.kind {
            Kind::Null => Some(Vec::new()),
            Kind::List(items) => {
                let cursor = |(n, node)| Cursor { node, path: join_index(&self.path, n), ..*self };
                Some(items.iter().enumerate().map(cursor).collect())
            }
            Kind::Text(text) => {
                self.error(format!("expected a list, found the text; write [{}]", plain(text)))
            }
            _ => self.expected("a list"),
        }
    }

    /// The entries of a mapping whose keys are names of the user's; nothing is an empty one.
    pub(in crate::config) fn named(&self) -> Option<Vec<(At<String>, Cursor<'a>)>> {
        let entries = self.entries("a mapping of names")?;
        let name = |(entry, cursor): (&'a Entry, Cursor<'a>)| {
            let place = Place { id: entry.key_id, path: cursor.path.clone() };
            match units::name(&entry.key) {
                Ok(value) => Some((At { value, place }, cursor)),
                Err(message) => {
                    self.problems.error(&place, message);
                    None
                }
            }
        };
        Some(entries.into_iter().filter_map(name).collect())
    }

    /// The entries of a mapping that is the user's own; nothing is an empty one.
    pub(in crate::config) fn pairs(&self, what: &str) -> Option<Vec<(&'a str, Cursor<'a>)>> {
        let entries = self.entries(what)?;
        Some(entries.into_iter().map(|(entry, cursor)| (entry.key.as_str(), cursor)).collect())
    }

    /// Like [`Self::fields`], where nothing makes no sense: in a list.
    pub(in crate::config) fn item_fields(&self) -> Option<Fields<'a>> {
        if matches!(self.node.kind, Kind::Null) {
            self.expected("a mapping")
        } else {
            self.fields()
        }
    }

    /// A mapping with the keys that the contract has here; nothing is an empty one.
    pub(in crate::config) fn fields(&self) -> Option<Fields<'a>> {
        let scope = self.scope;
        let (mut known, mut misspelt) = (HashMap::new(), HashSet::new());
        for (entry, cursor) in self.entries("a mapping")? {
            let place = Place { id: entry.key_id, path: cursor.path.clone() };
            match scope.iter().find(|key| key.name == entry.key) {
                Some(key) if key.built => {
                    known.insert(key.name, Cursor { scope: key.inside.keys(), ..cursor });
                }
                Some(key) => {
                    self.problems.error(&place, format!("`{}` is not supported yet", key.name));
                }
                None => {
                    let near = units::nearest(&entry.key, scope.iter().map(|key| key.name));
                    self.problems.error(&place, unknown_key(&entry.key, near, scope));
                    misspelt.extend(near);
                }
            }
        }
        Some(Fields { scope, known, misspelt, place: self.place() })
    }

    /// Entries of a mapping without the second of two equal keys, which is noted.
    fn entries(&self, what: &str) -> Option<Vec<(&'a Entry, Cursor<'a>)>> {
        let entries = match &self.node.kind {
            Kind::Null => return Some(Vec::new()),
            Kind::Map(entries) => entries,
            _ => return self.expected(what),
        };
        let mut seen = HashSet::new();
        let mut unique = Vec::with_capacity(entries.len());
        for entry in entries {
            let path = join_key(&self.path, &entry.key);
            if seen.insert(entry.key.as_str()) {
                unique.push((entry, Cursor { node: &entry.value, path, ..*self }));
            } else {
                let message = format!("duplicate key {}", quoted(&entry.key));
                self.problems.error(&Place { id: entry.key_id, path }, message);
            }
        }
        Some(unique)
    }
}

fn unknown_key(given: &str, near: Option<&str>, scope: &[Key]) -> String {
    let hint = match near {
        Some(name) => format!("did you mean `{name}`?"),
        None => {
            let built = scope.iter().filter(|key| key.built).map(|key| key.name);
            format!("known here: {}", units::list(built))
        }
    };
    format!("unknown key {}; {hint}", quoted(given))
}

/// The keys of one mapping that are both written and built.
#[derive(Debug)]
pub(in crate::config) struct Fields<'a> {
    scope: &'static [Key],
    known: HashMap<&'static str, Cursor<'a>>,
    /// Keys that an unknown one was probably meant to be: not called missing as well.
    misspelt: HashSet<&'static str>,
    /// The mapping itself, where a missing key is reported.
    pub(in crate::config) place: Place,
}

impl<'a> Fields<'a> {
    /// No keys: for a section that is absent or not a mapping.
    pub(in crate::config) fn none(place: Place) -> Self {
        Self { scope: &[], known: HashMap::new(), misspelt: HashSet::new(), place }
    }

    /// True if no built key is written.
    pub(in crate::config) fn is_empty(&self) -> bool {
        self.known.is_empty()
    }

    /// Notes a fault for each of `keys`: they tell one entry from another.
    pub(in crate::config) fn refuse_defaults(&self, keys: &[&str]) {
        for (key, cursor) in keys.iter().filter_map(|key| Some((key, self.known.get(key)?))) {
            cursor.error::<()>(format!("`{key}` cannot have a default"));
        }
    }

    /// The value of `key`, if it is written.
    pub(in crate::config) fn get(&self, key: &str) -> Option<&Cursor<'a>> {
        debug_assert!(
            self.scope.is_empty() || self.scope.iter().any(|k| k.name == key && k.built),
            "{key} is not a built key of the contract"
        );
        self.known.get(key)
    }

    /// Reads `key` with `read`, which notes its own faults.
    pub(in crate::config) fn read<T>(
        &self,
        key: &str,
        read: impl FnOnce(&Cursor<'a>) -> Option<T>,
    ) -> Written<T> {
        let Some(cursor) = self.get(key) else {
            return if self.misspelt.contains(key) { Written::Bad } else { Written::Absent };
        };
        match read(cursor) {
            Some(value) => Written::Is(At { value, place: cursor.place() }),
            None => Written::Bad,
        }
    }
}

/// Longest duration that means something here; far from what timers and jiffies can hold.
const LONGEST: Duration = Duration::from_secs(31 * 24 * 3600);
