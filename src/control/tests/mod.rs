//! The whole router, with stores in memory: every status and every code.

mod audit;
mod bulk;
mod campaigns;
mod compression;
mod dead_letters;
mod domains;
mod etag;
mod explain;
mod fakes;
mod idempotency;
mod keys;
mod life;
mod openapi;
mod releases;
mod slo;
mod status_page;
mod verify;

use std::sync::atomic::Ordering;

use axum::body::Body;
use axum::http::header::{ALLOW, AUTHORIZATION, LOCATION, WWW_AUTHENTICATE};
use axum::http::{HeaderMap, StatusCode};
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use tower_service::Service as _;

use self::fakes::{Fake, Noon, clicks};
use super::*;
use crate::catalog::releases::Keep;
use crate::click::OwnHosts;
use crate::pipeline::ClickFilter;
use crate::pipeline::dead_letter::{Actor, Shelf};
use crate::testing::{MemoryBooks, ScriptedStore};

const TOKEN: &str = "a token for tests";
const JSON: &str = "application/json";

struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    text: String,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|e| panic!("{e}: {}", self.text))
    }

    /// A problem with this status and code; its wrong fields.
    #[track_caller]
    fn assert_problem(&self, status: u16, code: &str) -> Vec<String> {
        assert_eq!(
            (self.status.as_u16(), self.headers[CONTENT_TYPE].as_bytes()),
            (status, &b"application/problem+json"[..])
        );
        let body = self.json();
        assert_eq!(
            (&body["type"], &body["status"], &body["code"]),
            (&json!("about:blank"), &json!(status), &json!(code))
        );
        assert!(body["title"].is_string() && !body["detail"].as_str().unwrap_or_default().is_empty(), "{body}");
        let errors = body["errors"].as_array().cloned().unwrap_or_default();
        let place = |error: &Value| error["field"].as_str().or(error["pointer"].as_str()).unwrap().to_owned();
        errors.iter().map(place).collect()
    }
}

struct Bench {
    router: Router,
    fake: Arc<Fake>,
    links: Arc<Links>,
    domains: Arc<Domains>,
    status: Arc<Status>,
    shelf: Arc<Shelf>,
    /// Where replays go.
    scripted: Arc<ScriptedStore>,
    auth: Arc<AuthShard>,
    audit: Arc<audit::Memory>,
}

impl Bench {
    async fn new() -> Self {
        let (fake, status, auth) = (Arc::new(Fake::default()), Arc::new(Status::new()), Arc::<AuthShard>::default());
        let own = OwnHosts { hosts: vec!["go.example".into()], ..OwnHosts::default() };
        let keep = Keep { releases_max: 100, changes_max: 100 };
        let releases = Releases::open(fake.clone(), keep, Arc::new(Noon)).await.unwrap();
        let domains = Domains::open(fake.clone(), releases.clone(), own, 2, Arc::new(Noon)).await.unwrap();
        let (domains, caps) = (Arc::new(domains), Arc::new(Caps::new(0, 3, false, Arc::new(Noon))));
        let links = Links::open(fake.clone(), releases.clone(), domains.clone(), 3, Arc::new(Noon)).await.unwrap();
        let links = Arc::new(links.with_caps(Arc::clone(&caps)).unwrap());
        let campaigns = Campaigns::open(fake.clone(), releases.clone(), domains.clone(), 2, Arc::new(Noon)).await;
        let campaigns = campaigns.unwrap().with_caps(Arc::clone(&caps)).unwrap();
        let keys = Arc::new(Keys::open(fake.clone(), &Secret::default(), 20, Arc::new(Noon)).await.unwrap());
        let (shelf, scripted, letters) = dead_letters::parts();
        let books = Box::new(MemoryBooks::default());
        let ledger = Ledger::open(books, "n", Arc::clone(&shelf), Arc::new(Noon), Arc::default()).unwrap();
        let ledger = Arc::new(ledger);
        let persons = fakes::persons(fake.clone(), &ledger, &letters);
        let (audit, api) = (Arc::new(audit::Memory::default()), Arc::new(ApiShard::default()));
        let parts = Parts {
            audit: AuditLog::start(audit.clone(), audit::QUICK, Arc::new(Noon), api.clone()),
            api,
            ledger,
            persons,
            dead_letters: letters,
            actor: Actor::Token,
            backlog: Some(Arc::new(dead_letters::backlog)),
            explainer: Arc::new(explain::explainer),
            links: links.clone(),
            releases,
            node: "n-1".into(),
            campaigns: Arc::new(campaigns),
            domains: domains.clone(),
            caps,
            warden: keys.clone(),
            keys,
            warden_at: None,
            auth: Arc::clone(&auth),
            clock: Arc::new(Noon),
            store: fake.clone(),
            token: Secret::new(TOKEN),
            status: status.clone(),
            slo: Arc::new(slo::report),
            metrics: Arc::new(|| "trellis_up 1\n".into()),
            running: None,
            body_bytes_max: 1024,
            import: ImportLimits { bytes_max: 2048, links_max: 6 },
        };
        // Far above what any answer here takes, unless it never comes.
        let router = router_within(parts, Duration::from_secs(1));
        Self { router, fake, links, domains, status, shelf, scripted, auth, audit }
    }

