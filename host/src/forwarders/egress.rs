//! Which addresses the host may contact on behalf of a plugin or a tenant. Pure.
//!
//! Only public unicast addresses may be contacted, so that no URL can lead the host into its own
//! network, its machine or a cloud's metadata service (server-side request forgery). The operator
//! may permit further networks.
//!
//! - IPv4 addresses are refused by the list below, from the IANA special-purpose registry.
//! - IPv6 addresses are refused unless they are global unicast (`2000::/3`), and within that by a
//!   list.
//! - An IPv4-mapped address is judged as the IPv4 address that it stands for. All other forms that
//!   embed one (IPv4-compatible, NAT64, 6to4, Teredo) are refused, no matter which one they embed.
//!
//! A check is worth nothing unless the connection goes to the checked address itself. So a caller
//! resolves a name once, checks every address, and connects to one of them.

// Addresses are values; `std::net` would also bring sockets.
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::{fmt, str::FromStr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// An address that may not be contacted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{address} is {kind}")]
pub struct Denied {
    /// The address. An IPv4-mapped one appears as IPv4.
    pub address: IpAddr,
    /// What kind of address it is, with an article: `a private address`.
    pub kind: &'static str,
}

/// Checks that the host may contact an address. Networks in `allowed` are permitted without any
/// further check.
///
/// # Errors
///
/// [`Denied`], with the kind of address that it is.
pub fn check(address: IpAddr, allowed: &[Network]) -> Result<(), Denied> {
    let address = address.to_canonical();
    if allowed.iter().any(|network| network.0.contains(&address)) {
        return Ok(());
    }
    let kind = match address {
        IpAddr::V4(v4) => DENIED_V4.iter().find(|(network, _)| network.contains(&v4)).map(|(_, kind)| *kind),
        IpAddr::V6(v6) => DENIED_V6
            .iter()
            .find(|(network, _)| network.contains(&v6))
            .map(|(_, kind)| *kind)
            .or((!GLOBAL_UNICAST.contains(&v6)).then_some("not a global unicast address")),
    };
    kind.map_or(Ok(()), |kind| Err(Denied { address, kind }))
}

const fn v4(a: u8, b: u8, c: u8, d: u8, length: u8) -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), length)
}

/// A network whose address has only zeros after its first four groups.
const fn v6(groups: [u16; 4], length: u8) -> Ipv6Net {
    let [a, b, c, d] = groups;
    Ipv6Net::new_assert(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0), length)
}

const DENIED_V4: [(Ipv4Net, &str); 17] = [
    (v4(0, 0, 0, 0, 8), "an unspecified address"),
    (v4(10, 0, 0, 0, 8), "a private address"),
    (v4(100, 64, 0, 0, 10), "a shared address of a carrier's NAT"),
    (v4(127, 0, 0, 0, 8), "a loopback address"),
    (v4(169, 254, 0, 0, 16), "a link-local address"),
    (v4(172, 16, 0, 0, 12), "a private address"),
    (v4(192, 0, 0, 0, 24), "an address reserved for protocols"),
    (v4(192, 0, 2, 0, 24), "a documentation address"),
    (v4(192, 88, 99, 0, 24), "an address of 6to4 relays"),
    (v4(192, 168, 0, 0, 16), "a private address"),
    (v4(198, 18, 0, 0, 15), "a benchmarking address"),
    (v4(198, 51, 100, 0, 24), "a documentation address"),
    (v4(203, 0, 113, 0, 24), "a documentation address"),
    // Outside all special ranges, yet Azure routes it to the machine's own host.
    (v4(168, 63, 129, 16, 32), "an address of a cloud's platform"),
    (v4(224, 0, 0, 0, 4), "a multicast address"),
    (v4(255, 255, 255, 255, 32), "the broadcast address"),
    (v4(240, 0, 0, 0, 4), "a reserved address"),
];

