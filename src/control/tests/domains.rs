//! Domains through the API, and links under them.

use super::*;

#[tokio::test]
async fn a_domain_is_saved_read_replaced_listed_and_removed() {
    let bench = Bench::new().await;
    let body = r#"{"root_url":"https://a.example/?x={q:x}","record_orphans":true}"#;
    let made = bench.api("PUT", "/domains/Shop.Example", body).await;
    let place = &"/api/v1/domains/shop.example".parse().unwrap();
    assert_eq!((made.status, &made.headers[LOCATION]), (StatusCode::CREATED, place));
    let mut expected = json!({
        "domain": "shop.example", "org": "default", "root_url": "https://a.example/?x={q:x}", "record_orphans": true, "version": 1,
        "created_at": "2023-11-14T22:13:20.000Z", "updated_at": "2023-11-14T22:13:20.000Z",
    });
    assert_eq!(made.json(), expected);
    assert_eq!(bench.api("GET", "/domains/SHOP.example.", "").await.json(), expected);

    // What was read is sent back, with a change.
    expected["unknown_url"] = json!("https://b.example/");
    let replaced = bench.api("PUT", "/domains/shop.example", &expected.to_string()).await;
    assert_eq!((replaced.status, &replaced.json()["version"]), (StatusCode::OK, &json!(2)));
    // Once more: it is another one by now.
    bench.api("PUT", "/domains/shop.example", &expected.to_string()).await.assert_problem(409, "changed");

    bench.api("PUT", "/domains/*", "{}").await;
    let page = bench.api("GET", "/domains?limit=1", "").await.json();
    assert_eq!((&page["domains"][0]["domain"], &page["next_after"]), (&json!("*"), &json!("*")));
    let page = bench.api("GET", "/domains?limit=1&after=*", "").await.json();
    assert_eq!((&page["domains"][0]["domain"], &page["next_after"]), (&json!("shop.example"), &Value::Null));

    bench.api("PUT", "/domains/b.example", "{}").await.assert_problem(507, "catalog_full");
    assert_eq!(bench.api("DELETE", "/domains/%2A", "").await.status, StatusCode::NO_CONTENT);
    for (method, path) in
        [("GET", "/domains/*"), ("DELETE", "/domains/*"), ("GET", "/domains/a%20b"), ("GET", "/domains/%FF")]
    {
        bench.api(method, path, "").await.assert_problem(404, "unknown_domain");
    }
    bench.fake.away.store(true, Ordering::Relaxed);
    bench.api("PUT", "/domains/shop.example", "{}").await.assert_problem(503, "catalog_unavailable");
    assert_eq!(bench.api("GET", "/domains/shop.example", "").await.json()["version"], 2, "nothing was changed");
}