    async fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let answer = self.router.clone().call(request.body(Body::from(body.to_owned())).unwrap()).await.unwrap();
        let (head, body) = answer.into_parts();
        let text = String::from_utf8(body.collect().await.unwrap().to_bytes().to_vec()).unwrap();
        let answer = Answer { status: head.status, headers: head.headers, text };
        openapi::judge(method, path, &answer);
        answer
    }

    /// With the token, and a body if it is not empty.
    async fn api(&self, method: &str, path: &str, body: &str) -> Answer {
        let bearer = format!("Bearer {TOKEN}");
        let headers = [(AUTHORIZATION.as_str(), bearer.as_str()), (CONTENT_TYPE.as_str(), JSON)];
        self.send(method, &format!("/api/v1{path}"), &headers[..if body.is_empty() { 1 } else { 2 }], body).await
    }

    async fn link(&self, slug: &str) -> Answer {
        self.api("POST", "/links", &format!(r#"{{"slug":"{slug}","url":"https://a.example/"}}"#)).await
    }
}

#[tokio::test]
async fn a_link_is_made_read_changed_and_removed() {
    let bench = Bench::new().await;
    let body = r#"{"slug":"spring","url":"https://a.example/","tags":["x"],"campaign":"c","external_id":"e"}"#;
    let made = bench.api("POST", "/links", body).await;
    assert_eq!((made.status, &made.headers[LOCATION]), (StatusCode::CREATED, &"/api/v1/links/spring".parse().unwrap()));
    let mut expected = json!({
        "domain": "*", "org": "default", "slug": "spring", "url": "https://a.example/", "status": 302, "query": "ignore", "campaign": "c", "paused": false,
        "tags": ["x"], "external_id": "e", "version": 1, "created_at": "2023-11-14T22:13:20.000Z",
        "updated_at": "2023-11-14T22:13:20.000Z", "starts_at": null, "expires_at": null, "expired_url": null,
        "cap": null, "max_clicks": null,
    });
    assert_eq!(made.json(), expected);
    assert_eq!(bench.api("GET", "/links/spring", "").await.json(), expected);
    let changed = bench.api("PATCH", "/links/spring", r#"{"paused":true,"query":"forward"}"#).await;
    expected["paused"] = json!(true);
    expected["query"] = json!("forward");
    expected["version"] = json!(2);
    assert_eq!((changed.status, changed.json()), (StatusCode::OK, expected));
    let removed = bench.api("DELETE", "/links/spring", "").await;
    assert_eq!((removed.status, removed.text.as_str()), (StatusCode::NO_CONTENT, ""));
    for (method, body) in [("GET", ""), ("PATCH", "{}"), ("DELETE", "")] {
        bench.api(method, "/links/spring", body).await.assert_problem(404, "unknown_link");
    }
    bench.api("GET", "/links/%FF", "").await.assert_problem(404, "unknown_link");
    bench.api("GET", "/links/a%2Fb", "").await.assert_problem(404, "unknown_link");
}

#[tokio::test]
async fn a_link_without_a_slug_gets_one() {
    let bench = Bench::new().await;
    let made = bench.api("POST", "/links", r#"{"url":"https://a.example/","campaign":null}"#).await;
    assert_eq!(made.json()["slug"].as_str().map(str::len), Some(7));
}

#[tokio::test]
async fn pages_of_links_follow_each_other() {
    let bench = Bench::new().await;
    for slug in ["b", "a", "c"] {
        bench.link(slug).await;
    }
    let slugs = |answer: &Answer| {
        let links = answer.json()["links"].as_array().cloned().unwrap();
        links.iter().map(|link| link["slug"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let first = bench.api("GET", "/links?limit=2", "").await;
    assert_eq!((slugs(&first), &first.json()["next_cursor"]), (vec!["a".into(), "b".into()], &json!("l2.*/b")));
    let second = bench.api("GET", "/links?limit=2&cursor=l2.*/b", "").await;
    assert_eq!((slugs(&second), &second.json()["next_cursor"]), (vec!["c".into()], &Value::Null));
    let all = bench.api("GET", "/links?limit=3", "").await;
    assert_eq!((slugs(&all).len(), &all.json()["next_cursor"]), (3, &Value::Null));
}

#[tokio::test]
async fn bodies_that_are_no_good_are_refused_with_what_is_wrong() {
    let bench = Bench::new().await;
    for body in ["{", "[]", "\"x\"", "{\"url\":\"\u{1}\"}", "{} {}"] {
        bench.api("POST", "/links", body).await.assert_problem(400, "invalid_json");
    }
    let wrong = r#"{"slug":7,"url":"https://a.example/","status":"302","nope":1,"tags":[1],"query":"keep"}"#;
    let fields = bench.api("POST", "/links", wrong).await.assert_problem(422, "invalid_fields");
    assert_eq!(fields, ["nope", "query", "slug", "status", "tags"], "all at once");
    let wrong = r#"{"slug":"in","url":"https://go.example/","status":200}"#;
    let fields = bench.api("POST", "/links", wrong).await.assert_problem(422, "invalid_fields");
    assert_eq!(fields, ["slug", "url", "status"]);
    let twice = r#"{"url":"https://a.example/","url":"https://b.example/"}"#;
    bench.api("POST", "/links", twice).await.assert_problem(422, "invalid_fields");
    let long = format!(r#"{{"url":"https://a.example/{}"}}"#, "x".repeat(1024));
    bench.api("POST", "/links", &long).await.assert_problem(413, "body_too_large");
    let bearer = format!("Bearer {TOKEN}");
    for headers in [&[("authorization", &*bearer)][..], &[("authorization", &bearer), ("content-type", "text/plain")]] {
        let answer = bench.send("POST", "/api/v1/links", headers, "{}").await;
        answer.assert_problem(415, "unsupported_media_type");
    }
    assert!(bench.fake.links.lock().unwrap().is_empty(), "nothing half-written");
}

#[tokio::test]
async fn a_refused_change_changes_nothing() {
    let bench = Bench::new().await;
    bench.link("a").await;
    let before = bench.api("GET", "/links/a", "").await.json();
    for body in [r#"{"url":"ftp://a.example/"}"#, r#"{"slug":"b"}"#, r#"{"campaign":null}"#, r#"{"paused":"yes"}"#] {
        let fields = bench.api("PATCH", "/links/a", body).await.assert_problem(422, "invalid_fields");
        assert_eq!(fields.len(), 1, "{body}");
    }
    assert_eq!(bench.api("GET", "/links/a", "").await.json(), before);
}

#[tokio::test]
async fn a_taken_slug_and_a_full_catalog_are_told_apart() {
    let bench = Bench::new().await;
    bench.link("a").await;
    bench.link("a").await.assert_problem(409, "slug_taken");
    bench.link("b").await;
    bench.link("c").await;
    bench.link("d").await.assert_problem(507, "catalog_full");
}

#[tokio::test]
async fn parameters_and_cursors_are_checked() {
    let bench = Bench::new().await;
    for path in [
        "/links?limit=0",
        "/links?limit=1001",
        "/links?limit=many",
        "/links?after=a",
        "/links?limit=1&limit=2",
        "/links/a?x=1",
        "/dead-letters?limit=1001",
        "/dead-letters?order=first",
        "/dead-letters?settled=1",
        "/clicks?limit=-1",
        "/clicks?from=yesterday",
        "/clicks?from=2&to=2",
        "/clicks/count?limit=5",
        "/clicks/count?from=2026-01-02T00:00:00Z&to=2026-01-01T00:00:00Z",
    ] {
        bench.api("GET", path, "").await.assert_problem(400, "invalid_parameter");
    }
    for path in [
        "/links?cursor=b",
        "/links?cursor=c1.b",
        "/clicks?cursor=l1.b",
        "/clicks?cursor=c1.1.x",
        "/dead-letters?cursor=d1.x",
    ] {
        bench.api("GET", path, "").await.assert_problem(400, "invalid_cursor");
    }
}

#[tokio::test]
async fn pages_of_clicks_follow_each_other() {
    let bench = Bench::new().await;
    let (mut ids, mut path) = (Vec::new(), "/clicks?limit=2".to_owned());
    loop {
        let page = bench.api("GET", &path, "").await.json();
        ids.extend(
            page["clicks"].as_array().unwrap().iter().map(|click| click["click_id"].as_str().unwrap().to_owned()),
        );
        let Some(cursor) = page["next_cursor"].as_str() else { break };
        path = format!("/clicks?limit=2&cursor={cursor}");
    }
    assert_eq!(ids, clicks().into_iter().map(|click| click.click_id).collect::<Vec<_>>());
}

#[tokio::test]
async fn questions_reach_the_store_as_they_were_asked() {
    let bench = Bench::new().await;
    let path = "/clicks/count?domain=GO.Example&link=a&campaign=&from=2023-11-14T22:13:20%2B00:00&to=1700000000001";
    let counts = bench.api("GET", path, "").await;
    let expected = json!({ "total": 5, "unique": 5, "duplicate": 0, "unknown": 0, "by_class": { "human": 5 } });
    assert_eq!((counts.status, counts.json()), (StatusCode::OK, expected));
    let asked = ClickFilter {
        org: None,
        domain: Some("go.example".into()),
        link: Some("a".into()),
        campaign: Some(String::new()),
        from_ms: Some(1_700_000_000_000),
        to_ms: Some(1_700_000_000_001),
    };
    assert_eq!(*bench.fake.asked.lock().unwrap(), [asked]);
}

#[tokio::test]
async fn parts_that_are_away_are_named_and_the_silent_one_has_a_deadline() {
    let bench = Bench::new().await;
    bench.fake.away.store(true, Ordering::Relaxed);
    bench.link("a").await.assert_problem(503, "catalog_unavailable");
    bench.api("GET", "/links", "").await.assert_problem(503, "catalog_unavailable");
    bench.api("GET", "/clicks", "").await.assert_problem(503, "store_unavailable");
    bench.api("GET", "/clicks/count", "").await.assert_problem(503, "store_unavailable");
    bench.fake.silent.store(true, Ordering::Relaxed);
    bench.api("GET", "/clicks/count", "").await.assert_problem(503, "timeout");
}

#[tokio::test]
async fn nobody_without_the_token_learns_anything() {
    let bench = Bench::new().await;
    let mut texts = Vec::new();
    for path in ["/links", "/links/a", "/clicks", "/dead-letters", "/campaigns", "/nothing", "/", ""] {
        for headers in [&[][..], &[("authorization", "Bearer wrong")], &[("authorization", "Basic x")]] {
            for method in ["GET", "POST", "TRACE"] {
                let answer = bench.send(method, &format!("/api/v1{path}"), headers, "{").await;
                answer.assert_problem(401, "unauthorized");
                assert_eq!(answer.headers[WWW_AUTHENTICATE], "Bearer");
                texts.push(answer.text);
            }
        }
    }
    texts.dedup();
    assert_eq!(texts.len(), 1, "one answer for all");
}

#[tokio::test]
async fn unknown_paths_methods_and_what_is_not_built_are_told_apart() {
    let bench = Bench::new().await;
    for path in ["/nothing", "/", "", "/links/", "/links/a/b", "/clicks/x"] {
        bench.api("GET", path, "").await.assert_problem(404, "not_found");
    }
    for path in ["/index.html", "/api", "/healthy", "/api/v2/links"] {
        bench.send("GET", path, &[], "").await.assert_problem(404, "not_found");
    }
    for (method, path, allowed) in [
        ("PUT", "/links", "GET,HEAD,POST"),
        ("POST", "/links/a", "GET,HEAD,PATCH,DELETE"),
        ("DELETE", "/clicks", "GET,HEAD"),
    ] {
        let answer = bench.api(method, path, "{}").await;
        answer.assert_problem(405, "method_not_allowed");
        assert_eq!(answer.headers[ALLOW], allowed);
    }
    bench.send("POST", "/health", &[], "").await.assert_problem(405, "method_not_allowed");
}

#[tokio::test]
async fn a_node_is_ready_while_it_serves_whatever_is_down() {
    let bench = Bench::new().await;
    let ready = async || bench.send("GET", "/health/ready", &[], "").await;
    let alive = bench.send("GET", "/health", &[], "").await;
    assert_eq!((alive.status, alive.json()), (StatusCode::OK, json!({ "status": "ok", "version": crate::VERSION })));
    let starting = ready().await;
    assert_eq!((starting.status, &starting.json()["state"]), (StatusCode::SERVICE_UNAVAILABLE, &json!("starting")));
    bench.status.enter(State::Serving);
    bench.status.set_dependency("catalog", "sqlite", true, "");
    bench.status.set_dependency("store", "clickhouse", false, "connection refused");
    let serving = ready().await;
    let expected = json!({ "ready": true, "state": "serving", "dependencies": {
        "catalog": { "up": true, "backend": "sqlite" },
        "store": { "up": false, "backend": "clickhouse", "detail": "connection refused",
            "needed_for": "storing and counting; redirects and journal go on" },
    } });
    assert_eq!((serving.status, serving.json()), (StatusCode::OK, expected));
    for (state, name) in [(State::Draining, "draining"), (State::Stopped, "stopped")] {
        bench.status.enter(state);
        let answer = ready().await;
        assert_eq!((answer.status, &answer.json()["ready"]), (StatusCode::SERVICE_UNAVAILABLE, &json!(false)));
        assert_eq!(answer.json()["state"], name);
    }
}

#[tokio::test]
async fn metrics_are_open_and_text() {
    let answer = Bench::new().await.send("GET", "/metrics", &[], "").await;
    assert_eq!((answer.status, answer.text.as_str()), (StatusCode::OK, "trellis_up 1\n"));
    assert_eq!(answer.headers[CONTENT_TYPE], "text/plain; version=0.0.4; charset=utf-8");
    assert_eq!(answer.headers[CACHE_CONTROL], "no-store");
}
