//! What can be said on the command line.
//!
//! Commands of the contract that are not built yet are recognised and take any arguments.
//!
//! Must not know: how a command is done.

use std::ffi::OsString;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args as ClapArgs, Parser, Subcommand, ValueEnum};

use crate::controller::state_file;
use crate::model::{Admin, LogFormat, LogLevel, Prefix};

/// The whole command line.
#[derive(Debug, Parser)]
#[command(
    name = "lb",
    version,
    about = "A load balancer: XDP forwarding, health checks, one YAML file"
)]
pub struct Args {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// One command.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the daemon in the foreground
    Run(Run),
    /// Validate a configuration file and look for what this host lacks
    Check(Check),
    /// Apply the daemon's configuration file as a difference
    Reload(Daemon),
    /// Open log files anew, after they were renamed
    ReopenLogs(Daemon),
    /// Show services and real servers
    Status(Status),
    /// Show packets, bytes and connections
    Stats(Stats),
    /// Show the connection table
    Connections(Connections),
    /// Show the sources whose packets are dropped
    Bans(Daemon),
    /// Drop every packet of a source, of open connections too
    Ban(Ban),
    /// Lift a ban
    Unban(Unban),
    /// Say what would become of a packet, and why
    Explain(Explain),
    /// Show VRRP instances, or make one give its mastership up
    Vrrp(Vrrp),
    /// The process that owns virtual addresses; `lb run` starts it
    #[command(hide = true)]
    Speaker(Speaker),
    /// Watch services and real servers live
    Top(Top),
    /// Look for what is wrong with this host, with the command that mends it
    Doctor(Doctor),
    /// Remove what a daemon that is gone left on this host
    Detach(Detach),
    /// Prepare this host as a real server of a virtual address, or undo it
    RealServer(RealServer),
    /// Not supported yet.
    #[command(hide = true)]
    Upgrade(Rest),
    /// Not supported yet.
    #[command(hide = true)]
    Plan(Rest),
    /// Give a server no new connections, and wait until the open ones have ended
    Drain(Drain),
    /// Let a server take connections again
    Enable(Target),
    /// Take a server out of service; its open connections go on
    Disable(Target),
    /// Give a server another weight
    Weight(Weight),
    /// Add a real server to a service
    Add(Add),
    /// Remove a real server from its service; its open connections go on
    Remove(Target),
    /// Not supported yet.
    #[command(hide = true)]
    Capture(Rest),
    /// Not supported yet.
    #[command(hide = true)]
    Import(Rest),
    /// Not supported yet.
    #[command(hide = true)]
    Schema(Rest),
    /// Not supported yet.
    #[command(hide = true)]
    Completions(Rest),
    /// Not supported yet.
    #[command(hide = true)]
    Man(Rest),
}

impl Command {
    /// Its name on the command line.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Run(_) => "run",
            Self::Check(_) => "check",
            Self::Reload(_) => "reload",
            Self::Status(_) => "status",
            Self::Stats(_) => "stats",
            Self::Connections(_) => "connections",
            Self::Detach(_) => "detach",
            Self::Upgrade(_) => "upgrade",
            Self::Plan(_) => "plan",
            Self::Explain(_) => "explain",
            Self::Drain(_) => "drain",
            Self::Enable(_) => "enable",
            Self::Disable(_) => "disable",
            Self::Weight(_) => "weight",
            Self::Add(_) => "add",
            Self::Remove(_) => "remove",
            Self::Capture(_) => "capture",
            Self::ReopenLogs(_) => "reopen-logs",
            Self::Vrrp(_) => "vrrp",
            Self::Speaker(_) => "speaker",
            Self::Bans(_) => "bans",
            Self::Ban(_) => "ban",
            Self::Unban(_) => "unban",
            Self::Top(_) => "top",
            Self::Doctor(_) => "doctor",
            Self::RealServer(_) => "real-server",
            Self::Import(_) => "import",
            Self::Schema(_) => "schema",
            Self::Completions(_) => "completions",
            Self::Man(_) => "man",
        }
    }

    /// Whether it does anything yet.
    pub fn is_supported(&self) -> bool {
        matches!(
            self,
            Self::Run(_)
                | Self::Check(_)
                | Self::Reload(_)
                | Self::Status(_)
                | Self::Stats(_)
                | Self::Connections(_)
                | Self::Detach(_)
                | Self::RealServer(_)
                | Self::Explain(_)
                | Self::Bans(_)
                | Self::Ban(_)
                | Self::Unban(_)
                | Self::Vrrp(_)
                | Self::Speaker(_)
                | Self::Top(_)
                | Self::Doctor(_)
                | Self::ReopenLogs(_)
                | Self::Drain(_)
                | Self::Enable(_)
                | Self::Disable(_)
                | Self::Weight(_)
                | Self::Add(_)
                | Self::Remove(_)
        )
    }
}

