//! The speaker's end of the line to the controller.
//!
//! One controller at a time; a new one takes the place of the one before, which is gone or stuck.
//! Nothing here waits: a controller that does not read is cut off.
//!
//! Must not know: what is said.

use std::fs;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::Context as _;
use nix::poll::{PollFd, PollFlags};
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};

use crate::speaker::protocol::{self, PROTOCOL, Report, Request};

/// The listening socket and the controller that is connected.
pub(super) struct Line {
    listener: UnixListener,
    path: PathBuf,
    inode: u64,
    controller: Option<Connected>,
    last_heard: Instant,
}

struct Connected {
    stream: UnixStream,
    received: Vec<u8>,
    unsent: Vec<u8>,
}

impl Line {
    /// Listens at `path`, where nobody but this user may connect.
    pub(super) fn bind(path: &Path) -> anyhow::Result<Self> {
        let what = || format!("the speaker's socket {}", path.display());
        // The controller has asked whether anybody answers there.
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(error).with_context(what);
            }
            _ => {}
        }
        let listener = UnixListener::bind(path).with_context(what)?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).with_context(what)?;
        listener.set_nonblocking(true).with_context(what)?;
        let inode = fs::symlink_metadata(path).with_context(what)?.ino();
        let path = path.to_owned();
        Ok(Self { listener, path, inode, controller: None, last_heard: Instant::now() })
    }

    /// When the controller was heard last; the beginning, before it was.
    pub(super) fn last_heard(&self) -> Instant {
        self.last_heard
    }

    /// Whether a controller is connected.
    pub(super) fn is_connected(&self) -> bool {
        self.controller.is_some()
    }

    /// Adds what is to be waited for.
    pub(super) fn wait_for<'a>(&'a self, waited: &mut Vec<PollFd<'a>>) {
        waited.push(PollFd::new(self.listener.as_fd(), PollFlags::POLLIN));
        if let Some(connected) = &self.controller {
            let mut flags = PollFlags::POLLIN;
            if !connected.unsent.is_empty() {
                flags |= PollFlags::POLLOUT;
            }
            waited.push(PollFd::new(connected.stream.as_fd(), flags));
        }
    }

    /// What the controller said since the last call.
    pub(super) fn take(&mut self, now: Instant) -> Vec<Request> {
        self.accept();
        let Some(connected) = &mut self.controller else { return Vec::new() };
        let mut requests = Vec::new();
        let mut is_open = connected.read() && connected.write();
        loop {
            match protocol::decode(&mut connected.received) {
                Ok(Some(request)) => requests.push(request),
                Ok(None) => break,
                Err(error) => {
                    tracing::error!("the controller is not understood: {error}");
                    is_open = false;
                    break;
                }
            }
        }
        if !requests.is_empty() {
            self.last_heard = now;
        }
        if !is_open {
            tracing::warn!("the controller is gone");
            self.controller = None;
            // It was there until now.
            self.last_heard = now;
        }
        requests
    }

    /// Says something to the controller, if there is one.
    pub(super) fn tell(&mut self, report: &Report) {
        let Some(connected) = &mut self.controller else { return };
        let bytes = match protocol::encode(report) {
            Ok(bytes) => bytes,
            Err(error) => {
                tracing::error!("a report is lost: {error}");
                return;
            }
        };
        connected.unsent.extend(bytes);
        if !connected.write() || connected.unsent.len() > MAX_UNSENT {
            tracing::warn!("the controller does not listen: it is cut off");
            self.controller = None;
        }
    }

    fn accept(&mut self) {
        while let Ok((stream, _)) = self.listener.accept() {
            let peer = getsockopt(&stream, PeerCredentials).map(|peer| peer.uid());
            if peer != Ok(nix::unistd::getuid().as_raw()) || stream.set_nonblocking(true).is_err() {
                continue;
            }
            self.controller = Some(Connected { stream, received: Vec::new(), unsent: Vec::new() });
            self.tell(&Report::Hello { protocol: PROTOCOL });
        }
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        // A later speaker may have put its own file there.
        if fs::symlink_metadata(&self.path).is_ok_and(|found| found.ino() == self.inode) {
            let _gone = fs::remove_file(&self.path);
        }
    }
}

impl Connected {
    /// Takes in what has arrived; false at its end.
    fn read(&mut self) -> bool {
        let mut buffer = [0; 4096];
        loop {
            match self.stream.read(&mut buffer) {
                Ok(0) => return false,
                Ok(length) => self.received.extend(&buffer[..length]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return true,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return false,
            }
        }
    }

    /// Sends what it can; false when nobody will take it.
    fn write(&mut self) -> bool {
        while !self.unsent.is_empty() {
            match self.stream.write(&self.unsent) {
                Ok(0) => return false,
                Ok(length) => drop(self.unsent.drain(..length)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return true,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return false,
            }
        }
        true
    }
}

/// Bytes that wait for a controller before it is cut off.
const MAX_UNSENT: usize = 4 << 20;
