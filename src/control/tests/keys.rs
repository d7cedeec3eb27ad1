//! Keys at the router: what each scope opens, that no organisation sees another one's things, and that secrets stay secret.

use std::collections::BTreeSet;

use super::super::access::Needs;
use super::super::endpoints;
use super::*;
use crate::click::Scope;

impl Bench {
    /// A new key, and its answer.
    pub(super) async fn key(&self, org: &str, scopes: &[&str]) -> (String, Value) {
        let made = self.api("POST", "/keys", &json!({ "org": org, "scopes": scopes }).to_string()).await;
        assert_eq!(made.status, StatusCode::CREATED, "{}", made.text);
        let body = made.json();
        (body["secret"].as_str().unwrap().to_owned(), body)
    }

    pub(super) async fn with(&self, key: &str, method: &str, path: &str, body: &str) -> Answer {
        let bearer = format!("Bearer {key}");
        let kind = if path == "/links/bulk" { "application/x-ndjson" } else { JSON };
        let headers = [(AUTHORIZATION.as_str(), bearer.as_str()), (CONTENT_TYPE.as_str(), kind)];
        self.send(method, &format!("/api/v1{path}"), &headers[..if body.is_empty() { 1 } else { 2 }], body).await
    }
}

/// A path of the table for a thing of this name, and a body that is good for it.
fn request(method: &Method, path: &str, named: &str) -> (String, String) {
    let names = ["{slug}", "{id}", "{batch}", "{domain}", "{version}"];
    let path_of = if path == "/caps" { "/caps?link={slug}" } else { path };
    let filled = names.iter().fold(path_of.to_owned(), |path, name| path.replace(name, named));
    let body = match (method.as_str(), path) {
        ("GET" | "DELETE", _) => String::new(),
        ("POST", "/links") => json!({ "slug": named, "url": "https://mine.example/" }).to_string(),
        ("POST", "/links/bulk") => json!({ "slug": named, "url": "https://mine.example/" }).to_string(),
        ("PUT", "/domains/{domain}") => json!({ "root_url": "https://mine.example/" }).to_string(),
        ("PUT", _) => json!({ "fallback_url": "https://mine.example/" }).to_string(),
        ("POST", "/explain") => json!({ "link": named }).to_string(),
        ("POST", "/keys") => json!({ "scopes": ["ingress"] }).to_string(),
        ("POST", "/verify") => json!({ "from": "5", "to": "60005" }).to_string(),
        _ => "{}".into(),
    };
    (filled, body)
}

#[tokio::test]
async fn every_endpoint_stands_in_the_table_with_what_it_needs_and_refuses_keys_without_it() {
    // What is not in the table could be reached with any key.
    let source = include_str!("../mod.rs");
    let of_api = source.split("let api = endpoints()").nth(1).unwrap().split("Router::new()\n").next().unwrap();
    let routes: Vec<_> = of_api.match_indices(".route(").map(|(at, _)| &of_api[at..at + 30]).collect();
    assert_eq!(routes.len(), 1, "endpoints, nothing else: {routes:?}");
    let mut seen = BTreeSet::new();
    let bench = Bench::new().await;
    for endpoint in endpoints() {
        let (method, path) = (&endpoint.method, endpoint.path);
        assert!(seen.insert(format!("{method} {path}")), "{method} {path} stands there twice");
        let all = Scope::ALL.into_iter().filter(|(scope, _)| match endpoint.needs {
            Needs::Scope(needed) => *scope != needed && *scope != Scope::Admin,
            Needs::Token => true,
        });
        let (others, _) = bench.key("acme", &all.map(|(_, name)| name).collect::<Vec<_>>()).await;
        let (filled, body) = request(method, path, "a");
        let answer = bench.with(&others, method.as_str(), &filled, &body).await;
        answer.assert_problem(403, "forbidden");
        bench.fake.links.lock().unwrap().clear();
        let id = others.split('_').nth(2).unwrap();
        assert_eq!(bench.api("DELETE", &format!("/keys/{id}"), "").await.status, StatusCode::NO_CONTENT);
        // With nothing but the scope, and with `admin`, it is not refused for want of one.
        let Needs::Scope(needed) = endpoint.needs else { continue };
        for scope in [needed, Scope::Admin] {
            let (key, _) = bench.key("acme", &[scope.name()]).await;
            let answer = bench.with(&key, method.as_str(), &filled, &body).await;
            assert!(![401, 403].contains(&answer.status.as_u16()), "{method} {path} {scope:?}: {}", answer.text);
            let id = key.split('_').nth(2).unwrap();
            assert_eq!(bench.api("DELETE", &format!("/keys/{id}"), "").await.status, StatusCode::NO_CONTENT);
        }
    }
    assert!(seen.len() >= 37, "{seen:?}");
}

