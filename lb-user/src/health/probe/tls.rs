//! TLS for probes: settings that all targets share, and handshake faults in words.
//!
//! Sessions are never resumed: a resumed one would not show the certificate again. The system's
//! trusted certificates are read once, when they are first needed (`SSL_CERT_FILE` and
//! `SSL_CERT_DIR` name others), and anew after [`Trust::forget`]. Revocation is not checked.
//!
//! Must not know: what is said over the connection, deadlines.

use std::error::Error as _;
use std::io;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use rustls::client::Resumption;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::ServerName;
use rustls::{CertificateError, ClientConfig, Error, RootCertStore};
use tokio::net::TcpStream;
use tokio::sync::OnceCell;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::health::probe::insecure::AnyCertificate;
use crate::health::probe::outcome;
use crate::health::report::{CheckStatus, ProbeResult};
use crate::model::TlsCheck;
use crate::trusted::trusted_roots;

/// Settings of all TLS probes.
#[derive(Debug)]
pub(super) struct Trust {
    provider: Arc<CryptoProvider>,
    verifying: Mutex<Arc<OnceCell<Arc<ClientConfig>>>>,
    unverified: OnceCell<Arc<ClientConfig>>,
}

impl Trust {
    /// Nothing is read yet.
    pub(super) fn new() -> Self {
        Self {
            provider: Arc::new(aws_lc_rs::default_provider()),
            verifying: Mutex::default(),
            unverified: OnceCell::new(),
        }
    }

    /// Trusts these authorities instead of the system's.
    #[cfg(test)]
    pub(super) fn of(roots: RootCertStore) -> Self {
        let trust = Self::new();
        let config = trusting(Arc::clone(&trust.provider), roots).expect("settings");
        let cell = Arc::new(OnceCell::new_with(Some(config)));
        Self { verifying: Mutex::new(cell), ..trust }
    }

    /// Reads the trusted certificates anew before they are next used.
    pub(super) fn forget(&self) {
        *self.verifying.lock().unwrap_or_else(PoisonError::into_inner) = Arc::default();
    }

    async fn verifying(&self) -> Result<Arc<ClientConfig>, ProbeResult> {
        let cell = Arc::clone(&self.verifying.lock().unwrap_or_else(PoisonError::into_inner));
        let read = || async {
            let provider = Arc::clone(&self.provider);
            let read = tokio::task::spawn_blocking(move || verifying(provider)).await;
            read.unwrap_or_else(|_| Err("interrupted".to_owned()))
        };
        let config = cell.get_or_try_init(read).await;
        config.cloned().map_err(|why| outcome(CheckStatus::SocketError, why))
    }

    async fn unverified(&self) -> Result<Arc<ClientConfig>, ProbeResult> {
        let make = || async {
            let verifier = Arc::new(AnyCertificate::new(Arc::clone(&self.provider)));
            let builder = ClientConfig::builder_with_provider(Arc::clone(&self.provider))
                .with_safe_default_protocol_versions()?;
            let config = builder.dangerous().with_custom_certificate_verifier(verifier);
            Ok(finish(config.with_no_client_auth()))
        };
        let config = self.unverified.get_or_try_init(make).await;
        config.cloned().map_err(|e: Error| outcome(CheckStatus::SocketError, e.to_string()))
    }
}

/// Reads files: for a blocking thread.
fn verifying(provider: Arc<CryptoProvider>) -> Result<Arc<ClientConfig>, String> {
    trusting(provider, trusted_roots()?)
}

fn trusting(
    provider: Arc<CryptoProvider>,
    roots: RootCertStore,
) -> Result<Arc<ClientConfig>, String> {
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    Ok(finish(builder.with_root_certificates(roots).with_no_client_auth()))
}

fn finish(mut config: ClientConfig) -> Arc<ClientConfig> {
    config.resumption = Resumption::disabled();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Arc::new(config)
}

/// TLS to one target.
#[derive(Debug)]
pub(super) struct Tls {
    name: ServerName<'static>,
    verify: bool,
}

impl Tls {
    /// The name is the check's, or the address itself.
    pub(super) fn new(address: IpAddr, check: &TlsCheck) -> Self {
        let name = check.name.clone().unwrap_or_else(|| ServerName::from(address));
        Self { name, verify: check.verify }
    }

