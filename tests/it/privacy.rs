//! What clicks may keep of their visitors: by what browsers and pages say, and by country. What is not kept is nowhere: not in
//! the row, not in the destination, and not in one byte on the disk.

use std::path::Path;

use serde_json::{Value, json};

use crate::harness::{Response, Trellis};

const PHONE: &str = "Mozilla/5.0 (iPhone; CPU iPhone OS 18_1 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) \
    Version/18.1 Mobile/15E148 Safari/604.1 Planted/7";
/// What every browser sends, beside its languages.
const BROWSER: [(&str, &str); 2] = [("Accept", "*/*"), ("Accept-Encoding", "gzip")];
/// Of 8.8.8.8, which is in the USA, with planted words in every header.
const HEADERS: [(&str, &str); 6] = [
    BROWSER[0],
    BROWSER[1],
    ("User-Agent", PHONE),
    ("X-Forwarded-For", "8.8.8.8"),
    ("Referer", "https://news.example/planted/path?planted=1"),
    ("Accept-Language", "de-AT, x-planted;q=0.8"),
];
const PROXY: (&str, &str) = ("edge.trusted_proxies", "127.0.0.0/8");

fn visit(trellis: &Trellis, path: &str, more: &[(&str, &str)]) -> Response {
    let answer = trellis.edge_request("GET", path, &[&HEADERS[..], more].concat());
    assert_eq!(answer.status, 302, "{answer:?}");
    answer
}

fn click_of(trellis: &Trellis, answer: &Response) -> Value {
    let id = answer.header("x-click-id").expect("the click is kept");
    let clicks = trellis.clicks();
    clicks.into_iter().find(|click| click["click_id"] == id).unwrap_or_else(|| panic!("{id} is not stored"))
}

/// All bytes of all files under a folder.
fn bytes_under(folder: &Path) -> Vec<u8> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        all.extend(if path.is_dir() { bytes_under(&path) } else { std::fs::read(&path).unwrap_or_default() });
    }
    all
}

fn holds(bytes: &[u8], text: &[u8]) -> bool {
    bytes.windows(text.len()).any(|window| window == text)
}

#[test]
fn a_visit_without_a_signal_keeps_what_it_always_kept() {
    let trellis = Trellis::start_with(&[PROXY]);
    trellis.link("a", "https://a.example/");
    let answer = visit(&trellis, "/a?click_id=7&uid=planted", &[("Sec-GPC", "0"), ("DNT", "null")]);
    trellis.wait_stored(1);
    let click = click_of(&trellis, &answer);
    for (field, value) in [
        ("privacy", "full"),
        ("ip", "8.8.8.0"),
        ("country", "US"),
        ("ua", PHONE),
        ("referrer", "https://news.example/planted/path?planted=1"),
        ("language", "de-AT, x-planted;q=0.8"),
        ("external_click_id", "7"),
        ("dedup", "unique"),
    ] {
        assert_eq!(click[field], value, "{field}");
    }
    assert_eq!(click["query"], json!({"click_id": "7", "uid": "planted"}));
    assert_eq!(trellis.metric("trellis_privacy_total{level=\"full\"}"), 1.0);
}

#[test]
fn with_gpc_or_dnt_a_click_keeps_nothing_that_tells_one_visitor_from_others() {
    let trellis = Trellis::start_with(&[PROXY]);
    trellis.link("a", "https://a.example/");
    for header in ["Sec-GPC", "DNT"] {
        let answer = visit(&trellis, "/a?click_id=7&uid=planted&source=mail", &[(header, "1")]);
        crate::harness::eventually("it is stored", || {
            trellis.count("")["total"] == if header == "DNT" { 2 } else { 1 }
        });
        let click = click_of(&trellis, &answer);
        for (field, value) in [
            ("privacy", "limited"),
            ("ip", ""),
            ("country", "US"),
            ("device", "mobile"),
            ("os", "iOS"),
            ("browser", "Safari"),
            ("class", "human"),
            ("ua", ""),
            ("referrer", "https://news.example"),
            ("language", "de-AT"),
            ("external_click_id", "7"),
            ("source", "mail"),
            // The same id on the same link twice: without a fingerprint nobody can tell.
            ("dedup", "unknown"),
        ] {
            assert_eq!(click[field], value, "{header}: {field}");
        }
        assert_eq!(click["query"], json!({"click_id": "7", "source": "mail"}));
    }
    assert_eq!(trellis.metric("trellis_privacy_total{level=\"limited\"}"), 2.0);
    assert_eq!(trellis.metric("trellis_dedup_checks_total{result=\"unknown\"}"), 2.0);
}

