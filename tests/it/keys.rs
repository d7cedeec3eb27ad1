//! API keys on the real binary: `/in`, the control API and `trellis key`, across organisations and restarts.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::cli::{bad, good, run};
use crate::harness::{DAY_MS, Response, Trellis, within_one};

const ON: (&str, &str) = ("ingress.enabled", "true");

/// A new key: its id, and the whole of it.
fn key(trellis: &Trellis, fields: &Value) -> (String, String) {
    let made = trellis.api("POST", "/api/v1/keys", Some(&fields.to_string()));
    assert_eq!(made.status, 201, "{made:?}");
    let text = |name: &str| made.json()[name].as_str().expect("a text").to_owned();
    (text("id"), text("secret"))
}

fn campaign(trellis: &Trellis, id: &str, org: &str, when: Option<&str>) {
    let mut document = json!({"org": org, "default": [{"url": format!("https://{id}.example/")}]});
    if let Some(when) = when {
        document["when"] = when.into();
    }
    assert_eq!(trellis.api("PUT", &format!("/api/v1/campaigns/{id}"), Some(&document.to_string())).status, 201);
}

fn visit(trellis: &Trellis, key: &str, query: &str) -> Response {
    trellis.edge_request("GET", &format!("/in?{query}"), &[("Authorization", &format!("Bearer {key}"))])
}

#[track_caller]
fn place(answer: &Response) -> &str {
    assert_eq!(answer.status, 302, "{answer:?}");
    answer.header("location").expect("a destination")
}

/// An answer without what differs from request to request.
fn shown(answer: &Response) -> String {
    let headers: Vec<_> =
        answer.headers.iter().filter(|(name, _)| !["date", "x-request-id"].contains(&name.as_str())).collect();
    format!("{} {headers:?} {}", answer.status, String::from_utf8_lossy(&answer.body))
}

#[test]
fn a_visit_of_in_needs_a_key_and_goes_by_campaigns_of_its_organisation() {
    let trellis = Trellis::start_with(&[ON]);
    let (id, acme) = key(&trellis, &json!({"org": "acme", "scopes": ["ingress"]}));
    let (_, other) = key(&trellis, &json!({"org": "other", "scopes": ["ingress"]}));
    let (_, reader) = key(&trellis, &json!({"org": "acme", "scopes": ["links:read", "links:write", "stats:read"]}));
    let (soon, gone) = key(&trellis, &json!({"org": "acme", "scopes": ["ingress"]}));
    assert_eq!(trellis.api("DELETE", &format!("/api/v1/keys/{soon}"), None).status, 204);
    campaign(&trellis, "a-other", "other", Some("source == 'x'"));
    campaign(&trellis, "b-acme", "acme", Some("source == 'x'"));
    campaign(&trellis, "named", "acme", None);
    assert_eq!(place(&visit(&trellis, &acme, "campaign=named")), "https://named.example/");
    assert_eq!(place(&visit(&trellis, &acme, "source=x")), "https://b-acme.example/");
    assert_eq!(place(&visit(&trellis, &other, "source=x")), "https://a-other.example/");
    assert_eq!(visit(&trellis, &acme, "campaign=nobodys").json()["code"], "unknown_campaign");
    // One answer for everything that is wrong with a key, the campaign of another organisation included.
    let unknown = format!("wdn_sk_000000000000_{}", "x".repeat(32));
    let wrong = format!("wdn_sk_{id}_{}", "x".repeat(32));
    let mut answers = BTreeSet::new();
    for bad in ["", "x", "wdn_sk_", &acme[1..], &unknown, &wrong, &gone, &other] {
        answers.insert(shown(&visit(&trellis, bad, "campaign=named")));
    }
    answers.insert(shown(&trellis.get("/in?campaign=named")));
    answers.insert(shown(&trellis.edge_request("GET", "/in", &[("Authorization", &format!("Basic {acme}"))])));
    let twice = [("Authorization", &*format!("Bearer {acme}")), ("Authorization", "Bearer x")];
    answers.insert(shown(&trellis.edge_request("GET", "/in?campaign=named", &twice)));
    assert_eq!(answers.len(), 1, "{answers:#?}");
    let answer = visit(&trellis, "x", "campaign=named");
    assert_eq!((answer.status, &answer.json()["code"]), (401, &"unauthorized".into()));
    assert_eq!(answer.header("www-authenticate"), Some("Bearer"));
    let lacking = visit(&trellis, &reader, "campaign=named");
    assert_eq!((lacking.status, &lacking.json()["code"]), (403, &"forbidden".into()));
    trellis.wait_stored(3);
    let orgs: BTreeSet<_> = trellis
        .clicks()
        .iter()
        .map(|click| format!("{} {}", click["campaign"].as_str().expect("text"), click["org"].as_str().expect("text")))
        .collect();
    assert_eq!(orgs, BTreeSet::from(["named acme".into(), "b-acme acme".into(), "a-other other".into()]));
    let checks =
        |outcome: &str| trellis.metric(&format!("trellis_auth_duration_seconds_count{{outcome=\"{outcome}\"}}"));
    assert_eq!([checks("granted"), checks("denied"), checks("forbidden")], [4.0, 12.0, 1.0]);
    assert_eq!(trellis.metric("trellis_redirects_total{outcome=\"refused\"}"), 13.0);
    assert_eq!(trellis.metric("trellis_clicks_accepted_total"), 3.0, "who is not let in makes no click");
}