/// `lb run`.
#[derive(Debug, ClapArgs)]
pub struct Run {
    /// The configuration file
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// Where what `--persist` keeps is written
    #[arg(long, value_name = "FILE", default_value = state_file::DEFAULT)]
    pub state: PathBuf,
    /// At stop, leave XDP, its maps and the addresses in place: packets go on being forwarded
    #[arg(long)]
    pub keep_dataplane: bool,
    /// How long a stop waits for open connections
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = duration)]
    pub drain_timeout: Duration,
}

/// `lb check`.
#[derive(Debug, ClapArgs)]
pub struct Check {
    /// The configuration file
    pub file: PathBuf,
    /// The state file: what it keeps is listed
    #[arg(long, value_name = "FILE", default_value = state_file::DEFAULT)]
    pub state: PathBuf,
    /// The other director's file: says who owns each virtual address after every single failure
    #[arg(long, value_name = "FILE")]
    pub peer: Option<PathBuf>,
    /// With --peer: print the JSON document
    #[arg(long, requires = "peer")]
    pub json: bool,
    /// With --peer: output format
    #[arg(short = 'o', long = "output", value_name = "FORMAT", value_enum, requires = "peer")]
    pub output: Option<Format>,
}

impl Check {
    /// Whether JSON is wanted.
    pub fn wants_json(&self) -> bool {
        self.json || self.output == Some(Format::Json)
    }
}

/// Where the daemon is.
#[derive(Debug, ClapArgs)]
pub struct Daemon {
    /// The daemon's socket [default: $LB_SOCKET, else /run/lb/admin.sock]
    #[arg(long, value_name = "PATH")]
    pub socket: Option<PathBuf>,
    /// Print the JSON document
    #[arg(long)]
    pub json: bool,
    /// Output format
    #[arg(short = 'o', long = "output", value_name = "FORMAT", value_enum)]
    pub output: Option<Format>,
}

impl Daemon {
    /// The socket to use.
    pub fn socket(&self) -> PathBuf {
        let given = self.socket.clone();
        given
            .or_else(|| {
                std::env::var_os("LB_SOCKET").filter(|path| !path.is_empty()).map(Into::into)
            })
            .unwrap_or_else(|| Admin::default().socket)
    }

    /// Whether JSON is wanted.
    pub fn wants_json(&self) -> bool {
        self.json || self.output == Some(Format::Json)
    }
}

/// Output formats.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people.
    Text,
    /// For scripts.
    Json,
}

/// `lb status`.
#[derive(Debug, ClapArgs)]
pub struct Status {
    /// Only this virtual service
    pub name: Option<String>,
    /// Where and how.
    #[command(flatten)]
    pub daemon: Daemon,
}

/// `lb stats`.
#[derive(Debug, ClapArgs)]
pub struct Stats {
    /// Per second instead of in total
    #[arg(long)]
    pub rate: bool,
    /// Where and how.
    #[command(flatten)]
    pub daemon: Daemon,
}

/// `lb connections`.
#[derive(Debug, ClapArgs)]
pub struct Connections {
    /// Only those of this virtual service
    #[arg(long, value_name = "NAME")]
    pub service: Option<String>,
    /// At most this many
    #[arg(long, value_name = "N", default_value_t = crate::admin::api::DEFAULT_LIMIT)]
    pub limit: usize,
    /// Where and how.
    #[command(flatten)]
    pub daemon: Daemon,
}

/// `lb explain`.
#[derive(Debug, ClapArgs)]
pub struct Explain {
    /// Who sends the packet
    #[arg(long, value_name = "IP[:PORT]", required_unless_present = "http")]
    pub from: Option<String>,
    /// Where it goes
    #[arg(long, value_name = "IP:PORT/PROTO", required_unless_present = "http")]
    pub to: Option<String>,
    /// A request instead of a packet (not supported yet)
    #[arg(long, value_name = "REQUEST", hide = true, conflicts_with = "to")]
    pub http: Option<String>,
    /// A header of the request (not supported yet)
    #[arg(short = 'H', value_name = "HEADER", hide = true, requires = "http")]
    pub header: Vec<String>,
    /// Where and how.
    #[command(flatten)]
    pub daemon: Daemon,
}

