//! `/api/v1/dead-letters`, over a shelf in memory and a store that follows a script.

use bytes::Bytes;
use uuid::Uuid;

use super::*;
use crate::catalog::agents::Agents;
use crate::catalog::geo::Geo;
use crate::click::{Click, ClickId};
use crate::clock::Clock;
use crate::config;
use crate::pipeline::dead_letter::{Actor, Refusal, RefusedRow};
use crate::pipeline::enrich::Enricher;
use crate::pipeline::{Label, Store};
use crate::testing::{FaultDisk, Outcome};

const NOW_MS: u64 = 1_700_000_000_000;

pub(super) fn parts() -> (Arc<Shelf>, Arc<ScriptedStore>, Arc<DeadLetters>) {
    let clock: Arc<dyn Clock> = Arc::new(Noon);
    let limits = config::DeadLetter { max_bytes: 1 << 20, keep: Duration::from_secs(3600) };
    let disk = Arc::new(FaultDisk::new(0));
    let shelf = Shelf::open(disk, "/dead-letters".into(), limits, Arc::clone(&clock), Arc::default());
    let (shelf, store) = (Arc::new(shelf.unwrap()), Arc::new(ScriptedStore::new([], Outcome::Stored)));
    let facts = || Ok(Enricher::new(Arc::new(Agents::new()?), Arc::new(Geo::new()?)));
    let enricher = Box::new(move || facts().map_err(|error: Box<dyn std::error::Error>| error.to_string()));
    let letters =
        DeadLetters::new(Arc::clone(&shelf), Arc::clone(&store) as Arc<dyn Store>, enricher, clock, Actor::Token);
    (shelf, store, Arc::new(letters))
}

pub(super) fn backlog() -> DeadLetterShard {
    let backlog = DeadLetterShard::default();
    backlog.rows.set(12);
    backlog.bytes.set(3_000);
    backlog.oldest_ms.set(NOW_MS - 1_000);
    backlog
}

impl Bench {
    /// Puts a row of a click on this link on the shelf.
    fn refuse(&self, batch: u128, link: &str) {
        let click = Click {
            address: Some([192, 0, 2, 0].into()),
            campaign: "c",
            link,
            referrer: b"https://b.example/",
            ua: b"curl/8",
            language: b"de",
            query: "a=1",
            ..crate::testing::click(ClickId::new(NOW_MS - 500, &[u8::try_from(batch).unwrap(); 10]))
        };
        let mut frame = Vec::new();
        click.encode(&mut frame);
        let row = RefusedRow::new(click.id, Label::Unique, 469, "violates constraint", Bytes::from(frame), NOW_MS);
        let refusal = Refusal { batch: Uuid::from_u128(batch), node: "n".into(), rows: vec![row] };
        self.shelf.refuse(&refusal).unwrap();
    }
}

fn path(batch: u128) -> String {
    format!("/dead-letters/{}", Uuid::from_u128(batch))
}

#[tokio::test]
async fn both_shelves_are_listed_page_by_page_and_a_batch_is_shown_with_what_its_frames_say() {
    let bench = Bench::new().await;
    for batch in 1..=3 {
        bench.refuse(batch, "bad");
    }
    let page = bench.api("GET", "/dead-letters?limit=2", "").await.json();
    let backlog = json!({ "rows_about": 12, "bytes": 3_000, "oldest_at": "2023-11-14T22:13:19.000Z" });
    assert_eq!(page["backlog"], backlog);
    let refused = &page["refused"];
    assert_eq!((&refused["rows"], &refused["batches"], &refused["damaged"]), (&json!(3), &json!(3), &json!([])));
    assert_eq!(refused["oldest_at"], "2023-11-14T22:13:19.500Z");
    let line = json!({
        "batch": Uuid::from_u128(3).to_string(), "node": "n", "waiting": 1, "stored": 0, "dropped": 0, "erased": 0, "code": 469,
        "reason": "violates constraint", "refused_at": "2023-11-14T22:13:20.000Z",
    });
    assert_eq!((page["dead_letters"].as_array().unwrap().len(), &page["dead_letters"][0]), (2, &line), "newest first");
    let next = format!("/dead-letters?cursor={}", page["next_cursor"].as_str().unwrap());
    let page = bench.api("GET", &next, "").await.json();
    assert_eq!(
        (&page["dead_letters"][0]["batch"], &page["next_cursor"]),
        (&json!(Uuid::from_u128(1).to_string()), &Value::Null)
    );
    let page = bench.api("GET", "/dead-letters?order=oldest&limit=1", "").await.json();
    assert_eq!(page["dead_letters"][0]["batch"], json!(Uuid::from_u128(1).to_string()));
    let shown = bench.api("GET", &path(1), "").await.json();
    let row = json!({
        "click_id": ClickId::new(NOW_MS - 500, &[1; 10]).to_string(), "ts": "2023-11-14T22:13:19.500Z", "state": "waiting",
        "dedup": "unique", "code": 469, "reason": "violates constraint", "refused_at": "2023-11-14T22:13:20.000Z",
        "org": "default", "campaign": "c", "link": "bad", "status": 302, "destination": "https://a.example/",
        "referrer": "https://b.example/", "ua": "curl/8", "language": "de", "query": "a=1", "ip": "192.0.2.0", "privacy": "full",
    });
    assert_eq!(shown["rows"], json!([row]));
}

