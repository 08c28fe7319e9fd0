//! One delivery: connect, turn to TLS if asked to, authenticate, hand the mail over.
//!
//! Each step has the configured timeout. With `starttls` nothing is said in clear beyond what TLS
//! needs: a server that does not offer it, or whose certificate the host does not trust for the
//! configured name, gets nothing ([`starttls`]). The dialogue after that is lettre's.
//!
//! Must not know: queues, when it is tried again.

mod starttls;

use std::time::{Duration, SystemTime};

use lettre::message::header::{ContentType, HeaderName, HeaderValue};
use lettre::message::{Mailbox, Message};
use lettre::transport::smtp::Error as SmtpError;
use lettre::transport::smtp::authentication::{Credentials, Mechanism};
use lettre::transport::smtp::client::{AsyncSmtpConnection, AsyncTokioStream};
use lettre::transport::smtp::commands::{Data, Mail as From, Rcpt};
use lettre::transport::smtp::extension::ClientId;
use rustls::RootCertStore;
use tokio::net::TcpStream;

use super::outbox::Letter;
use crate::model::Email;

/// Why a mail was not delivered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// It may be taken later.
    Later {
        /// Why, for people.
        why: String,
        /// Whom it still has to reach, when that is not all.
        left: Option<Vec<String>>,
        /// The answers about those who were refused for good and are not among them any more.
        refused: Vec<String>,
    },
    /// The server refused it for good.
    Never(String),
}

/// What is wrong with one step.
#[derive(Debug)]
struct Fault {
    why: String,
    /// The server's answer was final (5xx); `None` when it was none.
    permanent: Option<bool>,
}

impl Fault {
    fn new(why: impl Into<String>) -> Self {
        Self { why: why.into(), permanent: None }
    }
}

/// A fault before the mail itself: nothing was said about it yet, and an operator may put it right.
impl std::convert::From<Fault> for Failure {
    fn from(fault: Fault) -> Self {
        Self::Later { why: fault.why, left: None, refused: Vec::new() }
    }
}

/// Delivers `letter` from `node` to those whom it still has to reach. Gives the receivers that the
/// server refused for good, each with its answer.
pub(super) async fn deliver(
    email: &Email,
    node: &str,
    trusted: Option<&RootCertStore>,
    letter: &Letter,
) -> Result<Vec<String>, Failure> {
    let name = helo(node);
    let receivers = letter.left.as_ref().unwrap_or(&email.to);
    let content = content(email, &name, letter)?;
    let mut connection = connect(email, &name, trusted).await?;
    if let Some(user) = &email.username {
        let credentials = Credentials::new(user.clone(), password(email).await?);
        let mechanisms = [Mechanism::Plain, Mechanism::Login];
        let limit = email.timeout;
        step("AUTH", limit, connection.auth(&mechanisms, &credentials)).await?;
    }
    let refused = hand_over(&mut connection, email, receivers, &content).await?;
    // The mail is the server's by now, whatever it answers.
    let _ = tokio::time::timeout(email.timeout, connection.quit()).await;
    Ok(refused)
}

/// From MAIL to the end of DATA.
async fn hand_over(
    connection: &mut AsyncSmtpConnection,
    email: &Email,
    receivers: &[String],
    content: &[u8],
) -> Result<Vec<String>, Failure> {
    let limit = email.timeout;
    let from = From::new(Some(mailbox(&email.from)?.email), Vec::new());
    step("MAIL FROM", limit, connection.command(from)).await.map_err(about_the_mail)?;
    let (mut taken, mut refused, mut later) = (Vec::new(), Vec::new(), Vec::new());
    let mut why = Vec::new();
    for receiver in receivers {
        let to = Rcpt::new(mailbox(receiver)?.email, Vec::new());
        match step(&format!("RCPT TO {receiver}"), limit, connection.command(to)).await {
            Ok(_) => taken.push(receiver.clone()),
            Err(fault) => match fault.permanent {
                Some(true) => refused.push(fault.why),
                Some(false) => {
                    later.push(receiver.clone());
                    why.push(fault.why);
                }
                None => return Err(fault.into()),
            },
        }
    }
    if taken.is_empty() && later.is_empty() {
        return Err(Failure::Never(refused.join("; ")));
    }
    if !taken.is_empty() {
        let data = async {
            step("DATA", limit, connection.command(Data)).await?;
            step("the mail's text", limit, connection.message(content)).await
        };
        if let Err(fault) = data.await {
            taken.append(&mut later);
            return Err(match about_the_mail(fault) {
                Failure::Later { why, .. } => Failure::Later { why, left: Some(taken), refused },
                never @ Failure::Never(_) => never,
            });
        }
    }
    if later.is_empty() {
        return Ok(refused);
    }
    Err(Failure::Later { why: why.join("; "), left: Some(later), refused })
}

