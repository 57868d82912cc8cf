//! TLS by libpq's parameters, with rustls.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, LazyLock, Mutex, PoisonError},
    time::SystemTime,
};

use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_name,
    },
    crypto::{CryptoProvider, WebPkiSupportedAlgorithms, ring, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject},
    server::ParsedCertificate,
};
use tokio_postgres::config::SslMode;
use tokio_postgres_rustls::MakeRustlsConnect;

use super::{address::Security, parameters::Parameters};

/// The TLS settings of an address, and the connector that implements them.
#[derive(Clone, Debug)]
pub(super) struct Tls(Arc<Inner>);

struct Inner {
    settings: Settings,
    current: Mutex<Current>,
}

/// A connector, with the modification times of the files that it was made from.
struct Current {
    files: Vec<Option<SystemTime>>,
    connector: MakeRustlsConnect,
}

#[derive(Clone, Debug)]
struct Settings {
    security: Security,
    /// The file of trusted authorities. `None`: those of the operating system.
    roots: Option<PathBuf>,
    /// The files of the client's certificate and its key.
    own: Option<(PathBuf, PathBuf)>,
    /// Whether TLS begins without PostgreSQL's request for it: `sslnegotiation=direct`.
    direct: bool,
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.settings.fmt(f)
    }
}

impl Tls {
    /// Reads the parameters and the files that they name.
    pub(super) fn of(given: &Parameters, home: Option<&Path>) -> Result<Self, String> {
        let settings = Settings::of(given, home)?;
        let current = Mutex::new(settings.load()?);
        Ok(Tls(Arc::new(Inner { settings, current })))
    }

    pub(super) fn security(&self) -> Security {
        self.0.settings.security
    }

    /// The driver's mode: whether to request TLS. Verification follows [`Settings`].
    pub(super) fn mode(&self) -> SslMode {
        match self.security() {
            Security::Disable => SslMode::Disable,
            Security::Prefer => SslMode::Prefer,
            Security::Require | Security::VerifyCa | Security::VerifyFull => SslMode::Require,
        }
    }

    /// The connector for the next connection. Changed files are read again. While that fails, for
    /// example because they are being written, the former contents are used.
    pub(super) fn connector(&self) -> MakeRustlsConnect {
        let mut current = self.0.current.lock().unwrap_or_else(PoisonError::into_inner);
        if current.files != self.0.settings.states()
            && let Ok(changed) = self.0.settings.load()
        {
            *current = changed;
        }
        current.connector.clone()
    }
}

impl Settings {
    fn of(given: &Parameters, home: Option<&Path>) -> Result<Self, String> {
        let value = |name: &str| given.get(name).map(String::as_str).filter(|value| !value.is_empty());
        let in_home = |name: &str| home.map(|home| home.join(".postgresql").join(name)).filter(|path| path.is_file());
        let root = value("sslrootcert");
        let security = match value("sslmode") {
            Some("disable") => Security::Disable,
            None if root == Some("system") => Security::VerifyFull,
            None | Some("prefer") => Security::Prefer,
            Some("require") => Security::Require,
            Some("verify-ca") => Security::VerifyCa,
            Some("verify-full") => Security::VerifyFull,
            Some("allow") => return Err("sslmode=allow is not supported; use prefer or disable".into()),
            Some(_) => return Err("sslmode may be disable, prefer, require, verify-ca or verify-full".into()),
        };
        if root == Some("system") && security < Security::VerifyFull {
            return Err("sslrootcert=system needs sslmode=verify-full, because anyone can get a certificate from those authorities".into());
        }
        if value("sslpassword").is_some() {
            return Err("sslpassword is not supported; store the key unencrypted, readable only by this user".into());
        }
        let roots = match root {
            Some("system") => None,
            Some(path) => Some(path.into()),
            None => in_home("root.crt"),
        };
        // As in libpq: a file of authorities turns `require` into `verify-ca`.
        let security = if security == Security::Require && roots.is_some() { Security::VerifyCa } else { security };
        let own = match (value("sslcert"), value("sslkey")) {
            (Some(cert), Some(key)) => Some((cert.into(), key.into())),
            (None, None) => in_home("postgresql.crt").zip(in_home("postgresql.key")),
            (Some(_), None) => return Err("sslcert needs sslkey, the file of the certificate's key".into()),
            (None, Some(_)) => return Err("sslkey needs sslcert, the file of the key's certificate".into()),
        };
        Ok(Settings { security, roots, own, direct: value("sslnegotiation") == Some("direct") })
    }

    /// The modification time of each file.
    fn states(&self) -> Vec<Option<SystemTime>> {
        let own = self.own.iter().flat_map(|(cert, key)| [cert, key]);
        let files = self.roots.iter().chain(own);
        files.map(|path| std::fs::metadata(path).and_then(|metadata| metadata.modified()).ok()).collect()
    }

