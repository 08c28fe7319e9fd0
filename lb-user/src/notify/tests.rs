//! Notifications with real commands, as root, and a real mail server.
//!
//! Must not know: VRRP.

use std::fs::{self, Permissions};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, TryRecvError, channel};
use std::time::{Duration, Instant};

use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::{RootCertStore, ServerConfig};

use super::message::tests::notification;
use super::smtp::{Failure, deliver};
use super::*;
use crate::exec::tests::{Folder, eventually, exists};
use crate::model::Email;

#[path = "../../../tests/labtool/smtp.rs"]
mod sink;

use sink::{Behaviour, Mail};

const STATES: [State; 4] = [State::Master, State::Backup, State::Fault, State::Stop];

fn with(name: &str, state: State, commands: &[&[&str]]) -> Notification {
    let words = |words: &&[&str]| words.iter().map(|word| (*word).to_owned()).collect();
    Notification { commands: commands.iter().map(words).collect(), ..notification(name, state) }
}

#[tokio::test(flavor = "current_thread")]
async fn fifty_transitions_run_in_order_and_other_subjects_do_not_wait() {
    let folder = Folder::new("order");
    let (log, gate) = (folder.path("log"), folder.path("gate"));
    // The first one is held up until another instance's command has run.
    let script = folder.script("s", &format!(
        "n=0; while [ $1 = 0 ] && [ ! -e {} ] && [ $n -lt 1000 ]; do sleep 0.01; n=$((n+1)); done\n\
         echo $* $n >> {}", gate.display(), log.display()
    ));
    let open = folder.script("open", &format!("echo > {}", gate.display()));
    let notifier = Notifier::spawn(Settings::new("lb01", None));
    let mut expected = Vec::new();
    for n in 0..50 {
        let state = STATES[n % 4];
        let number = n.to_string();
        let any = format!("{n}a");
        notifier.send(with("VI_1", state, &[&[&script, &number], &[], &[&script, &any]]));
        for first in [number, any] {
            expected.push(format!("{first} INSTANCE VI_1 {} 100", state.word()));
        }
    }
    assert_eq!(notifier.counts().notifications_waiting, 50);
    notifier.send(with("VI_2", State::Master, &[&[&open]]));
    let left = notifier.stop(Duration::from_secs(60)).await;
    assert_eq!(left, Unfinished::default());
    let log = fs::read_to_string(log).expect("a log");
    let (said, waited): (Vec<_>, Vec<_>) =
        log.lines().map(|line| line.rsplit_once(' ').expect("a count")).unzip();
    assert_eq!(said, expected);
    assert_ne!(waited[0], "1000", "the other instance's command ran meanwhile");
    let counts = notifier.counts();
    assert_eq!((counts.commands_run, counts.commands_failed), (101, 0), "{counts:?}");
    assert_eq!(counts.notifications_waiting, 0);
    notifier.send(with("VI_2", State::Stop, &[&[&open]]));
    assert_eq!(notifier.counts(), counts, "after the stop nothing is taken");
}

#[tokio::test(flavor = "current_thread")]
async fn a_hanging_command_is_killed_with_its_children_and_the_next_one_runs() {
    let folder = Folder::new("hanging");
    let (pids, mark) = (folder.path("pids"), folder.path("mark"));
    let hang = format!("sleep 600 &\necho $! >> {0}\necho $$ >> {0}\nwait", pids.display());
    let hang = folder.script("hang", &hang);
    let good = folder.script("good", &format!("echo $3 > {}", mark.display()));
    let short = Duration::from_secs(1);
    let settings = Settings { command_timeout: short, ..Settings::new("lb01", None) };
    let notifier = Notifier::spawn(settings);
    notifier.send(with("VI_1", State::Master, &[&[&hang]]));
    notifier.send(with("VI_1", State::Backup, &[&["/bin/false"], &[&good]]));
    eventually("the next one ran", || notifier.counts().commands_run == 3).await;
    assert_eq!(fs::read_to_string(&mark).expect("a mark"), "BACKUP\n");
    let pids = fs::read_to_string(pids).expect("pids");
    assert_eq!(pids.lines().count(), 2, "{pids}");
    for pid in pids.lines() {
        eventually("it is gone", || !exists(pid)).await;
    }
    let counts = notifier.counts();
    assert_eq!((counts.commands_timed_out, counts.commands_failed), (1, 2), "{counts:?}");
}

