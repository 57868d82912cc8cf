//! Kinds of connection errors, by their remedy.

use std::{error::Error as StdError, io};

use rustls::CertificateError;
use tokio_postgres::{Error, error::SqlState};

/// The kind of an error of [`Address::connect`](super::Address::connect).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ConnectErrorKind {
    /// The host's name is unknown.
    Host,
    /// No server listens at the address, or none answered in time.
    Unreachable,
    /// The server offers no TLS, which the address requires.
    NoTls,
    /// The server's certificate was not issued by a trusted authority.
    Untrusted,
    /// The server's certificate belongs to another host.
    OtherHost,
    /// The server's certificate has expired, or is not valid yet.
    Expired,
    /// The TLS handshake failed for another reason. The server may have rejected the client's
    /// certificate.
    Tls,
    /// The server requires a password, and none was given.
    NoPassword,
    /// The password is wrong.
    Password,
    /// The user does not exist, or the server does not admit it from this machine or without TLS.
    User,
    /// The database does not exist.
    Database,
    /// The server has no free connection.
    Full,
    /// The server is starting or stopping.
    Starting,
    /// Any other error of the server. Its message is in the driver's error.
    Server,
}

impl ConnectErrorKind {
    /// The kind of an error.
    pub fn of(error: &Error) -> ConnectErrorKind {
        match error.code() {
            Some(&SqlState::INVALID_CATALOG_NAME) => ConnectErrorKind::Database,
            Some(&SqlState::INVALID_PASSWORD) => ConnectErrorKind::Password,
            Some(&SqlState::INVALID_AUTHORIZATION_SPECIFICATION) => ConnectErrorKind::User,
            Some(&SqlState::TOO_MANY_CONNECTIONS) => ConnectErrorKind::Full,
            Some(&SqlState::CANNOT_CONNECT_NOW) => ConnectErrorKind::Starting,
            Some(_) => ConnectErrorKind::Server,
            None => Self::of_causes(error),
        }
    }

    /// The kind of an error of the driver, by its causes.
    fn of_causes(error: &Error) -> ConnectErrorKind {
        let mut cause: Option<&(dyn StdError + 'static)> = Some(error);
        let mut text = String::new();
        while let Some(this) = cause {
            let tls = this.downcast_ref::<rustls::Error>();
            let inside = this
                .downcast_ref::<io::Error>()
                .and_then(|io| io.get_ref())
                .and_then(|inner| inner.downcast_ref::<rustls::Error>());
            if let Some(tls) = tls.or(inside) {
                return Self::of_tls(tls);
            }
            text.push_str(&this.to_string());
            cause = this.source();
        }
        // The driver distinguishes these by their messages only.
        match () {
            () if text.contains("server does not support TLS") => ConnectErrorKind::NoTls,
            () if text.contains("TLS handshake") => ConnectErrorKind::Tls,
            () if text.contains("password missing") => ConnectErrorKind::NoPassword,
            () if text.contains("failed to lookup address") => ConnectErrorKind::Host,
            () => ConnectErrorKind::Unreachable,
        }
    }

    /// The kind of a TLS error.
    fn of_tls(error: &rustls::Error) -> ConnectErrorKind {
        let rustls::Error::InvalidCertificate(certificate) = error else { return ConnectErrorKind::Tls };
        match certificate {
            // `Other` is a self-signed certificate: see [`super::tls`].
            CertificateError::UnknownIssuer | CertificateError::BadSignature | CertificateError::Other(_) => {
                ConnectErrorKind::Untrusted
            }
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                ConnectErrorKind::OtherHost
            }
            CertificateError::Expired
            | CertificateError::ExpiredContext { .. }
            | CertificateError::NotValidYet
            | CertificateError::NotValidYetContext { .. } => ConnectErrorKind::Expired,
            _ => ConnectErrorKind::Tls,
        }
    }
}
