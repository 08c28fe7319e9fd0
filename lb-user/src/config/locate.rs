//! Gives faults their line and column.
//!
//! Only called with faults in hand: a good file is never read twice. Text with aliases is read once
//! for each place, so the number of places is bounded by `MAX_ERRORS`.
//!
//! Must not know: what the faults are about.

use super::problem::Problem;
use super::{ConfigError, MAX_ERRORS, marks, yaml};

fn key(problem: &Problem) -> (u32, &str, &str) {
    (problem.place.id, &problem.place.path, &problem.message)
}

/// The faults in order of position, each once.
pub(super) fn all(file: &str, text: &str, mut problems: Vec<Problem>) -> Vec<ConfigError> {
    // Numbers follow the text except after aliases, so this cuts off the end of the file.
    problems.sort_by(|a, b| key(a).cmp(&key(b)));
    problems.dedup();
    let dropped = problems.len().saturating_sub(MAX_ERRORS);
    problems.truncate(MAX_ERRORS);
    let mut known = marks::positions(text, &problems.iter().map(|p| p.place.id).collect());
    let end = yaml::End::of(text);
    let mut errors: Vec<ConfigError> = problems
        .into_iter()
        .map(|Problem { place, message }| {
            let position = known.entry(place.id).or_insert_with(|| yaml::position(text, place.id));
            let (line, column) = end.clamp(*position);
            let path = if place.path.is_empty() { "-".into() } else { place.path };
            ConfigError { file: file.into(), line, column, path, message }
        })
        .collect();
    errors.sort_by_key(|e| (e.line, e.column));
    if let (Some(last), true) = (errors.last(), dropped > 0) {
        let (line, column) = (last.line, last.column);
        let message = format!("and {dropped} more errors that are not shown");
        errors.push(ConfigError { file: file.into(), line, column, path: "-".into(), message });
    }
    errors
}
