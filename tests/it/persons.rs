//! What is kept of one person: shown, and erased everywhere, down to the bytes on the disk.

use std::path::Path;
use std::process::Output;

use serde_json::{Value, json};

use crate::harness::{Trellis, eventually};

const CHROME: &str =
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Safari/537.36";
const PROXY: (&str, &str) = ("edge.trusted_proxies", "127.0.0.0/8");

/// Follows the link from an address; the click's id.
fn visit(trellis: &Trellis, address: &str, query: &str) -> String {
    let headers = [("User-Agent", CHROME), ("X-Forwarded-For", address)];
    let answer = trellis.edge_request("GET", &format!("/a?{query}"), &headers);
    answer.header("x-click-id").expect("the click is kept").to_owned()
}

fn export(trellis: &Trellis, who: &Value) -> Vec<Value> {
    let answer = trellis.api("POST", "/api/v1/privacy/export", Some(&who.to_string()));
    let text = String::from_utf8_lossy(&answer.body).into_owned();
    assert_eq!(answer.status, 200, "{text}");
    let mut lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(lines.pop(), Some(json!({ "next_cursor": null })), "{text}");
    lines
}

fn erase(trellis: &Trellis, who: &Value) -> Value {
    let mut body = who.clone();
    body["confirm"] = json!(true);
    let answer = trellis.api("POST", "/api/v1/privacy/erase", Some(&body.to_string()));
    assert_eq!(answer.status, 200, "{}", String::from_utf8_lossy(&answer.body));
    answer.json()
}

fn counts(answer: &Value) -> [Option<u64>; 4] {
    ["store", "dead_letters", "journal", "left"].map(|key| answer[key].as_u64())
}

/// Files under a folder that hold these bytes.
fn files_with(folder: &Path, bytes: &[u8]) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            found.extend(files_with(&path, bytes));
        } else if std::fs::read(&path).is_ok_and(|all| all.windows(bytes.len()).any(|part| part == bytes)) {
            found.push(path.display().to_string());
        }
    }
    found
}

