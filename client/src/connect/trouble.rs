//! What keeps a connection from being opened, told apart by what a person does about it.

use std::{error::Error as StdError, io};

use rustls::CertificateError;
use tokio_postgres::{Error, error::SqlState};

/// What keeps a connection from being opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Trouble {
    /// No host of that name is known.
    Host,
    /// Nothing listens there, or nothing answered in time.
    Unreachable,
    /// The server offers no TLS, and it is asked for.
    NoTls,
    /// The server's certificate comes from no authority that is trusted.
    Untrusted,
    /// The server's certificate is of another host.
    OtherHost,
    /// The server's certificate is not valid any more, or not yet.
    Expired,
    /// The server and this client do not agree on TLS in another way; the server may have refused
    /// the client's certificate.
    Tls,
    /// The server wants a password, and there is none.
    NoPassword,
    /// The password is wrong.
    Password,
    /// There is no such user, or the server does not let it in from here, or not without TLS.
    User,
    /// There is no such database.
    Database,
    /// All connections are taken.
    Full,
    /// The server is starting or stopping.
    Starting,
    /// Something else that the server says in its own words.
    Server,
}

impl Trouble {
    /// What an error of [`Address::connect`](super::Address::connect) means.
    pub fn of(error: &Error) -> Trouble {
        match error.code() {
            Some(&SqlState::INVALID_CATALOG_NAME) => Trouble::Database,
            Some(&SqlState::INVALID_PASSWORD) => Trouble::Password,
            Some(&SqlState::INVALID_AUTHORIZATION_SPECIFICATION) => Trouble::User,
            Some(&SqlState::TOO_MANY_CONNECTIONS) => Trouble::Full,
            Some(&SqlState::CANNOT_CONNECT_NOW) => Trouble::Starting,
            Some(_) => Trouble::Server,
            None => Self::of_causes(error),
        }
    }

    fn of_causes(error: &Error) -> Trouble {
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
        // The driver names these in words alone.
        match () {
            () if text.contains("server does not support TLS") => Trouble::NoTls,
            () if text.contains("TLS handshake") => Trouble::Tls,
            () if text.contains("password missing") => Trouble::NoPassword,
            () if text.contains("failed to lookup address") => Trouble::Host,
            () => Trouble::Unreachable,
        }
    }

    fn of_tls(error: &rustls::Error) -> Trouble {
        let rustls::Error::InvalidCertificate(certificate) = error else { return Trouble::Tls };
        match certificate {
            // The last is one that signs itself: see [`super::tls`].
            CertificateError::UnknownIssuer | CertificateError::BadSignature | CertificateError::Other(_) => {
                Trouble::Untrusted
            }
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => Trouble::OtherHost,
            CertificateError::Expired
            | CertificateError::ExpiredContext { .. }
            | CertificateError::NotValidYet
            | CertificateError::NotValidYetContext { .. } => Trouble::Expired,
            _ => Trouble::Tls,
        }
    }
}
