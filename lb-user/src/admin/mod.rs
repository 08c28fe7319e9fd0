//! The admin API: HTTP/1.1 with JSON over a Unix socket, and with users over TCP.
//!
//! [`Server::bind`] takes the socket, [`Server::run`] serves it; each request becomes a
//! [`Verb`](crate::controller::request::Verb) by [`api`], is sent to the controller as a
//! [`Request`](crate::controller::request::Request) and answered with its document. [`Client`] is
//! the other end, for the command line. Who may connect is decided by the socket's mode, 0660.
//! [`HttpPlane`] is the same over TCP with users, a dashboard (`page`) and HAProxy's CSV (`csv`);
//! `openapi` describes the API by the table in `operations`. `audit` logs every change.
//!
//! Must not know: maps, netlink, how documents are shown.

pub mod api;
mod audit;
mod client;
mod csv;
mod http;
mod openapi;
mod operations;
mod page;
mod server;
mod socket;

pub use client::{Client, ClientError};
pub use http::{Plane as HttpPlane, examine};
pub use server::Server;
pub use socket::SocketError;
