//! New connections to an endpoint.
//!
//! A name is resolved once for each connection, and every address of it is checked. The connection
//! then goes to one of these addresses, so a name server that answers differently the next time
//! leads nowhere. One denied address denies the name: which address would be used must not depend
//! on chance.

use std::{io, net::IpAddr, sync::Arc, time::Duration};

use tokio::{
    net::TcpStream,
    time::{Instant, timeout_at},
};
use tokio_rustls::{
    TlsConnector,
    rustls::{ClientConfig, Error as TlsError},
};

use super::{
    endpoint::{Endpoint, Host},
    error::SendError,
    stream::Stream,
};
use crate::forwarders::{
    egress::{self, Network},
    resolver::Resolver,
};

/// Maximum time for a connection: resolving the name, TCP and TLS. 5 s: two repetitions of a lost
/// packet, and TLS over a slow line.
const CONNECT_TIME: Duration = Duration::from_secs(5);
/// Maximum number of a name's addresses that are tried. 4: two of each version.
const ADDRESSES: usize = 4;

/// What new connections need.
pub(super) struct Connector {
    pub(super) endpoint: Endpoint,
    pub(super) allowed: Vec<Network>,
    pub(super) resolver: Arc<dyn Resolver>,
    /// Present if the endpoint's connections are encrypted.
    pub(super) tls: Option<Arc<ClientConfig>>,
}

impl Connector {
    /// Makes a connection. The caller waits until the deadline only.
    pub(super) async fn connect(&self, deadline: Instant) -> Result<Stream, SendError> {
        let limit = Instant::now() + CONNECT_TIME;
        if deadline <= limit {
            // The caller gives up first.
            return self.connect_by(deadline).await;
        }
        let connected = timeout_at(limit, self.connect_by(limit)).await;
        connected.unwrap_or(Err(SendError::ConnectTimeout(CONNECT_TIME)))
    }

    async fn connect_by(&self, deadline: Instant) -> Result<Stream, SendError> {
        let tcp = self.connect_to_one(&self.addresses().await?, deadline).await.map_err(SendError::Refused)?;
        // A small request is sent at once.
        tcp.set_nodelay(true).map_err(SendError::Refused)?;
        let (Some(config), Some(name)) = (&self.tls, &self.endpoint.certified) else { return Ok(Stream::new(tcp)) };
        match TlsConnector::from(config.clone()).connect(name.clone(), tcp).await {
            Ok(encrypted) => Ok(Stream::new(encrypted)),
            Err(error) if error.get_ref().is_some_and(|inner| inner.is::<TlsError>()) => Err(SendError::Tls(error)),
            Err(error) => Err(SendError::Refused(error)),
        }
    }

    /// The endpoint's addresses, all of which may be contacted.
    async fn addresses(&self) -> Result<Vec<IpAddr>, SendError> {
        let addresses = match &self.endpoint.host {
            Host::Address(address) => vec![*address],
            Host::Name(name) => self.resolver.resolve(name).await.map_err(SendError::Unresolved)?,
        };
        for address in &addresses {
            egress::check(*address, &self.allowed).map_err(SendError::Denied)?;
        }
        Ok(addresses)
    }

    /// Tries the addresses in order. Each but the last has an equal part of the remaining time, so
    /// one that does not answer leaves time for the next. The caller bounds the last one.
    async fn connect_to_one(&self, addresses: &[IpAddr], deadline: Instant) -> io::Result<TcpStream> {
        let port = self.endpoint.port;
        let tried = &addresses[..addresses.len().min(ADDRESSES)];
        let Some((last, others)) = tried.split_last() else { return Err(io::Error::other("it has no address")) };
        for (index, address) in others.iter().enumerate() {
            let now = Instant::now();
            let share = deadline.saturating_duration_since(now) / (tried.len() - index) as u32;
            if let Ok(Ok(stream)) = timeout_at(now + share, TcpStream::connect((*address, port))).await {
                return Ok(stream);
            }
        }
        TcpStream::connect((*last, port)).await
    }
}
