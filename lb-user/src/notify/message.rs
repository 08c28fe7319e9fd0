//! What is said: a transition as a command's arguments and as a mail.
//!
//! Must not know: queues, processes, SMTP.

use std::time::SystemTime;

/// What a notification is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A VRRP instance.
    Instance,
    /// A VRRP sync group.
    Group,
    /// A real server, whatever services have it.
    RealServer,
    /// The quorum of a virtual service.
    VirtualService,
}

impl Kind {
    /// keepalived's word: of its notify scripts, and of its `lvs_notify_fifo`.
    fn word(self) -> &'static str {
        match self {
            Self::Instance => "INSTANCE",
            Self::Group => "GROUP",
            Self::RealServer => "RS",
            Self::VirtualService => "VS",
        }
    }

    /// What its figure is.
    fn figure(self) -> &'static str {
        match self {
            Self::Instance | Self::Group => "Priority",
            Self::RealServer => "Services",
            Self::VirtualService => "Weight",
        }
    }

    /// Whether its mails may wait for each other and come as one.
    pub fn is_gathered(self) -> bool {
        matches!(self, Self::RealServer | Self::VirtualService)
    }
}

/// The state that was entered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum State {
    /// It owns the addresses (RFC 9568: Active).
    Master,
    /// It waits for the master to fall silent.
    Backup,
    /// It may not become master.
    Fault,
    /// It ends.
    Stop,
    /// It serves.
    Up,
    /// It does not.
    Down,
}

impl State {
    /// keepalived's word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Master => "MASTER",
            Self::Backup => "BACKUP",
            Self::Fault => "FAULT",
            Self::Stop => "STOP",
            Self::Up => "UP",
            Self::Down => "DOWN",
        }
    }
}

/// A transition that somebody is to be told of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notification {
    /// Of what.
    pub kind: Kind,
    /// Its name; with the kind it is the subject, whose notifications keep their order.
    pub name: String,
    /// The state that it entered.
    pub state: State,
    /// The last argument of commands: a priority, the live weight of a virtual service, the names of
    /// the services that have a real server.
    pub figure: String,
    /// Why, for people.
    pub cause: String,
    /// Commands as they are configured, in the order in which they run: that of the state, then
    /// `any`. Empty ones are none.
    pub commands: Vec<Vec<String>>,
    /// Whether a mail goes out.
    pub email: bool,
}

impl Notification {
    /// The words that are run for a configured command: keepalived's arguments come last.
    pub fn arguments(&self, command: &[String]) -> Vec<String> {
        let ours = [self.kind.word(), &self.name, self.state.word(), &self.figure];
        let ours = ours.map(str::to_owned);
        command.iter().cloned().chain(ours).collect()
    }

    /// The transition in a few words, as keepalived puts it.
    pub fn title(&self) -> String {
        let (name, state) = (&self.name, self.state.word());
        one_line(&match self.kind {
            Kind::Instance => format!("VRRP Instance {name} - Entering {state} state"),
            Kind::Group => format!("VRRP Group {name} - Entering {state} state"),
            Kind::RealServer => format!("Realserver {name} of {} - {state}", self.figure),
            Kind::VirtualService => format!("Virtualserver {name} - {state}"),
        })
    }
}

/// A mail that waits to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mail {
    /// The subject line.
    pub subject: String,
    /// The text.
    pub body: String,
    /// When it was written.
    pub at: SystemTime,
}

impl Mail {
    /// The mail about `notification`, which happened at `at` on `node`.
    pub fn new(notification: &Notification, node: &str, at: SystemTime) -> Self {
        let title = notification.title();
        let time = humantime::format_rfc3339_millis(at);
        let Notification { kind, figure, cause, .. } = notification;
        let (node, figure, cause) = (one_line(node), one_line(figure), one_line(cause));
        let label = format!("{}:", kind.figure());
        let body = format!(
            "{title}\r\n\r\nNode:     {node}\r\nTime:     {time}\r\n{label:9} {figure}\r\nCause:    {cause}\r\n"
        );
        Self { subject: format!("[{node}] {title}"), body, at }
    }

