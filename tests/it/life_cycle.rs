//! The life of links: not yet, alive, expired; and what asks for them without being a click of a person.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use trellis::clock::{Clock as _, SystemClock, rfc_3339};

use crate::harness::{Response, Trellis, eventually};

const CHROME: &str =
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Safari/537.36";
const PAST: &str = "2001-01-01T00:00:00Z";
const FUTURE: &str = "2999-01-01T00:00:00Z";

/// A link to `https://own.example/`, with these fields beside.
fn link(trellis: &Trellis, slug: &str, fields: Value) {
    let mut body = json!({"slug": slug, "url": "https://own.example/"});
    body.as_object_mut().expect("an object").extend(fields.as_object().expect("an object").clone());
    let made = trellis.api("POST", "/api/v1/links", Some(&body.to_string()));
    assert_eq!(made.status, 201, "{}", made.json());
}

fn change(trellis: &Trellis, slug: &str, body: Value) {
    let changed = trellis.api("PATCH", &format!("/api/v1/links/{slug}"), Some(&body.to_string()));
    assert_eq!(changed.status, 200, "{}", changed.json());
}

/// Everything that does not change from one answer to the next.
fn lasting(answer: &Response) -> BTreeMap<&str, &str> {
    let headers = answer.headers.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    headers.filter(|(name, _)| !["date", "x-click-id"].contains(name)).collect()
}

fn outcome(trellis: &Trellis, name: &str) -> f64 {
    trellis.metric(&format!("trellis_redirects_total{{outcome=\"{name}\"}}"))
}

#[test]
fn before_its_start_a_link_is_unknown_and_after_its_end_it_is_gone() {
    let trellis = Trellis::start();
    link(
        &trellis,
        "early",
        json!({"starts_at": FUTURE, "expires_at": "2999-01-02T00:00:00Z", "expired_url": "https://b.example/"}),
    );
    link(&trellis, "alive", json!({"starts_at": PAST, "expires_at": FUTURE, "expired_url": "https://b.example/"}));
    link(&trellis, "over", json!({"expires_at": PAST}));
    let (early, unknown) = (trellis.get("/early"), trellis.get("/nothing"));
    assert_eq!(
        (early.status, &early.body, lasting(&early)),
        (404, &unknown.body, lasting(&unknown)),
        "nobody learns of it"
    );
    assert_eq!((outcome(&trellis, "unknown_link"), outcome(&trellis, "expired")), (2.0, 0.0));
    let over = trellis.get("/over");
    assert_eq!((over.status, over.header("content-type")), (410, Some("application/problem+json")));
    assert_eq!((&over.json()["code"], &over.json()["status"]), (&json!("expired_link"), &json!(410)));
    assert_eq!((over.header("cache-control"), over.header("x-click-id")), (Some("no-store"), None));
    assert_eq!((outcome(&trellis, "unknown_link"), outcome(&trellis, "expired")), (2.0, 1.0));
    assert_eq!(trellis.get("/alive").header("location"), Some("https://own.example/"));
    // A paused link stays unknown, whatever else it is.
    change(&trellis, "over", json!({"paused": true}));
    assert_eq!(trellis.get("/over").status, 404);
    trellis.wait_stored(1);
    assert_eq!(trellis.metric("trellis_clicks_accepted_total"), 1.0, "neither of the others is a click");
}

#[test]
fn an_expired_link_goes_to_its_expired_url_past_its_campaign_and_the_click_says_so() {
    let trellis = Trellis::start();
    let campaign = json!({"rules": [{"name": "all", "to": [{"url": "https://campaign.example/"}]}]});
    assert_eq!(trellis.api("PUT", "/api/v1/campaigns/c", Some(&campaign.to_string())).status, 201);
    let expired = json!({
        "campaign": "c", "status": 307, "query": "forward", "expires_at": PAST,
        "expired_url": "https://over.example/{slug}?id={click_id}&ext={external_click_id}",
    });
    link(&trellis, "a", expired);
    let answer = trellis.edge_request("GET", "/a?click_id=x%26y", &[("User-Agent", CHROME)]);
    let id = answer.header("x-click-id").expect("an id").to_owned();
    let place = format!("https://over.example/a?id={id}&ext=x%26y&click_id=x%26y");
    assert_eq!((answer.status, answer.header("location")), (307, Some(place.as_str())));
    change(&trellis, "a", json!({"expires_at": FUTURE}));
    assert_eq!(trellis.get("/a").header("location"), Some("https://campaign.example/"));
    trellis.wait_stored(2);
    let clicks = trellis.clicks();
    let click = clicks.iter().find(|click| click["click_id"] == id.as_str()).expect("the first click");
    for (column, value) in [
        ("rule", json!("")),
        ("variant", json!("expired")),
        ("campaign", json!("c")),
        ("destination", json!(place)),
        ("status", json!(307)),
        ("class", json!("human")),
        ("route_version", json!(1)),
    ] {
        assert_eq!(click[column], value, "{column}");
    }
    assert_eq!(outcome(&trellis, "redirected"), 2.0);
    assert_eq!(
        (outcome(&trellis, "expired"), trellis.metric("trellis_decisions_total{strategy=\"weighted\"}")),
        (0.0, 1.0)
    );
}

