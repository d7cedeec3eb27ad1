//! The ledger: whatever happens, every minute balances, and what does not is told.

use std::sync::Arc;

use crate::harness::{Trellis, eventually, service};
use crate::live::{CLICKHOUSE, Database};
use crate::load::{Load, Seen, Visits, sqlite_rows};
use crate::proxy::{Proxy, Rules};

fn numbers(row: &serde_json::Value, names: &[&str]) -> Vec<i64> {
    names.iter().map(|name| row[name].as_i64().unwrap_or_else(|| panic!("no {name} in {row}"))).collect()
}

#[test]
fn every_visit_is_in_the_ledger_by_the_minute_the_hour_and_the_day_and_after_a_restart() {
    let mut node = Trellis::start_with(&[("rollup.every", "50ms")]);
    node.link("a", "https://a.example/");
    (0..30).for_each(|_| drop(node.get("/a")));
    node.wait_stored(30);
    eventually("they are at their end", || node.ledger()["in_flight"] == 0);
    node.assert_ledger_balances(30);
    let names = [
        "visits",
        "accepted",
        "untracked",
        "stored",
        "in_flight",
        "refused",
        "dropped",
        "erased",
        "damaged",
        "residual",
    ];
    let expected = [30, 30, 0, 30, 0, 0, 0, 0, 0, 0];
    for by in ["minute", "hour", "day"] {
        let (mut sum, mut rows, mut cursor) = ([0; 10], 0, String::new());
        loop {
            let answer = node.api("GET", &format!("/api/v1/ledger?by={by}&limit=1{cursor}"), None).json();
            for row in answer["rows"].as_array().expect("rows") {
                rows += 1;
                sum.iter_mut().zip(numbers(row, &names)).for_each(|(sum, n)| *sum += n);
            }
            let Some(next) = answer["next_cursor"].as_str() else { break };
            cursor = format!("&cursor={next}");
        }
        assert!((1..3).contains(&rows), "{by}: {rows}");
        assert_eq!(sum, expected, "{by}");
    }
    for (query, code) in [
        ("by=week", "invalid_parameter"),
        ("from=5&to=5", "invalid_parameter"),
        ("cursor=x", "invalid_cursor"),
        ("what=1", "invalid_parameter"),
    ] {
        assert_eq!(node.api("GET", &format!("/api/v1/ledger?{query}"), None).json()["code"], code, "{query}");
    }
    node.assert_rolled_up();
    assert_eq!(node.stop().code(), Some(0));
    let table = node.cli(&["ledger", "--by", "day"]);
    let table = String::from_utf8_lossy(&table.stdout).into_owned();
    assert!(table.starts_with("minute\tvisits\taccepted\t"), "{table}");
    assert!(table.ends_with("total\t30\t30\t0\t30\t0\t0\t0\t0\t0\t0\n"), "{table}");
    let node = Trellis::start_in(node.folder(), &[]);
    node.get("/a");
    node.wait_stored(31);
    eventually("it is at its end", || node.ledger()["in_flight"] == 0);
    node.assert_ledger_balances(31);
}

#[test]
fn the_ledger_balances_and_rollups_equal_the_clicks_after_kills() {
    let fast = [("rollup.every", "50ms"), ("ledger.check_every", "100ms")];
    let (mut seen, mut node) = (Seen::default(), Trellis::start_with(&fast));
    node.link("a", "https://a.example/");
    for kill in 0..3 {
        let load = Load::start(node.edge(), &Visits::fast(kill.to_string()));
        load.wait_answers(500);
        assert!(node.ledger()["accepted"].as_i64() > Some(0), "while it works");
        node.kill();
        seen.add(load.finish_broken());
        // Of the folder: what is in its journal is in flight.
        let left = node.ledger();
        assert!(left["accepted"].as_i64() >= left["stored"].as_i64(), "{left}");
        node = Trellis::start_in(node.folder(), &fast);
    }
    seen.wait_stored(|| sqlite_rows(node.data_dir()));
    node.assert_rolled_up();
    let folder = node.folder();
    seen.settle(&mut node, || sqlite_rows(folder.path()));
}

