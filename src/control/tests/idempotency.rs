//! `Idempotency-Key` at the router: one write, whatever comes again.

use super::*;

impl Bench {
    async fn keyed(&self, path: &str, key: &str, body: &str) -> Answer {
        let bearer = format!("Bearer {TOKEN}");
        let headers = [("authorization", bearer.as_str()), ("content-type", JSON), ("idempotency-key", key)];
        self.send("POST", &format!("/api/v1{path}"), &headers, body).await
    }

    async fn count(&self) -> usize {
        self.api("GET", "/links", "").await.json()["links"].as_array().unwrap().len()
    }
}

const LINK: &str = r#"{"url":"https://a.example/"}"#;

#[tokio::test(start_paused = true)]
async fn a_post_that_comes_again_gets_the_answer_of_the_first_and_changes_nothing() {
    let bench = Bench::new().await;
    let first = bench.keyed("/links", "k-1", LINK).await;
    let again = bench.keyed("/links", "k-1", LINK).await;
    assert_eq!((first.status, again.status, &first.text), (StatusCode::CREATED, StatusCode::CREATED, &again.text));
    for name in ["location", "etag", "x-catalog-version", "content-type"] {
        assert_eq!(first.headers[name], again.headers[name], "{name}");
    }
    assert_eq!(again.headers["idempotency-replayed"], "true");
    assert!(!first.headers.contains_key("idempotency-replayed"));
    bench.keyed("/links", "k-1", r#"{"url":"https://b.example/"}"#).await.assert_problem(422, "idempotency_mismatch");
    bench.keyed("/keys", "k-1", LINK).await.assert_problem(422, "idempotency_mismatch");
    assert_eq!((bench.count().await, bench.audit.entries.lock().unwrap().len()), (1, 1));
    // Another caller has keys of its own.
    let (admin, _) = bench.key("acme", &["admin"]).await;
    let bearer = format!("Bearer {admin}");
    let headers = [("authorization", bearer.as_str()), ("content-type", JSON), ("idempotency-key", "k-1")];
    let theirs = bench.send("POST", "/api/v1/links", &headers, LINK).await;
    assert_eq!((theirs.status, bench.count().await), (StatusCode::CREATED, 2));
}

#[tokio::test(start_paused = true)]
async fn two_at_one_time_make_one_write() {
    let bench = Bench::new().await;
    let (first, second) = tokio::join!(bench.keyed("/links", "k", LINK), bench.keyed("/links", "k", LINK));
    assert_eq!(first.status, StatusCode::CREATED, "{}", first.text);
    second.assert_problem(409, "idempotency_in_flight");
    assert_eq!(bench.count().await, 1);
    assert_eq!(bench.keyed("/links", "k", LINK).await.text, first.text);
}

#[tokio::test(start_paused = true)]
async fn what_was_refused_may_be_mended_under_its_key_and_what_was_broken_off_may_not() {
    let bench = Bench::new().await;
    bench.keyed("/links", "k", r#"{"url":"ftp://a.example/"}"#).await.assert_problem(422, "invalid_fields");
    bench.fake.away.store(true, Ordering::Relaxed);
    bench.keyed("/links", "k", LINK).await.assert_problem(503, "catalog_unavailable");
    bench.fake.away.store(false, Ordering::Relaxed);
    assert_eq!(bench.keyed("/links", "k", LINK).await.status, StatusCode::CREATED);
    for known in bench.audit.known.lock().unwrap().values_mut() {
        (known.1, known.2) = (known.1.wrapping_add(1), None);
    }
    bench.keyed("/links", "k", LINK).await.assert_problem(409, "idempotency_interrupted");
    assert_eq!(bench.count().await, 1);
    for bad in ["", "a b", &"x".repeat(256)] {
        bench.keyed("/links", bad, LINK).await.assert_problem(400, "invalid_idempotency_key");
    }
    let long = format!(r#"{{"url":"https://a.example/{}"}}"#, "x".repeat(1024));
    bench.keyed("/links", "long", &long).await.assert_problem(413, "body_too_large");
}

#[tokio::test(start_paused = true)]
async fn an_answer_with_a_secret_is_given_once() {
    let bench = Bench::new().await;
    let body = r#"{"scopes":["ingress"]}"#;
    let first = bench.keyed("/keys", "k", body).await;
    let secret = first.json()["secret"].as_str().unwrap().to_owned();
    let again = bench.keyed("/keys", "k", body).await;
    again.assert_problem(409, "idempotency_answer_not_kept");
    assert_eq!(bench.api("GET", "/keys", "").await.json()["keys"].as_array().unwrap().len(), 1);
    let known = format!("{:?}", bench.audit.known.lock().unwrap());
    assert!(!known.contains(&secret) && known.contains("body: None"), "{known}");
}
