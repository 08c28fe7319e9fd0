//! The `admin` section, and what of `tls` it uses.
//!
//! Must not know: serde, YAML, HTTP, how a password is verified.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// The `admin` section.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admin {
    /// Path of the Unix socket that the command line speaks to.
    pub socket: PathBuf,
    /// The dashboard, metrics and the API over TCP; `None` is none of it.
    pub http: Option<AdminHttp>,
}

impl Default for Admin {
    fn default() -> Self {
        Self { socket: PathBuf::from("/run/lb/admin.sock"), http: None }
    }
}

/// `admin.http`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdminHttp {
    /// Where it listens; `[::]` takes IPv4 as well.
    pub bind: SocketAddr,
    /// Path of the dashboard.
    pub stats_path: String,
    /// Time between refreshes of the dashboard; zero is never.
    pub refresh: Duration,
    /// What a browser asks a password for.
    pub realm: String,
    /// The version is not shown.
    pub hide_version: bool,
    /// Who may look and change; with none, loopback may look.
    pub users: Vec<User>,
    /// HTTPS instead of HTTP.
    pub tls: Option<ServerTls>,
}

/// One of `admin.http.users`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// The name to log in with; without `:`.
    pub name: String,
    /// argon2id in PHC's form.
    pub password_hash: String,
    /// What it may do.
    pub role: Role,
}

/// What a user may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Everything.
    Admin,
    /// Look.
    ReadOnly,
}

impl Role {
    /// As it is written in the file.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Admin => "admin",
            Self::ReadOnly => "read-only",
        }
    }
}

/// TLS of a listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerTls {
    /// The first is shown to clients that name no host, or one that no certificate is for.
    pub certificates: Vec<Certificate>,
    /// The oldest version that is spoken.
    pub min_version: TlsVersion,
}

/// One of `tls.certificates`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// What the file calls it.
    pub name: String,
    /// PEM: the certificate, then those of its issuers.
    pub cert: PathBuf,
    /// PEM: the private key.
    pub key: PathBuf,
}

/// Versions of TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsVersion {
    /// RFC 5246.
    Tls12,
    /// RFC 8446.
    Tls13,
}
