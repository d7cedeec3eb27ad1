//! From the followed link to the stored click, on embedded parts.

use crate::harness::{Trellis, eventually};

const CHROME: &str =
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Safari/537.36";

#[test]
fn a_followed_link_is_found_in_the_store_with_everything_known_of_it() {
    let trellis = Trellis::start_with(&[("edge.trusted_proxies", "127.0.0.0/8"), ("node", "n1")]);
    let body = r#"{"slug":"spring","url":"https://shop.example/?id={click_id}","campaign":"sale"}"#;
    assert_eq!(trellis.api("POST", "/api/v1/links", Some(body)).status, 201);
    let answer = trellis.edge_request(
        "GET",
        "/spring?click_id=ext-1&source=mail&x=a%20b&x=2",
        &[
            ("User-Agent", CHROME),
            ("Referer", "https://news.example/page"),
            ("Accept", "text/html"),
            ("Accept-Language", "de-DE,de;q=0.9"),
            ("Accept-Encoding", "gzip"),
            ("X-Forwarded-For", "8.8.8.8"),
        ],
    );
    let id = answer.header("x-click-id").expect("an id").to_owned();
    trellis.wait_stored(1);
    let click = &trellis.clicks()[0];
    let expected = serde_json::json!({
        "click_id": id, "org": "default", "campaign": "sale", "link": "spring",
        "destination": format!("https://shop.example/?id={id}"), "status": 302, "external_click_id": "ext-1",
        "source": "mail", "class": "human", "reasons": [], "dedup": "unique", "fraud_score": 0, "country": "US",
        "device": "desktop", "os": "Windows", "browser": "Chrome", "language": "de-DE,de;q=0.9", "referrer": "https://news.example/page",
        "ua": CHROME, "ip": "8.8.8.0", "query": {"click_id": "ext-1", "source": "mail", "x": "a b"},
        "route_version": 1, "node": "n1",
    });
    for (column, value) in expected.as_object().expect("an object") {
        assert_eq!(&click[column], value, "{column}");
    }
    assert!(click["ts"].as_str().is_some_and(|ts| ts.ends_with('Z')), "{click}");
    assert_eq!(click["batch_id"].as_str().map(str::len), Some(36));
}

#[test]
fn clicks_are_labelled_unique_and_duplicate_and_none_is_dropped() {
    let trellis = Trellis::start();
    trellis.link("a", "https://a.example/");
    trellis.link("b", "https://b.example/");
    let visit = |path: &str, ua: &str| {
        assert_eq!(trellis.edge_request("GET", path, &[("User-Agent", ua)]).status, 302);
    };
    // The same visitor, by address and agent; another agent; another link; external ids go before the visitor.
    for (path, ua) in
        [("/a", "one"), ("/a", "one"), ("/a", "two"), ("/b", "one"), ("/a?click_id=7", "one"), ("/a?click_id=7", "two")]
    {
        visit(path, ua);
    }
    trellis.wait_stored(6);
    let counts = trellis.count("");
    assert_eq!((&counts["unique"], &counts["duplicate"], &counts["unknown"]), (&4.into(), &2.into(), &0.into()));
    assert_eq!(trellis.count("link=b")["total"], 1);
    assert_eq!(trellis.metric("trellis_dedup_checks_total{result=\"duplicate\"}"), 2.0);
}

#[test]
fn classes_are_told_apart_with_reasons() {
    let trellis = Trellis::start();
    trellis.link("a", "https://a.example/");
    trellis.edge_request("GET", "/a", &[("User-Agent", CHROME)]);
    trellis.edge_request("GET", "/a", &[("User-Agent", "Googlebot/2.1 (+http://www.google.com/bot.html)")]);
    trellis.edge_request("GET", "/a", &[]);
    trellis.edge_request("HEAD", "/a", &[("User-Agent", CHROME)]);
    trellis.edge_request("GET", "/a", &[("User-Agent", CHROME), ("Sec-Purpose", "prefetch;prerender")]);
    trellis.edge_request("GET", "/a", &[("User-Agent", CHROME), ("Purpose", "Prefetch")]);
    trellis.wait_stored(6);
    let expected = serde_json::json!({"human": 1, "bot": 2, "head": 1, "prefetch": 2});
    assert_eq!(trellis.count("")["by_class"], expected);
    let reason = |class: &str| {
        let clicks = trellis.clicks();
        clicks.iter().find(|c| c["class"] == class).map(|c| c["reasons"][0].clone()).expect("one of the class")
    };
    assert_eq!((reason("head"), reason("prefetch")), ("method_head".into(), "purpose_prefetch".into()));
    // Who only looks ahead makes duplicates among his own kind, and none of the click that follows.
    assert_eq!(trellis.count("")["duplicate"], 2);
    assert!(trellis.clicks().iter().all(|c| c["class"] != "human" || c["dedup"] == "unique"));
}

#[test]
fn with_privacy_none_no_address_is_kept_and_the_country_still_is() {
    let trellis = Trellis::start_with(&[("privacy.ip", "none"), ("edge.trusted_proxies", "127.0.0.0/8")]);
    trellis.link("a", "https://a.example/");
    trellis.edge_request("GET", "/a", &[("User-Agent", CHROME), ("X-Forwarded-For", "8.8.8.8")]);
    trellis.wait_stored(1);
    let click = &trellis.clicks()[0];
    assert_eq!((click["ip"].as_str(), click["country"].as_str()), (Some(""), Some("US")));
}

