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

/// A node behind a proxy, on rules and networks of the operator's.
fn start_behind_proxy(rules: &str, networks: &str) -> (Trellis, tempfile::TempDir) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).expect("written");
        path.to_str().expect("UTF-8").to_owned()
    };
    let (rules, networks) = (path("rules.toml", rules), path("networks.txt", networks));
    let trellis = Trellis::start_with(&[
        ("edge.trusted_proxies", "127.0.0.0/8"),
        ("classify.rules", &rules),
        ("classify.networks", &networks),
    ]);
    trellis.link("a", "https://a.example/");
    (trellis, folder)
}

/// A visit from this address, and waits until it is stored: which of two at the same moment is taken up first is up to the
/// threads.
fn from(trellis: &Trellis, method: &str, address: &str, id: &str, agent: &str) {
    let before = trellis.count("")["total"].as_u64().expect("a number");
    visit(trellis, method, id, &[("User-Agent", agent), ("X-Forwarded-For", address)]);
    eventually("the click is stored", || trellis.count("")["total"] == before + 1);
}

#[test]
fn an_address_over_the_threshold_has_the_reason_and_its_class_only_where_that_is_enforced() {
    let slow = "velocity.address_per_minute = 3\n";
    let enforced = "bot_from = 30\nreasons.velocity_address = { weight = 30, tier = \"enforce\" }\n";
    for (rules, class) in [(slow.to_owned(), "human"), (format!("{enforced}{slow}"), "bot")] {
        let (trellis, _folder) = start_behind_proxy(&rules, "");
        from(&trellis, "GET", "198.51.100.7", "first", CHROME);
        from(&trellis, "GET", "198.51.100.7", "second", GOOGLEBOT);
        from(&trellis, "GET", "203.0.113.1", "other", CHROME);
        from(&trellis, "GET", "198.51.100.200", "third", CHROME);
        from(&trellis, "GET", "198.51.100.7", "fourth", GOOGLEBOT);
        // Of the same visitor again: a duplicate counts, and keeps its label.
        from(&trellis, "GET", "198.51.100.7", "first", CHROME);
        let mut stored = trellis.clicks();
        stored.sort_by_key(|click| click["click_id"].as_str().map(str::to_owned));
        let all: Vec<_> = stored.iter().map(|click| json!([click["external_click_id"], told(click)])).collect();
        let fast = json!([class, ["velocity_address"], 30]);
        assert_eq!(
            all,
            [
                json!(["first", ["human", [], 0]]),
                json!(["second", ["bot", ["agent_crawler"], 60]]),
                json!(["other", ["human", [], 0]]),
                json!(["third", fast]),
                json!(["fourth", ["bot", ["agent_crawler", "velocity_address"], 90]]),
                json!(["first", fast]),
            ]
        );
        assert_eq!((&stored[0]["dedup"], &stored[5]["dedup"]), (&json!("unique"), &json!("duplicate")));
        assert_eq!(trellis.metric("trellis_class_reasons_total{reason=\"velocity_address\"}"), 3.0);
        assert_eq!(trellis.metric("trellis_class_reasons_total{reason=\"data_centre\"}"), 0.0);
    }
}

#[test]
fn heads_and_a_get_of_one_network_are_a_preview_where_that_is_enforced_and_no_redirect_changes() {
    let (trellis, _folder) =
        start_behind_proxy("preview_pattern.within = \"10m\"\nreasons.preview_pattern.tier = \"enforce\"\n", "");
    for head in ["one", "two", "three"] {
        from(&trellis, "HEAD", "198.51.100.7", head, CHROME);
    }
    from(&trellis, "GET", "203.0.113.1", "elsewhere", CHROME);
    from(&trellis, "GET", "198.51.100.9", "get", CHROME);
    from(&trellis, "HEAD", "198.51.100.9", "four", CHROME);
    let stored = by_id(&trellis);
    for (id, expected) in [
        ("one", json!(["head", ["method_head"], 40])),
        ("three", json!(["head", ["method_head"], 40])),
        ("elsewhere", json!(["human", [], 0])),
        ("get", json!(["preview", ["preview_pattern"], 40])),
        ("four", json!(["head", ["method_head", "preview_pattern"], 80])),
    ] {
        assert_eq!(told(&stored[id]), expected, "{id}");
    }
}

#[test]
fn clicks_of_data_centres_and_fast_links_are_told_and_the_memory_ends_with_the_process() {
    let (mut trellis, folder) =
        start_behind_proxy("velocity.link_per_minute = 2\n", "# ours\n198.51.100.0/24\n2001:db8::/32 # a rack\n");
    from(&trellis, "GET", "198.51.100.7", "v4", CHROME);
    from(&trellis, "GET", "2001:db8::7", "v6", CHROME);
    assert_eq!(trellis.stop().code(), Some(0));
    let path = |name: &str| folder.path().join(name).to_str().expect("UTF-8").to_owned();
    let trellis = Trellis::start_in(
        trellis.folder(),
        &[
            ("edge.trusted_proxies", "127.0.0.0/8"),
            ("classify.rules", &path("rules.toml")),
            ("classify.networks", &path("networks.txt")),
        ],
    );
    from(&trellis, "GET", "203.0.113.1", "again", CHROME);
    let stored = by_id(&trellis);
    assert_eq!(told(&stored["v4"]), json!(["human", ["data_centre"], 25]));
    assert_eq!(told(&stored["v6"]), json!(["human", ["data_centre", "velocity_link"], 30]));
    assert_eq!(told(&stored["again"]), json!(["human", [], 0]));
}

#[test]
fn a_click_that_keeps_no_address_has_no_velocity_of_it() {
    let (trellis, _folder) = start_behind_proxy("velocity.address_per_minute = 1\n", "198.51.100.0/24\n");
    visit(&trellis, "GET", "gpc", &[("User-Agent", CHROME), ("X-Forwarded-For", "198.51.100.7"), ("Sec-GPC", "1")]);
    trellis.wait_stored(1);
    assert!(trellis.clicks().iter().all(|click| told(click) == json!(["human", [], 0])), "{:?}", trellis.clicks());
}

#[test]
fn bad_networks_are_told_line_by_line_beside_the_configuration() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).expect("written");
    write("my.toml", "edge.threads = 2000\nclassify.networks = \"networks.txt\"\n");
    write("networks.txt", "10.0.0.0/8\n10.0.0.0/33\n\n# fine\nAS64496\n");
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
        "networks.txt:2: `10.0.0.0/33`: the prefix length must be 0 to 32",
        "networks.txt:5: `AS64496` is not a network such as 10.0.0.0/8",
    ] {
        assert!(errors.lines().any(|told| told.ends_with(line)), "no line\n{line}\nin\n{errors}");
    }
}