    /// One mail of several, in their order; one alone stays what it is.
    pub fn digest(mut mails: Vec<Self>, left_out: usize, node: &str, at: SystemTime) -> Self {
        if mails.len() == 1 && left_out == 0 {
            return mails.remove(0);
        }
        let subject = format!("[{}] {} changes of state", one_line(node), mails.len() + left_out);
        let mut bodies: Vec<String> = mails.into_iter().map(|mail| mail.body).collect();
        if left_out > 0 {
            bodies.push(format!("and {left_out} more\r\n"));
        }
        Self { subject, body: bodies.join("\r\n\r\n"), at }
    }
}

/// A line break in a name would begin another line of the mail.
fn one_line(text: &str) -> String {
    text.replace(|c: char| c.is_control(), " ")
}

#[cfg(test)]
pub(super) mod tests {
    use std::time::Duration;

    use super::*;

    pub(in crate::notify) fn notification(name: &str, state: State) -> Notification {
        Notification {
            kind: Kind::Instance,
            name: name.to_owned(),
            state,
            figure: "100".to_owned(),
            cause: "no advert for 3.6 s".to_owned(),
            commands: Vec::new(),
            email: false,
        }
    }

    #[test]
    fn commands_get_the_arguments_of_keepalived() {
        let words = ["/bin/x", "master"].map(str::to_owned);
        let told = notification("VI_1", State::Master).arguments(&words);
        assert_eq!(told.join(" "), "/bin/x master INSTANCE VI_1 MASTER 100");
        for (state, word) in
            [(State::Backup, "BACKUP"), (State::Fault, "FAULT"), (State::Stop, "STOP")]
        {
            let told = Notification { kind: Kind::Group, ..notification("VG 1", state) };
            assert_eq!(told.arguments(&words[..1]), ["/bin/x", "GROUP", "VG 1", word, "100"]);
        }
    }

    #[test]
    fn a_mail_says_what_when_and_why() {
        let at = SystemTime::UNIX_EPOCH + Duration::from_millis(1_795_273_413_250);
        let mail = Mail::new(&notification("VI_1", State::Master), "lb01", at);
        assert_eq!(mail.subject, "[lb01] VRRP Instance VI_1 - Entering MASTER state");
        assert_eq!(
            mail.body,
            "VRRP Instance VI_1 - Entering MASTER state\r\n\r\nNode:     lb01\r\n\
             Time:     2026-11-21T15:03:33.250Z\r\nPriority: 100\r\n\
             Cause:    no advert for 3.6 s\r\n"
        );
    }

    #[test]
    fn servers_and_services_are_told_in_keepalived_s_words() {
        let down = Notification {
            kind: Kind::RealServer,
            figure: "web,api".to_owned(),
            cause: "L4CON: Connection refused".to_owned(),
            ..notification("10.0.0.1:80", State::Down)
        };
        let words = ["/bin/x".to_owned()];
        assert_eq!(down.arguments(&words).join(" "), "/bin/x RS 10.0.0.1:80 DOWN web,api");
        assert_eq!(down.title(), "Realserver 10.0.0.1:80 of web,api - DOWN");
        let up = Notification {
            kind: Kind::VirtualService,
            figure: "5".to_owned(),
            ..notification("web", State::Up)
        };
        assert_eq!(up.arguments(&words).join(" "), "/bin/x VS web UP 5");
        let at = SystemTime::UNIX_EPOCH;
        let mails = || vec![Mail::new(&down, "n", at), Mail::new(&up, "n", at)];
        let digest = Mail::digest(mails(), 0, "n", at);
        assert_eq!(digest.subject, "[n] 2 changes of state");
        let titles = [down.title(), up.title()];
        assert!(titles.iter().all(|title| digest.body.contains(title.as_str())), "{}", digest.body);
        let alone = Mail::digest(mails().split_off(1), 0, "n", at);
        assert_eq!(alone.subject, "[n] Virtualserver web - UP");
        assert_eq!(Mail::digest(mails(), 3, "n", at).subject, "[n] 5 changes of state");
    }

    #[test]
    fn a_name_cannot_begin_another_line() {
        let cause = "x\r\n.\r\nMAIL FROM:<>".to_owned();
        let told = Notification { cause, ..notification("a\r\nBcc: b@c", State::Fault) };
        let mail = Mail::new(&told, "n\nm", SystemTime::UNIX_EPOCH);
        assert_eq!(mail.subject, "[n m] VRRP Instance a  Bcc: b@c - Entering FAULT state");
        assert_eq!(mail.body.lines().count(), 6, "{}", mail.body);
    }
}
