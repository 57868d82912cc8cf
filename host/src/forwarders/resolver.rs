//! The addresses of a host name.
//!
//! The trait lets tests answer for names. The system's resolver blocks a thread of the runtime for
//! as long as the name servers take, even after the caller has given up. So each resolver bounds
//! the threads that its lookups hold.

use std::{
    io,
    net::{IpAddr, ToSocketAddrs},
    sync::Arc,
};

use tokio::{sync::Semaphore, task::spawn_blocking};

use crate::model::handler::BoxFuture;

/// Maximum number of lookups of one resolver at a time. 4: names are looked up only for new
/// connections, and hundreds of lanes must not fill the runtime's 512 blocking threads while a name
/// server is down.
const LOOKUPS: usize = 4;

/// A source of the addresses of a host name.
pub trait Resolver: Send + Sync {
    /// All addresses of a name, in the order in which they should be tried.
    ///
    /// # Errors
    ///
    /// The name does not exist, or its name servers did not answer.
    fn resolve<'a>(&'a self, name: &'a str) -> BoxFuture<'a, io::Result<Vec<IpAddr>>>;
}

/// The resolver of the operating system, with its hosts file and its order of addresses.
pub struct SystemResolver {
    lookups: Arc<Semaphore>,
}

impl Default for SystemResolver {
    fn default() -> Self {
        SystemResolver { lookups: Arc::new(Semaphore::new(LOOKUPS)) }
    }
}

impl Resolver for SystemResolver {
    fn resolve<'a>(&'a self, name: &'a str) -> BoxFuture<'a, io::Result<Vec<IpAddr>>> {
        Box::pin(async move {
            let permit = self.lookups.clone().acquire_owned().await.map_err(io::Error::other)?;
            let name = name.to_owned();
            // As in `tokio::net::lookup_host`, but the permit stays with the thread: a lookup that
            // was abandoned still occupies it.
            let lookup = spawn_blocking(move || {
                let _permit = permit;
                (name.as_str(), 0).to_socket_addrs().map(|found| found.map(|address| address.ip()).collect())
            });
            lookup.await.map_err(io::Error::other)?
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_system_knows_its_own_name_and_no_reserved_one() {
        let resolver = SystemResolver::default();
        let found = resolver.resolve("localhost").await.unwrap();
        assert!(!found.is_empty() && found.iter().all(IpAddr::is_loopback), "{found:?}");
        resolver.resolve("no.such.host.invalid").await.unwrap_err();
        assert_eq!(resolver.lookups.available_permits(), LOOKUPS);
    }
}