#[test]
fn a_constant_expired_url_is_not_taken_for_the_links_own() {
    let trellis = Trellis::start();
    link(&trellis, "a", json!({"expires_at": PAST, "expired_url": "https://over.example/"}));
    assert_eq!(trellis.get("/a").header("location"), Some("https://over.example/"));
}

#[test]
fn a_link_starts_and_expires_by_itself_at_its_time_and_the_first_visit_sees_it() {
    // One thread: the time of its last turn is long over when it is asked again.
    let trellis = Trellis::start_with(&[("edge.threads", "1")]);
    let clock = SystemClock::new();
    let at_ms = clock.wall_ms() + 1_500;
    link(&trellis, "starts", json!({"starts_at": rfc_3339(at_ms)}));
    link(&trellis, "ends", json!({"expires_at": rfc_3339(at_ms)}));
    let statuses = || ["/starts", "/ends"].map(|path| trellis.get(path).status);
    let before = statuses();
    // On a machine that stood still meanwhile there is nothing to be seen of the time before.
    assert!(before == [404, 302] || clock.wall_ms() >= at_ms, "{before:?}");
    eventually("the time has come", || clock.wall_ms() >= at_ms);
    assert_eq!(trellis.get("/ends").status, 410);
    assert_eq!(trellis.get("/starts").status, 302);
}

#[test]
fn times_are_changed_and_removed_and_survive_a_restart() {
    let mut trellis = Trellis::start();
    link(&trellis, "a", json!({"expires_at": PAST, "expired_url": "https://over.example/"}));
    link(&trellis, "b", json!({"starts_at": FUTURE}));
    link(&trellis, "c", json!({"expires_at": PAST}));
    let statuses = |trellis: &Trellis| ["/a", "/b", "/c"].map(|path| trellis.get(path).status);
    assert_eq!(statuses(&trellis), [302, 404, 410]);
    let before = trellis.api("GET", "/api/v1/links", None).json();
    assert_eq!(trellis.stop().code(), Some(0));
    let trellis = Trellis::start_in(trellis.folder(), &[]);
    assert_eq!((statuses(&trellis), trellis.api("GET", "/api/v1/links", None).json()), ([302, 404, 410], before));
    change(&trellis, "a", json!({"expired_url": null}));
    change(&trellis, "b", json!({"starts_at": null}));
    change(&trellis, "c", json!({"expires_at": null}));
    assert_eq!(statuses(&trellis), [410, 302, 302]);
}

#[test]
fn the_command_line_sets_times_and_tells_what_is_wrong_with_them() {
    let trellis = Trellis::start();
    let add =
        |more: &[&str]| trellis.cli(&[&["link", "add", "https://own.example/", "--slug", "a"][..], more].concat());
    let refused = add(&["--starts-at", "soon", "--expired-url", "nowhere"]);
    let errors = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(1), "{errors}");
    assert!(errors.contains("\n  starts_at: must be a time") && errors.contains("\n  expired_url: "), "{errors}");
    let added =
        add(&["--starts-at", PAST, "--expires-at", "2002-01-01T00:00:00+02:00", "--expired-url", "https://b.example/"]);
    assert!(added.status.success(), "{added:?}");
    let shown = trellis.api("GET", "/api/v1/links/a", None).json();
    let life = ["starts_at", "expires_at", "expired_url"].map(|field| shown[field].as_str().expect("a text"));
    assert_eq!(life, ["2001-01-01T00:00:00.000Z", "2001-12-31T22:00:00.000Z", "https://b.example/"]);
    assert_eq!(trellis.get("/a").header("location"), Some("https://b.example/"));
}

