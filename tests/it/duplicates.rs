//! Campaigns with a rule of their own for duplicates: by what, and how far apart; it goes with the click.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use trellis::clock::{Clock as _, SystemClock};

use crate::harness::{DAY_MS, Trellis, eventually, service, within_one};
use crate::live::REDIS;

/// Which of two clicks is looked at first is up to the threads, if there are several.
const IN_ORDER: (&str, &str) = ("edge.threads", "1");
const PHONE: &str = "Mozilla/5.0 (iPhone; CPU iPhone OS 18_1 like Mac OS X) Mobile/15E148 Safari/604.1";
const DESKTOP: &str = "Mozilla/5.0 (Windows NT 10.0; Win64; x64) Chrome/131.0.0.0 Safari/537.36";

/// A campaign and a link of the same name.
fn campaign(trellis: &Trellis, name: &str, mut document: Value) {
    document["default"] = json!([{"url": "https://a.example/"}]);
    let saved = trellis.api("PUT", &format!("/api/v1/campaigns/{name}"), Some(&document.to_string()));
    assert_eq!(saved.status, 201, "{saved:?}");
    let link = json!({"slug": name, "url": "https://own.example/", "campaign": name});
    assert_eq!(trellis.api("POST", "/api/v1/links", Some(&link.to_string())).status, 201);
}

/// The id of a click.
fn visit(trellis: &Trellis, path: &str, agent: &str) -> String {
    let answer = trellis.edge_request("GET", path, &[("User-Agent", agent)]);
    answer.header("x-click-id").unwrap_or_else(|| panic!("{path}: {answer:?}")).to_owned()
}

fn labels(trellis: &Trellis) -> BTreeMap<String, String> {
    let text = |click: &Value, field: &str| click[field].as_str().expect("a text").to_owned();
    trellis.clicks().iter().map(|click| (text(click, "click_id"), text(click, "dedup"))).collect()
}

/// Makes these visits and says what their clicks are labelled, once all are stored.
fn labels_of(trellis: &Trellis, visits: &[(&str, &str)]) -> Vec<String> {
    let before = trellis.count("")["total"].as_u64().expect("a number");
    let ids: Vec<_> = visits.iter().map(|(path, agent)| visit(trellis, path, agent)).collect();
    trellis.wait_stored(before + ids.len() as u64);
    let labels = labels(trellis);
    ids.iter().map(|id| labels[id].clone()).collect()
}

#[test]
fn a_campaign_says_by_what_a_visitor_is_known() {
    // Who was here yesterday is new today: another node, whom nobody visited yet, where midnight came between.
    let labels = within_one(DAY_MS, |_| {
        let trellis = Trellis::start_with(&[IN_ORDER, ("ingress.enabled", "true"), ("ingress.keys", "optional")]);
        campaign(&trellis, "plain", json!({}));
        campaign(&trellis, "ids", json!({"dedup": {"by": ["external_click_id"]}}));
        campaign(&trellis, "people", json!({"dedup": {"by": ["ip", "ua"]}}));
        campaign(&trellis, "others", json!({"dedup": {"by": ["ip", "ua"]}, "when": "language == 'xx'"}));
        let links = ["/plain?", "/ids?", "/people?", "/others?"];
        let entries = ["/in?campaign=ids&", "/in?campaign=people&", "/in?campaign=plain&"];
        let five = |path: &str| {
            let (with, other) = (format!("{path}click_id=1"), format!("{path}click_id=2"));
            labels_of(&trellis, &[(&with, PHONE), (&with, DESKTOP), (&other, PHONE), (path, PHONE), (path, PHONE)])
        };
        [&links[..], &entries].concat().into_iter().map(|path| (path, five(path))).collect::<BTreeMap<_, _>>()
    });
    let by_id_where_there_is_one = ["unique", "duplicate", "unique", "unique", "duplicate"];
    assert_eq!(labels["/plain?"], by_id_where_there_is_one);
    assert_eq!(labels["/ids?"], ["unique", "duplicate", "unique", "unknown", "unknown"]);
    assert_eq!(labels["/people?"], ["unique", "unique", "duplicate", "duplicate", "duplicate"]);
    assert_eq!(labels["/others?"], by_id_where_there_is_one, "it is not for these visits");
    assert_eq!(labels["/in?campaign=ids&"], ["unique", "duplicate", "unique", "unknown", "unknown"]);
    assert_eq!(labels["/in?campaign=people&"], ["unique", "unique", "duplicate", "duplicate", "duplicate"]);
    assert_eq!(labels["/in?campaign=plain&"], by_id_where_there_is_one);
}

