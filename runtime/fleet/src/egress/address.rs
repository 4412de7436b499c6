//! Decides which addresses functions may reach: those of the public internet, and the ranges that the operator has
//! opened. Pure.
//!
//! The ranges are those of IANA's special-purpose registries. An IPv6 address that carries an IPv4 address (mapped,
//! translated, 6to4) is judged by its IPv4 address.

use ipnet::IpNet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Whether a function may connect to an address. `opened` are the ranges that the operator has opened.
pub fn may_reach(address: IpAddr, opened: &[IpNet]) -> bool {
    let address = address.to_canonical();
    if opened.iter().any(|range| range.contains(&address)) {
        return true;
    }
    match address {
        IpAddr::V4(four) => is_public_4(four),
        IpAddr::V6(six) => is_public_6(six),
    }
}

fn is_public_4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    let special = match a {
        0 | 10 | 127 => true,
        100 => (64..128).contains(&b),
        168 => b == 63 && c == 129,
        169 => b == 254,
        172 => (16..32).contains(&b),
        192 => (b == 168) || (b == 0 && (c == 0 || c == 2)) || (b == 88 && c == 99),
        198 => b == 18 || b == 19 || (b == 51 && c == 100),
        203 => b == 0 && c == 113,
        224.. => true,
        _ => false,
    };
    !special
}

fn is_public_6(address: Ipv6Addr) -> bool {
    let [a, b, c, d, e, f, g, h] = address.segments();
    let four = |high: u16, low: u16| {
        let [x, y] = high.to_be_bytes();
        let [z, w] = low.to_be_bytes();
        is_public_4(Ipv4Addr::new(x, y, z, w))
    };
    match (a, b) {
        // The well-known prefix of NAT64.
        (0x64, 0xff9b) if [c, d, e, f] == [0; 4] => four(g, h),
        // 6to4.
        (0x2002, _) => four(b, c),
        // IETF protocol assignments, Teredo among them; documentation.
        (0x2001, 0..0x200 | 0xdb8) => false,
        (0x3fff, 0..0x1000) => false,
        // Only 2000::/3 is global unicast.
        _ => (0x2000..0x4000).contains(&a),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn only_public_addresses_can_be_reached() {
        for private in [
            "0.0.0.0",
            "10.1.2.3",
            "100.64.0.1",
            "127.0.0.1",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.168.1.1",
            "192.0.0.1",
            "192.0.2.1",
            "198.18.0.1",
            "198.51.100.1",
            "203.0.113.9",
            "224.0.0.1",
            "168.63.129.16",
            "255.255.255.255",
            "::",
            "::1",
            "::ffff:10.0.0.1",
            "::ffff:169.254.169.254",
            "fe80::1",
            "fc00::1",
            "fd00:ec2::254",
            "ff02::1",
            "64:ff9b::a00:1",
            "64:ff9b:1::1",
            "2002:a00:1::",
            "2001:db8::1",
            "2001::1",
            "100::1",
        ] {
            assert!(!may_reach(private.parse().unwrap(), &[]), "{private}");
        }
        for public in ["1.1.1.1", "172.32.0.1", "192.0.1.1", "2606:4700::1111", "64:ff9b::101:101", "2002:101:101::"] {
            assert!(may_reach(public.parse().unwrap(), &[]), "{public}");
        }
    }

    #[test]
    fn what_the_operator_has_opened_can_be_reached() {
        let opened = ["127.0.0.0/8".parse().unwrap()];
        assert!(may_reach("127.0.0.1".parse().unwrap(), &opened));
        assert!(may_reach("::ffff:127.0.0.1".parse().unwrap(), &opened), "the same address");
        assert!(!may_reach("10.0.0.1".parse().unwrap(), &opened));
    }
}
