//! Client addresses: networks, and what privacy leaves of an address.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// The address with its host part set to zero: IPv4 keeps 24 bits, IPv6 keeps 48.
#[must_use]
pub fn truncate(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(v4) => {
            let [a, b, c, _] = v4.octets();
            IpAddr::V4(Ipv4Addr::new(a, b, c, 0))
        }
        IpAddr::V6(v6) => {
            let [a, b, c, ..] = v6.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, 0, 0, 0, 0, 0))
        }
    }
}

/// A network in CIDR form, for example `10.0.0.0/8`. A bare address is the network of that address alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    base: IpAddr,
    prefix: u8,
}

impl Network {
    /// Whether the address lies in this network. An IPv4 address in IPv6 clothes counts as IPv4.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.base, address.to_canonical()) {
            (IpAddr::V4(base), IpAddr::V4(address)) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(self.prefix)).unwrap_or(0);
                (u32::from(base) ^ u32::from(address)) & mask == 0
            }
            (IpAddr::V6(base), IpAddr::V6(address)) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(self.prefix)).unwrap_or(0);
                (u128::from(base) ^ u128::from(address)) & mask == 0
            }
            _ => false,
        }
    }

    /// Whether it is one of IPv4 addresses.
    #[must_use]
    pub const fn is_ipv4(&self) -> bool {
        self.base.is_ipv4()
    }

    /// Its first and its last address, as numbers.
    #[must_use]
    pub fn range(&self) -> (u128, u128) {
        let (base, bits) = match self.base {
            IpAddr::V4(base) => (u128::from(u32::from(base)), 32),
            IpAddr::V6(base) => (u128::from(base), 128),
        };
        let rest = u128::MAX.checked_shr(128 - (bits - u32::from(self.prefix))).unwrap_or(0);
        (base & !rest, base | rest)
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.base, self.prefix)
    }
}

impl FromStr for Network {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        let (base, prefix) = s.split_once('/').map_or((s, None), |(base, prefix)| (base, Some(prefix)));
        let base: IpAddr = base.parse().map_err(|_| format!("`{s}` is not a network such as 10.0.0.0/8"))?;
        let most = if base.is_ipv4() { 32 } else { 128 };
        let prefix = match prefix {
            None => most,
            Some(text) => text
                .parse()
                .ok()
                .filter(|p| *p <= most)
                .ok_or_else(|| format!("`{s}`: the prefix length must be 0 to {most}"))?,
        };
        Ok(Self { base, prefix })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holds(network: &str, address: &str) -> bool {
        network.parse::<Network>().unwrap().contains(address.parse().unwrap())
    }

    #[test]
    fn a_network_holds_its_addresses_and_no_others() {
        assert!(holds("10.0.0.0/8", "10.255.1.2"));
        assert!(!holds("10.0.0.0/8", "11.0.0.1"));
        assert!(holds("0.0.0.0/0", "1.2.3.4"));
        assert!(holds("10.0.0.0/8", "::ffff:10.1.1.1"));
        assert!(holds("2001:db8::/32", "2001:db8:1::1"));
        assert!(!holds("2001:db8::/32", "2001:db9::1"));
        assert!(holds("::/0", "2001:db9::1"));
        assert!(holds("192.0.2.7", "192.0.2.7") && !holds("192.0.2.7", "192.0.2.8"));
        assert!("10.0.0.0/33".parse::<Network>().is_err() && "ten/8".parse::<Network>().is_err());
    }

    #[test]
    fn a_network_begins_and_ends_where_its_addresses_do() {
        for (network, first, last) in [
            ("10.1.2.3/8", "10.0.0.0", "10.255.255.255"),
            ("192.0.2.7", "192.0.2.7", "192.0.2.7"),
            ("0.0.0.0/0", "0.0.0.0", "255.255.255.255"),
            ("2001:db8::1/32", "2001:db8::", "2001:db8:ffff:ffff:ffff:ffff:ffff:ffff"),
            ("::/0", "::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
        ] {
            let number = |text: &str| match text.parse().unwrap() {
                IpAddr::V4(v4) => u128::from(u32::from(v4)),
                IpAddr::V6(v6) => u128::from(v6),
            };
            assert_eq!(network.parse::<Network>().unwrap().range(), (number(first), number(last)), "{network}");
        }
    }

    #[test]
    fn truncation_keeps_24_and_48_bits() {
        assert_eq!(truncate("203.0.113.77".parse().unwrap()).to_string(), "203.0.113.0");
        assert_eq!(truncate("2001:db8:aaaa:bbbb::1".parse().unwrap()).to_string(), "2001:db8:aaaa::");
    }
}