#[test]
fn a_store_that_loses_a_click_and_a_ledger_that_does_are_told_of() {
    let mut node = Trellis::start_with(&[("ledger.check_every", "100ms")]);
    node.link("a", "https://a.example/");
    (0..10).for_each(|_| drop(node.get("/a")));
    node.wait_stored(10);
    let gauge = |node: &Trellis, name: &str| node.metric(&format!("trellis_ledger_{name}_clicks"));
    eventually("they are at their end", || node.ledger()["in_flight"] == 0);
    assert_eq!((gauge(&node, "residual"), gauge(&node, "store_difference")), (0.0, 0.0));
    assert_eq!(node.stop().code(), Some(0));
    let database = |name: &str| rusqlite::Connection::open(node.data_dir().join(name)).expect("a file");
    let delete = "DELETE FROM clicks WHERE click_id IN (SELECT click_id FROM clicks LIMIT 1)";
    assert_eq!(database("clicks.db").execute(delete, ()).expect("deleted"), 1);
    database("ledger.db").execute("UPDATE accounts SET accepted = accepted + 2", ()).expect("changed");
    let node = Trellis::start_in(node.folder(), &[("ledger.check_every", "100ms")]);
    node.expect_log("the ledger does not balance");
    eventually("the store's is seen", || gauge(&node, "store_difference") == 1.0);
    eventually("the ledger's is seen", || gauge(&node, "residual") >= 2.0);
    assert_eq!(node.cli(&["ledger"]).status.code(), Some(1));
}

#[test]
fn a_node_that_gets_another_name_or_a_new_ledger_alarms_nobody() {
    let mut node = Trellis::start_with(&[("node", "one")]);
    node.link("a", "https://a.example/");
    for (round, name) in ["one", "two", "two"].into_iter().enumerate() {
        if round == 2 {
            std::fs::write(node.data_dir().join("ledger.db"), "this is no database, but long enough to look like one")
                .expect("written");
        }
        let stored = round as u64 * 5 + 5;
        let next =
            (round > 0).then(|| Trellis::start_in(node.folder(), &[("node", name), ("ledger.check_every", "50ms")]));
        node = next.unwrap_or(node);
        if round == 2 {
            node.expect_log("the ledger is damaged; a new one is begun");
        }
        (0..5).for_each(|_| drop(node.get("/a")));
        node.wait_stored(stored);
        eventually("they are at their end", || node.ledger()["in_flight"] == 0);
        if round > 0 {
            let checks = node.metric("trellis_ledger_checks_total");
            eventually("they are checked", || node.metric("trellis_ledger_checks_total") > checks + 3.0);
            assert_eq!(node.metric("trellis_ledger_store_difference_clicks"), 0.0);
        }
        assert_eq!(node.stop().code(), Some(0));
    }
    node.assert_ledger_balances(5);
}

