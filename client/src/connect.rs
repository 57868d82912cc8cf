//! Connections to PostgreSQL like libpq's: the same addresses, environment variables and password
//! file, and TLS.
//!
//! An [`Address`] is parsed once. The environment provides what it omits. It then opens any number
//! of connections. Certificates are read again when their files change, so renewed ones are used
//! without a restart.
//!
//! ```no_run
//! # async fn connect() -> Result<(), Box<dyn std::error::Error>> {
//! use sandmill_client::connect::Address;
//!
//! let address = Address::parse(
//!     "postgresql://app@db.example.com/shop?sslmode=verify-full",
//!     &|name| std::env::var(name).ok(),
//! )?;
//! let (client, connection) = address.connect().await?;
//! tokio::spawn(connection);
//! # Ok(())
//! # }
//! ```
//!
//! Differences from libpq:
//!
//! - `sslmode=verify-ca` and `verify-full` trust the operating system's certificate authorities if
//!   there is neither `sslrootcert` nor `~/.postgresql/root.crt`.
//! - `sslmode=prefer` does not retry without TLS if the server offers TLS and the handshake fails.
//! - `sslmode=allow`, services, GSSAPI, certificate revocation lists and encrypted private keys are
//!   not supported. Each is an error that names the parameter.

mod address;
mod error_kind;
mod parameters;
mod password_file;
mod tls;

pub use address::{Address, Connection, InvalidAddress, Security};
pub use error_kind::ConnectErrorKind;
