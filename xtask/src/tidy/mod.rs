//! Checks rules of the sources that neither the compiler nor clippy knows.
//!
//! [`run`] reads every file that git lists and hands the whole set to [`check`], which is pure:
//! a test gives it made-up files, one that breaks each rule.
//!
//! Must not know: cargo, how a file is compiled.

use std::fmt;
use std::fs;

use anyhow::{Context, Result, bail};

use crate::sys::Cmd;

mod layers;
mod mask;
mod rules;
mod shape;

/// A file of the repository.
pub(crate) struct File {
    /// Its path below the workspace's top folder.
    pub(crate) path: String,
    /// Its content.
    pub(crate) text: String,
    /// The same without comments and literals; equal to `text` for other languages than Rust.
    code: String,
}

impl File {
    fn new(path: impl Into<String>, text: impl Into<String>) -> Self {
        let (path, text) = (path.into(), text.into());
        let code = if path.ends_with(".rs") { mask::mask(&text) } else { text.clone() };
        Self { path, text, code }
    }

    fn is_rust(&self) -> bool {
        self.path.ends_with(".rs")
    }

    /// Line number, from 1, of a place in `text` or `code`.
    fn line(&self, at: usize) -> usize {
        self.text.as_bytes()[..at].iter().filter(|byte| **byte == b'\n').count() + 1
    }

    fn problem(&self, at: usize, message: impl Into<String>) -> Problem {
        Problem { path: self.path.clone(), line: self.line(at), message: message.into() }
    }
}

/// A broken rule.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Problem {
    path: String,
    line: usize,
    message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.path, self.line, self.message)
    }
}

/// `cargo xtask tidy`.
pub(crate) fn run() -> Result<()> {
    let list = Cmd::new("git")
        .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
        .capture()
        .context("tidy asks git for the files of the repository")?;
    let mut files = Vec::new();
    for path in list.split('\0').filter(|path| !path.is_empty()) {
        // A file that is deleted but not yet committed as such, or is no text, has no rules.
        if let Ok(text) = fs::read_to_string(path) {
            files.push(File::new(path, text));
        }
    }
    files.iter().filter_map(shape::long_file_note).for_each(|note| eprintln!("note: {note}"));
    let problems = check(&files);
    for problem in &problems {
        eprintln!("{problem}");
    }
    if !problems.is_empty() {
        bail!("tidy found {} problem(s) in {} files", problems.len(), files.len());
    }
    eprintln!("tidy: {} files, no problem", files.len());
    Ok(())
}

/// Every broken rule in `files`.
fn check(files: &[File]) -> Vec<Problem> {
    let mut problems = Vec::new();
    for file in files {
        rules::foreign_paths(file, &mut problems);
        if file.is_rust() {
            shape::head(file, &mut problems);
            shape::lengths(file, &mut problems);
            layers::check(file, &mut problems);
            rules::clocks(file, &mut problems);
            rules::unfinished(file, &mut problems);
            rules::unsafe_code(file, &mut problems);
        }
    }
    problems.sort_by(|a, b| (&a.path, a.line).cmp(&(&b.path, b.line)));
    problems
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A head that satisfies the rules, for fixtures that are about something else.
    pub(super) const HEAD: &str = "//! A module.\n//!\n//! Must not know: anything.\n";

    /// What `check` says about one file with a correct head: `line: message`.
    pub(super) fn said(path: &str, body: &str) -> Vec<String> {
        let problems = check(&[File::new(path, format!("{HEAD}{body}"))]);
        problems.iter().map(|problem| format!("{}: {}", problem.line, problem.message)).collect()
    }

    #[test]
    fn a_correct_file_has_no_problem() {
        let body = "use crate::model::Director;\n\nfn f() { let s = \"todo!() } {\"; }\n";
        assert_eq!(said("lb-user/src/plan/mod.rs", body), [""; 0]);
    }

    #[test]
    fn problems_come_in_order_of_their_lines() {
        let body = "fn g() { todo!() }\nuse crate::cli::run;\n";
        let said = said("lb-user/src/plan/mod.rs", body);
        assert!(said[0].starts_with("4: ") && said[1].starts_with("5: "), "{said:?}");
    }
}
