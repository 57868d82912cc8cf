//! The TLS settings of clients: TLS 1.2 and 1.3, HTTP/1.1, and the certificate authorities that the
//! operating system trusts.

use std::sync::{Arc, LazyLock};

use tokio_rustls::rustls::{ClientConfig, RootCertStore, crypto::ring, pki_types::CertificateDer};

/// The settings that all clients share. The authorities are read once, because there are many.
static SYSTEM: LazyLock<Result<Arc<ClientConfig>, String>> =
    LazyLock::new(|| trusting(rustls_native_certs::load_native_certs().certs));

/// Settings that trust the authorities of the operating system. The first call reads their files.
///
/// # Errors
///
/// There is no usable authority.
pub(in crate::forwarders) fn of_system() -> Result<Arc<ClientConfig>, String> {
    SYSTEM.clone()
}

/// Settings that trust these authorities.
///
/// # Errors
///
/// None of them is usable.
pub(in crate::forwarders) fn trusting(
    authorities: impl IntoIterator<Item = CertificateDer<'static>>,
) -> Result<Arc<ClientConfig>, String> {
    let mut roots = RootCertStore::empty();
    let (usable, _) = roots.add_parsable_certificates(authorities);
    if usable == 0 {
        return Err("the operating system has no usable certificates of authorities; install its package of them, or \
                    set SSL_CERT_FILE to a file of them"
            .into());
    }
    let builder = ClientConfig::builder_with_provider(ring::default_provider().into())
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    let mut config = builder.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config.into())
}
