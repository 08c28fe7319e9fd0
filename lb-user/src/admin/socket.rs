//! The admin socket's file: made with mode 0660, a stale one replaced, a live one respected.
//!
//! Must not know: what is spoken over it.

use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt};
use std::os::unix::net::{UnixListener as StdListener, UnixStream as StdStream};
use std::path::{Path, PathBuf};

use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use nix::sys::stat::{Mode, umask};
use tokio::net::UnixListener;

/// Why there is no admin socket.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// Another daemon answers there.
    #[error(
        "admin.socket: another daemon (pid {pid}) serves {}: stop it, or choose another path",
        path.display()
    )]
    InUse {
        /// The socket.
        path: PathBuf,
        /// The other daemon.
        pid: i32,
    },
    /// Something that is no socket is in the way.
    #[error("admin.socket: {} exists and is not a socket: remove it, or choose another path", path.display())]
    NotASocket {
        /// What is in the way.
        path: PathBuf,
    },
    /// The system refused.
    #[error("admin.socket: {what} {}: {source}", path.display())]
    System {
        /// What was tried.
        what: &'static str,
        /// With what.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

/// A listening socket that takes its file away when it is dropped.
#[derive(Debug)]
pub(super) struct Socket {
    pub(super) listener: UnixListener,
    path: PathBuf,
    inode: u64,
}

impl Socket {
    pub(super) fn bind(path: &Path) -> Result<Self, SocketError> {
        let failed =
            |what| move |source| SocketError::System { what, path: path.to_owned(), source };
        if let Some(parent) = path.parent() {
            let mut builder = DirBuilder::new();
            builder
                .recursive(true)
                .mode(0o755)
                .create(parent)
                .map_err(failed("create the directory of"))?;
        }
        clear(path)?;
        // Nobody else may connect between bind and a later chmod, so the mode comes from the umask.
        let before = umask(Mode::from_bits_truncate(0o117));
        let bound = StdListener::bind(path);
        umask(before);
        let bound = bound.map_err(failed("bind"))?;
        bound.set_nonblocking(true).map_err(failed("make non-blocking"))?;
        let inode = path.symlink_metadata().map_err(failed("look at"))?.ino();
        let listener = UnixListener::from_std(bound).map_err(failed("listen on"))?;
        Ok(Self { listener, path: path.to_owned(), inode })
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        // A later daemon may have put its own file there.
        if self.path.symlink_metadata().is_ok_and(|found| found.ino() == self.inode) {
            let _gone = std::fs::remove_file(&self.path);
        }
    }
}

/// Removes a socket that nobody listens on.
fn clear(path: &Path) -> Result<(), SocketError> {
    let failed = |what, source| SocketError::System { what, path: path.to_owned(), source };
    match path.symlink_metadata() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed("look at", error)),
        Ok(found) if !found.file_type().is_socket() => {
            return Err(SocketError::NotASocket { path: path.to_owned() });
        }
        Ok(_) => {}
    }
    match StdStream::connect(path) {
        Ok(stream) => {
            let peer = getsockopt(&stream, PeerCredentials);
            let pid = peer.map_or(0, |credentials| credentials.pid());
            Err(SocketError::InUse { path: path.to_owned(), pid })
        }
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            tracing::info!(path = %path.display(), "removing the socket of a daemon that is gone");
            std::fs::remove_file(path).map_err(|error| failed("remove the stale", error))
        }
        Err(error) => Err(failed("ask who serves", error)),
    }
}
