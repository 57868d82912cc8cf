//! An HTTP/1.1 client for one endpoint.
//!
//! It sends a request and returns the answer, with any status. It follows no redirect, uses no
//! proxy and decompresses nothing. Its connections go to addresses that [`egress`](super::egress)
//! has checked.
//!
//! - **Time.** An attempt has a limit, and within it the set-up of a connection. After the head of
//!   an answer has arrived the attempt cannot fail any more: the body is read for a short time.
//! - **Memory.** Head and body of an answer are bounded. The rest of a longer one is not read.
//! - **Reuse.** A connection is kept for the next request if its answer was read to the end. A kept
//!   connection that turns out dead before any byte of the answer is replaced once by a new one.
//! - **Tasks.** There are none: a request drives its own connection, and closes it when it is
//!   dropped. Idle connections are not watched; they are checked before they are used.

mod connect;
mod connection;
mod endpoint;
mod error;
mod idle;
mod stream;
pub(super) mod tls;

use std::{sync::Arc, time::Duration};

use hyper::{Request, Response, StatusCode, body::Incoming, header::RETRY_AFTER};
use tokio::time::{Instant, timeout_at};
use tokio_rustls::rustls::ClientConfig;

use super::{egress::Network, resolver::Resolver};
use connect::Connector;
use connection::Connection;
pub(super) use endpoint::{Endpoint, Host};
pub(super) use error::SendError;
use idle::IdleConnections;

/// Maximum bytes of an answer's body that are read. 16 KiB: receivers confirm with a few words, and
/// reading those to the end allows another request on the connection.
const BODY_BYTES: usize = 16 << 10;
/// Maximum time for the body of an answer, after its head. 1 s: it usually comes with the head. A
/// receiver that is slower pays with a new connection for each request.
const BODY_TIME: Duration = Duration::from_secs(1);

/// The answer to a request.
#[derive(Debug)]
pub(super) struct Reply {
    /// Its status.
    pub(super) status: StatusCode,
    /// The header `retry-after`, if it is text.
    pub(super) retry_after: Option<Box<str>>,
    /// The beginning of its body.
    pub(super) body: Vec<u8>,
    /// Whether that is the whole body.
    pub(super) is_whole: bool,
}

/// A client for one endpoint. Requests may run concurrently, each on its own connection.
pub(super) struct Client {
    connector: Connector,
    timeout: Duration,
    idle: IdleConnections<Connection>,
}

impl Client {
    /// A client whose requests take at most `timeout`. `tls` is needed if the endpoint is
    /// encrypted.
    pub(super) fn new(
        endpoint: Endpoint,
        allowed: Vec<Network>,
        resolver: Arc<dyn Resolver>,
        tls: Option<Arc<ClientConfig>>,
        timeout: Duration,
    ) -> Self {
        let connector = Connector { endpoint, allowed, resolver, tls };
        Client { connector, timeout, idle: IdleConnections::default() }
    }

    /// Sends a request, and returns after the beginning of the answer's body. The request needs a
    /// path as its URI, and the header `host`.
    pub(super) async fn send(&self, request: Request<String>) -> Result<Reply, SendError> {
        let deadline = Instant::now() + self.timeout;
        let answered = timeout_at(deadline, self.head(request, deadline)).await;
        let (mut connection, response) = answered.unwrap_or(Err(SendError::Timeout(self.timeout)))?;
        let (head, mut body) = response.into_parts();
        let mut read = Vec::new();
        let until = deadline.min(Instant::now() + BODY_TIME);
        let is_whole =
            timeout_at(until, connection.read(&mut body, &mut read, BODY_BYTES)).await.is_ok_and(|whole| whole);
        if is_whole && connection.is_reusable() {
            self.idle.put(connection, Instant::now());
        }
        let retry_after = head.headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok()).map(Box::from);
        Ok(Reply { status: head.status, retry_after, body: read, is_whole })
    }

    /// Sends a request, and returns the head of its answer.
    async fn head(
        &self,
        request: Request<String>,
        deadline: Instant,
    ) -> Result<(Connection, Response<Incoming>), SendError> {
        if let Some(mut kept) = self.idle.take(Instant::now(), Connection::is_reusable) {
            match kept.send(request.clone()).await {
                Ok(response) => return Ok((kept, response)),
                Err(error) if kept.has_answered() => return Err(error.into()),
                // The receiver closed it while it was idle, perhaps just now.
                Err(_) => {}
            }
        }
        let mut connection = Connection::open(self.connector.connect(deadline).await?).await?;
        let response = connection.send(request).await?;
        Ok((connection, response))
    }
}