#[test]
fn where_keys_are_optional_one_that_is_sent_is_checked_all_the_same() {
    let trellis = Trellis::start_with(&[ON, ("ingress.keys", "optional"), ("ingress.org", "open")]);
    campaign(&trellis, "open", "open", None);
    campaign(&trellis, "named", "acme", None);
    let (_, acme) = key(&trellis, &json!({"org": "acme", "scopes": ["ingress"]}));
    assert_eq!(place(&trellis.get("/in?campaign=open")), "https://open.example/");
    assert_eq!(trellis.get("/in?campaign=named").json()["code"], "unknown_campaign");
    assert_eq!(place(&visit(&trellis, &acme, "campaign=named")), "https://named.example/");
    assert_eq!(visit(&trellis, &acme, "campaign=open").status, 401);
    assert_eq!(visit(&trellis, "wdn_sk_x", "campaign=open").status, 401);
    let hidden = trellis.edge_request("GET", "/in?campaign=open", &[("Authorization", &format!("Basic {acme}"))]);
    assert_eq!(hidden.status, 401);
    trellis.wait_stored(2);
    let orgs: BTreeSet<_> = trellis.clicks().iter().map(|click| click["org"].to_string()).collect();
    assert_eq!(orgs, BTreeSet::from(["\"acme\"".into(), "\"open\"".into()]));
}

#[test]
fn a_campaign_decides_for_links_of_its_organisation_alone_and_clicks_are_of_the_link() {
    let trellis = Trellis::start();
    campaign(&trellis, "c", "acme", None);
    for (slug, org) in [("theirs", "acme"), ("mine", "other"), ("plain", "default")] {
        let body = json!({"slug": slug, "org": org, "url": "https://own.example/", "campaign": "c"}).to_string();
        assert_eq!(trellis.api("POST", "/api/v1/links", Some(&body)).status, 201);
    }
    assert_eq!(place(&trellis.get("/theirs")), "https://c.example/");
    assert_eq!(place(&trellis.get("/mine")), "https://own.example/");
    assert_eq!(place(&trellis.get("/plain")), "https://own.example/");
    trellis.wait_stored(3);
    let told = |key: &str, path: &str| {
        let bearer = format!("Bearer {key}");
        let answer = trellis.api_raw("GET", path, &[("Authorization", &bearer)], b"");
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.json()
    };
    for (org, slug) in [("acme", "theirs"), ("other", "mine")] {
        let (_, key) = key(&trellis, &json!({"org": org, "scopes": ["stats:read", "links:read"]}));
        assert_eq!(told(&key, "/api/v1/clicks/count")["total"], 1);
        assert_eq!(told(&key, "/api/v1/clicks/count?campaign=c")["total"], 1);
        let clicks = told(&key, "/api/v1/clicks");
        assert_eq!((clicks["clicks"].as_array().map(Vec::len), &clicks["clicks"][0]["link"]), (Some(1), &slug.into()));
        let links = told(&key, "/api/v1/links");
        assert_eq!((links["links"].as_array().map(Vec::len), &links["links"][0]["slug"]), (Some(1), &slug.into()));
    }
    assert_eq!(trellis.count("")["total"], 3);
    trellis.assert_rolled_up();
}

