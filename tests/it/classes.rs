//! Who clicked: class, reasons and score of stored clicks, and campaigns that see the same class before the answer.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::harness::{Trellis, eventually, exchange};

const CHROME: &str =
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Safari/537.36";
const GOOGLEBOT: &str = "Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)";
const UPTIME_ROBOT: &str = "Mozilla/5.0+(compatible; UptimeRobot/2.0; http://www.uptimerobot.com/)";
const SLACK: &str = "Slackbot-LinkExpanding 1.0 (+https://api.slack.com/robots)";
const BARRACUDA: &str = "Barracuda Sentinel (EE)";
/// What every browser sends.
const BROWSER: [(&str, &str); 3] = [("Accept", "*/*"), ("Accept-Language", "de"), ("Accept-Encoding", "gzip")];

type Headers<'a> = &'a [(&'a str, &'a str)];

/// A visit with this external id; the headers of a browser come before these.
fn visit(trellis: &Trellis, method: &str, id: &str, headers: Headers<'_>) {
    let headers = [&BROWSER[..], headers].concat();
    let answer = trellis.edge_request(method, &format!("/a?click_id={id}"), &headers);
    assert_eq!(answer.status, 302, "{id}");
}

/// The stored clicks by their external id.
fn by_id(trellis: &Trellis) -> BTreeMap<String, Value> {
    let id = |click: &Value| click["external_click_id"].as_str().expect("a text").to_owned();
    trellis.clicks().into_iter().map(|click| (id(&click), click)).collect()
}

fn told(click: &Value) -> Value {
    json!([click["class"], click["reasons"], click["fraud_score"]])
}