    /// Reads the files and builds a connector from them.
    fn load(&self) -> Result<Current, String> {
        // Before reading, so that a change during the read is detected the next time.
        let files = self.states();
        let provider = Arc::new(ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions();
        let builder = builder.map_err(|error| error.to_string())?;
        let verifier = Arc::new(self.verifier(provider)?);
        let builder = builder.dangerous().with_custom_certificate_verifier(verifier);
        let own = self.own.as_ref().filter(|_| self.security > Security::Disable);
        let mut config = match own {
            None => builder.with_no_client_auth(),
            Some((cert, key)) => {
                let chain = certificates("sslcert", cert)?;
                let at = key.display();
                let key = PrivateKeyDer::from_pem_file(key)
                    .map_err(|error| format!("sslkey: no private key can be read from {at}: {error}"))?;
                let client = builder.with_client_auth_cert(chain, key);
                client.map_err(|error| {
                    format!("sslkey: the key in {at} does not match the certificate in {}: {error}", cert.display())
                })?
            }
        };
        if self.direct {
            config.alpn_protocols = vec![b"postgresql".to_vec()];
        }
        Ok(Current { files, connector: MakeRustlsConnect::new(config) })
    }

    /// The verifier of server certificates that the security requires.
    fn verifier(&self, provider: Arc<CryptoProvider>) -> Result<Verifier, String> {
        let mut verifier = Verifier { provider, chain: None, anchors: Vec::new(), name: false };
        if self.security < Security::VerifyCa {
            return Ok(verifier);
        }
        let anchors = match &self.roots {
            Some(path) => certificates("sslrootcert", path)?,
            None => SYSTEM.clone(),
        };
        let mut roots = RootCertStore::empty();
        let (usable, _) = roots.add_parsable_certificates(anchors.iter().cloned());
        if usable == 0 {
            let whose =
                self.roots.as_ref().map_or("of the operating system".into(), |path| format!("in {}", path.display()));
            return Err(format!("sslrootcert: there are no usable certificates of authorities {whose}"));
        }
        let chain = WebPkiServerVerifier::builder_with_provider(roots.into(), verifier.provider.clone()).build();
        verifier.chain = Some(chain.map_err(|error| format!("sslrootcert: {error}"))?);
        verifier.anchors = if self.roots.is_some() { anchors } else { Vec::new() };
        verifier.name = self.security == Security::VerifyFull;
        Ok(verifier)
    }
}

/// The authorities that the operating system trusts. Read once, as there are many.
static SYSTEM: LazyLock<Vec<CertificateDer<'static>>> =
    LazyLock::new(|| rustls_native_certs::load_native_certs().certs);

fn certificates(parameter: &str, path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let found = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    match found {
        Ok(found) if found.is_empty() => Err(format!("{parameter}: {} contains no certificate", path.display())),
        Ok(found) => Ok(found),
        Err(error) => Err(format!("{parameter}: {} cannot be read: {error}", path.display())),
    }
}

/// A verifier of the server's certificate, as strict as the settings.
#[derive(Debug)]
struct Verifier {
    provider: Arc<CryptoProvider>,
    /// Verifies the issuer. `None`: any certificate is accepted.
    chain: Option<Arc<WebPkiServerVerifier>>,
    /// The certificates of the file of authorities. One may be the server's own.
    anchors: Vec<CertificateDer<'static>>,
    /// Whether the certificate must belong to the named host.
    name: bool,
}

impl Verifier {
    /// Verifies the signature of a handshake, unless any certificate is accepted. In that case the
    /// signature proves nothing, and X.509 v1 certificates, which rustls cannot parse, must pass.
    fn verify_signature(
        &self,
        verify: impl FnOnce(&WebPkiSupportedAlgorithms) -> Result<HandshakeSignatureValid, Error>,
    ) -> Result<HandshakeSignatureValid, Error> {
        match self.chain {
            None => Ok(HandshakeSignatureValid::assertion()),
            Some(_) => verify(&self.provider.signature_verification_algorithms),
        }
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let Some(chain) = &self.chain else { return Ok(ServerCertVerified::assertion()) };
        match chain.verify_server_cert(certificate, intermediates, server, ocsp, now) {
            // The issuer is verified before the names.
            Err(Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) if !self.name => Ok(ServerCertVerified::assertion()),
            // A self-signed server certificate is also an authority's, which webpki rejects for a
            // server. It reports that after it has checked the dates.
            Err(Error::InvalidCertificate(CertificateError::Other(_))) if self.anchors.contains(certificate) => {
                if self.name {
                    verify_server_name(&ParsedCertificate::try_from(certificate)?, server)?;
                }
                Ok(ServerCertVerified::assertion())
            }
            verified => verified,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verify_signature(|algorithms| verify_tls12_signature(message, certificate, signed, algorithms))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verify_signature(|algorithms| verify_tls13_signature(message, certificate, signed, algorithms))
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
