//! The audit log on the real binary: kills, restarts, a log that cannot be written, and who may read it.

use serde_json::{Value, json};

use crate::harness::{Response, Trellis, within};

fn text(output: &std::process::Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout.clone()).expect("UTF-8")
}

/// All entries, oldest first.
fn entries(trellis: &Trellis) -> Vec<Value> {
    text(&trellis.cli(&["audit", "export"])).lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

fn keyed(trellis: &Trellis, path: &str, key: &str, body: &Value) -> Response {
    let bearer = format!("Bearer {}", trellis.token());
    let headers = [("Authorization", bearer.as_str()), ("Content-Type", "application/json"), ("Idempotency-Key", key)];
    trellis.api_raw("POST", path, &headers, body.to_string().as_bytes())
}

#[test]
fn an_answered_write_is_in_the_audit_log_after_a_kill() {
    // What waits for others is there too: it is not answered before.
    let mut trellis = Trellis::start_with(&[("audit.flush_every", "100ms")]);
    trellis.link("a", "https://a.example/");
    let campaign = json!({ "fallback_url": "https://c.example/" }).to_string();
    assert_eq!(trellis.api("PUT", "/api/v1/campaigns/c", Some(&campaign)).status, 201);
    let made =
        trellis.api("POST", "/api/v1/keys", Some(&json!({ "org": "acme", "scopes": ["admin"] }).to_string())).json();
    let (id, secret) = (made["id"].as_str().expect("text"), made["secret"].as_str().expect("text"));
    let changed = trellis.api("PATCH", "/api/v1/links/a", Some(r#"{"paused":true}"#));
    let request_id = changed.header("x-request-id").expect("an id").to_owned();
    assert_eq!(trellis.api("POST", "/api/v1/releases/1/rollback", None).status, 200);
    assert_eq!(trellis.api("DELETE", "/api/v1/links/a", None).status, 204);
    let token = trellis.token();
    trellis.kill();
    let log = entries(&trellis);
    let told: Vec<_> =
        log.iter().map(|entry| format!("{} {}", entry["action"], entry["target"]).replace('"', "")).collect();
    let expected = [
        "POST /links link */a",
        "PUT /campaigns/{id} campaign c",
        &format!("POST /keys key {id}"),
        "PATCH /links/{slug} link */a",
        "POST /releases/{version}/rollback /releases/1/rollback",
        "DELETE /links/{slug} link */a",
    ];
    // The roll-back took two changes back; the one of a single change goes by its name.
    assert_eq!(told, expected);
    let [_, _, _, patched, _, removed] = &log[..] else { panic!("{log:?}") };
    assert_eq!((&patched["before"]["paused"], &patched["after"]["paused"]), (&json!(false), &json!(true)));
    assert_eq!((&patched["request_id"], &patched["actor"]), (&json!(request_id), &json!("control token")));
    assert_eq!(
        (&removed["before"]["slug"], &removed["after"], &removed["org"]),
        (&json!("a"), &Value::Null, &json!("default"))
    );
    let all = format!("{log:?}");
    for secret in [secret.rsplit('_').next().expect("a part"), &token] {
        assert!(!all.contains(secret), "a secret is in the log");
        let file = std::fs::read(trellis.data_dir().join("catalog.db")).expect("the file");
        assert!(!file.windows(secret.len()).any(|bytes| bytes == secret.as_bytes()), "a secret is in the file");
    }
    // Without a node the command line writes, and is named.
    text(&trellis.cli(&["link", "add", "https://b.example/", "--slug", "b"]));
    let line = text(&trellis.cli(&["audit", "ls", "--limit", "1", "--target", "link */b"]));
    assert!(line.contains("\tcommand line\tPOST /links\tlink */b\t201\t") && line.starts_with("7\t"), "{line}");
}

#[test]
fn a_request_that_comes_again_after_a_kill_is_not_made_twice() {
    let folder = std::sync::Arc::new(tempfile::tempdir().expect("a folder"));
    let mut trellis = Trellis::start_in(folder.clone(), &[]);
    let link = json!({ "url": "https://a.example/" });
    let first = keyed(&trellis, "/api/v1/links", "once", &link);
    assert_eq!(first.status, 201, "{first:?}");
    let key = json!({ "scopes": ["ingress"] });
    assert_eq!(keyed(&trellis, "/api/v1/keys", "a key", &key).json()["code"], "invalid_idempotency_key");
    let secret = keyed(&trellis, "/api/v1/keys", "a-key", &key).json()["secret"].as_str().expect("text").to_owned();
    trellis.kill();
    let trellis = Trellis::start_in(folder, &[]);
    let again = keyed(&trellis, "/api/v1/links", "once", &link);
    assert_eq!((again.status, &again.body), (201, &first.body));
    for name in ["location", "etag", "x-catalog-version"] {
        assert_eq!(again.header(name), first.header(name), "{name}");
    }
    let other = keyed(&trellis, "/api/v1/links", "once", &json!({ "url": "https://b.example/" }));
    assert_eq!((other.status, &other.json()["code"]), (422, &json!("idempotency_mismatch")));
    let gone = keyed(&trellis, "/api/v1/keys", "a-key", &key);
    assert_eq!((gone.status, &gone.json()["code"]), (409, &json!("idempotency_answer_not_kept")));
    assert!(!String::from_utf8_lossy(&gone.body).contains(&secret));
    let count = |path: &str, list: &str| trellis.api("GET", path, None).json()[list].as_array().map(Vec::len);
    assert_eq!((count("/api/v1/links", "links"), count("/api/v1/keys", "keys")), (Some(1), Some(1)));
}

#[test]
fn of_many_requests_with_one_key_one_is_made() {
    let trellis = Trellis::start();
    let link = json!({ "url": "https://a.example/" });
    let answers: Vec<Response> = std::thread::scope(|scope| {
        let asking: Vec<_> = (0..16).map(|_| scope.spawn(|| keyed(&trellis, "/api/v1/links", "k", &link))).collect();
        asking.into_iter().map(|thread| thread.join().expect("an answer")).collect()
    });
    for answer in &answers {
        let in_flight = answer.status == 409 && answer.json()["code"] == "idempotency_in_flight";
        assert!(in_flight || answer.status == 201, "{answer:?}");
    }
    assert!(
        answers
            .iter()
            .filter(|answer| answer.status == 201)
            .all(|answer| answer.json() == answers.iter().find(|a| a.status == 201).expect("one").json())
    );
    assert_eq!(trellis.api("GET", "/api/v1/links", None).json()["links"].as_array().map(Vec::len), Some(1));
    assert_eq!(entries(&trellis).len(), 1);
    let made = trellis.metric("trellis_api_requests_total{op=\"POST /links\",status_class=\"2xx\"}");
    assert_eq!(made, answers.iter().filter(|answer| answer.status == 201).count() as f64);
    assert_eq!(trellis.metric("trellis_audit_entries_total"), 1.0);
    assert_eq!(trellis.metric("trellis_audit_write_duration_seconds_count"), 1.0);
}

#[test]
fn while_the_audit_log_cannot_be_written_nothing_is() {
    let trellis = Trellis::start();
    trellis.expect_log("the audit log cannot be written");
    trellis.expect_log("not in the audit log yet");
    let outside = rusqlite::Connection::open(trellis.data_dir().join("catalog.db")).expect("the file");
    let full = "CREATE TRIGGER full BEFORE INSERT ON audit BEGIN SELECT RAISE(ABORT, 'database or disk is full'); END";
    assert!(within(crate::harness::PATIENCE, || outside.execute(full, []).is_ok()));
    let link = |slug: &str| {
        let body = json!({ "slug": slug, "url": "https://a.example/" }).to_string();
        trellis.api("POST", "/api/v1/links", Some(&body))
    };
    for slug in ["a", "b", "c"] {
        let answer = link(slug);
        assert_eq!((answer.status, &answer.json()["code"]), (503, &json!("audit_unavailable")), "{slug}");
    }
    let slugs = |list: &Value| {
        let links = list["links"].as_array().expect("a list").iter();
        links.map(|link| link["slug"].as_str().expect("text").to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(slugs(&trellis.api("GET", "/api/v1/links", None).json()), ["a"], "the first found out");
    assert_eq!(trellis.get("/a").status, 302, "no visitor needs the log");
    assert!(within(crate::harness::PATIENCE, || outside.execute("DROP TRIGGER full", []).is_ok()));
    assert_eq!(link("d").status, 201);
    let targets: Vec<_> = entries(&trellis).iter().map(|entry| entry["target"].clone()).collect();
    assert_eq!(targets, ["link */a", "link */d"], "what was done is there, and nothing else");
}
