//! A set of networks, asked with what a click keeps of its address: the /24 of an IPv4 one, the /48 of an IPv6 one.
//!
//! Such a piece is in the set where the networks together cover all of it; a smaller network in it says nothing of its
//! other addresses. Two sorted lists of ranges, one binary search a look-up (`benches/path.rs`). Pure; 16 bytes a range.

use std::hash::Hasher as _;
use std::net::IpAddr;

use siphasher::sip::SipHasher24;

use super::address::Network;

/// Bits of an address that are not in its piece; as [`truncate`](super::address::truncate) has it.
const V4_REST: u32 = 32 - 24;
/// See [`V4_REST`].
const V6_REST: u32 = 128 - 48;

/// The set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Networks {
    v4: Vec<Pieces>,
    v6: Vec<Pieces>,
}

/// Numbers of the first and the last piece.
type Pieces = (u64, u64);

impl FromIterator<Network> for Networks {
    fn from_iter<T: IntoIterator<Item = Network>>(networks: T) -> Self {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for network in networks {
            if network.is_ipv4() { &mut v4 } else { &mut v6 }.push(network.range());
        }
        Self { v4: whole_pieces(v4, V4_REST), v6: whole_pieces(v6, V6_REST) }
    }
}

impl Networks {
    /// Whether what a click keeps of this address is in the set.
    #[must_use]
    pub fn cover(&self, address: IpAddr) -> bool {
        let (ranges, piece) = match address {
            IpAddr::V4(v4) => (&self.v4, u64::from(u32::from(v4) >> V4_REST)),
            IpAddr::V6(v6) => (&self.v6, (u128::from(v6) >> V6_REST) as u64),
        };
        let behind = ranges.partition_point(|(first, _)| *first <= piece);
        behind.checked_sub(1).is_some_and(|at| piece <= ranges[at].1)
    }

    /// Ranges that are left when all is put together.
    #[must_use]
    pub fn ranges(&self) -> usize {
        self.v4.len() + self.v6.len()
    }

    /// Names the set: another one has another number. 0: nothing is in it.
    #[must_use]
    pub fn version(&self) -> u64 {
        if self.ranges() == 0 {
            return 0;
        }
        let mut hasher = SipHasher24::new();
        for ranges in [&self.v4, &self.v6] {
            hasher.write_usize(ranges.len());
            ranges.iter().for_each(|(first, last)| {
                hasher.write_u64(*first);
                hasher.write_u64(*last);
            });
        }
        hasher.finish()
    }
}

/// Puts ranges of addresses together, and gives the pieces that they cover whole.
fn whole_pieces(mut ranges: Vec<(u128, u128)>, rest: u32) -> Vec<Pieces> {
    ranges.sort_unstable();
    let mut joined: Vec<(u128, u128)> = Vec::new();
    for (first, last) in ranges {
        match joined.last_mut() {
            Some(before) if first <= before.1.saturating_add(1) => before.1 = before.1.max(last),
            _ => joined.push((first, last)),
        }
    }
    let rest_mask = (1_u128 << rest) - 1;
    let whole = joined.into_iter().filter_map(|(first, last)| {
        let from = (first >> rest) + u128::from(first & rest_mask != 0);
        let behind = (last >> rest) + u128::from(last & rest_mask == rest_mask);
        // Numbers of pieces have 48 bits at most.
        (from < behind).then(|| (from as u64, (behind - 1) as u64))
    });
    whole.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::click::address::truncate;

    fn networks(list: &[&str]) -> Networks {
        list.iter().map(|text| text.parse::<Network>().unwrap()).collect()
    }

    fn covered(list: &[&str], address: &str) -> bool {
        networks(list).cover(address.parse().unwrap())
    }

    #[test]
    fn a_piece_is_in_the_set_where_networks_cover_all_of_it() {
        let list = [
            "198.51.100.0/22",
            "203.0.113.0/25",
            "203.0.113.128/25",
            "192.0.2.0/28",
            "192.0.3.128/25",
            "2001:db8::/32",
        ];
        for inside in ["198.51.100.7", "198.51.103.255", "203.0.113.0", "203.0.113.200", "2001:db8:ffff::1"] {
            assert!(covered(&list, inside), "{inside}");
        }
        for outside in [
            "198.51.99.255",
            "198.51.104.0",
            "203.0.114.0",
            "192.0.2.0",
            "192.0.2.1",
            "192.0.3.200",
            "2001:db9::",
            "::",
        ] {
            assert!(!covered(&list, outside), "{outside}");
        }
        assert!(covered(&["0.0.0.0/0"], "255.255.255.255") && covered(&["::/0"], "ffff:ffff:ffff:ffff::"));
        assert!(!covered(&["0.0.0.0/0"], "::1") && !covered(&[], "192.0.2.1"));
        assert!(!covered(&["2001:db8:0:1::/64"], "2001:db8::"), "a /64 is not its /48");
    }

    #[test]
    fn neighbours_twins_and_nested_ones_are_one_range_in_any_order() {
        let mut list = ["10.1.0.0/16", "10.0.0.0/16", "10.0.5.0/24", "10.1.0.0/16", "10.0.5.4"];
        let joined = networks(&list);
        assert_eq!((joined.ranges(), &joined), (1, &networks(&["10.0.0.0/15"])));
        list.reverse();
        assert_eq!(networks(&list).version(), joined.version());
        assert_ne!(networks(&["10.0.0.0/14"]).version(), joined.version());
        assert_eq!(Networks::default().version(), 0);
    }

    #[test]
    fn the_answer_is_that_of_a_search_through_all_networks() {
        for seed in 0..50 {
            let mut random = fastrand::Rng::with_seed(seed);
            // Within 10.0.0.0/16, so that they meet; none smaller than a piece.
            let texts: Vec<_> =
                (0..random.u8(1..30)).map(|_| format!("10.0.{}.0/{}", random.u8(..), random.u8(16..=24))).collect();
            let list: Vec<_> = texts.iter().map(|text| text.parse::<Network>().unwrap()).collect();
            let set: Networks = list.iter().copied().collect();
            for third in 0..=255_u8 {
                let address = truncate(IpAddr::from([10, 0, third, random.u8(..)]));
                let expected = list.iter().any(|network| network.contains(address));
                assert_eq!(set.cover(address), expected, "SEED={seed}, {address} {list:?}");
            }
        }
    }
}