#[tokio::test]
async fn all_faults_of_a_domain_are_told_at_once_and_what_points_at_a_domain_in_use_is_a_loop() {
    let bench = Bench::new().await;
    let pointers = |answer: &Answer| {
        answer.assert_problem(422, "invalid_fields");
        let errors = answer.json()["errors"].as_array().cloned().unwrap();
        errors.iter().map(|error| error["pointer"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let wrong = r#"{"root_url":"https://go.example/","unknown_url":5,"record_orphans":"yes","more":1}"#;
    let told = pointers(&bench.api("PUT", "/domains/shop.example:80", wrong).await);
    assert_eq!(told, ["/domain", "/root_url", "/unknown_url", "/record_orphans", "/more"]);

    let link = r#"{"slug":"a","url":"https://a.example/","domain":"links.example"}"#;
    assert_eq!(bench.api("POST", "/links", link).await.status, StatusCode::CREATED);
    assert_eq!(bench.api("PUT", "/domains/shop.example", "{}").await.status, StatusCode::CREATED);
    for own in ["go.example", "links.example", "shop.example"] {
        let url = json!({"url": format!("https://{own}/x")}).to_string();
        assert_eq!(pointers(&bench.api("POST", "/links", &url).await), ["/url"], "{own}");
        let root = json!({"root_url": format!("https://{own}/x")}).to_string();
        assert_eq!(pointers(&bench.api("PUT", "/domains/*", &root).await), ["/root_url"], "{own}");
        let fallback = json!({"fallback_url": format!("https://{own}/x")}).to_string();
        assert_eq!(pointers(&bench.api("PUT", "/campaigns/c", &fallback).await), ["/fallback_url"], "{own}");
    }
    // The last link of a domain takes its name away.
    bench.api("DELETE", "/links/a?domain=links.example", "").await;
    let url = r#"{"slug":"b","url":"https://links.example/x"}"#;
    assert_eq!(bench.api("POST", "/links", url).await.status, StatusCode::CREATED);
}

#[tokio::test]
async fn one_slug_under_several_domains_is_several_links() {
    let bench = Bench::new().await;
    let body = |domain: &str| {
        json!({"slug": "a", "domain": domain, "url": format!("https://a.example/{}", domain.len())}).to_string()
    };
    for (domain, place) in [("Shop.Example", "/api/v1/links/a?domain=shop.example"), ("*", "/api/v1/links/a")] {
        let made = bench.api("POST", "/links", &body(domain)).await;
        assert_eq!((made.status, &made.headers[LOCATION]), (StatusCode::CREATED, &place.parse().unwrap()));
        bench.api("POST", "/links", &body(domain)).await.assert_problem(409, "slug_taken");
    }
    let url = async |query: &str| bench.api("GET", &format!("/links/a{query}"), "").await.json()["url"].clone();
    assert_eq!((url("").await, url("?domain=*").await), (json!("https://a.example/1"), json!("https://a.example/1")));
    assert_eq!(url("?domain=SHOP.example").await, "https://a.example/12");
    let changed = bench.api("PATCH", "/links/a?domain=shop.example", r#"{"paused":true}"#).await;
    assert_eq!((&changed.json()["domain"], &changed.json()["paused"]), (&json!("shop.example"), &json!(true)));
    assert_eq!(bench.api("GET", "/links/a", "").await.json()["paused"], false);
    let moved = bench.api("PATCH", "/links/a", r#"{"domain":"shop.example"}"#).await;
    assert_eq!(moved.json()["errors"][0]["pointer"], "/domain");

    let list = async |query: &str| {
        let page = bench.api("GET", &format!("/links?{query}"), "").await.json();
        let links = page["links"].as_array().cloned().unwrap();
        let domains: Vec<_> = links.iter().map(|link| link["domain"].as_str().unwrap().to_owned()).collect();
        (domains, page["next_cursor"].clone())
    };
    assert_eq!(list("").await, (vec!["*".into(), "shop.example".into()], Value::Null));
    assert_eq!(list("limit=1").await, (vec!["*".into()], json!("l2.*/a")));
    assert_eq!(list("limit=1&cursor=l2.*/a").await.0, ["shop.example"]);
    assert_eq!(list("domain=Shop.Example").await.0, ["shop.example"]);
    for path in ["/links?domain=a%20b", "/links/a?domain=a:80", "/clicks?domain=https://a", "/clicks/count?domain="] {
        bench.api("GET", path, "").await.assert_problem(400, "invalid_parameter");
    }
    bench.api("GET", "/links/a?domain=b.example", "").await.assert_problem(404, "unknown_link");

    // Two domains are all that there may be, and what was refused is not counted.
    assert_eq!(bench.api("POST", "/links", &body("b.example")).await.status, StatusCode::CREATED);
    assert_eq!(bench.api("DELETE", "/links/a", "").await.status, StatusCode::NO_CONTENT);
    bench.api("POST", "/links", &body("c.example")).await.assert_problem(507, "catalog_full");
    assert_eq!(bench.api("DELETE", "/links/a?domain=b.example", "").await.status, StatusCode::NO_CONTENT);
    assert_eq!(bench.api("POST", "/links", &body("c.example")).await.status, StatusCode::CREATED);
    bench.api("GET", "/links/a?domain=b.example", "").await.assert_problem(404, "unknown_link");
}

#[tokio::test]
async fn a_visit_is_explained_by_the_link_that_its_host_follows() {
    let bench = Bench::new().await;
    for domain in ["*", "shop.example"] {
        let body = json!({"slug": "a", "domain": domain, "url": format!("https://{}.x/", domain.len())}).to_string();
        assert_eq!(bench.api("POST", "/links", &body).await.status, StatusCode::CREATED);
    }
    let explain =
        async |visit: Value| bench.api("POST", "/explain", &json!({"link": "a", "visit": visit}).to_string()).await;
    for (visit, destination, domain) in [
        (json!({}), "https://1.x/", ""),
        (json!({"domain": "b.example"}), "https://1.x/", "b.example"),
        (json!({"domain": "Shop.Example"}), "https://12.x/", "shop.example"),
        (json!({"headers": {"host": "shop.example:8080"}}), "https://12.x/", "shop.example"),
    ] {
        let answer = explain(visit.clone()).await.json();
        let told = (&answer["decision"]["destination"], &answer["facts"]["domain"]);
        assert_eq!(told, (&json!(destination), &json!(domain)), "{visit}");
    }
    let wrong = explain(json!({"domain": "a:80"})).await;
    assert_eq!(wrong.json()["errors"][0]["pointer"], "/visit/domain");
    let when =
        json!({"rules": [{"name": "r", "when": "domain.endsWith('.example')", "to": [{"url": "https://r.x/"}]}]});
    let body = json!({"document": when, "visit": {"domain": "shop.example"}}).to_string();
    assert_eq!(bench.api("POST", "/explain", &body).await.json()["decision"]["rule"], "r");
}