#[test]
fn keys_are_made_listed_rotated_and_revoked_from_the_command_line() {
    let folder = tempfile::tempdir().expect("a folder");
    let run = |arguments: &[&str]| run(folder.path(), arguments);
    let told_once = |output: &std::process::Output| {
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(said.contains("is shown this once"), "{said}");
        String::from_utf8_lossy(&output.stdout).trim_end().to_owned()
    };
    let made = run(&[
        "key",
        "add",
        "--scope",
        "ingress",
        "--scope",
        "stats:read",
        "--org",
        "acme",
        "--name",
        "gate way",
        "--rate",
        "5",
        "--expires-at",
        "2099-01-01T00:00:00Z",
    ]);
    let first = told_once(&made);
    let id = first.split('_').nth(2).expect("an id");
    let line = format!("{id}\tacme\tingress,stats:read\t2099-01-01T00:00:00.000Z\tgate way");
    assert_eq!(good(&run(&["key", "ls"])), format!("{line}\n"));
    let second = told_once(&run(&["key", "rotate", id, "--grace", "60"]));
    assert!(second.starts_with(&format!("wdn_sk_{id}_")) && second != first);
    let listed: Value = serde_json::from_str(&good(&run(&["key", "ls", "--json"]))).expect("JSON");
    assert_eq!((&listed["rate"]["burst"], listed.get("secret")), (&5.into(), None));
    assert!(listed["earlier_secret_until"].is_string());
    let wrong = bad(&run(&["key", "add", "--scope", "everything", "--org", "a b"]), 1);
    assert!(wrong.contains("\n  org: ") && wrong.contains("\n  scopes: `everything` is unknown"), "{wrong}");
    // A node on the same folder takes both, and no file holds either.
    let node = Trellis::start_in(std::sync::Arc::new(folder), &[ON]);
    campaign(&node, "c", "acme", None);
    for key in [&first, &second] {
        assert_eq!(place(&visit(&node, key, "campaign=c")), "https://c.example/");
    }
    assert_eq!(good(&node.cli(&["key", "revoke", id])), format!("revoked {id}\n"));
    assert_eq!(visit(&node, &second, "campaign=c").status, 401, "at once");
    assert!(good(&node.cli(&["key", "ls"])).ends_with("\trevoked\n"));
    assert_eq!(bad(&node.cli(&["key", "revoke", "nobody"]), 1), "trellis: nobody: there is no such key\n");
    node.wait_stored(2);
    let secrets = [&first, &second].map(|key| key.rsplit('_').next().expect("a secret").to_owned());
    let mut folders = vec![node.data_dir().to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path()) {
            if entry.is_dir() {
                folders.push(entry);
                continue;
            }
            let bytes = match std::fs::read(&entry) {
                // The node has done with it meanwhile.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                bytes => bytes.expect("a file"),
            };
            let holds = |secret: &String| bytes.windows(secret.len()).any(|part| part == secret.as_bytes());
            assert!(!secrets.iter().any(holds), "{} holds a secret", entry.display());
        }
    }
    let log = node.log().join("\n");
    assert!(!secrets.iter().any(|secret| log.contains(secret)), "{log}");
}

#[test]
fn a_condition_cannot_spell_out_a_key() {
    let trellis = Trellis::start_with(&[ON]);
    let (_, acme) = key(&trellis, &json!({"org": "acme", "scopes": ["ingress"]}));
    let when = r#"header["authorization"].startsWith("Bearer")"#;
    let rule = json!({"name": "r", "when": when, "to": [{"url": "https://spelled.example/"}]});
    let document = json!({"org": "acme", "rules": [rule], "default": [{"url": "https://default.example/"}]});
    assert_eq!(trellis.api("PUT", "/api/v1/campaigns/c", Some(&document.to_string())).status, 201);
    assert_eq!(place(&visit(&trellis, &acme, "campaign=c")), "https://default.example/");
}