#[test]
fn through_an_outage_of_clickhouse_and_a_kill_the_ledger_balances_and_rollups_equal_the_clicks() {
    let test = "through_an_outage_of_clickhouse_and_a_kill_the_ledger_balances_and_rollups_equal_the_clicks";
    let Some(clickhouse) = service(CLICKHOUSE, test) else { return };
    let database = Database::new(&clickhouse);
    let network = Proxy::before(clickhouse.strip_prefix("http://").expect("a URL").parse().expect("an address"));
    let url = format!("http://{}", network.address());
    let mut settings = database.settings();
    settings.extend([
        ("store.clickhouse.url", url.as_str()),
        ("rollup.every", "200ms"),
        ("ledger.check_every", "300ms"),
    ]);
    let start = |folder| {
        let node = Trellis::start_in(folder, &settings);
        for text in ["did not take a batch", "does not answer", "are put behind", "cannot be made"] {
            node.expect_log(text);
        }
        node
    };
    let mut node = start(Arc::new(tempfile::tempdir().expect("a folder")));
    node.link("a", "https://a.example/");
    let mut seen = Seen::default();
    let load = Load::start(node.edge(), &Visits::steady("before"));
    load.wait_answers(300);
    eventually("something is rolled up", || database.sql("SELECT sum(clicks) FROM rollup_1m FINAL") != "0");
    network.set(Rules { refuse: true, ..Rules::default() });
    network.cut();
    load.wait_answers(800);
    eventually("clicks are in flight", || node.ledger()["in_flight"].as_i64() > Some(100));
    node.kill();
    seen.add(load.finish_broken());
    let mut node = start(node.folder());
    let load = Load::start(node.edge(), &Visits::steady("after"));
    load.wait_answers(300);
    network.set(Rules::default());
    load.wait_answers(1_000);
    seen.add(load.finish());
    seen.wait_stored(|| database.rows("clicks"));
    eventually("they are at their end", || node.ledger()["in_flight"] == 0);
    node.assert_rolled_up();
    for name in ["residual", "store_difference"] {
        assert_eq!(node.metric(&format!("trellis_ledger_{name}_clicks")), 0.0, "{name}");
    }
    seen.settle(&mut node, || database.rows("clicks"));
}

#[cfg(feature = "testing")]
mod in_process {
    use trellis::click::Click;
    use trellis::handoff::{Follower, Intake};
    use trellis::pipeline::Store;
    use trellis::pipeline::dead_letter::{Actor, DeadLetters, Page};
    use trellis::pipeline::enrich::Enricher;
    use trellis::pipeline::ledger::{Account, Line};
    use trellis::pipeline::worker::Drain;
    use trellis::testing::{FaultDisk, Outcome, ScriptedStore};

    use super::*;
    use crate::bench::{Bench, click, id, push};

    fn total(bench: &Bench) -> Line {
        bench.ledger.lines(0..u64::MAX).expect("the books").iter().fold(Line::default(), |mut total, line| {
            total.add(line);
            total
        })
    }

    fn push_link(intake: &mut Intake, ms: u64, n: u64, link: &str) {
        let _ticket = intake.push(&Click { link, ..click(id(ms, n)) });
    }

    #[test]
    fn refused_replayed_and_dropped_clicks_are_where_they_belong() {
        let bench = Bench::new(ScriptedStore::new([], Outcome::Stored), &[("batch.in_flight_max", "1")]);
        let (run, intake, follower) = bench.begin();
        let mut intake = intake();
        let ms = bench.now_ms();
        bench.store.refuse_link("bad", 1);
        for n in 0..40 {
            push_link(&mut intake, ms, n, if n % 10 == 3 { "bad" } else { "a" });
        }
        intake.close();
        let (worker, _drain) = bench.start(follower, 0);
        assert!(worker.join().expect("no panic").expect("no error").finished);
        let known = |line: Line| [line.accepted, line.stored, line.refused, line.dropped, line.in_flight];
        assert_eq!((known(total(&bench)), total(&bench).residual()), ([40, 36, 4, 0, 0], 0));
        bench.store.refuse_nothing();
        let make = || Ok(Enricher::new(Arc::new(agents()), Arc::new(countries())));
        let (shelf, store) = (Arc::clone(&bench.delivery.shelf), bench.store.clone() as Arc<dyn Store>);
        let letters = DeadLetters::new(shelf, store, Box::new(make), Arc::clone(&bench.clock), Actor::Token);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let page = Page { limit: 9, ..Page::default() };
        let (_, listed) = runtime.block_on(letters.list(page)).expect("the shelf");
        runtime.block_on(letters.replay(listed[0].batch)).expect("replayed");
        assert_eq!((known(total(&bench)), total(&bench).residual()), ([40, 40, 0, 0, 0], 0));
        assert_eq!(bench.store.click_ids().len(), 40);
        run.end(true).expect("removed");
    }

