//! Caps of destinations, rules and links: who goes where when something is full, what counts, and what survives.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::harness::{DAY_MS, HOUR_MS, Response, Trellis, eventually, within_one};

const CHROME: &str =
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Safari/537.36";

fn link(trellis: &Trellis, slug: &str, fields: Value) {
    let mut body = json!({"slug": slug, "url": "https://own.example/"});
    body.as_object_mut().expect("an object").extend(fields.as_object().expect("an object").clone());
    let made = trellis.api("POST", "/api/v1/links", Some(&body.to_string()));
    assert_eq!(made.status, 201, "{}", made.json());
}

fn save(trellis: &Trellis, id: &str, document: &Value) -> Response {
    trellis.api("PUT", &format!("/api/v1/campaigns/{id}"), Some(&document.to_string()))
}

fn to(name: &str, cap: Value) -> Value {
    json!({"name": name, "url": format!("https://{name}.example/"), "cap": cap})
}

/// Where a visit of a person goes; the status where it goes nowhere.
fn visit(trellis: &Trellis, path: &str) -> String {
    visit_as(trellis, path, &[("User-Agent", CHROME)])
}

fn visit_as(trellis: &Trellis, path: &str, headers: &[(&str, &str)]) -> String {
    let answer = trellis.edge_request("GET", path, headers);
    answer.header("location").map_or_else(|| answer.status.to_string(), str::to_owned)
}

/// Visits, by where they went.
fn visits(trellis: &Trellis, path: &str, count: usize) -> BTreeMap<String, usize> {
    let mut all = BTreeMap::new();
    (0..count).for_each(|_| *all.entry(visit(trellis, path)).or_default() += 1);
    all
}

fn places(expected: &[(&str, usize)]) -> BTreeMap<String, usize> {
    expected.iter().map(|(place, count)| ((*place).to_owned(), *count)).collect()
}

/// What is used of the caps of a campaign or link, by the last of their names.
fn used(trellis: &Trellis, of: &str) -> BTreeMap<String, u64> {
    let answer = trellis.api("GET", &format!("/api/v1/caps?{of}"), None);
    assert_eq!(answer.status, 200, "{}", answer.json());
    let caps = answer.json()["caps"].as_array().expect("a list").clone();
    let name = |cap: &Value| {
        let name = ["destination", "rule", "link"].into_iter().find_map(|field| cap[field].as_str());
        name.expect("a name").to_owned()
    };
    caps.iter().map(|cap| (name(cap), cap["used"].as_u64().expect("a number"))).collect()
}

fn destined(trellis: &Trellis, result: &str) -> f64 {
    trellis.metric(&format!("trellis_destinations_total{{result=\"{result}\"}}"))
}

