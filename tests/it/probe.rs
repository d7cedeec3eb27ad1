//! The node asks itself: its checks, its canary and what becomes of the canary's clicks; and `trellis probe` from elsewhere.

use serde_json::{Value, json};

use crate::cli::{bad, good, run};
use crate::harness::{Trellis, eventually};

const CHROME: &str =
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Safari/537.36";
const UPTIME_ROBOT: &str = "Mozilla/5.0+(compatible; UptimeRobot/2.0; http://www.uptimerobot.com/)";
/// As often as may be.
const ON: [(&str, &str); 3] =
    [("probe.enabled", "true"), ("probe.checks_every", "100ms"), ("probe.canary_every", "100ms")];
const CHECKS: [&str; 5] = ["health", "ready", "metrics", "redirect", "store"];

fn success(trellis: &Trellis, check: &str) -> f64 {
    trellis.metric(&format!("trellis_probe_success{{check=\"{check}\"}}"))
}

/// Starts a node that asks itself, and waits until so many canary clicks are stored.
fn probing(settings: &[(&str, &str)], clicks: u64) -> Trellis {
    let trellis = Trellis::start_with(&[&ON[..], settings].concat());
    eventually("the canary's clicks are stored", || {
        trellis.count("link=-/canary")["total"].as_u64().is_some_and(|total| total >= clicks)
    });
    trellis
}

#[test]
fn a_node_asks_itself_finds_its_own_clicks_and_its_books_balance_with_them() {
    let mut trellis = probing(&[], 3);
    for check in CHECKS {
        eventually(&format!("{check} is well"), || success(&trellis, check) == 1.0);
        let took = trellis.metric(&format!("trellis_probe_duration_seconds{{check=\"{check}\"}}"));
        assert!(took > 0.0, "{check} {took}");
    }
    assert!(trellis.metric("trellis_probe_freshness_seconds") > 0.0);
    for click in trellis.clicks() {
        let told = json!([click["link"], click["org"], click["class"], click["reasons"][0], click["destination"]]);
        assert_eq!(told, json!(["-/canary", "/", "monitor", "agent_monitor", "/robots.txt"]), "{click}");
        assert!(click["ua"].as_str().is_some_and(|ua| ua.ends_with(" (self)")), "{click}");
    }
    assert_eq!(trellis.count("")["by_class"]["human"], Value::Null);
    assert!(trellis.stop().success());
    let total = trellis.ledger();
    assert!(total["accepted"].as_u64().is_some_and(|accepted| accepted >= 3), "{total}");
    assert_eq!((&total["stored"], &total["residual"]), (&total["accepted"], &0.into()), "{total}");
}

