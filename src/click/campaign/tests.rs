//! Campaigns by examples, and the shares that strategies promise.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use serde_json::{Value, json};

use super::*;
use crate::click::condition::{Map, Number, Text};

/// A visit from this country, by this device, at nine.
struct From(&'static str, &'static str);

impl Facts for From {
    fn text(&self, name: Text) -> Cow<'_, str> {
        match name {
            Text::Country => self.0.into(),
            Text::Device => self.1.into(),
            _ => "".into(),
        }
    }

    fn number(&self, _: Number) -> i64 {
        9
    }

    fn entry(&self, _: Map, _: &str) -> Option<Cow<'_, str>> {
        None
    }

    fn is_bot(&self) -> bool {
        false
    }

    fn address(&self) -> IpAddr {
        Ipv4Addr::LOCALHOST.into()
    }

    fn has_tag(&self, _: &str) -> bool {
        false
    }
}

/// All turns of a test are of one rule.
#[derive(Default)]
struct OneTurn(Turn);

impl Tally for OneTurn {
    fn turn(&mut self, _: &Campaign, _: usize) -> &mut Turn {
        &mut self.0
    }
}

fn own() -> OwnHosts {
    OwnHosts { hosts: vec!["go.example".into()], ..OwnHosts::default() }
}

fn campaign(document: Value) -> Campaign {
    Campaign::check("spring", document, &own()).unwrap_or_else(|misfits| panic!("{misfits:#?}"))
}

fn to(names: &[(&str, u32)]) -> Value {
    let to = names.iter().map(|(name, weight)| json!({"name": name, "url": "https://a.example/", "weight": weight}));
    to.collect()
}

fn decided(campaign: &Campaign, facts: &From) -> (String, String) {
    let decision = campaign.decide(facts, 1, &mut OneTurn::default());
    (decision.rule().to_owned(), decision.variant().to_owned())
}

#[test]
fn the_first_rule_that_holds_decides_then_the_default_then_the_fallback_then_the_link() {
    let rules = json!([
        {"name": "phones", "when": "country == 'DE' && device == 'mobile'", "to": to(&[("p", 1)])},
        {"name": "germans", "when": "country == 'DE'", "to": to(&[("g", 1)])},
    ]);
    let whole = json!({"when": "country != 'FR'", "rules": rules, "default": to(&[("d", 1)]),
        "fallback_url": "https://f.example/"});
    let with_default = campaign(whole.clone());
    let without = |field: &str| {
        let mut document = whole.clone();
        document.as_object_mut().unwrap().remove(field);
        document
    };
    let with_fallback = campaign(without("default"));
    let said = |campaign: &Campaign, facts| decided(campaign, &facts);
    let pair = |rule: &str, variant: &str| (rule.to_owned(), variant.to_owned());
    assert_eq!(said(&with_default, From("DE", "mobile")), pair("phones", "p"));
    assert_eq!(said(&with_default, From("DE", "desktop")), pair("germans", "g"));
    assert_eq!(said(&with_default, From("AT", "mobile")), pair("", "d"));
    assert_eq!(said(&with_default, From("FR", "mobile")), pair("", ""));
    assert_eq!(said(&with_fallback, From("AT", "mobile")), pair("", "fallback"));
    let neither = campaign(json!({"rules": rules}));
    let decision = neither.decide(&From("AT", "mobile"), 1, &mut OneTurn::default());
    assert_eq!((decision.target(), decision), (None, Decision::Link));
    assert!(with_default.needs.has(Needs::AGENT.and(Needs::PLACE)) && !with_default.needs.has(Needs::TIME));
}

/// How many of so many keys go to each destination of the default.
fn counts(campaign: &Campaign, keys: u64) -> BTreeMap<String, u64> {
    let (mut counts, mut turns) = (BTreeMap::new(), OneTurn::default());
    for key in 0..keys {
        let decision = campaign.decide(&From("", ""), key, &mut turns);
        *counts.entry(decision.variant().to_owned()).or_default() += 1;
    }
    counts
}

#[test]
fn weighted_shares_are_those_of_the_weights() {
    let weights = [("a", 1), ("b", 2), ("c", 3), ("d", 14)];
    let counts = counts(&campaign(json!({"default": to(&weights)})), 100_000);
    let chi_square: f64 = weights
        .iter()
        .map(|(name, weight)| {
            let expected = 100_000.0 * f64::from(*weight) / 20.0;
            (counts[*name] as f64 - expected).powi(2) / expected
        })
        .sum();
    // Three degrees of freedom: 99.9 % of fair draws stay below.
    assert!(chi_square < 16.27, "{chi_square} {counts:?}");
}

#[test]
fn a_changed_weight_moves_only_those_that_it_must() {
    let chosen = |weights: &[(&str, u32)]| -> Vec<String> {
        let campaign = campaign(json!({"default": to(weights)}));
        let variant = |key| campaign.decide(&From("", ""), key, &mut OneTurn::default()).variant().to_owned();
        (0..20_000).map(variant).collect()
    };
    let before = chosen(&[("a", 10), ("b", 10), ("c", 10)]);
    for (weights, may_gain) in [
        (&[("a", 10), ("b", 20), ("c", 10)][..], true),
        (&[("b", 10), ("a", 10), ("c", 10), ("b2", 5)], false),
        (&[("a", 10), ("b", 5), ("c", 10)], false),
        (&[("a", 10), ("c", 10)], false),
    ] {
        let after = chosen(weights);
        let moved = before.iter().zip(&after).filter(|(before, after)| before != after);
        for (before, after) in moved {
            assert!(before == "b" || (may_gain && after == "b") || after == "b2", "{before} -> {after}: {weights:?}");
        }
        assert_ne!(before, after);
    }
    assert_eq!(before, chosen(&[("c", 10), ("a", 10), ("b", 10)]), "their order says nothing");
}

