//! Campaigns that are sticky by cookie: a browser that keeps it goes the same way, and nobody gets one without need.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::harness::{Response, Trellis};

/// Every request of these tests comes through a proxy that is believed.
const PROXY: (&str, &str) = ("edge.trusted_proxies", "[\"127.0.0.0/8\"]");

fn save(trellis: &Trellis, id: &str, document: &Value) {
    let answer = trellis.api("PUT", &format!("/api/v1/campaigns/{id}"), Some(&document.to_string()));
    assert!([200, 201].contains(&answer.status), "{answer:?}");
}

fn link(trellis: &Trellis, slug: &str) {
    let body = json!({"slug": slug, "url": "https://own.example/", "campaign": slug});
    assert_eq!(trellis.api("POST", "/api/v1/links", Some(&body.to_string())).status, 201);
}

/// Destinations of these weights.
fn to(weights: &[(&str, u32)]) -> Value {
    let to = |(name, weight): &(&str, u32)| json!({"url": format!("https://{name}.example/"), "weight": weight});
    weights.iter().map(to).collect()
}

fn by_cookie(weights: &[(&str, u32)]) -> Value {
    json!({"sticky": "cookie", "default": to(weights)})
}

const FOUR: [(&str, u32); 4] = [("w", 1), ("x", 1), ("y", 1), ("z", 1)];

fn place(answer: &Response) -> String {
    assert_eq!(answer.status, 302, "{answer:?}");
    answer.header("location").expect("a destination").to_owned()
}

/// What a browser sends back of the cookie that it got.
fn kept(answer: &Response) -> String {
    let set = answer.header("set-cookie").unwrap_or_else(|| panic!("no cookie: {answer:?}"));
    set.split(';').next().expect("a pair").to_owned()
}

fn visit(trellis: &Trellis, slug: &str, number: usize, more: &[(&str, &str)]) -> Response {
    let (address, ua) = (format!("198.51.{}.{}", number / 250, number % 250), format!("browser {number}"));
    let headers: Vec<_> =
        [("X-Forwarded-For", address.as_str()), ("User-Agent", &ua)].into_iter().chain(more.iter().copied()).collect();
    trellis.edge_request("GET", &format!("/{slug}"), &headers)
}

#[test]
fn a_browser_with_the_cookie_goes_the_same_way_from_any_address_and_a_weight_moves_only_its_share() {
    let trellis = Trellis::start_with(&[PROXY]);
    link(&trellis, "a");
    save(&trellis, "a", &by_cookie(&FOUR));
    let again = |number: usize, cookie: &str| visit(&trellis, "a", number, &[("Cookie", cookie)]);
    let browsers: Vec<_> = (0..200)
        .map(|number| {
            let first = visit(&trellis, "a", number, &[]);
            (kept(&first), place(&first))
        })
        .collect();
    let cookies: BTreeSet<_> = browsers.iter().map(|(cookie, _)| cookie).collect();
    let places: BTreeSet<_> = browsers.iter().map(|(_, place)| place).collect();
    assert_eq!((cookies.len(), places.len()), (200, 4), "each has its own, and all ways are gone: {places:?}");
    for (number, (cookie, first)) in browsers.iter().enumerate() {
        let second = again(7_000 + number, &format!("seen=1; {cookie}; theme=dark"));
        assert_eq!((&place(&second), second.header("set-cookie")), (first, None), "known, so none is set");
    }
    let (_, first) = &browsers[0];
    // At one and the same place of four with a chance of 10^-24.
    assert!((0..40).any(|_| place(&visit(&trellis, "a", 0, &[])) != *first), "without the cookie each is shared out");

    save(&trellis, "a", &by_cookie(&[("w", 2), FOUR[1], FOUR[2], FOUR[3]]));
    let after: Vec<_> = browsers.iter().map(|(cookie, _)| place(&again(0, cookie))).collect();
    let moved: Vec<_> = after.iter().zip(&browsers).filter(|(after, (_, before))| *after != before).collect();
    assert!(moved.iter().all(|(after, _)| *after == "https://w.example/"), "{moved:?}");
    // 2/5 - 1/4 of 200 is 30; five deviations of five are 25.
    assert!((5..=55).contains(&moved.len()), "{}", moved.len());
}

