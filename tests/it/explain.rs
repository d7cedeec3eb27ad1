//! What explain says of a visit is what the edge does with it.

use serde_json::{Value, json};

use crate::harness::{Response, Trellis};

const PHONE: &str = "Mozilla/5.0 (iPhone; CPU iPhone OS 18_1 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) \
    Version/18.1 Mobile/15E148 Safari/604.1";
const DESKTOP: &str = "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/131.0.0.0 \
    Safari/537.36";

fn save(trellis: &Trellis, id: &str, document: &Value) {
    let answer = trellis.api("PUT", &format!("/api/v1/campaigns/{id}"), Some(&document.to_string()));
    assert_eq!(answer.status, 201, "{answer:?}");
}

fn link(trellis: &Trellis, link: &Value) {
    assert_eq!(trellis.api("POST", "/api/v1/links", Some(&link.to_string())).status, 201);
}

fn explain(trellis: &Trellis, question: &Value) -> Value {
    let answer = trellis.api("POST", "/api/v1/explain", Some(&question.to_string()));
    assert_eq!(answer.status, 200, "{}", String::from_utf8_lossy(&answer.body));
    answer.json()
}

/// The supposed visit, made.
fn visit(trellis: &Trellis, slug: &str, supposed: &Value) -> Response {
    let text = |field: &str| supposed[field].as_str();
    let mut headers: Vec<(&str, &str)> = [
        ("X-Forwarded-For", "ip"),
        ("User-Agent", "user_agent"),
        ("Accept-Language", "language"),
        ("Referer", "referrer"),
    ]
    .into_iter()
    .filter_map(|(header, field)| Some((header, text(field)?)))
    .collect();
    let given = supposed["headers"].as_object().into_iter().flatten();
    headers.extend(given.map(|(name, value)| (name.as_str(), value.as_str().expect("a text"))));
    let cookies = supposed["cookies"].as_object().into_iter().flatten();
    let cookies: Vec<_> = cookies.map(|(name, value)| format!("{name}={}", value.as_str().expect("a text"))).collect();
    let cookies = cookies.join("; ");
    if !cookies.is_empty() {
        headers.push(("Cookie", &cookies));
    }
    if supposed["prefetch"] == true {
        headers.push(("Sec-Purpose", "prefetch;prerender"));
    }
    let path = text("query").map_or_else(|| format!("/{slug}"), |query| format!("/{slug}?{query}"));
    trellis.edge_request(text("method").unwrap_or("GET"), &path, &headers)
}

