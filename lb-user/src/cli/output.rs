//! Writing results to stdout and telling errors in full.
//!
//! Must not know: what is written.

use std::io::{self, Write};

/// Writes a result to stdout. A reader that is gone gives an error that [`is_broken_pipe`] knows.
pub(super) fn print(text: &[u8]) -> anyhow::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text)?;
    stdout.flush()?;
    Ok(())
}

/// Writes a line to stderr. Nobody is left to tell when that fails.
pub(super) fn complain(line: &str) {
    let _unread = writeln!(io::stderr(), "{line}");
}

/// Whether an error only means that nobody reads any more.
pub(super) fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let found = error.downcast_ref::<io::Error>();
    found.is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

/// An error with its causes, each once: some of our errors quote their cause themselves.
pub(super) fn describe(error: &anyhow::Error) -> String {
    let mut text = error.to_string();
    for cause in error.chain().skip(1) {
        let cause = cause.to_string();
        if !text.contains(&cause) {
            text.push_str(": ");
            text.push_str(&cause);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_are_told_once() {
        let error = anyhow::anyhow!("no such file").context("read lb.yaml").context("start");
        assert_eq!(describe(&error), "start: read lb.yaml: no such file");
        let quoting = anyhow::anyhow!("no such file").context("read lb.yaml: no such file");
        assert_eq!(describe(&quoting), "read lb.yaml: no such file");
    }
}
