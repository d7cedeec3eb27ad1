//! Counts over lives and limits; gates have tests of their own.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde_json::json;

use super::*;
use crate::click::OwnHosts;
use crate::click::cap::CapId;

/// Half past some hour.
const NOON: u64 = 1_795_262_400_000 + 1_800_000;

#[derive(Debug)]
struct At(AtomicU64);

impl Clock for At {
    fn now(&self) -> Duration {
        Duration::ZERO
    }

    fn wall_ms(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

struct Node {
    caps: Caps,
    clock: Arc<At>,
    campaign: Campaign,
}

impl Node {
    /// Another life, with what was saved.
    fn start(saved: Saved, runs: &[&str], run: &str, limit: u64) -> Self {
        let clock = Arc::new(At(NOON.into()));
        let caps = Caps::new(2, 10, false, Arc::clone(&clock) as _);
        caps.load(saved, &runs.iter().map(|run| Arc::from(*run)).collect());
        let cap = |per: &str, of: &str| json!({"limit": limit, "per": per, "of": of});
        let to = |name: &str, cap| json!({"name": name, "url": "https://a.example/", "cap": cap});
        let to = [to("a", cap("hour", "clicks")), to("u", cap("total", "uniques"))];
        let document = json!({"rules": [{"name": "r", "to": to, "cap": {"limit": 1000, "per": "day"}}]});
        let mut campaign = Campaign::check("c", document, &OwnHosts::default()).unwrap();
        caps.begin_run(run);
        caps.adopt_campaign(&mut campaign);
        caps.publish();
        Self { caps, clock, campaign }
    }

    /// Visits of a destination that are let through, of so many.
    fn visit(&self, name: &str, visits: u64) -> u64 {
        let to = self.campaign.rules[0].choice.destinations().iter().find(|to| &*to.name == name).unwrap();
        let cap = to.cap.as_ref().unwrap();
        let period = cap.per.period(&Zone::UTC, self.clock.wall_ms());
        (0..visits).filter(|visit| cap.gate.take(*visit as usize % 2, period).is_some()).count() as u64
    }

    /// A frozen batch of a journal: so many clicks on a destination, of which the first are unique.
    fn count(&self, run: &str, end: u64, name: &str, clicks: usize, uniques: usize) -> bool {
        let click = |number| Counted {
            link: ("*", "l"),
            campaign: "c",
            rule: "r",
            variant: name,
            unix_ms: self.clock.wall_ms(),
            is_unique: number < uniques,
        };
        self.caps.count(&source(run), end, (0..clicks).map(click))
    }

    fn used(&self, name: &str) -> u64 {
        let is_it = |shown: &Shown| shown.names.iter().any(|(field, text)| *field == "destination" && **text == *name);
        self.caps.show(&[("campaign", "c")]).iter().find(|shown| is_it(shown)).unwrap().used
    }

    /// Saves over what was saved, as the catalog's file does.
    fn save(&self, saved: &mut Saved) {
        let Some(changes) = self.caps.take_changes() else { return };
        if changes.replace {
            *saved = Saved::default();
        }
        for new in &changes.counts {
            let key = |count: &CapCount| (count.cap, count.period, Arc::clone(&count.run));
            saved.counts.retain(|old| key(old) != key(new));
            saved.counts.push(new.clone());
        }
        for (source, end) in &changes.marks {
            saved.marks.retain(|(known, _)| known != source);
            saved.marks.push((source.clone(), *end));
        }
        self.caps.note_saved(changes, true);
    }
}

fn source(run: &str) -> Source {
    Source { run: run.into(), core: 0, origin: 0 }
}

#[test]
fn a_limit_is_kept_to_the_click_and_duplicates_make_room_again() {
    let node = Node::start(Saved::default(), &[], "one", 10);
    assert_eq!((node.visit("a", 30), node.used("a")), (10, 10));
    assert_eq!((node.visit("u", 30), node.used("u")), (10, 10), "each may be unique");
    assert!(node.count("one", 100, "u", 10, 4), "a checkpoint waits for it");
    node.caps.grant_alone();
    assert_eq!((node.used("u"), node.visit("u", 30)), (4, 6));
    assert!(node.count("one", 200, "a", 10, 1));
    node.caps.grant_alone();
    assert_eq!((node.used("a"), node.visit("a", 5)), (10, 0), "of clicks, each counts");
    // The next hour opens by itself, what is counted late belongs to the one before, and what counts ever stays.
    node.clock.0.store(NOON + 3_600_000, Ordering::Relaxed);
    assert_eq!((node.used("a"), node.visit("a", 30)), (0, 10));
    node.caps.grant_alone();
    assert_eq!([node.visit("a", 5), node.visit("u", 5)], [0, 0]);
}

#[test]
fn whatever_ends_the_process_no_click_is_counted_twice_and_none_forgotten() {
    for seed in 0..200 {
        let mut random = fastrand::Rng::with_seed(seed);
        let (mut saved, mut runs) = (Saved::default(), Vec::<String>::new());
        // Of each journal the ends of its batches, and clicks on the destination: they stay whatever happens.
        let mut journals = Vec::<Vec<(u64, usize)>>::new();
        let mut all = 0;
        for life in 0..4 {
            let run = format!("run-{life}");
            let names: Vec<_> = runs.iter().map(String::as_str).collect();
            let node = Node::start(saved.clone(), &names, &run, 1_000_000);
            // What an earlier life has counted and saved is taken up again, with all that follows.
            for (name, batches) in names.iter().zip(&journals) {
                batches.iter().for_each(|(end, clicks)| _ = node.count(name, *end, "a", *clicks, 0));
                if random.bool() {
                    node.save(&mut saved);
                }
            }
            let (mut batches, mut is_behind) = (Vec::new(), false);
            for batch in 1..=random.u64(1..6) {
                let clicks = random.usize(0..50);
                assert_eq!(node.visit("a", clicks as u64), clicks as u64);
                all += clicks as u64;
                batches.push((batch * 100, clicks));
                // Some are left for the next life.
                is_behind |= random.u8(..) > 200;
                if !is_behind {
                    node.count(&run, batch * 100, "a", clicks, 0);
                }
                if random.bool() {
                    node.caps.grant_alone();
                    node.save(&mut saved);
                }
            }
            assert_eq!(node.used("a"), all, "SEED={seed} life {life}: with what no worker has seen");
            journals.push(batches);
            runs.push(run);
        }
        let names: Vec<_> = runs.iter().map(String::as_str).collect();
        let node = Node::start(saved, &names, "last", 1_000_000);
        for (name, batches) in names.iter().zip(&journals) {
            batches.iter().for_each(|(end, clicks)| _ = node.count(name, *end, "a", *clicks, 0));
        }
        assert_eq!(node.used("a"), all, "SEED={seed}");
    }
}

#[test]
fn what_was_let_through_and_not_seen_by_a_worker_is_known_after_a_restart() {
    let (node, mut saved) = (Node::start(Saved::default(), &[], "one", 10), Saved::default());
    assert_eq!(node.visit("a", 7), 7);
    node.count("one", 100, "a", 3, 0);
    node.caps.grant_alone();
    node.save(&mut saved);
    assert_eq!((node.caps.saved_to(&source("one")), node.caps.counted_to(&source("one"))), (100, 100));
    // The journal is there: four of its clicks were never seen.
    let next = Node::start(saved.clone(), &["one"], "two", 10);
    assert_eq!((next.used("a"), next.visit("a", 30)), (7, 3));
    assert!(!next.count("one", 100, "a", 3, 0), "counted before, and saved");
    assert!(next.count("one", 200, "a", 4, 0));
    assert_eq!(next.used("a"), 10);
    // It is gone: all its clicks were counted.
    let other = Node::start(saved, &[], "two", 10);
    assert_eq!(other.used("a"), 3);
}

#[test]
fn what_cannot_be_saved_comes_again() {
    let node = Node::start(Saved::default(), &[], "one", 10);
    assert!(node.count("one", 100, "a", 3, 0));
    let changes = node.caps.take_changes().unwrap();
    assert!(changes.replace && changes.marks == [(source("one"), 100)]);
    node.caps.note_saved(changes.clone(), false);
    assert_eq!(node.caps.saved_to(&source("one")), 0);
    let again = node.caps.take_changes().unwrap();
    let caps = |changes: &Changes| changes.counts.iter().map(|count| count.cap).collect::<BTreeSet<CapId>>();
    assert_eq!((caps(&again), &again.marks, again.replace), (caps(&changes), &changes.marks, true));
    node.caps.note_saved(again, true);
    assert_eq!((node.caps.saved_to(&source("one")), node.caps.take_changes()), (100, None));
}

#[test]
fn caps_have_a_bound_and_one_that_comes_again_goes_on_with_its_count() {
    let node = Node::start(Saved::default(), &[], "one", 10);
    let link = |slug: &str, cap: u64| {
        let raw =
            json!({"slug": slug, "url": "https://a.example/", "max_clicks": cap, "cap": {"limit": 1, "per": "total"}});
        Link::check(serde_json::from_value(raw).unwrap(), &OwnHosts::default()).unwrap()
    };
    for slug in ["a", "b", "c"] {
        let mut link = link(slug, 5);
        node.caps.check_link(&link).unwrap();
        node.caps.adopt_link(&mut link);
    }
    node.caps.publish();
    let error = node.caps.check_link(&link("d", 5)).unwrap_err();
    assert_eq!(error, TooManyCaps { asked: 11, most: 10 });
    assert!(error.to_string().contains("caps.counters_max"));
    node.caps.check_link(&link("c", 9)).unwrap();
    let shown = node.caps.show(&[("link", "c")]);
    assert_eq!(shown.iter().map(|shown| shown.limit).collect::<Vec<_>>(), [1, 5], "each has a count of its own");
    assert_eq!(node.visit("a", 4), 4);
    node.caps.forget_campaign("c");
    assert!(node.caps.show(&[("campaign", "c")]).is_empty());
    let mut again = node.campaign.clone();
    node.caps.adopt_campaign(&mut again);
    node.caps.publish();
    assert_eq!((node.used("a"), node.visit("a", 30)), (4, 6));
    // Under changing names no more than twice the bound is ever kept.
    for number in 0..100_i32 {
        let mut link = link(&format!("x{number}"), 5);
        node.caps.forget_link("*", &format!("x{}", number - 1));
        node.caps.adopt_link(&mut link);
        node.caps.publish();
    }
    assert!(node.caps.state().kept.len() <= 20 && node.caps.state().gates.len() <= 21);
}