#[test]
fn a_rule_that_is_none_is_refused_with_its_pointer() {
    let trellis = Trellis::start();
    let document = json!({"default": [{"url": "https://a.example/"}], "dedup": {"window": "25h", "by": ["ip"]}});
    let answer = trellis.api("PUT", "/api/v1/campaigns/c", Some(&document.to_string()));
    assert_eq!((answer.status, &answer.json()["code"]), (422, &json!("invalid_fields")));
    let errors = answer.json()["errors"].clone();
    let pointers: Vec<_> = errors.as_array().expect("a list").iter().map(|error| &error["pointer"]).collect();
    assert_eq!(pointers, ["/dedup/window", "/dedup/by"]);
}

/// Two clicks on a link whose campaign has a window of an hour, and on one without, more than the settings' second apart.
/// None is frozen when the node is killed, and the campaign is gone when its clicks are taken up.
fn a_replay_judges_by_the_rule_of_the_time(settings: &[(&str, &str)]) {
    // Over midnight all are new.
    let (first, second) = within_one(DAY_MS, |_| labels_of_a_replay(settings));
    assert_eq!((first, second), (["unique", "unique"].map(str::to_owned), ["unique", "duplicate"].map(str::to_owned)));
}

fn labels_of_a_replay(settings: &[(&str, &str)]) -> ([String; 2], [String; 2]) {
    let with = |age: &'static str| [&[IN_ORDER, ("dedup.window", "1s"), ("batch.age_max", age)], settings].concat();
    let mut trellis = Trellis::start_with(&with("10m"));
    campaign(&trellis, "plain", json!({}));
    campaign(&trellis, "hour", json!({"dedup": {"window": "1h"}}));
    let (name, clock) = (fastrand::u64(..), SystemClock::new());
    let both = || ["plain", "hour"].map(|slug| visit(&trellis, &format!("/{slug}?click_id={name}"), PHONE));
    let first = both();
    let later_ms = clock.wall_ms() + 1_100;
    eventually("the settings' window is over", || clock.wall_ms() >= later_ms);
    let second = both();
    assert_eq!(trellis.api("DELETE", "/api/v1/campaigns/hour", None).status, 204);
    assert_eq!(trellis.count("")["total"], 0);
    trellis.kill();
    let trellis = Trellis::start_in(trellis.folder(), &with("20ms"));
    trellis.wait_stored(4);
    let labels = labels(&trellis);
    let of = |ids: &[String; 2]| [labels[&ids[0]].clone(), labels[&ids[1]].clone()];
    (of(&first), of(&second))
}

#[test]
fn clicks_that_a_killed_node_left_are_judged_by_the_rule_of_their_time() {
    a_replay_judges_by_the_rule_of_the_time(&[]);
}

#[test]
fn with_redis_clicks_that_a_killed_node_left_are_judged_by_the_rule_of_their_time() {
    let test = "with_redis_clicks_that_a_killed_node_left_are_judged_by_the_rule_of_their_time";
    let Some(redis) = service(REDIS, test) else { return };
    // Long enough for a machine with other work.
    let settings = [("dedup.backend", "redis"), ("redis.url", redis.as_str()), ("redis.timeout", "5s")];
    a_replay_judges_by_the_rule_of_the_time(&settings);
}
