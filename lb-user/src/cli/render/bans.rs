//! `lb bans`, and what `lb ban` and `lb unban` did.
//!
//! Must not know: sockets, where a document came from.

use crate::cli::render::table::{Align, table};
use crate::controller::document::{Ban, Bans, Lifted};

/// The deny list.
pub fn bans(document: &Bans) -> String {
    let header = ["prefix", "reason", "expires", "packets"];
    let mut rows = vec![header.map(str::to_owned).to_vec()];
    rows.extend(document.bans.iter().map(|ban| {
        let expires = if ban.expires_s == 0 { "never".to_owned() } else { time(ban.expires_s) };
        vec![ban.prefix.clone(), ban.reason.clone(), expires, ban.packets.to_string()]
    }));
    table(&[Align::Left, Align::Left, Align::Right, Align::Right], &rows)
}

/// A new ban. It names the prefix: that may be shorter than what was typed.
pub fn banned(document: &Bans) -> String {
    let line = |ban: &Ban| match ban.expires_s {
        0 => format!("{} is banned until it is lifted\n", ban.prefix),
        seconds => format!("{} is banned for {}\n", ban.prefix, time(seconds)),
    };
    document.bans.iter().map(line).collect()
}

/// A ban that was lifted.
pub fn lifted(document: &Lifted) -> String {
    let prefix = &document.prefix;
    match &document.denied_by {
        None => format!("the ban of {prefix} is lifted\n"),
        Some(by) if by == prefix => format!(
            "the ban of {prefix} is lifted, but dataplane.deny of the file has it: still dropped\n"
        ),
        Some(by) => {
            format!("the ban of {prefix} is lifted, but {by} around it is denied: still dropped\n")
        }
    }
}

/// `1h02m03s`, without what is zero in front.
fn time(seconds: u64) -> String {
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    match (hours, minutes) {
        (0, 0) => format!("{seconds}s"),
        (0, _) => format!("{minutes}m{seconds:02}s"),
        _ => format!("{hours}h{minutes:02}m{seconds:02}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ban(prefix: &str, reason: &str, expires_s: u64, packets: u64) -> Ban {
        Ban { prefix: prefix.into(), reason: reason.into(), expires_s, packets }
    }

    #[test]
    fn bans_are_a_table() {
        let document = Bans {
            bans: vec![ban("198.51.100.0/24", "config", 0, 12), ban("::1/128", "manual", 3723, 0)],
        };
        let expected = "\
prefix          reason  expires packets
198.51.100.0/24 config    never      12
::1/128         manual 1h02m03s       0
";
        assert_eq!(bans(&document), expected);
    }

    #[test]
    fn what_was_done_is_said_in_full() {
        let one = |expires_s| Bans { bans: vec![ban("10.0.0.0/8", "manual", expires_s, 0)] };
        assert_eq!(banned(&one(0)), "10.0.0.0/8 is banned until it is lifted\n");
        assert_eq!(banned(&one(600)), "10.0.0.0/8 is banned for 10m00s\n");
        assert_eq!(banned(&one(9)), "10.0.0.0/8 is banned for 9s\n");
        let by = |denied_by: Option<&str>| {
            lifted(&Lifted { prefix: "10.0.0.1/32".into(), denied_by: denied_by.map(Into::into) })
        };
        assert_eq!(by(None), "the ban of 10.0.0.1/32 is lifted\n");
        assert!(by(Some("10.0.0.0/8")).contains("10.0.0.0/8 around it"));
        assert!(by(Some("10.0.0.1/32")).contains("dataplane.deny"));
    }
}
