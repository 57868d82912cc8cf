//! Notifications to a service manager such as systemd (`sd_notify`, `Type=notify`).
//!
//! The manager names its socket in `NOTIFY_SOCKET`; without that variable nothing is sent. Messages
//! that cannot be sent at once are dropped, so the host never waits for the manager.

use std::{
    ffi::{OsStr, OsString},
    io,
    os::unix::net::UnixDatagram,
};

/// The environment variable with the socket: a path, or `@` and an abstract name.
const VARIABLE: &str = "NOTIFY_SOCKET";

/// The service manager that started this process, if any.
pub(super) struct ServiceManager(Option<OsString>);

impl ServiceManager {
    /// The service manager named in the environment.
    pub(super) fn of_environment() -> Self {
        ServiceManager(std::env::var_os(VARIABLE).filter(|name| !name.is_empty()))
    }

    /// Sends assignments such as `READY=1`, one per line.
    pub(super) fn notify(&self, state: &str) {
        let Some(name) = &self.0 else { return };
        if let Err(error) = send(name, state) {
            tracing::debug!(%error, "could not notify the service manager");
        }
    }
}

/// Sends a datagram to the socket without waiting.
fn send(name: &OsStr, state: &str) -> io::Result<()> {
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    match abstract_name(name) {
        #[cfg(target_os = "linux")]
        Some(name) => {
            use std::os::{linux::net::SocketAddrExt, unix::net::SocketAddr};
            socket.send_to_addr(state.as_bytes(), &SocketAddr::from_abstract_name(name)?)?;
        }
        #[cfg(not(target_os = "linux"))]
        Some(_) => return Err(io::ErrorKind::Unsupported.into()),
        None => _ = socket.send_to(state.as_bytes(), name)?,
    }
    Ok(())
}

/// The name of an abstract socket; none for a socket that is a file.
fn abstract_name(name: &OsStr) -> Option<&[u8]> {
    name.as_encoded_bytes().strip_prefix(b"@")
}
