//! Campaigns through the API.

use super::*;

fn body(url: &str) -> String {
    json!({"rules": [{"name": "phones", "when": "device == 'mobile'", "to": [{"url": url}]}]}).to_string()
}

#[tokio::test]
async fn a_campaign_is_saved_read_replaced_listed_and_removed() {
    let bench = Bench::new().await;
    let made = bench.api("PUT", "/campaigns/spring%20sale", &body("https://a.example/")).await;
    let place = &"/api/v1/campaigns/spring%20sale".parse().unwrap();
    assert_eq!((made.status, &made.headers[LOCATION]), (StatusCode::CREATED, place));
    let mut expected: Value = serde_json::from_str(&body("https://a.example/")).unwrap();
    for (field, value) in [
        ("id", json!("spring sale")),
        ("org", json!("default")),
        ("version", json!(1)),
        ("created_at", json!("2023-11-14T22:13:20.000Z")),
        ("updated_at", json!("2023-11-14T22:13:20.000Z")),
    ] {
        expected[field] = value;
    }
    assert_eq!(made.json(), expected);
    assert_eq!(bench.api("GET", "/campaigns/spring%20sale", "").await.json(), expected);

    // What was read is sent back, with a change.
    expected["fallback_url"] = json!("https://b.example/");
    let replaced = bench.api("PUT", "/campaigns/spring%20sale", &expected.to_string()).await;
    assert_eq!((replaced.status, &replaced.json()["version"]), (StatusCode::OK, &json!(2)));
    // Once more: it is another one by now.
    let conflict = bench.api("PUT", "/campaigns/spring%20sale", &expected.to_string()).await;
    conflict.assert_problem(409, "changed");
    assert_eq!(bench.api("GET", "/campaigns/spring%20sale", "").await.json()["version"], 2);

    bench.api("PUT", "/campaigns/a", &body("https://a.example/")).await;
    let page = bench.api("GET", "/campaigns?limit=1", "").await.json();
    assert_eq!((&page["campaigns"][0]["id"], &page["next_after"]), (&json!("a"), &json!("a")));
    let page = bench.api("GET", "/campaigns?limit=1&after=a", "").await.json();
    assert_eq!((&page["campaigns"][0]["id"], &page["next_after"]), (&json!("spring sale"), &Value::Null));

    bench.api("PUT", "/campaigns/b", &body("https://a.example/")).await.assert_problem(507, "catalog_full");
    assert_eq!(bench.api("DELETE", "/campaigns/a", "").await.status, StatusCode::NO_CONTENT);
    for method in ["GET", "DELETE"] {
        bench.api(method, "/campaigns/a", "").await.assert_problem(404, "unknown_campaign");
    }
}

#[tokio::test]
async fn a_refused_campaign_names_all_its_faults_and_changes_nothing() {
    let bench = Bench::new().await;
    bench.api("PUT", "/campaigns/c", &body("https://a.example/")).await;
    let wrong = json!({
        "rules": [{"name": "r", "when": "contry == 'DE'", "to": [{"url": "https://go.example/x"}]}],
        "default": [],
        "else": 1,
    });
    let refused = bench.api("PUT", "/campaigns/c", &wrong.to_string()).await;
    refused.assert_problem(422, "invalid_fields");
    let errors = refused.json()["errors"].as_array().cloned().unwrap();
    let pointers: Vec<_> = errors.iter().map(|error| error["pointer"].as_str().unwrap()).collect();
    assert_eq!(pointers, ["/rules/0/when", "/rules/0/to/0/url", "/default", "/else"]);
    assert!(errors[0]["detail"].as_str().unwrap().contains("line 1, column 1: `contry`"), "{errors:?}");
    assert_eq!(bench.api("GET", "/campaigns/c", "").await.json()["version"], 1);
    let text = bench.api("PUT", "/campaigns/c", r#"{"version": "one"}"#).await;
    assert_eq!(text.json()["errors"][0]["pointer"], "/version");
    // Links tell their places, too.
    let link = bench.api("POST", "/links", r#"{"slug":"a","url":"nowhere"}"#).await;
    assert_eq!(link.json()["errors"][0]["pointer"], "/url");
}