#[test]
fn a_full_destination_hands_over_to_the_next_rule_by_rule_and_only_people_fill_it() {
    let trellis = Trellis::start();
    link(&trellis, "a", json!({"campaign": "c"}));
    let document = json!({
        "rules": [
            {"name": "one", "strategy": "priority",
                "to": [to("x", json!({"limit": 3, "per": "total"})), to("y", json!({"limit": 2, "per": "total"}))]},
            {"name": "two", "to": [{"name": "z", "url": "https://z.example/"}],
                "cap": {"limit": 4, "per": "total", "overflow_url": "https://over.example/{rule}/{variant}"}},
        ],
    });
    assert_eq!(save(&trellis, "c", &document).status, 201);
    // A bot, a HEAD and a prefetch go where people go, and fill nothing.
    for _ in 0..5 {
        assert_eq!(visit_as(&trellis, "/a", &[("User-Agent", "Googlebot/2.1")]), "https://x.example/");
        let ahead = [("User-Agent", CHROME), ("Sec-Purpose", "prefetch")];
        assert_eq!(visit_as(&trellis, "/a", &ahead), "https://x.example/");
        let head = trellis.edge_request("HEAD", "/a", &[("User-Agent", CHROME)]);
        assert_eq!(head.header("location"), Some("https://x.example/"));
    }
    let over = "https://over.example/two/overflow";
    let expected = [("https://x.example/", 3), ("https://y.example/", 2), ("https://z.example/", 4), (over, 6)];
    assert_eq!(visits(&trellis, "/a", 15), places(&expected));
    assert_eq!(visit_as(&trellis, "/a", &[("User-Agent", "Googlebot/2.1")]), over, "and they see what is closed");
    trellis.wait_stored(31);
    let expected = [("x", 3), ("y", 2), ("two", 4)].map(|(name, used)| (name.to_owned(), used));
    assert_eq!(used(&trellis, "campaign=c"), expected.into());
    let results = ["chosen", "capped", "overflow", "fallback", "link"].map(|result| destined(&trellis, result));
    // Each visit from the fourth of the people on found something closed; the first rule and the second tell apart.
    assert_eq!((results[0], results[2], results[3], results[4]), (24.0, 7.0, 0.0, 0.0));
    assert!(results[1] >= 13.0, "{results:?}");
    let asked = json!({"link": "a", "visit": {"user_agent": CHROME}}).to_string();
    let explained = trellis.api("POST", "/api/v1/explain", Some(&asked)).json();
    assert_eq!(explained["decision"]["by"], "overflow", "{explained:#}");
    assert_eq!(explained["decision"]["destination"], over);
    let rules = &explained["rules"];
    assert_eq!(rules[0]["verdict"], "all destinations at their caps", "{rules:#}");
    assert_eq!((&rules[1]["verdict"], &rules[1]["capped"]), (&json!("taken"), &json!(true)), "{rules:#}");
}

#[test]
fn a_link_has_expired_after_its_clicks_and_diverts_at_its_cap() {
    let trellis = Trellis::start();
    let campaign = json!({"default": [{"name": "d", "url": "https://campaign.example/"}]});
    assert_eq!(save(&trellis, "c", &campaign).status, 201);
    link(&trellis, "once", json!({"max_clicks": 1}));
    link(&trellis, "twice", json!({"max_clicks": 2, "expired_url": "https://over.example/{variant}", "campaign": "c"}));
    assert_eq!(visits(&trellis, "/once", 4), places(&[("https://own.example/", 1), ("410", 3)]));
    let twice = places(&[("https://campaign.example/", 2), ("https://over.example/expired", 2)]);
    assert_eq!(visits(&trellis, "/twice", 4), twice);
    let mut clicks = 1 + 4;
    let (daily, went) = within_one(DAY_MS, |round| {
        let slug = format!("daily-{round}");
        let cap = json!({"limit": 2, "per": "day", "overflow_url": "https://full.example/{variant}"});
        link(&trellis, &slug, json!({ "cap": cap }));
        let went = visits(&trellis, &format!("/{slug}"), 5);
        clicks += 5;
        (slug, went)
    });
    assert_eq!(went, places(&[("https://own.example/", 2), ("https://full.example/capped", 3)]));
    let shut = within_one(HOUR_MS, |round| {
        let slug = format!("shut-{round}");
        link(&trellis, &slug, json!({"cap": {"limit": 1, "per": "hour"}, "campaign": "c"}));
        let went = visits(&trellis, &format!("/{slug}"), 3);
        clicks += went["https://campaign.example/"];
        went
    });
    assert_eq!(shut, places(&[("https://campaign.example/", 1), ("410", 2)]));
    let reads = |slug: &str| trellis.api("GET", &format!("/api/v1/links/{slug}"), None).json();
    assert_eq!((&reads("once")["max_clicks"], &reads("once")["cap"]), (&json!(1), &Value::Null));
    assert_eq!(reads(&daily)["cap"]["limit"], 2);
    // A higher limit goes on with the count, and null takes the cap away.
    let change = |slug: &str, body: &Value| {
        let changed = trellis.api("PATCH", &format!("/api/v1/links/{slug}"), Some(&body.to_string()));
        assert_eq!(changed.status, 200, "{}", changed.json());
    };
    change("once", &json!({"max_clicks": 3}));
    assert_eq!(visits(&trellis, "/once", 4), places(&[("https://own.example/", 2), ("410", 2)]));
    change("once", &json!({"max_clicks": null}));
    assert_eq!(visits(&trellis, "/once", 4), places(&[("https://own.example/", 4)]));
    trellis.wait_stored(clicks as u64 + 2 + 4);
    assert_eq!(used(&trellis, "link=twice"), [("twice".to_owned(), 2)].into());
    for (query, status) in [("", 400), ("link=a&campaign=c", 400), ("link=nothing", 404), ("campaign=nothing", 404)] {
        assert_eq!(trellis.api("GET", &format!("/api/v1/caps?{query}"), None).status, status, "{query}");
    }
}