#[test]
fn a_click_of_the_level_none_is_counted_by_its_class_and_no_more() {
    let trellis = Trellis::start_with(&[PROXY, ("privacy.gpc", "none")]);
    trellis
        .link("a", "https://a.example/?e={external_click_id}&c={country}&d={device}&l={language}&r={referrer_domain}");
    let human = visit(&trellis, "/a?click_id=7&source=mail", &[("Sec-GPC", "1")]);
    let others = [BROWSER[0], BROWSER[1], ("Accept-Language", "de"), ("Sec-GPC", "1")];
    let bot = ("User-Agent", "Googlebot/2.1 planted for privacy");
    let bot = trellis.edge_request("GET", "/a", &[&others[..], &[bot]].concat());
    let nobody = trellis.edge_request("GET", "/a", &others);
    trellis.wait_stored(3);
    for (answer, class, reasons) in [
        (&human, "human", json!([])),
        (&bot, "bot", json!(["agent_crawler"])),
        (&nobody, "bot", json!(["agent_missing"])),
    ] {
        assert_eq!(answer.header("location"), Some("https://a.example/?e=&c=&d=&l=&r="));
        let click = click_of(&trellis, answer);
        for field in
            ["ip", "country", "device", "os", "browser", "ua", "referrer", "language", "external_click_id", "source"]
        {
            assert_eq!(click[field], "", "{field}");
        }
        assert_eq!((&click["query"], &click["dedup"]), (&json!({}), &"unknown".into()));
        assert_eq!((&click["privacy"], &click["class"], &click["reasons"]), (&"none".into(), &class.into(), &reasons));
    }
    assert_eq!(trellis.metric("trellis_privacy_total{level=\"none\"}"), 3.0);
}

#[test]
fn what_is_taken_away_changes_neither_class_nor_reasons_nor_score() {
    const CHROME: &str = "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 \
        Safari/537.36";
    let trellis = Trellis::start_with(&[PROXY, ("privacy.dnt", "none")]);
    trellis.link("a", "https://a.example/");
    let visits = [
        ("GET", "User-Agent", PHONE, json!(["human", [], 0])),
        ("HEAD", "User-Agent", PHONE, json!(["head", ["method_head"], 40])),
        // A Chrome without fetch metadata, by TLS.
        ("GET", "User-Agent", CHROME, json!(["human", ["fetch_metadata_odd"], 30])),
        ("GET", "User-Agent", "short", json!(["human", ["agent_odd"], 30])),
        ("GET", "User-Agent", "curl/8.14.1", json!(["bot", ["agent_crawler", "agent_odd"], 90])),
        ("GET", "User-Agent", "Barracuda Sentinel (EE)", json!(["scanner", ["agent_scanner"], 70])),
        ("GET", "X-Nothing", "", json!(["bot", ["agent_missing"], 60])),
    ];
    let signals = [("X-Nothing", "", "full"), ("Sec-GPC", "1", "limited"), ("DNT", "1", "none")];
    let mut answers = Vec::new();
    for (method, header, value, expected) in &visits {
        for (signal, says, level) in signals {
            let own = [("Accept-Language", "de"), ("X-Forwarded-Proto", "https"), (*header, *value), (signal, says)];
            let answer = trellis.edge_request(method, "/a", &[&BROWSER[..], &own].concat());
            answers.push((answer, value, level, expected));
        }
    }
    trellis.wait_stored(answers.len() as u64);
    for (answer, agent, level, expected) in &answers {
        let click = click_of(&trellis, answer);
        assert_eq!(click["privacy"], *level, "{agent}");
        assert_eq!(json!([click["class"], click["reasons"], click["fraud_score"]]), **expected, "{level}: {agent}");
    }
}

