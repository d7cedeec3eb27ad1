//! Overload: what is left undone, in the program as a whole and in a batch that a restart makes again.

use std::io::Write as _;

use crate::harness::{Trellis, connect, eventually, exchange, read_head};

const REQUEST: &[u8] =
    b"GET /a HTTP/1.1\r\nHost: t\r\nUser-Agent: Mozilla/5.0 (X11; Linux x86_64) Firefox/130.0\r\n\r\n";

/// A drill: from a threshold of 0 on, everything is overload. No machine is ever so busy as the other ones say.
fn drill(last: &str) -> Trellis {
    let levels = ["shadow_lag", "enrichment_lag", "connections_lag", "redirects_lag"];
    let drilled = levels.iter().position(|level| *level == last).expect("a level");
    let keys = levels.map(|level| format!("limits.overload.{level}"));
    let mut settings = vec![("limits.overload.enabled", "true"), ("limits.overload.accept_backlog", "1000000")];
    settings.extend(keys.iter().enumerate().map(|(at, key)| (key.as_str(), if at <= drilled { "0s" } else { "60s" })));
    let trellis = Trellis::start_with(&settings);
    trellis.expect_log("overload: work is left undone");
    trellis.link("a", "https://a.example/");
    trellis
}

/// The same with a visitor who was connected, and served once, before any connection is refused: a step is taken each second from
/// the start on, so a machine that stood still meanwhile begins again.
fn drill_with_guest(last: &str) -> (Trellis, std::net::TcpStream) {
    let mut found = None;
    eventually("somebody is connected in time", || {
        let trellis = drill(last);
        let mut guest = connect(trellis.edge());
        guest.write_all(REQUEST).expect("sent");
        found = (read_head(&mut guest).status == 302).then_some((trellis, guest));
        found.is_some()
    });
    found.expect("seen above")
}

#[test]
fn the_worker_leaves_facts_out_says_so_and_stores_every_click() {
    let trellis = drill("enrichment_lag");
    eventually("the second level is reached", || trellis.metric("trellis_overload_level") == 2.0);
    let mut stream = connect(trellis.edge());
    stream.write_all(REQUEST).expect("sent");
    assert!(read_head(&mut stream).header("x-click-id").is_some());
    trellis.wait_stored(1);
    let click = &trellis.clicks()[0];
    assert_eq!(click["class"], "human");
    assert_eq!(click["reasons"], serde_json::json!(["shadow_omitted", "facts_omitted"]), "no Accept is in the shadow");
    assert_eq!((&click["browser"], &click["os"], &click["fraud_score"]), (&"".into(), &"".into(), &0.into()));
    assert_eq!(trellis.metric("trellis_shed_total{what=\"enrichment\"}"), 1.0);
    assert_eq!(trellis.metric("trellis_shed_total{what=\"shadow\"}"), 1.0);
    assert_eq!(trellis.metric("trellis_shed_total{what=\"connections\"}"), 0.0);
    trellis.assert_ledger_balances(1);
}

#[test]
fn new_connections_are_refused_while_open_ones_go_on_and_redirects_go_last() {
    let (trellis, mut open) = drill_with_guest("connections_lag");
    eventually("the third level is reached", || trellis.metric("trellis_overload_level") == 3.0);
    let answer = String::from_utf8_lossy(&exchange(trellis.edge(), REQUEST)).into_owned();
    assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains("\"overloaded\""), "{answer}");
    assert!(answer.contains("retry-after: 1\r\n"), "{answer}");
    open.write_all(REQUEST).expect("sent");
    let answer = read_head(&mut open);
    assert!(answer.status == 302 && answer.header("x-click-id").is_some(), "{answer:?}");
    assert_eq!(trellis.metric("trellis_shed_total{what=\"connections\"}"), 1.0);
    trellis.wait_stored(2);

    let (trellis, mut open) = drill_with_guest("redirects_lag");
    eventually("the last level is reached", || trellis.metric("trellis_overload_level") == 4.0);
    open.write_all(REQUEST).expect("sent");
    let answer = read_head(&mut open);
    assert_eq!((answer.status, answer.header("retry-after")), (503, Some("1")));
    assert_eq!(trellis.metric("trellis_shed_total{what=\"redirects\"}"), 1.0);
    assert_eq!(trellis.metric("trellis_redirects_total{outcome=\"shed\"}"), 1.0);
    // What is refused is no visit.
    trellis.wait_stored(1);
    trellis.assert_ledger_balances(1);
}

#[cfg(feature = "testing")]
#[test]
fn a_batch_that_was_frozen_under_overload_is_made_again_as_it_was() {
    use trellis::handoff::Follower;
    use trellis::pipeline::worker::Drain;
    use trellis::telemetry::overload::Level;
    use trellis::testing::{Outcome, ScriptedStore};

    use crate::bench::{Bench, push};

    let bench = Bench::new(ScriptedStore::new([Outcome::Hang], Outcome::Stored), &[("batch.age_max", "1ms")]);
    let (run, intake, follower) = bench.begin();
    let mut intake = intake();
    bench.metrics.lever().set(Level::Enrichment);
    let ids = push(&mut intake, bench.now_ms(), 0..20);
    let (worker, drain) = bench.start(follower, 0);
    eventually("it is at the store", || bench.store.in_flight() == 1);
    drain.send_replace(Drain::Stop);
    assert!(!worker.join().expect("no panic").expect("no error").finished);
    drop(intake);
    run.end(false).expect("left behind");
    // Calm again: what is taken up for the first time is whole, what was frozen stays as it was.
    bench.metrics.lever().set(Level::Calm);
    let orphan = bench.orphan();
    let core = orphan.stretches().expect("its stretches")[0];
    let follower = Follower::orphan(&orphan, core, bench.metrics.worker(1)).expect("a follower");
    let (worker, _drain) = bench.start(follower, 1);
    assert!(worker.join().expect("no panic").expect("no error").finished);
    let calls = bench.store.calls();
    let frozen = calls[0].1.len();
    assert!(calls.len() >= 2 && frozen > 0 && calls[1].0 == calls[0].0, "the same batch, under its token");
    let names = |call: usize| calls[call].1.iter().map(|row| row.agent.browser).collect::<Vec<_>>();
    assert_eq!(names(0), vec![""; frozen]);
    assert_eq!(names(1), names(0), "and its rows are the same");
    assert!(calls[1].1.iter().zip(&calls[0].1).all(|(again, first)| again.reasons == first.reasons));
    let others = calls[2..].iter().flat_map(|(_, rows, _)| rows);
    assert!(others.into_iter().all(|row| row.agent.browser == "Other"));
    assert_eq!(bench.store.click_ids().len(), ids.len());
}
