//! A distribution as a table with bars.
//!
//! Must not know: where the numbers come from.

use harness::answers::Answers;

/// Prints one line per server and one for failures.
pub(crate) fn print(answers: &Answers) {
    let total = answers.total().max(1);
    println!("  {:<8} {:>8} {:>7}", "server", "answers", "share");
    for (name, count) in &answers.by_name {
        let percent = *count as f64 * 100.0 / total as f64;
        let bar = "#".repeat(usize::try_from(count * BAR / total).unwrap_or(0));
        println!("  {name:<8} {count:>8} {percent:>6.1}%  {bar}");
    }
    println!("  {:<8} {:>8}", "failed", answers.failed);
    for reason in &answers.reasons {
        println!("           {reason}");
    }
}

/// Width of the bar for everything.
const BAR: u64 = 60;
