//! Links of domains, and where visits go that are to no link.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::harness::{Response, Trellis, exchange};

const HUMAN: &str =
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Safari/537.36";

fn link(trellis: &Trellis, domain: &str, slug: &str, url: &str) {
    let body = json!({"domain": domain, "slug": slug, "url": url}).to_string();
    let made = trellis.api("POST", "/api/v1/links", Some(&body));
    assert_eq!(made.status, 201, "{}", made.json());
}

fn domain(trellis: &Trellis, name: &str, document: Value) {
    let put = trellis.api("PUT", &format!("/api/v1/domains/{name}"), Some(&document.to_string()));
    assert!(matches!(put.status, 200 | 201), "{}", put.json());
}

/// What this request is answered, sent as it stands but for `{agent}`.
fn ask(trellis: &Trellis, head: &str) -> Response {
    let head = head.replace('\n', "\r\n");
    Response::parse(&exchange(
        trellis.edge(),
        format!("{head}\r\nUser-Agent: {HUMAN}\r\nConnection: close\r\n\r\n").as_bytes(),
    ))
}

/// A visit of this host.
fn visit(trellis: &Trellis, host: &str, path: &str) -> Response {
    ask(trellis, &format!("GET {path} HTTP/1.1\nHost: {host}"))
}

fn place(answer: &Response) -> &str {
    assert_eq!(answer.status, 302, "{answer:?}");
    answer.header("location").expect("a destination")
}

/// Everything that does not change from one answer to the next.
fn lasting(answer: &Response) -> BTreeMap<&str, &str> {
    let headers = answer.headers.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    headers.filter(|(name, _)| !["date", "x-click-id"].contains(name)).collect()
}