#[tokio::test(flavor = "current_thread")]
async fn a_command_that_others_can_change_is_not_run() {
    let folder = Folder::new("unsafe");
    let mark = folder.path("mark");
    let script = folder.script("s", &format!("echo > {}", mark.display()));
    let notifier = Notifier::spawn(Settings::new("lb01", None));
    fs::set_permissions(&script, Permissions::from_mode(0o757)).expect("a mode");
    notifier.send(with("VI_1", State::Master, &[&[&script]]));
    eventually("it was refused", || notifier.counts().commands_failed == 1).await;
    assert!(!mark.exists());
    fs::set_permissions(&script, Permissions::from_mode(0o755)).expect("a mode");
    notifier.send(with("VI_1", State::Backup, &[&[&script]]));
    eventually("it ran", || notifier.counts().commands_run == 2).await;
    assert!(mark.exists());
}

#[tokio::test(flavor = "current_thread")]
async fn a_stop_kills_what_does_not_end() {
    let folder = Folder::new("stop");
    let pid = folder.path("pid");
    let hang =
        folder.script("s", &format!("echo $$ > {0}.new; mv {0}.new {0}; sleep 600", pid.display()));
    let notifier = Notifier::spawn(Settings::new("lb01", None));
    notifier.send(with("VI_1", State::Master, &[&[&hang]]));
    notifier.send(with("VI_1", State::Stop, &[&[&hang]]));
    eventually("it runs", || pid.exists()).await;
    let leader = fs::read_to_string(&pid).expect("pid");
    let left = notifier.stop(Duration::from_millis(50)).await;
    assert_eq!(left, Unfinished { notifications: 2, mails: 0 });
    eventually("it is killed", || !exists(&leader)).await;
}

/// A mail server on loopback.
struct Server {
    behaviour: Arc<Behaviour>,
    mails: Receiver<Mail>,
    email: Email,
}

impl Server {
    fn start(behaviour: Behaviour) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("its address").port();
        let (sender, mails) = channel();
        let behaviour = Arc::new(behaviour);
        sink::serve(listener, Arc::clone(&behaviour), move |mail| drop(sender.send(mail)));
        let email = Email {
            host: "localhost".to_owned(),
            port,
            from: "lb@example.com".to_owned(),
            to: ["ops@example.com", "Second <two@example.com>"].map(str::to_owned).to_vec(),
            starttls: false,
            username: None,
            password_file: None,
            timeout: Duration::from_secs(10),
        };
        Self { behaviour, mails, email }
    }

    async fn next(&self) -> Mail {
        let mut next = None;
        eventually("a mail arrives", || {
            next = match self.mails.try_recv() {
                Ok(mail) => Some(mail),
                Err(TryRecvError::Empty) => None,
                Err(TryRecvError::Disconnected) => panic!("the server ended"),
            };
            next.is_some()
        })
        .await;
        next.expect("a mail")
    }

    fn notifier(&self) -> Notifier {
        Notifier::spawn(Settings::new("lb01", Some(self.email.clone())))
    }
}

fn mailed(name: &str, state: State) -> Notification {
    Notification { email: true, ..notification(name, state) }
}

/// The server's certificate and whoever trusts it.
fn tls(name: &str) -> (Arc<ServerConfig>, RootCertStore) {
    let CertifiedKey { cert, signing_key } =
        generate_simple_self_signed([name.to_owned()]).expect("a certificate");
    let key = PrivatePkcs8KeyDer::from(signing_key.serialize_der());
    let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![cert.der().clone()], key.into())
        .expect("a server");
    let mut roots = RootCertStore::empty();
    roots.add(cert.der().clone()).expect("an authority");
    (Arc::new(config), roots)
}

