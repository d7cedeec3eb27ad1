//! `ETag`, `If-None-Match` and `If-Match` at the router.

use super::*;

impl Bench {
    async fn given(&self, method: &str, path: &str, condition: (&str, &str), body: &str) -> Answer {
        let bearer = format!("Bearer {TOKEN}");
        let headers = [("authorization", bearer.as_str()), condition, ("content-type", JSON)];
        self.send(method, &format!("/api/v1{path}"), &headers, body).await
    }
}

fn tag(answer: &Answer) -> String {
    answer.headers["etag"].to_str().unwrap().to_owned()
}

#[tokio::test(start_paused = true)]
async fn a_tag_is_that_of_the_document_in_every_answer() {
    let bench = Bench::new().await;
    let body = r#"{"fallback_url":"https://a.example/"}"#;
    for (made, path, changed) in [
        (bench.link("a").await, "/links/a", bench.api("PATCH", "/links/a", r#"{"paused":true}"#).await),
        (
            bench.api("PUT", "/campaigns/c", body).await,
            "/campaigns/c",
            bench.api("PUT", "/campaigns/c", r#"{"fallback_url":"https://b.example/"}"#).await,
        ),
        (
            bench.api("PUT", "/domains/d.example", r#"{"root_url":"https://a.example/"}"#).await,
            "/domains/d.example",
            bench.api("PUT", "/domains/d.example", r#"{"root_url":"https://b.example/"}"#).await,
        ),
    ] {
        assert!(made.status.is_success() && changed.status.is_success(), "{path}: {}", changed.text);
        let read = bench.api("GET", path, "").await;
        assert_eq!(tag(&read), tag(&changed), "{path}");
        assert_ne!(tag(&made), tag(&changed), "{path}");
        assert!(tag(&read).starts_with('"') && tag(&read).len() == 34, "strong");
        for known in [tag(&read), format!("W/{}", tag(&read)), format!("\"x\", {}", tag(&read)), "*".into()] {
            let same = bench.given("GET", path, ("if-none-match", &known), "").await;
            assert_eq!((same.status.as_u16(), same.text.as_str(), tag(&same)), (304, "", tag(&read)), "{path} {known}");
        }
        let other = bench.given("GET", path, ("if-none-match", &tag(&made)), "").await;
        assert_eq!((other.status, &other.text), (StatusCode::OK, &read.text), "{path}");
    }
    assert!(!bench.api("GET", "/links", "").await.headers.contains_key("etag"));
}

#[tokio::test(start_paused = true)]
async fn a_write_that_names_what_it_read_does_not_write_over_anything_else() {
    let bench = Bench::new().await;
    let old = tag(&bench.link("a").await);
    let new = tag(&bench.api("PATCH", "/links/a", r#"{"paused":true}"#).await);
    let weak = format!("W/{new}");
    for stale in [old.as_str(), &weak, "\"x\"", "nonsense", ""] {
        for (method, body) in [("PATCH", r#"{"paused":false}"#), ("DELETE", "")] {
            let answer = bench.given(method, "/links/a", ("if-match", stale), body).await;
            answer.assert_problem(412, "precondition_failed");
        }
    }
    assert_eq!(bench.api("GET", "/links/a", "").await.json()["paused"], true);
    let listed = format!("{old}, {new}");
    let changed = bench.given("PATCH", "/links/a", ("if-match", &listed), r#"{"tags":["x"]}"#).await;
    assert_eq!((changed.status, bench.audit.entries.lock().unwrap().len()), (StatusCode::OK, 3));
    assert_eq!(
        bench.given("DELETE", "/links/a", ("if-match", &tag(&changed)), "").await.status,
        StatusCode::NO_CONTENT
    );
    bench.given("PATCH", "/links/a", ("if-match", "*"), "{}").await.assert_problem(404, "unknown_link");
    let body = r#"{"fallback_url":"https://a.example/"}"#;
    bench.given("PUT", "/campaigns/c", ("if-match", "*"), body).await.assert_problem(412, "precondition_failed");
    let made = tag(&bench.api("PUT", "/campaigns/c", body).await);
    assert_eq!(bench.given("PUT", "/campaigns/c", ("if-match", &made), body).await.status, StatusCode::OK);
    bench.given("PUT", "/campaigns/c", ("if-match", &made), body).await.assert_problem(412, "precondition_failed");
    let (_, key) = bench.key("acme", &["ingress"]).await;
    let path = format!("/keys/{}", key["id"].as_str().unwrap());
    bench.given("DELETE", &path, ("if-match", "*"), "").await.assert_problem(412, "precondition_failed");
}

#[tokio::test(start_paused = true)]
async fn of_two_writes_that_read_the_same_one_is_made() {
    let bench = Bench::new().await;
    let read = tag(&bench.link("a").await);
    let change = |tags: &'static str| bench.given("PATCH", "/links/a", ("if-match", &read), tags);
    let plain = bench.api("PATCH", "/links/a", r#"{"paused":true}"#);
    let (plain, first, second) = tokio::join!(plain, change(r#"{"tags":["x"]}"#), change(r#"{"tags":["y"]}"#));
    assert_eq!((plain.status, first.status.as_u16(), second.status.as_u16()), (StatusCode::OK, 412, 412));
    let read = tag(&plain);
    let change = |tags: &'static str| bench.given("PATCH", "/links/a", ("if-match", &read), tags);
    let (first, second) = tokio::join!(change(r#"{"tags":["x"]}"#), change(r#"{"tags":["y"]}"#));
    let mut statuses = [first.status.as_u16(), second.status.as_u16()];
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 412]);
}
