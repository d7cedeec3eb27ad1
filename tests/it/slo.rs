//! Objectives: every figure that was asked for is defined or named with the reason why not; a bad file keeps a node from
//! starting; a node says how its objectives stand, also after a restart and when it has ended.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use trellis::config::slo::shipped;

use crate::cli::{bad, good};
use crate::harness::{Trellis, root};

/// The alerts that were asked for.
const ALERTS: &[&str] = &[
    "RedirectLatencyCritical",
    "RedirectLatencyWarning",
    "IngressErrorRate",
    "ErrorBudgetFastBurn001",
    "StorageFailureRate",
    "WarehouseQueryFailures",
    "AuthenticationFailures",
    "ServiceDown",
    "CacheHitRatioLow",
    "QueryLatencyHigh",
    "MemoryHigh80",
    "MemoryHigh85",
    "CpuHigh75",
    "CpuHigh80",
    "QueueDepth",
    "ControlLatencyHigh",
    "StoreQuerySlow",
    "ReleaseApplySlow",
    "RoutingLatencyBreach",
    "ElevatedResponseTimes",
    "PoolExhausted",
    "PoolUtilisation",
    "PoolWait",
    "PoolAge",
    "PoolFailures",
    "RedisMemory",
    "RedisCpu",
    "RedisEvictions",
    "DiskSpace",
    "DiskIo",
    "Network",
    "ReplicationLag",
    "SlowOperation",
];

/// The figures that were asked for, and the objectives that have them; a `*` stands for any end.
const FIGURES: &[(&str, &[&str])] = &[
    ("redirect", &["redirect-p50", "redirect-p95", "redirect-p99", "redirect-availability"]),
    ("phases of a redirect", &["redirect-p99"]),
    ("freshness and its phases", &["freshness", "canary-freshness"]),
    ("synthetic checks", &["canary", "endpoints"]),
    ("routing decision", &["routing-p50", "routing-p95", "routing-p99"]),
    ("routing success", &["routing-success"]),
    ("choice among destinations", &["choice-p99"]),
    ("choices a second", &["choice-rate"]),
    ("compliance", &["compliance-p99"]),
    ("compliance errors", &["compliance-errors"]),
    ("compliance memo", &["cache-compliance"]),
    ("keys", &["auth-p50", "auth-p95", "auth-p99", "auth-max", "auth-availability"]),
    ("dedup", &["dedup-p95", "dedup-p99"]),
    ("dedup availability", &["dedup-availability"]),
    ("redis get", &["redis-get-p95"]),
    ("redis set", &["redis-set-p95"]),
    ("campaign resolution", &["resolve-p95"]),
    ("campaign revalidation", &["revalidation"]),
    ("link or campaign, read", &["read-one-p50", "read-one-p95", "read-one-p99", "read-one-availability"]),
    ("links, a page", &["list-links-p50", "list-links-p95", "list-links-p99", "list-links-availability"]),
    ("link, made", &["create-link-p50", "create-link-p95", "create-link-p99", "create-link-availability"]),
    ("link, changed", &["change-link-p50", "change-link-p95", "change-link-p99", "change-link-availability"]),
    ("link, removed", &["remove-link-p50", "remove-link-p95", "remove-link-p99", "remove-link-availability"]),
    ("visit of /in", &["in-p50"]),
    ("webhook and postback", &["webhook-p50"]),
    ("signed link", &["signed-p50"]),
    ("release", &["release-p50", "release-p95", "release-p99", "release-availability"]),
    ("audit entry", &["audit-p50", "audit-p95", "audit-p99", "audit-availability"]),
    ("command line", &["command-p50"]),
    ("migration", &["migrate-p50", "migrate-p95", "migrate-p99"]),
    ("status page", &["page-p99"]),
    ("control API", &["control-p99"]),
    ("control API, requests a second", &["control-rate"]),
    ("analytics", &["analytics-p95"]),
    ("postgres", &["postgres-p95"]),
    ("time between failures and to repair", &["mtbf"]),
    ("errors over five minutes", &["edge-errors"]),
    ("release to every node", &["propagation"]),
    ("answers 5xx", &["edge-errors", "control-errors"]),
    ("answers 4xx, control", &["control-refusals"]),
    ("answers 4xx, edge", &["edge-refusals"]),
    ("store errors", &["store-errors"]),
    ("failed tasks of workers", &["worker-errors"]),
    ("cache of keys", &["cache-keys"]),
    ("cache of links and campaigns", &["cache-links", "cache-campaigns"]),
    ("cache of agents", &["cache-agents"]),
    ("cache of analytics", &["cache-analytics"]),
    ("cache of dedup", &["cache-dedup"]),
    ("budget of a request", &["request-bytes"]),
];