#[tokio::test(flavor = "current_thread")]
async fn a_mail_arrives_as_it_was_written() {
    let server = Server::start(Behaviour::default());
    let notifier = server.notifier();
    notifier.send(Notification { cause: ".dot: é".to_owned(), ..mailed("VI_1", State::Master) });
    notifier.send(notification("VI_1", State::Backup));
    notifier.send(Notification { kind: Kind::Group, ..mailed("VG_1", State::Fault) });
    let mail = server.next().await;
    assert_eq!(mail.from, "lb@example.com");
    assert_eq!(mail.to, ["ops@example.com", "two@example.com"]);
    assert_eq!(mail.subject, "[lb01] VRRP Instance VI_1 - Entering MASTER state");
    assert_eq!((mail.user, mail.tls), (None, false));
    let lines: Vec<_> = mail.body.lines().collect();
    assert_eq!(lines[0], "VRRP Instance VI_1 - Entering MASTER state");
    assert!(lines[3].starts_with("Time:     20") && lines[3].ends_with('Z'), "{lines:?}");
    assert_eq!(lines[4], "Priority: 100");
    assert_eq!(lines[5], "Cause:    .dot: =C3=A9", "quoted-printable");
    let mail = server.next().await;
    assert_eq!(mail.subject, "[lb01] VRRP Group VG_1 - Entering FAULT state");
    eventually("it is counted", || notifier.counts().mails_sent == 2).await;
    let counts = Counts { mails_sent: 2, ..Counts::default() };
    assert_eq!(notifier.counts(), counts, "one that asks for no mail sends none");
}

#[tokio::test(flavor = "current_thread")]
async fn a_refused_delivery_is_tried_again_and_the_order_is_kept() {
    let server = Server::start(Behaviour { refuse: 1.into(), ..Behaviour::default() });
    let notifier = server.notifier();
    let began = Instant::now();
    for state in STATES {
        notifier.send(mailed("VI_1", state));
    }
    for state in STATES {
        let expected = format!("[lb01] VRRP Instance VI_1 - Entering {} state", state.word());
        assert_eq!(server.next().await.subject, expected);
    }
    assert!(began.elapsed() >= outbox::FIRST_PAUSE, "{:?}", began.elapsed());
    eventually("they are counted", || notifier.counts().mails_sent == 4).await;
    let counts = notifier.counts();
    assert_eq!((counts.mails_failed, counts.mails_waiting, counts.mails_dropped), (1, 0, 0));
}

#[tokio::test(flavor = "current_thread")]
async fn a_server_that_says_nothing_is_left_after_the_timeout() {
    let mut server = Server::start(Behaviour { hang: 1.into(), ..Behaviour::default() });
    server.email.timeout = Duration::from_millis(200);
    let notifier = server.notifier();
    let began = Instant::now();
    notifier.send(mailed("VI_1", State::Master));
    server.next().await;
    assert!(began.elapsed() >= outbox::FIRST_PAUSE + server.email.timeout);
    assert_eq!(
        (notifier.counts().mails_failed, server.behaviour.hang.load(Ordering::Relaxed)),
        (1, 0)
    );
}

#[tokio::test(flavor = "current_thread")]
async fn it_authenticates_with_what_the_server_offers() {
    let folder = Folder::new("auth");
    let file = folder.path("password");
    for mechanism in ["PLAIN", "LOGIN"] {
        let auth = Some(("u".to_owned(), "p s".to_owned(), mechanism.to_owned()));
        let mut server = Server::start(Behaviour { auth, ..Behaviour::default() });
        let why = failure(&server.email, None).await;
        assert!(why.contains("530"), "the server insists on it: {why}");
        server.email.username = Some("u".to_owned());
        assert_eq!(failure(&server.email, None).await, "a user name needs a password_file");
        server.email.password_file = Some(file.clone());
        fs::write(&file, "wrong\n").expect("a file");
        let why = failure(&server.email, None).await;
        assert!(why.starts_with("AUTH: ") && why.contains("535"), "{why}");
        fs::write(&file, "p s\n").expect("a file");
        server.notifier_sends_one().await;
    }
}