#[test]
fn head_answers_the_headers_of_get_whatever_becomes_of_the_link() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("links.json");
    std::fs::write(&file, "[{}]").expect("a file");
    let trellis = Trellis::start_with(&[("edge.assetlinks", file.to_str().expect("text"))]);
    link(&trellis, "alive", json!({"status": 308}));
    link(&trellis, "moved", json!({"expires_at": PAST, "expired_url": "https://over.example/"}));
    link(&trellis, "over", json!({"expires_at": PAST}));
    for (path, status) in [
        ("/alive", 308),
        ("/moved", 302),
        ("/over", 410),
        ("/nothing", 404),
        ("/robots.txt", 200),
        ("/.well-known/assetlinks.json", 200),
    ] {
        let [get, head] = ["GET", "HEAD"].map(|method| trellis.edge_request(method, path, &[("User-Agent", CHROME)]));
        assert_eq!((get.status, lasting(&get)), (status, lasting(&head)), "{path}");
        assert_eq!((head.status, head.body.len()), (status, 0), "{path}");
        let ids = [&get, &head].map(|answer| answer.header("x-click-id").map(str::len));
        assert_eq!(ids, [(300..400).contains(&status).then_some(36); 2], "{path}");
    }
    trellis.wait_stored(4);
    assert_eq!(trellis.count("")["by_class"], json!({"human": 2, "head": 2}));
    assert_eq!(trellis.count("link=moved")["by_class"], json!({"human": 1, "head": 1}));
}

#[test]
fn who_looks_ahead_is_recorded_as_prefetch_in_each_spelling() {
    let trellis = Trellis::start();
    link(&trellis, "a", json!({}));
    let ahead = [
        ("Sec-Purpose", "prefetch"),
        ("Sec-Purpose", "prefetch;prerender"),
        ("sec-purpose", "PRERENDER"),
        ("Purpose", "prefetch"),
        ("Purpose", "prerender"),
    ];
    let others = [("Sec-Purpose", "fetch"), ("Purpose", ""), ("X-Purpose", "prefetch")];
    for (number, header) in ahead.iter().chain(&others).enumerate() {
        let path = format!("/a?click_id={number}");
        assert_eq!(trellis.edge_request("GET", &path, &[("User-Agent", CHROME), *header]).status, 302, "{header:?}");
    }
    trellis.wait_stored(8);
    assert_eq!(trellis.count("")["by_class"], json!({"prefetch": 5, "human": 3}));
}

#[test]
fn association_files_are_answered_as_they_are_and_are_unknown_without_the_setting() {
    const PATHS: [&str; 3] =
        ["/.well-known/apple-app-site-association", "/apple-app-site-association", "/.well-known/assetlinks.json"];
    let plain = Trellis::start();
    for path in PATHS {
        assert_eq!(plain.get(path).json()["code"], "unknown_link", "{path}");
    }
    assert_eq!((outcome(&plain, "unknown_link"), outcome(&plain, "other")), (3.0, 0.0));
    let taken =
        plain.api("POST", "/api/v1/links", Some(r#"{"slug":"apple-app-site-association","url":"https://a.example/"}"#));
    assert_eq!((taken.status, &taken.json()["errors"][0]["pointer"]), (422, &json!("/slug")));

    let folder = tempfile::tempdir().expect("a folder");
    let file = |name: &str, text: &str| {
        std::fs::write(folder.path().join(name), text).expect("a file");
        folder.path().join(name).to_str().expect("text").to_owned()
    };
    let (apple, android) = (r#"{ "applinks": {"details": []} }"#, "[ {\"relation\": []} ]\n");
    let settings =
        [("edge.apple_app_site_association", file("a", apple)), ("edge.assetlinks", file("b.json", android))];
    let trellis = Trellis::start_with(&settings.each_ref().map(|(key, path)| (*key, path.as_str())));
    for (path, text) in PATHS.into_iter().zip([apple, apple, android]) {
        for path in [path.to_owned(), format!("{path}?x=1")] {
            let answer = trellis.get(&path);
            assert_eq!((answer.status, answer.header("content-type")), (200, Some("application/json")), "{path}");
            assert_eq!((answer.body.as_slice(), answer.header("location")), (text.as_bytes(), None), "{path}");
        }
    }
    assert_eq!((outcome(&trellis, "other"), outcome(&trellis, "unknown_link")), (6.0, 0.0));
    assert_eq!(trellis.metric("trellis_clicks_accepted_total"), 0.0);
    for path in ["/.well-known/assetlinks.json/", "/assetlinks.json", "/.well-known/"] {
        assert_eq!(trellis.get(path).status, 404, "{path}");
    }
}

#[test]
fn check_tells_of_an_association_file_that_is_not_there_or_no_json() {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(
        folder.path().join("my.toml"),
        "[edge]\napple_app_site_association = \"none.json\"\nassetlinks = \"my.toml\"\n",
    )
    .expect("a file");
    let output = std::process::Command::new(crate::harness::BINARY)
        .args(["check", "--config", "my.toml"])
        .current_dir(folder.path())
        .env_clear()
        .output()
        .expect("the program starts");
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(64), "{errors}");
    for line in [
        "my.toml:2: edge.apple_app_site_association = \"none.json\": the file cannot be read: No such file",
        "my.toml:3: edge.assetlinks = \"my.toml\": the file is no JSON: ",
    ] {
        assert!(errors.lines().any(|told| told.starts_with(line)), "no line\n{line}\nin\n{errors}");
    }
}
