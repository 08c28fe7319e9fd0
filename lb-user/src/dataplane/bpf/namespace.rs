//! Which network namespace this thread is in, by a number that is never given out again.
//!
//! Must not know: who asks.

use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixDatagram;

/// The kernel's cookie of this thread's network namespace: no other of this boot has had it or
/// will have it, which cannot be said of the number in `/proc/self/ns/net`.
///
/// # Errors
/// ENOPROTOOPT before Linux 5.14.
pub fn network_namespace() -> io::Result<u64> {
    let socket = UnixDatagram::unbound()?;
    let mut cookie = 0u64;
    let mut length = size_of::<u64>() as libc::socklen_t;
    // SAFETY: the option's value is eight bytes, which `cookie` has room for; both outlive the call.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut length,
        )
    };
    if result == 0 { Ok(cookie) } else { Err(io::Error::last_os_error()) }
}
