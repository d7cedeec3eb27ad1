//! The control API on the real binary: links and clicks as operators see them, and everything it refuses.

use serde_json::{Value, json};

use crate::harness::{Response, Trellis};

const LINKS: &str = "/api/v1/links";

fn post(trellis: &Trellis, body: &Value) -> Response {
    trellis.api("POST", LINKS, Some(&body.to_string()))
}

/// Slugs of a page, and where the next one begins.
fn page(trellis: &Trellis, query: &str) -> (Vec<String>, Option<String>) {
    let answer = trellis.api("GET", &format!("{LINKS}{query}"), None);
    assert_eq!(answer.status, 200, "{answer:?}");
    let body = answer.json();
    let links = body["links"].as_array().expect("a list");
    let slugs = links.iter().map(|link| link["slug"].as_str().expect("a slug").to_owned()).collect();
    (slugs, body["next_cursor"].as_str().map(str::to_owned))
}

/// Asserts a problem with this status and code, and gives the names of the wrong fields.
#[track_caller]
fn problem(answer: &Response, status: u16, code: &str) -> Vec<String> {
    assert_eq!(answer.status, status, "{}", String::from_utf8_lossy(&answer.body));
    assert_eq!(answer.header("content-type"), Some("application/problem+json"));
    let body = answer.json();
    assert_eq!((&body["code"], &body["status"]), (&json!(code), &json!(status)));
    assert!(body["type"].is_string() && body["title"].is_string() && body["detail"].is_string(), "{body}");
    let errors = body["errors"].as_array().cloned().unwrap_or_default();
    errors.iter().map(|error| error["field"].as_str().expect("a name").to_owned()).collect()
}

