//! The memory as a whole: clicks in, reasons out.

use std::sync::Arc;

use super::*;
use crate::click::ClickId;
use crate::click::domain::ANY;
use crate::config::shipped_classifier;

/// A whole minute, and so the beginning of a half.
const NOW_MS: u64 = 1_700_000_040_000;

fn limits() -> Limits {
    Limits {
        address_per_minute: 3,
        link_per_minute: 5,
        counters: 4_096,
        heads_min: 3,
        heads_within_ms: 20_000,
        pairs: 1_024,
    }
}

fn memory() -> Memory {
    let data_centres = ["198.51.100.0/24"].iter().map(|network| network.parse().unwrap()).collect::<Networks>();
    Memory::new(limits(), Arc::new(data_centres))
}

fn bare(id: ClickId) -> Click<'static> {
    Click { link: "", destination: b"", ..crate::testing::click(id) }
}

fn click(ms: u64, address: &str, link: &'static str, head: bool) -> Click<'static> {
    let id = ClickId::new(ms, &[0; 10]);
    let address = (!address.is_empty()).then(|| address.parse::<IpAddr>().unwrap().into());
    Click { head, address, link, ..bare(id) }
}

fn names(memory: &Memory, ms: u64, address: &str, link: &'static str, head: bool) -> Vec<&'static str> {
    memory.observe(&click(ms, address, link, head)).names().collect()
}

#[test]
fn a_network_and_a_link_are_fast_from_their_thresholds_on_and_by_themselves() {
    let memory = memory();
    let told = |ms, address, link| names(&memory, NOW_MS + ms, address, link, false);
    for ms in [0, 10_000] {
        assert_eq!(told(ms, "203.0.113.0", "a"), [""; 0]);
    }
    assert_eq!(told(20_000, "203.0.113.0", "b"), ["velocity_address"]);
    assert_eq!(told(20_000, "192.0.2.0", "a"), [""; 0]);
    assert_eq!(told(20_000, "2001:db8::", "a"), [""; 0]);
    assert_eq!(told(59_999, "", "a"), ["velocity_link"], "the fifth; an address that is not kept is none");
    assert_eq!(told(90_000, "203.0.113.0", "a"), [""; 0], "all that is a minute ago");
    assert_eq!(told(90_000, "198.51.100.0", ""), ["data_centre"]);
}

#[test]
fn a_slug_is_another_link_at_another_domain_and_visits_to_no_link_are_of_none() {
    let memory = memory();
    let told = |domain, link| memory.observe(&Click { domain, ..click(NOW_MS, "", link, false) }).names().next();
    for _ in 0..4 {
        assert_eq!([told("a.example", "a"), told("b.example", "a"), told(ANY, "a")], [None; 3]);
    }
    assert_eq!([told("a.example", "a"), told(ANY, "a")], [Some("velocity_link"); 2]);
    assert!((0..20).all(|_| told(ANY, NO_LINK).is_none() && told(ANY, "").is_none()));
}

#[test]
fn a_get_and_heads_of_one_link_from_one_network_are_a_pattern_for_those_that_come_last() {
    let memory = Memory::new(Limits { address_per_minute: 0, link_per_minute: 0, ..limits() }, Arc::default());
    let told = |ms, address, link, head| names(&memory, NOW_MS + ms, address, link, head);
    for ms in [0, 1, 2] {
        assert_eq!(told(ms, "203.0.113.0", "a", true), [""; 0]);
    }
    assert_eq!(told(3, "203.0.113.0", "b", false), [""; 0], "of another link");
    assert_eq!(told(3, "192.0.2.0", "a", false), [""; 0], "from another network");
    assert_eq!(told(3, "", "a", false), [""; 0], "from nowhere");
    assert_eq!(told(9_999, "203.0.113.0", "a", false), ["preview_pattern"]);
    assert_eq!(told(15_000, "203.0.113.0", "a", true), ["preview_pattern"]);
    assert_eq!(told(40_000, "203.0.113.0", "a", false), [""; 0], "that is over");
}

#[test]
fn zero_is_never() {
    let never = Limits { address_per_minute: 0, link_per_minute: 0, heads_min: 0, ..limits() };
    let memory = Memory::new(never, Arc::default());
    for n in 0..100 {
        assert_eq!(names(&memory, NOW_MS, "203.0.113.0", "a", n % 3 > 0), [""; 0]);
    }
}

#[test]
fn a_backlog_is_not_measured_and_disturbs_no_click_of_now() {
    let memory = memory();
    let told = |ms| names(&memory, ms, "203.0.113.0", "a", false);
    assert_eq!([NOW_MS, NOW_MS].map(told), [[""; 0]; 2]);
    for ago in (60_000..10_000_000).step_by(10_000) {
        assert_eq!(told(NOW_MS - ago), [""; 0], "{ago} ms ago");
    }
    assert_eq!(told(NOW_MS + 1), ["velocity_address"], "the third of now");
}

#[test]
fn the_same_clicks_in_the_same_order_find_the_same_whenever_that_is() {
    let mut random = fastrand::Rng::with_seed(7);
    let mut ms = NOW_MS;
    let clicks: Vec<_> = (0..20_000)
        .map(|_| {
            ms += random.u64(..50);
            click(ms, &format!("10.0.{}.0", random.u8(..)), ["a", "b", "c"][random.usize(..3)], random.bool())
        })
        .collect();
    let run = || {
        let memory = memory();
        clicks.iter().map(|click| memory.observe(click)).collect::<Vec<_>>()
    };
    let found = run();
    assert_eq!(found, run());
    assert!(found.iter().any(|reasons| reasons.has(Reasons::PREVIEW_PATTERN)), "the test says something");
}

#[test]
fn a_hash_of_an_address_has_a_speed_and_lies_in_no_data_centre() {
    let all = ["0.0.0.0/0", "::/0"].iter().map(|network| network.parse().unwrap()).collect();
    let memory = Memory::new(limits(), Arc::new(all));
    let told = |ms, hash| {
        let address = Some(Kept::Hash(hash));
        memory.observe(&Click { address, ..click(ms, "", "", false) }).names().collect::<Vec<_>>()
    };
    for n in 0..2 {
        assert_eq!(told(NOW_MS + n, [1; 16]), [""; 0]);
    }
    assert_eq!(told(NOW_MS + 2, [2; 16]), [""; 0], "another one");
    assert_eq!(told(NOW_MS + 3, [1; 16]), ["velocity_address"], "the third");
    assert_eq!(memory.observe(&click(NOW_MS + 4, "192.0.2.1", "", false)).names().collect::<Vec<_>>(), ["data_centre"]);
}

#[test]
fn a_million_addresses_take_no_more_memory_and_find_nobody_fast_by_default() {
    let limits = shipped_classifier().rules().memory;
    let memory = Memory::new(limits, Arc::default());
    let bytes = memory.bytes();
    // 2 sketches of 4 rows, 8 bytes each; the pairs.
    assert_eq!(bytes, limits.counters as usize * 64 + limits.pairs as usize * 8);
    let mut fast = 0;
    for n in 0..1_000_000_u32 {
        // 16,667 clicks a second for a minute, each from a network of its own.
        let id = ClickId::new(NOW_MS + u64::from(n) * 60 / 1_000, &[0; 10]);
        let address = IpAddr::from((n << 8).to_be_bytes());
        let link = ["a", "b", "c", "d", "e", "f", "g", "h"][n as usize % 8];
        let reasons = memory.observe(&Click { address: Some(address.into()), link, ..bare(id) });
        fast += u32::from(reasons.has(Reasons::VELOCITY_ADDRESS.and(Reasons::PREVIEW_PATTERN)));
    }
    assert_eq!((memory.bytes(), fast), (bytes, 0));
}

#[test]
fn the_own_prober_is_neither_found_fast_nor_counted_with_others_of_its_network() {
    let memory = memory();
    for ms in 0..10 {
        let probe = Click { marks: Marks::PROBE, ..click(NOW_MS + ms, "203.0.113.0", "a", false) };
        assert_eq!(memory.observe(&probe), Reasons::default());
    }
    assert_eq!(names(&memory, NOW_MS + 10, "203.0.113.0", "a", false), [""; 0]);
}
