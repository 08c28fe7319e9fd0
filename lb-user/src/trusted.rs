//! Whom this host trusts: the certificates of its authorities, for everything here that asks a
//! server over TLS. `SSL_CERT_FILE` and `SSL_CERT_DIR` name others. Revocation is not checked.
//!
//! Must not know: who asks whom.

use rustls::RootCertStore;

/// The certificates of the authorities that this host trusts. Reads files: blocks.
///
/// # Errors
/// When there are none, with what to do.
pub fn trusted_roots() -> Result<RootCertStore, String> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    let (_, ignored) = roots.add_parsable_certificates(found.certs);
    if ignored > 0 {
        tracing::debug!(ignored, "trusted certificates that cannot be used");
    }
    if roots.is_empty() {
        let why = found.errors.first().map(|error| format!(" ({error})")).unwrap_or_default();
        return Err(format!(
            "this host has no trusted certificates{why}: install ca-certificates or set \
             SSL_CERT_FILE, and `lb reload`"
        ));
    }
    Ok(roots)
}
