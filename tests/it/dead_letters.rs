//! What the store refused, from the outside: a shelf that an earlier process left, looked at, replayed and dropped by the
//! command line and the API, with a node and without.

use std::path::Path;
use std::process::Output;
use std::sync::Arc;
use std::time::Duration;

use trellis::click::{Click, ClickId, Privacy};
use trellis::clock::{Clock as _, SystemClock};
use trellis::config;
use trellis::pipeline::Label;
use trellis::pipeline::dead_letter::{Refusal, RefusedRow, Shelf};
use trellis::segment::RealDisk;
use uuid::Uuid;

use crate::harness::Trellis;

fn batch(n: u128) -> Uuid {
    Uuid::from_u128(n)
}

/// Puts a row for each of these links on the shelf of a data folder in which no node runs.
fn plant(data_dir: &Path, n: u128, links: &[&str]) {
    let clock = SystemClock::new();
    let now_ms = clock.wall_ms();
    let limits = config::DeadLetter { max_bytes: 1 << 20, keep: Duration::from_secs(3600) };
    let folder = data_dir.join("dead-letters");
    let shelf = Shelf::open(Arc::new(RealDisk), folder, limits, Arc::new(clock), Arc::default()).expect("a shelf");
    let row = |(i, link): (usize, &&str)| {
        let click = Click {
            id: ClickId::new(now_ms + i as u64, &[u8::try_from(n).expect("a small number"); 10]),
            fingerprint: None,
            window: None,
            head: false,
            prefetch: false,
            bound: false,
            marks: Default::default(),
            status: 302,
            route_version: 1,
            address: Some([8, 8, 8, 0].into()),
            country: None,
            privacy: Privacy::default(),
            org: "default",
            campaign: "",
            domain: "*",
            link,
            path: b"",
            rule: "",
            variant: "",
            destination: b"https://a.example/",
            referrer: b"",
            ua: b"curl/8",
            language: b"",
            query: "",
        };
        let mut frame = Vec::new();
        click.encode(&mut frame);
        RefusedRow::new(click.id, Label::Duplicate, 469, "Constraint `c` is violated", frame.into(), now_ms)
    };
    let rows = links.iter().enumerate().map(row).collect();
    shelf.refuse(&Refusal { batch: batch(n), node: "n1".into(), rows }).expect("room on the shelf");
}

#[track_caller]
fn lines(output: &Output) -> Vec<String> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{}{}", text(&output.stdout), text(&output.stderr));
    text(&output.stdout).lines().map(str::to_owned).collect()
}