#[test]
fn a_visit_without_a_link_keeps_no_more_than_one_of_a_link() {
    let trellis = Trellis::start_with(&[
        PROXY,
        ("ingress.enabled", "true"),
        ("ingress.keys", "optional"),
        ("ingress.fallback_url", "https://a.example/?u={q:uid}&i={ip}"),
    ]);
    let path = "/in?click_id=7&uid=planted";
    let (open, private) = (visit(&trellis, path, &[]), visit(&trellis, path, &[("Sec-GPC", "1")]));
    assert_eq!(open.header("location"), Some("https://a.example/?u=planted&i=8.8.8.0"));
    assert_eq!(private.header("location"), Some("https://a.example/?u=&i="));
    trellis.wait_stored(2);
    let kept = |answer| {
        let click = click_of(&trellis, answer);
        json!([click["privacy"], click["ip"], click["ua"], click["dedup"], click["query"]])
    };
    assert_eq!(kept(&open), json!(["full", "8.8.8.0", PHONE, "unique", {"click_id": "7", "uid": "planted"}]));
    assert_eq!(kept(&private), json!(["limited", "", "", "unknown", {"click_id": "7"}]));
}

#[test]
fn destinations_get_only_what_the_click_keeps_and_rules_see_the_whole_visit() {
    let trellis = Trellis::start_with(&[PROXY]);
    let macros = "i={ip}&u={user_agent}&r={referrer}&l={language}&c={country}&b={browser}&q={q:uid}&s={source}&e={external_click_id:raw}";
    let rule = json!({"name": "planted", "when": "query.uid == 'planted' && ip.in_cidr('8.8.8.0/24')",
        "to": [{"url": format!("https://rule.example/?{macros}")}]});
    let document = json!({"rules": [rule]}).to_string();
    assert_eq!(trellis.api("PUT", "/api/v1/campaigns/c", Some(&document)).status, 201);
    let link = json!({"slug": "a", "url": "https://a.example/", "campaign": "c", "query": "forward"}).to_string();
    assert_eq!(trellis.api("POST", "/api/v1/links", Some(&link)).status, 201);
    let answer = visit(&trellis, "/a?uid=planted&click_id=a%20b&source=mail", &[("Sec-GPC", "1")]);
    let expected = "https://rule.example/?i=&u=&r=https%3A%2F%2Fnews.example&l=de&c=US&b=Safari&q=&s=mail&e=a%20b\
        &click_id=a%20b&source=mail";
    assert_eq!(answer.header("location"), Some(expected));
    trellis.wait_stored(1);
    let click = click_of(&trellis, &answer);
    assert_eq!((&click["rule"], &click["destination"]), (&"planted".into(), &expected.into()));
}