fn assert_nowhere(trellis: &Trellis, what: &[&[u8]]) {
    for bytes in what {
        assert_eq!(files_with(trellis.data_dir(), bytes), [""; 0], "{}", String::from_utf8_lossy(bytes));
    }
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

#[test]
fn a_person_is_shown_and_erased_down_to_the_last_byte_and_all_others_stay() {
    let mut trellis = Trellis::start_with(&[PROXY, ("edge.threads", "1")]);
    trellis.link("a", "https://a.example/");
    let others = |trellis: &Trellis, from: u32| {
        for n in from..from + 400 {
            visit(trellis, "198.51.100.7", &format!("click_id=other-{n}&p={}", "y".repeat(300)));
        }
    };
    others(&trellis, 0);
    let mut ids: Vec<_> =
        (0..3).map(|n| visit(&trellis, "203.0.113.9", &format!("click_id=pl4nted-person&n={n}"))).collect();
    others(&trellis, 400);
    trellis.wait_stored(803);
    let who = json!({ "external_click_id": "pl4nted-person" });
    let mut shown: Vec<_> = export(&trellis, &who)
        .iter()
        .map(|line| line["click"]["click_id"].as_str().expect("an id").to_owned())
        .collect();
    shown.sort();
    ids.sort();
    assert_eq!(shown, ids);
    assert!(!files_with(trellis.data_dir(), b"pl4nted-person").is_empty(), "it is there before");

    let done = erase(&trellis, &who);
    assert_eq!(counts(&done), [Some(3), Some(0), Some(3), Some(0)], "{done}");
    assert_nowhere(&trellis, &[b"pl4nted-person", ids[0].as_bytes(), ids[2].as_bytes()]);
    assert_eq!(export(&trellis, &who), Vec::<Value>::new());
    let again = erase(&trellis, &who);
    assert_eq!(counts(&again), [Some(0), Some(0), Some(0), Some(0)], "{again}");
    assert_eq!(trellis.count("")["total"], 800);

    trellis.assert_rolled_up();
    let total = trellis.ledger();
    let line =
        ["accepted", "stored", "erased", "in_flight", "residual"].map(|key| total[key].as_i64().expect("a number"));
    assert_eq!(line, [803, 800, 3, 0, 0], "{total}");

    // Nothing comes back: not after a kill, not after a stop.
    trellis.kill();
    let mut trellis = Trellis::start_in(trellis.folder(), &[PROXY]);
    visit(&trellis, "198.51.100.7", "click_id=one-more");
    trellis.wait_stored(801);
    assert_eq!(export(&trellis, &who), Vec::<Value>::new());
    trellis.stop();
    assert_nowhere(&trellis, &[b"pl4nted-person"]);
    assert_eq!(trellis.ledger()["erased"], 3);
    // Also with no node: the folder is opened.
    let output = trellis.cli(&["privacy", "export", "--external-click-id", "one-more"]);
    assert!(output.status.success() && text(&output).contains("one-more"), "{}", text(&output));
    let output = trellis.cli(&["privacy", "erase", "--external-click-id", "one-more", "--yes"]);
    assert!(output.status.success() && text(&output).contains("erased\tstore 1\t"), "{}", text(&output));
}

#[test]
fn an_address_is_erased_by_its_hash_and_by_its_network() {
    for (mode, erased) in [("hmac", 2), ("truncate", 3)] {
        let trellis = Trellis::start_with(&[PROXY, ("privacy.ip", mode)]);
        trellis.link("a", "https://a.example/");
        for address in ["203.0.113.9", "203.0.113.9", "203.0.113.10", "198.51.100.7"] {
            visit(&trellis, address, "");
        }
        trellis.wait_stored(4);
        let kept = trellis.cli(&["privacy", "hash", "203.0.113.9"]);
        let kept = text(&kept).trim().to_owned();
        assert_eq!(export(&trellis, &json!({ "address": "203.0.113.9" })).len(), erased);
        let shown = export(&trellis, &json!({ "ip": kept }));
        assert!(shown.len() == erased && shown.iter().all(|line| line["click"]["ip"] == kept), "{shown:?}");
        let output = trellis.cli(&["privacy", "erase", "--address", "203.0.113.9", "--yes"]);
        assert!(output.status.success(), "{}", text(&output));
        assert!(text(&output).contains(&format!("erased\tstore {erased}\t")), "{}", text(&output));
        assert_nowhere(&trellis, &[kept.as_bytes()]);
        assert_eq!(trellis.count("")["total"], 4 - erased);
        trellis.assert_rolled_up();
    }
}

#[test]
fn what_the_store_refused_is_shown_and_erased_too() {
    let trellis = Trellis::start_with(&[PROXY]);
    trellis.expect_log("the store refuses rows");
    for slug in ["a", "bad"] {
        trellis.link(slug, "https://a.example/");
    }
    let path = trellis.data_dir().join("clicks.db");
    let refuse = "CREATE TRIGGER no BEFORE INSERT ON clicks WHEN NEW.link = 'bad' BEGIN SELECT RAISE(ABORT, 'no'); END";
    rusqlite::Connection::open(&path).and_then(|c| c.execute_batch(refuse)).expect("a trigger");
    visit(&trellis, "198.51.100.7", "click_id=other");
    let id = {
        let answer = trellis.get("/bad?click_id=pl4nted-refused");
        answer.header("x-click-id").expect("the click is kept").to_owned()
    };
    eventually("it is refused", || trellis.metric(r#"trellis_dead_letter_rows{shelf="refused"}"#) == 1.0);
    let shown = export(&trellis, &json!({ "click_id": id }));
    assert!(
        shown.len() == 1 && shown[0]["place"] == "dead_letters" && shown[0]["click"]["click_id"] == id,
        "{shown:?}"
    );
    let done = erase(&trellis, &json!({ "external_click_id": "pl4nted-refused" }));
    assert_eq!(counts(&done), [Some(0), Some(1), Some(1), Some(0)], "{done}");
    let hex: String = "pl4nted-refused".bytes().map(|byte| format!("{byte:02x}")).collect();
    assert_nowhere(&trellis, &[b"pl4nted-refused", hex.as_bytes(), id.as_bytes()]);
    assert_eq!(trellis.metric(r#"trellis_dead_letter_rows{shelf="refused"}"#), 0.0);
    let total = trellis.ledger();
    assert_eq!((&total["erased"], &total["refused"], &total["stored"]), (&json!(1), &json!(0), &json!(1)), "{total}");
    assert_eq!(counts(&erase(&trellis, &json!({ "click_id": id }))), [Some(0), Some(0), Some(0), Some(0)]);
}

#[test]
fn an_erase_is_confirmed_and_says_what_is_wrong_with_it() {
    let trellis = Trellis::start();
    let ask = |path: &str, body: &str| {
        let answer = trellis.api("POST", path, Some(body));
        (answer.status, String::from_utf8_lossy(&answer.body).into_owned())
    };
    let (erase, export) = ("/api/v1/privacy/erase", "/api/v1/privacy/export");
    for (path, body, told) in [
        (erase, r#"{"address":"203.0.113.9"}"#, "cannot be got back"),
        (erase, r#"{"address":"203.0.113.9","confirm":false}"#, "cannot be got back"),
        (erase, r#"{"confirm":true}"#, "exactly one of"),
        (export, r#"{"address":"a","ip":"b"}"#, "exactly one of"),
        (export, r#"{"address":"a"}"#, "is no address"),
        (export, r#"{"click_id":"a"}"#, "is no id"),
        (export, r#"{"email":"a"}"#, "email"),
    ] {
        let (status, text) = ask(path, body);
        assert!(status == 422 && text.contains(told), "{body}: {status} {text}");
    }
    assert_eq!(trellis.api_raw("POST", export, &[("Content-Type", "application/json")], b"{}").status, 401);
    assert_eq!(ask(export, r#"{"ip":"a","cursor":"d1.x"}"#).0, 400);
}

#[test]
fn while_clicks_wait_for_the_store_an_erase_asks_to_come_again() {
    // Nobody listens there: whatever is accepted waits in the journal.
    let store = [("store.backend", "clickhouse"), ("store.clickhouse.url", "http://127.0.0.1:1")];
    let trellis = Trellis::start_with(&store);
    for text in ["store", "clickhouse", "batch"] {
        trellis.expect_log(text);
    }
    trellis.link("a", "https://a.example/");
    visit(&trellis, "203.0.113.9", "click_id=x");
    for path in ["/api/v1/privacy/export", "/api/v1/privacy/erase"] {
        let body = if path.ends_with("export") { r#"{"ip":"x"}"# } else { r#"{"ip":"x","confirm":true}"# };
        let answer = trellis.api("POST", path, Some(body));
        assert_eq!((answer.status, &answer.json()["code"]), (409, &json!("not_settled")));
    }
}
