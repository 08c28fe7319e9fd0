//! What the HTTP side serves by: the configuration with its files read.
//!
//! Must not know: sockets, requests.

use std::sync::Arc;

use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::ResolvesServerCert;
use rustls::sign::CertifiedKey;
use rustls::version::{TLS12, TLS13};
use tokio_rustls::TlsAcceptor;

use crate::admin::http::auth::Users;
use crate::model::{AdminHttp, Certificate, ServerTls, TlsVersion};

/// One configuration in force.
pub(super) struct Settings {
    /// As it was configured.
    pub(super) http: AdminHttp,
    /// Who may come in.
    pub(super) users: Users,
    /// HTTPS.
    pub(super) tls: Option<TlsAcceptor>,
}

impl Settings {
    /// Reads the certificates: for a blocking thread.
    ///
    /// # Errors
    /// Each names the file and what is wrong with it.
    pub(super) fn read(http: &AdminHttp) -> Result<Self, Vec<String>> {
        let tls = http.tls.as_ref().map(acceptor).transpose()?;
        let users = Users::new(http.users.clone()).map_err(|error| vec![error.to_string()])?;
        Ok(Self { http: http.clone(), users, tls })
    }
}

fn acceptor(tls: &ServerTls) -> Result<TlsAcceptor, Vec<String>> {
    let (mut keys, mut errors) = (Vec::new(), Vec::new());
    for certificate in &tls.certificates {
        match certified(certificate) {
            Ok(key) => keys.push(key),
            Err(error) => errors.push(error),
        }
    }
    if !errors.is_empty() {
        return Err(errors);
    }
    let versions: &[_] = match tls.min_version {
        TlsVersion::Tls12 => &[&TLS13, &TLS12],
        TlsVersion::Tls13 => &[&TLS13],
    };
    let builder =
        rustls::ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_protocol_versions(versions)
            .map_err(|error| vec![format!("admin.http.tls: {error}")])?;
    let mut config = builder.with_no_client_auth().with_cert_resolver(Arc::new(ByName(keys)));
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

fn certified(certificate: &Certificate) -> Result<(Names, Arc<CertifiedKey>), String> {
    let (cert, key) = (certificate.cert.display(), certificate.key.display());
    let name = &certificate.name;
    let text = std::fs::read(&certificate.cert)
        .map_err(|error| format!("tls.certificates, {name}: {cert}: {error}"))?;
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    let chain = chain.map_err(|error| format!("tls.certificates, {name}: {cert}: {error}"))?;
    let Some(first) = chain.first() else {
        return Err(format!(
            "tls.certificates, {name}: {cert}: there is no certificate (PEM) in it"
        ));
    };
    let names = Names(first.clone().into_owned());
    let text = std::fs::read(&certificate.key)
        .map_err(|error| format!("tls.certificates, {name}: {key}: {error}"))?;
    let private = PrivateKeyDer::from_pem_slice(&text).map_err(|error| {
        format!("tls.certificates, {name}: {key}: there is no private key (PEM) in it: {error}")
    })?;
    let signer = aws_lc_rs::sign::any_supported_type(&private).map_err(|error| {
        format!("tls.certificates, {name}: {key}: a private key of this kind is not known: {error}")
    })?;
    let certified = CertifiedKey::new(chain, signer);
    match certified.keys_match() {
        // A signer that cannot tell is taken at its word.
        Ok(()) | Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::Unknown)) => {}
        Err(_) => {
            return Err(format!(
                "tls.certificates, {name}: the key in {key} is not that of the certificate in {cert}"
            ));
        }
    }
    Ok((names, Arc::new(certified)))
}

/// What a certificate is for.
#[derive(Debug)]
struct Names(CertificateDer<'static>);

impl Names {
    fn holds(&self, wanted: &str) -> bool {
        let certificate = rustls::server::ParsedCertificate::try_from(&self.0);
        let wanted = rustls::pki_types::ServerName::try_from(wanted);
        let (Ok(certificate), Ok(wanted)) = (certificate, wanted) else { return false };
        rustls::client::verify_server_name(&certificate, &wanted).is_ok()
    }
}

/// Shows the certificate that is for the host that the client names, else the first.
#[derive(Debug)]
struct ByName(Vec<(Names, Arc<CertifiedKey>)>);

impl ResolvesServerCert for ByName {
    fn resolve(&self, hello: rustls::server::ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let named = hello.server_name();
        let fits = named.and_then(|name| self.0.iter().find(|(names, _)| names.holds(name)));
        fits.or(self.0.first()).map(|(_, key)| Arc::clone(key))
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    /// Files that go with the test.
    struct Files(PathBuf);

    impl Files {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("lb-tls-{}-{name}", std::process::id()));
            std::fs::create_dir_all(&path).expect("a directory");
            Self(path)
        }

        fn file(&self, name: &str, text: &str) -> PathBuf {
            let path = self.0.join(name);
            std::fs::write(&path, text).expect("a file");
            path
        }
    }

    impl Drop for Files {
        fn drop(&mut self) {
            let _gone = std::fs::remove_dir_all(&self.0);
        }
    }

    fn pair(name: &str) -> (String, String) {
        let made = rcgen::generate_simple_self_signed(vec![name.to_owned()]).expect("a pair");
        (made.cert.pem(), made.signing_key.serialize_pem())
    }

    #[test]
    fn a_certificate_that_cannot_serve_is_named_with_file_and_reason() {
        let files = Files::new("faults");
        let ((cert, key), (_, other)) = (pair("a.test"), pair("a.test"));
        let good = (files.file("cert", &cert), files.file("key", &key));
        let (empty, text) = (files.file("empty", ""), files.file("text", "hello"));
        let other = files.file("other", &other);
        let missing = files.0.join("missing");
        for (cert, key, expected) in [
            (&missing, &good.1, "missing: No such file"),
            (&empty, &good.1, "empty: there is no certificate (PEM) in it"),
            (&good.1, &good.1, "key: there is no certificate (PEM) in it"),
            (&good.0, &missing, "missing: No such file"),
            (&good.0, &text, "text: there is no private key (PEM) in it"),
            (&good.0, &other, "other is not that of the certificate in"),
        ] {
            let certificate =
                Certificate { name: "www".into(), cert: cert.clone(), key: key.clone() };
            let error = certified(&certificate).expect_err("a fault");
            assert!(error.starts_with("tls.certificates, www: "), "{error}");
            assert!(error.contains(expected), "{error}, expected {expected}");
        }
    }

    #[test]
    fn a_certificate_is_found_by_the_name_that_it_is_for() {
        let files = Files::new("names");
        let (cert, key) = pair("a.test");
        let certificate = Certificate {
            name: "www".into(),
            cert: files.file("cert", &cert),
            key: files.file("key", &key),
        };
        let (names, _) = certified(&certificate).expect("a certificate");
        assert!(names.holds("a.test"));
        assert!(!names.holds("b.test") && !names.holds("") && !names.holds("x.a.test"));
        let tls = ServerTls { certificates: vec![certificate], min_version: TlsVersion::Tls13 };
        assert!(acceptor(&tls).is_ok());
    }
}