#[test]
fn the_host_that_was_asked_says_which_link_of_a_slug_is_followed() {
    let trellis = Trellis::start();
    link(&trellis, "*", "a", "https://any.example/");
    link(&trellis, "One.Example", "a", "https://at-one.example/{link}");
    link(&trellis, "two.example", "a", "https://at-two.example/");
    link(&trellis, "two.example", "b", "https://at-two.example/b");
    let forged = "GET /a HTTP/1.1\nHost: three.example\nX-Forwarded-Host: one.example";
    for (head, expected) in [
        ("GET /a HTTP/1.1\nHost: one.example", "https://at-one.example/a"),
        ("GET /a HTTP/1.1\nHost: one.example:8080", "https://at-one.example/a"),
        ("GET /a HTTP/1.1\nHost: ONE.Example.:80", "https://at-one.example/a"),
        ("GET http://one.example/a HTTP/1.1\nHost: two.example", "https://at-one.example/a"),
        ("GET /a HTTP/1.1\nHost: two.example", "https://at-two.example/"),
        ("GET /a HTTP/1.1\nHost: sub.one.example", "https://any.example/"),
        ("GET /a HTTP/1.1\nHost: [2001:db8::1]:8080", "https://any.example/"),
        ("GET /a HTTP/1.1\nHost: 127.0.0.1", "https://any.example/"),
        ("GET /a HTTP/1.1\nHost: ", "https://any.example/"),
        ("GET /a HTTP/1.0", "https://any.example/"),
        ("GET /a HTTP/1.0\nHost: one.example", "https://at-one.example/a"),
        (forged, "https://any.example/"),
    ] {
        assert_eq!(place(&ask(&trellis, head)), expected, "{head}");
    }
    assert_eq!(visit(&trellis, "one.example", "/b").status, 404, "of another domain");
    // A link of the domain hides that of any, also where it is not followed.
    let paused = trellis.api("PATCH", "/api/v1/links/a?domain=one.example", Some(r#"{"paused":true}"#));
    assert_eq!(paused.status, 200);
    assert_eq!(visit(&trellis, "one.example", "/a").status, 404);
    assert_eq!(trellis.api("DELETE", "/api/v1/links/a?domain=one.example", None).status, 204);
    assert_eq!(place(&visit(&trellis, "one.example", "/a")), "https://any.example/");
}

#[test]
fn a_trusted_proxy_says_which_host_was_asked() {
    let trellis = Trellis::start_with(&[("edge.trusted_proxies", "[\"127.0.0.1/32\"]")]);
    link(&trellis, "*", "a", "https://any.example/");
    link(&trellis, "one.example", "a", "https://at-one.example/");
    for (forwarded, expected) in [
        ("One.Example:443", "https://at-one.example/"),
        ("two.example, one.example", "https://at-one.example/"),
        ("one.example, two.example", "https://any.example/"),
        ("", "https://any.example/"),
    ] {
        let head = format!("GET /a HTTP/1.1\nHost: internal\nX-Forwarded-Host: {forwarded}");
        assert_eq!(place(&ask(&trellis, &head)), expected, "{forwarded}");
    }
}

#[test]
fn clicks_are_told_and_counted_by_domain_and_two_domains_make_no_duplicate() {
    let trellis = Trellis::start();
    link(&trellis, "*", "a", "https://any.example/");
    link(&trellis, "one.example", "a", "https://at-one.example/");
    domain(&trellis, "two.example", json!({}));
    let hosts = ["one.example", "one.example", "two.example", "other.example", "evil.example", "ONE.example:99"];
    for host in hosts {
        assert_eq!(visit(&trellis, host, "/a").status, 302);
    }
    trellis.wait_stored(6);
    let total = |query: &str| trellis.count(query)["total"].as_u64().expect("a number");
    assert_eq!(
        ["domain=one.example", "domain=two.example", "domain=*", "domain=other.example"].map(total),
        [3, 1, 2, 0]
    );
    assert_eq!(["link=a", "link=a&domain=One.Example", "link=b&domain=one.example"].map(total), [6, 3, 0]);
    assert_eq!(total("link=a&domain=one.example&from=2001-01-01T00:00:00Z&to=2002-01-01T00:00:00Z"), 0);
    let page = trellis.api("GET", "/api/v1/clicks?domain=two.example", None).json();
    let shown: Vec<_> =
        page["clicks"].as_array().expect("a list").iter().map(|click| (&click["domain"], &click["link"])).collect();
    assert_eq!(shown, [(&json!("two.example"), &json!("a"))]);
    // The first click of the one visitor on each of the two links is no duplicate.
    let unique = |query: &str| trellis.count(query)["unique"].as_u64().expect("a number");
    assert_eq!((unique("domain=one.example"), unique("")), (1, 2), "two.example and all others follow one link");
    trellis.assert_ledger_balances(6);
    trellis.assert_rolled_up();
}

#[test]
fn visits_to_no_link_go_where_their_domain_says_at_once_and_after_a_restart() {
    let mut trellis = Trellis::start();
    link(&trellis, "one.example", "a", "https://at-one.example/");
    assert_eq!(visit(&trellis, "one.example", "/").status, 404);
    let one = json!({"root_url": "https://home.example/?q={q:x}", "unknown_url": "https://lost.example/{slug}?v={variant}&id={click_id}"});
    domain(&trellis, "one.example", one);
    domain(&trellis, "*", json!({"root_url": "https://all.example/"}));
    domain(&trellis, "bare.example", json!({}));
    let look = |trellis: &Trellis| {
        for (host, path, expected) in [
            ("one.example", "/", "https://home.example/?q="),
            ("ONE.example:80", "/?x=a%26b", "https://home.example/?q=a%26b"),
            ("one.example", "/nothing", "https://lost.example/nothing?v=unknown&id="),
            ("one.example", "/a/b", "https://lost.example/a%2Fb?v=unknown&id="),
            ("one.example", "/a", "https://at-one.example/"),
            ("other.example", "/", "https://all.example/"),
        ] {
            let answer = visit(trellis, host, path);
            assert_eq!(place(&answer), expected, "{host}{path}");
            assert_eq!(answer.header("x-click-id").is_some(), path == "/a", "not recorded: {host}{path}");
        }
        for (host, path) in [
            ("other.example", "/nothing"),
            ("bare.example", "/"),
            ("one.example", "/favicon.ico"),
            ("one.example", "/.well-known/x"),
            ("one.example", "/in"),
        ] {
            assert_eq!(visit(trellis, host, path).status, 404, "{host}{path}");
        }
        assert_eq!(visit(trellis, "one.example", "/robots.txt").status, 200);
    };
    look(&trellis);
    assert_eq!(trellis.metric("trellis_redirects_total{outcome=\"orphan\"}"), 5.0);
    assert!(trellis.stop().success());
    let trellis = Trellis::start_in(trellis.folder(), &[]);
    look(&trellis);
    assert_eq!(trellis.api("DELETE", "/api/v1/domains/one.example", None).status, 204);
    assert_eq!(place(&visit(&trellis, "one.example", "/")), "https://all.example/");
    assert_eq!(place(&visit(&trellis, "one.example", "/a")), "https://at-one.example/", "links stay");
    trellis.wait_stored(3);
}

#[test]
fn orphans_are_recorded_where_it_is_asked_for_and_told_apart_from_clicks_on_links() {
    let trellis = Trellis::start();
    link(&trellis, "one.example", "a", "https://at-one.example/");
    link(&trellis, "one.example", "paused", "https://at-one.example/");
    assert_eq!(trellis.api("PATCH", "/api/v1/links/paused?domain=one.example", Some(r#"{"paused":true}"#)).status, 200);
    domain(&trellis, "one.example", json!({"root_url": "https://home.example/{click_id}", "record_orphans": true}));
    domain(&trellis, "*", json!({"record_orphans": true}));
    let root = visit(&trellis, "one.example", "/?click_id=x&source=s");
    let id = root.header("x-click-id").expect("recorded").to_owned();
    assert_eq!(place(&root), format!("https://home.example/{id}"));
    let (unknown, paused) = (visit(&trellis, "one.example", "/a/../b%20c"), visit(&trellis, "one.example", "/paused"));
    assert_eq!((unknown.status, &unknown.body, lasting(&unknown)), (404, &paused.body, lasting(&paused)));
    assert!(unknown.header("x-click-id").is_some() && paused.header("x-click-id").is_some());
    let long = format!("/{}", "x".repeat(1000));
    assert!(visit(&trellis, "other.example", &long).header("x-click-id").is_some());
    let head = ask(&trellis, "HEAD /nothing HTTP/1.1\nHost: other.example");
    assert_eq!((head.status, head.body.len()), (404, 0));
    let private = ask(&trellis, "GET /secret HTTP/1.1\nHost: other.example\nSec-GPC: 1");
    assert!(private.header("x-click-id").is_some());
    visit(&trellis, "one.example", "/a");
    trellis.wait_stored(7);
    let stored = trellis.clicks();
    let shown = stored.iter().rev().map(|click| {
        let text = |name: &str| click[name].as_str().expect("a text").to_owned();
        (
            text("domain"),
            text("link"),
            text("variant"),
            text("path"),
            click["status"].as_u64().expect("a number"),
            text("class"),
        )
    });
    let row = |domain: &str, link: &str, variant: &str, path: &str, status, class: &str| {
        (domain.to_owned(), link.to_owned(), variant.to_owned(), path.to_owned(), status, class.to_owned())
    };
    let mut shown: Vec<_> = shown.collect();
    let mut expected = vec![
        row("one.example", "/", "root", "/", 302, "human"),
        row("one.example", "/", "unknown", "/a/../b%20c", 404, "human"),
        row("one.example", "/", "unknown", "/paused", 404, "human"),
        row("*", "/", "unknown", &long[..256], 404, "human"),
        row("*", "/", "unknown", "/nothing", 404, "head"),
        row("*", "/", "unknown", "", 404, "human"),
        row("one.example", "a", "", "", 302, "human"),
    ];
    shown.sort();
    expected.sort();
    assert_eq!(shown, expected);
    let total = |query: &str| trellis.count(query)["total"].as_u64().expect("a number");
    assert_eq!(["link=/", "link=/&domain=*", "link=a", "link=", "link=paused"].map(total), [6, 3, 1, 0, 0]);
    let first = stored.iter().find(|click| click["click_id"] == *id).expect("stored");
    assert_eq!(
        (&first["external_click_id"], &first["source"], &first["dedup"]),
        (&json!("x"), &json!("s"), &json!("unique"))
    );
    assert_eq!(first["route_version"], 1, "of the domain");
    trellis.assert_ledger_balances(7);
    trellis.assert_rolled_up();
    // The same visitor at the same path is a duplicate, at another one not.
    assert_eq!(trellis.count("link=/")["duplicate"], 0);
    visit(&trellis, "one.example", "/paused");
    trellis.wait_stored(8);
    assert_eq!(trellis.count("link=/")["duplicate"], 1);
}

#[test]
fn rules_ask_for_the_domain_and_the_command_line_knows_it() {
    let trellis = Trellis::start();
    let run = |arguments: &[&str]| {
        let output = trellis.cli(arguments);
        let text = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8(text).expect("text"))
    };
    let add = ["link", "add", "https://own.example/", "--slug", "a", "--domain", "One.Example", "--campaign", "c"];
    assert_eq!(run(&add), (true, "https://one.example/a -> https://own.example/\n".into()));
    assert!(run(&["link", "add", "https://own.example/", "--slug", "a", "--campaign", "c"]).0);
    let rule = json!({"name": "r", "when": "domain == 'one.example'", "to": [{"url": "https://rule.example/"}]});
    let campaign = json!({"rules": [rule]}).to_string();
    assert_eq!(trellis.api("PUT", "/api/v1/campaigns/c", Some(&campaign)).status, 201);
    assert_eq!(place(&visit(&trellis, "ONE.example:80", "/a")), "https://rule.example/");
    assert_eq!(place(&visit(&trellis, "two.example", "/a")), "https://own.example/");
    let listed = "a\t302\tc\thttps://own.example/\none.example/a\t302\tc\thttps://own.example/\n";
    assert_eq!(run(&["link", "ls"]), (true, listed.into()));
    assert_eq!(run(&["link", "ls", "--domain", "*"]).1, listed.lines().next().expect("a line").to_owned() + "\n");
    let (_, explained) = run(&["explain", "a", "--domain", "one.example", "--device", "mobile"]);
    assert!(
        explained.contains("goes to     https://rule.example/") && explained.contains("domain=one.example"),
        "{explained}"
    );
    assert!(run(&["explain", "a", "--device", "mobile"]).1.contains("goes to     https://own.example/"));
    let (good, told) = run(&["link", "add", "https://a.example/", "--domain", "a.example:80", "--slug", "in"]);
    assert!(!good && told.contains("domain:") && told.contains("has a port") && told.contains("slug:"), "{told}");
    assert_eq!(run(&["link", "rm", "a", "--domain", "one.example"]), (true, "removed a\n".into()));
    assert_eq!(run(&["link", "ls"]).1.lines().count(), 1);
}

#[test]
fn a_host_that_an_organisation_was_given_is_for_its_links_alone_and_its_clicks_are_of_it() {
    let trellis = Trellis::start();
    link(&trellis, "*", "ours", "https://ours.example/");
    let shared = json!({"org": "acme", "slug": "shared", "url": "https://shared.example/"}).to_string();
    assert_eq!(trellis.api("POST", "/api/v1/links", Some(&shared)).status, 201);
    for host in ["go.acme.example", "elsewhere.example"] {
        assert_eq!(place(&visit(&trellis, host, "/ours")), "https://ours.example/", "{host}");
    }
    let root = json!({"org": "acme", "root_url": "https://acme.example/", "unknown_url": "https://lost.example/",
        "record_orphans": true});
    domain(&trellis, "go.acme.example", root);
    let own =
        json!({"org": "acme", "domain": "go.acme.example", "slug": "own", "url": "https://own.example/"}).to_string();
    assert_eq!(trellis.api("POST", "/api/v1/links", Some(&own)).status, 201);
    for (host, path, expected) in [
        ("go.acme.example", "/own", "https://own.example/"),
        ("go.acme.example", "/shared", "https://shared.example/"),
        ("go.acme.example", "/ours", "https://lost.example/"),
        ("go.acme.example", "/", "https://acme.example/"),
        ("elsewhere.example", "/ours", "https://ours.example/"),
        ("elsewhere.example", "/shared", "https://shared.example/"),
    ] {
        assert_eq!(place(&visit(&trellis, host, path)), expected, "{host}{path}");
    }
    trellis.wait_stored(8);
    let told = |org: &str| {
        let body = json!({"org": org, "scopes": ["stats:read"]}).to_string();
        let key = trellis.api("POST", "/api/v1/keys", Some(&body)).json()["secret"].as_str().expect("a key").to_owned();
        let bearer = format!("Bearer {key}");
        trellis.api_raw("GET", "/api/v1/clicks/count", &[("Authorization", &bearer)], b"").json()["total"].clone()
    };
    assert_eq!([told("acme"), told("default"), told("other")], [json!(5), json!(3), json!(0)]);
}
