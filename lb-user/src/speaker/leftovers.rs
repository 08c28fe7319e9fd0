//! Takes away what a speaker that is gone, or has no controller, left on this host.
//!
//! Must not know: states, who asks.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;

use crate::speaker::hands::Hands;
use crate::speaker::protocol::{self, Request};

/// Has the speaker at `socket` resign and end, and waits for it; false when there is none.
///
/// # Errors
/// When it does not end.
pub fn end(socket: &Path) -> anyhow::Result<bool> {
    let mut stream = match UnixStream::connect(socket) {
        Ok(stream) => stream,
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
            ) =>
        {
            return Ok(false);
        }
        Err(error) => return Err(error).with_context(|| socket.display().to_string()),
    };
    let what = || format!("the speaker behind {} does not end", socket.display());
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(&protocol::encode(&Request::Stop)?).with_context(what)?;
    let mut said = Vec::new();
    match stream.read_to_end(&mut said) {
        Err(error) if error.kind() != io::ErrorKind::ConnectionReset => {
            Err(error).with_context(what)
        }
        _ => Ok(true),
    }
}

/// Removes addresses, devices and rules that carry VRRP's mark, and says what they were.
///
/// # Errors
/// When the kernel refuses.
pub fn clear() -> anyhow::Result<Vec<String>> {
    let (_hands, removed) = Hands::open().context("remove what VRRP left")?;
    Ok(removed)
}

const PATIENCE: Duration = Duration::from_secs(3);