#[test]
fn uniques_leave_room_where_a_visitor_comes_again() {
    let trellis = Trellis::start();
    link(&trellis, "a", json!({"campaign": "c"}));
    let cap = json!({"limit": 3, "per": "total", "of": "uniques"});
    let document = json!({"default": [to("x", cap)], "fallback_url": "https://fallback.example/"});
    assert_eq!(save(&trellis, "c", &document).status, 201);
    for click in 1..=3 {
        // The second and the third are duplicates of the first.
        assert_eq!(visit(&trellis, "/a?click_id=same"), "https://x.example/");
        trellis.wait_stored(click);
    }
    eventually("duplicates are taken out", || used(&trellis, "campaign=c")["x"] == 1);
    eventually("there is room again", || visit(&trellis, "/a?click_id=same") == "https://x.example/");
    let mut places = Vec::new();
    eventually("two more fit", || {
        places.push(visit(&trellis, &format!("/a?click_id=other-{}", places.len())));
        used(&trellis, "campaign=c")["x"] == 3
    });
}

#[test]
fn a_node_that_is_killed_again_and_again_lets_no_more_through_than_the_limit() {
    const LIMIT: usize = 60;
    let mut trellis = Trellis::start_with(&[("batch.age_max", "5ms")]);
    link(&trellis, "a", json!({"campaign": "c"}));
    let document =
        json!({"default": [to("x", json!({"limit": LIMIT, "per": "total"}))], "fallback_url": "https://f.example/"});
    assert_eq!(save(&trellis, "c", &document).status, 201);
    let mut through = 0;
    for _ in 0..5 {
        through += visits(&trellis, "/a", 10)["https://x.example/"];
        trellis.kill();
        trellis = Trellis::start_in(trellis.folder(), &[("batch.age_max", "5ms")]);
        // What the last second let through is known when its journal has been taken up.
        eventually("it is", || used(&trellis, "campaign=c")["x"] == through as u64);
    }
    assert_eq!(through, 50);
    let last = visits(&trellis, "/a", 30);
    assert_eq!(last, places(&[("https://x.example/", LIMIT - through), ("https://f.example/", 30 + through - LIMIT)]));
    trellis.wait_stored(80);
    assert_eq!(trellis.stop().code(), Some(0));
    let trellis = Trellis::start_in(trellis.folder(), &[]);
    assert_eq!(used(&trellis, "campaign=c"), [("x".to_owned(), LIMIT as u64)].into());
    let stored = trellis.clicks();
    assert_eq!(stored.iter().filter(|click| click["variant"] == "x").count(), LIMIT);
}

#[test]
fn one_cap_too_many_is_refused_with_the_setting_that_says_so() {
    let trellis = Trellis::start_with(&[("caps.counters_max", "2")]);
    let cap = json!({"limit": 5, "per": "hour"});
    assert_eq!(save(&trellis, "c", &json!({"default": [to("x", cap.clone()), to("y", cap.clone())]})).status, 201);
    let refused = save(&trellis, "d", &json!({"default": [to("x", cap)]}));
    let problem = refused.json();
    assert_eq!((refused.status, &problem["code"]), (507, &json!("catalog_full")), "{problem}");
    assert!(problem["detail"].as_str().expect("a text").contains("caps.counters_max"), "{problem}");
    let body = json!({"slug": "a", "url": "https://a.example/", "max_clicks": 1}).to_string();
    assert_eq!(trellis.api("POST", "/api/v1/links", Some(&body)).status, 507);
    assert_eq!(trellis.api("DELETE", "/api/v1/campaigns/c", None).status, 204);
    assert_eq!(trellis.api("POST", "/api/v1/links", Some(&body)).status, 201);
}