#[test]
fn a_visit_goes_where_it_was_explained_to_go_and_the_click_says_the_same() {
    let trellis = Trellis::start_with(&[("edge.trusted_proxies", "127.0.0.0/8")]);
    let rule = |name: &str, when: &str| {
        let url = |host: &str| {
            format!("https://{host}.example/{{slug}}/{{ts}}?id={{click_id}}&x={{q:x}}#{{external_click_id}}")
        };
        let to = |number| json!({"name": format!("{name}{number}"), "url": url(&format!("{name}{number}")), "weight": number});
        json!({"name": name, "when": when, "to": [to(1), to(2), to(3)]})
    };
    let rules = json!([
        rule("bots", "class == 'bot' && is_bot"),
        rule("ahead", "class in ['head', 'prefetch']"),
        rule("american", "country == 'US' && continent == 'NA'"),
        rule("network", "ip.in_cidr('2001:db8::/32') && os == 'iOS' && browser == 'Safari'"),
        rule("query", "query.utm == 'x y' && source == 's' && external_click_id != ''"),
        rule("header", "header['x-app'] == '7' || cookie.seen == '1'"),
        rule("german", "language == 'de' && referrer_domain == 'news.example'"),
        rule("phones", "device == 'mobile' && 'vip' in tags && slug == 'each'"),
        rule("never", "date < '2026-01-01' || hour > 23 || weekday == 0 || referrer == 'x'"),
    ]);
    let default = json!([{"url": "https://one.example/"}, {"url": "https://two.example/"}]);
    save(&trellis, "each", &json!({"rules": rules, "default": default, "zone": "Asia/Tokyo"}));
    save(&trellis, "sticky", &json!({"rules": rules, "fallback_url": "https://f.example/?{q:x}", "sticky": "visitor"}));
    for (slug, query) in [("each", "ignore"), ("sticky", "forward")] {
        link(
            &trellis,
            &json!({"slug": slug, "url": "https://own.example/", "campaign": slug, "tags": ["vip"], "query": query}),
        );
    }
    link(
        &trellis,
        &json!({"slug": "plain", "url": "https://own.example/{slug}?{q:x}", "campaign": "none", "status": 307}),
    );
    let desktop = |more: Value| {
        let mut supposed = json!({"user_agent": DESKTOP});
        supposed.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        supposed
    };
    let visits = [
        json!({}),
        json!({"user_agent": "Googlebot/2.1", "ip": "8.8.8.8"}),
        json!({"user_agent": PHONE}),
        desktop(json!({"method": "HEAD"})),
        desktop(json!({"prefetch": true})),
        desktop(json!({"ip": "8.8.8.8", "query": "x=%C3%A9%26&click_id=e"})),
        json!({"user_agent": PHONE, "ip": "2001:db8::7"}),
        desktop(json!({"query": "utm=x+y&source=s&click_id=a%2Fb"})),
        desktop(json!({"headers": {"x-app": "7"}})),
        desktop(json!({"cookies": {"a": "b", "seen": "1"}, "query": "x=1&x=2"})),
        desktop(json!({"language": "de-AT, en", "referrer": "https://News.Example:8443/x"})),
        desktop(json!({"query": "utm=%FF&x"})),
        desktop(json!({"ip": "203.0.113.9"})),
    ];
    let mut made = Vec::new();
    for slug in ["each", "sticky", "plain"] {
        for supposed in &visits {
            let answer = visit(&trellis, slug, supposed);
            let id = answer.header("x-click-id").expect("an id").to_owned();
            let mut asked = supposed.clone();
            asked["click_id"] = id.clone().into();
            // Who asks without an address asks for another one than the test's.
            if asked["ip"].is_null() {
                asked["ip"] = "127.0.0.1".into();
            }
            let explained = explain(&trellis, &json!({"link": slug, "visit": asked}));
            let decision = explained["decision"].clone();
            assert_eq!(
                decision["destination"],
                *answer.header("location").expect("a place"),
                "{slug} {supposed} {decision}"
            );
            assert_eq!(
                (&decision["status"], &decision["certain"]),
                (&json!(answer.status), &json!(true)),
                "{decision}"
            );
            made.push((id, decision));
        }
    }
    let rules_seen: std::collections::BTreeSet<_> =
        made.iter().map(|(_, decision)| decision["rule"].to_string()).collect();
    assert_eq!(rules_seen.len(), 9, "each rule but the last, and none: {rules_seen:?}");
    trellis.wait_stored(made.len() as u64);
    let clicks = trellis.clicks();
    assert_eq!(clicks.len(), made.len(), "explaining makes no click");
    for (id, decision) in &made {
        let click = clicks.iter().find(|click| click["click_id"] == **id).expect("the click");
        for field in ["rule", "variant", "destination", "route_version", "status"] {
            assert_eq!(click[field], decision[field], "{field}: {click} {decision}");
        }
    }
    // Two of the three links have a campaign.
    let counted: f64 = ["weighted", "round_robin", "priority", "highest_bid", "default", "fallback", "link"]
        .map(|strategy| trellis.metric(&format!("trellis_decisions_total{{strategy=\"{strategy}\"}}")))
        .iter()
        .sum();
    assert_eq!(counted as usize, visits.len() * 2, "explaining counts nothing");
}

