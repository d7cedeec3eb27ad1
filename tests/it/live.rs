//! The whole program against a real Redis and a real ClickHouse engine, also while these are killed and started again.
//!
//! A test runs when the URLs of its services are in the environment; `tests/run` and `tests/services up` see to that. A
//! test that kills a service starts one of its own.

use std::collections::BTreeSet;
use std::process::Command;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process, test_kill_process};

use crate::harness::{Trellis, eventually, request, root, service, within};

pub(crate) const REDIS: &str = "TRELLIS_TEST_REDIS_URL";
pub(crate) const CLICKHOUSE: &str = "TRELLIS_TEST_CLICKHOUSE_URL";

/// A ClickHouse database of one test, dropped with it.
pub(crate) struct Database {
    url: String,
    name: String,
}

impl Database {
    pub(crate) fn new(url: &str) -> Self {
        let mut random = [0; 8];
        getrandom::fill(&mut random).expect("random bytes");
        Self { url: url.to_owned(), name: format!("trellis_it_{:016x}", u64::from_le_bytes(random)) }
    }

    pub(crate) fn settings(&self) -> Vec<(&str, &str)> {
        vec![
            ("store.backend", "clickhouse"),
            ("store.clickhouse.url", &self.url),
            ("store.clickhouse.database", &self.name),
            ("retry.insert.max", "200ms"),
        ]
    }

    /// Asks the engine itself; the answer as text.
    pub(crate) fn sql(&self, query: &str) -> String {
        let to = self.url.strip_prefix("http://").expect("a URL").parse().expect("an address");
        let answer = request(to, "POST", &format!("/?database={}", self.name), &[], query.as_bytes());
        let text = String::from_utf8_lossy(&answer.body).trim().to_owned();
        assert_eq!(answer.status, 200, "{query}: {text}");
        text
    }

    /// Rows that questions do not see, because another one has the same id. Merges make them fewer.
    pub(crate) fn rows_sent_again(&self, table: &str) -> u64 {
        let found = self.sql(&format!("SELECT count() - uniqExact(click_id) FROM {table}"));
        found.parse().expect("a number")
    }

    /// The clicks in a table, as questions see them: id and external id.
    pub(crate) fn rows(&self, table: &str) -> Vec<(String, String)> {
        let text = self.sql(&format!("SELECT toString(click_id), external_click_id FROM {table} FINAL"));
        let columns = |line: &str| line.split_once('\t').map(|(id, external)| (id.to_owned(), external.to_owned()));
        text.lines().map(|line| columns(line).expect("two columns")).collect()
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            let to = self.url.strip_prefix("http://").expect("a URL").parse().expect("an address");
            request(to, "POST", "/", &[], format!("DROP DATABASE IF EXISTS {}", self.name).as_bytes());
        }
    }
}

/// Services of one test, which it may kill.
pub(crate) struct Services {
    folder: tempfile::TempDir,
    pub(crate) redis: String,
    pub(crate) clickhouse: String,
}

impl Services {
    /// `None` where live tests do not run.
    pub(crate) fn up(test: &str) -> Option<Self> {
        service(REDIS, test)?;
        service(CLICKHOUSE, test)?;
        Some(Self::start(&[]))
    }

    /// Redis alone.
    pub(crate) fn up_redis(test: &str) -> Option<Self> {
        service(REDIS, test)?;
        Some(Self::start(&["redis"]))
    }

