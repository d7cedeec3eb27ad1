//! Releases, roll-backs and propagation.

use super::*;

const HEADER: &str = "x-catalog-version";

fn version(answer: &Answer) -> &str {
    answer.headers[HEADER].to_str().unwrap()
}

#[tokio::test]
async fn every_write_is_a_release_and_its_answer_says_which() {
    let bench = Bench::new().await;
    assert_eq!(version(&bench.link("a").await), "1");
    assert_eq!(version(&bench.api("PATCH", "/links/a", r#"{"paused":true}"#).await), "2");
    assert_eq!(version(&bench.api("PUT", "/campaigns/c", r#"{"fallback_url":"https://f.example/"}"#).await), "3");
    assert_eq!(version(&bench.api("DELETE", "/campaigns/c", "").await), "4");
    assert_eq!(version(&bench.api("DELETE", "/links/a", "").await), "5");
    assert_eq!(version(&bench.api("PUT", "/domains/shop.example", r#"{"record_orphans":true}"#).await), "6");
    assert_eq!(version(&bench.api("DELETE", "/domains/shop.example", "").await), "7");
    // What is refused is no release.
    let refused = bench.api("POST", "/links", r#"{"url":"x"}"#).await;
    refused.assert_problem(422, "invalid_fields");
    assert_eq!(refused.headers.get(HEADER), None);
    let all = bench.api("GET", "/releases", "").await.json();
    let told = |n: usize| (all["releases"][n]["version"].as_u64(), all["releases"][n]["kind"].as_str());
    assert_eq!(
        [told(0), told(2), told(4), told(6), told(7)],
        [
            (Some(7), Some("domain")),
            (Some(5), Some("link")),
            (Some(3), Some("campaign")),
            (Some(1), Some("link")),
            (None, None)
        ]
    );
    let first = json!({"version": 1, "at": "2023-11-14T22:13:20.000Z", "kind": "link", "actor": "control token", "note": "",
        "changes": 1});
    assert_eq!((&all["releases"][6], &all["served"], &all["oldest"]), (&first, &json!(7), &json!(0)));
    let read = bench.api("GET", "/releases/2", "").await.json();
    let entry = &read["entries"][0];
    assert_eq!((&entry["kind"], &entry["name"], &entry["change"]), (&json!("link"), &json!("*/a"), &json!("changed")));
    assert_eq!((&entry["before"]["paused"], &entry["after"]["paused"]), (&json!(false), &json!(true)));
    let read = bench.api("GET", "/releases/6", "").await.json();
    let entry = &read["entries"][0];
    assert_eq!(
        (&entry["kind"], &entry["name"], &entry["before"]),
        (&json!("domain"), &json!("shop.example"), &Value::Null)
    );
    assert_eq!((&entry["after"]["domain"], &entry["after"]["record_orphans"]), (&json!("shop.example"), &json!(true)));
}

#[tokio::test]
async fn releases_are_paged_newest_first() {
    let bench = Bench::new().await;
    bench.link("a").await;
    for _ in 0..4 {
        bench.api("PATCH", "/links/a", "{}").await;
    }
    let (mut path, mut seen) = ("/releases?limit=2".to_owned(), Vec::new());
    loop {
        let page = bench.api("GET", &path, "").await.json();
        assert!(page["releases"].as_array().unwrap().len() <= 2, "{page}");
        seen.extend(page["releases"].as_array().unwrap().iter().map(|one| one["version"].as_u64().unwrap()));
        let Some(next) = page["next_cursor"].as_str() else { break };
        path = format!("/releases?limit=2&cursor={next}");
    }
    assert_eq!(seen, [5, 4, 3, 2, 1]);
    for bad in
        ["cursor=", "cursor=r1.", "cursor=r1.x", "cursor=r1.%2B5", "cursor=c1.5", "cursor=r1.99999999999999999999"]
    {
        bench.api("GET", &format!("/releases?{bad}"), "").await.assert_problem(400, "invalid_cursor");
    }
    for bad in ["limit=0", "limit=1001", "page=2"] {
        bench.api("GET", &format!("/releases?{bad}"), "").await.assert_problem(400, "invalid_parameter");
    }
}

#[tokio::test]
async fn a_diff_is_the_net_change_and_can_be_asked_for_backwards() {
    let bench = Bench::new().await;
    for slug in ["a", "b", "c"] {
        bench.link(slug).await;
    }
    bench.api("PATCH", "/links/a", r#"{"tags":["x"]}"#).await;
    bench.api("PATCH", "/links/a", r#"{"tags":[]}"#).await;
    bench.api("PATCH", "/links/b", r#"{"tags":["y"]}"#).await;
    bench.api("DELETE", "/links/c", "").await;
    let entries = async |query: &str| {
        let diff = bench.api("GET", &format!("/releases/diff?{query}"), "").await.json();
        let entries = diff["entries"].as_array().unwrap_or_else(|| panic!("{diff}")).clone();
        entries.iter().map(|one| format!("{} {}", one["name"], one["change"]).replace('"', "")).collect::<Vec<_>>()
    };
    assert_eq!(entries("from=0").await, ["*/a added", "*/b added"], "what came and went is no difference");
    assert_eq!(entries("from=3&to=7").await, ["*/b changed", "*/c removed"], "changed and changed back is none");
    assert_eq!(entries("from=7&to=3").await, ["*/b changed", "*/c added"]);
    assert!(entries("from=7&to=7").await.is_empty());
    let page = bench.api("GET", "/releases/diff?from=3&to=7&limit=2", "").await.json();
    assert_eq!((page["entries"].as_array().unwrap().len(), &page["next_cursor"]), (1, &json!("c1.link.*/b")));
    assert_eq!(entries("from=3&to=7&limit=2&cursor=c1.link.*/b").await, ["*/c removed"]);
    for (query, field) in [("", "from"), ("from=x", "from"), ("from=1&to=-1", "to"), ("from=1&to=", "to")] {
        let answer = bench.api("GET", &format!("/releases/diff?{query}"), "").await;
        assert_eq!(answer.assert_problem(400, "invalid_parameter"), [field]);
    }
    bench.api("GET", "/releases/diff?from=1&to=8", "").await.assert_problem(404, "unknown_release");
    bench.api("GET", "/releases/diff?from=1&cursor=x", "").await.assert_problem(400, "invalid_cursor");
}

#[tokio::test]
async fn a_roll_back_is_a_new_release_with_versions_that_grow() {
    let bench = Bench::new().await;
    bench.link("a").await;
    bench.link("b").await;
    bench.api("PATCH", "/links/a", r#"{"tags":["x"]}"#).await;
    bench.api("DELETE", "/links/b", "").await;
    bench.link("new").await;
    bench.api("PUT", "/campaigns/c", r#"{"fallback_url":"https://f.example/"}"#).await;
    let done = bench.api("POST", "/releases/2/rollback", "").await;
    let told = json!({"version": 7, "target": 2, "nothing_to_do": false, "added": 1, "changed": 1, "removed": 2});
    assert_eq!((done.status, version(&done), done.json()), (StatusCode::OK, "7", told));
    let a = bench.api("GET", "/links/a", "").await.json();
    let b = bench.api("GET", "/links/b", "").await.json();
    assert_eq!(
        (&a["tags"], &a["version"], &b["version"]),
        (&json!([]), &json!(3), &json!(2)),
        "no version comes twice"
    );
    bench.api("GET", "/links/new", "").await.assert_problem(404, "unknown_link");
    bench.api("GET", "/campaigns/c", "").await.assert_problem(404, "unknown_campaign");
    // The same again changes nothing, and says so.
    let again = bench.api("POST", "/releases/2/rollback", "").await;
    assert_eq!((version(&again), &again.json()["nothing_to_do"]), ("7", &json!(true)));
    // And back again: a roll-back is a release like any other.
    let back = bench.api("POST", "/releases/6/rollback", "").await;
    assert_eq!((version(&back), &back.json()["removed"]), ("8", &json!(1)));
    assert_eq!(bench.api("GET", "/campaigns/c", "").await.json()["version"], json!(2));
}

#[tokio::test]
async fn a_roll_back_to_what_would_be_refused_today_names_every_fault_and_changes_nothing() {
    let bench = Bench::new().await;
    let make = |slug: &str| format!(r#"{{"slug":"{slug}","url":"https://later.example/{slug}"}}"#);
    bench.api("POST", "/links", &make("a")).await;
    bench.api("POST", "/links", &make("b")).await;
    bench.link("fine").await;
    for slug in ["a", "b", "fine"] {
        bench.api("DELETE", &format!("/links/{slug}"), "").await;
    }
    bench.domains.set_own_hosts(OwnHosts { hosts: vec!["later.example".into()], ..OwnHosts::default() });
    let refused = bench.api("POST", "/releases/3/rollback", "").await;
    assert_eq!(refused.assert_problem(422, "rollback_refused"), ["link */a url", "link */b url"]);
    assert_eq!(bench.links.len(), 0);
    bench.fake.away.store(true, Ordering::Relaxed);
    bench.api("POST", "/releases/0/rollback", "").await.assert_problem(503, "catalog_unavailable");
    bench.fake.away.store(false, Ordering::Relaxed);
    assert_eq!(bench.api("GET", "/releases", "").await.json()["served"], json!(6));
}

#[tokio::test]
async fn a_roll_back_in_a_full_catalog_counts_what_goes() {
    let bench = Bench::new().await;
    for slug in ["a", "b", "c"] {
        bench.link(slug).await;
    }
    for slug in ["a", "b"] {
        bench.api("DELETE", &format!("/links/{slug}"), "").await;
    }
    for slug in ["d", "e"] {
        bench.link(slug).await;
    }
    let done = bench.api("POST", "/releases/3/rollback", "").await;
    assert_eq!((done.status, bench.links.len()), (StatusCode::OK, 3));
}

#[tokio::test]
async fn releases_that_never_were_and_those_no_longer_kept_are_told_apart() {
    let bench = Bench::new().await;
    for slug in ["a", "b", "c"] {
        bench.link(slug).await;
    }
    bench.fake.oldest.store(1, Ordering::Relaxed);
    for (method, path) in [
        ("POST", "/releases/4/rollback"),
        ("GET", "/releases/4"),
        ("GET", "/releases/0"),
        ("GET", "/releases/x"),
        ("POST", "/releases/-1/rollback"),
    ] {
        bench.api(method, path, "").await.assert_problem(404, "unknown_release");
    }
    for (method, path) in [("POST", "/releases/0/rollback"), ("GET", "/releases/1"), ("GET", "/releases/diff?from=0")] {
        bench.api(method, path, "").await.assert_problem(410, "release_gone");
    }
    assert_eq!(bench.api("POST", "/releases/1/rollback", "").await.json()["removed"], json!(2));
}

#[tokio::test]
async fn propagation_says_which_release_the_node_serves() {
    let bench = Bench::new().await;
    bench.link("a").await;
    bench.link("b").await;
    let told = bench.api("GET", "/propagation?version=1", "").await.json();
    let node = json!({"node": "n-1", "serving": 2, "serves": true});
    assert_eq!(told, json!({"version": 1, "nodes": [node], "everywhere": true}));
    bench.api("GET", "/propagation?version=3", "").await.assert_problem(404, "unknown_release");
    for bad in ["", "?version=", "?version=x", "?version=1&node=n"] {
        bench.api("GET", &format!("/propagation{bad}"), "").await.assert_problem(400, "invalid_parameter");
    }
    // It is answered from memory.
    bench.fake.away.store(true, Ordering::Relaxed);
    assert_eq!(bench.api("GET", "/propagation?version=2", "").await.status, StatusCode::OK);
}

#[tokio::test]
async fn a_client_that_goes_away_leaves_no_half_made_link() {
    let bench = Bench::new().await;
    {
        let mut made = std::pin::pin!(bench.link("a"));
        let mut once = std::task::Context::from_waker(std::task::Waker::noop());
        assert!(made.as_mut().poll(&mut once).is_pending());
    }
    // What was begun goes on without the client.
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert_eq!(bench.fake.links.lock().unwrap().len(), 1, "kept");
    assert_eq!(bench.api("GET", "/links/a", "").await.status, StatusCode::OK, "and live");
}
