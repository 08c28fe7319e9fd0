//! What is said: a transition as a command's arguments and as a mail.
//!
//! Must not know: queues, processes, SMTP.

use std::time::SystemTime;

/// What a notification is about. More kinds will come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A VRRP instance.
    Instance,
    /// A VRRP sync group.
    Group,
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
}

impl State {
    /// keepalived's word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Master => "MASTER",
            Self::Backup => "BACKUP",
            Self::Fault => "FAULT",
            Self::Stop => "STOP",
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
    /// Its priority now.
    pub priority: u8,
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
        let kind = match self.kind {
            Kind::Instance => "INSTANCE",
            Kind::Group => "GROUP",
        };
        let priority = self.priority.to_string();
        let ours = [kind, &self.name, self.state.word(), &priority].map(str::to_owned);
        command.iter().cloned().chain(ours).collect()
    }

    /// The transition in a few words, as keepalived puts it.
    pub fn title(&self) -> String {
        let kind = match self.kind {
            Kind::Instance => "VRRP Instance",
            Kind::Group => "VRRP Group",
        };
        one_line(&format!("{kind} {} - Entering {} state", self.name, self.state.word()))
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
        let Notification { priority, cause, .. } = notification;
        let (node, cause) = (one_line(node), one_line(cause));
        let body = format!(
            "{title}\r\n\r\nNode:     {node}\r\nTime:     {time}\r\nPriority: {priority}\r\nCause:    {cause}\r\n"
        );
        Self { subject: format!("[{node}] {title}"), body, at }
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
            priority: 100,
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
    fn a_name_cannot_begin_another_line() {
        let cause = "x\r\n.\r\nMAIL FROM:<>".to_owned();
        let told = Notification { cause, ..notification("a\r\nBcc: b@c", State::Fault) };
        let mail = Mail::new(&told, "n\nm", SystemTime::UNIX_EPOCH);
        assert_eq!(mail.subject, "[n m] VRRP Instance a  Bcc: b@c - Entering FAULT state");
        assert_eq!(mail.body.lines().count(), 6, "{}", mail.body);
    }
}