#[test]
fn a_dead_letter_that_an_earlier_process_left_is_shown_replayed_once_and_dropped() {
    let folder = Arc::new(tempfile::tempdir().expect("a folder"));
    plant(folder.path(), 1, &["spring", "summer"]);
    plant(folder.path(), 2, &["autumn"]);
    let trellis = Trellis::start_in(folder, &[]);
    assert_eq!(trellis.metric("trellis_dead_letter_rows{shelf=\"refused\"}"), 3.0);
    let listed = lines(&trellis.cli(&["dead-letter", "ls"]));
    assert_eq!(listed[0], "backlog\t0 rows\t0 bytes\toldest -");
    assert!(listed[1].starts_with("refused\t3 rows\t"), "{listed:?}");
    assert!(listed[2].starts_with(&format!("{}\t1\t0\t0\t", batch(2))), "newest first: {listed:?}");
    assert!(listed[3].ends_with("\t469\tConstraint `c` is violated"), "{listed:?}");
    let (first, second) = (batch(1).to_string(), batch(2).to_string());
    let shown = lines(&trellis.cli(&["dead-letter", "show", &first]));
    assert!(shown.len() == 2 && shown[1].contains("\twaiting\t469\tsummer\thttps://a.example/\t"), "{shown:?}");
    for stored in [2, 0] {
        let told = lines(&trellis.cli(&["dead-letter", "replay", &first]));
        assert_eq!(told, [format!("{first}: {stored} stored, 0 of them were there; 0 wait")]);
    }
    let clicks = trellis.clicks();
    assert_eq!(clicks.len(), 2);
    for (column, value) in
        [("dedup", "duplicate"), ("batch_id", first.as_str()), ("country", "US"), ("class", "bot"), ("node", "n1")]
    {
        assert_eq!(clicks[0][column], value, "{column}");
    }
    // 64: bad usage, and nothing is dropped.
    assert_eq!(trellis.cli(&["dead-letter", "drop", &second]).status.code(), Some(64));
    assert_eq!(trellis.metric("trellis_dead_letter_rows{shelf=\"refused\"}"), 1.0);
    assert_eq!(lines(&trellis.cli(&["dead-letter", "drop", "--yes", &second])), [format!("{second}: 1 dropped")]);
    assert_eq!(trellis.metric("trellis_dead_letter_rows{shelf=\"refused\"}"), 0.0);
    assert_eq!(trellis.count("")["total"], 2);
    let unknown = trellis.cli(&["dead-letter", "replay", &batch(9).to_string()]);
    assert_eq!(unknown.status.code(), Some(1));
    let audit = trellis.logged(4, "audit=true");
    let told = |n: usize, parts: &[&str]| parts.iter().all(|part| audit[n].contains(part));
    assert_eq!(audit.len(), 4, "{audit:?}");
    assert!(
        told(0, &["who=\"control token\"", "action=\"replay\"", &first, "rows=2", "outcome=\"done\""]),
        "{audit:?}"
    );
    assert!(told(2, &["action=\"drop\"", &second, "rows=1"]), "{audit:?}");
}

#[test]
fn without_a_node_the_folder_is_opened_and_the_audit_line_goes_to_standard_error() {
    let mut trellis = Trellis::start();
    trellis.stop();
    plant(trellis.data_dir(), 1, &["spring"]);
    let listed = lines(&trellis.cli(&["dead-letter", "ls", "--json"]));
    let shelves: serde_json::Value = serde_json::from_str(&listed[0]).expect("JSON");
    assert_eq!((&shelves["backlog"], &shelves["refused"]["rows"]), (&serde_json::Value::Null, &1.into()));
    assert_eq!(listed.len(), 2);
    let replayed = trellis.cli(&["dead-letter", "replay", "--all"]);
    assert_eq!(lines(&replayed), ["1 batches: 1 stored, 0 of them were there; 0 wait"]);
    let told = String::from_utf8_lossy(&replayed.stderr).into_owned();
    assert!(told.contains("audit=true") && told.contains("who=\"command line\""), "{told}");
    let settled = lines(&trellis.cli(&["dead-letter", "ls", "--settled"]));
    assert!(settled[2].starts_with(&format!("{}\t0\t1\t0\t", batch(1))), "{settled:?}");
    let again = Trellis::start_in(trellis.folder(), &[]);
    assert_eq!(again.count("")["total"], 1);
}

#[test]
fn a_damaged_dead_letter_is_kept_and_told_of_and_the_node_starts() {
    let folder = Arc::new(tempfile::tempdir().expect("a folder"));
    plant(folder.path(), 1, &["spring"]);
    plant(folder.path(), 2, &["summer"]);
    let path = folder.path().join("dead-letters").join(format!("{}.refused", batch(1)));
    let text = std::fs::read_to_string(&path).expect("the file").replace("spring", "sprung").replace("469", "468");
    std::fs::write(&path, text).expect("the file");
    let trellis = Trellis::start_in(folder, &[]);
    trellis.expect_log("a dead letter is damaged");
    let listed = trellis.api("GET", "/api/v1/dead-letters", None).json();
    assert_eq!(listed["refused"]["damaged"], serde_json::json!([format!("{}.1.damaged", batch(1))]));
    assert_eq!(listed["dead_letters"].as_array().map(Vec::len), Some(1));
    assert_eq!(trellis.logged(1, "ERROR").len(), 1, "once");
}