#[test]
fn a_link_is_created_read_changed_and_deleted() {
    let trellis = Trellis::start();
    let made = post(
        &trellis,
        &json!({ "slug": "spring", "url": "https://a.example/?c={click_id}", "status": 307, "query": "forward",
            "campaign": "mail", "tags": ["a", "b"], "external_id": "x-1" }),
    );
    assert_eq!((made.status, made.header("location")), (201, Some("/api/v1/links/spring")));
    let link = made.json();
    for (field, value) in [
        ("slug", json!("spring")),
        ("url", json!("https://a.example/?c={click_id}")),
        ("status", json!(307)),
        ("query", json!("forward")),
        ("campaign", json!("mail")),
        ("paused", json!(false)),
        ("tags", json!(["a", "b"])),
        ("external_id", json!("x-1")),
        ("version", json!(1)),
    ] {
        assert_eq!(link[field], value, "{field}");
    }
    let created = link["created_at"].as_str().expect("a time");
    assert!(created.parse::<jiff::Timestamp>().is_ok() && link["updated_at"] == created, "{link}");
    assert_eq!(trellis.api("GET", "/api/v1/links/spring", None).json(), link);

    let changed = trellis.api("PATCH", "/api/v1/links/spring", Some(r#"{"campaign":"","status":302}"#));
    assert_eq!((changed.status, &changed.json()["version"]), (200, &json!(2)));
    assert_eq!((&changed.json()["campaign"], &changed.json()["tags"]), (&json!(""), &json!(["a", "b"])));
    assert_eq!(trellis.api("GET", "/api/v1/links/spring", None).json(), changed.json());

    let deleted = trellis.api("DELETE", "/api/v1/links/spring", None);
    assert_eq!((deleted.status, deleted.body.len()), (204, 0));
    for (method, body) in [("GET", None), ("PATCH", Some("{}")), ("DELETE", None)] {
        problem(&trellis.api(method, "/api/v1/links/spring", body), 404, "unknown_link");
    }
}

#[test]
fn an_edit_is_live_on_the_edge_when_it_is_answered() {
    let trellis = Trellis::start();
    let location = || trellis.get("/a").header("location").map(str::to_owned);
    assert_eq!(location(), None);
    for n in 0..20 {
        let (first, second) = (format!("https://a.example/{n}"), format!("https://b.example/{n}"));
        trellis.link("a", &first);
        assert_eq!(location(), Some(first));
        let change = json!({ "url": second, "status": 308 }).to_string();
        assert_eq!(trellis.api("PATCH", "/api/v1/links/a", Some(&change)).status, 200);
        assert_eq!((location(), trellis.get("/a").status), (Some(second), 308));
        assert_eq!(trellis.api("DELETE", "/api/v1/links/a", None).status, 204);
        assert_eq!(trellis.get("/a").status, 404);
    }
}

#[test]
fn pages_of_links_follow_each_other_also_while_links_come_and_go() {
    let trellis = Trellis::start();
    for n in 0..25 {
        trellis.link(&format!("s{n:02}"), "https://a.example/");
    }
    let (first, cursor) = page(&trellis, "?limit=10");
    assert_eq!((first.len(), first[0].as_str()), (10, "s00"));
    // The link that the cursor names is removed, and one is made behind it.
    assert_eq!(trellis.api("DELETE", "/api/v1/links/s09", None).status, 204);
    trellis.link("s09-new", "https://a.example/");
    let (second, cursor) = page(&trellis, &format!("?limit=10&cursor={}", cursor.expect("more")));
    let expected: Vec<String> = std::iter::once("s09-new".into()).chain((10..19).map(|n| format!("s{n}"))).collect();
    assert_eq!(second, expected);
    let (third, cursor) = page(&trellis, &format!("?limit=10&cursor={}", cursor.expect("more")));
    assert_eq!((third.len(), cursor), (6, None));
    assert_eq!(page(&trellis, "").0.len(), 25, "100 a page unless asked otherwise");
    for bad in ["", "s09", "l1.s09", "l2.", "l2.*/%20", "c1.s09", "L2.*/s09"] {
        problem(&trellis.api("GET", &format!("{LINKS}?cursor={bad}"), None), 400, "invalid_cursor");
    }
    for bad in ["limit=0", "limit=1001", "limit=x", "page=2"] {
        problem(&trellis.api("GET", &format!("{LINKS}?{bad}"), None), 400, "invalid_parameter");
    }
}

#[test]
fn a_restart_loses_no_link_and_no_edit() {
    let mut trellis = Trellis::start();
    for slug in ["kept", "changed", "gone", "paused"] {
        trellis.link(slug, "https://a.example/");
    }
    let patch = |trellis: &Trellis, slug: &str, body: &str| {
        assert_eq!(trellis.api("PATCH", &format!("{LINKS}/{slug}"), Some(body)).status, 200);
    };
    patch(&trellis, "changed", r#"{"url":"https://b.example/"}"#);
    patch(&trellis, "paused", r#"{"paused":true}"#);
    assert_eq!(trellis.api("DELETE", "/api/v1/links/gone", None).status, 204);
    let before = trellis.api("GET", LINKS, None).json();
    let assert_same = |trellis: &Trellis| {
        assert_eq!(trellis.api("GET", LINKS, None).json(), before);
        assert_eq!(trellis.get("/kept").header("location"), Some("https://a.example/"));
        assert_eq!(trellis.get("/changed").header("location"), Some("https://b.example/"));
        assert_eq!((trellis.get("/gone").status, trellis.get("/paused").status), (404, 404));
    };
    assert_eq!(trellis.stop().code(), Some(0));
    let mut trellis = Trellis::start_in(trellis.folder(), &[]);
    assert_same(&trellis);
    trellis.kill();
    assert_same(&Trellis::start_in(trellis.folder(), &[]));
}

#[test]
fn bad_urls_are_refused_with_the_field_and_the_reason() {
    let trellis = Trellis::start_with(&[("edge.public_hosts", "go.example")]);
    let own = format!("http://{}/x", trellis.edge());
    let long = format!("https://a.example/{}", "x".repeat(4096));
    for (url, reason) in [
        ("", "missing"),
        ("ftp://a.example/", "scheme"),
        ("javascript:alert(1)", "scheme"),
        ("/relative", "absolute"),
        ("https://", "absolute"),
        ("https://user:secret@a.example/", "user information"),
        ("https://a.example/\u{1}", "character"),
        ("https://a.example/\r\nX: y", "character"),
        ("https://a.example\\@b.example/", "character"),
        ("https://a.example/{nope}", "macro"),
        (&long, "4096"),
        ("https://go.example/x", "loop"),
        ("https://GO.example./x", "loop"),
        (&own, "loop"),
    ] {
        let answer = post(&trellis, &json!({ "slug": "a", "url": url }));
        assert_eq!(problem(&answer, 422, "invalid_fields"), ["url"], "{url}");
        let detail = answer.json()["errors"][0]["detail"].as_str().unwrap_or_default().to_owned();
        assert!(detail.contains(reason), "{url}: {detail}");
    }
    assert_eq!(page(&trellis, "").0, [""; 0], "nothing was made");
}

#[test]
fn all_wrong_fields_are_named_at_once() {
    let trellis = Trellis::start();
    let wrong = json!({ "slug": "in", "url": "x", "status": 200, "tags": ["x".repeat(129)], "expires_at": 1 });
    assert_eq!(
        problem(&post(&trellis, &wrong), 422, "invalid_fields"),
        ["slug", "url", "status", "tags", "expires_at"]
    );
    let wrong = json!({ "slug": 7, "status": "302", "colour": "red" });
    assert_eq!(problem(&post(&trellis, &wrong), 422, "invalid_fields"), ["colour", "slug", "status"]);
}

#[test]
fn a_refused_write_leaves_nothing_behind() {
    let trellis = Trellis::start_with(&[("control.body_bytes_max", "1KiB"), ("catalog.links_max", "2")]);
    trellis.link("a", "https://a.example/");
    let before = trellis.api("GET", LINKS, None).json();
    let token = format!("Bearer {}", trellis.token());
    let good = json!({ "slug": "b", "url": "https://b.example/" }).to_string();
    let json_type = ("Content-Type", "application/json");

    for body in ["", "{", "[]", "nonsense", r#"{"slug":"b","url":"https://b.example/"} x"#] {
        problem(&trellis.api("POST", LINKS, Some(body)), 400, "invalid_json");
    }
    let large = json!({ "slug": "b", "url": format!("https://b.example/{}", "x".repeat(1024)) });
    problem(&post(&trellis, &large), 413, "body_too_large");
    for headers in [&[("Authorization", &*token)][..], &[("Authorization", &token), ("Content-Type", "text/plain")]] {
        let answer = trellis.api_raw("POST", LINKS, headers, good.as_bytes());
        problem(&answer, 415, "unsupported_media_type");
    }
    for headers in [&[json_type][..], &[json_type, ("Authorization", "Bearer wrong")]] {
        problem(&trellis.api_raw("POST", LINKS, headers, good.as_bytes()), 401, "unauthorized");
        problem(&trellis.api_raw("DELETE", "/api/v1/links/a", headers, b""), 401, "unauthorized");
    }
    problem(&post(&trellis, &json!({ "slug": "a", "url": "https://b.example/" })), 409, "slug_taken");
    for change in [r#"{"url":"ftp://b.example/"}"#, r#"{"slug":"b"}"#, r#"{"campaign":null}"#, r#"{"paused":1}"#] {
        problem(&trellis.api("PATCH", "/api/v1/links/a", Some(change)), 422, "invalid_fields");
    }
    assert_eq!(trellis.api("GET", LINKS, None).json(), before);
    assert_eq!((trellis.get("/a").header("location"), trellis.get("/b").status), (Some("https://a.example/"), 404));
    // The slug that was refused so often is free.
    trellis.link("b", "https://b.example/");
    problem(&post(&trellis, &json!({ "slug": "c", "url": "https://c.example/" })), 507, "catalog_full");
    assert_eq!(trellis.get("/c").status, 404);
}

#[test]
fn of_many_who_want_one_slug_one_gets_it() {
    let trellis = Trellis::start();
    let body = json!({ "slug": "a", "url": "https://a.example/" });
    let statuses: Vec<u16> = std::thread::scope(|scope| {
        let posts: Vec<_> = (0..8).map(|_| scope.spawn(|| post(&trellis, &body).status)).collect();
        posts.into_iter().map(|post| post.join().expect("an answer")).collect()
    });
    assert_eq!(statuses.iter().filter(|status| **status == 201).count(), 1, "{statuses:?}");
    assert_eq!(statuses.iter().filter(|status| **status == 409).count(), 7, "{statuses:?}");
}

#[test]
fn without_the_token_every_path_of_the_api_answers_alike() {
    let trellis = Trellis::start();
    trellis.link("a", "https://a.example/");
    let expected = trellis.api_raw("GET", LINKS, &[], b"");
    problem(&expected, 401, "unauthorized");
    assert_eq!(expected.header("www-authenticate"), Some("Bearer"));
    let token = trellis.token();
    let (almost, basic) = (format!("Bearer {}", &token[1..]), format!("Basic {token}"));
    for path in
        [LINKS, "/api/v1/links/a", "/api/v1/clicks", "/api/v1/clicks/count", "/api/v1/nothing", "/api/v1/", "/api/v1"]
    {
        for headers in
            [&[][..], &[("Authorization", &*almost)], &[("Authorization", &*basic)], &[("Authorization", "")]]
        {
            let answer = trellis.api_raw("GET", path, headers, b"");
            assert_eq!((answer.status, &answer.body), (401, &expected.body), "{path} {headers:?}");
        }
    }
    problem(&trellis.api("GET", "/api/v1/nothing", None), 404, "not_found");
    problem(&trellis.api("PUT", LINKS, Some("{}")), 405, "method_not_allowed");
    let document = trellis.api_raw("GET", "/api/v1/openapi.json", &[], b"");
    assert_eq!((document.status, &document.json()["openapi"]), (200, &json!("3.1.0")), "it is open");
}

#[test]
fn health_names_the_dependencies_and_is_open() {
    let trellis = Trellis::start();
    let alive = trellis.api_raw("GET", "/health", &[], b"");
    assert_eq!((alive.status, &alive.json()["status"]), (200, &json!("ok")));
    assert_eq!(alive.json()["version"], env!("CARGO_PKG_VERSION"));
    let ready = trellis.api_raw("GET", "/health/ready", &[], b"");
    assert_eq!((ready.status, ready.header("content-type")), (200, Some("application/json")));
    let expected = json!({ "ready": true, "state": "serving", "dependencies": {
        "catalog": { "up": true, "backend": "sqlite" },
        "dedup": { "up": true, "backend": "memory" },
        "store": { "up": true, "backend": "sqlite" },
    } });
    // The store's table may be made a moment after the first probe.
    crate::harness::eventually("every dependency is up", || {
        trellis.api_raw("GET", "/health/ready", &[], b"").json() == expected
    });
    let metrics = trellis.api_raw("GET", "/metrics", &[], b"");
    assert_eq!(metrics.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
}

#[test]
fn stored_clicks_are_paged_filtered_and_counted() {
    let trellis = Trellis::start();
    trellis.link("a", "https://a.example/");
    post(&trellis, &json!({ "slug": "b", "url": "https://b.example/", "campaign": "mail" }));
    for n in 0..15 {
        let slug = if n % 3 == 0 { "b" } else { "a" };
        assert_eq!(trellis.get(&format!("/{slug}?click_id={n}")).status, 302);
    }
    trellis.wait_stored(15);
    let clicks = |query: &str| trellis.api("GET", &format!("/api/v1/clicks{query}"), None).json();
    let (mut ids, mut query) = (Vec::new(), "?limit=4".to_owned());
    loop {
        let page = clicks(&query);
        let found = page["clicks"].as_array().expect("a list").iter();
        ids.extend(found.map(|click| click["click_id"].as_str().expect("an id").to_owned()));
        let Some(cursor) = page["next_cursor"].as_str() else { break };
        query = format!("?limit=4&cursor={cursor}");
    }
    let mut sorted = ids.clone();
    sorted.sort_by(|a, b| b.cmp(a));
    sorted.dedup();
    assert_eq!((sorted.len(), &sorted), (15, &ids), "newest first, each once");
    assert_eq!(clicks("?link=b")["clicks"].as_array().map(Vec::len), Some(5));
    for (query, total) in
        [("", 15), ("link=b", 5), ("campaign=mail", 5), ("campaign=", 10), ("link=a&campaign=mail", 0)]
    {
        assert_eq!(trellis.count(query)["total"], total, "{query}");
    }
    let oldest = clicks("?limit=15")["clicks"][14]["ts"].as_str().expect("a time").to_owned();
    assert_eq!(trellis.count(&format!("from={oldest}"))["total"], 15);
    assert_eq!(trellis.count(&format!("to={oldest}"))["total"], 0);
    assert_eq!(trellis.count("from=0&to=1")["total"], 0);
    for bad in ["from=5&to=5", "from=yesterday", "limit=3", "slug=a"] {
        problem(&trellis.api("GET", &format!("/api/v1/clicks/count?{bad}"), None), 400, "invalid_parameter");
    }
    problem(&trellis.api("GET", "/api/v1/clicks?cursor=l1.a", None), 400, "invalid_cursor");
}