/// `lb top`.
#[derive(Debug, ClapArgs)]
pub struct Top {
    /// Time between two readings
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = positive_duration)]
    pub refresh: Duration,
    /// Print one page and end, as when the output is no terminal
    #[arg(long)]
    pub once: bool,
    /// The daemon's socket [default: $LB_SOCKET, else /run/lb/admin.sock]
    #[arg(long, value_name = "PATH")]
    pub socket: Option<PathBuf>,
}

impl Top {
    /// The daemon.
    pub fn daemon(&self) -> Daemon {
        Daemon { socket: self.socket.clone(), json: false, output: None }
    }
}

/// `lb doctor`.
#[derive(Debug, ClapArgs)]
pub struct Doctor {
    /// The configuration to judge by [default: the daemon's, else /etc/lb/lb.yaml]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// A real server instead of this director (not supported yet)
    #[arg(long, value_name = "IP", hide = true)]
    pub real_server: Option<IpAddr>,
    /// Where and how.
    #[command(flatten)]
    pub daemon: Daemon,
}

/// `lb ban`.
#[derive(Debug, ClapArgs)]
pub struct Ban {
    /// Address or prefix; bits beyond the length are dropped
    #[arg(value_name = "IP[/LEN]", value_parser = clap::value_parser!(Prefix))]
    pub prefix: Prefix,
    /// How long; without it, until the ban is lifted
    #[arg(long = "for", value_name = "TIME", value_parser = positive_duration)]
    pub span: Option<Duration>,
    /// Where and how.
    #[command(flatten)]
    pub daemon: Daemon,
}

/// `lb unban`.
#[derive(Debug, ClapArgs)]
pub struct Unban {
    /// Address or prefix as it was banned
    #[arg(value_name = "IP[/LEN]", value_parser = clap::value_parser!(Prefix))]
    pub prefix: Prefix,
    /// Where and how.
    #[command(flatten)]
    pub daemon: Daemon,
}

/// `lb enable`, `lb disable` and `lb remove`.
#[derive(Debug, ClapArgs)]
pub struct Target {
    /// Which real server
    #[arg(value_name = "SERVICE/ADDRESS[:PORT]")]
    pub target: String,
    /// For good instead of until the next reload
    #[arg(long)]
    pub persist: bool,
    /// Where and how.
    #[command(flatten)]
    pub daemon: Daemon,
}

/// `lb drain`.
#[derive(Debug, ClapArgs)]
pub struct Drain {
    /// What is drained.
    #[command(flatten)]
    pub target: Target,
    /// How long open connections are waited for; without it, until there are none
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub timeout: Option<Duration>,
}

/// `lb weight`.
#[derive(Debug, ClapArgs)]
pub struct Weight {
    /// Whose weight.
    #[command(flatten)]
    pub target: Target,
    /// The weight; 0 gives no new connections
    #[arg(value_name = "N", value_parser = clap::value_parser!(u32).range(0..=i64::from(state_file::MAX_WEIGHT)))]
    pub weight: u32,
}

/// `lb add`.
#[derive(Debug, ClapArgs)]
pub struct Add {
    /// The virtual service
    pub service: String,
    /// The server; without a port it is the service's
    #[arg(value_name = "ADDRESS[:PORT]")]
    pub address: String,
    /// Its weight [default: what the file gives to every server]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(0..=i64::from(state_file::MAX_WEIGHT)))]
    pub weight: Option<u32>,
    /// For good instead of until the next reload
    #[arg(long)]
    pub persist: bool,
    /// Where and how.
    #[command(flatten)]
    pub daemon: Daemon,
}

/// `lb vrrp`.
#[derive(Debug, ClapArgs)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Vrrp {
    /// What to do instead of showing.
    #[command(subcommand)]
    pub command: Option<VrrpCommand>,
    /// Everything about this instance
    pub name: Option<String>,
    /// Where and how.
    #[command(flatten)]
    pub daemon: Daemon,
}

/// `lb vrrp ...`.
#[derive(Debug, Subcommand)]
pub enum VrrpCommand {
    /// Give the mastership of an instance up, and do not preempt until it was master again
    Resign {
        /// The instance
        name: String,
        /// Where and how.
        #[command(flatten)]
        daemon: Daemon,
    },
}