/// Figures that are named in the requirements as not measured, with their state.
fn named() -> BTreeMap<String, String> {
    let page = std::fs::read_to_string(root().join("config/requirements.md")).expect("the page");
    let section = page.split_once("## Figures without an objective").expect("the section").1;
    let rows = section.lines().filter(|line| line.starts_with("| `"));
    let cells = rows.map(|row| row.trim_matches('|').split('|').map(str::trim).collect::<Vec<_>>());
    let named: Vec<_> = cells.map(|cells| (cells[0].trim_matches('`').to_owned(), cells[1].to_owned())).collect();
    assert_eq!(named.iter().map(|(name, _)| name).collect::<BTreeSet<_>>().len(), named.len(), "one of them twice");
    named.into_iter().collect()
}

#[test]
fn every_figure_that_was_asked_for_is_an_objective_or_named_with_its_reason() {
    let (slo, mut named) = (shipped(), named());
    let ids: BTreeSet<_> = slo.objectives.iter().map(|one| one.id.as_str()).collect();
    let alerts: BTreeSet<_> = slo.objectives.iter().flat_map(|one| &one.alerts).map(|one| one.name.as_str()).collect();
    let mut broken = Vec::new();
    let alerts = ALERTS.iter().map(|name| (*name, alerts.contains(name)));
    let figures = FIGURES.iter().map(|(name, of)| (*name, of.iter().all(|id| ids.contains(id))));
    for (name, is_defined) in alerts.chain(figures) {
        match (is_defined, named.remove(name)) {
            (true, Some(_)) => broken.push(format!("{name}: is defined, and named as missing")),
            (false, None) => broken.push(format!("{name}: is neither defined nor named in config/requirements.md")),
            (false, Some(state)) => {
                let files = state.strip_prefix("measured by ").map(|files| files.trim_matches('`').to_owned());
                let reason = ["not yet: ", "out of scope: "].iter().find_map(|prefix| state.strip_prefix(prefix));
                let is_good =
                    files.is_some_and(|file| root().join(file).is_file()) || reason.is_some_and(|r| r.len() > 10);
                if !is_good {
                    broken.push(format!("{name}: {state:?} is no state with a reason"));
                }
            }
            (true, None) => {}
        }
    }
    broken.extend(named.into_keys().map(|name| format!("{name}: was not asked for")));
    assert!(broken.is_empty(), "{broken:#?}");
}

#[test]
fn every_objective_is_of_a_requirement_that_exists() {
    let page = std::fs::read_to_string(root().join("config/requirements.md")).expect("the page");
    for objective in &shipped().objectives {
        let row = format!("| {} |", objective.requirement);
        assert!(page.lines().any(|line| line.starts_with(&row)), "{}: {}", objective.id, objective.requirement);
    }
}

#[test]
fn a_bad_file_of_objectives_is_told_with_its_lines_and_nothing_starts() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("mine.toml");
    let text = std::fs::read_to_string(root().join("config/slo.toml")).expect("the shipped one");
    let text = text.replacen("target = \"10ms\"", "target = \"11ms\"", 1).replacen(
        "requirement = \"R41\"",
        "requirement = 41",
        1,
    );
    std::fs::write(&path, &text).expect("a file");
    let setting = format!("slo.file={}", path.display());
    let line = |text: &str, part: &str| 1 + text.lines().position(|line| line == part).expect("the line");
    let lines = [
        format!(
            "{}:{}: redirect-p50.requirement = 41: must be text in quotes",
            path.display(),
            line(&text, "requirement = 41")
        ),
        format!(
            "{}:{}: redirect-p50.target = \"11ms\": is no bound of a bucket of trellis_redirect_duration_seconds; the \
             nearest is 10 ms",
            path.display(),
            line(&text, "target = \"11ms\"")
        ),
    ];
    for command in ["check", "serve"] {
        let told = bad(&crate::cli::run(folder.path(), &["--set", &setting, command]), 64);
        assert_eq!(told.lines().collect::<Vec<_>>(), lines);
    }
    std::fs::write(&path, std::fs::read(root().join("config/slo.toml")).expect("bytes")).expect("a file");
    good(&crate::cli::run(folder.path(), &["--set", &setting, "check"]));
}

fn objective<'v>(report: &'v Value, id: &str) -> &'v Value {
    let mut all = report["objectives"].as_array().expect("a list").iter();
    all.find(|one| one["id"] == id).unwrap_or_else(|| panic!("no {id} in {report}"))
}

fn of_node(trellis: &Trellis) -> Value {
    trellis.api_raw("GET", "/slo", &[], b"").json()
}

