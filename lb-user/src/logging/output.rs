//! The ends of the log: standard error, a file, a syslog server.
//!
//! Each writes one line at a time, as it is, and says whether a line that was not written should be
//! tried again.
//!
//! Must not know: what is in a line, threads.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, ErrorKind, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::model::{LogSink, SyslogAddress};

/// Where lines end.
#[derive(Debug)]
pub(super) enum Output {
    Stderr,
    File { path: PathBuf, file: Option<File> },
    Udp { address: SocketAddr, socket: Option<UdpSocket> },
    Unix { path: PathBuf, socket: Option<UnixDatagram> },
}

/// Why a line was not written.
#[derive(Debug)]
pub(super) enum Failure {
    /// It may be later: the line, or what is left of it, is to be kept.
    Later(io::Error),
    /// It never will be.
    Never(io::Error),
    /// This line was sent; one before it did not arrive.
    Before(io::Error),
}

impl Output {
    /// Opens a file; sockets are made when the first line comes.
    pub(super) fn open(sink: &LogSink) -> io::Result<Self> {
        Ok(match sink {
            LogSink::Stderr => Self::Stderr,
            LogSink::File(path) => Self::File { path: path.clone(), file: Some(open(path)?) },
            LogSink::Syslog { address: SyslogAddress::Udp(address), .. } => {
                Self::Udp { address: *address, socket: None }
            }
            LogSink::Syslog { address: SyslogAddress::Unix(path), .. } => {
                Self::Unix { path: path.clone(), socket: None }
            }
        })
    }

    /// Lets go of what is open and opens it anew; a file that cannot be stays as it is.
    pub(super) fn reopen(&mut self) -> io::Result<()> {
        match self {
            Self::Stderr => {}
            Self::File { path, file } => *file = Some(open(path)?),
            Self::Udp { socket, .. } => *socket = None,
            Self::Unix { socket, .. } => *socket = None,
        }
        Ok(())
    }

    /// Writes a line; takes from `line` what was written of it.
    pub(super) fn write(&mut self, line: &mut Vec<u8>) -> Result<(), Failure> {
        match self {
            Self::Stderr => pour(&mut io::stderr(), line),
            Self::File { path, file } => {
                let open = match file {
                    Some(open) => open,
                    None => file.insert(open_again(path)?),
                };
                let poured = pour(open, line);
                if poured.is_err() {
                    *file = None;
                }
                poured
            }
            Self::Udp { address, socket } => send(*address, socket, line),
            Self::Unix { path, socket } => {
                let open = match socket {
                    Some(open) => open,
                    None => socket.insert(connect(path).map_err(Failure::Later)?),
                };
                match open.send(line) {
                    Ok(_) => Ok(()),
                    Err(error) if error.raw_os_error() == Some(libc::EMSGSIZE) => {
                        Err(Failure::Never(error))
                    }
                    Err(error) => {
                        *socket = None;
                        Err(Failure::Later(error))
                    }
                }
            }
        }
    }
}

fn pour(into: &mut impl Write, line: &mut Vec<u8>) -> Result<(), Failure> {
    while !line.is_empty() {
        match into.write(line) {
            Ok(0) => return Err(Failure::Later(ErrorKind::WriteZero.into())),
            Ok(length) => drop(line.drain(..length)),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            // A terminal or pipe whose other end is gone does not come back.
            Err(error) if error.kind() == ErrorKind::BrokenPipe => {
                return Err(Failure::Never(error));
            }
            Err(error) => return Err(Failure::Later(error)),
        }
    }
    Ok(())
}

fn open_again(path: &Path) -> Result<File, Failure> {
    open(path).map_err(Failure::Later)
}

/// Opens a file to add to it. One that is made is for its owner and group; what is no file but
/// would make a writer wait, such as a FIFO that nobody reads, is refused instead.
fn open(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.append(true).custom_flags(libc::O_NONBLOCK).mode(MODE);
    match options.clone().create_new(true).open(path) {
        Ok(file) => {
            // Whatever the umask is.
            file.set_permissions(Permissions::from_mode(MODE))?;
            return Ok(file);
        }
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
        Err(error) => return Err(error),
    }
    options.create(true).open(path).map_err(|error| match error.raw_os_error() {
        Some(libc::ENXIO) => io::Error::other("it is a FIFO or a socket that nobody reads"),
        _ => error,
    })
}

/// Whether a file can be added to at `path`, without changing anything.
///
/// # Errors
/// In words, with what to do.
pub fn examine(path: &Path) -> Result<(), String> {
    use nix::unistd::{AccessFlags, access};
    let name = path.display();
    let parent = path.parent().unwrap_or(Path::new("/"));
    match fs::metadata(path) {
        Ok(found) if found.is_dir() => Err(format!("{name} is a directory: name a file in it")),
        Ok(_) => access(path, AccessFlags::W_OK).map_err(|error| {
            format!("{name} cannot be written ({}): change its owner or mode", error.desc())
        }),
        Err(_) if !parent.is_dir() => Err(format!(
            "{name}: there is no directory {0}: `install -d -m 0750 {0}`",
            parent.display()
        )),
        Err(_) => access(parent, AccessFlags::W_OK | AccessFlags::X_OK).map_err(|error| {
            let parent = parent.display();
            format!(
                "{name} cannot be made in {parent} ({}): change that directory's owner or mode",
                error.desc()
            )
        }),
    }
}

fn connect(path: &Path) -> io::Result<UnixDatagram> {
    let socket = UnixDatagram::unbound()?;
    // A reader that takes nothing delays the thread that asks, and not for ever.
    socket.set_write_timeout(Some(PATIENCE))?;
    socket.connect(path)?;
    Ok(socket)
}

/// Sends a datagram; nobody waits for a server that is not there, as with HAProxy.
fn send(address: SocketAddr, socket: &mut Option<UdpSocket>, line: &[u8]) -> Result<(), Failure> {
    let open = match socket {
        Some(open) => open,
        None => socket.insert(bind(address).map_err(Failure::Never)?),
    };
    match open.send(line) {
        Ok(_) => Ok(()),
        // What the ICMP error says is about an earlier one.
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => match open.send(line) {
            Ok(_) => Err(Failure::Before(error)),
            Err(error) => Err(Failure::Never(error)),
        },
        Err(error) => {
            *socket = None;
            Err(Failure::Never(error))
        }
    }
}

fn bind(address: SocketAddr) -> io::Result<UdpSocket> {
    let any: SocketAddr = match address {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(any)?;
    socket.set_nonblocking(true)?;
    socket.connect(address)?;
    Ok(socket)
}

/// Log lines name addresses and users: they are not for everybody.
const MODE: u32 = 0o640;
/// How long one line may take on its way to the syslog daemon of this host.
const PATIENCE: Duration = Duration::from_secs(1);
