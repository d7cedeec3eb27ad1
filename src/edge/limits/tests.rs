//! Tests of all limits together, with time as an argument.

use super::*;
use crate::config::{Config, Sources};

fn limits(settings: &str) -> Limits {
    let config = Config::from_text(&Sources::default(), settings).unwrap();
    Limits::new(&config.limits, b"secret", config.edge.connections_max)
}

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

const NOW: Duration = Duration::from_secs(1000);

#[test]
fn a_network_is_limited_as_one_and_others_are_not() {
    let limits = limits("[limits.network]\nrate = 1\nburst = 4\n");
    let ask = |client: &str| limits.admit(Some(address(client)), NOW);
    for client in ["203.0.113.1", "203.0.113.2", "203.0.113.3", "203.0.113.4"] {
        assert_eq!(ask(client), Ok(()));
    }
    let limited = ask("203.0.113.200").unwrap_err();
    assert_eq!(limited, Limited { limit: Limit::Network, retry_after_s: 1, burst: 4, window_s: 4 });
    assert_eq!(ask("203.0.114.1"), Ok(()));
    assert_eq!(ask("2001:db8:0:1::1"), Ok(()));
    ["2001:db8:0:1::", "2001:db8:0:1::2", "2001:db8:0:1:a::"].iter().for_each(|client| ask(client).unwrap());
    assert!(ask("2001:db8:0:1:ffff::9").is_err(), "a /64 is one network");
    assert_eq!(ask("2001:db8:0:2::1"), Ok(()));
    let later = NOW + Duration::from_secs(1);
    assert_eq!(limits.admit(Some(address("203.0.113.1")), later), Ok(()), "after what Retry-After said");
    assert!(limits.admit(Some(address("203.0.113.1")), later).is_err());
}

#[test]
fn networks_that_differ_in_one_bit_are_two() {
    let limits = limits("[limits.network]\nrate = 1\nburst = 1\n");
    let first = u128::from_be_bytes([0x2a; 16]);
    let differing = (64..128).map(|bit| IpAddr::V6((first ^ (1 << bit)).into()));
    let v4 = (8..32).map(|bit| IpAddr::V4((0x2a2a_2a2a_u32 ^ (1 << bit)).into()));
    for address in differing.chain(v4).chain([IpAddr::V6(first.into()), address("42.42.42.42")]) {
        assert_eq!(limits.admit(Some(address), NOW), Ok(()), "{address}");
        assert!(limits.admit(Some(address), NOW).is_err(), "{address}");
    }
}

#[test]
fn what_a_network_is_refused_uses_up_nothing_of_what_all_share() {
    let limits = limits("[limits.network]\nrate = 1\nburst = 2\n[limits.global]\nrate = 1\nburst = 5\n");
    let refused = |client| (0..100).filter_map(|_| limits.admit(Some(address(client)), NOW).err()).collect::<Vec<_>>();
    assert!(refused("203.0.113.1").iter().all(|limited| limited.limit == Limit::Network));
    let others: Vec<_> = refused("203.0.114.1");
    assert_eq!(others.len(), 98);
    assert_eq!(limits.admit(None, NOW), Ok(()), "the fifth; exempt ones count in all together");
    assert_eq!(limits.admit(None, NOW).unwrap_err().limit, Limit::Global);
    assert_eq!(limits.admit(Some(address("203.0.115.1")), NOW).unwrap_err().limit, Limit::Global);
}

#[test]
fn guessing_stops_a_network_before_the_look_up_and_it_comes_back_at_the_rate() {
    let limits = limits("[limits.misses]\nrate = 10\nburst = 3\n");
    let (guesser, neighbour, stranger) = (address("203.0.113.1"), address("203.0.113.9"), address("203.0.114.1"));
    for _ in 0..3 {
        assert_eq!(limits.admit(Some(guesser), NOW), Ok(()));
        limits.miss(guesser, NOW);
    }
    let limited = limits.admit(Some(guesser), NOW).unwrap_err();
    assert_eq!((limited.limit, limited.retry_after_s), (Limit::Misses, 1));
    assert!(limits.admit(Some(neighbour), NOW).is_err());
    assert_eq!(limits.admit(Some(stranger), NOW), Ok(()));
    // What is refused is no miss: after one interval there is room, however often it asked in between.
    let at = |ms| NOW + Duration::from_millis(ms);
    assert!((0..99).all(|ms| limits.admit(Some(guesser), at(ms)).is_err()));
    assert_eq!(limits.admit(Some(neighbour), at(100)), Ok(()), "a known link: no miss, so the next one comes in too");
    assert_eq!(limits.admit(Some(guesser), at(100)), Ok(()));
    limits.miss(guesser, at(100));
    assert!(limits.admit(Some(guesser), at(100)).is_err());
}

#[test]
fn links_and_keys_have_their_own_rates() {
    let limits = limits("[limits.link]\nrate = 5\nburst = 2\n");
    (0..2).for_each(|_| limits.link("", "spring", NOW).unwrap());
    assert_eq!(limits.link("", "spring", NOW).unwrap_err().limit, Limit::Link);
    assert_eq!(limits.link("", "summer", NOW), Ok(()));
    assert_eq!(limits.link("go.example", "spring", NOW), Ok(()), "of another domain");
    (0..7).for_each(|_| limits.key("a", 10, 7, NOW).unwrap());
    let limited = limits.key("a", 10, 7, NOW).unwrap_err();
    assert_eq!(limited, Limited { limit: Limit::Key, retry_after_s: 1, burst: 7, window_s: 1 });
    assert_eq!(limits.key("b", 10, 7, NOW), Ok(()));
    assert_eq!(limits.key("a", 10, 9, NOW), Ok(()), "another grant for the same key counts at once");
}

#[test]
fn what_is_off_limits_nobody() {
    let off = "limits.connections_per_address = 0\n[limits.network]\nrate = 0\n[limits.misses]\nrate = 0\n";
    let limits = limits(off);
    for _ in 0..100_000 {
        limits.miss(address("203.0.113.1"), NOW);
        limits.admit(Some(address("203.0.113.1")), NOW).unwrap();
        limits.link("", "spring", NOW).unwrap();
        assert_eq!(limits.connect(address("203.0.113.1")), Ok(None));
    }
}

#[test]
fn addresses_that_no_visitor_of_the_internet_has_are_exempt_by_default() {
    let limits = limits("");
    for exempt in ["127.0.0.1", "127.3.2.1", "::1", "10.1.2.3", "172.17.0.1", "192.168.1.1", "fd00::1", "fe80::1"] {
        assert!(limits.is_exempt(address(exempt)), "{exempt}");
    }
    for visitor in ["8.8.8.8", "172.32.0.1", "2001:db8::1", "100.64.0.1"] {
        assert!(!limits.is_exempt(address(visitor)), "{visitor}");
    }
}

#[test]
fn connections_are_counted_by_address_and_an_ipv6_address_is_its_64_network() {
    let limits = limits("limits.connections_per_address = 1");
    let first = limits.connect(address("203.0.113.1")).unwrap().unwrap();
    assert_eq!(limits.connect(address("203.0.113.1")), Err(TooMany));
    assert!(limits.connect(address("203.0.113.2")).is_ok(), "not by network");
    limits.disconnect(first);
    assert!(limits.connect(address("203.0.113.1")).is_ok());
    assert!(limits.connect(address("2001:db8::1")).is_ok());
    assert_eq!(limits.connect(address("2001:db8::2")), Err(TooMany));
}
