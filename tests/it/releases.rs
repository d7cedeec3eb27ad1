//! Releases, roll-backs and revalidation on the real binary.

use rusqlite::Connection;
use serde_json::{Value, json};

use crate::cli::{bad, good, run};
use crate::harness::{Trellis, eventually};

const LINKS: &str = "/api/v1/links";

fn releases(trellis: &Trellis) -> Value {
    trellis.api("GET", "/api/v1/releases", None).json()
}

fn patch(trellis: &Trellis, slug: &str, change: &Value) -> Option<String> {
    let answer = trellis.api("PATCH", &format!("{LINKS}/{slug}"), Some(&change.to_string()));
    assert_eq!(answer.status, 200);
    answer.header("x-catalog-version").map(str::to_owned)
}

fn location(trellis: &Trellis, path: &str) -> Option<String> {
    trellis.get(path).header("location").map(str::to_owned)
}

#[test]
fn the_catalog_goes_back_in_one_call_and_the_edge_serves_it_at_once() {
    let mut trellis = Trellis::start();
    trellis.link("a", "https://a.example/");
    trellis.link("b", "https://b.example/");
    assert_eq!(patch(&trellis, "a", &json!({"url": "https://wrong.example/"})).as_deref(), Some("3"));
    assert_eq!(trellis.api("DELETE", &format!("{LINKS}/b"), None).status, 204);
    trellis.link("c", "https://wrong.example/");
    let campaign = trellis.api("PUT", "/api/v1/campaigns/c", Some(r#"{"fallback_url":"https://f.example/"}"#));
    assert_eq!((campaign.status, campaign.header("x-catalog-version")), (201, Some("6")));

    let done = trellis.api("POST", "/api/v1/releases/2/rollback", None);
    assert_eq!((done.status, done.header("x-catalog-version")), (200, Some("7")));
    let counts = ["added", "changed", "removed"].map(|key| done.json()[key].clone());
    assert_eq!(counts, [json!(1), json!(1), json!(2)]);
    assert_eq!(location(&trellis, "/a").as_deref(), Some("https://a.example/"));
    assert_eq!(location(&trellis, "/b").as_deref(), Some("https://b.example/"));
    assert_eq!((trellis.get("/c").status, trellis.api("GET", "/api/v1/campaigns/c", None).status), (404, 404));
    let told = trellis.api("GET", "/api/v1/propagation?version=7", None).json();
    assert_eq!((&told["everywhere"], &told["nodes"][0]["serving"]), (&json!(true), &json!(7)));
    assert_eq!(trellis.api("GET", "/api/v1/propagation?version=8", None).status, 404);
    for (line, value) in [
        ("trellis_releases_total{kind=\"link\"}", 5.0),
        ("trellis_releases_total{kind=\"campaign\"}", 1.0),
        ("trellis_releases_total{kind=\"rollback\"}", 1.0),
        ("trellis_catalog_version", 7.0),
        ("trellis_catalog_entries{kind=\"link\"}", 2.0),
        ("trellis_catalog_entries{kind=\"campaign\"}", 0.0),
        ("trellis_catalog_entries{kind=\"domain\"}", 0.0),
    ] {
        assert!((trellis.metric(line) - value).abs() < 0.5, "{line}");
    }
    // After a restart it is as it was, and numbers go on.
    let (before, links) = (releases(&trellis), trellis.api("GET", LINKS, None).json());
    trellis.kill();
    let trellis = Trellis::start_in(trellis.folder(), &[]);
    assert_eq!((releases(&trellis), trellis.api("GET", LINKS, None).json()), (before, links));
    assert_eq!(patch(&trellis, "a", &json!({"paused": true})).as_deref(), Some("8"));
    assert_eq!(trellis.get("/a").status, 404);
}

#[test]
fn a_link_of_a_domain_comes_back_with_its_domain_and_is_followed_there() {
    let trellis = Trellis::start();
    trellis.link("a", "https://any.example/");
    let body = json!({"slug": "a", "domain": "go.example", "url": "https://one.example/"}).to_string();
    assert_eq!(trellis.api("POST", LINKS, Some(&body)).header("x-catalog-version"), Some("2"));
    let domain = "/api/v1/domains/go.example";
    let put = trellis.api("PUT", domain, Some(r#"{"root_url":"https://root.example/"}"#));
    assert_eq!((put.status, put.header("x-catalog-version")), (201, Some("3")));
    assert!((trellis.metric("trellis_catalog_entries{kind=\"domain\"}") - 1.0).abs() < 0.5);
    let asked = |path: &str| location(&trellis, &format!("http://go.example{path}"));
    assert_eq!(trellis.api("DELETE", domain, None).header("x-catalog-version"), Some("4"));
    assert_eq!(trellis.api("DELETE", &format!("{LINKS}/a?domain=go.example"), None).status, 204);
    assert_eq!((asked("/a").as_deref(), asked("/")), (Some("https://any.example/"), None));
    let told = good(&trellis.cli(&["releases", "rollback", "3"]));
    assert_eq!(told, "release 6: as at release 3; 2 added, 0 changed, 0 removed\n");
    assert_eq!(asked("/a").as_deref(), Some("https://one.example/"));
    assert_eq!(asked("/").as_deref(), Some("https://root.example/"));
    let shown = good(&trellis.cli(&["releases", "show", "6"]));
    assert_eq!(shown, "added\tdomain\tgo.example\nadded\tlink\tgo.example/a\n");
}

#[test]
fn a_roll_back_that_would_make_a_loop_is_refused_whole() {
    let mut trellis = Trellis::start();
    trellis.link("a", "https://later.example/");
    trellis.link("b", "https://b.example/");
    for slug in ["a", "b"] {
        assert_eq!(trellis.api("DELETE", &format!("{LINKS}/{slug}"), None).status, 204);
    }
    assert_eq!(trellis.stop().code(), Some(0));
    let trellis = Trellis::start_in(trellis.folder(), &[("edge.public_hosts", "later.example")]);
    let refused = trellis.api("POST", "/api/v1/releases/2/rollback", None);
    let told = refused.json();
    assert_eq!((refused.status, &told["code"]), (422, &json!("rollback_refused")));
    assert_eq!(
        (&told["errors"][0]["field"], told["errors"].as_array().map(Vec::len)),
        (&json!("link */a url"), Some(1))
    );
    assert_eq!((trellis.get("/b").status, releases(&trellis)["served"].as_u64()), (404, Some(4)));
}

#[test]
fn releases_are_listed_shown_compared_and_gone_back_to_with_a_node_and_without() {
    let mut trellis = Trellis::start();
    trellis.link("a", "https://a.example/");
    patch(&trellis, "a", &json!({"tags": ["x"]}));
    trellis.link("b", "https://b.example/");
    let listed = good(&trellis.cli(&["releases", "ls"]));
    let rows: Vec<Vec<&str>> = listed.lines().map(|line| line.split('\t').collect()).collect();
    assert_eq!(rows.iter().map(|row| row[0]).collect::<Vec<_>>(), ["3", "2", "1"], "{listed}");
    assert_eq!(rows[0][2..], ["link", "1", "control token", "-"]);
    assert_eq!(good(&trellis.cli(&["releases", "ls", "--limit", "1"])).lines().count(), 1);
    assert_eq!(good(&trellis.cli(&["releases", "show", "2"])), "changed\tlink\t*/a\n");
    assert_eq!(good(&trellis.cli(&["releases", "diff", "1"])), "changed\tlink\t*/a\nadded\tlink\t*/b\n");
    let json: Value = serde_json::from_str(&good(&trellis.cli(&["releases", "show", "2", "--json"]))).expect("JSON");
    assert_eq!((&json["before"]["tags"], &json["after"]["tags"]), (&json!([]), &json!(["x"])));
    let told = good(&trellis.cli(&["releases", "rollback", "1"]));
    assert_eq!(told, "release 4: as at release 1; 0 added, 1 changed, 1 removed\n");
    assert_eq!(trellis.get("/b").status, 404);
    assert!(bad(&trellis.cli(&["releases", "rollback", "9"]), 1).contains("there is no release 9; the newest is 4"));
    assert_eq!(trellis.stop().code(), Some(0));

    let (folder, cli) = (trellis.folder(), |words: &[&str]| run(trellis.data_dir(), words));
    assert_eq!(good(&cli(&["releases", "diff", "4", "3"])), "changed\tlink\t*/a\nadded\tlink\t*/b\n");
    // The audit line goes to standard error.
    let done = cli(&["releases", "rollback", "3"]);
    let (told, audit) = (String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
    assert!(audit.contains("audit=true who=\"command line\" action=\"rollback\""), "{audit}");
    assert_eq!(told, "release 5: as at release 3; 1 added, 1 changed, 0 removed\n");
    let again = cli(&["releases", "rollback", "3"]);
    let told = String::from_utf8_lossy(&again.stdout);
    assert_eq!(told, "nothing to do: the catalog is what it was at release 3\n");
    assert!(good(&cli(&["releases", "ls", "--limit", "1"])).contains("\trollback\t2\tcommand line\tto 3\n"));
    let trellis = Trellis::start_in(folder, &[]);
    assert_eq!(location(&trellis, "/b").as_deref(), Some("https://b.example/"));
}

#[test]
fn a_backup_keeps_the_releases() {
    let trellis = Trellis::start();
    trellis.link("a", "https://a.example/");
    patch(&trellis, "a", &json!({"url": "https://b.example/"}));
    let (place, folder) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
    let backup = place.path().join("backup");
    let backup = backup.to_str().expect("UTF-8");
    good(&trellis.cli(&["backup", backup]));
    good(&run(folder.path(), &["restore", backup]));
    let restored = Trellis::start_in(std::sync::Arc::new(folder), &[]);
    assert_eq!(releases(&restored), releases(&trellis));
    assert_eq!(restored.api("POST", "/api/v1/releases/1/rollback", None).status, 200);
    assert_eq!(location(&restored, "/a").as_deref(), Some("https://a.example/"));
}

#[test]
fn releases_beyond_the_bound_go_and_are_named_as_gone() {
    let trellis = Trellis::start_with(&[("catalog.releases_max", "3")]);
    trellis.link("a", "https://a.example/");
    for n in 0..4 {
        patch(&trellis, "a", &json!({"tags": [n.to_string()]}));
    }
    let listed = releases(&trellis);
    assert_eq!((listed["releases"].as_array().map(Vec::len), &listed["oldest"]), (Some(3), &json!(2)));
    let gone = trellis.api("POST", "/api/v1/releases/1/rollback", None);
    assert_eq!((gone.status, &gone.json()["code"]), (410, &json!("release_gone")));
    assert_eq!(trellis.api("POST", "/api/v1/releases/2/rollback", None).json()["changed"], json!(1));
    assert_eq!(trellis.api("GET", &format!("{LINKS}/a"), None).json()["tags"], json!(["0"]));
}

#[test]
fn what_is_written_past_the_node_is_served_after_a_while() {
    let trellis = Trellis::start_with(&[("catalog.revalidate_after", "100ms")]);
    for slug in ["a", "b"] {
        trellis.link(slug, "https://a.example/");
    }
    let shell = Connection::open(trellis.data_dir().join("catalog.db")).expect("the catalog");
    shell.busy_timeout(std::time::Duration::from_secs(5)).expect("a time-out");
    shell.execute("UPDATE links SET url = 'https://c.example/' WHERE slug = 'a'", []).expect("an edit");
    shell.execute("DELETE FROM links WHERE slug = 'b'", []).expect("an edit");
    eventually("the edits are served", || {
        location(&trellis, "/a").as_deref() == Some("https://c.example/") && trellis.get("/b").status == 404
    });
    assert_eq!(releases(&trellis)["releases"][0]["kind"], json!("outside"));
    assert!(trellis.metric("trellis_catalog_revalidations_total{result=\"refreshed\"}") > 1.5);
    assert!(trellis.metric("trellis_catalog_revalidations_total{result=\"failed\"}") < 0.5);
}

#[test]
fn a_slug_that_was_asked_for_in_vain_is_served_as_soon_as_it_is_made() {
    let trellis = Trellis::start();
    for n in 0..300 {
        assert_eq!(trellis.get(&format!("/later-{n}")).status, 404);
    }
    trellis.link("later-7", "https://a.example/");
    assert_eq!(location(&trellis, "/later-7").as_deref(), Some("https://a.example/"));
    assert!((trellis.metric("trellis_catalog_entries{kind=\"link\"}") - 1.0).abs() < 0.5);
}