/// `lb speaker`.
#[derive(Debug, ClapArgs)]
pub struct Speaker {
    /// Where the controller connects
    #[arg(long, value_name = "PATH")]
    pub socket: PathBuf,
    /// The least important level that is logged
    #[arg(long, value_enum, default_value_t = Level::Info)]
    pub log_level: Level,
    /// How it is logged
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub log_format: Format,
}

/// Log levels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Level {
    /// See [`LogLevel::Error`].
    Error,
    /// See [`LogLevel::Warn`].
    Warn,
    /// See [`LogLevel::Info`].
    Info,
    /// See [`LogLevel::Debug`].
    Debug,
    /// See [`LogLevel::Trace`].
    Trace,
}

impl From<Level> for LogLevel {
    fn from(level: Level) -> Self {
        match level {
            Level::Error => Self::Error,
            Level::Warn => Self::Warn,
            Level::Info => Self::Info,
            Level::Debug => Self::Debug,
            Level::Trace => Self::Trace,
        }
    }
}

impl From<Format> for LogFormat {
    fn from(format: Format) -> Self {
        match format {
            Format::Text => Self::Text,
            Format::Json => Self::Json,
        }
    }
}

/// `lb detach`.
#[derive(Debug, ClapArgs)]
pub struct Detach {
    /// Where the daemon pinned its maps and links
    #[arg(long, value_name = "DIR", default_value = "/sys/fs/bpf/lb")]
    pub pin_path: PathBuf,
    /// Where and how.
    #[command(flatten)]
    pub daemon: Daemon,
}

/// `lb real-server`.
#[derive(Debug, ClapArgs)]
pub struct RealServer {
    /// What to do.
    #[command(subcommand)]
    pub command: RealServerCommand,
}

/// `lb real-server ...`, run on a real server.
#[derive(Debug, Subcommand)]
pub enum RealServerCommand {
    /// Put the virtual address on lo, with the kernel settings and the decapsulation it needs
    Setup(RealServerSetup),
    /// Put back what setup changed for this address
    Undo(RealServerPlace),
}

/// `lb real-server setup`.
#[derive(Debug, ClapArgs)]
pub struct RealServerSetup {
    /// Which address.
    #[command(flatten)]
    pub place: RealServerPlace,
    /// The virtual service's `forwarding`
    #[arg(long, value_enum, default_value_t = ServerMethod::Dr)]
    pub method: ServerMethod,
    /// Where tunnelled packets come in; may be repeated [default: every interface that is up and
    /// has an address]
    #[arg(long, value_name = "NAME")]
    pub interface: Vec<String>,
}

/// A virtual address, and where its setup is remembered.
#[derive(Debug, ClapArgs)]
pub struct RealServerPlace {
    /// The virtual address
    #[arg(long, value_name = "IP")]
    pub vip: IpAddr,
    /// Where it is remembered what was changed
    #[arg(long, value_name = "DIR", default_value = "/run/lb/real-server")]
    pub state_dir: PathBuf,
}

/// Forwarding methods that a real server has to be prepared for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ServerMethod {
    /// Direct routing.
    Dr,
    /// IP in IP.
    Tunnel,
}

/// Any arguments.
#[derive(Debug, ClapArgs)]
#[command(disable_help_flag = true)]
pub struct Rest {
    /// Not looked at.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub arguments: Vec<OsString>,
}

/// [`duration`] above zero.
fn positive_duration(text: &str) -> Result<Duration, String> {
    let span = duration(text)?;
    if span.is_zero() { Err("must be more than 0".to_owned()) } else { Ok(span) }
}

/// `100ms`, `5s`, `15m`, `1h`, as in the configuration file.
fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is not a duration like 500ms, 10s, 15m or 1h");
    let digits = text.find(|letter: char| !letter.is_ascii_digit()).ok_or_else(wrong)?;
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| wrong())?;
    let millis = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return Err(wrong()),
    };
    number.checked_mul(millis).map(Duration::from_millis).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_in_the_file() {
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("0s"), Ok(Duration::ZERO));
        assert_eq!(duration("2h"), Ok(Duration::from_secs(7200)));
        for wrong in ["", "5", "s", "-1s", "1.5s", "99999999999999999999s", "18446744073709551615h"]
        {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn json_has_two_spellings() {
        for line in
            [["lb", "status", "--json", "--socket=/s"], ["lb", "status", "-ojson", "--socket=/s"]]
        {
            let Command::Status(status) = Args::parse_from(line).command else { panic!("status") };
            assert!(status.daemon.wants_json());
            assert_eq!(status.daemon.socket(), PathBuf::from("/s"));
        }
    }
}
