//! What a node shows of what it depends on: Redis, ClickHouse, the system, its event loops and its memory.

use std::collections::BTreeMap;

use serde_json::json;

use crate::harness::{Trellis, eventually, service};
use crate::live::{CLICKHOUSE, Database, Services};

/// Every series of the node that begins like this, with its value.
fn shown(node: &Trellis, prefix: &str) -> BTreeMap<String, f64> {
    let text = node.api_raw("GET", "/metrics", &[], b"");
    let text = String::from_utf8_lossy(&text.body).into_owned();
    let series = text.lines().filter(|line| line.starts_with(prefix)).filter_map(|line| line.rsplit_once(' '));
    series.map(|(name, value)| (name.to_owned(), value.parse().expect("a number"))).collect()
}

fn looks(node: &Trellis, cache: &str, result: &str) -> f64 {
    node.metric(&format!("trellis_cache_total{{cache=\"{cache}\",result=\"{result}\"}}"))
}

#[test]
fn a_node_shows_what_the_system_says_of_it() {
    let node = Trellis::start_with(&[("watch.system_every", "100ms")]);
    eventually("the system was asked", || shown(&node, "trellis_disk_free_bytes").len() == 1);
    let (all, free) = (node.metric("trellis_disk_bytes"), node.metric("trellis_disk_free_bytes"));
    assert!(0.0 < free && free <= all, "{free} of {all}");
    let (heap, limit) = (node.metric("trellis_heap_bytes"), node.metric("trellis_memory_limit_bytes"));
    assert!(1e6 < heap && heap < limit, "{heap} of {limit}");
    assert!(node.metric("trellis_cpu_cores") > 0.0);
    assert_eq!(shown(&node, "trellis_network_bytes_total").len(), 2);
    node.link("a", "https://a.example/");
    let before = node.metric("trellis_io_bytes_total{direction=\"write\"}");
    node.get("/a");
    node.wait_stored(1);
    eventually("what was written is seen", || node.metric("trellis_io_bytes_total{direction=\"write\"}") > before);
    assert!(shown(&node, "trellis_redis_").is_empty() && shown(&node, "trellis_clickhouse_").is_empty());
    assert!(node.metric("trellis_release_apply_duration_seconds_count") >= 1.0, "the link is served");
}

#[test]
fn every_event_loop_shows_its_tasks_and_its_lag() {
    let node = Trellis::start();
    let names = |name: &str| -> Vec<String> { shown(&node, name).into_keys().collect() };
    let expected = |name: &str| -> Vec<String> {
        ["control", "edge-0", "edge-1", "worker-0", "worker-1"].map(|of| format!("{name}{{runtime=\"{of}\"}}")).into()
    };
    assert_eq!(names("trellis_runtime_tasks"), expected("trellis_runtime_tasks"));
    assert_eq!(names("trellis_runtime_lag_seconds"), expected("trellis_runtime_lag_seconds"));
    let all_felt = || shown(&node, "trellis_runtime_tasks").into_values().all(|tasks| tasks >= 1.0);
    eventually("each was looked at", all_felt);
    assert!(node.metric("trellis_runtime_tasks{runtime=\"control\"}") >= 5.0, "pollers, monitor and more");
}

