//! Turns the text of a configuration file into [`model::Director`], or into every error in it.
//!
//! [`load`] is pure: it takes text, so `lb check`, `lb run`, `lb reload` and tests share it. The
//! way is text -> `yaml` (a tree) -> `raw` (what was written) -> `validate` (what it means).
//! `contract` is the one list of keys; `locate` finds line and column, for errors only.
//!
//! Must not know: files, clocks, maps, netlink, the running state.

mod contract;
mod locate;
mod marks;
mod problem;
mod raw;
#[cfg(test)]
mod tests;
mod units;
mod validate;
mod yaml;

pub use units::{address, listen};

use crate::model;
use problem::Problems;

/// A configuration that can be run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loaded {
    /// What the file means, with every default applied.
    pub director: model::Director,
    /// What is allowed and looks wrong, in order of position.
    pub warnings: Vec<ConfigError>,
}

/// One fault in a configuration file, shown as `FILE:LINE:COL: PATH: message`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{file}:{line}:{column}: {path}: {message}")]
pub struct ConfigError {
    /// The file as the caller named it.
    pub file: String,
    /// Line of the offending value or key, from 1.
    pub line: usize,
    /// Column of the offending value or key in characters, from 1.
    pub column: usize,
    /// Where in the document, such as `virtual_services[0].scheduler`; `-` is the whole file.
    pub path: String,
    /// What is wrong, in one line.
    pub message: String,
}

/// Reads `text`, the content of `file_name`. `host_name` is the node's name unless the file says
/// otherwise.
///
/// # Errors
///
/// Every fault of the file, in order of position. Text that is not YAML yields the first fault
/// only, because nothing after it can be trusted. After [`MAX_ERRORS`] faults a last one counts
/// the rest.
pub fn load(file_name: &str, text: &str, host_name: &str) -> Result<Loaded, Vec<ConfigError>> {
    // Windows editors write a byte order mark; it is no part of the document.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let root = yaml::parse(text).map_err(|fault| {
        let yaml::Fault { line, column, message } = fault;
        vec![ConfigError { file: file_name.into(), line, column, path: "-".into(), message }]
    })?;
    let problems = Problems::default();
    let file = raw::File::read(&root, &problems);
    let director = validate::director(&file, host_name, &problems);
    let (errors, warnings) = problems.into_parts();
    match director {
        Some(director) if errors.is_empty() => {
            Ok(Loaded { director, warnings: locate::all(file_name, text, warnings) })
        }
        _ => Err(locate::all(file_name, text, errors)),
    }
}

/// Most faults that are listed one by one.
pub const MAX_ERRORS: usize = 1000;