#[test]
fn every_click_is_stored_with_class_reasons_and_score() {
    let trellis = Trellis::start_with(&[("edge.trusted_proxies", "127.0.0.0/8")]);
    trellis.link("a", "https://a.example/");
    let chrome = ("User-Agent", CHROME);
    let tls = ("X-Forwarded-Proto", "https");
    let visits: [(&str, &str, Headers<'_>, Value); 14] = [
        ("human", "GET", &[chrome], json!(["human", [], 0])),
        ("head", "HEAD", &[chrome], json!(["head", ["method_head"], 40])),
        ("prefetch", "GET", &[chrome, ("Purpose", "Prefetch")], json!(["prefetch", ["purpose_prefetch"], 20])),
        ("missing", "GET", &[], json!(["bot", ["agent_missing"], 60])),
        ("bot", "GET", &[("User-Agent", GOOGLEBOT)], json!(["bot", ["agent_crawler"], 60])),
        ("curl", "GET", &[("User-Agent", "curl/8.14.1")], json!(["bot", ["agent_crawler", "agent_odd"], 90])),
        (
            "monitor",
            "GET",
            &[("User-Agent", UPTIME_ROBOT)],
            json!(["monitor", ["agent_monitor", "agent_crawler"], 100]),
        ),
        ("scanner", "GET", &[("User-Agent", BARRACUDA)], json!(["scanner", ["agent_scanner"], 70])),
        ("preview", "GET", &[("User-Agent", SLACK)], json!(["preview", ["agent_preview", "agent_crawler"], 100])),
        (
            "slack-head",
            "HEAD",
            &[("User-Agent", SLACK)],
            json!(["head", ["method_head", "agent_preview", "agent_crawler"], 100]),
        ),
        ("short", "GET", &[("User-Agent", "short")], json!(["human", ["agent_odd"], 30])),
        ("image", "GET", &[chrome, ("Sec-Fetch-Dest", "image")], json!(["human", ["fetch_metadata_odd"], 30])),
        ("tls", "GET", &[chrome, tls], json!(["human", ["fetch_metadata_odd"], 30])),
        ("followed", "GET", &[chrome, tls, ("Sec-Fetch-Mode", "navigate")], json!(["human", [], 0])),
    ];
    for (id, method, headers, _) in &visits {
        visit(&trellis, method, id, headers);
    }
    trellis.wait_stored(visits.len() as u64);
    let stored = by_id(&trellis);
    for (id, _, _, expected) in &visits {
        assert_eq!(told(&stored[*id]), *expected, "{id}");
    }
    assert_eq!(stored["monitor"]["device"], "bot");
    let sum: u64 = visits.iter().map(|(.., expected)| expected[2].as_u64().expect("a score")).sum();
    let count = |bucket: &str| trellis.metric(&format!("trellis_fraud_score_{bucket}"));
    assert_eq!((count("count"), count("sum")), (visits.len() as f64, sum as f64), "each of them once");
    assert_eq!((count("bucket{le=\"0\"}"), count("bucket{le=\"60\"}"), count("bucket{le=\"100\"}")), (2.0, 9.0, 14.0));
}

#[test]
fn headers_that_only_programs_leave_out_are_told_and_make_no_bot() {
    let trellis = Trellis::start();
    trellis.link("a", "https://a.example/");
    let send = |id: &str, version: &str, headers: &str| {
        let text = format!("GET /a?click_id={id} {version}\r\nHost: t\r\nUser-Agent: {CHROME}\r\n{headers}\r\n");
        assert!(exchange(trellis.edge(), text.as_bytes()).starts_with(b"HTTP/1."), "{id}");
    };
    let (accept, language, encoding) = ("Accept: */*\r\n", "Accept-Language: de\r\n", "Accept-Encoding: gzip\r\n");
    let close = "Connection: close\r\n";
    send("accept", "HTTP/1.1", &[language, encoding, close].concat());
    send("language", "HTTP/1.1", &[accept, encoding, close].concat());
    send("encoding", "HTTP/1.1", &[accept, language, close].concat());
    send("old", "HTTP/1.0", &[accept, language, encoding].concat());
    send("all", "HTTP/1.0", "Sec-Fetch-Mode: no-cors\r\nX-Forwarded-Proto: https\r\n");
    trellis.wait_stored(5);
    let stored = by_id(&trellis);
    assert_eq!(told(&stored["accept"]), json!(["human", ["accept_missing"], 20]));
    assert_eq!(told(&stored["language"]), json!(["human", ["accept_language_missing"], 15]));
    assert_eq!(told(&stored["encoding"]), json!(["human", ["accept_encoding_missing"], 15]));
    assert_eq!(told(&stored["old"]), json!(["human", ["http_1_0"], 30]));
    let all =
        ["accept_missing", "accept_language_missing", "accept_encoding_missing", "http_1_0", "fetch_metadata_odd"];
    assert_eq!(told(&stored["all"]), json!(["human", all, 100]), "20, 15, 15, 30 and 30 end at 100");
}

#[test]
fn a_campaign_sees_the_class_that_is_stored() {
    let trellis = Trellis::start();
    let rule = |class: &str| {
        let bot = ["bot", "preview", "scanner", "monitor"].contains(&class);
        let when = format!("class == '{class}' && {}is_bot", if bot { "" } else { "!" });
        json!({"name": class, "when": when, "to": [{"url": "https://b.example/"}]})
    };
    let classes = ["human", "bot", "preview", "prefetch", "scanner", "head", "monitor"];
    let campaign = json!({"rules": classes.map(rule), "default": [{"url": "https://default.example/"}]});
    assert_eq!(trellis.api("PUT", "/api/v1/campaigns/c", Some(&campaign.to_string())).status, 201);
    let link = json!({"slug": "a", "url": "https://a.example/", "campaign": "c"}).to_string();
    assert_eq!(trellis.api("POST", "/api/v1/links", Some(&link)).status, 201);
    // A click keeps 512 bytes of an agent: the edge goes by no more.
    let long = format!("{CHROME} {} Googlebot/2.1", "x".repeat(512));
    let agents = ["", CHROME, GOOGLEBOT, UPTIME_ROBOT, BARRACUDA, SLACK, "short", &long];
    for (number, agent) in agents.into_iter().enumerate() {
        let agent: Headers<'_> = if agent.is_empty() { &[] } else { &[("User-Agent", agent)] };
        visit(&trellis, "GET", &format!("get-{number}"), agent);
        visit(&trellis, "HEAD", &format!("head-{number}"), agent);
        visit(&trellis, "GET", &format!("ahead-{number}"), &[agent, &[("Sec-Purpose", "prefetch")]].concat());
    }
    trellis.wait_stored(24);
    for (id, click) in by_id(&trellis) {
        assert_eq!(click["rule"], click["class"], "{id}");
    }
    let expected = json!({"human": 3, "bot": 2, "preview": 1, "prefetch": 8, "scanner": 1, "head": 8, "monitor": 1});
    assert_eq!(trellis.count("")["by_class"], expected);
}

#[test]
fn an_operators_rules_enforce_what_was_in_the_shadow_and_the_other_way_round() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let rules = folder.path().join("classify.toml");
    let text = "bot_from = 70\n[reasons]\naccept_missing = { weight = 40, tier = \"enforce\" }\n\
                accept_encoding_missing = { weight = 30, tier = \"enforce\" }\nmethod_head.tier = \"shadow\"\n\
                [agents.scanner]\nenforce = [\"OurScanner/\"]\nshadow = [\"Barracuda Sentinel\"]\n";
    std::fs::write(&rules, text).expect("written");
    let trellis = Trellis::start_with(&[("classify.rules", rules.to_str().expect("UTF-8"))]);
    let campaign = json!({"rules": [{"name": "bots", "when": "is_bot", "to": [{"url": "https://b.example/"}]}]});
    assert_eq!(trellis.api("PUT", "/api/v1/campaigns/c", Some(&campaign.to_string())).status, 201);
    let link = json!({"slug": "a", "url": "https://a.example/", "campaign": "c"}).to_string();
    assert_eq!(trellis.api("POST", "/api/v1/links", Some(&link)).status, 201);
    let ours = "Mozilla/5.0 (OurScanner/1.0; +https://scanner.example/)";
    visit(&trellis, "GET", "ours", &[("User-Agent", ours)]);
    visit(&trellis, "HEAD", "head", &[("User-Agent", CHROME)]);
    visit(&trellis, "GET", "theirs", &[("User-Agent", BARRACUDA)]);
    for (id, headers) in [("one", &[BROWSER[1], BROWSER[2]][..]), ("both", &[BROWSER[1]]), ("three", &[])] {
        let headers = [headers, &[("User-Agent", CHROME)]].concat();
        assert_eq!(trellis.edge_request("GET", &format!("/a?click_id={id}"), &headers).status, 302);
    }
    trellis.wait_stored(6);
    let stored = by_id(&trellis);
    let missing = ["accept_missing", "accept_language_missing", "accept_encoding_missing"];
    for (id, expected, rule) in [
        ("ours", json!(["scanner", ["agent_scanner"], 70]), "bots"),
        ("head", json!(["human", ["method_head"], 40]), ""),
        ("theirs", json!(["human", ["agent_scanner"], 70]), ""),
        ("one", json!(["human", ["accept_missing"], 40]), ""),
        ("both", json!(["bot", ["accept_missing", "accept_encoding_missing"], 70]), "bots"),
        ("three", json!(["bot", missing, 85]), "bots"),
    ] {
        assert_eq!((told(&stored[id]), &stored[id]["rule"]), (expected, &json!(rule)), "{id}");
    }
}