#[test]
fn consent_lifts_what_a_country_asks_for_and_never_what_the_browser_says() {
    let trellis = Trellis::start_with(&[
        PROXY,
        ("privacy.consent_parameter", "consent"),
        ("privacy.refused", "none"),
        ("privacy.regions", r#"["US=limited", "EEA=none", "unknown=limited"]"#),
    ]);
    trellis.link("a", "https://a.example/");
    let (us, ie, nowhere) = ("8.8.8.8", "2a00:1450:4001::1", "10.0.0.1");
    let cases = [
        (us, "", false, "limited"),
        (us, "?consent=YES", false, "full"),
        (us, "?consent=no", false, "none"),
        (us, "?consent=maybe", false, "limited"),
        (us, "?consent=1", true, "limited"),
        (ie, "", false, "none"),
        (ie, "?consent=granted", false, "full"),
        (nowhere, "", false, "limited"),
        (nowhere, "?consent=1", false, "full"),
    ];
    let mut answers = Vec::new();
    for (address, query, gpc, level) in cases {
        let headers = [("User-Agent", PHONE), ("X-Forwarded-For", address), ("Sec-GPC", if gpc { "1" } else { "0" })];
        let answer = trellis.edge_request("GET", &format!("/a{query}"), &headers);
        answers.push((answer, format!("{address} {query} {gpc}"), level));
    }
    trellis.wait_stored(cases.len() as u64);
    for (answer, case, level) in answers {
        assert_eq!(click_of(&trellis, &answer)["privacy"], level, "{case}");
    }
}

#[test]
fn who_may_not_be_recognised_is_sticky_to_no_destination() {
    let trellis = Trellis::start_with(&[PROXY]);
    let to: Vec<_> =
        (0..10).map(|n| json!({"name": format!("d{n}"), "url": format!("https://d{n}.example/")})).collect();
    let document = json!({"sticky": "visitor", "default": to}).to_string();
    assert_eq!(trellis.api("PUT", "/api/v1/campaigns/c", Some(&document)).status, 201);
    let link = json!({"slug": "a", "url": "https://a.example/", "campaign": "c"}).to_string();
    assert_eq!(trellis.api("POST", "/api/v1/links", Some(&link)).status, 201);
    let places = |more: &[(&str, &str)]| {
        let place = |_| visit(&trellis, "/a", more).header("location").map(str::to_owned);
        (0..40).map(place).collect::<std::collections::BTreeSet<_>>().len()
    };
    // Forty clicks on ten places by weight: at one and the same place with a chance of 10^-39. Midnight may fall between.
    assert!(places(&[]) <= 2 && places(&[("DNT", "1")]) > 2);
}

#[test]
fn what_is_removed_is_in_no_byte_of_the_journal_nor_of_the_store() {
    let mut trellis = Trellis::start_with(&[PROXY, ("edge.threads", "1")]);
    trellis.link("a", "https://a.example/?u={user_agent}&q={q:uid}");
    let planted: [&[u8]; 6] = [b"planted", b"Planted", b"8.8.8.", &[8, 8, 8, 0], &[8, 8, 8, 8], b"AppleWebKit"];
    let path = "/a?click_id=kept-7&uid=planted&planted=1";
    visit(&trellis, path, &[("Sec-GPC", "1")]);
    trellis.wait_stored(1);
    let journal = bytes_under(&trellis.data_dir().join("journal"));
    assert!(holds(&journal, b"click_id=kept-7") && holds(&journal, b"https://news.example"), "the click is in it");
    let found: Vec<_> = planted.iter().filter(|text| holds(&journal, text)).collect();
    assert!(found.is_empty(), "{found:?}");
    // The same visit without the signal, so that the search is known to find what is there.
    visit(&trellis, path, &[]);
    trellis.wait_stored(2);
    let journal = bytes_under(&trellis.data_dir().join("journal"));
    let missing: Vec<_> = planted.iter().filter(|text| !holds(&journal, text)).collect();
    assert_eq!(missing, [&b"8.8.8."[..], &[8, 8, 8, 8]].iter().collect::<Vec<_>>(), "an address is four bytes, cut");
    assert!(trellis.stop().success());

    let mut other = Trellis::start_with(&[PROXY]);
    other.link("a", "https://a.example/?u={user_agent}&q={q:uid}");
    visit(&other, path, &[("Sec-GPC", "1")]);
    other.wait_stored(1);
    assert!(other.stop().success());
    // After a clean end everything is in the files of the folder.
    let all = bytes_under(other.data_dir());
    assert!(holds(&all, b"kept-7"), "the row is in it");
    let found: Vec<_> =
        [&b"planted"[..], b"Planted", b"8.8.8.", b"AppleWebKit"].into_iter().filter(|text| holds(&all, text)).collect();
    assert!(found.is_empty(), "{found:?}");
}