/// A final answer to what belongs to the mail is final for the mail.
fn about_the_mail(fault: Fault) -> Failure {
    match fault.permanent {
        Some(true) => Failure::Never(fault.why),
        Some(false) | None => fault.into(),
    }
}

async fn step<T>(
    what: &str,
    limit: Duration,
    doing: impl Future<Output = Result<T, SmtpError>>,
) -> Result<T, Fault> {
    within(what, limit, doing).await?.map_err(|error| Fault {
        why: format!("{what}: {error}"),
        permanent: error.status().map(|_| error.is_permanent()),
    })
}

async fn within<T>(
    what: &str,
    limit: Duration,
    doing: impl Future<Output = T>,
) -> Result<T, Fault> {
    let done = tokio::time::timeout(limit, doing).await;
    done.map_err(|_| Fault::new(format!("{what}: no answer within {limit:?}")))
}

/// The name in the greeting and in the mail's number: the node's if it is fit for one.
fn helo(node: &str) -> String {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.');
    let name = if node.is_empty() || !node.chars().all(fits) { "localhost" } else { node };
    name.to_owned()
}

async fn password(email: &Email) -> Result<String, Fault> {
    let Some(file) = &email.password_file else {
        return Err(Fault::new("a user name needs a password_file"));
    };
    let read = within("reading the password", email.timeout, tokio::fs::read_to_string(file));
    let text = read.await?.map_err(|error| Fault::new(format!("{}: {error}", file.display())))?;
    Ok(text.trim_end_matches(['\r', '\n']).to_owned())
}

fn mailbox(address: &str) -> Result<Mailbox, Fault> {
    address.parse().map_err(|error| Fault::new(format!("{address:?} is no mail address: {error}")))
}

/// The mail as RFC 5322 has it.
fn content(email: &Email, name: &str, letter: &Letter) -> Result<Vec<u8>, Fault> {
    let mail = &letter.mail;
    let since = mail.at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    // The same at each attempt, so that a mail that was taken twice shows as one.
    let id = format!("<{:x}.{}@{name}>", since.as_nanos(), letter.number);
    // RFC 3834: nobody's absence is to be reported to the director.
    let automatic = HeaderName::new_from_ascii_str("Auto-Submitted");
    let mut builder = Message::builder()
        .from(mailbox(&email.from)?)
        .subject(&mail.subject)
        .date(mail.at)
        .message_id(Some(id))
        .raw_header(HeaderValue::new(automatic, "auto-generated".to_owned()))
        .header(ContentType::TEXT_PLAIN);
    for receiver in &email.to {
        builder = builder.to(mailbox(receiver)?);
    }
    let built = builder.body(mail.body.clone()).map_err(|error| Fault::new(error.to_string()))?;
    Ok(built.formatted())
}

async fn connect(
    email: &Email,
    name: &str,
    trusted: Option<&RootCertStore>,
) -> Result<AsyncSmtpConnection, Fault> {
    let (server, limit) = ((email.host.as_str(), email.port), email.timeout);
    let what = format!("connecting to {}:{}", email.host, email.port);
    let stream = within(&what, limit, TcpStream::connect(server)).await?;
    let stream = stream.map_err(|error| Fault::new(format!("{what}: {error}")))?;
    let stream: Box<dyn AsyncTokioStream> = if email.starttls {
        Box::new(starttls::secure(email, name, trusted, stream).await?)
    } else {
        Box::new(stream)
    };
    let id = ClientId::Domain(name.to_owned());
    step("EHLO", limit, AsyncSmtpConnection::connect_with_transport(stream, &id)).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_is_none_greets_as_localhost() {
        assert_eq!(helo("lb01.example.com"), "lb01.example.com");
        assert_eq!(helo("lb 01\r\nDATA"), "localhost");
        assert_eq!(helo(""), "localhost");
    }
}