#[test]
fn looks_into_memory_are_counted_by_what_they_found() {
    let node = Trellis::start_with(&[("ingress.enabled", "true"), ("ingress.fallback_url", "https://else.example/")]);
    let campaign = json!({"rules": [{"name": "phones", "when": "device == \"mobile\"", "to": [{"url": "https://m.example/"}]}],
        "default": [{"url": "https://d.example/"}]});
    assert_eq!(node.api("PUT", "/api/v1/campaigns/c", Some(&campaign.to_string())).status, 201);
    for (slug, campaign) in [("a", "c"), ("b", "never-saved")] {
        let link = json!({"slug": slug, "url": "https://a.example/", "campaign": campaign});
        assert_eq!(node.api("POST", "/api/v1/links", Some(&link.to_string())).status, 201);
    }
    let visit = |path: &str| node.edge_request("GET", path, &[("User-Agent", "Mozilla/5.0 (iPhone)")]).status;
    assert_eq!([visit("/a"), visit("/a"), visit("/b"), visit("/nobody-has-it"), visit("/")], [302, 302, 302, 404, 404]);
    node.wait_stored(3);
    assert_eq!((looks(&node, "links", "hit"), looks(&node, "links", "miss")), (3.0, 1.0), "`/` is no slug");
    assert_eq!((looks(&node, "campaigns", "hit"), looks(&node, "campaigns", "miss")), (2.0, 1.0));
    // Each thread reads an agent once: at most both edge threads and both workers.
    let (hits, misses) = (looks(&node, "agents", "hit"), looks(&node, "agents", "miss"));
    assert_eq!(hits + misses, 5.0, "two visits asked for it, and three clicks");
    assert!((2.0..=4.0).contains(&misses), "{misses}");
    // All say the same, and each edge thread decides once.
    let (hits, misses) = (looks(&node, "compliance", "hit"), looks(&node, "compliance", "miss"));
    assert_eq!(hits + misses, 3.0, "clicks");
    assert!((1.0..=2.0).contains(&misses), "{misses}");

    let made = node.api("POST", "/api/v1/keys", Some(&json!({ "scopes": ["ingress"] }).to_string()));
    let good = format!("Bearer {}", made.json()["secret"].as_str().expect("a key"));
    let with = |key: &str| node.edge_request("GET", "/in?campaign=c", &[("Authorization", key)]).status;
    assert_eq!((with(&good), with("Bearer nonsense")), (302, 401));
    assert_eq!(
        (looks(&node, "keys", "hit"), looks(&node, "keys", "miss")),
        (1.0, 0.0),
        "nonsense is looked for nowhere"
    );
    assert_eq!(looks(&node, "campaigns", "hit"), 3.0);
}

#[test]
fn a_visit_stays_within_its_budget_of_look_ups_bytes_and_questions() {
    let node = Trellis::start_with(&[("ingress.enabled", "true"), ("ingress.fallback_url", "https://else.example/")]);
    let campaign = json!({"sticky": "cookie", "default": [{"url": "https://d.example/{os}/{country}?id={click_id}"}]});
    assert_eq!(node.api("PUT", "/api/v1/campaigns/c", Some(&campaign.to_string())).status, 201);
    let link = json!({"slug": "a", "url": "https://a.example/", "campaign": "c"});
    assert_eq!(node.api("POST", "/api/v1/links", Some(&link.to_string())).status, 201);
    let asked = || -> f64 {
        let calls = shown(&node, "trellis_store_op_duration_seconds_count{");
        // Others are asked at times of their own, or when the visitors are gone.
        let for_visits = ["look", "count", "recent", "find", "commit", "revisions", "releases", "keys", "key_write"];
        let is_for_visits = |name: &str| for_visits.iter().any(|op| name.contains(&format!("op=\"{op}\"")));
        calls.into_iter().filter(|(name, _)| is_for_visits(name)).map(|(_, count)| count).sum()
    };
    let looks = || shown(&node, "trellis_cache_total").into_values().sum::<f64>();
    let (asked_before, looks_before) = (asked(), looks());
    for _ in 0..50 {
        let answer = node.edge_request("GET", "/a?click_id=x", &[("User-Agent", "Mozilla/5.0 (iPhone)")]);
        let headers: usize = answer.headers.iter().map(|(name, value)| name.len() + value.len() + 4).sum();
        assert_eq!((answer.status, answer.body.len()), (302, 0));
        assert!(headers < 1024, "{headers} bytes");
    }
    let of_one = (looks() - looks_before) / 50.0;
    assert!((2.0..10.0).contains(&of_one), "{of_one} look-ups");
    assert_eq!(asked() - asked_before, 0.0, "no question to the store or the catalog for a visit");
}