/// The first network that contains an address decides about the kind that is named.
const DENIED_V6: [(Ipv6Net, &str); 15] = [
    (Ipv6Net::new_assert(Ipv6Addr::UNSPECIFIED, 128), "an unspecified address"),
    (Ipv6Net::new_assert(Ipv6Addr::LOCALHOST, 128), "a loopback address"),
    (Ipv6Net::new_assert(Ipv6Addr::UNSPECIFIED, 96), "an IPv4-compatible address"),
    (v6([0x64, 0xff9b, 0, 0], 96), "an address of NAT64"),
    (v6([0x64, 0xff9b, 1, 0], 48), "an address of NAT64"),
    (v6([0x100, 0, 0, 0], 64), "an address whose packets are discarded"),
    (v6([0x2001, 0, 0, 0], 32), "an address of Teredo"),
    (v6([0x2001, 0xdb8, 0, 0], 32), "a documentation address"),
    (v6([0x2001, 0, 0, 0], 23), "an address reserved for protocols"),
    (v6([0x2002, 0, 0, 0], 16), "an address of 6to4"),
    (v6([0x3fff, 0, 0, 0], 20), "a documentation address"),
    (v6([0xfc00, 0, 0, 0], 7), "a private address"),
    (v6([0xfe80, 0, 0, 0], 10), "a link-local address"),
    (v6([0xfec0, 0, 0, 0], 10), "a site-local address"),
    (v6([0xff00, 0, 0, 0], 8), "a multicast address"),
];

/// The addresses that IANA assigns to hosts; all others are special or unassigned.
const GLOBAL_UNICAST: Ipv6Net = v6([0x2000, 0, 0, 0], 3);

/// A network in CIDR notation, such as `10.0.0.0/8`, or a single address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network(IpNet);

/// The error of a text that is not a [`Network`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidNetwork {
    /// It is neither a network nor an address.
    #[error("`{0}` is not a network; write one like 10.0.0.0/8 or fd00::/8, or a single address")]
    Unreadable(String),
    /// The address has bits outside the network, so one of the two is a mistake.
    #[error("`{given}` has an address within the network; write {network} for all of it, or the address alone")]
    HostBits {
        /// The text.
        given: String,
        /// The network that it names.
        network: IpNet,
    },
    /// It contains IPv4-mapped addresses, which are judged as IPv4 and so would never match.
    #[error("`{0}` contains IPv4 addresses in the form of IPv6; write the network in the form of IPv4")]
    Mapped(String),
}

impl FromStr for Network {
    type Err = InvalidNetwork;

    fn from_str(text: &str) -> Result<Self, InvalidNetwork> {
        let given = || text.chars().take(80).collect();
        let network = parse(text).ok_or_else(|| InvalidNetwork::Unreadable(given()))?;
        if network.addr() != network.trunc().addr() {
            return Err(InvalidNetwork::HostBits { given: given(), network: network.trunc() });
        }
        if network.addr() != network.addr().to_canonical() {
            return Err(InvalidNetwork::Mapped(given()));
        }
        Ok(Network(network))
    }
}