#[test]
fn the_cookie_has_exactly_these_attributes_and_head_gets_it_too() {
    let trellis = Trellis::start_with(&[PROXY, ("edge.sticky_cookie_max_age", "90m")]);
    link(&trellis, "a");
    save(&trellis, "a", &by_cookie(&FOUR));
    for method in ["GET", "HEAD"] {
        for (header, secure) in
            [("https", "; Secure"), ("HTTPS", "; Secure"), ("http", ""), ("x; Domain=evil.example", "")]
        {
            let answer = trellis.edge_request(method, "/a", &[("X-Forwarded-Proto", header)]);
            let set: Vec<_> =
                answer.headers.iter().filter(|(name, _)| name.eq_ignore_ascii_case("set-cookie")).collect();
            assert_eq!(set.len(), 1, "{answer:?}");
            let (value, attributes) = set[0].1.split_once(';').expect("attributes");
            assert_eq!(
                attributes,
                format!(" Path=/; Max-Age=5400; HttpOnly; SameSite=Lax{secure}"),
                "{method} {header}"
            );
            let value = value.strip_prefix("trellis-v=").expect("our name");
            assert!(value.len() == 32 && value.bytes().all(|b| b"0123456789abcdef".contains(&b)), "{value}");
            assert_eq!(answer.header("cache-control"), Some("no-store"), "no cache hands it to another visitor");
        }
    }
    // Whoever is no proxy is not believed.
    let alone = Trellis::start();
    link(&alone, "a");
    save(&alone, "a", &by_cookie(&FOUR));
    let answer = alone.edge_request("GET", "/a", &[("X-Forwarded-Proto", "https")]);
    assert!(!answer.header("set-cookie").expect("a cookie").contains("Secure"));
}

#[test]
fn who_may_not_be_recognised_gets_no_cookie_and_an_old_one_is_not_read() {
    let consent = ("privacy.consent_parameter", "consent");
    let trellis = Trellis::start_with(&[PROXY, consent, ("privacy.refused", "none")]);
    link(&trellis, "a");
    save(&trellis, "a", &by_cookie(&FOUR));
    let cookie = kept(&visit(&trellis, "a", 0, &[]));
    for (query, header) in [("", Some("Sec-GPC")), ("", Some("DNT")), ("?consent=no", None)] {
        let more: Vec<_> = header.map(|name| (name, "1")).into_iter().collect();
        let with: Vec<_> = more.iter().copied().chain([("Cookie", cookie.as_str())]).collect();
        let path = format!("a{query}");
        assert_eq!(visit(&trellis, &path, 0, &more).header("set-cookie"), None, "{query} {header:?}");
        let places: BTreeSet<_> = (0..40)
            .map(|_| {
                let answer = visit(&trellis, &path, 0, &with);
                assert_eq!(answer.header("set-cookie"), None);
                place(&answer)
            })
            .collect();
        assert!(places.len() > 1, "each click is decided for itself: {query} {header:?} {places:?}");
    }
}

#[test]
fn nobody_gets_a_cookie_that_would_decide_nothing() {
    let trellis = Trellis::start_with(&[PROXY, ("ingress.enabled", "true"), ("ingress.keys", "optional")]);
    let rule = |strategy: &str| {
        json!({"sticky": "cookie", "rules": [{"name": "r", "strategy": strategy, "to": [
        {"url": "https://a.example/", "bid": 2}, {"url": "https://b.example/", "bid": 2}]}]})
    };
    let mut not_for_them = by_cookie(&FOUR);
    not_for_them["when"] = json!("country == 'XX'");
    for (slug, document, expected) in [
        ("weighted", rule("weighted"), true),
        ("bid", rule("highest_bid"), true),
        ("turns", rule("round_robin"), false),
        ("priority", rule("priority"), false),
        ("one", by_cookie(&[("x", 1), ("off", 0)]), false),
        ("fallback", json!({"sticky": "cookie", "fallback_url": "https://f.example/"}), false),
        ("others", not_for_them, false),
        ("visitor", json!({"sticky": "visitor", "default": to(&FOUR)}), false),
        ("none", json!({"default": to(&FOUR)}), false),
    ] {
        link(&trellis, slug);
        save(&trellis, slug, &document);
        assert_eq!(visit(&trellis, slug, 0, &[]).header("set-cookie").is_some(), expected, "{slug}");
    }
    assert_eq!(visit(&trellis, "unknown", 0, &[]).header("set-cookie"), None);
    let first = visit(&trellis, "in?campaign=weighted", 0, &[]);
    let again = visit(&trellis, "in?campaign=weighted", 1, &[("Cookie", &kept(&first))]);
    assert_eq!(place(&first), place(&again), "/in alike");
}

#[test]
fn a_forged_cookie_is_as_none_and_nothing_of_it_comes_back() {
    let trellis = Trellis::start_with(&[PROXY]);
    link(&trellis, "a");
    save(&trellis, "a", &by_cookie(&FOUR));
    let huge = "f".repeat(12_000);
    for forged in [huge.as_str(), "evil", "\"", "%0d%0aX-Evil: 1", "00112233445566778899AABBCCDDEEFF", "\u{fc}\u{df}"] {
        let answer = visit(&trellis, "a", 0, &[("Cookie", &format!("trellis-v={forged}"))]);
        let cookie = kept(&answer);
        assert!(cookie.len() == 42 && !cookie.contains(forged), "{cookie}");
        assert!(
            !answer.headers.iter().any(|(name, value)| name.eq_ignore_ascii_case("x-evil") || value.contains("evil"))
        );
    }
}