#[test]
fn every_shipped_objective_finds_the_series_that_it_names() {
    let trellis = Trellis::start();
    let report = of_node(&trellis);
    let all = report["objectives"].as_array().expect("a list").iter();
    let is_absent =
        |one: &&Value| one["not_measured"].as_str().is_some_and(|why| why.starts_with("there is no such series"));
    let absent: Vec<_> = all.filter(is_absent).map(|one| one["id"].as_str().expect("an id")).collect();
    // What Redis and ClickHouse say, and what this machine may not say; the system is asked a moment after the start.
    let may = ["redis-memory", "redis-cpu", "redis-evictions", "replication-lag", "warden-up"];
    let system = ["memory", "cpu", "disk-space", "disk-io"];
    assert!(may.iter().all(|id| absent.contains(id)), "{absent:?}");
    let others: Vec<_> = absent.iter().filter(|id| !may.contains(id) && !system.contains(id)).collect();
    assert!(others.is_empty(), "they name no series: {others:?}");
}

#[test]
fn a_node_says_how_its_objectives_stand_and_goes_on_after_a_restart() {
    // How busy and how full the machine is must not decide what this test sees.
    let shipped = std::fs::read_to_string(root().join("config/slo.toml")).expect("the shipped one");
    let wanted =
        |block: &&str| ["redirect-availability", "store-up"].iter().any(|id| block.contains(&format!("id = \"{id}\"")));
    let blocks = shipped.split("[[objective]]").filter(wanted).map(|block| format!("[[objective]]{block}"));
    let (folder, text) = (tempfile::tempdir().expect("a temporary folder"), blocks.collect::<String>());
    std::fs::write(folder.path().join("mine.toml"), text).expect("a file");
    let path = folder.path().join("mine.toml").display().to_string();
    let settings = [("slo.file", path.as_str())];

    let mut trellis = Trellis::start_with(&settings);
    let report = of_node(&trellis);
    assert_eq!(report["objectives"].as_array().map(Vec::len), Some(2));
    assert_eq!(
        (&report["overall"], &objective(&report, "store-up")["verdict"]),
        (&"OK".into(), &"OK".into()),
        "{report}"
    );
    trellis.link("a", "https://a.example/");
    (0..20).for_each(|_| assert_eq!(trellis.get("/a").status, 302));
    trellis.stop();
    // From the history alone.
    let json = good(&trellis.cli(&["slo", "report", "--format", "json", "--since", "1h"]));
    let json: Value = serde_json::from_str(&json).expect("JSON");
    let redirects = objective(&json, "redirect-availability");
    let events = redirects["windows"][5]["events"].as_u64().expect("a number");
    assert!(events >= 20 && redirects["value"] == 0.0, "{redirects}");
    assert_eq!((&json["since"], &redirects["window"]), (&"1h".into(), &"1h".into()));
    let text = good(&trellis.cli(&["slo", "report"]));
    assert!(text.starts_with("OK: 0 BREACH, 0 WARNING, 2 OK") && text.contains("redirect-availability"), "{text}");
    // And the next node goes on with it.
    let trellis = Trellis::start_in(trellis.folder(), &settings);
    let now = of_node(&trellis);
    let after = objective(&now, "redirect-availability")["windows"][5]["events"].as_u64().expect("a number");
    assert!(after >= events, "{after} after {events}");
    assert!(trellis.metric("trellis_slo_compliant{slo=\"redirect-availability\",window=\"30d\"}") == 1.0);
    let page = good(&trellis.cli(&["slo", "report", "--format", "markdown"]));
    assert!(page.starts_with("# Objectives\n") && page.contains("| OK | `redirect-availability` |"), "{page}");
    let told = bad(&trellis.cli(&["slo", "report", "--since", "31d"]), 1);
    assert!(told.contains("must be 1m to 30d"), "{told}");
}

#[test]
fn a_damaged_history_is_put_aside_and_stops_no_start() {
    let folder = std::sync::Arc::new(tempfile::tempdir().expect("a temporary folder"));
    std::fs::write(folder.path().join("slo.history"), b"nonsense").expect("a file");
    let mut trellis = Trellis::start_in(folder, &[]);
    trellis.expect_log("the history of the objectives cannot be read; a new one is begun");
    assert_eq!(trellis.logged(1, "the history of the objectives cannot be read").len(), 1);
    trellis.stop();
    assert_eq!(std::fs::read(trellis.data_dir().join("slo.damaged")).expect("put aside"), b"nonsense");
    assert!(std::fs::read(trellis.data_dir().join("slo.history")).expect("a new one").starts_with(b"TRELLSLO"));
}