#[test]
fn bad_rules_are_told_all_at_once_beside_the_configuration() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).expect("written");
    write("my.toml", "edge.threads = 2000\nclassify.rules = \"rules.toml\"\n");
    write(
        "rules.toml",
        "bot_from = 20\n\n[reasons]\nagent_old.weight = 5\nhttp_1_0.weight = 300\n[agents.monitor]\nshadow = [\"Discordbot/\"]\n",
    );
    let check = std::process::Command::new(crate::harness::BINARY)
        .args(["check", "--config", "my.toml"])
        .current_dir(folder.path())
        .env_clear()
        .output()
        .expect("the program starts");
    let errors = String::from_utf8_lossy(&check.stderr).into_owned();
    assert_eq!(check.status.code(), Some(64), "{errors}");
    for line in [
        "my.toml:1: edge.threads = 2000: must be 0 to 1024",
        "rules.toml:1: bot_from = 20: bot_from (20) is never reached: what is enforced and adds up weighs 0 together",
        "rules.toml:4: reasons.agent_old: is not a section; did you mean reasons.agent_odd?",
        "rules.toml:5: reasons.http_1_0.weight = 300: must be 0 to 100",
        "rules.toml:7: agents.monitor.shadow = [\"Discordbot/\"]: \"Discordbot/\" stands in agents.monitor.shadow and in agents.preview.enforce; keep one",
    ] {
        assert!(errors.lines().any(|told| told.ends_with(line)), "no line\n{line}\nin\n{errors}");
    }
}

#[test]
fn a_restart_keeps_scores_and_counts_no_click_again() {
    let mut trellis = Trellis::start();
    trellis.link("a", "https://a.example/");
    visit(&trellis, "GET", "bot", &[("User-Agent", GOOGLEBOT)]);
    trellis.wait_stored(1);
    assert_eq!(trellis.stop().code(), Some(0));
    let trellis = Trellis::start_in(trellis.folder(), &[]);
    eventually("it answers", || trellis.count("")["total"] == 1);
    assert_eq!(told(&by_id(&trellis)["bot"]), json!(["bot", ["agent_crawler"], 60]));
    assert_eq!(trellis.metric("trellis_fraud_score_count"), 0.0);
}
