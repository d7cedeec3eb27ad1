//! Imports of links at the router.

use super::*;

const NDJSON: &str = "application/x-ndjson";

impl Bench {
    async fn import(&self, query: &str, more: &[(&str, &str)], lines: &[&str]) -> Answer {
        let bearer = format!("Bearer {TOKEN}");
        let headers = [&[("authorization", bearer.as_str()), ("content-type", NDJSON)], more].concat();
        self.send("POST", &format!("/api/v1/links/bulk{query}"), &headers, &lines.join("\n")).await
    }
}

/// Line, result, and code and pointers of what was wrong.
fn told(answer: &Answer) -> Vec<String> {
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text);
    let results = answer.json()["results"].as_array().cloned().unwrap();
    let one = |result: &Value| {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let pointers = result["errors"].as_array().cloned().unwrap_or_default();
        let pointers: Vec<_> = pointers.iter().map(|wrong| text(&wrong["pointer"])).collect();
        let told =
            format!("{} {} {} {}", result["line"], text(&result["result"]), text(&result["code"]), pointers.join(" "));
        told.trim_end().to_owned()
    };
    results.iter().map(one).collect()
}

fn counts(answer: &Value) -> [u64; 4] {
    ["created", "changed", "unchanged", "refused"].map(|word| answer[word].as_u64().unwrap())
}

const A: &str = r#"{"slug":"a","url":"https://a.example/"}"#;

#[tokio::test]
async fn each_line_is_judged_alone_and_told_by_its_number() {
    let bench = Bench::new().await;
    let lines = [
        A,
        "",
        r#"{"slug":"b","url":"ftp://a.example/"}"#,
        "no json\r",
        r#"{"slug":"a","url":"https://b.example/"}"#,
        r#"{"url":"https://c.example/","campaign":null,"version":7,"created_at":"x"}"#,
        r#"{"slug":"c","url":"https://a.example/","nope":1,"status":"302"}"#,
        "",
    ];
    let answer = bench.import("", &[], &lines).await;
    assert_eq!(
        told(&answer),
        [
            "1 created",
            "3 refused invalid_fields /url",
            "4 refused invalid_json",
            "5 refused invalid_fields /slug",
            "6 created",
            "7 refused invalid_fields /nope /status",
        ]
    );
    let body = answer.json();
    assert_eq!((counts(&body), &body["releases"]), ([2, 0, 0, 4], &json!([1])));
    assert_eq!(answer.headers["x-catalog-version"], "1");
    let made = body["results"][4]["slug"].as_str().unwrap();
    assert_eq!(
        (made.len(), bench.api("GET", &format!("/links/{made}"), "").await.json()["version"].clone()),
        (7, json!(1))
    );
    assert_eq!(bench.api("GET", "/links/a", "").await.json()["url"], "https://a.example/", "the first of the two");
    assert_eq!(bench.fake.written.lock().unwrap()[0].changes.len(), 2, "one release of both");
    // One entry for the request, with what became of it.
    let entries = bench.audit.entries.lock().unwrap().clone();
    let after: Value = serde_json::from_str(entries[0].after.as_deref().unwrap()).unwrap();
    assert_eq!((entries.len(), entries[0].action.as_str(), entries[0].release), (1, "POST /links/bulk", None));
    assert_eq!((counts(&after), &after["releases"], &after["results"]), ([2, 0, 0, 4], &json!([1]), &Value::Null));
}

