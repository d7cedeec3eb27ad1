//! Destinations with macros, as visitors meet them.

use serde_json::{Value, json};

use crate::harness::{Response, Trellis};

const PHONE: &str = "Mozilla/5.0 (iPhone; CPU iPhone OS 18_1 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) \
    Version/18.1 Mobile/15E148 Safari/604.1";
const HEADERS: [(&str, &str); 4] = [
    ("User-Agent", PHONE),
    ("X-Forwarded-For", "8.8.8.8"),
    ("Referer", "https://News.Example:8443/a%20b?c=d"),
    ("Accept-Language", "de-AT, en;q=0.8"),
];

fn save(trellis: &Trellis, id: &str, document: &Value) -> Response {
    trellis.api("PUT", &format!("/api/v1/campaigns/{id}"), Some(&document.to_string()))
}

fn link(trellis: &Trellis, link: &Value) {
    assert_eq!(trellis.api("POST", "/api/v1/links", Some(&link.to_string())).status, 201, "{link}");
}

/// The parameters of the destination, and the id of the click.
fn parameters(answer: &Response) -> (Vec<(String, String)>, String) {
    let url = url::Url::parse(answer.header("location").expect("a destination")).expect("a URL");
    let id = answer.header("x-click-id").unwrap_or_default().to_owned();
    (url.query_pairs().map(|(name, value)| (name.into_owned(), value.into_owned())).collect(), id)
}

/// A destination with these macros as its parameters, by number.
fn all(host: &str, macros: &[&str]) -> String {
    let parameters: Vec<_> = macros.iter().enumerate().map(|(n, name)| format!("p{n}={{{name}}}")).collect();
    format!("https://{host}.example/go?{}", parameters.join("&"))
}

fn assert_values(answer: &Response, expected: &[(&str, &str)]) {
    let (found, id) = parameters(answer);
    for (number, (name, value)) in expected.iter().enumerate() {
        let value = if *value == "ID" { &id } else { *value };
        assert_eq!(found[number], (format!("p{number}"), value.to_owned()), "{name}");
    }
    assert_eq!(found.len(), expected.len());
}

/// Days are compared before and after, since midnight may come between.
fn days(zone: &str) -> impl FnMut() -> Vec<String> {
    let zone = jiff::tz::TimeZone::get(zone).expect("a zone");
    let today = move || jiff::Timestamp::now().to_zoned(zone.clone()).date().to_string();
    let before = today();
    move || vec![before.clone(), today()]
}