    fn start(which: &[&str]) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let mut services = Self { folder, redis: String::new(), clickhouse: String::new() };
        let parent = std::process::id().to_string();
        let printed = services.call(&[&["up"], which, &["--with-parent", &parent]].concat());
        for line in printed.lines() {
            match line.strip_prefix("export ").and_then(|line| line.split_once('=')) {
                Some((REDIS, url)) => services.redis = url.to_owned(),
                Some((CLICKHOUSE, url)) => services.clickhouse = url.to_owned(),
                _ => panic!("not known: {line}"),
            }
        }
        services
    }

    /// Signals a service; after SIGTERM, waits for its end, and helps when it does not come: the engine hangs at its own
    /// end now and then, and how it ends is not what is tested.
    pub(crate) fn signal(&self, name: &str, signal: Signal) {
        let printed = self.call(&["status"]);
        let pid = printed.lines().find_map(|line| line.strip_prefix(&format!("{name}: runs, pid "))?.split(',').next());
        let pid = pid.and_then(|pid| Pid::from_raw(pid.parse().ok()?)).unwrap_or_else(|| panic!("{printed}"));
        kill_process(pid, signal).expect("the process is there");
        if signal == Signal::TERM {
            let has_ended = || test_kill_process(pid).is_err();
            if !within(Duration::from_secs(20), has_ended) {
                let _ = kill_process(pid, Signal::KILL);
                eventually("it has ended", has_ended);
            }
        }
    }

    pub(crate) fn call(&self, arguments: &[&str]) -> String {
        let output = Command::new(root().join("tests/services"))
            .args(arguments)
            .env("TRELLIS_SERVICES_DIR", self.folder.path())
            .env_remove(REDIS)
            .env_remove(CLICKHOUSE)
            .output()
            .expect("tests/services runs");
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}

impl Drop for Services {
    fn drop(&mut self) {
        self.call(&["down"]);
    }
}

fn ids(trellis: &Trellis, clicks: std::ops::Range<u32>) -> BTreeSet<String> {
    clicks.map(|n| trellis.get(&format!("/a?click_id={n}")).header("x-click-id").expect("an id").to_owned()).collect()
}

