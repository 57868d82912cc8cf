//! Connecting as libpq does: the same addresses, environment variables and password file, and TLS.
//!
//! An [`Address`] is read once, from a text and from the environment for what the text leaves out.
//! It then opens as many connections as are wanted. Certificates are read again when their files
//! change, so that renewed ones are used without a restart.
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
//! Where this differs from libpq:
//!
//! - `sslmode=verify-ca` and `verify-full` without `sslrootcert` and without
//!   `~/.postgresql/root.crt` trust the authorities of the operating system.
//! - `sslmode=prefer` does not try again without TLS where the server offers TLS and the handshake
//!   fails.
//! - `sslmode=allow`, services, GSSAPI, lists of revoked certificates and encrypted private keys
//!   are not supported; each is an error that says so.

mod address;
mod parameters;
mod password_file;
mod tls;
mod trouble;

pub use address::{Address, Connecting, InvalidAddress, Security};
pub use trouble::Trouble;