#[test]
fn a_campaign_sends_on_what_it_knows_of_a_visit() {
    let trellis = Trellis::start_with(&[("edge.trusted_proxies", "127.0.0.0/8")]);
    link(&trellis, &json!({"slug": "s", "url": "https://own.example/", "campaign": "mail"}));
    let expected = [
        ("click_id", "ID"),
        ("external_click_id", "a b+c"),
        ("campaign", "mail"),
        ("link", "s"),
        ("slug", "s"),
        ("rule", "phones & co"),
        ("variant", "app"),
        ("source", "news"),
        ("sub1", "1"),
        ("sub2", ""),
        ("sub10", "zehn/é"),
        ("country", "US"),
        ("device", "mobile"),
        ("os", "iOS"),
        ("browser", "Safari"),
        ("language", "de"),
        ("referrer", "https://News.Example:8443/a%20b?c=d"),
        ("referrer_domain", "news.example"),
        ("ip", "8.8.8.0"),
        ("user_agent", PHONE),
        ("q:other", "first"),
        ("q:missing:default=a%20b", "a b"),
        ("external_click_id:raw", "a b+c"),
        ("q:abc:hash", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"),
    ];
    let names = expected.map(|(name, _)| name);
    let document = json!({
        "zone": "Pacific/Kiritimati",
        "rules": [{"name": "phones & co", "when": "device == 'mobile'", "to": [{"name": "app", "url": all("a", &names)}]}],
        "default": [{"name": "rest", "url": "https://d.example/{variant}/{rule:default=none}/{os}/{ts}/{date}#{ts_ms}"}],
    });
    assert_eq!(save(&trellis, "mail", &document).status, 201);
    let path = "/s?click_id=a+b%2Bc&source=news&sub1=1&sub10=zehn%2F%C3%A9&other=first&other=second&abc=abc";
    let answer = trellis.edge_request("GET", path, &HEADERS);
    assert_values(&answer, &expected);
    // As it was sent: the plus and its escape stay apart.
    assert!(answer.header("location").is_some_and(|url| url.contains("=a+b%2Bc&")), "{answer:?}");

    // The date is of the campaign's zone, which is 14 hours ahead; the agent is looked up for the destination alone.
    let mut days = days("Pacific/Kiritimati");
    let answer = trellis.edge_request("GET", "/s", &[("User-Agent", "Mozilla/5.0 (X11; Linux x86_64) Firefox/143.0")]);
    let place = answer.header("location").expect("a destination");
    let parts: Vec<_> = place.strip_prefix("https://d.example/").expect("the default").split(['/', '#']).collect();
    let [variant, rule, os, seconds, date, milliseconds] = parts[..] else { panic!("{place}") };
    assert_eq!((variant, rule, os, &milliseconds[..10]), ("rest", "none", "Linux", seconds));
    assert!(milliseconds.len() == 13 && days().contains(&date.to_owned()), "{place}");
}

#[test]
fn a_link_without_a_campaign_finds_out_what_its_destination_asks_for() {
    for (privacy, ip) in [("truncate", "8.8.8.0"), ("none", ""), ("hmac", "")] {
        let trellis = Trellis::start_with(&[("edge.trusted_proxies", "127.0.0.0/8"), ("privacy.ip", privacy)]);
        let expected = [
            ("country", "US"),
            ("browser", "Safari"),
            ("ip", ip),
            ("campaign", "no such"),
            ("rule", ""),
            ("variant:default=own", "own"),
        ];
        let url = all("a", &expected.map(|(name, _)| name));
        link(&trellis, &json!({"slug": "s", "url": url, "campaign": "no such"}));
        link(&trellis, &json!({"slug": "day", "url": "https://a.example/{date}"}));
        assert_values(&trellis.edge_request("GET", "/s", &HEADERS), &expected);
        let mut days = days("UTC");
        let place = trellis.get("/day").header("location").map(str::to_owned).expect("a destination");
        assert!(days().iter().any(|day| place.ends_with(day)), "{place}");
        // What was written is what is stored.
        trellis.wait_stored(2);
        let clicks = trellis.clicks();
        let click = clicks.iter().find(|click| click["link"] == "s").expect("the click");
        // A hash goes to no destination: whoever gets it could tell visitors apart by it.
        let stored = click["ip"].as_str().filter(|stored| !(privacy == "hmac" && stored.starts_with("h:")));
        assert_eq!((stored.unwrap_or_default(), click["country"].as_str()), (ip, Some("US")));
    }
}

#[test]
fn what_a_visitor_sends_cannot_change_where_a_link_leads() {
    let trellis = Trellis::start();
    link(&trellis, &json!({"slug": "s", "url": "https://a.example/{q:a:raw}/{q:b}/x?c={q:c:raw}#{user_agent:raw}"}));
    let visit = |query: &str, ua: &str| {
        let answer = trellis.edge_request("GET", &format!("/s?{query}"), &[("User-Agent", ua)]);
        assert!(answer.status == 302 && answer.header("x-evil").is_none(), "{answer:?}");
        answer.header("location").expect("a destination").to_owned()
    };
    for (query, ua, expected) in [
        ("", "u", "https://a.example/x?c=#u"),
        ("a=..&b=%2e.", "u", "https://a.example/x?c=#u"),
        ("a=%2e%2E&b=b", "u", "https://a.example/b/x?c=#u"),
        ("a=//evil.example&b=\\evil", "u", "https://a.example/%2F%2Fevil.example/%5Cevil/x?c=#u"),
        ("a=@evil.example:1&b=%0d%0aX-Evil:1", "u", "https://a.example/@evil.example:1/%0D%0AX-Evil%3A1/x?c=#u"),
        (
            "a=1&b=2&c=%0d%0aX-Evil:+1?%23&c=9",
            "\u{e9}#\"",
            "https://a.example/1/2/x?c=%0d%0aX-Evil:+1%3F%23#%C3%A9%23%22",
        ),
    ] {
        assert_eq!(visit(query, ua), expected, "{query}");
    }
}

#[test]
fn macros_and_modifiers_that_there_are_not_are_refused_when_they_are_saved() {
    let trellis = Trellis::start();
    for (name, reason) in [
        ("nope", "unknown macro {nope}; there are {click_id}"),
        ("sub11", "unknown macro {sub11}"),
        ("sub1:upper", "unknown modifier `:upper` in {sub1:upper}; there are `:raw`, `:hash` and `:default=text`"),
        ("sub1:hash:raw", "in this order"),
        ("town", "unknown macro {town}; there are {click_id}"),
    ] {
        let url = format!("https://a.example/?x={{{name}}}");
        let answer = trellis.api("POST", "/api/v1/links", Some(&json!({"slug": "a", "url": url}).to_string()));
        assert_eq!(answer.status, 422, "{answer:?}");
        let error = &answer.json()["errors"][0];
        assert_eq!(error["field"], "url");
        assert!(error["detail"].as_str().is_some_and(|detail| detail.contains(reason)), "{error}");
        let answer = save(&trellis, "c", &json!({"default": [{"url": "https://a.example/"}, {"url": url}]}));
        assert_eq!(answer.status, 422, "{answer:?}");
        let error = &answer.json()["errors"][0];
        assert_eq!(error["pointer"], "/default/1/url");
        assert!(error["detail"].as_str().is_some_and(|detail| detail.contains(reason)), "{error}");
    }
}

#[test]
fn a_destination_has_no_id_of_a_click_that_was_not_kept_in_any_form() {
    // As if the disk were full: when the first file of the journal is, no other is begun.
    let settings = [("edge.threads", "1"), ("journal.segment_bytes", "1MiB"), ("journal.min_free_bytes", "1048576GiB")];
    let trellis = Trellis::start_with(&settings);
    trellis.expect_log("the journal may not grow");
    trellis.expect_log("the journal takes no clicks");
    for (slug, place) in [
        ("plain", "?x={click_id}&y={sub1}"),
        ("hash", "?x={click_id:hash}"),
        ("default", "?x={click_id:default=none}&y={click_id}"),
        ("path", "{click_id}/x"),
    ] {
        link(&trellis, &json!({"slug": slug, "url": format!("https://a.example/{place}")}));
    }
    let place = |path: &str| trellis.get(path).header("location").map(str::to_owned).expect("a destination");
    assert!(place("/hash").len() == "https://a.example/?x=".len() + 64 && place("/path").len() > 50);
    let filler = format!("/plain?{}", "x".repeat(4000));
    assert!((0..2_000).any(|_| trellis.get(&filler).header("x-click-id").is_none()), "the journal is not full");
    for (path, expected) in [("/plain?sub1=1", "?x=&y=1"), ("/hash", "?x="), ("/default", "?x=none&y="), ("/path", "x")]
    {
        assert_eq!(place(path), format!("https://a.example/{expected}"));
    }
}