#[test]
fn round_robin_takes_turns_by_weight_and_spreads_them() {
    let rule = json!({"name": "r", "strategy": "round_robin", "to": to(&[("a", 5), ("b", 1), ("c", 1)])});
    let campaign = campaign(json!({"rules": [rule]}));
    let mut turns = OneTurn::default();
    let row: String = (0..14).map(|key| campaign.decide(&From("", ""), key, &mut turns).variant().to_owned()).collect();
    assert_eq!(row, "aabacaaaabacaa");
}

#[test]
fn priority_takes_the_first_and_the_highest_bid_the_best() {
    let rule = |strategy: &str, to: Value| {
        let campaign = campaign(json!({"rules": [{"name": "r", "strategy": strategy, "to": to}]}));
        let variant = |key| campaign.decide(&From("", ""), key, &mut OneTurn::default()).variant().to_owned();
        (0..1000).map(variant).collect::<std::collections::BTreeSet<_>>().into_iter().collect::<Vec<_>>()
    };
    assert_eq!(rule("priority", to(&[("off", 0), ("first", 1), ("second", 9)])), ["first"]);
    let bid = |name: &str, bid: f64, weight: u32| json!({"name": name, "url": "https://a.example/", "bid": bid, "weight": weight});
    let bids = json!([bid("low", 1.5, 9), bid("high", 2.0, 1), bid("also", 2.0, 1), bid("off", 3.0, 0)]);
    assert_eq!(rule("highest_bid", bids), ["also", "high"]);
}

#[test]
fn everything_that_is_wrong_is_told_with_its_pointer() {
    let document = json!({
        "id": "autumn",
        "org": "an other",
        "zone": "Europe/Berlln",
        "when": "contry == 'DE'",
        "surprise": 1,
        "sticky": "always",
        "dedup": {"window": "8d"},
        "rules": [
            {"name": "a", "to": []},
            {"name": "a", "strategy": "best", "to": [{"url": "https://go.example/loop"}, {"url": "ftp://a.example/"}, 7]},
            {"when": 5, "to": [{"url": "https://a.example/", "weight": 0}]},
            {"name": "b", "strategy": "highest_bid", "to": [{"url": "https://a.example/{nope}", "weight": -1}]},
            {"name": "c", "to": [{"name": "x", "url": "https://a.example/"}, {"name": "x", "url": "https://a.example/"}]},
            {"name": "d", "too": []},
        ],
        "default": [{"name": "n", "bid": "much", "cap": 5}],
        "fallback_url": "nowhere",
    });
    let misfits = Campaign::check("spring", document, &own()).unwrap_err();
    let told: Vec<_> = misfits.iter().map(|misfit| misfit.pointer.as_str()).collect();
    let expected = [
        "/id",
        "/org",
        "/dedup/window",
        "/zone",
        "/when",
        "/rules/0/to",
        "/rules/1/name",
        "/rules/1/strategy",
        "/rules/1/to/0/url",
        "/rules/1/to/1/url",
        "/rules/1/to/2",
        "/rules/2/name",
        "/rules/2/when",
        "/rules/2/to",
        "/rules/3/to/0/url",
        "/rules/3/to/0/weight",
        "/rules/3/to/0/bid",
        "/rules/4/to/1/name",
        "/rules/5/to",
        "/rules/5/too",
        "/default/0/url",
        "/default/0/bid",
        "/default/0/cap",
        "/sticky",
        "/fallback_url",
        "/surprise",
    ];
    assert_eq!(told, expected, "{misfits:#?}");
    let detail = |pointer: &str| &misfits.iter().find(|misfit| misfit.pointer == pointer).unwrap().detail;
    assert!(detail("/when").starts_with("line 1, column 1: `contry` is unknown"));
    assert!(detail("/rules/1/to/0/url").contains("a loop"));
    assert!(Campaign::check("spring", json!({}), &own()).unwrap_err()[0].detail.contains("says nothing"));
    assert!(Campaign::check("spring", json!([]), &own()).unwrap_err()[0].detail.contains("an object is wanted"));
    assert_eq!(Campaign::check("", json!({"default": to(&[("a", 1)])}), &own()).unwrap_err()[0].pointer, "/id");
}

#[test]
fn a_zone_tells_the_time_of_its_walls() {
    let local = |name: &str| Zone::named(name).unwrap().local(1_795_215_600_000);
    // 2026-11-20 23:00 UTC, a Friday.
    assert_eq!((local("UTC").hour, local("UTC").weekday, local("UTC").to_string()), (23, 5, "2026-11-20".into()));
    let berlin = local("Europe/Berlin");
    assert_eq!((berlin.hour, berlin.weekday, berlin.to_string()), (0, 6, "2026-11-21".into()));
    assert!(Zone::named("Mars").unwrap_err().contains("IANA"));
}