    fn agents() -> trellis::catalog::agents::Agents {
        trellis::catalog::agents::Agents::new().expect("agents")
    }

    fn countries() -> trellis::catalog::geo::Geo {
        trellis::catalog::geo::Geo::new().expect("countries")
    }

    #[test]
    fn clicks_that_the_journal_cannot_take_are_untracked_visits() {
        let mut bench = Bench::new(ScriptedStore::new([], Outcome::Stored), &[]);
        let disk = FaultDisk::new(7);
        disk.set_allocates(false);
        bench.disk = Arc::new(disk.clone());
        let (run, intake, follower) = bench.begin();
        let (mut intake, ms) = (intake(), bench.now_ms());
        push(&mut intake, ms, 0..10);
        disk.set_space_left(0);
        push(&mut intake, ms, 10..30);
        disk.set_space_left(u64::MAX);
        // A minute later, in one turn with clicks of this one.
        (30..33).for_each(|n| push_link(&mut intake, ms, n, "a"));
        (33..35).for_each(|n| push_link(&mut intake, ms + 60_000, n, "a"));
        intake.close();
        let (worker, _drain) = bench.start(follower, 0);
        assert!(worker.join().expect("no panic").expect("no error").finished);
        let lines = bench.ledger.lines(0..u64::MAX).expect("the books");
        let known: Vec<_> = lines.iter().map(|l| (l.accepted, l.untracked, l.stored, l.residual())).collect();
        assert_eq!(known, [(13, 20, 13, 0), (2, 0, 2, 0)]);
        run.end(true).expect("removed");
    }

    #[test]
    fn a_click_that_damage_took_is_the_residual_once_its_run_is_over() {
        let mut bench = Bench::new(ScriptedStore::new([], Outcome::Stored), &[]);
        let (run, intake, follower) = bench.begin();
        let mut intake = intake();
        push(&mut intake, bench.now_ms(), 0..500);
        bench.ledger.collect();
        let (folder, segment) = (follower.folder().to_owned(), follower.folder().join("0-0000000000.seg"));
        drop((intake, follower));
        run.end(false).expect("left behind");
        let mut bytes = std::fs::read(&segment).expect("a segment");
        bytes[10_000] ^= 1;
        std::fs::write(&segment, bytes).expect("written");
        bench.restart_ledger();
        let orphan = bench.orphan();
        bench.ledger.adopt_run(&orphan).expect("its checkpoint");
        assert_eq!((total(&bench).in_flight, total(&bench).residual()), (500, 0));
        let stretch = orphan.stretches().expect("its stretches")[0];
        let follower = Follower::orphan(&orphan, stretch, bench.metrics.worker(1)).expect("a follower");
        let (worker, _drain) = bench.start(follower, 1);
        assert!(worker.join().expect("no panic").expect("no error").damaged);
        orphan.finish(true).expect("kept");
        bench.ledger.end_run(&folder).expect("the books");
        assert_eq!((total(&bench).stored, total(&bench).in_flight, total(&bench).residual()), (499, 0, 1));
    }