    /// The settings; a failure is a lack of this host.
    pub(super) async fn connector(&self, trust: &Trust) -> Result<TlsConnector, ProbeResult> {
        let config =
            if self.verify { trust.verifying().await? } else { trust.unverified().await? };
        Ok(TlsConnector::from(config))
    }

    /// The handshake.
    pub(super) async fn handshake(
        &self,
        connector: TlsConnector,
        stream: TcpStream,
    ) -> Result<TlsStream<TcpStream>, ProbeResult> {
        let shaken = connector.connect(self.name.clone(), stream).await;
        shaken.map_err(|error| outcome(CheckStatus::L6Response, self.why(&error)))
    }

    fn why(&self, error: &io::Error) -> String {
        let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>());
        let name = self.name.to_str();
        match inner {
            None if error.kind() == io::ErrorKind::UnexpectedEof => {
                "the connection was closed in the TLS handshake".to_owned()
            }
            None => format!("the connection broke in the TLS handshake: {error}"),
            Some(Error::InvalidMessage(_)) => "the server does not speak TLS".to_owned(),
            Some(Error::InvalidCertificate(fault)) => certificate(fault, &name),
            Some(Error::AlertReceived(alert)) => {
                format!("the server ended the TLS handshake with alert {alert:?} (name {name})")
            }
            Some(other) => other.to_string(),
        }
    }
}

/// What is wrong with a certificate, and what to do.
fn certificate(fault: &CertificateError, name: &str) -> String {
    use CertificateError as E;
    match fault {
        E::Expired | E::ExpiredContext { .. } => {
            format!("the certificate has expired{}: renew it", days_since(fault))
        }
        E::NotValidYet | E::NotValidYetContext { .. } => {
            "the certificate is not valid yet: compare the clocks of both hosts".to_owned()
        }
        E::NotValidForName => format!("the certificate is not for {name}: set `sni`"),
        E::NotValidForNameContext { presented, .. } => {
            let names: Vec<&str> = presented.iter().map(|shown| inner_name(shown)).collect();
            let whose = if names.is_empty() { "nobody".to_owned() } else { names.join(", ") };
            format!("the certificate is for {whose}, not for {name}: set `sni`")
        }
        E::BadSignature => "the certificate is not signed by the trusted authority whose name it \
             gives: that one's key was replaced?"
            .to_owned(),
        E::UnknownIssuer => "no trusted authority has issued the certificate: add its CA to this \
             host's, or the server's intermediate certificate is missing"
            .to_owned(),
        E::Other(other) => match other.source() {
            Some(source) => format!("the certificate is not accepted: {other:?}: {source}"),
            None => format!("the certificate is not accepted: {other:?}"),
        },
        other => format!("the certificate is not accepted: {other}"),
    }
}

fn days_since(fault: &CertificateError) -> String {
    let CertificateError::ExpiredContext { time, not_after } = fault else {
        return String::new();
    };
    let seconds = time.as_secs().saturating_sub(not_after.as_secs());
    match seconds / 86_400 {
        0 => " today".to_owned(),
        1 => " a day ago".to_owned(),
        days => format!(" {days} days ago"),
    }
}

/// `DnsName("www.example.com")` and `IpAddress(192.0.2.1)` without their wrapping.
fn inner_name(shown: &str) -> &str {
    let inner = shown.split_once('(').and_then(|(_, rest)| rest.strip_suffix(')'));
    inner.unwrap_or(shown).trim_matches('"')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_of_a_certificate_says_what_to_do() {
        let fault = CertificateError::NotValidForNameContext {
            expected: ServerName::try_from("a.test").expect("a name"),
            presented: vec!["DnsName(\"b.test\")".into(), "IpAddress(192.0.2.1)".into()],
        };
        let said = certificate(&fault, "a.test");
        assert_eq!(said, "the certificate is for b.test, 192.0.2.1, not for a.test: set `sni`");
        assert!(certificate(&CertificateError::UnknownIssuer, "a.test").contains("CA"));
        assert_eq!(
            certificate(&CertificateError::Expired, "a"),
            "the certificate has expired: renew it"
        );
    }
}
