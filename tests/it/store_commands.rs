//! Commands that look after the store, on the real binary and an embedded store.

use std::path::Path;

use crate::harness::Trellis;

/// A database of the data folder, beside the node that runs on it.
fn database(folder: &Path) -> rusqlite::Connection {
    let connection = rusqlite::Connection::open(folder.join("clicks.db")).expect("the file of clicks");
    connection.busy_timeout(std::time::Duration::from_secs(30)).expect("a time-out");
    connection
}

fn printed(output: &std::process::Output) -> (Option<i32>, String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

#[test]
fn verify_shows_what_differs_and_mends_it() {
    let trellis = Trellis::start();
    trellis.link("a", "https://a.example/");
    for _ in 0..3 {
        trellis.get("/a");
    }
    trellis.wait_stored(3);
    let day = ["--from", "2020-01-01T00:00:00Z", "--to", "2020-01-03T00:00:00Z"];
    let verify = |more: &[&str]| printed(&trellis.cli(&[&["verify"], &day[..], more].concat()));
    let good = "rollups say what is stored\n".to_owned();
    assert_eq!(verify(&[]), (Some(0), good.clone(), String::new()));
    // 2020-01-02T00:00:00Z: the second day, so the second request.
    let minute = 26_298_720;
    let plant = || {
        let sql = "INSERT INTO click_counts VALUES (?1, 'nobody', '', 'default', 'human', 'unique', 7)";
        database(trellis.data_dir()).execute(sql, [minute]).expect("a line");
    };
    plant();
    let row = "2020-01-02T00:00:00Z\tminute\t1\t0\t7\n";
    let complaint = "trellis: rollups that do not say what is stored: 1; nothing was changed: it is a dry run\n";
    assert_eq!(verify(&["--dry-run"]), (Some(1), format!("{row}differed: 1\n"), complaint.to_owned()));
    assert_eq!(verify(&[]), (Some(0), format!("{row}differed and mended: 1\n"), String::new()));
    plant();
    let json = "{\"clicks\":0,\"counted\":7,\"from\":\"2020-01-02T00:00:00Z\",\"groups\":1,\"level\":\"minute\"}\n";
    assert_eq!(verify(&["--json"]), (Some(0), json.to_owned(), String::new()));
    assert_eq!(verify(&[]), (Some(0), good, String::new()));
    let (code, _, error) = printed(&trellis.cli(&["verify", "--from", "today", "--to", "0"]));
    assert_eq!((code, error.contains("from: must be a time")), (Some(1), true), "{error}");
}

#[test]
fn the_embedded_store_has_no_months_to_report_or_merge() {
    let trellis = Trellis::start();
    for command in ["report", "optimize"] {
        let (code, said, error) = printed(&trellis.cli(&["store", command]));
        assert_eq!((code, said.as_str()), (Some(1), ""));
        assert!(error.contains("the store `sqlite` keeps no months"), "{error}");
    }
    let body = r#"{"table":"clicks","month":"2026-01"}"#;
    let answer = trellis.api("POST", "/api/v1/store/optimize", Some(body));
    assert_eq!((answer.status, answer.json()["code"].as_str()), (409, Some("not_of_this_store")));
}