#[test]
fn the_canary_is_no_operators_link_and_cannot_become_one() {
    let trellis = probing(&[], 1);
    assert_eq!(trellis.api("GET", "/api/v1/links", None).json()["links"], json!([]));
    assert_eq!(trellis.metric("trellis_links"), 0.0);
    let taken = trellis.api("POST", "/api/v1/links", Some(r#"{"slug":"-/canary","url":"https://a.example/"}"#));
    assert_eq!(taken.status, 422, "{taken:?}");
    let key = trellis.api("POST", "/api/v1/keys", Some(r#"{"scopes":["stats:read"]}"#)).json();
    let bearer = format!("Bearer {}", key["secret"].as_str().expect("a secret"));
    let seen = trellis.api_raw("GET", "/api/v1/clicks/count", &[("Authorization", &bearer)], b"");
    assert_eq!(seen.json()["total"], 0, "its clicks are of no organisation");
}

#[test]
fn no_rules_of_an_operator_make_a_person_of_the_own_prober() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let rules = folder.path().join("rules.toml");
    std::fs::write(&rules, "[agents.monitor]\nenforce = []\nshadow = []\n").expect("a file");
    let trellis = probing(&[("classify.rules", &rules.to_string_lossy())], 2);
    let by_class = trellis.count("")["by_class"].clone();
    assert_eq!(
        by_class.as_object().map(|classes| classes.keys().collect::<Vec<_>>()),
        Some(vec![&"monitor".to_owned()])
    );
    eventually("the store is well", || success(&trellis, "store") == 1.0);
}

#[test]
fn to_everybody_but_monitors_there_is_no_canary() {
    let trellis = Trellis::start();
    trellis.link("a", "https://a.example/");
    let secret = ("X-Trellis-Probe", "0000000000000000000000000000000000000000000000000000000000000000");
    let visit = |method, path, ua, headers: &[(&str, &str)]| {
        trellis.edge_request(method, path, &[&[("User-Agent", ua)][..], headers].concat())
    };
    for headers in [&[][..], &[secret], &[("X-Trellis-Probe", "")]] {
        let answer = visit("GET", "/-/canary", CHROME, headers);
        assert_eq!((answer.status, &answer.json()["code"]), (404, &"unknown_link".into()));
    }
    assert_eq!(visit("GET", "/a", CHROME, &[secret]).status, 302);
    for method in ["GET", "HEAD"] {
        let answer = visit(method, "/-/canary", UPTIME_ROBOT, &[]);
        assert_eq!((answer.status, answer.header("location")), (302, Some("/robots.txt")));
    }
    assert_eq!(visit("GET", "/robots.txt", UPTIME_ROBOT, &[]).status, 200, "who follows it arrives");
    trellis.wait_stored(3);
    assert_eq!(trellis.count("link=a")["by_class"], json!({"human": 1}), "a secret that is none says nothing");
    assert_eq!(trellis.count("link=-/canary")["by_class"], json!({"monitor": 1, "head": 1}));
}

#[test]
fn the_own_prober_takes_nobodys_place_at_a_limit() {
    let limits = [
        ("limits.exempt", "[]"),
        ("limits.network.rate", "1"),
        ("limits.network.burst", "1"),
        ("limits.global.rate", "1"),
        ("limits.global.burst", "1"),
    ];
    let trellis = probing(&limits, 5);
    eventually("the redirect is well", || success(&trellis, "redirect") == 1.0);
    assert_eq!(trellis.metric("trellis_redirects_total{outcome=\"limited\"}"), 0.0);
    assert_eq!(trellis.get("/nothing").status, 404, "the first visitor is let in");
}

#[test]
fn a_store_that_is_away_is_told_of_and_the_redirect_is_well() {
    let settings = [
        ("store.backend", "clickhouse"),
        ("store.clickhouse.url", "http://127.0.0.1:1"),
        ("probe.arrival_max", "200ms"),
    ];
    let trellis = Trellis::start_with(&[&ON[..], &settings].concat());
    trellis.expect_log("a dependency does not answer");
    trellis.expect_log("the store's tables cannot be made yet");
    trellis.expect_log("the node does not answer itself as it should check=\"store\"");
    trellis.expect_log("the store did not take a batch");
    eventually("the store is not well", || success(&trellis, "store") == 0.0);
    assert_eq!(success(&trellis, "redirect"), 1.0);
    assert!(trellis.metric("trellis_probe_freshness_seconds").is_nan(), "none was ever measured");
    trellis.logged(1, "the node does not answer itself as it should check=\"store\" detail=\"after 200ms: ");
}

#[test]
fn a_node_that_is_not_to_ask_itself_does_not() {
    let trellis = Trellis::start_with(&[&ON[1..], &[("probe.enabled", "false")]].concat());
    trellis.link("a", "https://a.example/");
    for _ in 0..50 {
        trellis.get("/a");
    }
    trellis.wait_stored(50);
    assert!(CHECKS.iter().all(|check| success(&trellis, check).is_nan()));
}

#[test]
fn a_probe_from_elsewhere_tells_statuses_and_times_and_its_clicks_are_monitors() {
    let trellis = Trellis::start();
    trellis.link("spring", "https://a.example/");
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (edge, control) = (format!("http://{}", trellis.edge()), format!("http://{}", trellis.control()));
    let told = good(&run(
        folder.path(),
        &["probe", "--url", &edge, "--control", &control, "--location", "fra", "--count", "2", "--interval", "0"],
    ));
    let lines: Vec<_> = told.lines().collect();
    assert_eq!((lines.len(), lines[8]), (9, "8 of 8 checks were as they should be"), "{told}");
    for (line, check) in lines[..8].iter().zip(["redirect", "health  ", "ready   ", "metrics "].iter().cycle()) {
        assert!(line.contains(&format!("Z  fra  {check}  ok      ")) && line.contains("  first byte "), "{line}");
    }
    let link = format!("{edge}/spring?x=1");
    let told = good(&run(folder.path(), &["probe", "--url", &link, "--location", "home", "--format", "json"]));
    let told: Value = serde_json::from_str(&told).expect("one object");
    assert_eq!((&told["check"], &told["success"], &told["status"]), (&"redirect".into(), &true.into(), &302.into()));
    assert!(told["connect_ms"].as_f64() <= told["whole_ms"].as_f64() && told["first_byte_ms"].is_f64(), "{told}");
    trellis.wait_stored(3);
    let click = trellis.clicks().into_iter().find(|click| click["link"] == "spring").expect("its click");
    assert_eq!((&click["class"], &click["click_id"]), (&"monitor".into(), &told["click_id"]));
    assert!(click["ua"].as_str().is_some_and(|ua| ua.ends_with(" (home)")), "{click}");
    assert_eq!(trellis.count("")["by_class"], json!({"monitor": 3}));
    assert!(!folder.path().join("node.lock").exists(), "it needs no data folder");
}

#[test]
fn a_probe_that_finds_something_wrong_says_so_and_ends_with_1() {
    let trellis = Trellis::start();
    let folder = tempfile::tempdir().expect("a temporary folder");
    for (url, told) in [
        (format!("http://{}/nothing", trellis.edge()), "failed  404"),
        ("http://127.0.0.1:1".to_owned(), "127.0.0.1:1 cannot be reached"),
        ("https://127.0.0.1:1".to_owned(), "127.0.0.1:1 cannot be reached"),
        ("ftp://127.0.0.1:1".to_owned(), "ftp:// is not spoken here; use http:// or https://"),
    ] {
        let output = run(folder.path(), &["probe", "--url", &url, "--location", "fra"]);
        let line = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.code() == Some(1) && line.contains("failed") && line.contains(told), "{line}");
    }
    let told = bad(&run(folder.path(), &["probe", "--url", "http://a.example", "--location", "a b"]), 64);
    assert!(told.contains("--location") && told.contains("must be 1 to 64 of the characters"), "{told}");
    bad(&run(folder.path(), &["probe", "--location", "fra"]), 64);
}
