//! Explain through the API.

use super::*;
use crate::catalog::agents::Agents;
use crate::catalog::geo::Geo;

const PHONE: &str = "Mozilla/5.0 (iPhone; CPU iPhone OS 18_1 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) \
    Version/18.1 Mobile/15E148 Safari/604.1";

pub(super) fn explainer() -> Result<Explainer, String> {
    let (agents, geo) = (Arc::new(Agents::new()?), Arc::new(Geo::new()?));
    let addresses = crate::click::kept::Keeping::Truncate;
    Ok(Explainer { agents, geo, addresses, secret: (*b"secret").into(), clock: Arc::new(Noon) })
}

fn to(names: &[(&str, u64)]) -> Value {
    let to =
        |(name, weight): &(&str, u64)| json!({"name": name, "url": format!("https://{name}.x/"), "weight": weight});
    names.iter().map(to).collect()
}

impl Bench {
    async fn explain(&self, question: Value) -> Value {
        let answer = self.api("POST", "/explain", &question.to_string()).await;
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.text);
        answer.json()
    }

    /// Of a campaign that is not saved.
    async fn explain_document(&self, document: Value, visit: Value) -> Value {
        self.explain(json!({"document": document, "visit": visit})).await
    }

    async fn save(&self, id: &str, document: Value) {
        assert_eq!(
            self.api("PUT", &format!("/campaigns/{id}"), &document.to_string()).await.status,
            StatusCode::CREATED
        );
    }

    async fn link_of(&self, slug: &str, campaign: &str) {
        let link = json!({"slug": slug, "url": "https://own.x/", "campaign": campaign, "tags": ["vip"]});
        assert_eq!(self.api("POST", "/links", &link.to_string()).await.status, StatusCode::CREATED);
    }
}

fn verdicts(answer: &Value) -> Vec<(String, String)> {
    let text = |rule: &Value, field: &str| rule[field].as_str().unwrap().to_owned();
    answer["rules"].as_array().unwrap().iter().map(|rule| (text(rule, "name"), text(rule, "verdict"))).collect()
}

#[tokio::test]
async fn each_rule_has_its_verdict_and_each_comparison_what_was_found() {
    let bench = Bench::new().await;
    bench.link_of("a", "c").await;
    let rule = |name: &str, when: &str, to: Value| json!({"name": name, "when": when, "to": to});
    bench.save("c", json!({"zone": "Europe/Berlin", "rules": [
        rule("austria", "country == 'AT' && device == 'mobile'", to(&[("at", 1)])),
        rule("utm", "query.utm == 'x'", to(&[("utm", 1)])),
        rule("vip", "'vip' in tags && hour == 23", json!([{"name": "v", "url": "https://v.x/{slug}?id={click_id}"}])),
        rule("phones", "device == 'mobile'", to(&[("p", 1)])),
        rule("bots", "is_bot", to(&[("b", 1)])),
    ]})).await;
    let answer = bench.explain(json!({"link": "a", "visit": {"user_agent": PHONE}})).await;
    let expected = [
        ("austria", "does not hold"),
        ("utm", "undecided"),
        ("vip", "taken"),
        ("phones", "would take"),
        ("bots", "does not hold"),
    ];
    assert_eq!(verdicts(&answer), expected.map(|(name, verdict)| (name.to_owned(), verdict.to_owned())));
    let id = "018bcfe5-6800-7000-8000-000000000000";
    assert_eq!(
        answer["decision"],
        json!({
            "by": "rule", "rule": "vip", "variant": "v", "destination": format!("https://v.x/a?id={id}"), "status": 302,
            "strategy": "weighted", "route_version": 1, "certain": true, "note": null, "click_id": id,
        })
    );
    assert_eq!(answer["rules"][0]["when"], "country == 'AT' && device == 'mobile'");
    assert_eq!(
        answer["rules"][0]["why"],
        json!([
            {"part": "country == \"AT\"", "found": {"country": ""}, "truth": "false", "decides": true},
            {"part": "device == \"mobile\"", "found": {"device": "mobile"}, "truth": "true", "decides": false},
        ])
    );
    assert_eq!(
        answer["rules"][1]["why"],
        json!([
            {"part": "query[\"utm\"] == \"x\"", "found": {"query[\"utm\"]": null}, "truth": "missing", "decides": true},
        ])
    );
    assert_eq!(
        answer["campaign"],
        json!({"id": "c", "version": 1, "applies": true, "when": null, "why": [], "dedup": null})
    );
    assert_eq!((&answer["default"], &answer["at"]), (&Value::Null, &json!("2023-11-14T22:13:20.000Z")));
}

