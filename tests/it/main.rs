//! Integration tests: the real binary on port 0, driven from outside. `tests/run` gives them a real Redis and a real
//! ClickHouse engine; without those the live ones say loudly that they are skipped.

mod alerts;
mod api;
mod audit;
mod backup;
mod bench;
mod bulk;
mod caps;
mod classes;
mod cli;
mod clicks;
mod config;
mod dead_letters;
mod delivery;
mod domains;
mod duplicates;
mod edge;
mod explain;
mod figures;
mod harness;
mod https;
mod ingress;
mod journal;
mod keys;
mod ledger;
mod life_cycle;
mod lifecycle;
mod limits;
mod live;
mod live_backends;
mod live_caps;
mod live_clickhouse;
mod live_dead_letters;
mod live_domains;
mod live_fleet;
mod live_handoff;
mod live_kills;
mod live_network;
mod live_outages;
mod live_persons;
mod live_redis;
mod live_resources;
mod live_retention;
mod live_rollups;
mod live_slo;
mod live_store;
mod load;
mod macros;
mod overload;
mod persons;
mod phases;
mod pipeline;
mod places;
mod privacy;
mod probe;
mod proxy;
mod readme;
mod releases;
mod requests;
mod routing;
mod secrets;
mod slo;
mod slow;
mod sticky;
mod store_commands;
mod tidy;
mod warden;
mod warden_proto;
mod wire;

#[cfg(not(feature = "failpoints"))]
#[test]
fn tests_with_faults_at_named_points_need_the_feature_failpoints() {
    harness::skipped("live_kills::named and live_slo", "cargo test --features failpoints, as tests/run does");
}

#[cfg(not(feature = "testing"))]
#[test]
fn tests_with_scripted_parts_need_the_feature_testing() {
    harness::skipped("pipeline, delivery and live_backends", "cargo test --features testing, as tests/run does");
}
