//! The status page through the router.

use super::*;

#[tokio::test]
async fn the_status_page_is_open_is_plain_html_and_loads_nothing() {
    let bench = Bench::new().await;
    let answer = bench.send("GET", "/", &[], "").await;
    assert_eq!(
        (answer.status, answer.headers[CONTENT_TYPE].as_bytes()),
        (StatusCode::OK, &b"text/html; charset=utf-8"[..])
    );
    let policy = answer.headers["content-security-policy"].to_str().unwrap();
    assert!(policy.starts_with("default-src 'none'; style-src 'sha256-") && !policy.contains("unsafe"), "{policy}");
    assert!(answer.text.starts_with("<!doctype html>") && !answer.text.contains("<script"), "{}", answer.text);
    let outside: Vec<_> =
        ["src=", "//", "@import", "url("].into_iter().filter(|part| answer.text.contains(part)).collect();
    assert_eq!(outside, ["//"], "the name of SVG in the icon");
    assert_eq!(answer.text.matches("//").count(), 1);
    assert!(answer.text.contains("&lt;script&gt;alert(1)&lt;/script&gt;</code></td><td class=n>1,234</td>"));
    bench.send("POST", "/", &[], "").await.assert_problem(405, "method_not_allowed");
}

#[tokio::test]
async fn what_cannot_be_asked_is_said_on_the_page_and_the_page_is_there() {
    let bench = Bench::new().await;
    bench.fake.away.store(true, Ordering::Relaxed);
    bench.status.set_dependency("store", "clickhouse", false, "connection refused");
    let answer = bench.send("GET", "/", &[], "").await;
    assert_eq!(answer.status, StatusCode::OK);
    for told in [
        "not measured: the store says: connection refused",
        "connection refused; waits for it: storing and counting; redirects and journal go on",
        "<span class=\"pill bad\">down</span>",
        "not measured: no node runs here",
    ] {
        assert!(answer.text.contains(told), "{told} is not in\n{}", answer.text);
    }
}