#[test]
fn with_privacy_hmac_an_address_has_one_hash_on_every_node_with_the_secret_and_the_country_is_kept() {
    let secrets = [("dedup.secret", "a-secret-of-the-fleet"), ("privacy.ip_secret", "one-of-its-own-here")];
    let hashes = |secrets: &[(&str, &str)]| {
        let mut settings = vec![("privacy.ip", "hmac"), ("edge.trusted_proxies", "127.0.0.0/8")];
        settings.extend(secrets);
        let trellis = Trellis::start_with(&settings);
        trellis.link("a", "https://a.example/");
        for address in ["8.8.8.8", "8.8.8.8", "8.8.8.9"] {
            trellis.edge_request("GET", "/a", &[("User-Agent", CHROME), ("X-Forwarded-For", address)]);
        }
        trellis.wait_stored(3);
        let clicks = trellis.clicks();
        assert!(
            clicks.iter().all(|c| c["country"] == "US" && c["region"] == "" && c["privacy"] == "full"),
            "{clicks:?}"
        );
        assert_eq!(trellis.count("")["duplicate"], 1, "fingerprints go by the whole address");
        let hashes: std::collections::BTreeSet<_> =
            clicks.iter().map(|click| click["ip"].as_str().expect("text").to_owned()).collect();
        assert!(hashes.len() == 2 && hashes.iter().all(|h| h.len() == 34 && h.starts_with("h:")), "{hashes:?}");
        hashes
    };
    let derived = hashes(&secrets[..1]);
    assert_eq!(derived, hashes(&secrets[..1]));
    assert_eq!(hashes(&secrets), hashes(&secrets[1..]), "whatever the other secret is");
    assert_ne!(derived, hashes(&secrets));
}

#[test]
fn any_bytes_in_headers_are_kept_as_far_as_they_are_text() {
    let trellis = Trellis::start();
    trellis.link("a", "https://a.example/");
    let answer = crate::harness::exchange(
        trellis.edge(),
        b"GET /a?%ff=%fe HTTP/1.1\r\nHost: t\r\nUser-Agent: x\xff\xfey\r\nConnection: close\r\n\r\n",
    );
    assert!(answer.starts_with(b"HTTP/1.1 302"));
    trellis.wait_stored(1);
    let ua = trellis.clicks()[0]["ua"].as_str().expect("text").to_owned();
    assert!(ua.starts_with('x') && ua.ends_with('y'), "{ua:?}");
}

#[test]
fn a_queue_too_small_for_the_traffic_costs_nothing_but_a_look_at_the_journal() {
    // Room for one group, and too few bytes even for one click of this size: everything goes through the journal.
    let trellis = Trellis::start_with(&[("queue.groups_max", "1"), ("queue.bytes_max", "4KiB")]);
    trellis.link("a", "https://a.example/");
    let (padding, agent) = ("x".repeat(3_900), "y".repeat(500));
    for n in 0..300 {
        let path = format!("/a?click_id={n}&p={padding}");
        assert_eq!(trellis.edge_request("GET", &path, &[("User-Agent", &agent)]).status, 302);
    }
    trellis.wait_stored(300);
    assert_eq!(trellis.count("")["unique"], 300);
    assert_eq!(trellis.metric("trellis_handoff_total{via=\"journal\"}"), 300.0);
    assert_eq!(trellis.metric("trellis_queue_overflow_total"), 300.0);
    assert_eq!(trellis.metric("trellis_clicks_pending"), 0.0);
}

#[test]
fn at_leisure_every_click_takes_the_queue() {
    let trellis = Trellis::start();
    trellis.link("a", "https://a.example/");
    for n in 0..300 {
        trellis.get(&format!("/a?click_id={n}"));
    }
    trellis.wait_stored(300);
    assert_eq!(trellis.metric("trellis_handoff_total{via=\"queue\"}"), 300.0);
    assert_eq!(trellis.metric("trellis_handoff_total{via=\"journal\"}"), 0.0);
}

#[test]
fn segments_change_and_finished_ones_are_removed() {
    // 1 MiB segments; each click brings some 3.6 KB of query string.
    let trellis = Trellis::start_with(&[("edge.threads", "1")]);
    trellis.link("a", "https://a.example/");
    let padding = "x".repeat(3_600);
    for n in 0..1_000 {
        assert_eq!(trellis.get(&format!("/a?click_id={n}&p={padding}")).status, 302);
    }
    trellis.wait_stored(1_000);
    let segments = || {
        let runs = std::fs::read_dir(trellis.data_dir().join("journal")).expect("the journal folder");
        let files = runs.flat_map(|run| std::fs::read_dir(run.expect("a run").path()).expect("its files"));
        files.filter(|file| file.as_ref().is_ok_and(|f| f.path().extension().is_some_and(|e| e == "seg"))).count()
    };
    // At most the one being written, the one made ahead, and one not quite let go of.
    eventually("finished segments are gone", || segments() <= 3);
    assert_eq!(trellis.count("")["unique"], 1_000);
}
