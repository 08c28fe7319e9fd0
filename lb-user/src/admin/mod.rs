//! The admin API: HTTP/1.1 with JSON over a Unix socket.
//!
//! [`Server::bind`] takes the socket, [`Server::run`] serves it; each request becomes a
//! [`Verb`](crate::controller::request::Verb) by [`api`], is sent to the controller as a
//! [`Request`](crate::controller::request::Request) and answered with its document. [`Client`] is
//! the other end, for the command line. Who may connect is decided by the socket's mode, 0660.
//!
//! Must not know: maps, netlink, how documents are shown.

pub mod api;
mod client;
mod server;
mod socket;

pub use client::{Client, ClientError};
pub use server::Server;
pub use socket::SocketError;
