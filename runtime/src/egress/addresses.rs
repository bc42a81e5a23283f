//! Which addresses guests may reach: those of the public Internet, and what the operator adds. Pure.

use ipnet::IpNet;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// Networks in CIDR notation, separated by commas: `10.1.0.0/16, fd00::/8`. None are an empty text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Networks(Vec<IpNet>);

impl Networks {
    /// Whether guests may reach this address.
    pub(super) fn allow(&self, address: IpAddr) -> bool {
        // What is an IPv4 address in other clothes is judged as that.
        let address = address.to_canonical();
        is_public(address) || self.0.iter().any(|network| network.contains(&address))
    }
}

impl FromStr for Networks {
    type Err = ipnet::AddrParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let networks = text
            .split(',')
            .map(str::trim)
            .filter(|text| !text.is_empty());
        networks.map(str::parse).collect::<Result<_, _>>().map(Self)
    }
}

impl fmt::Display for Networks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let texts: Vec<String> = self.0.iter().map(IpNet::to_string).collect();
        f.write_str(&texts.join(","))
    }
}

fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => is_public_v4(v4),
        IpAddr::V6(v6) => is_public_v6(v6),
    }
}

/// Not in the registry of special-purpose addresses (RFC 6890, as IANA keeps it), nor multicast, nor a cloud's own.
fn is_public_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    // Public by its number, and what Azure's machines are told their secrets by.
    if address == Ipv4Addr::new(168, 63, 129, 16) {
        return false;
    }
    let special = match (a, b, c) {
        // This host, loopback, private networks.
        (0 | 10 | 127, ..) | (172, 16..=31, _) | (192, 168, _) => true,
        // Carriers, link-local (where clouds keep their metadata), protocol assignments.
        (100, 64..=127, _) | (169, 254, _) | (192, 0, 0) => true,
        // Documentation, the 6to4 relay, benchmarks.
        (192, 0, 2) | (192, 88, 99) | (198, 18 | 19, _) | (198, 51, 100) | (203, 0, 113) => true,
        // Multicast, reserved, broadcast.
        (224.., ..) => true,
        _ => false,
    };
    !special
}

/// Global unicast (2000::/3) without what IANA took out of it, and without what leads to an IPv4 address that is not public.
fn is_public_v6(address: Ipv6Addr) -> bool {
    let segments = address.segments();
    match segments {
        // NAT64 (RFC 6052).
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => is_public_v4(v4(high, low)),
        // 6to4.
        [0x2002, high, low, ..] => is_public_v4(v4(high, low)),
        // Protocol assignments, Teredo among them; documentation.
        [0x2001, 0..=0x1ff, ..] | [0x2001, 0xdb8, ..] | [0x3fff, 0..=0xfff, ..] => false,
        [first, ..] => (0x2000..=0x3fff).contains(&first),
    }
}

fn v4(high: u16, low: u16) -> Ipv4Addr {
    let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
    Ipv4Addr::new(a, b, c, d)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PUBLIC: &str = "
        1.1.1.1 9.255.255.255 11.0.0.0 100.63.255.255 100.128.0.0 126.0.0.1 128.0.0.1 168.63.129.15 168.63.129.17 169.253.0.1 172.15.255.255 172.32.0.0
        192.0.1.0 192.167.0.1 198.17.0.1 198.20.0.1 223.255.255.255
        2606:4700::1111 2001:200::1 2a00:1450::1 ::ffff:1.1.1.1 64:ff9b::1.1.1.1 2002:101:101::";

    const PRIVATE: &str = "
        0.0.0.0 0.1.2.3 10.0.0.1 10.255.255.255 100.64.0.1 100.127.255.255 127.0.0.1 127.255.255.255 168.63.129.16 169.254.169.254
        172.16.0.1 172.31.255.255 192.0.0.1 192.0.2.1 192.88.99.1 192.168.0.1 198.18.0.1 198.19.255.255 198.51.100.1
        203.0.113.1 224.0.0.1 239.255.255.255 240.0.0.1 255.255.255.255
        :: ::1 ::7f00:1 ::ffff:127.0.0.1 ::ffff:10.0.0.1 ::ffff:169.254.169.254 64:ff9b::127.0.0.1 64:ff9b::a9fe:a9fe
        64:ff9b:1::1 100::1 2001::1 2001:1ff::1 2001:db8::1 2002:7f00:1:: 2002:a00:1:: 2002:a9fe:a9fe:: 3fff::1 3fff:fff::1
        4000::1 5f00::1 fc00::1 fd00:ec2::254 fe80::1 fec0::1 ff02::1";

    #[test]
    fn only_what_is_on_the_internet_is_public() {
        let none = Networks::default();
        for (addresses, allowed) in [(PUBLIC, true), (PRIVATE, false)] {
            for address in addresses.split_whitespace() {
                let found = none.allow(address.parse().unwrap());
                assert_eq!(found, allowed, "{address}");
            }
        }
    }

    #[test]
    fn an_operator_may_add_networks() {
        let networks: Networks = "10.1.0.0/16, fd00:1::/32".parse().unwrap();
        for (address, allowed) in [
            ("10.1.255.255", true),
            ("::ffff:10.1.0.1", true),
            ("10.2.0.0", false),
            ("127.0.0.1", false),
            ("fd00:1::7", true),
            ("fd00:2::7", false),
            ("1.1.1.1", true),
        ] {
            assert_eq!(
                networks.allow(address.parse().unwrap()),
                allowed,
                "{address}"
            );
        }
        assert_eq!(networks.to_string(), "10.1.0.0/16,fd00:1::/32");
        for wrong in [
            "10.1.0.0",
            "10.1.0.0/33",
            "example.com",
            "10.1.0.0/16 fd00::/8",
        ] {
            assert!(wrong.parse::<Networks>().is_err(), "{wrong}");
        }
        assert_eq!("".parse::<Networks>().unwrap(), Networks::default());
    }
}
