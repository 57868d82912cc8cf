//! The place that a client connects to: a scheme, a host and a port.

use std::{fmt, net::IpAddr};

use tokio_rustls::rustls::pki_types::ServerName;
use url::Url;

/// A host, by name or by address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::forwarders) enum Host {
    /// A name to resolve.
    Name(Box<str>),
    /// An address.
    Address(IpAddr),
}

/// A scheme, a host and a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::forwarders) struct Endpoint {
    /// The name in the server's certificate; none if connections are not encrypted.
    pub(in crate::forwarders) certified: Option<ServerName<'static>>,
    /// The host. Unusual forms of addresses, such as `0x7f.1`, are addresses here.
    pub(in crate::forwarders) host: Host,
    /// The port, 1 to 65535.
    pub(in crate::forwarders) port: u16,
    /// The host, and the port unless it is the scheme's usual one.
    pub(in crate::forwarders) authority: Box<str>,
}

impl Endpoint {
    /// The endpoint of a URL; none if the URL is not one of HTTP, or lacks a usable host or port.
    pub(in crate::forwarders) fn of(url: &Url) -> Option<Self> {
        let host = match url.host()? {
            // The parser turns every text that a resolver could take for an address into one.
            url::Host::Ipv4(address) => Host::Address(address.into()),
            url::Host::Ipv6(address) => Host::Address(address.into()),
            url::Host::Domain(name) => Host::Name(name.into()),
        };
        let certified = match (url.scheme(), &host) {
            ("http", _) => None,
            ("https", Host::Address(address)) => Some(ServerName::from(*address)),
            ("https", Host::Name(name)) => Some(ServerName::try_from(name.to_string()).ok()?),
            _ => return None,
        };
        let port = url.port_or_known_default().filter(|port| *port != 0)?;
        let name = url.host_str()?;
        let authority = url.port().map_or_else(|| name.into(), |port| format!("{name}:{port}").into());
        Some(Endpoint { certified, host, port, authority })
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.certified.is_some() { "https" } else { "http" };
        write!(f, "{scheme}://{}", self.authority)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(url: &str) -> Option<Endpoint> {
        Url::parse(url).ok().and_then(|url| Endpoint::of(&url))
    }

    #[test]
    fn an_address_in_any_spelling_is_an_address() {
        let loopback = Host::Address([127, 0, 0, 1].into());
        for spelling in ["127.0.0.1", "2130706433", "0x7f000001", "017700000001", "127.1", "0x7f.1", "127.0.0.1."] {
            let found = endpoint(&format!("http://{spelling}/")).unwrap();
            assert_eq!((&found.host, &*found.authority), (&loopback, "127.0.0.1"), "{spelling}");
        }
        let spellings = [("[::ffff:7f00:1]", "::ffff:127.0.0.1"), ("[0:0:0:0:0:0:0:1]", "::1")];
        for (spelling, address) in spellings {
            let found = endpoint(&format!("http://{spelling}/")).unwrap();
            assert_eq!(found.host, Host::Address(address.parse().unwrap()), "{spelling}");
        }
        for bad in ["http://256.0.0.1/", "http://0x7f000001ff/", "http://[::1%25lo]/", "http:///", "http://a:0/"] {
            assert_eq!(endpoint(bad), None, "{bad}");
        }
    }

    #[test]
    fn an_origin_is_displayed_without_the_rest_of_its_url() {
        for (url, text, port) in [
            ("https://Hooks.Example.com/t0k3n?key=t0k3n", "https://hooks.example.com", 443),
            ("https://hooks.example.com:443/", "https://hooks.example.com", 443),
            ("http://[2606::1]:8080/", "http://[2606::1]:8080", 8080),
        ] {
            let endpoint = endpoint(url).unwrap();
            assert_eq!((endpoint.to_string(), endpoint.port), (text.into(), port));
        }
        assert_eq!(endpoint("ftp://example.com/"), None);
    }
}