#[tokio::test]
async fn a_link_that_is_there_is_refused_or_changed_as_is_asked() {
    let bench = Bench::new().await;
    bench
        .api(
            "POST",
            "/links",
            r#"{"slug":"a","url":"https://a.example/","external_id":"e","expires_at":"2030-01-01T00:00:00Z"}"#,
        )
        .await;
    assert_eq!(told(&bench.import("", &[], &[A]).await), ["1 refused slug_taken"]);
    assert_eq!(told(&bench.import("?existing=refuse", &[], &[A]).await), ["1 refused slug_taken"]);
    let change = async |line: &str| told(&bench.import("?existing=change", &[], &[line]).await).remove(0);
    assert_eq!(change(A).await, "1 unchanged");
    assert_eq!(change(r#"{"slug":"a","paused":true,"expires_at":null}"#).await, "1 changed");
    assert_eq!(change(r#"{"slug":"a","paused":true}"#).await, "1 unchanged");
    assert_eq!(change(r#"{"slug":"a","campaign":null}"#).await, "1 refused invalid_fields /campaign");
    assert_eq!(change(r#"{"slug":"a","org":"acme"}"#).await, "1 refused invalid_fields /org");
    assert_eq!(change(r#"{"slug":"b","url":"https://b.example/"}"#).await, "1 created");
    let link = bench.api("GET", "/links/a", "").await.json();
    assert_eq!(
        (&link["version"], &link["paused"], &link["external_id"], &link["expires_at"]),
        (&json!(2), &json!(true), &json!("e"), &Value::Null)
    );
    // What was listed is imported as it stands.
    assert_eq!(change(&link.to_string()).await, "1 unchanged");
    let twice = bench.import("?existing=change", &[], &[r#"{"slug":"a","paused":false}"#, A]).await;
    assert_eq!(told(&twice), ["1 changed", "2 refused invalid_fields /slug"]);
}

#[tokio::test]
async fn what_has_no_room_is_refused_and_the_rest_is_made() {
    let bench = Bench::new().await;
    let of = |slug: &str, more: &str| format!(r#"{{"slug":"{slug}","url":"https://a.example/"{more}}}"#);
    let capped = r#","max_clicks":9,"cap":{"limit":5,"per":"day"}"#;
    let lines = [of("a", capped), of("b", capped), of("c", r#","max_clicks":9"#)];
    let answer = bench.import("", &[], &lines.each_ref().map(String::as_str)).await;
    assert_eq!(told(&answer), ["1 created", "2 refused catalog_full", "3 created"], "there is room for three caps");
    bench.api("DELETE", "/links/a", "").await;
    bench.api("DELETE", "/links/c", "").await;
    let under = |slug: &str, domain: &str| of(slug, &format!(r#","domain":"{domain}""#));
    let lines = [under("a", "x.example"), under("b", "y.example"), under("c", "z.example"), under("d", "x.example")];
    let answer = bench.import("", &[], &lines.each_ref().map(String::as_str)).await;
    assert_eq!(told(&answer), ["1 created", "2 created", "3 refused catalog_full", "4 created"], "two domains");
    assert_eq!(told(&bench.import("", &[], &[&of("e", "")]).await), ["1 refused catalog_full"], "three links");
    for link in ["a?domain=x.example", "b?domain=y.example", "d?domain=x.example"] {
        bench.api("DELETE", &format!("/links/{link}"), "").await;
    }
    let looping = r#"{"slug":"n","url":"https://new.example/"}"#;
    let answer =
        bench.import("", &[], &[looping, &under("m", "new.example"), &looping.replace("\"n\"", "\"o\"")]).await;
    assert_eq!(
        told(&answer),
        ["1 created", "2 created", "3 refused invalid_fields /url"],
        "a domain is ours from its link on"
    );
}

#[tokio::test]
async fn an_import_that_is_too_long_or_no_ndjson_changes_nothing() {
    let bench = Bench::new().await;
    let seven = [A; 7];
    bench.import("", &[], &seven).await.assert_problem(413, "body_too_large");
    let long = "x".repeat(2049);
    for key in [&[][..], &[("idempotency-key", "k")]] {
        let answer = bench.import("", key, &[&long]).await;
        answer.assert_problem(413, "body_too_large");
        assert!(answer.text.contains("control.import_bytes_max"), "{}", answer.text);
    }
    // Longer than other bodies may be.
    let padded = format!("{A}{}", " ".repeat(1500));
    assert_eq!(told(&bench.import("", &[("idempotency-key", "k")], &[&padded]).await), ["1 created"]);
    bench.api("POST", "/links/bulk", A).await.assert_problem(415, "unsupported_media_type");
    bench.import("?existing=both", &[], &[A]).await.assert_problem(400, "invalid_parameter");
    bench.import("", &[("if-match", "*")], &[A]).await.assert_problem(412, "precondition_failed");
    bench.import("", &[], &["", " "]).await.assert_problem(400, "invalid_json");
    bench.fake.away.store(true, Ordering::Relaxed);
    bench.import("", &[], &[A.replace('a', "b").as_str()]).await.assert_problem(503, "catalog_unavailable");
}

#[tokio::test(start_paused = true)]
async fn an_import_that_comes_again_under_its_key_is_answered_with_its_counts() {
    let bench = Bench::new().await;
    let key = [("idempotency-key", "k")];
    let first = bench.import("", &key, &[A, "no"]).await;
    let again = bench.import("", &key, &[A, "no"]).await;
    assert_eq!((again.status, &again.headers["idempotency-replayed"]), (StatusCode::OK, &"true".parse().unwrap()));
    assert_eq!((counts(&again.json()), &again.json()["results"]), (counts(&first.json()), &Value::Null));
    assert_eq!(
        (told(&first), bench.fake.written.lock().unwrap().len()),
        (vec!["1 created".into(), "2 refused invalid_json".into()], 1)
    );
    bench.import("", &key, &[A]).await.assert_problem(422, "idempotency_mismatch");
}

#[tokio::test(start_paused = true)]
async fn a_key_imports_into_its_own_organisation_alone() {
    let bench = Bench::new().await;
    bench.link("theirs").await;
    let (writer, _) = bench.key("acme", &["links:write"]).await;
    let (reader, _) = bench.key("acme", &["links:read"]).await;
    let theirs = r#"{"slug":"theirs","url":"https://evil.example/"}"#;
    let lines = [A, r#"{"slug":"b","url":"https://a.example/","org":"default"}"#, theirs].join("\n");
    let send = async |key: &str| {
        let bearer = format!("Bearer {key}");
        let headers = [("authorization", bearer.as_str()), ("content-type", NDJSON)];
        bench.send("POST", "/api/v1/links/bulk?existing=change", &headers, &lines).await
    };
    send(&reader).await.assert_problem(403, "forbidden");
    assert_eq!(told(&send(&writer).await), ["1 created", "2 refused invalid_fields /org", "3 refused slug_taken"]);
    assert_eq!(bench.api("GET", "/links/a", "").await.json()["org"], "acme");
    assert_eq!(bench.api("GET", "/links/theirs", "").await.json()["url"], "https://a.example/");
    let entries = bench.audit.entries.lock().unwrap();
    let of_import = entries.iter().find(|entry| entry.action == "POST /links/bulk").unwrap();
    assert_eq!(of_import.org.as_deref(), Some("acme"));
}

#[tokio::test]
async fn a_link_may_be_called_bulk() {
    let bench = Bench::new().await;
    assert_eq!(bench.link("bulk").await.status, StatusCode::CREATED);
    let send = async |method: &str, body: &str| {
        let bearer = format!("Bearer {TOKEN}");
        let headers = [("authorization", bearer.as_str()), ("content-type", JSON)];
        bench.send(method, "/api/v1/links/bulk", &headers, body).await
    };
    assert_eq!(send("GET", "").await.json()["slug"], "bulk");
    assert_eq!(send("PATCH", r#"{"paused":true}"#).await.json()["version"], 2);
    assert_eq!(send("DELETE", "").await.status, StatusCode::NO_CONTENT);
    send("GET", "").await.assert_problem(404, "unknown_link");
}