#[tokio::test(flavor = "current_thread")]
async fn with_starttls_nothing_is_sent_in_clear() {
    let folder = Folder::new("tls");
    let file = folder.path("password");
    fs::write(&file, "p").expect("a file");
    let (config, roots) = tls("localhost");
    let auth = || Some(("u".to_owned(), "p".to_owned(), "PLAIN".to_owned()));
    let behaviour =
        || Behaviour { auth: auth(), tls: Some(Arc::clone(&config)), ..Behaviour::default() };
    let with_tls = |server: &mut Server| {
        server.email.starttls = true;
        server.email.username = Some("u".to_owned());
        server.email.password_file = Some(file.clone());
    };
    let mut server = Server::start(behaviour());
    with_tls(&mut server);
    let mut settings = Settings::new("lb01", Some(server.email.clone()));
    settings.trusted = Some(roots.clone());
    let notifier = Notifier::spawn(settings);
    notifier.send(mailed("VI_1", State::Master));
    let mail = server.next().await;
    assert_eq!((mail.tls, mail.user.as_deref()), (true, Some("u")));
    // A server whose certificate nobody vouches for.
    let why = failure(&server.email, Some(&RootCertStore::empty())).await;
    assert!(why.starts_with("the TLS handshake: ") && why.contains("UnknownIssuer"), "{why}");
    // One that is another.
    let other = Email { host: "127.0.0.1".to_owned(), ..server.email.clone() };
    let why = failure(&other, Some(&roots)).await;
    assert!(why.starts_with("the TLS handshake: ") && why.contains("not valid for name"), "{why}");
    // One that offers none, or whose offer was taken away.
    let mut clear = Server::start(Behaviour { auth: auth(), ..Behaviour::default() });
    with_tls(&mut clear);
    let why = failure(&clear.email, Some(&roots)).await;
    assert!(why.starts_with("the server does not offer STARTTLS and nothing was sent"), "{why}");
    // Somebody in between who answers in the server's place.
    let mut injected = Server::start(Behaviour { inject: true, ..behaviour() });
    with_tls(&mut injected);
    let why = failure(&injected.email, Some(&roots)).await;
    assert!(why.starts_with("the server says more than it was asked"), "{why}");
    for server in [clear, injected] {
        assert_eq!(server.mails.try_recv(), Err(TryRecvError::Empty));
    }
}

#[tokio::test(flavor = "current_thread")]
async fn each_receiver_gets_a_mail_once() {
    // One is refused for good: the other one gets it.
    let unknown = Some("ops@example.com".to_owned());
    let server = Server::start(Behaviour { unknown, ..Behaviour::default() });
    let notifier = server.notifier();
    notifier.send(mailed("VI_1", State::Master));
    assert_eq!(server.next().await.to, ["two@example.com"]);
    eventually("it is sent", || notifier.counts().mails_sent == 1).await;
    // All are: the mail is given up, and the next one is not held up.
    let unknown = Some("ops@example.com".to_owned());
    let mut server = Server::start(Behaviour { unknown, ..Behaviour::default() });
    server.email.to.truncate(1);
    let notifier = server.notifier();
    notifier.send(mailed("VI_1", State::Master));
    eventually("it is given up", || notifier.counts().mails_dropped == 1).await;
    assert_eq!(notifier.counts().mails_waiting, 0);
    // One is told to come back: it gets it later, and the other one not again.
    let greylisted = Some("ops@example.com".to_owned());
    let server = Server::start(Behaviour { greylisted, refuse: 1.into(), ..Behaviour::default() });
    let notifier = server.notifier();
    notifier.send(mailed("VI_1", State::Master));
    assert_eq!(server.next().await.to, ["two@example.com"]);
    assert_eq!(server.next().await.to, ["ops@example.com"]);
    eventually("it is sent", || notifier.counts().mails_sent == 1).await;
    assert!(server.mails.try_recv().is_err());
}

