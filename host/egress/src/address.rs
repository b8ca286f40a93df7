//! Which addresses a download may connect to: public ones.
//!
//! The list is of what is refused in IPv4, where unlisted space is public, and of what is allowed in IPv6, where only
//! 2000::/3 is. Addresses that carry an IPv4 address inside are judged by that one: a gateway would deliver there.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// An address that is not connected to, and what it is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{address} is {kind}, not a public one")]
pub struct AddressRefusal {
    /// The address.
    pub address: IpAddr,
    /// `a private address`, say.
    pub kind: &'static str,
}

/// Whether `address` may be connected to; loopback only where `loopback` says so.
///
/// # Errors
/// What the address is instead of public.
pub fn check_address(address: IpAddr, loopback: bool) -> Result<(), AddressRefusal> {
    let kind = match address {
        _ if is_loopback(address) => (!loopback).then_some("a loopback address"),
        IpAddr::V4(v4) => refused_v4(v4),
        IpAddr::V6(v6) => refused_v6(v6),
    };
    kind.map_or(Ok(()), |kind| Err(AddressRefusal { address, kind }))
}

/// Loopback in its two plain forms. The embedded ones (`::ffff:127.0.0.1`) are nobody's honest spelling.
fn is_loopback(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.is_loopback(),
        IpAddr::V6(v6) => v6 == Ipv6Addr::LOCALHOST,
    }
}

fn refused_v4(address: Ipv4Addr) -> Option<&'static str> {
    let [a, b, c, _] = address.octets();
    match (a, b, c) {
        (0, ..) => Some("an unspecified address"),
        (127, ..) => Some("a loopback address"),
        (169, 254, _) => Some("a link-local or metadata address"),
        (10, ..) | (172, 16..=31, _) | (192, 168, _) => Some("a private address"),
        (100, 64..=127, _) => Some("a provider's shared address"),
        (192, 0, 0 | 2) | (192, 88, 99) | (198, 18..=19, _) | (198, 51, 100) | (203, 0, 113) => {
            Some("a reserved address")
        }
        (224..=239, ..) => Some("a multicast address"),
        (240..=255, ..) => Some("a reserved or broadcast address"),
        _ => None,
    }
}

fn refused_v6(address: Ipv6Addr) -> Option<&'static str> {
    let [s0, s1, s2, s3, s4, s5, s6, s7] = address.segments();
    let embedded = |high: u16, low: u16| {
        let [a, b] = high.to_be_bytes();
        let [c, d] = low.to_be_bytes();
        refused_v4(Ipv4Addr::new(a, b, c, d))
    };
    match (s0, s1, s2, s3, s4, s5) {
        (0, 0, 0, 0, 0, 0) if s6 == 0 && s7 == 0 => Some("an unspecified address"),
        // IPv4-compatible, IPv4-mapped, IPv4-translated, NAT64, 6to4.
        (0, 0, 0, 0, 0, 0 | 0xffff) | (0, 0, 0, 0, 0xffff, 0) => embedded(s6, s7),
        (0x64, 0xff9b, 0, 0, 0, 0) => embedded(s6, s7),
        (0x64, 0xff9b, 1, ..) => Some("a private translation address"),
        (0x2002, ..) => embedded(s1, s2),
        // Teredo carries its client's address inverted, and nobody serves files there.
        (0x2001, 0, ..) => Some("a tunnel address"),
        (0x2001, 0xdb8, ..) | (0x3fff, 0..=0xfff, ..) => Some("a documentation address"),
        (0xfe80..=0xfebf, ..) => Some("a link-local address"),
        (0xfc00..=0xfdff, ..) | (0xfec0..=0xfeff, ..) => Some("a private address"),
        (0xff00..=0xffff, ..) => Some("a multicast address"),
        (0x2000..=0x3fff, ..) => None,
        _ => Some("a reserved address"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(text: &str, loopback: bool) -> Option<&'static str> {
        check_address(text.parse().unwrap(), loopback)
            .err()
            .map(|refusal| refusal.kind)
    }

    #[test]
    fn public_addresses_pass() {
        for text in [
            "1.1.1.1",
            "8.8.8.8",
            "172.15.0.1",
            "172.32.0.1",
            "100.63.0.1",
            "192.0.1.1",
            "2606:4700::1111",
        ] {
            assert_eq!(verdict(text, false), None, "{text}");
        }
        // Public addresses in their IPv6 dress stay public.
        for text in ["::ffff:8.8.8.8", "64:ff9b::8.8.8.8", "2002:808:808::1"] {
            assert_eq!(verdict(text, false), None, "{text}");
        }
    }

    #[test]
    fn everything_else_is_refused() {
        for text in [
            "0.0.0.0",
            "0.1.2.3",
            "10.0.0.1",
            "100.64.0.1",
            "127.0.0.1",
            "127.255.255.254",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.1",
            "192.0.2.1",
            "192.168.1.1",
            "198.18.0.1",
            "198.51.100.1",
            "203.0.113.1",
            "224.0.0.1",
            "239.255.255.255",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::127.0.0.1",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "::ffff:169.254.169.254",
            "::ffff:0:10.0.0.1",
            "64:ff9b::127.0.0.1",
            "64:ff9b::a9fe:a9fe",
            "64:ff9b:1::1",
            "2002:7f00:1::",
            "2002:a00:1::1",
            "2002:a9fe:a9fe::",
            "2001::1",
            "2001:db8::1",
            "fe80::1",
            "fec0::1",
            "fc00::1",
            "fd00:ec2::254",
            "ff02::1",
            "100::1",
            "4000::1",
            "5f00::1",
        ] {
            assert!(verdict(text, false).is_some(), "{text}");
        }
    }

    #[test]
    fn loopback_is_allowed_only_in_its_plain_forms() {
        assert_eq!(verdict("127.0.0.1", true), None);
        assert_eq!(verdict("::1", true), None);
        for text in [
            "::ffff:127.0.0.1",
            "64:ff9b::127.0.0.1",
            "2002:7f00:1::",
            "0.0.0.0",
            "::",
            "169.254.169.254",
        ] {
            assert!(verdict(text, true).is_some(), "{text}");
        }
    }
}
