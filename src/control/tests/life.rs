//! The life of links through the API.

use super::*;

#[tokio::test]
async fn times_are_set_shown_with_milliseconds_and_removed_by_null() {
    let bench = Bench::new().await;
    let body = r#"{"slug":"a","url":"https://a.example/","starts_at":"2026-11-21T10:00:00+01:00",
        "expires_at":"2026-11-21T09:00:00.25Z","expired_url":"https://b.example/{slug}"}"#;
    let made = bench.api("POST", "/links", body).await;
    assert_eq!(made.status, StatusCode::CREATED, "{}", made.text);
    let life = |answer: &Answer| ["starts_at", "expires_at", "expired_url"].map(|field| answer.json()[field].clone());
    let first =
        [json!("2026-11-21T09:00:00.000Z"), json!("2026-11-21T09:00:00.250Z"), json!("https://b.example/{slug}")];
    assert_eq!(life(&made), first);
    let kept = bench.api("PATCH", "/links/a", r#"{"paused":true}"#).await;
    assert_eq!(life(&kept), first);
    let changed = bench.api("PATCH", "/links/a", r#"{"starts_at":null,"expires_at":"2027-01-01T00:00:00Z"}"#).await;
    assert_eq!(life(&changed), [Value::Null, json!("2027-01-01T00:00:00.000Z"), first[2].clone()]);
    let removed = bench.api("PATCH", "/links/a", r#"{"expires_at":null,"expired_url":null}"#).await;
    assert_eq!(life(&removed), [Value::Null, Value::Null, Value::Null]);
    assert_eq!(life(&bench.api("GET", "/links/a", "").await), life(&removed));
    // What was read may be sent back: null is nothing.
    let body = r#"{"slug":"b","url":"https://a.example/","starts_at":null,"expires_at":null,"expired_url":null}"#;
    assert_eq!(bench.api("POST", "/links", body).await.status, StatusCode::CREATED);
}

#[tokio::test]
async fn all_wrong_fields_are_told_at_once_with_pointers() {
    let bench = Bench::new().await;
    let pointers = |answer: &Answer| {
        answer.assert_problem(422, "invalid_fields");
        let errors = answer.json()["errors"].as_array().cloned().unwrap();
        errors.iter().map(|error| error["pointer"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let wrong = r#"{"slug":"in","url":"x","starts_at":1700000000000,"expires_at":"tomorrow",
        "expired_url":"https://go.example/","max_clicks":0,"cap":{"limit":1},"domain":"a.example:80"}"#;
    let told = pointers(&bench.api("POST", "/links", wrong).await);
    let all = ["/slug", "/domain", "/url", "/cap/per", "/max_clicks", "/starts_at", "/expires_at", "/expired_url"];
    assert_eq!(told, all);

    let body = r#"{"slug":"a","url":"https://a.example/","starts_at":"2026-01-01T00:00:00Z",
        "expires_at":"2027-01-01T00:00:00Z","expired_url":"https://b.example/"}"#;
    let before = bench.api("POST", "/links", body).await.json();
    for (change, told) in [
        (r#"{"starts_at":"2027-01-01T00:00:00Z"}"#, &["/starts_at"][..]),
        (r#"{"expires_at":"2026-01-01T00:00:00Z"}"#, &["/expires_at"]),
        (r#"{"expires_at":null}"#, &["/expires_at"]),
        (r#"{"expires_at":null,"expired_url":"https://c.example/"}"#, &["/expired_url"]),
        (r#"{"expired_url":""}"#, &["/expired_url"]),
        (r#"{"expires_at":"","status":200}"#, &["/status", "/expires_at"]),
        // These five alone take a null.
        (
            r#"{"campaign":null,"expires_at":null,"max_clicks":null,"cap":null,"domain":null}"#,
            &["/campaign", "/domain"],
        ),
    ] {
        let answer = bench.api("PATCH", "/links/a", change).await;
        assert_eq!(pointers(&answer), told, "{change}");
    }
    assert_eq!(bench.api("GET", "/links/a", "").await.json(), before);
}