#[test]
fn a_click_reaches_clickhouse_with_its_label_from_redis() {
    let test = "a_click_reaches_clickhouse_with_its_label_from_redis";
    let (Some(redis), Some(clickhouse)) = (service(REDIS, test), service(CLICKHOUSE, test)) else { return };
    let database = Database::new(&clickhouse);
    let mut settings = database.settings();
    settings.extend([("dedup.backend", "redis"), ("redis.url", redis.as_str())]);
    let trellis = Trellis::start_with(&settings);
    trellis.link("a", "https://a.example/?id={click_id}");
    let answer = trellis.edge_request("GET", "/a?click_id=x&source=mail", &[("User-Agent", "Mozilla/5.0")]);
    let id = answer.header("x-click-id").expect("an id").to_owned();
    trellis.wait_stored(1);
    trellis.edge_request("GET", "/a?click_id=x&source=mail", &[("User-Agent", "Mozilla/5.0")]);
    trellis.wait_stored(2);
    let counts = trellis.count("link=a");
    assert_eq!((&counts["unique"], &counts["duplicate"], &counts["unknown"]), (&1.into(), &1.into(), &0.into()));
    let row = database.sql(&format!(
        "SELECT dedup, class, external_click_id, source, destination, query['source'] FROM clicks FINAL \
         WHERE click_id = '{id}' FORMAT CSV"
    ));
    assert_eq!(row, format!(r#""unique","human","x","mail","https://a.example/?id={id}","mail""#));
    let newest = trellis.clicks();
    assert_eq!((newest.len(), newest[0]["dedup"].as_str()), (2, Some("duplicate")));
    let ready = trellis.api_raw("GET", "/health/ready", &[], b"").json();
    assert_eq!(ready["dependencies"]["dedup"]["backend"], "redis");
    assert_eq!(ready["dependencies"]["store"]["up"], true);
}

#[test]
fn two_nodes_count_a_visitor_once() {
    let test = "two_nodes_count_a_visitor_once";
    let Some(redis) = service(REDIS, test) else { return };
    // One secret for the fleet; SQLite stores show each node's own labels.
    let settings = [
        ("dedup.backend", "redis"),
        ("redis.url", redis.as_str()),
        ("dedup.secret", "the-same-on-every-node-of-this-fleet"),
    ];
    let (one, other) = (Trellis::start_with(&settings), Trellis::start_with(&settings));
    let visit = format!("/a?click_id=fleet-{}", one.pid());
    for node in [&one, &other] {
        node.link("a", "https://a.example/");
        assert_eq!(node.get(&visit).status, 302);
        node.wait_stored(1);
    }
    assert_eq!((one.count("")["unique"].clone(), other.count("")["duplicate"].clone()), (1.into(), 1.into()));
}

#[test]
fn without_migrate_clicks_wait_until_the_tables_are_made() {
    let test = "without_migrate_clicks_wait_until_the_tables_are_made";
    let Some(clickhouse) = service(CLICKHOUSE, test) else { return };
    let database = Database::new(&clickhouse);
    let mut settings = database.settings();
    settings.push(("store.migrate", "false"));
    let trellis = Trellis::start_with(&settings);
    for text in ["will not take a batch", "does not answer"] {
        trellis.expect_log(text);
    }
    trellis.link("a", "https://a.example/");
    assert_eq!(ids(&trellis, 0..20).len(), 20);
    eventually("the store said no", || trellis.metric("trellis_insert_failures_total") > 0.0);
    let migrated = trellis.cli(&["migrate"]);
    assert!(migrated.status.success(), "{}", String::from_utf8_lossy(&migrated.stderr));
    assert!(String::from_utf8_lossy(&migrated.stdout).contains("001_clicks"));
    trellis.wait_stored(20);
    assert_eq!(database.sql("SELECT count() FROM clicks FINAL"), "20");
    assert!(trellis.cli(&["migrate"]).status.success(), "a second time changes nothing");
}

#[test]
fn a_store_that_is_killed_and_comes_back_misses_no_click_and_has_none_twice() {
    let test = "a_store_that_is_killed_and_comes_back_misses_no_click_and_has_none_twice";
    let Some(services) = Services::up(test) else { return };
    let database = Database::new(&services.clickhouse);
    let trellis = Trellis::start_with(&database.settings());
    for text in ["did not take a batch", "does not answer"] {
        trellis.expect_log(text);
    }
    trellis.link("a", "https://a.example/");
    let mut acknowledged = ids(&trellis, 0..500);
    services.call(&["kill", "clickhouse"]);
    acknowledged.extend(ids(&trellis, 500..1_500));
    eventually("the outage is seen", || trellis.metric("trellis_insert_failures_total") > 0.0);
    assert_eq!(trellis.api_raw("GET", "/health/ready", &[], b"").status, 200, "redirects go on: ready");
    let asked = trellis.api("GET", "/api/v1/clicks/count", None);
    assert_eq!((asked.status, asked.json()["code"].as_str()), (503, Some("store_unavailable")));
    services.call(&["start", "clickhouse"]);
    acknowledged.extend(ids(&trellis, 1_500..2_000));
    eventually("all are stored", || database.sql("SELECT count() FROM clicks FINAL") == "2000");
    assert_eq!(database.sql("SELECT uniqExact(click_id) FROM clicks"), "2000");
    let stored: BTreeSet<_> =
        database.sql("SELECT toString(click_id) FROM clicks FINAL").lines().map(str::to_owned).collect();
    assert_eq!(stored, acknowledged);
    trellis.wait_stored(2_000);
    assert_eq!(trellis.count("")["unique"], 2_000);
}

#[test]
fn without_redis_clicks_are_stored_with_the_label_unknown() {
    let test = "without_redis_clicks_are_stored_with_the_label_unknown";
    let Some(services) = Services::up(test) else { return };
    let settings = [("dedup.backend", "redis"), ("redis.url", services.redis.as_str()), ("retry.dedup.tries", "2")];
    let trellis = Trellis::start_with(&settings);
    for text in ["Redis", "does not answer"] {
        trellis.expect_log(text);
    }
    trellis.link("a", "https://a.example/");
    ids(&trellis, 0..10);
    trellis.wait_stored(10);
    services.call(&["kill", "redis"]);
    ids(&trellis, 10..20);
    trellis.wait_stored(20);
    assert_eq!(trellis.count("")["unknown"], 10);
    services.call(&["start", "redis"]);
    let mut next = 20;
    eventually("labels are back", || {
        ids(&trellis, next..next + 1);
        next += 1;
        trellis.wait_stored(u64::from(next));
        trellis.count("")["unique"] == 11
    });
    assert_eq!(trellis.count("")["duplicate"], 0);
}
