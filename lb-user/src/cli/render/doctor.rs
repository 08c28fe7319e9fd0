//! `lb doctor`: a line for each finding, and below it the command that mends it.
//!
//! Must not know: how findings come about.

use crate::doctor::{Finding, Severity};

/// The whole text.
pub fn doctor(findings: &[Finding]) -> String {
    let mut text = String::new();
    for finding in findings {
        let severity = match finding.severity {
            Severity::Ok => "ok   ",
            Severity::Warn => "warn ",
            Severity::Error => "ERROR",
        };
        let place = if finding.place == "host" { "" } else { &finding.place };
        let colon = if place.is_empty() { "" } else { ": " };
        text.push_str(&format!("{severity} {place}{colon}{}\n", finding.message));
        if !finding.command.is_empty() {
            text.push_str(&format!("      # {}\n", finding.command));
        }
    }
    let count = |severity| findings.iter().filter(|f| f.severity == severity).count();
    let counted =
        |count: usize, what: &str| format!("{count} {what}{}", if count == 1 { "" } else { "s" });
    let (errors, warnings) = (count(Severity::Error), count(Severity::Warn));
    text.push_str(&format!(
        "{}, {}, {} ok\n",
        counted(errors, "error"),
        counted(warnings, "warning"),
        count(Severity::Ok)
    ));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finding(severity: Severity, place: &str, message: &str, command: &str) -> Finding {
        Finding {
            severity,
            check: "x".into(),
            place: place.into(),
            message: message.into(),
            command: command.into(),
        }
    }

    #[test]
    fn a_finding_is_a_line_and_its_command() {
        let findings = [
            finding(Severity::Error, "eth0", "it is down", "ip link set eth0 up"),
            finding(Severity::Ok, "host", "Linux 6.12", ""),
        ];
        let expected = "\
ERROR eth0: it is down
      # ip link set eth0 up
ok    Linux 6.12
1 error, 0 warnings, 1 ok
";
        assert_eq!(doctor(&findings), expected);
    }
}
