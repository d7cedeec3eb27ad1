//! Campaigns with caps: who takes over when something is closed, and that the others keep their shares.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use serde_json::{Value, json};

use super::choice::mix;
use super::*;
use crate::click::condition::{Map, Number, Text};

/// A visit of which nothing is known.
struct Nothing;

impl Facts for Nothing {
    fn text(&self, _: Text) -> Cow<'_, str> {
        "".into()
    }

    fn number(&self, _: Number) -> i64 {
        0
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

/// Caps by their limits: each test gives every one another.
#[derive(Default)]
struct Scripted {
    turn: Turn,
    closed: BTreeSet<u64>,
    /// Closes when somebody takes it: the last place has just gone.
    lost: BTreeSet<u64>,
    taken: Vec<u64>,
    passed: usize,
}

impl Tally for Scripted {
    fn turn(&mut self, _: &Campaign, _: usize) -> &mut Turn {
        &mut self.turn
    }

    fn is_open(&self, cap: &Cap) -> bool {
        !self.closed.contains(&cap.limit)
    }

    fn take(&mut self, cap: &Cap) -> bool {
        if self.lost.remove(&cap.limit) {
            self.closed.insert(cap.limit);
            return false;
        }
        self.taken.push(cap.limit);
        true
    }

    fn give_back(&mut self, cap: &Cap) {
        let at = self.taken.iter().rposition(|limit| *limit == cap.limit).expect("it was taken");
        self.taken.remove(at);
    }

    fn pass_over(&mut self) {
        self.passed += 1;
    }
}

fn campaign(document: Value) -> Campaign {
    Campaign::check("c", document, &OwnHosts::default()).unwrap_or_else(|misfits| panic!("{misfits:#?}"))
}

/// A destination with a cap of this limit.
fn capped(name: &str, limit: u64) -> Value {
    json!({"name": name, "url": format!("https://{name}.example/"), "cap": {"limit": limit, "per": "day"}})
}

fn with(mut to: Value, field: &str, value: Value) -> Value {
    to[field] = value;
    to
}

fn overflowing(mut to: Value) -> Value {
    to["cap"]["overflow_url"] = json!("https://overflow.example/");
    to
}

fn closed(limits: &[u64]) -> Scripted {
    Scripted { closed: limits.iter().copied().collect(), ..Scripted::default() }
}

/// Rule, variant and what was taken.
fn told(campaign: &Campaign, tally: &mut Scripted) -> (String, String, Vec<u64>) {
    told_by(campaign, 7, tally)
}

fn told_by(campaign: &Campaign, key: u64, tally: &mut Scripted) -> (String, String, Vec<u64>) {
    let decision = campaign.decide(&Nothing, key, tally);
    (decision.rule().into(), decision.variant().into(), std::mem::take(&mut tally.taken))
}

fn expect(rule: &str, variant: &str, taken: &[u64]) -> (String, String, Vec<u64>) {
    (rule.into(), variant.into(), taken.to_vec())
}

#[test]
fn what_is_closed_is_passed_over_rule_by_rule_down_to_the_link() {
    let rules = json!([
        {"name": "one", "strategy": "priority", "to": [capped("a", 1), capped("b", 2)]},
        {"name": "two", "to": [{"name": "c", "url": "https://c.example/"}], "cap": {"limit": 3, "per": "total"}},
    ]);
    let whole = json!({"rules": rules, "default": [capped("d", 4)], "fallback_url": "https://fallback.example/"});
    let all = campaign(whole);
    for (limits, expected, passed) in [
        (&[][..], expect("one", "a", &[1]), 0),
        (&[1], expect("one", "b", &[2]), 1),
        (&[1, 2], expect("two", "c", &[3]), 1),
        (&[1, 2, 3], expect("", "d", &[4]), 2),
        (&[1, 2, 3, 4], expect("", "fallback", &[]), 3),
    ] {
        let mut tally = closed(limits);
        assert_eq!((told(&all, &mut tally), tally.passed), (expected, passed), "{limits:?}");
    }
    let bare = campaign(json!({"default": [capped("d", 4)]}));
    assert_eq!(bare.decide(&Nothing, 7, &mut closed(&[4])), Decision::Link);
    assert!(all.is_capped && all.needs.has(Needs::AGENT));
}

#[test]
fn an_overflow_takes_those_who_would_have_gone_there_and_no_place() {
    let rule = |to: Value, cap: Value| campaign(json!({"rules": [{"name": "r", "to": [to], "cap": cap}]}));
    let cap = |limit: u64| json!({"limit": limit, "per": "hour"});
    let both = rule(overflowing(capped("a", 1)), cap(2));
    assert_eq!(told(&both, &mut closed(&[])), expect("r", "a", &[1, 2]));
    assert_eq!(told(&both, &mut closed(&[1])), expect("r", "overflow", &[]));
    assert_eq!(both.decide(&Nothing, 7, &mut closed(&[2])), Decision::Link);
    let mut own = cap(2);
    own["overflow_url"] = json!("https://of-the-rule.example/{rule}");
    let own = rule(capped("a", 1), own);
    let decision = own.decide(&Nothing, 7, &mut closed(&[2])).target().map(Template::constant);
    assert_eq!((decision, told(&own, &mut closed(&[2]))), (Some(None), expect("r", "overflow", &[])));
    assert_eq!(own.decide(&Nothing, 7, &mut closed(&[1])), Decision::Link, "no destination, and the rule has places");
    let default = campaign(json!({"default": [overflowing(capped("a", 1))]}));
    assert_eq!(told(&default, &mut closed(&[1])), expect("", "overflow", &[]));
}

#[test]
fn a_place_that_goes_while_it_is_asked_for_is_given_to_nobody() {
    let rule = json!({"name": "r", "strategy": "priority", "cap": {"limit": 9, "per": "hour"},
        "to": [capped("a", 1), overflowing(capped("b", 2))]});
    let campaign = campaign(json!({"rules": [rule], "default": [{"name": "d", "url": "https://d.example/"}]}));
    let lost = |limits: &[u64]| Scripted { lost: limits.iter().copied().collect(), ..Scripted::default() };
    assert_eq!(told(&campaign, &mut lost(&[1])), expect("r", "b", &[2, 9]));
    assert_eq!(told(&campaign, &mut lost(&[1, 2])), expect("r", "overflow", &[]));
    assert_eq!(told(&campaign, &mut lost(&[9])), expect("", "d", &[]), "the destination's place is given back");
}

#[test]
fn the_next_best_bid_takes_over_and_equal_bids_share() {
    let bid = |to: Value, bid: f64| with(to, "bid", json!(bid));
    let plain = |name: &str| json!({"name": name, "url": format!("https://{name}.example/")});
    let to = json!([
        bid(plain("low"), 1.0),
        bid(capped("best", 1), 5.0),
        bid(capped("second", 2), 3.0),
        bid(plain("third"), 2.0),
        bid(capped("also", 3), 3.0),
    ]);
    let campaign = campaign(json!({"rules": [{"name": "r", "strategy": "highest_bid", "to": to}]}));
    assert_eq!(campaign.rules[0].choice.destinations().len(), 4, "nobody ever comes to the low one");
    let names = |limits: &[u64]| -> BTreeSet<String> {
        let decide = |key| campaign.decide(&Nothing, mix(key), &mut closed(limits)).variant().to_owned();
        (0..200).map(decide).collect()
    };
    let set = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>();
    assert_eq!(names(&[]), set(&["best"]));
    assert_eq!(names(&[1]), set(&["second", "also"]));
    assert_eq!(names(&[1, 3]), set(&["second"]));
    assert_eq!(names(&[1, 2, 3]), set(&["third"]));
}

/// Decisions of each destination, and the chi-square of the open ones against their weights.
fn shares(strategy: &str, closed_ones: &[u64], weights: &[u64]) -> (BTreeMap<String, u64>, f64) {
    const VISITS: u64 = 20_000;
    let to: Vec<_> = weights
        .iter()
        .zip(1..)
        .map(|(weight, limit)| with(capped(&format!("d{limit}"), limit), "weight", json!(weight)))
        .collect();
    let campaign = campaign(json!({"rules": [{"name": "r", "strategy": strategy, "to": to}]}));
    let (mut tally, mut counts) = (closed(closed_ones), BTreeMap::<String, u64>::new());
    for visit in 0..VISITS {
        *counts.entry(campaign.decide(&Nothing, mix(visit), &mut tally).variant().into()).or_default() += 1;
    }
    let open: Vec<_> = weights.iter().zip(1..).filter(|(_, limit)| !closed_ones.contains(limit)).collect();
    let total: u64 = open.iter().map(|(weight, _)| *weight).sum();
    let chi = open.iter().map(|(weight, limit)| {
        let expected = (VISITS * **weight) as f64 / total as f64;
        (counts.get(&format!("d{limit}")).copied().unwrap_or(0) as f64 - expected).powi(2) / expected
    });
    let chi = chi.sum();
    (counts, chi)
}

#[test]
fn the_open_ones_share_by_their_weights_what_the_closed_ones_would_have_had() {
    let weights = [1, 2, 3, 4, 10];
    for strategy in ["weighted", "round_robin"] {
        for closed_ones in [&[][..], &[5], &[1, 4], &[1, 2, 3, 4], &[3]] {
            let (counts, chi) = shares(strategy, closed_ones, &weights);
            assert!(closed_ones.iter().all(|limit| !counts.contains_key(&format!("d{limit}"))), "{counts:?}");
            assert_eq!(counts.len(), weights.len() - closed_ones.len(), "{counts:?}");
            // Four degrees of freedom at most: above 18.5 once in a thousand.
            assert!(chi < 18.5, "{strategy} {closed_ones:?}: {chi} {counts:?}");
        }
    }
}

#[test]
fn one_that_closes_moves_nobody_but_its_own_visitors() {
    let to: Vec<_> = (1..=20).map(|limit| capped(&format!("d{limit}"), limit)).collect();
    let campaign = campaign(json!({"rules": [{"name": "r", "to": to}]}));
    let mut moved = 0;
    for key in (0..5_000).map(mix) {
        let (mut open, mut shut) = (Scripted::default(), closed(&[3, 8]));
        let (_, before, _) = told_by(&campaign, key, &mut open);
        let (_, after, _) = told_by(&campaign, key, &mut shut);
        let was_closed = ["d3", "d8"].contains(&before.as_str());
        assert_eq!(before != after, was_closed, "{key}");
        assert_eq!(shut.passed, usize::from(was_closed), "it is told when a closed one was in the way, and only then");
        moved += usize::from(was_closed);
    }
    assert!((300..700).contains(&moved), "a tenth: {moved}");
}

#[test]
fn names_that_say_what_became_of_a_click_are_refused_beside_caps() {
    let document = |cap: bool| {
        let names = ["overflow", "capped", "expired", "fallback", "fine"];
        let to: Vec<_> = names.iter().map(|name| json!({"name": name, "url": "https://a.example/"})).collect();
        let cap = if cap { json!([capped("d", 1)]) } else { json!([{"url": "https://a.example/"}]) };
        json!({"rules": [{"name": "r", "to": to}], "default": cap})
    };
    assert!(Campaign::check("c", document(false), &OwnHosts::default()).is_ok(), "it was saved before there were caps");
    let misfits = Campaign::check("c", document(true), &OwnHosts::default()).unwrap_err();
    let told: Vec<_> = misfits.iter().map(|misfit| misfit.pointer.as_str()).collect();
    assert_eq!(told, ["/rules/0/to/0/name", "/rules/0/to/1/name", "/rules/0/to/2/name", "/rules/0/to/3/name"]);
    let bad = json!({"rules": [{"name": "r", "to": [with(capped("a", 1), "cap", json!({"limit": 5}))], "cap": {"per": "day"}}]});
    let misfits = Campaign::check("c", bad, &OwnHosts::default()).unwrap_err();
    let told: Vec<_> = misfits.iter().map(|misfit| misfit.pointer.as_str()).collect();
    assert_eq!(told, ["/rules/0/to/0/cap/per", "/rules/0/cap/limit"]);
    assert!(misfits[0].detail.contains("a cap has a period"), "{misfits:?}");
}