#[test]
fn a_key_over_its_rate_gets_429_and_the_way_back_and_other_keys_are_served() {
    let trellis = Trellis::start_with(&[ON]);
    campaign(&trellis, "c", "acme", None);
    let (_, slow) =
        key(&trellis, &json!({"org": "acme", "scopes": ["ingress"], "rate": {"per_second": 1, "burst": 20}}));
    let (_, free) = key(&trellis, &json!({"org": "acme", "scopes": ["ingress"]}));
    let mut sent = 0;
    // The rate lets one more in with each second that this takes.
    let limited = loop {
        let answer = visit(&trellis, &slow, "campaign=c");
        if answer.status != 302 {
            break answer;
        }
        sent += 1;
        assert!(sent < 1000, "there is no limit");
    };
    assert!(sent >= 20, "{sent}");
    assert_eq!((limited.status, limited.json()["code"].as_str()), (429, Some("rate_limited")));
    assert_eq!(limited.header("content-type"), Some("application/problem+json"));
    assert_eq!(limited.header("retry-after"), Some("1"));
    assert_eq!(limited.header("ratelimit-policy"), Some("\"key\";q=20;w=20"));
    assert_eq!(limited.header("ratelimit"), Some("\"key\";r=0;t=1"));
    for _ in 0..50 {
        assert_eq!(visit(&trellis, &free, "campaign=c").status, 302);
    }
    assert_eq!(visit(&trellis, &slow[..slow.len() - 1], "campaign=c").status, 401, "a bad key is no use of a good one");
    assert_eq!(trellis.metric("trellis_limited_total{limit=\"key\"}"), 1.0);
    trellis.wait_stored(sent + 50);
}

#[test]
fn cookies_and_caps_of_campaigns_work_for_visits_with_a_key() {
    let trellis = Trellis::start_with(&[ON]);
    let (_, acme) = key(&trellis, &json!({"org": "acme", "scopes": ["ingress", "links:read"]}));
    let (_, other) = key(&trellis, &json!({"org": "other", "scopes": ["links:read"]}));
    let put = |id: &str, document: Value| {
        let answer = trellis.api("PUT", &format!("/api/v1/campaigns/{id}"), Some(&document.to_string()));
        assert_eq!(answer.status, 201, "{answer:?}");
    };
    let to: Vec<_> = (0..8).map(|n| json!({"url": format!("https://d{n}.example/"), "weight": 1})).collect();
    put("sticky", json!({"org": "acme", "sticky": "cookie", "default": to}));
    let first = visit(&trellis, &acme, "campaign=sticky");
    let cookie = first.header("set-cookie").expect("a cookie").split(';').next().expect("its value").to_owned();
    let bearer = format!("Bearer {acme}");
    for _ in 0..20 {
        let headers = [("Authorization", bearer.as_str()), ("Cookie", cookie.as_str())];
        let again = trellis.edge_request("GET", "/in?campaign=sticky", &headers);
        assert_eq!(place(&again), place(&first));
    }
    let agent = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0";
    let headers = [("Authorization", bearer.as_str()), ("User-Agent", agent)];
    let caps = |key: &str, id: &str| {
        let bearer = format!("Bearer {key}");
        trellis.api_raw("GET", &format!("/api/v1/caps?campaign={id}"), &[("Authorization", &bearer)], b"")
    };
    let (id, places, used) = within_one(DAY_MS, |round| {
        let id = format!("capped-{round}");
        let capped = json!({"name": "few", "url": "https://few.example/", "cap": {"limit": 3, "per": "day"}});
        put(&id, json!({"org": "acme", "default": [capped], "fallback_url": "https://full.example/"}));
        let gone = |_| place(&trellis.edge_request("GET", &format!("/in?campaign={id}"), &headers)).to_owned();
        let places: Vec<_> = (0..5).map(gone).collect();
        let used = caps(&acme, &id).json()["caps"][0]["used"].clone();
        (id, places, used)
    });
    let (few, full) = ("https://few.example/", "https://full.example/");
    assert_eq!(places, [few, few, few, full, full]);
    assert_eq!(used, 3);
    assert_eq!(caps(&other, &id).json()["code"], "unknown_campaign");
}