#[test]
fn redis_is_shown_as_it_says_while_it_is_there_and_not_at_all_while_it_is_not() {
    let test = "redis_is_shown_as_it_says_while_it_is_there_and_not_at_all_while_it_is_not";
    let Some(services) = Services::up_redis(test) else { return };
    let settings = [("dedup.backend", "redis"), ("redis.url", services.redis.as_str()), ("watch.redis_every", "100ms")];
    let node = Trellis::start_with(&settings);
    for text in ["Redis", "does not answer"] {
        node.expect_log(text);
    }
    node.link("a", "https://a.example/");
    for stored in 1..=3 {
        node.get("/a?click_id=the-same");
        node.wait_stored(stored);
    }
    eventually("two look-ups found a key", || {
        shown(&node, "trellis_redis_keyspace").get("trellis_redis_keyspace_hits_total") == Some(&2.0)
    });
    let (used, max) = (node.metric("trellis_redis_used_memory_bytes"), node.metric("trellis_redis_memory_max_bytes"));
    assert!(1e5 < used && used < max, "{used} of {max}");
    assert!(node.metric("trellis_redis_keyspace_misses_total") >= 1.0);
    assert!(node.metric("trellis_redis_memory_fragmentation_ratio") > 0.0);
    assert!(
        node.metric("trellis_redis_cpu_seconds_total") > 0.0 && node.metric("trellis_redis_connected_clients") >= 1.0
    );
    assert_eq!(node.metric("trellis_redis_evicted_keys_total"), 0.0);
    assert!(shown(&node, "trellis_redis_replication_lag_seconds").is_empty(), "it has no replica");
    assert!(node.metric("trellis_store_op_duration_seconds_count{dependency=\"redis\",op=\"claim\"}") >= 3.0);
    services.call(&["kill", "redis"]);
    eventually("nothing is shown of it", || shown(&node, "trellis_redis_").is_empty());
    services.call(&["start", "redis"]);
    eventually("it is shown again", || shown(&node, "trellis_redis_").len() >= 10);
}

#[test]
fn clickhouse_is_shown_as_its_system_tables_say() {
    let test = "clickhouse_is_shown_as_its_system_tables_say";
    let Some(clickhouse) = service(CLICKHOUSE, test) else { return };
    let database = Database::new(&clickhouse);
    let mut settings = database.settings();
    settings.push(("watch.store_every", "100ms"));
    let node = Trellis::start_with(&settings);
    node.link("a", "https://a.example/");
    node.get("/a");
    node.wait_stored(1);
    let parts = || shown(&node, "trellis_clickhouse_parts").into_values().next().unwrap_or_default();
    let told = || database.sql("SELECT count() FROM system.parts WHERE active AND database = currentDatabase()");
    eventually("the parts are those that it has", || parts() > 0.0 && parts().to_string() == told());
    let most = node.metric("trellis_clickhouse_partition_parts_max");
    assert!((1.0..=parts()).contains(&most), "{most}");
    for present in ["merges", "delayed_inserts_total", "rejected_inserts_total", "uptime_seconds"] {
        assert_eq!(shown(&node, &format!("trellis_clickhouse_{present}")).len(), 1, "{present}");
    }
    assert!(node.metric("trellis_clickhouse_memory_bytes") > 0.0);
    assert!(shown(&node, "trellis_clickhouse_replication_lag_seconds").is_empty(), "nothing is replicated");
    // The engine of the tests keeps no log of queries; a server does.
    let has_log = database.sql("EXISTS TABLE system.query_log") == "1";
    assert!(has_log || shown(&node, "trellis_clickhouse_query_p95_seconds").is_empty());
}

#[test]
fn redis_and_clickhouse_that_are_not_configured_are_not_asked() {
    let node = Trellis::start_with(&[("watch.redis_every", "100ms"), ("watch.store_every", "100ms")]);
    node.link("a", "https://a.example/");
    node.get("/a");
    node.wait_stored(1);
    assert!(shown(&node, "trellis_store_op_duration_seconds_count{dependency=\"redis\"").is_empty());
    assert!(!shown(&node, "trellis_store_op_duration_seconds_count{").keys().any(|name| name.contains("figures")));
}