    #[test]
    fn what_the_note_of_a_checkpoint_behind_all_segments_says_comes_to_the_books() {
        let mut bench = Bench::new(ScriptedStore::new([], Outcome::Stored), &[]);
        let (run, intake, follower) = bench.begin();
        let (mut intake, folder) = (intake(), follower.folder().to_owned());
        let first = folder.join("0-0000000000.seg");
        let mut clicks = push(&mut intake, bench.now_ms(), 0..10).len() as u64;
        // What a backup copied before the node had finished it, and much more.
        let kept = std::fs::read(&first).expect("a segment");
        let (worker, drain) = bench.start(follower, 0);
        while first.exists() {
            clicks += push(&mut intake, bench.now_ms(), clicks..clicks + 2_000).len() as u64;
            eventually("all is finished", || total(&bench).stored == clicks);
        }
        bench.ledger.collect();
        drain.send_replace(Drain::Stop);
        assert!(!worker.join().expect("no panic").expect("no error").finished);
        drop(intake);
        run.end(false).expect("left behind");
        for entry in std::fs::read_dir(&folder).expect("the run").map(|entry| entry.expect("an entry").path()) {
            if entry.extension().is_some_and(|extension| extension == "seg") {
                std::fs::remove_file(entry).expect("removed");
            }
        }
        std::fs::write(&first, kept).expect("written");
        bench.restart_ledger();
        let orphan = bench.orphan();
        bench.ledger.adopt_run(&orphan).expect("its checkpoint");
        let [stretch] = orphan.stretches().expect("its stretches")[..] else { panic!("one stretch") };
        let follower = Follower::orphan(&orphan, stretch, bench.metrics.worker(1)).expect("a follower");
        let (worker, _drain) = bench.start(follower, 1);
        let ended = worker.join().expect("no panic").expect("no error");
        assert!(ended.finished && !ended.damaged, "{ended:?}");
        orphan.finish(false).expect("removed");
        bench.ledger.end_run(&folder).expect("the books");
        assert_eq!((total(&bench).stored, total(&bench).residual()), (clicks, 0));
    }

    #[test]
    fn while_the_books_cannot_be_written_clicks_are_stored_and_nothing_is_counted_twice() {
        let settings = [("batch.rows_max", "100"), ("batch.age_max", "1ms")];
        let mut bench = Bench::new(ScriptedStore::new([], Outcome::Stored), &settings);
        let (run, intake, follower) = bench.begin();
        let (mut intake, ms) = (intake(), bench.now_ms());
        bench.books.fail(true);
        // Far more minutes than a note has room for: the rest waits in the journal, though it is stored.
        for minute in 0..450 {
            push(&mut intake, ms + minute * 60_000, minute * 2..minute * 2 + 2);
        }
        intake.close();
        let (worker, _drain) = bench.start(follower, 0);
        assert!(!worker.join().expect("no panic").expect("no error").finished, "the journal is kept");
        assert_eq!((bench.store.click_ids().len(), total(&bench).residual()), (900, 0));
        run.end(false).expect("left behind");
        bench.books.fail(false);
        bench.restart_ledger();
        let orphan = bench.orphan();
        let folder = orphan.folder().to_owned();
        bench.ledger.adopt_run(&orphan).expect("its checkpoint");
        for stretch in orphan.stretches().expect("its stretches") {
            let follower = Follower::orphan(&orphan, stretch, bench.metrics.worker(1)).expect("a follower");
            let (worker, _drain) = bench.start(follower, 1);
            assert!(worker.join().expect("no panic").expect("no error").finished);
        }
        orphan.finish(false).expect("removed");
        bench.ledger.end_run(&folder).expect("the books");
        let line = total(&bench);
        assert_eq!((line.accepted, line.stored, line.in_flight), (900, 900, 0), "{line:?}");
        assert_eq!(bench.store.click_ids().len(), 900);
    }

    #[test]
    fn a_worker_that_counts_a_range_twice_would_be_seen() {
        // The canary: what these tests rest on.
        let bench = Bench::new(ScriptedStore::new([], Outcome::Stored), &[]);
        let (run, intake, follower) = bench.begin();
        let mut intake = intake();
        push(&mut intake, bench.now_ms(), 0..10);
        let mut account = Account::open(&bench.ledger, &follower);
        let mut figures = trellis::pipeline::ledger::Minutes::default();
        figures.at_ms(bench.now_ms()).stored = 10;
        let end = trellis::segment::Position { seq: 0, offset: 9_000 };
        assert!(account.finish(end, &figures));
        assert_eq!(total(&bench).residual(), -10);
        drop(intake);
        run.end(false).expect("left behind");
    }
}
