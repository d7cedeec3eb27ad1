//! What the real ClickHouse engine will not take: bad rows, tables that do not fit, too many partitions; and an outage of
//! months.

use crate::harness::{Trellis, eventually, service};
use crate::live::{CLICKHOUSE, Database};
use crate::load::follow;

const PARKED: &str = "trellis_batches_parked";
const REFUSED: &str = r#"trellis_dead_letter_rows{shelf="refused"}"#;
const WILL_NOT: &str = "will not take a batch";

/// Batches of exactly so many clicks, from one thread.
fn batches_of<'a>(database: &'a Database, rows: &'a str) -> Vec<(&'a str, &'a str)> {
    let mut settings = database.settings();
    settings.extend([("batch.rows_max", rows), ("batch.age_max", "10m"), ("edge.threads", "1")]);
    settings
}

/// Ids in the table, however often.
fn stored(database: &Database) -> Vec<String> {
    let text = database.sql("SELECT toString(click_id) FROM clicks ORDER BY 1");
    text.lines().map(str::to_owned).collect()
}

fn sorted(mut ids: Vec<String>) -> Vec<String> {
    ids.sort();
    ids
}

fn printed(node: &Trellis, arguments: &[&str]) -> String {
    let output = node.cli(arguments);
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{arguments:?}: {}", text(&output.stderr));
    text(&output.stdout)
}

#[test]
fn a_poison_row_among_ten_thousand_waits_for_a_person_and_its_siblings_are_stored() {
    let test = "a_poison_row_among_ten_thousand_waits_for_a_person_and_its_siblings_are_stored";
    let Some(clickhouse) = service(CLICKHOUSE, test) else { return };
    let database = Database::new(&clickhouse);
    let node = Trellis::start_with(&batches_of(&database, "10000"));
    node.expect_log("the store refuses rows");
    for slug in ["a", "bad"] {
        node.link(slug, "https://a.example/");
    }
    database.sql("ALTER TABLE clicks ADD CONSTRAINT c CHECK link != 'bad'");
    let slug = |n| if n == 6_789 { "bad" } else { "a" };
    let ids = follow(node.edge(), (0..10_000).map(|n| format!("/{}?click_id={n}", slug(n))));
    eventually("the row is refused", || node.metric(REFUSED) == 1.0);
    let siblings: Vec<_> = ids.iter().filter(|id| **id != ids[6_789]).cloned().collect();
    assert_eq!(stored(&database), sorted(siblings));
    assert_eq!(database.sql("SELECT uniqExact(batch_id) FROM clicks"), "1", "it was one batch");
    assert_eq!(node.metric(PARKED), 0.0);
    let listed = printed(&node, &["dead-letter", "ls"]);
    let batch = database.sql("SELECT toString(any(batch_id)) FROM clicks");
    let line = listed.lines().find(|line| line.starts_with(&batch)).unwrap_or_else(|| panic!("{listed}"));
    assert!(line.contains("\t469\t") && line.contains("Constraint `c`"), "{line}");
    let shown = printed(&node, &["dead-letter", "show", &batch]);
    assert!(shown.contains(&format!("\t{}\twaiting\t469\tbad\t", ids[6_789])), "{shown}");

    // Nothing has changed: it is refused once more, and waits.
    let again = printed(&node, &["dead-letter", "replay", &batch]);
    assert_eq!(again, format!("{batch}: 0 stored, 0 of them were there; 1 wait\n"));
    database.sql("ALTER TABLE clicks DROP CONSTRAINT c");
    for stored in [1, 0] {
        let told = printed(&node, &["dead-letter", "replay", &batch]);
        assert_eq!(told, format!("{batch}: {stored} stored, 0 of them were there; 0 wait\n"));
    }
    assert_eq!(stored(&database), sorted(ids));
    assert_eq!(node.metric(REFUSED), 0.0);
}

#[test]
fn a_table_that_fits_no_row_parks_batches_and_refuses_none_until_it_is_mended() {
    let test = "a_table_that_fits_no_row_parks_batches_and_refuses_none_until_it_is_mended";
    let Some(clickhouse) = service(CLICKHOUSE, test) else { return };
    let database = Database::new(&clickhouse);
    let node = Trellis::start_with(&batches_of(&database, "100"));
    node.expect_log(WILL_NOT);
    node.link("a", "https://a.example/");
    let visit = |n: u32| follow(node.edge(), (n..n + 500).map(|n| format!("/a?click_id={n}")));
    let mut ids = Vec::new();
    let drifts = [
        ("ADD CONSTRAINT c CHECK link = 'another'", "DROP CONSTRAINT c"),
        ("DROP COLUMN country", "ADD COLUMN country LowCardinality(String)"),
        // Its rows are read as what they are not.
        ("MODIFY COLUMN status String", "MODIFY COLUMN status UInt16"),
    ];
    for (drift, mend) in drifts {
        database.sql(&format!("ALTER TABLE clicks {drift}"));
        let before = stored(&database);
        ids.extend(visit(ids.len() as u32));
        eventually(&format!("{drift}: the batches are parked"), || node.metric(PARKED) >= 4.0);
        assert_eq!((stored(&database), node.metric(REFUSED)), (before, 0.0), "{drift}");
        database.sql(&format!("ALTER TABLE clicks {mend}"));
        eventually(&format!("{mend}: all are stored"), || stored(&database).len() == ids.len());
        assert_eq!(stored(&database), sorted(ids.clone()), "{mend}");
        eventually("nothing waits", || node.metric(PARKED) == 0.0);
        assert_eq!(node.metric(REFUSED), 0.0, "{drift}");
    }
}

