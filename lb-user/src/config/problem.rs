//! Faults while they are collected: they name a node of the tree, not yet a line and column.
//!
//! `raw` and `validate` push into one [`Problems`]; `locate` turns the result into positions.
//!
//! Must not know: YAML text, the contract, what a value means.

use std::cell::RefCell;

/// A node of the document: where to point, and how to call it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// Number of the node in reading order (`yaml::Node::id`).
    pub(super) id: u32,
    /// Path such as `virtual_services[0].scheduler`; empty is the root.
    pub(super) path: String,
}

impl Place {
    /// A key that is missing in the mapping at this place.
    pub(super) fn key(&self, key: &str) -> Self {
        Self { id: self.id, path: join_key(&self.path, key) }
    }
}

/// One fault at one place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Problem {
    /// Where.
    pub(super) place: Place,
    /// What, in one line.
    pub(super) message: String,
}

/// Collects every fault of one file.
#[derive(Debug, Default)]
pub(super) struct Problems {
    errors: RefCell<Vec<Problem>>,
    warnings: RefCell<Vec<Problem>>,
}

impl Problems {
    /// Notes a fault that refuses the file.
    pub(super) fn error(&self, place: &Place, message: impl Into<String>) {
        push(&self.errors, place, message.into());
    }

    /// Notes something allowed that looks wrong.
    pub(super) fn warning(&self, place: &Place, message: impl Into<String>) {
        push(&self.warnings, place, message.into());
    }

    /// Errors and warnings in the order they were found.
    pub(super) fn into_parts(self) -> (Vec<Problem>, Vec<Problem>) {
        (self.errors.into_inner(), self.warnings.into_inner())
    }
}

fn push(list: &RefCell<Vec<Problem>>, place: &Place, message: String) {
    list.borrow_mut().push(Problem { place: place.clone(), message });
}

/// Foreign text for a message: in backticks, shortened, without control characters, so that an
/// error stays one readable line.
pub(super) fn quoted(text: &str) -> String {
    format!("`{}`", plain(text))
}

/// Like [`quoted`] without the backticks, for paths.
pub(super) fn plain(text: &str) -> String {
    const LONGEST: usize = 60;
    let mut out = String::new();
    for (n, c) in text.chars().enumerate() {
        if n == LONGEST {
            out.push_str("...");
            break;
        }
        if c.is_control() || matches!(c, '\u{2028}' | '\u{2029}') {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
    out
}

/// A path one step deeper, by key.
pub(super) fn join_key(path: &str, key: &str) -> String {
    let key = plain(key);
    if path.is_empty() { key } else { format!("{path}.{key}") }
}

/// A path one step deeper, by index from 0.
pub(super) fn join_index(path: &str, index: usize) -> String {
    format!("{path}[{index}]")
}
