//! Campaigns decide where visitors go, and what is recorded says so.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::harness::{Response, Trellis};

const PHONE: &str = "Mozilla/5.0 (iPhone; CPU iPhone OS 18_1 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) \
    Version/18.1 Mobile/15E148 Safari/604.1";
const DESKTOP: &str = "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/131.0.0.0 \
    Safari/537.36";

fn save(trellis: &Trellis, id: &str, document: &Value) -> Response {
    trellis.api("PUT", &format!("/api/v1/campaigns/{id}"), Some(&document.to_string()))
}

fn link(trellis: &Trellis, slug: &str, campaign: &str) {
    let body = json!({"slug": slug, "url": "https://own.example/", "campaign": campaign, "tags": ["vip"]});
    assert_eq!(trellis.api("POST", "/api/v1/links", Some(&body.to_string())).status, 201);
}

fn place(answer: &Response) -> &str {
    assert_eq!(answer.status, 302, "{answer:?}");
    answer.header("location").expect("a destination")
}

#[test]
fn rules_see_agent_query_headers_cookies_and_tags_and_the_click_says_which_decided() {
    let trellis = Trellis::start();
    link(&trellis, "a", "spring");
    assert_eq!(place(&trellis.get("/a")), "https://own.example/", "there is no such campaign yet");
    let rule = |name: &str, when: &str| {
        json!({"name": name, "when": when,
        "to": [{"name": format!("to-{name}"), "url": format!("https://{name}.example/?id={{click_id}}")}]})
    };
    let document = json!({
        "rules": [
            rule("bots", "is_bot"),
            rule("phones", "device == 'mobile' && os == 'iOS' && 'vip' in tags"),
            rule("query", "query.utm == 'x y' && source == 's' && slug == 'a'"),
            rule("header", "header['x-app'] == '7' || cookie.seen == '1'"),
            rule("german", "language == 'de' && referrer_domain.endsWith('.example')"),
            rule("other", "ip.in_cidr('10.0.0.0/8') || country != '' || date < '2026-01-01' || hour > 24 || weekday == 0"),
        ],
        "default": [{"url": "https://default.example/"}],
    });
    assert_eq!(save(&trellis, "spring", &document).status, 201);
    let visit = |path: &str, headers: &[(&str, &str)]| trellis.edge_request("GET", path, headers);
    for (path, headers, host) in [
        ("/a", &[("User-Agent", "Googlebot/2.1")][..], "bots"),
        ("/a", &[("User-Agent", PHONE)], "phones"),
        ("/a?utm=x%20y&source=s", &[("User-Agent", DESKTOP)], "query"),
        ("/a", &[("User-Agent", DESKTOP), ("X-App", "7")], "header"),
        ("/a", &[("User-Agent", DESKTOP), ("Cookie", "x=2; seen=1")], "header"),
        (
            "/a",
            &[("User-Agent", DESKTOP), ("Accept-Language", "de-AT"), ("Referer", "https://example.com/a.example")],
            "default",
        ),
        (
            "/a",
            &[("User-Agent", DESKTOP), ("Accept-Language", "de-AT"), ("Referer", "https://News.Example:8443/x")],
            "german",
        ),
        ("/a", &[("User-Agent", DESKTOP)], "default"),
    ] {
        let answer = visit(path, headers);
        let id = answer.header("x-click-id").expect("an id");
        let expected = match host {
            "default" => "https://default.example/".to_owned(),
            host => format!("https://{host}.example/?id={id}"),
        };
        assert_eq!(place(&answer), expected, "{path} {headers:?}");
    }
    trellis.wait_stored(9);
    let clicks = trellis.clicks();
    let told: Vec<_> = clicks
        .iter()
        .map(|click| ["campaign", "rule", "variant"].map(|field| click[field].as_str().expect("a text")))
        .collect();
    for expected in [["spring", "phones", "to-phones"], ["spring", "", "1"], ["spring", "", ""]] {
        assert!(told.contains(&expected), "{told:?}");
    }
    assert!(clicks.iter().all(|click| click["route_version"] == 1));
}

#[test]
fn a_campaign_is_live_when_it_is_answered_survives_a_restart_and_is_gone_when_removed() {
    let mut trellis = Trellis::start();
    link(&trellis, "a", "c");
    let to = |host: &str| json!({"default": [{"url": format!("https://{host}.example/{{slug}}")}]});
    for (number, host) in ["one", "two", "three"].into_iter().enumerate() {
        let saved = save(&trellis, "c", &to(host));
        assert_eq!((saved.status, &saved.json()["version"]), (if number == 0 { 201 } else { 200 }, &json!(number + 1)));
        assert_eq!(place(&trellis.get("/a")), format!("https://{host}.example/a"));
    }
    assert_eq!(trellis.stop().code(), Some(0));
    let trellis = Trellis::start_in(trellis.folder(), &[]);
    assert_eq!(place(&trellis.get("/a")), "https://three.example/a");
    assert_eq!(trellis.api("GET", "/api/v1/campaigns/c", None).json()["version"], 3);
    // One that would come back here is refused, and the old one goes on.
    let looping = json!({"default": [{"url": format!("http://{}/a", trellis.edge())}]});
    let refused = save(&trellis, "c", &looping);
    assert_eq!((refused.status, &refused.json()["errors"][0]["pointer"]), (422, &json!("/default/0/url")));
    assert_eq!(place(&trellis.get("/a")), "https://three.example/a");
    assert_eq!(trellis.api("DELETE", "/api/v1/campaigns/c", None).status, 204);
    assert_eq!(place(&trellis.get("/a")), "https://own.example/");
}

#[test]
fn a_sticky_visitor_keeps_the_destination_and_others_are_shared_out() {
    // Each thread takes its own turns.
    let trellis = Trellis::start_with(&[("edge.threads", "1")]);
    link(&trellis, "a", "sticky");
    link(&trellis, "b", "turns");
    let to =
        |names: &[&str]| names.iter().map(|n| json!({"name": n, "url": format!("https://{n}.example/")})).collect();
    let to: Value = to(&["x", "y", "z"]);
    assert_eq!(save(&trellis, "sticky", &json!({"sticky": "visitor", "default": to})).status, 201);
    let rule = json!({"name": "r", "strategy": "round_robin", "to": to});
    assert_eq!(save(&trellis, "turns", &json!({"rules": [rule]})).status, 201);
    let visit = |path: &str, ua: &str| place(&trellis.edge_request("GET", path, &[("User-Agent", ua)])).to_owned();
    let mut places = BTreeSet::new();
    for visitor in 0..40 {
        let ua = format!("{DESKTOP} {visitor}");
        let first = visit("/a", &ua);
        // Midnight (UTC) between the two would be a new day.
        assert!((0..3).all(|_| visit("/a", &ua) == first) || visit("/a", &ua) == visit("/a", &ua));
        places.insert(first);
    }
    assert_eq!(places.len(), 3, "{places:?}");
    let places: BTreeSet<_> = (0..3).map(|_| visit("/b", DESKTOP)).collect();
    assert_eq!(places.len(), 3, "each in turn: {places:?}");
}
