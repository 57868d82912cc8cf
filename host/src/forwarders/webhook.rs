//! A sink that posts each message to a URL, signed by the rules of
//! [Standard Webhooks](https://www.standardwebhooks.com).
//!
//! ```text
//! POST /hooks/orders HTTP/1.1
//! host: shop.example.com
//! content-type: application/json
//! webhook-id: 5f0c…                       the message's idempotency key
//! webhook-timestamp: 1767323045           the time of this attempt, in seconds
//! webhook-signature: v1,K5oZ… v1,9fQy…    one for each secret
//! sandmill-tenant: acme
//! sandmill-lane: order-mails%20acme       messages of a lane come in order
//! sandmill-sequence: 1842                 grows within a lane
//! sandmill-type: OrderPlaced
//!
//! {"order":17}
//! ```
//!
//! A receiver verifies the signature: it is the Base64 of the HMAC-SHA256 over
//! `ID.TIMESTAMP.BODY`, and any of the listed ones may match. It refuses old timestamps, and drops
//! a message whose key it has handled before. Characters outside of ASCII, spaces, `"` and `%` of a
//! lane or a type are written like `%20`, as in CloudEvents.
//!
//! - **Confirmation.** Only a status of 200 to 299 counts as delivered; see [`answer`] for all
//!   others. Redirects are never followed.
//! - **Bounds.** A receiver that hangs, trickles or never ends its answer costs one timeout and 80
//!   KiB at most.
//! - **Secrets.** They, and the URL's path and query, appear in no log line and no error. A
//!   receiver that repeats them in its answer is masked as well.

mod answer;
mod cloudevent;
mod masks;
mod request;
mod retry_after;
mod secret;
#[cfg(test)]
mod tests;
mod url;

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use tokio_rustls::rustls::ClientConfig;

pub use self::{
    secret::{InvalidSecret, Secret},
    url::{InvalidUrl, WebhookUrl},
};
use super::{
    egress::{self, Denied, Network},
    http::{Client, Host, tls},
    resolver::{Resolver, SystemResolver},
};
use crate::model::{
    handler::BoxFuture,
    outbound::{DeliveryFailure, Message, Sink},
};
use masks::Masks;
use request::BodyFormat;

/// The usual limit of an attempt. 15 s: the shorter end of what Standard Webhooks recommends.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(15);
/// The longest limit of an attempt. 5 min: longer than any receiver should compute before it
/// confirms.
pub const LONGEST_TIMEOUT: Duration = Duration::from_secs(300);

/// The settings of a webhook.
#[derive(Clone, Debug)]
pub struct WebhookSettings {
    /// Where messages are posted.
    pub url: WebhookUrl,
    /// Every message is signed with each of these, at least one. To rotate a secret, list the new
    /// one beside the old one until the receiver knows it.
    pub secrets: Vec<Secret>,
    /// Maximum time of an attempt, from the name lookup to the answer. More than zero, and at most
    /// [`LONGEST_TIMEOUT`]. Usually [`DEFAULT_TIMEOUT`].
    pub timeout: Duration,
    /// Networks that may be contacted although they are not public. Only an operator may list any:
    /// settings of tenants must leave this empty.
    pub allow_addresses: Vec<Network>,
    /// Whether the body is a CloudEvent in structured mode, rather than the message's own body.
    pub cloudevents: bool,
}

/// The error of settings that no webhook can have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidWebhook {
    /// There is no secret, so the receiver could not tell a message from a forged one.
    #[error(
        "there is no secret to sign messages with; make one with `openssl rand -base64 32`, and give it to the receiver as well"
    )]
    NoSecret,
    /// The time limit is out of bounds.
    #[error("the timeout must be more than 0 s, and at most {} s", LONGEST_TIMEOUT.as_secs())]
    Timeout,
    /// The URL's host is an address that may not be contacted.
    #[error(
        "the URL's host cannot be contacted, because {0}; use a public address, or list its network in `allow-addresses`"
    )]
    Denied(Denied),
    /// No certificate could be verified.
    #[error("no TLS: {0}")]
    NoAuthorities(String),
}

/// A webhook. Its connections are kept for later messages.
pub struct Webhook {
    url: WebhookUrl,
    secrets: Vec<Secret>,
    format: BodyFormat,
    masks: Masks,
    client: Client,
}

impl Webhook {
    /// A webhook that resolves names like the operating system.
    ///
    /// # Errors
    ///
    /// [`InvalidWebhook`], with the remedy.
    pub fn new(settings: WebhookSettings) -> Result<Self, InvalidWebhook> {
        Webhook::with_resolver(settings, Arc::new(SystemResolver::default()))
    }

    /// A webhook with another resolver. Webhooks of different tenants should not share one, because
    /// the slow name servers of one tenant would delay the others.
    ///
    /// # Errors
    ///
    /// [`InvalidWebhook`], with the remedy.
    pub fn with_resolver(settings: WebhookSettings, resolver: Arc<dyn Resolver>) -> Result<Self, InvalidWebhook> {
        let encrypts = settings.url.endpoint().certified.is_some();
        let tls = encrypts.then(tls::of_system).transpose().map_err(InvalidWebhook::NoAuthorities)?;
        Webhook::with_parts(settings, resolver, tls)
    }

    fn with_parts(
        settings: WebhookSettings,
        resolver: Arc<dyn Resolver>,
        tls: Option<Arc<ClientConfig>>,
    ) -> Result<Self, InvalidWebhook> {
        let WebhookSettings { url, secrets, timeout, allow_addresses, cloudevents } = settings;
        if secrets.is_empty() {
            return Err(InvalidWebhook::NoSecret);
        }
        if timeout.is_zero() || timeout > LONGEST_TIMEOUT {
            return Err(InvalidWebhook::Timeout);
        }
        if let Host::Address(address) = url.endpoint().host {
            egress::check(address, &allow_addresses).map_err(InvalidWebhook::Denied)?;
        }
        let masks = Masks::of(&secrets, &url);
        let client = Client::new(url.endpoint().clone(), allow_addresses, resolver, tls, timeout);
        let format = if cloudevents { BodyFormat::CloudEvent } else { BodyFormat::Body };
        Ok(Webhook { url, secrets, format, masks, client })
    }

    /// One attempt to deliver a message.
    async fn post(&self, message: &Message) -> Result<(), DeliveryFailure> {
        let seconds = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let request = request::of(message, &self.url, &self.secrets, self.format, seconds)?;
        let endpoint = self.url.endpoint();
        match self.client.send(request).await {
            Ok(reply) => answer::judge(&reply, endpoint, &self.masks, SystemTime::now()),
            Err(error) => Err(answer::missing(&error, endpoint)),
        }
    }
}

impl Sink for Webhook {
    fn deliver<'a>(&'a self, message: &'a Message) -> BoxFuture<'a, Result<(), DeliveryFailure>> {
        Box::pin(self.post(message))
    }
}
