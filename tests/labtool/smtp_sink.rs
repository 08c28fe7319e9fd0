//! `smtp-sink`: prints each mail that it takes as one JSON line.
//!
//! Must not know: who sends.

use crate::args::Args;
use crate::smtp::{Behaviour, Mail, serve};
use crate::{site, until_stdin_closes};
use anyhow::{Context, Result};
use serde_json::json;
use std::net::TcpListener;
use std::sync::Arc;

/// Serves until stdin closes.
pub(crate) fn run(args: &Args) -> Result<()> {
    let auth = match args.text("auth") {
        Ok(words) => {
            let (user, password) = words.split_once(':').context("--auth is user:password")?;
            let mechanism = args.value("mechanism", "PLAIN".to_owned())?;
            Some((user.to_owned(), password.to_owned(), mechanism))
        }
        Err(_) => None,
    };
    let tls = match args.text("cert") {
        Ok(cert) => Some(Arc::new(site::tls(cert, args.text("key")?)?)),
        Err(_) => None,
    };
    let behaviour = Behaviour {
        refuse: args.value("refuse", 0)?.into(),
        greeting: args.text("greeting").ok().map(str::to_owned),
        hang: args.value("hang", 0)?.into(),
        unknown: args.text("unknown").ok().map(str::to_owned),
        greylisted: args.text("greylisted").ok().map(str::to_owned),
        auth,
        tls,
        inject: args.is_set("inject"),
    };
    let behaviour = Arc::new(behaviour);
    for bind in args.all("bind") {
        let listener = TcpListener::bind(bind).with_context(|| format!("listen on {bind}"))?;
        serve(listener, Arc::clone(&behaviour), |mail| drop(print(&mail)));
    }
    until_stdin_closes()
}

fn print(mail: &Mail) -> Result<()> {
    let Mail { from, to, subject, body, user, tls } = mail;
    crate::say(json!({
        "from": from, "to": to, "subject": subject, "body": body, "user": user, "tls": tls,
    }))
}