#[test]
fn a_batch_of_too_many_partitions_for_the_engine_is_stored_in_parts() {
    let test = "a_batch_of_too_many_partitions_for_the_engine_is_stored_in_parts";
    let Some(clickhouse) = service(CLICKHOUSE, test) else { return };
    let database = Database::new(&clickhouse);
    let node = Trellis::start_with(&batches_of(&database, "300"));
    node.link("a", "https://a.example/");
    // The same table, cut in three hundred: an insert of the engine may touch a hundred.
    let made = database.sql("SHOW CREATE TABLE clicks FORMAT TSVRaw");
    let cut = made.replace("PARTITION BY toYYYYMM(ts)", "PARTITION BY toUInt16(external_click_id)");
    assert_ne!(made, cut, "{made}");
    database.sql("DROP TABLE clicks SYNC");
    database.sql(&cut);
    let ids = follow(node.edge(), (0..300).map(|n| format!("/a?click_id={n}")));
    eventually("all are stored", || stored(&database).len() == 300);
    assert_eq!(stored(&database), sorted(ids));
    assert_eq!((node.metric(PARKED), node.metric(REFUSED)), (0.0, 0.0));
    assert_eq!(database.sql("SELECT uniqExact(batch_id) FROM clicks"), "1", "it was one batch");
}

#[cfg(feature = "testing")]
mod months {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use trellis::clock::{Clock, SystemClock};
    use trellis::config::{Config, Sources};
    use trellis::handoff::Run;
    use trellis::segment::{Disk, RealDisk};
    use trellis::telemetry::metrics::Metrics;
    use trellis::testing::ManualClock;

    use super::*;
    use crate::bench::push;
    use crate::load::{Load, Visits};

    const DAYS: u64 = 120;
    const CLICKS_A_DAY: u64 = 150;
    const DAY_MS: u64 = 86_400_000;

    /// Leaves a journal in the folder, as of a node that ended before it had stored anything: the days up to now. Ids and
    /// clicks by month (`202611`).
    fn leave_journal(data_dir: &std::path::Path, now_ms: u64) -> (Vec<String>, BTreeMap<String, u64>) {
        let data_dir = data_dir.display().to_string();
        let settings = [("data_dir", data_dir.as_str()), ("edge.threads", "1"), ("journal.segment_bytes", "1MiB")];
        let flags = settings.map(|(k, v)| (k.to_owned(), v.to_owned())).into();
        let config = Config::load(&Sources { flags, ..Sources::default() }).expect("a good config");
        let metrics = Metrics::new(1, config.queue.groups_max, &[], || 0).expect("metrics");
        let (disk, clock): (Arc<dyn Disk>, Arc<dyn Clock>) =
            (Arc::new(RealDisk), Arc::new(ManualClock::new(now_ms - DAYS * DAY_MS)));
        let (run, mut doors) = Run::begin(&disk, &config, &metrics, &clock).expect("a run");
        let (intake, _follower) = doors.pop().expect("one core");
        let mut intake = intake();
        let (mut ids, mut months) = (Vec::new(), BTreeMap::new());
        for day in 0..DAYS {
            let ms = now_ms - (DAYS - day) * DAY_MS;
            let time = jiff::Timestamp::from_millisecond(ms as i64).expect("a time").to_zoned(jiff::tz::TimeZone::UTC);
            *months.entry(time.strftime("%Y%m").to_string()).or_default() += CLICKS_A_DAY;
            let pushed = push(&mut intake, ms, day * CLICKS_A_DAY..(day + 1) * CLICKS_A_DAY);
            ids.extend(pushed.iter().map(ToString::to_string));
        }
        intake.close();
        run.end(false).expect("left behind");
        assert_eq!(metrics.edge(0).accepted.get(), DAYS * CLICKS_A_DAY);
        (ids, months)
    }

    #[test]
    fn a_backlog_of_120_days_is_stored_whole_beside_the_clicks_of_now() {
        let test = "a_backlog_of_120_days_is_stored_whole_beside_the_clicks_of_now";
        let Some(clickhouse) = service(CLICKHOUSE, test) else { return };
        let database = Database::new(&clickhouse);
        let folder = Arc::new(tempfile::tempdir().expect("a folder"));
        let (mut ids, months) = leave_journal(folder.path(), SystemClock::new().wall_ms());
        assert!(months.len() >= 4, "{months:?}");
        let mut node = Trellis::start_in(folder, &database.settings());
        node.link("now", "https://a.example/");
        let visits = Visits { path: "/now?click_id=".into(), ..Visits::steady("n") };
        let load = Load::start(node.edge(), &visits);
        eventually("the backlog is stored", || {
            database.sql("SELECT count() FROM clicks WHERE link = 'a'") == (DAYS * CLICKS_A_DAY).to_string()
        });
        let seen = load.finish();
        seen.assert_answered(false);
        assert_eq!(node.stop().code(), Some(0));
        let by_month = database.sql("SELECT toString(toYYYYMM(ts)), count() FROM clicks WHERE link = 'a' GROUP BY 1");
        let by_month: BTreeMap<_, u64> = by_month
            .lines()
            .map(|line| line.split_once('\t').expect("two columns"))
            .map(|(month, clicks)| (month.to_owned(), clicks.parse().expect("a number")))
            .collect();
        assert_eq!(by_month, months);
        let of_batch = "SELECT max(months) FROM (SELECT uniqExact(toYYYYMM(ts)) months FROM clicks GROUP BY batch_id)";
        assert_eq!(database.sql(of_batch), "1", "a batch is of one month");
        // Whether a visitor came before, nobody can tell after so long.
        assert_eq!(database.sql("SELECT DISTINCT dedup FROM clicks WHERE link = 'a'"), "unknown");
        ids.extend(seen.kept.into_keys());
        assert_eq!(stored(&database), sorted(ids), "each once");
    }
}