/// Parses both parts with the standard parser, which rejects numbers like 010. Some programs read
/// them as octal.
fn parse(text: &str) -> Option<IpNet> {
    match text.split_once('/') {
        None => Some(text.parse::<IpAddr>().ok()?.into()),
        Some((address, length)) => IpNet::new(address.parse().ok()?, length.parse().ok()?).ok(),
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(address: &str, allowed: &[&str]) -> Option<&'static str> {
        let allowed: Vec<Network> = allowed.iter().map(|network| network.parse().unwrap()).collect();
        check(address.parse().unwrap(), &allowed).err().map(|denied| denied.kind)
    }

    #[test]
    fn public_addresses_may_be_contacted() {
        for public in [
            "1.1.1.1",
            "9.255.255.255",
            "11.0.0.0",
            "100.63.255.255",
            "100.128.0.0",
            "126.255.255.255",
            "128.0.0.0",
            "169.253.255.255",
            "172.15.255.255",
            "172.32.0.0",
            "192.167.255.255",
            "192.169.0.0",
            "198.17.255.255",
            "198.20.0.0",
            "223.255.255.255",
            "2606:4700:4700::1111",
            "2001:200::1",
            "2a00::1",
            "3ffe:ffff::1",
            "::ffff:1.1.1.1",
        ] {
            assert_eq!(kind(public, &[]), None, "{public}");
        }
    }

    #[test]
    fn addresses_inside_are_denied_with_their_kind() {
        for (address, word) in [
            ("0.0.0.0", "unspecified"),
            ("0.1.2.3", "unspecified"),
            ("10.0.0.0", "private"),
            ("10.255.255.255", "private"),
            ("100.64.0.0", "carrier"),
            ("100.127.255.255", "carrier"),
            ("127.0.0.1", "loopback"),
            ("127.255.255.255", "loopback"),
            ("169.254.169.254", "link-local"),
            ("172.16.0.0", "private"),
            ("172.31.255.255", "private"),
            ("192.0.0.192", "protocols"),
            ("192.0.2.1", "documentation"),
            ("192.88.99.1", "6to4"),
            ("192.168.255.255", "private"),
            ("198.18.0.0", "benchmarking"),
            ("198.19.255.255", "benchmarking"),
            ("198.51.100.1", "documentation"),
            ("203.0.113.1", "documentation"),
            ("168.63.129.16", "platform"),
            ("224.0.0.1", "multicast"),
            ("239.255.255.255", "multicast"),
            ("240.0.0.1", "reserved"),
            ("255.255.255.255", "broadcast"),
            ("::", "unspecified"),
            ("::1", "loopback"),
            ("fc00::1", "private"),
            ("fdff::1", "private"),
            ("fe80::1", "link-local"),
            ("febf::1", "link-local"),
            ("fec0::1", "site-local"),
            ("feff::1", "site-local"),
            ("ff02::1", "multicast"),
            ("2001:db8::1", "documentation"),
            ("3fff::1", "documentation"),
            ("2001:2::1", "protocols"),
            ("2001:1ff::1", "protocols"),
            ("100::1", "discarded"),
            ("5f00::1", "not a global"),
            ("4000::1", "not a global"),
            ("1fff::1", "not a global"),
        ] {
            let found = kind(address, &[]).unwrap_or_else(|| panic!("{address} is not denied"));
            assert!(found.contains(word), "{address}: {found}");
        }
    }

    #[test]
    fn an_ipv4_address_inside_another_one_is_no_way_around_the_check() {
        // Mapped addresses are judged by what they embed; the other forms are refused as such.
        assert_eq!(kind("::ffff:10.0.0.1", &[]), Some("a private address"));
        assert_eq!(kind("::ffff:127.0.0.1", &[]), Some("a loopback address"));
        assert_eq!(kind("::ffff:a9fe:a9fe", &[]), Some("a link-local address"));
        for embedded in ["127.0.0.1", "10.0.0.1", "1.1.1.1"] {
            assert_eq!(kind(&format!("::{embedded}"), &[]), Some("an IPv4-compatible address"));
            assert_eq!(kind(&format!("64:ff9b::{embedded}"), &[]), Some("an address of NAT64"));
            assert_eq!(kind(&format!("64:ff9b:1:2::{embedded}"), &[]), Some("an address of NAT64"));
            assert_eq!(kind(&format!("::ffff:0:{embedded}"), &[]), Some("not a global unicast address"));
        }
        assert_eq!(kind("2002:7f00:1::1", &[]), Some("an address of 6to4"));
        assert_eq!(kind("2001:0:4136:e378:8000:63bf:3fff:fdd2", &[]), Some("an address of Teredo"));
    }

    #[test]
    fn only_listed_networks_are_permitted() {
        let allowed = ["10.1.0.0/16", "127.0.0.1", "fd00:1::/32"];
        for permitted in ["10.1.2.3", "127.0.0.1", "::ffff:127.0.0.1", "fd00:1::2"] {
            assert_eq!(kind(permitted, &allowed), None, "{permitted}");
        }
        for denied in ["10.2.0.0", "127.0.0.2", "fd00:2::1", "::127.0.0.1", "64:ff9b::10.1.2.3", "2002:a01:203::1"] {
            assert!(kind(denied, &allowed).is_some(), "{denied}");
        }
        assert_eq!(kind("64:ff9b::10.1.2.3", &["64:ff9b::/96"]), None);
    }

    #[test]
    fn a_network_is_parsed_strictly() {
        for good in ["10.0.0.0/8", "0.0.0.0/0", "fd00::/8", "::/0"] {
            assert_eq!(good.parse::<Network>().unwrap().to_string(), good);
        }
        assert_eq!("127.0.0.1".parse::<Network>().unwrap().to_string(), "127.0.0.1/32");
        for bad in ["", "10.0.0.0/33", "10/8", "localhost", "010.0.0.0/8", "10.0.0.0/8 ", "10.0.0.0/", "1.1.1.1/8/8"] {
            assert!(matches!(bad.parse::<Network>(), Err(InvalidNetwork::Unreadable(_))), "{bad}");
        }
        assert_eq!(
            "10.1.0.0/8".parse::<Network>().unwrap_err().to_string(),
            "`10.1.0.0/8` has an address within the network; write 10.0.0.0/8 for all of it, or the address alone"
        );
        assert!(matches!("::ffff:10.0.0.0/104".parse::<Network>(), Err(InvalidNetwork::Mapped(_))));
    }

    #[test]
    fn a_denied_address_is_named_with_its_kind() {
        let denied = check("::ffff:10.0.0.1".parse().unwrap(), &[]).unwrap_err();
        assert_eq!(denied.to_string(), "10.0.0.1 is a private address");
    }
}