#[tokio::test]
async fn a_replay_and_a_drop_say_what_they_did_and_may_be_repeated() {
    let bench = Bench::new().await;
    bench.refuse(1, "a");
    bench.refuse(2, "bad");
    bench.scripted.refuse_link("bad", 6);
    let answer = |batch: u128, stored: u64, waiting: u64| json!({ "batch": Uuid::from_u128(batch).to_string(), "stored": stored, "found": 0, "waiting": waiting });
    for (batch, first) in [(1, answer(1, 1, 0)), (2, answer(2, 0, 1))] {
        let replayed = bench.api("POST", &format!("{}/replay", path(batch)), "").await;
        assert_eq!((replayed.status, replayed.json()), (StatusCode::OK, first));
    }
    let again = bench.api("POST", &format!("{}/replay", path(1)), "").await.json();
    assert_eq!(again, answer(1, 0, 0));
    assert_eq!(bench.api("GET", &path(2), "").await.json()["rows"][0]["code"], 6, "the new reason");
    for dropped in [1, 0] {
        let answer = bench.api("DELETE", &path(2), "").await.json();
        assert_eq!(answer["dropped"], dropped);
    }
    let rows = bench.api("GET", &path(2), "").await.json()["rows"].take();
    assert_eq!((&rows[0]["state"], &rows[0]["link"]), (&json!("dropped"), &Value::Null), "what was in it is gone");
    let waiting = bench.api("GET", "/dead-letters", "").await.json();
    assert_eq!(waiting["dead_letters"], json!([]));
    let settled = bench.api("GET", "/dead-letters?settled=true", "").await.json();
    assert_eq!(settled["dead_letters"].as_array().unwrap().len(), 2);
    assert_eq!(bench.scripted.click_ids().len(), 1);
}

#[tokio::test]
async fn all_are_replayed_and_a_store_that_is_away_is_named() {
    let bench = Bench::new().await;
    for batch in 1..=3 {
        bench.refuse(batch, "a");
    }
    bench.scripted.always(Outcome::Transient);
    bench.api("POST", "/dead-letters/replay", "").await.assert_problem(503, "store_unavailable");
    bench.api("POST", &format!("{}/replay", path(1)), "").await.assert_problem(503, "store_unavailable");
    bench.scripted.always(Outcome::Stored);
    let behind = format!("/dead-letters/replay?cursor=d1.{}", Uuid::from_u128(2));
    let one = bench.api("POST", &behind, "").await.json();
    assert_eq!((&one["batches"], &one["stored"]), (&json!(1), &json!(1)));
    let all = bench.api("POST", "/dead-letters/replay", "").await.json();
    let expected = json!({ "batches": 2, "stored": 2, "found": 0, "waiting": 0, "stopped": null, "next_cursor": null });
    assert_eq!(all, expected);
}

#[tokio::test]
async fn batches_that_are_not_there_and_those_at_work_are_told_apart() {
    let bench = Bench::new().await;
    for path in [path(9), "/dead-letters/nonsense".into(), "/dead-letters/%ff".into()] {
        for (method, action) in [("GET", ""), ("DELETE", ""), ("POST", "/replay")] {
            let answer = bench.api(method, &format!("{path}{action}"), "").await;
            answer.assert_problem(404, "unknown_dead_letter");
        }
    }
    bench.api("GET", "/dead-letters/replay", "").await.assert_problem(405, "method_not_allowed");
    bench.refuse(1, "a");
    bench.scripted.hold();
    let (replay, path) = (format!("{}/replay", path(1)), path(1));
    let (held, busy) = tokio::join!(bench.api("POST", &replay, ""), async {
        while bench.scripted.in_flight() == 0 {
            tokio::task::yield_now().await;
        }
        let busy = bench.api("DELETE", &path, "").await;
        bench.scripted.let_go();
        busy
    });
    busy.assert_problem(409, "dead_letter_busy");
    assert_eq!((held.status, &held.json()["stored"]), (StatusCode::OK, &json!(1)));
}