#[tokio::test]
async fn all_that_can_decide_is_told_apart() {
    let bench = Bench::new().await;
    bench.link_of("a", "c").await;
    let rules = json!([{"name": "r", "when": "country == 'AT'", "to": to(&[("r", 1)])}]);
    let told = |answer: &Value| {
        let decision = &answer["decision"];
        let text = |of: &Value| of.as_str().unwrap_or_default().to_owned();
        ["by", "variant", "destination", "note"].map(|field| text(&decision[field]))
    };
    // The link names a campaign that is not there.
    let unknown = bench.explain(json!({"link": "a"})).await;
    assert_eq!(told(&unknown)[..3], ["link", "", "https://own.x/"]);
    assert!(told(&unknown)[3].contains("`c`, and there is none"), "{unknown}");
    assert_eq!(unknown["campaign"]["applies"], false);
    bench.save("c", json!({"when": "language != 'fr'", "rules": rules, "default": to(&[("d", 1)])})).await;
    let ask = |visit: Value| json!({"link": "a", "visit": visit});
    let ruled = bench.explain(ask(json!({"country": "AT"}))).await;
    assert_eq!(told(&ruled)[..3], ["rule", "r", "https://r.x/"]);
    assert_eq!(ruled["default"], json!({"verdict": "not reached"}));
    let default = bench.explain(ask(json!({}))).await;
    assert_eq!(
        (told(&default)[..3].join(" "), &default["default"]["verdict"]),
        ("default d https://d.x/".into(), &json!("taken"))
    );
    assert_eq!(
        (&default["default"]["to"][0]["share"], &default["decision"]["strategy"]),
        (&json!(1.0), &json!("weighted"))
    );
    let other = bench.explain(ask(json!({"language": "fr", "country": "AT"}))).await;
    assert_eq!(told(&other)[..3], ["link", "", "https://own.x/"]);
    assert_eq!(
        (other["rules"][0]["verdict"].as_str(), &other["campaign"]["applies"]),
        (Some("not reached"), &json!(false))
    );
    assert_eq!(other["campaign"]["why"][0]["found"], json!({"language": "fr"}));
    let by = async |document: Value| told(&bench.explain_document(document, json!({})).await);
    let fallback = by(json!({"rules": rules, "fallback_url": "https://f.x/{slug}"})).await;
    assert_eq!(fallback[..3], ["fallback", "fallback", "https://f.x/"]);
    let neither = by(json!({"rules": rules})).await;
    assert_eq!(neither[..3], ["link", "", ""]);
    assert!(neither[3].starts_with("no rule takes it"), "{neither:?}");
    // A paused link goes nowhere, whatever its campaign says.
    assert_eq!(bench.api("PATCH", "/links/a", r#"{"paused":true}"#).await.status, StatusCode::OK);
    let paused = bench.explain(ask(json!({"country": "AT"}))).await;
    assert_eq!((told(&paused)[..3].join(" "), verdicts(&paused)[0].1.as_str()), ("none  ".into(), "not reached"));
}

#[tokio::test]
async fn before_its_start_and_after_its_end_a_links_campaign_is_not_asked() {
    let bench = Bench::new().await;
    bench.save("c", json!({"rules": [{"name": "r", "to": to(&[("a", 1)])}]})).await;
    let life = json!({"slug": "a", "url": "https://own.x/", "campaign": "c", "starts_at": "2026-01-01T00:00:00Z",
        "expires_at": "2026-02-01T00:00:00Z", "expired_url": "https://over.x/{slug}/{variant}/{device}"});
    assert_eq!(bench.api("POST", "/links", &life.to_string()).await.status, StatusCode::CREATED);
    let at = async |at: &str| {
        let answer = bench.explain(json!({"link": "a", "visit": {"at": at, "user_agent": PHONE}})).await;
        let told = ["by", "rule", "variant", "destination"].map(|field| answer["decision"][field].clone());
        (told, verdicts(&answer)[0].1.clone())
    };
    let no = Value::Null;
    let over = json!("https://over.x/a/expired/mobile");
    for (time, told, verdict) in [
        ("2025-12-31T23:59:59Z", [json!("none"), json!(""), json!(""), no.clone()], "not reached"),
        ("2026-01-01T00:00:00Z", [json!("rule"), json!("r"), json!("a"), json!("https://a.x/")], "taken"),
        ("2026-02-01T00:00:00Z", [json!("expired"), json!(""), json!("expired"), over], "not reached"),
    ] {
        assert_eq!(at(time).await, (told, verdict.to_owned()), "{time}");
    }
    let change = r#"{"expired_url": null}"#;
    assert_eq!(bench.api("PATCH", "/links/a", change).await.status, StatusCode::OK);
    assert_eq!(at("2026-02-01T00:00:00Z").await.0[0], "none");
}

#[tokio::test]
async fn shares_bids_and_turns_are_shown_with_the_one_that_was_chosen() {
    let bench = Bench::new().await;
    let rule = |strategy: &str, to: Value| json!({"rules": [{"name": "r", "strategy": strategy, "to": to}]});
    let shares = |answer: &Value| -> Vec<f64> {
        answer["rules"][0]["to"].as_array().unwrap().iter().map(|to| to["share"].as_f64().unwrap()).collect()
    };
    let asked = async |document: Value| bench.explain_document(document, json!({"ip": "192.0.2.1"})).await;
    let weighted = asked(rule("weighted", to(&[("a", 3), ("b", 1), ("off", 0)]))).await;
    assert_eq!((shares(&weighted), &weighted["decision"]["certain"]), (vec![0.75, 0.25, 0.0], &json!(false)));
    let chosen: Vec<_> =
        weighted["rules"][0]["to"].as_array().unwrap().iter().filter(|to| to["chosen"] == true).collect();
    assert_eq!((chosen.len(), &chosen[0]["name"]), (1, &weighted["decision"]["variant"]));
    let id = "018bcfe5-6800-7000-8000-00000000000";
    let mut variants = std::collections::BTreeSet::new();
    for digit in 0..9 {
        let visit = json!({"click_id": format!("{id}{digit}")});
        let answer = bench.explain_document(rule("weighted", to(&[("a", 1), ("b", 1)])), visit).await;
        assert_eq!(answer["decision"]["certain"], true, "this click goes there and nowhere else");
        variants.insert(answer["decision"]["variant"].as_str().unwrap().to_owned());
    }
    assert_eq!(variants.len(), 2, "{variants:?}");
    let mut sticky = rule("weighted", to(&[("a", 1), ("b", 1)]));
    sticky["sticky"] = json!("visitor");
    let sticky = asked(sticky).await;
    assert!(sticky["decision"]["certain"] == true && sticky["decision"]["note"].as_str().unwrap().contains("all day"));
    let mut cookie = rule("weighted", to(&[("a", 1), ("b", 1)]));
    cookie["sticky"] = json!("cookie");
    let mut variants = std::collections::BTreeSet::new();
    for digit in 0..9 {
        let visit = json!({"cookies": {"trellis-v": format!("{digit:032}")}, "click_id": format!("{id}{digit}")});
        let answer = bench.explain_document(cookie.clone(), visit.clone()).await;
        let other = json!({"cookies": visit["cookies"], "ip": "192.0.2.9"});
        assert_eq!(
            answer["decision"]["variant"],
            bench.explain_document(cookie.clone(), other).await["decision"]["variant"]
        );
        assert_eq!(answer["decision"]["certain"], true, "this browser goes there, whichever click it is");
        variants.insert(answer["decision"]["variant"].as_str().unwrap().to_owned());
    }
    assert_eq!(variants.len(), 2, "{variants:?}");
    let new =
        bench.explain_document(cookie, json!({"cookies": {"trellis-v": "1"}, "click_id": format!("{id}1")})).await;
    assert!(new["decision"]["certain"] == false && new["decision"]["note"].as_str().unwrap().contains("gets one"));
    let turns = asked(rule("round_robin", to(&[("a", 2), ("b", 1)]))).await;
    assert_eq!((&turns["decision"]["variant"], &turns["decision"]["certain"]), (&json!("a"), &json!(false)));
    let row: Vec<_> =
        turns["rules"][0]["turns"].as_array().unwrap().iter().map(|turn| turn.as_str().unwrap()).collect();
    assert_eq!((row.len(), row[..6].concat()), (20, "abaaba".to_owned()));
    let priority = asked(rule("priority", to(&[("off", 0), ("a", 1), ("b", 9)]))).await;
    assert_eq!((shares(&priority), &priority["decision"]["certain"]), (vec![0.0, 1.0, 0.0], &json!(true)));
    let bid = |bid: f64| json!({"url": "https://a.x/", "bid": bid});
    let bids = asked(rule("highest_bid", json!([bid(1.0), bid(2.5), bid(2.5)]))).await;
    assert_eq!((shares(&bids), &bids["rules"][0]["to"][1]["bid"]), (vec![0.0, 0.5, 0.5], &json!(2.5)));
    assert_eq!(bids["rules"][0]["to"][2]["name"], "3");
}

#[tokio::test]
async fn a_visit_is_read_as_the_edge_would_and_what_is_given_wins() {
    let bench = Bench::new().await;
    let document = json!({"zone": "Europe/Berlin", "default": to(&[("d", 1)])});
    let visit = json!({
        "ip": "8.8.8.8", "user_agent": PHONE, "language": "de-AT, en", "referrer": "https://News.x:8443/a", "method": "HEAD",
        "query": {"source": "s", "click_id": "a b", "é": "&"}, "headers": {"X-App": " 7 "}, "cookies": {"seen": "1"},
        "at": "2026-11-20T23:00:00Z", "slug": "spring", "tags": ["vip"], "domain": "Go.Example",
    });
    let answer = bench.explain_document(document.clone(), visit).await;
    assert_eq!(
        answer["facts"],
        json!({
            "country": "US", "continent": "NA", "region": "", "city": "", "asn": 0, "device": "mobile", "os": "iOS", "browser": "Safari", "language": "de",
            "referrer": "https://News.x:8443/a", "referrer_domain": "news.x", "source": "s", "external_click_id": "a b",
            "date": "2026-11-21", "hour": 0, "weekday": 6, "class": "head", "reasons": ["method_head"], "is_bot": false,
            "reasons_found_later": ["data_centre", "velocity_address", "velocity_link", "preview_pattern"],
            "slug": "spring", "domain": "go.example", "tags": ["vip"], "ip": "8.8.8.8", "cookie": {"seen": "1"},
            "query": {"source": "s", "click_id": "a b", "é": "&"},
            "header": {"host": "Go.Example", "x-app": "7", "user-agent": PHONE, "accept-language": "de-AT, en", "referer": "https://News.x:8443/a",
                "cookie": "seen=1"},
        })
    );
    let given = json!({"ip": "8.8.8.8", "user_agent": PHONE, "country": "DE", "device": "tablet", "os": "Android",
        "browser": "Firefox", "prefetch": true, "query": "a=1&a=2&b=%FF"});
    let facts = bench.explain_document(document.clone(), given).await["facts"].clone();
    let told = ["country", "continent", "device", "os", "browser", "class"].map(|name| facts[name].as_str().unwrap());
    assert_eq!(told, ["DE", "EU", "tablet", "Android", "Firefox", "prefetch"]);
    assert_eq!((&facts["query"], &facts["header"]["sec-purpose"]), (&json!({"a": "1", "b": null}), &json!("prefetch")));
    for (visit, is_bot) in [
        (json!({}), true),
        (json!({"user_agent": "Googlebot/2.1"}), true),
        (json!({"user_agent": PHONE}), false),
        (json!({"device": "mobile"}), false),
        (json!({"os": "iOS"}), false),
        (json!({"user_agent": PHONE, "device": "bot"}), true),
        (json!({"country": "DE"}), true),
    ] {
        let facts = bench.explain_document(document.clone(), visit.clone()).await["facts"].clone();
        assert_eq!(
            (&facts["is_bot"], &facts["class"]),
            (&json!(is_bot), &json!(if is_bot { "bot" } else { "human" })),
            "{visit}"
        );
    }
}

#[tokio::test]
async fn everything_that_is_wrong_with_a_question_is_told_at_once() {
    let bench = Bench::new().await;
    let wrong = async |question: Value| {
        bench.api("POST", "/explain", &question.to_string()).await.assert_problem(422, "invalid_fields")
    };
    let question = json!({
        "campaign": 1, "document": {"rules": [{"name": "r", "when": "contry == 'DE'", "to": []}], "version": "x"}, "more": 1,
        "visit": {
            "ip": "ten", "method": "POST", "at": "now", "click_id": "x", "country": "germany", "device": "phone", "os": 1,
            "query": "a b", "headers": {"a b": "1", "x": "a\nb", "y": 1}, "user_agent": "a\nb", "cookies": {"a": "b;c"},
            "tags": [1], "prefetch": "yes", "browser": "x", "nothing": null,
        },
    });
    let told = wrong(question).await;
    assert_eq!(
        told,
        [
            "/campaign",
            "/document",
            "/visit/method",
            "/visit/ip",
            "/visit/click_id",
            "/visit/at",
            "/visit/country",
            "/visit/tags",
            "/visit/query",
            "/visit/headers/y",
            "/visit/headers/a b",
            "/visit/headers/x",
            "/visit/user_agent",
            "/visit/prefetch",
            "/visit/cookies/a",
            "/visit/device",
            "/visit/os",
            "/visit/browser",
            "/visit/nothing",
            "/document/version",
            "/document/rules/0/when",
            "/document/rules/0/to",
            "/more",
        ]
    );
    assert_eq!(wrong(json!({})).await, [""]);
    assert_eq!(wrong(json!({"campaign": "c", "visit": 1})).await, ["/visit"]);
    assert_eq!(wrong(json!({"link": "a", "visit": {"slug": "b", "tags": []}})).await, ["/visit/slug", "/visit/tags"]);
    let twice = json!({"campaign": "c", "visit": {"headers": {"User-Agent": "a", "user-agent": "b", "cookie": "c"},
        "user_agent": "a", "cookies": {}, "query": "?a"}});
    assert_eq!(
        wrong(twice).await,
        ["/visit/query", "/visit/headers/user-agent", "/visit/user_agent", "/visit/cookies"]
    );
    for (question, code) in [(json!({"link": "a"}), "unknown_link"), (json!({"campaign": "c"}), "unknown_campaign")] {
        bench.api("POST", "/explain", &question.to_string()).await.assert_problem(404, code);
    }
    bench.api("GET", "/explain", "").await.assert_problem(405, "method_not_allowed");
}

#[tokio::test]
async fn a_campaigns_own_rule_for_duplicates_is_told_and_when_nobody_could_tell_one() {
    let bench = Bench::new().await;
    let told = async |dedup: Value, visit: Value| {
        let document = json!({"when": "language != 'fr'", "default": to(&[("d", 1)]), "dedup": dedup});
        let answer = bench.explain_document(document, visit).await;
        (answer["campaign"]["dedup"].clone(), answer["warnings"].as_array().unwrap().len())
    };
    let by_id = json!({"by": ["external_click_id"]});
    let shown = json!({"by": ["external_click_id"], "window": null});
    assert_eq!(told(by_id.clone(), json!({"query": "click_id=1"})).await, (shown.clone(), 0));
    assert_eq!(told(by_id.clone(), json!({})).await, (shown.clone(), 1), "it would be unknown");
    assert_eq!(told(by_id, json!({"language": "fr"})).await, (shown, 0), "the campaign is not for it");
    let by_visitor = json!({"by": ["ua", "ip"], "window": "90m"});
    assert_eq!(told(by_visitor, json!({})).await, (json!({"by": ["ip", "ua"], "window": "90m"}), 0));
    assert_eq!(told(json!({"window": "24h"}), json!({})).await, (json!({"by": null, "window": "1d"}), 0));
}

#[tokio::test]
async fn an_unsaved_campaign_is_explained_and_not_kept() {
    let bench = Bench::new().await;
    let document = json!({"id": "c", "version": 3, "created_at": "x", "default": to(&[("d", 1)])});
    let answer = bench.explain_document(document, json!({})).await;
    assert_eq!((&answer["campaign"]["id"], &answer["campaign"]["version"]), (&json!("c"), &Value::Null));
    assert_eq!((&answer["decision"]["by"], &answer["decision"]["route_version"]), (&json!("default"), &Value::Null));
    let nameless = bench.explain_document(json!({"fallback_url": "https://f.x/"}), json!({})).await;
    assert_eq!(nameless["campaign"]["id"], Value::Null);
    assert_eq!(bench.api("GET", "/campaigns", "").await.json()["campaigns"], json!([]));
    let looping = json!({"document": {"fallback_url": "https://go.example/x"}});
    let refused = bench.api("POST", "/explain", &looping.to_string()).await;
    assert_eq!(refused.assert_problem(422, "invalid_fields"), ["/document/fallback_url"]);
}

#[tokio::test]
async fn regions_cities_and_networks_are_as_given_and_a_missing_file_is_told() {
    let bench = Bench::new().await;
    let document = json!({"rules": [{"name": "berlin", "when": "region == 'BE' && city == 'Berlin' && asn == 3320",
        "to": [{"url": "https://a.x/{region}/{city}/{asn}"}]}], "fallback_url": "https://f.x/"});
    let given = json!({"region": "BE", "city": "Berlin", "asn": 3320});
    let answer = bench.explain_document(document.clone(), given).await;
    assert_eq!(answer["decision"]["destination"], "https://a.x/BE/Berlin/3320");
    let warnings = answer["warnings"].as_array().unwrap();
    assert!(warnings.len() == 2 && warnings[0].as_str().unwrap().contains("geo.city"), "{warnings:?}");
    let unknown = bench.explain_document(document, json!({"ip": "8.8.8.8"})).await;
    assert_eq!(unknown["rules"][0]["why"][2]["found"], json!({"asn": 0}));
    let none = bench
        .explain_document(
            json!({"rules": [{"name": "r", "when": "country == 'DE'", "to": to(&[("a", 1)])}]}),
            json!({}),
        )
        .await;
    assert_eq!(none["warnings"], json!([]));
    let macros = bench.explain_document(json!({"fallback_url": "https://f.x/?a={asn}"}), json!({})).await;
    assert_eq!(macros["warnings"].as_array().unwrap().len(), 1, "a destination asks too");
    let wrong = bench
        .api(
            "POST",
            "/explain",
            &json!({"document": {"fallback_url": "https://f.x/"},
        "visit": {"asn": -1, "city": "x".repeat(201), "region": 7}})
            .to_string(),
        )
        .await;
    let pointers: Vec<_> =
        wrong.json()["errors"].as_array().unwrap().iter().map(|e| e["pointer"].as_str().unwrap().to_owned()).collect();
    assert_eq!(pointers, ["/visit/region", "/visit/city", "/visit/asn"]);
}