#[tokio::test]
async fn a_key_of_another_organisation_meets_what_it_would_meet_if_nothing_were_there() {
    let bench = Bench::new().await;
    let made = bench.api("POST", "/links", r#"{"slug":"theirs","org":"acme","url":"https://secret.example/"}"#).await;
    assert_eq!(made.status, StatusCode::CREATED, "{}", made.text);
    let campaign = json!({ "org": "acme", "fallback_url": "https://secret.example/" }).to_string();
    assert_eq!(bench.api("PUT", "/campaigns/theirs", &campaign).await.status, StatusCode::CREATED);
    let domain = json!({ "org": "acme", "root_url": "https://secret.example/" }).to_string();
    assert_eq!(bench.api("PUT", "/domains/theirs", &domain).await.status, StatusCode::CREATED);
    let (_, key) = bench.key("acme", &["ingress"]).await;
    let (their_key, (other, _)) = (key["id"].as_str().unwrap(), bench.key("other", &["admin"]).await);
    let state = async || {
        let [link, campaign, domain] = ["/links/theirs", "/campaigns/theirs", "/domains/theirs"];
        let of = async |path| bench.api("GET", path, "").await.text;
        [of(link).await, of(campaign).await, of(domain).await]
    };
    let before = state().await;
    for endpoint in endpoints() {
        let (method, path) = (&endpoint.method, endpoint.path);
        let is_key = path.starts_with("/keys/");
        let (theirs, nobodys) = if is_key { (their_key, "000000000000") } else { ("theirs", "nobodys") };
        let ask = async |named| {
            let (path, body) = request(method, path, named);
            bench.with(&other, method.as_str(), &path, &body).await
        };
        let found = ask(theirs).await;
        let what = format!("{method} {path}: {}", found.text);
        assert!(!found.text.contains("secret.example") && !found.text.contains(their_key), "{what}");
        match (method.as_str(), path) {
            // A name is given once on a node: no more is told than that it is taken.
            ("POST", "/links") => drop(found.assert_problem(409, "slug_taken")),
            ("POST", "/links/bulk") => assert_eq!(found.json()["results"][0]["code"], "slug_taken", "{what}"),
            ("PUT", "/campaigns/{id}") => drop(found.assert_problem(409, "campaign_taken")),
            _ if path.contains('{') || ["/explain", "/caps"].contains(&path) || endpoint.needs == Needs::Token => {
                let missing = ask(nobodys).await;
                assert_eq!((found.status, &found.text), (missing.status, &missing.text), "{what}");
                let wanted = if endpoint.needs == Needs::Token { 403 } else { 404 };
                assert_eq!(found.status.as_u16(), wanted, "{what}");
            }
            _ => assert!(found.status.is_success(), "{what}"),
        }
    }
    for path in ["/caps?campaign=theirs", "/caps?campaign=nobodys"] {
        bench.with(&other, "GET", path, "").await.assert_problem(404, "unknown_campaign");
    }
    assert_eq!(before, state().await, "nothing of it was changed");
    let asked = bench.fake.asked.lock().unwrap().clone();
    assert!(asked.len() == 2 && asked.iter().all(|filter| filter.org.as_deref() == Some("other")), "{asked:?}");
    // What it makes itself is its own, and lists hold nothing else.
    let mine = bench.with(&other, "POST", "/links", r#"{"slug":"mine","url":"https://a.example/"}"#).await;
    assert_eq!((mine.status, &mine.json()["org"]), (StatusCode::CREATED, &json!("other")));
    let links = bench.with(&other, "GET", "/links", "").await.json();
    let orgs = |list: &Value| {
        let list = list.as_array().unwrap().iter();
        list.map(|one| one["org"].as_str().unwrap().to_owned()).collect::<BTreeSet<_>>()
    };
    assert_eq!(orgs(&links["links"]), BTreeSet::from(["other".into()]));
    let keys = bench.with(&other, "GET", "/keys", "").await.json();
    assert_eq!(orgs(&keys["keys"]), BTreeSet::from(["other".into()]));
    assert_eq!(
        orgs(&bench.api("GET", "/keys", "").await.json()["keys"]),
        BTreeSet::from(["acme".into(), "other".into()])
    );
}

#[tokio::test]
async fn every_bad_key_and_token_gets_one_answer_and_no_answer_repeats_a_key() {
    let bench = Bench::new().await;
    let (revoked, body) = bench.key("acme", &["admin"]).await;
    let (good, _) = bench.key("acme", &["links:read"]).await;
    let id = body["id"].as_str().unwrap();
    assert_eq!(bench.api("DELETE", &format!("/keys/{id}"), "").await.status, StatusCode::NO_CONTENT);
    let unknown = format!("wdn_sk_000000000000_{}", good.rsplit('_').next().unwrap());
    let wrong_secret = format!("{}_{}", good.rsplit_once('_').unwrap().0, "x".repeat(32));
    let mut answers = BTreeSet::new();
    for key in [&revoked, &unknown, &wrong_secret, &good[..good.len() - 1], &format!("{good}x"), "wdn_sk_", "x", ""] {
        for (method, path) in [("GET", "/links"), ("POST", "/keys"), ("GET", "/nothing"), ("GET", "/ledger")] {
            let mut answer = bench.with(key, method, path, "").await;
            answer.assert_problem(401, "unauthorized");
            answer.headers.remove("x-request-id");
            answers.insert((format!("{:?}", answer.headers), answer.text));
        }
    }
    assert_eq!(answers.len(), 1, "{answers:?}");
    // Nor where it was put by mistake.
    let secret = good.rsplit('_').next().unwrap();
    let (admin, _) = bench.key("acme", &["admin"]).await;
    for (method, path, body) in [
        ("POST", "/keys", json!({ "scopes": [good] })),
        ("POST", "/keys", json!({ "scopes": good, good.as_str(): 1 })),
        ("POST", "/links", json!({ "slug": good, "url": good })),
        ("GET", "/links", Value::Null),
    ] {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let answer = bench.with(&admin, method, &format!("{path}?{good}={good}"), &body).await;
        answer.assert_problem(400, "invalid_parameter");
        let plain = bench.with(&admin, method, path, &body).await;
        assert!(!answer.text.contains(secret) && !plain.text.contains(secret), "{} {}", answer.text, plain.text);
        assert!(method == "GET" || plain.status == StatusCode::UNPROCESSABLE_ENTITY, "{}", plain.text);
    }
}

#[tokio::test]
async fn a_secret_is_shown_once_and_never_again() {
    let bench = Bench::new().await;
    let sent = json!({ "org": "acme", "name": "gateway", "scopes": ["stats:read", "ingress"], "rate": {"per_second": 5},
        "expires_at": "2030-01-01T00:00:00Z" });
    let made = bench.api("POST", "/keys", &sent.to_string()).await;
    let mut body = made.json();
    let secret = body["secret"].as_str().unwrap().to_owned();
    let id = body["id"].as_str().unwrap().to_owned();
    assert_eq!(made.headers[LOCATION].to_str().unwrap(), format!("/api/v1/keys/{id}"));
    assert!(secret.starts_with(&format!("wdn_sk_{id}_")));
    let expected = json!({
        "id": id, "org": "acme", "name": "gateway", "scopes": ["ingress", "stats:read"],
        "rate": { "per_second": 5, "burst": 5 }, "expires_at": "2030-01-01T00:00:00.000Z", "revoked_at": null,
        "earlier_secret_until": null, "version": 1, "created_at": "2023-11-14T22:13:20.000Z",
        "updated_at": "2023-11-14T22:13:20.000Z",
    });
    body.as_object_mut().unwrap().remove("secret");
    assert_eq!(body, expected);
    let tail = secret.rsplit('_').next().unwrap();
    let path = format!("/keys/{id}");
    let changed = bench.api("PATCH", &path, r#"{"rate":null,"expires_at":null,"name":"edge"}"#).await;
    assert_eq!((&changed.json()["rate"], &changed.json()["version"]), (&Value::Null, &json!(2)));
    for answer in [changed, bench.api("GET", &path, "").await, bench.api("GET", "/keys", "").await] {
        assert!(answer.status.is_success() && !answer.text.contains(tail), "{}", answer.text);
    }
    assert_eq!(bench.with(&secret, "GET", "/clicks/count", "").await.status, StatusCode::OK);
    let rotated = bench.api("POST", &format!("{path}/rotate"), r#"{"grace_s":60}"#).await.json();
    assert_eq!(rotated["earlier_secret_until"], "2023-11-14T22:14:20.000Z");
    let new = rotated["secret"].as_str().unwrap();
    for key in [&secret, new] {
        assert_eq!(bench.with(key, "GET", "/clicks/count", "").await.status, StatusCode::OK);
    }
    let hurried = bench.api("POST", &format!("{path}/rotate"), "{}").await.json();
    bench.with(new, "GET", "/clicks/count", "").await.assert_problem(401, "unauthorized");
    assert_eq!(bench.with(hurried["secret"].as_str().unwrap(), "GET", "/clicks", "").await.status, StatusCode::OK);
    for _ in 0..2 {
        assert_eq!(bench.api("DELETE", &path, "").await.status, StatusCode::NO_CONTENT);
    }
    assert_eq!(bench.api("GET", &path, "").await.json()["revoked_at"], "2023-11-14T22:13:20.000Z");
    bench.api("POST", &format!("{path}/rotate"), "{}").await.assert_problem(409, "key_revoked");
    bench.api("PATCH", &path, "{}").await.assert_problem(409, "key_revoked");
    bench.api("GET", "/keys/none", "").await.assert_problem(404, "unknown_key");
}

#[tokio::test]
async fn what_is_wrong_with_a_key_is_told_by_field_and_a_key_names_no_other_organisation() {
    let bench = Bench::new().await;
    let fields = bench.api("POST", "/keys", r#"{"org":"","scopes":["x"],"rate":1,"expires_at":"then","nope":1}"#).await;
    assert_eq!(fields.assert_problem(422, "invalid_fields"), ["nope"], "shapes come first");
    let fields = bench.api("POST", "/keys", r#"{"org":"","scopes":["x"],"rate":1,"expires_at":"then"}"#).await;
    assert_eq!(fields.assert_problem(422, "invalid_fields"), ["org", "scopes", "rate", "expires_at"]);
    let (_, made) = bench.key("acme", &["ingress"]).await;
    let path = format!("/keys/{}", made["id"].as_str().unwrap());
    let fields = bench.api("PATCH", &path, r#"{"scopes":null,"name":null,"rate":null}"#).await;
    assert_eq!(fields.assert_problem(422, "invalid_fields"), ["name", "scopes"]);
    let fields = bench.api("PATCH", &path, r#"{"org":"other"}"#).await;
    assert_eq!(fields.assert_problem(422, "invalid_fields"), ["org"]);
    let fields = bench.api("POST", &format!("{path}/rotate"), r#"{"grace_s":604801}"#).await;
    assert_eq!(fields.assert_problem(422, "invalid_fields"), ["grace_s"]);
    let (admin, _) = bench.key("acme", &["admin"]).await;
    for (method, path, body) in [
        ("POST", "/keys", r#"{"org":"other","scopes":["ingress"]}"#),
        ("POST", "/links", r#"{"org":"other","url":"https://a.example/"}"#),
    ] {
        let fields = bench.with(&admin, method, path, body).await.assert_problem(422, "invalid_fields");
        assert_eq!(fields, ["org"], "{path}");
    }
    let body = r#"{"org":"other","fallback_url":"https://a.example/"}"#;
    let fields = bench.with(&admin, "PUT", "/campaigns/c", body).await.assert_problem(422, "invalid_fields");
    assert_eq!(fields, ["/org"]);
    let own = bench.with(&admin, "PUT", "/campaigns/c", r#"{"fallback_url":"https://a.example/"}"#).await;
    assert_eq!((own.status, &own.json()["org"]), (StatusCode::CREATED, &json!("acme")));
    let kept = bench.api("PUT", "/campaigns/c", r#"{"fallback_url":"https://b.example/"}"#).await;
    assert_eq!((kept.status, &kept.json()["org"]), (StatusCode::OK, &json!("acme")), "it stays where it is");
    let moved = bench.api("PUT", "/campaigns/c", body).await.assert_problem(422, "invalid_fields");
    assert_eq!(moved, ["/org"]);
}

#[tokio::test]
async fn a_domain_is_of_the_organisation_that_it_was_given_to_and_its_links_are_of_no_other() {
    let bench = Bench::new().await;
    let [(acme, _), (other, _)] =
        [bench.key("acme", &["links:write", "links:read"]).await, bench.key("other", &["admin"]).await];
    let link =
        |slug: &str| json!({ "slug": slug, "domain": "go.acme.example", "url": "https://a.example/" }).to_string();
    let given = r#"{"org":"acme","root_url":"https://acme.example/"}"#;
    let path = "/domains/go.acme.example";
    // Nobody takes a host by a link, nor one that nobody has for themselves.
    for key in [&acme, &other] {
        let fields = bench.with(key, "POST", "/links", &link("a")).await.assert_problem(422, "invalid_fields");
        assert_eq!(fields, ["domain"]);
        bench
            .with(key, "PUT", path, r#"{"root_url":"https://x.example/"}"#)
            .await
            .assert_problem(404, "unknown_domain");
    }
    assert_eq!(bench.api("POST", "/links", &link("ours")).await.status, StatusCode::CREATED, "of the default one");
    bench.api("PUT", path, given).await.assert_problem(409, "domain_in_use");
    let removed = bench.api("DELETE", "/links/ours?domain=go.acme.example", "").await;
    assert_eq!(removed.status, StatusCode::NO_CONTENT);
    let made = bench.api("PUT", path, given).await;
    assert_eq!((made.status, &made.json()["org"]), (StatusCode::CREATED, &json!("acme")), "{}", made.text);
    // Now it is acme's, also for the holder of the control token.
    let fields = bench.with(&other, "POST", "/links", &link("a")).await.assert_problem(422, "invalid_fields");
    assert_eq!(fields, ["domain"]);
    let fields = bench.api("POST", "/links", &link("a")).await.assert_problem(422, "invalid_fields");
    assert_eq!(fields, ["domain"]);
    let theirs = bench.with(&acme, "POST", "/links", &link("a")).await;
    assert_eq!((theirs.status, &theirs.json()["org"]), (StatusCode::CREATED, &json!("acme")), "{}", theirs.text);
    let changed = bench.with(&acme, "PUT", path, r#"{"root_url":"https://b.example/"}"#).await;
    assert_eq!((changed.status, &changed.json()["org"]), (StatusCode::OK, &json!("acme")), "it stays where it is");
    let fields = bench.api("PUT", path, r#"{"org":"other"}"#).await.assert_problem(422, "invalid_fields");
    assert_eq!(fields, ["/org"]);
    let fields = bench.api("PUT", "/domains/*", r#"{"org":"acme"}"#).await.assert_problem(422, "invalid_fields");
    assert_eq!(fields, ["/org"], "any host is nobody's own");
    bench.with(&acme, "DELETE", path, "").await.assert_problem(403, "forbidden");
    bench.api("DELETE", path, "").await.assert_problem(409, "domain_in_use");
    assert_eq!(bench.with(&other, "GET", "/domains", "").await.json()["domains"], json!([]));
    // What belongs to no domain is followed there only if it is acme's.
    for (slug, org, follows) in [("x", "acme", true), ("y", "other", false)] {
        let sent = json!({ "slug": slug, "org": org, "url": "https://a.example/" }).to_string();
        assert_eq!(bench.api("POST", "/links", &sent).await.status, StatusCode::CREATED);
        let is_there = |host: &str| {
            let shared = bench.links.get_asked(host, slug).is_some();
            bench.links.with_asked(host, slug, |entry| assert_eq!(entry.is_some(), shared, "{host} {slug}"));
            shared
        };
        assert_eq!((is_there("go.acme.example"), is_there("elsewhere.example")), (follows, true), "{slug}");
    }
}

#[tokio::test]
async fn a_release_names_the_key_that_wrote_it_and_keys_do_not_see_releases() {
    let bench = Bench::new().await;
    let (key, made) = bench.key("acme", &["links:write"]).await;
    assert_eq!(bench.link("a").await.status, StatusCode::CREATED);
    let body = r#"{"slug":"b","url":"https://a.example/"}"#;
    assert_eq!(bench.with(&key, "POST", "/links", body).await.status, StatusCode::CREATED);
    let put = bench.with(&key, "PUT", "/campaigns/c", r#"{"fallback_url":"https://a.example/"}"#).await;
    assert_eq!(put.status, StatusCode::CREATED, "{}", put.text);
    let listed = bench.api("GET", "/releases", "").await.json();
    let actors: Vec<_> = listed["releases"].as_array().unwrap().iter().map(|one| one["actor"].clone()).collect();
    let of_key = format!("key {}", made["id"].as_str().unwrap());
    assert_eq!(actors, [of_key.as_str(), of_key.as_str(), "control token"]);
    let entries = bench.api("GET", "/releases/2", "").await.json()["entries"].clone();
    assert_eq!(entries[0]["after"]["org"], "acme");
    bench.with(&key, "GET", "/releases", "").await.assert_problem(403, "forbidden");
}

#[tokio::test]
async fn checks_are_counted_once_by_what_came_of_them() {
    let bench = Bench::new().await;
    let (key, _) = bench.key("acme", &["links:read"]).await;
    for _ in 0..3 {
        bench.with(&key, "GET", "/links", "").await;
    }
    for _ in 0..2 {
        bench.with(&key, "GET", "/clicks", "").await;
    }
    bench.with("wdn_sk_x", "GET", "/links", "").await;
    assert_eq!(bench.auth.counts(), [3, 1, 2, 0, 0], "and the token is no key");
}
