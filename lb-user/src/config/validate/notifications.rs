//! The section `notifications`: defaults, and what mail needs.
//!
//! Must not know: how mail goes out, what is told.

use super::super::problem::Problems;
use super::super::raw::{At, Email, File, Written};
use crate::model;
use std::net::IpAddr;
use std::time::Duration;

/// What the section means, and whether mail is configured at all, faulty or not.
pub(super) fn notifications(
    file: &File,
    problems: &Problems,
) -> (Option<model::Notifications>, bool) {
    match &file.email {
        Written::Absent | Written::Is(At { value: None, .. }) => {
            (Some(model::Notifications::default()), false)
        }
        Written::Bad => (None, true),
        Written::Is(At { value: Some(raw), .. }) => {
            let email = email(raw, problems);
            (email.map(|email| model::Notifications { email: Some(email) }), true)
        }
    }
}

fn email(raw: &Email, problems: &Problems) -> Option<model::Email> {
    let missing = [
        (raw.smtp.is_absent(), "smtp", "mail needs `smtp`: the server, such as 127.0.0.1:25"),
        (raw.from.is_absent(), "from", "mail needs `from`: the sender, such as lb@example.com"),
        (raw.to.written.is_absent(), "to", NO_RECEIVERS),
    ];
    for (_, key, message) in missing.into_iter().filter(|(absent, ..)| *absent) {
        problems.error(&raw.place.key(key), message);
    }
    if let (Some(place), true) = (raw.to.written.place(), raw.to.good.is_empty()) {
        problems.error(place, NO_RECEIVERS);
    }
    match (&raw.username, &raw.password_file) {
        (Written::Is(At { place, .. }), Written::Absent) => {
            problems.error(place, "needs `password_file`: a file with the password");
            return None;
        }
        (Written::Absent, Written::Is(At { place, .. })) => {
            problems.error(place, "needs `username`: whose password it is");
            return None;
        }
        _ => {}
    }
    let starttls = raw.starttls.value_or(false);
    if let (Some(name), Some(server), false) = (raw.username.at(), raw.smtp.at(), starttls)
        && !is_this_host(&server.value.0)
    {
        let message = "the password goes to the mail server in clear; write `starttls: true`";
        problems.warning(&name.place, message);
    }
    let (host, port) = raw.smtp.at()?.value.clone();
    raw.to.written.at()?;
    Some(model::Email {
        host,
        port,
        from: raw.from.at()?.value.clone(),
        to: raw.to.good.iter().map(|at| at.value.clone()).collect(),
        starttls,
        username: raw.username.at().map(|at| at.value.clone()),
        password_file: raw.password_file.at().map(|at| at.value.clone()),
        timeout: raw.timeout.value_or(Duration::from_secs(30)),
    })
}

fn is_this_host(host: &str) -> bool {
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

const NO_RECEIVERS: &str = "mail needs `to`: at least one address, such as [ops@example.com]";
