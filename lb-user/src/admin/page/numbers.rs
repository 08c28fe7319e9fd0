//! Numbers as people read them: 1.2 GB, 3h 5m, 12 345.
//!
//! Must not know: HTML, what is counted.

use std::time::Duration;

/// A whole number with its thousands apart.
pub(super) fn whole(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            // A narrow space that no line breaks at.
            text.push('\u{202f}');
        }
        text.push(digit);
    }
    text
}

/// Three digits and a unit of powers of ten: `1.23 GB`.
pub(super) fn scaled(number: f64, unit: &str) -> String {
    let mut value = number;
    let mut prefixes = ["", "k", "M", "G", "T", "P"].into_iter();
    let mut prefix = prefixes.next().unwrap_or("");
    while value >= 999.5 {
        let Some(next) = prefixes.next() else { break };
        prefix = next;
        value /= 1000.0;
    }
    let text = if prefix.is_empty() {
        format!("{value:.0}")
    } else if value < 9.995 {
        format!("{value:.2}")
    } else if value < 99.95 {
        format!("{value:.1}")
    } else {
        format!("{value:.0}")
    };
    let tail = format!("{prefix}{unit}");
    // 5/s and 5 k/s.
    let separator = if tail.is_empty() || tail.starts_with('/') { "" } else { "\u{202f}" };
    format!("{text}{separator}{tail}")
}

/// The two largest units: `3h 5m`.
pub(super) fn span(span: Duration) -> String {
    let seconds = span.as_secs();
    let units = [("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1)];
    let first = units.iter().position(|(_, size)| seconds >= *size).unwrap_or(units.len() - 1);
    let (name, size) = units[first];
    let large = format!("{}{name}", seconds / size);
    match units.get(first + 1) {
        Some((name, smaller)) => format!("{large} {}{name}", seconds % size / smaller),
        None => large,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        assert_eq!(whole(0), "0");
        assert_eq!(whole(999), "999");
        assert_eq!(whole(1_234_567), "1\u{202f}234\u{202f}567");
        for (number, expected) in [
            (0.0, "0 B"),
            (999.0, "999 B"),
            (1_000.0, "1.00 kB"),
            (12_345.0, "12.3 kB"),
            (999_499.0, "999 kB"),
            (999_600.0, "1.00 MB"),
            (1.5e9, "1.50 GB"),
            (2.5e19, "25000 PB"),
        ] {
            assert_eq!(scaled(number, "B").replace('\u{202f}', " "), expected);
        }
        assert_eq!(scaled(5.0, ""), "5");
        assert_eq!(scaled(5.0, "/s"), "5/s");
        assert_eq!(scaled(5_000.0, "/s"), "5.00\u{202f}k/s");
        for (seconds, expected) in
            [(0, "0s"), (59, "59s"), (61, "1m 1s"), (11_100, "3h 5m"), (180_000, "2d 2h")]
        {
            assert_eq!(span(Duration::from_secs(seconds)), expected);
        }
    }
}
