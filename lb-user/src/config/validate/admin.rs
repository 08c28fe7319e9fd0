//! `admin.http`: defaults, who may be let in from where, and which certificates are meant.
//!
//! Must not know: HTTP, files.

use super::super::problem::Problems;
use super::super::raw::{AdminHttp, At, File, Items, Tls, Written};
use super::super::units;
use crate::model;
use std::collections::HashSet;
use std::net::SocketAddr;
use std::time::Duration;

/// The outer `None` is a fault, the inner one a file without it.
pub(super) fn http(file: &File, problems: &Problems) -> Option<Option<model::AdminHttp>> {
    let known = certificates(&file.tls, problems);
    match &file.http {
        Written::Absent | Written::Is(At { value: None, .. }) => known.map(|_| None),
        Written::Bad => None,
        Written::Is(At { value: Some(raw), .. }) => {
            let users = users(raw, problems);
            let tls = tls(raw, known.as_deref(), file, problems);
            let (users, tls) = (users?, tls?);
            let default = SocketAddr::from(([127, 0, 0, 1], 1080));
            let bind = raw.bind.at().map_or(default, |at| at.value);
            exposed(raw, bind, &users, tls.is_some(), problems)?;
            Some(Some(model::AdminHttp {
                bind,
                stats_path: raw.stats_path.value_or("/stats".to_owned()),
                refresh: raw.refresh.value_or(Duration::from_secs(30)),
                realm: raw.realm.value_or("lb".to_owned()),
                hide_version: raw.hide_version.value_or(true),
                users,
                tls,
            }))
        }
    }
}

/// Whoever is not asked for a password must be on this host.
fn exposed(
    raw: &AdminHttp,
    bind: SocketAddr,
    users: &[model::User],
    has_tls: bool,
    problems: &Problems,
) -> Option<()> {
    if bind.ip().to_canonical().is_loopback() {
        return Some(());
    }
    let place = raw.bind.place().unwrap_or(&raw.place);
    if users.is_empty() && !raw.users.written.place().is_some_and(|_| !raw.users.good.is_empty()) {
        problems.error(
            place,
            "everybody in the network could look: add `users`, or bind to 127.0.0.1 or ::1",
        );
        return None;
    }
    if !has_tls {
        problems.warning(place, "passwords cross the network in clear; add `tls`");
    }
    Some(())
}

fn users(raw: &AdminHttp, problems: &Problems) -> Option<Vec<model::User>> {
    let (mut seen, mut users) = (HashSet::new(), Vec::new());
    for At { value: user, .. } in &raw.users.good {
        if user.name.is_absent() {
            problems.error(&user.place.key("name"), "a user needs `name`");
        }
        if user.password_hash.is_absent() {
            let message = "a user needs `password_hash`: an argon2id hash ($argon2id$v=19$...)";
            problems.error(&user.place.key("password_hash"), message);
        }
        let Some(name) = user.name.at() else { continue };
        if !seen.insert(&name.value) {
            problems.error(&name.place, format!("there is a user `{}` already", name.value));
            continue;
        }
        let Some(hash) = user.password_hash.at() else { continue };
        if matches!(user.role, Written::Bad) {
            continue;
        }
        users.push(model::User {
            name: name.value.clone(),
            password_hash: hash.value.clone(),
            // Whoever may change something is named as such.
            role: user.role.value_or(model::Role::ReadOnly),
        });
    }
    let is_good = match &raw.users.written {
        Written::Bad => false,
        _ => users.len() == raw.users.good.len(),
    };
    is_good.then_some(users)
}

/// The certificates of the `tls` section; `None` is a fault among them.
fn certificates(raw: &Written<Tls>, problems: &Problems) -> Option<Vec<model::Certificate>> {
    let tls = match raw {
        Written::Absent => return Some(Vec::new()),
        Written::Bad => return None,
        Written::Is(At { value, .. }) => value,
    };
    let (mut seen, mut good) = (HashSet::new(), Vec::new());
    for At { value: certificate, .. } in &tls.certificates.good {
        let needed = [
            (certificate.name.is_absent(), "name", "a certificate needs `name`"),
            (certificate.cert.is_absent(), "cert", "a certificate needs `cert`: a PEM file"),
            (certificate.key.is_absent(), "key", "a certificate needs `key`: a PEM file"),
        ];
        for (_, key, message) in needed.into_iter().filter(|(absent, ..)| *absent) {
            problems.error(&certificate.place.key(key), message);
        }
        let Some(name) = certificate.name.at() else { continue };
        if !seen.insert(&name.value) {
            let message = format!("there is a certificate `{}` already", name.value);
            problems.error(&name.place, message);
            continue;
        }
        let (Some(cert), Some(key)) = (certificate.cert.at(), certificate.key.at()) else {
            continue;
        };
        good.push(model::Certificate {
            name: name.value.clone(),
            cert: cert.value.clone(),
            key: key.value.clone(),
        });
    }
    let faulty = matches!(tls.certificates.written, Written::Bad)
        || matches!(tls.min_version, Written::Bad)
        || good.len() != tls.certificates.good.len();
    (!faulty).then_some(good)
}

/// The outer `None` is a fault, the inner one plain HTTP.
fn tls(
    raw: &AdminHttp,
    known: Option<&[model::Certificate]>,
    file: &File,
    problems: &Problems,
) -> Option<Option<model::ServerTls>> {
    let names: &Items<String> = match &raw.tls {
        Written::Absent | Written::Is(At { value: None, .. }) => return Some(None),
        Written::Bad => return None,
        Written::Is(At { value: Some(names), .. }) => names,
    };
    if names.good.is_empty() && !matches!(names.written, Written::Bad) {
        let place = raw.tls.place().unwrap_or(&raw.place);
        problems.error(&place.key("certificates"), "TLS needs a certificate: [NAME]");
        return None;
    }
    let known = known?;
    let mut certificates = Vec::new();
    for At { value: name, place } in &names.good {
        match known.iter().find(|certificate| certificate.name == *name) {
            Some(certificate) => certificates.push(certificate.clone()),
            None => {
                let all = || known.iter().map(|certificate| certificate.name.as_str());
                let hint = match units::nearest(name, all()) {
                    Some(near) => format!("did you mean `{near}`?"),
                    None if known.is_empty() => "there is none under `tls.certificates`".to_owned(),
                    None => format!("known are {}", units::list(all())),
                };
                problems.error(place, format!("there is no certificate `{name}`; {hint}"));
            }
        }
    }
    if matches!(names.written, Written::Bad) || certificates.len() != names.good.len() {
        return None;
    }
    let min_version = file.tls.at().map(|tls| &tls.value.min_version);
    let min_version = min_version.and_then(Written::at).map(|at| at.value);
    Some(Some(model::ServerTls {
        certificates,
        min_version: min_version.unwrap_or(model::TlsVersion::Tls12),
    }))
}