#[tokio::test(flavor = "current_thread")]
async fn a_refused_receiver_is_told_even_when_the_mail_is_put_off() {
    let unknown = Some("ops@example.com".to_owned());
    let server = Server::start(Behaviour { unknown, refuse: 1.into(), ..Behaviour::default() });
    match delivered(&server.email, None).await {
        Err(Failure::Later { why, left, refused }) => {
            assert!(why.contains("451"), "{why}");
            assert_eq!(left.as_deref(), Some(&["Second <two@example.com>".to_owned()][..]));
            assert!(refused.len() == 1 && refused[0].contains("550"), "{refused:?}");
        }
        other => panic!("it was not put off: {other:?}"),
    }
}

#[tokio::test(flavor = "current_thread")]
async fn a_stop_tries_once_more_and_says_what_was_not_sent() {
    let mut server = Server::start(Behaviour { refuse: 3.into(), ..Behaviour::default() });
    let notifier = server.notifier();
    notifier.send(mailed("VI_1", State::Master));
    // The pause after that is 4 s, so that one that is waited for is told from a busy machine.
    eventually("it is refused", || notifier.counts().mails_failed == 3).await;
    let began = Instant::now();
    assert_eq!(notifier.stop(Duration::from_secs(10)).await, Unfinished::default());
    assert!(began.elapsed() < Duration::from_secs(3), "it waited: {:?}", began.elapsed());
    server.next().await;
    server.behaviour.hang.store(9, Ordering::Relaxed);
    server.email.timeout = Duration::from_secs(100);
    let notifier = server.notifier();
    notifier.send(mailed("VI_1", State::Master));
    notifier.send(mailed("VI_1", State::Stop));
    let left = notifier.stop(Duration::from_millis(50)).await;
    assert_eq!(left, Unfinished { notifications: 0, mails: 2 });
    assert_eq!(notifier.counts().mails_dropped, 2);
}

#[tokio::test(flavor = "current_thread")]
async fn other_settings_hold_at_once() {
    let refusing = Server::start(Behaviour { refuse: 1000.into(), ..Behaviour::default() });
    let notifier = refusing.notifier();
    notifier.send(mailed("VI_1", State::Master));
    notifier.send(mailed("VI_1", State::Backup));
    eventually("it is refused", || notifier.counts().mails_failed == 1).await;
    let server = Server::start(Behaviour::default());
    notifier.set(Settings::new("lb02", Some(server.email.clone())));
    assert!(server.next().await.subject.contains("MASTER"));
    assert!(server.next().await.subject.contains("BACKUP"));
    notifier.set(Settings::new("lb02", Some(refusing.email.clone())));
    notifier.send(mailed("VI_1", State::Master));
    eventually("it is refused", || notifier.counts().mails_failed == 2).await;
    notifier.set(Settings::new("lb02", None));
    notifier.send(mailed("VI_1", State::Master));
    let counts = notifier.counts();
    assert_eq!((counts.mails_waiting, counts.mails_dropped), (0, 1), "{counts:?}");
}

impl Server {
    async fn notifier_sends_one(&self) {
        let notifier = self.notifier();
        notifier.send(mailed("VI_1", State::Master));
        let mail = self.next().await;
        assert_eq!(mail.user, self.email.username);
        eventually("it is counted", || notifier.counts().mails_sent == 1).await;
    }
}

/// What becomes of a delivery.
async fn delivered(email: &Email, trusted: Option<&RootCertStore>) -> Result<Vec<String>, Failure> {
    let mail = message::Mail::new(
        &notification("VI_1", State::Master),
        "lb01",
        std::time::SystemTime::now(),
    );
    let letter = outbox::Letter { mail, left: None, number: 1, is_digest: false };
    deliver(email, "lb01", trusted, &letter).await
}

/// Why a delivery fails.
async fn failure(email: &Email, trusted: Option<&RootCertStore>) -> String {
    match delivered(email, trusted).await {
        Ok(refused) => panic!("it was delivered, refused for {refused:?}"),
        Err(Failure::Later { why, .. } | Failure::Never(why)) => why,
    }
}