#[test]
fn the_command_explains_with_a_node_and_without_one() {
    let mut trellis = Trellis::start();
    let rules = json!([
        {"name": "night", "when": "hour < 6", "to": [{"url": "https://night.example/"}]},
        {"name": "phones", "when": "device == 'mobile' && !(country in ['FR'])",
            "to": [{"name": "app", "url": "https://app.example/?id={click_id}", "weight": 3}, {"name": "web", "url": "https://w.example/"}]},
    ]);
    save(&trellis, "mail", &json!({"rules": rules}));
    let many: Vec<_> = (0..100).map(|n| json!({"url": format!("https://{n}.example/")})).collect();
    save(&trellis, "many", &json!({"sticky": "visitor", "default": many}));
    link(&trellis, &json!({"slug": "a", "url": "https://own.example/", "campaign": "mail"}));
    let say = |trellis: &Trellis, words: &[&str]| {
        let output = trellis.cli(&[&["explain"], words].concat());
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.code(), text(&output.stdout), text(&output.stderr))
    };
    let words = ["a", "--user-agent", PHONE, "--country", "DE", "--at", "2026-11-21T09:00:00Z", "--ip", "8.8.8.8"];
    let sticky = ["--campaign", "many", "--ip", "8.8.8.8", "--user-agent", PHONE, "--at", "0"];
    let (_, of_a_visitor, _) = say(&trellis, &sticky);
    assert!(of_a_visitor.starts_with("decision    default, destination "), "{of_a_visitor}");
    let (code, with_node, error) = say(&trellis, &words);
    assert_eq!((code, error.as_str()), (Some(0), ""), "{with_node}");
    for line in [
        "decision    rule phones, destination app (weighted)",
        "answered    302, route version 1",
        "campaign    mail, version 1: applies",
        "- night    does not hold",
        "    false   < hour < 6  hour is 9",
        "* phones   taken",
        "    true    < device == \"mobile\"    device is \"mobile\"",
        "    true    < !(country in [\"FR\"])  country is \"DE\"",
        "  >  75.0 %   app  https://app.example/?id={click_id}",
        "     25.0 %   web  https://w.example/",
    ] {
        assert!(with_node.lines().any(|known| known == line), "{line}\n{with_node}");
    }
    let (code, said, error) =
        say(&trellis, &["a", "--device", "phone", "--header", "X=1", "--cookie", "b=2", "--query", "a b"]);
    assert_eq!((code, said.as_str()), (Some(1), ""));
    assert!(
        error.contains("\n  /visit/device: is `phone`; there are desktop") && error.contains("\n  /visit/query: "),
        "{error}"
    );
    let file = trellis.data_dir().join("campaign.json");
    std::fs::write(&file, json!({"default": [{"url": "https://d.example/{q:x}"}]}).to_string()).expect("a file");
    let path = file.to_str().expect("a path");
    let (_, said, _) = say(&trellis, &["--file", path, "--query", "x=1", "--json"]);
    let said: Value = serde_json::from_str(&said).expect("JSON");
    assert_eq!(
        (&said["decision"]["destination"], &said["campaign"]["id"]),
        (&json!("https://d.example/1"), &Value::Null)
    );
    let (code, _, error) = say(&trellis, &["--campaign", "nobody"]);
    assert_eq!((code, error.contains("there is no such campaign")), (Some(1), true), "{error}");
    std::fs::write(&file, "{").expect("a file");
    let (code, _, error) = say(&trellis, &["--file", path]);
    assert_eq!((code, error.contains("campaign.json` is no JSON")), (Some(1), true), "{error}");
    for wrong in [&["a", "--campaign", "mail"][..], &[], &["--json"], &["a", "--header", "x"]] {
        assert_eq!(say(&trellis, wrong).0, Some(64), "{wrong:?}");
    }
    assert_eq!(trellis.count("")["total"], 0);
    assert_eq!(trellis.stop().code(), Some(0));
    assert_eq!(say(&trellis, &words), (Some(0), with_node, String::new()));
    // The folder has the same secret: sticky visitors go the same way.
    assert_eq!(say(&trellis, &sticky), (Some(0), of_a_visitor, String::new()));
}
