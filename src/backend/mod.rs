//! L4: what implements the ports, and the only place that names Redis, ClickHouse, SQLite or gRPC.
//!
//! [`clickhouse`] and [`sqlite_clicks`] are [`crate::pipeline::Store`]s, [`redis`] and [`memory`] are
//! [`crate::pipeline::Deduper`]s, [`sqlite_catalog`] is a [`crate::catalog::LinkStore`],
//! a [`crate::catalog::KeyStore`], a [`crate::catalog::ReleaseStore`] and a [`crate::catalog::AuditStore`],
//! [`sqlite_ledger`] the [`crate::pipeline::ledger::Books`]. [`timed`] notes how long they take. [`machine`] asks the
//! system. [`warden`] asks and answers for
//! keys. `app` makes them and hands them
//! on as ports; nothing else calls in here. No visitor waits for anything in here, and nothing in here decides what
//! becomes of a click: it tells its caller what happened, cut by what the caller can do about it.
//!
//! # Runtimes
//!
//! Every worker and the control side has a current-thread runtime of its own. A network connection is driven by the
//! runtime that opened it, and stands still when that runtime is busy or gone. So **a part that talks to the network is
//! made once for each runtime** and never shared ([`clickhouse::ClickHouseStore`], [`redis::RedisDeduper`]); the embedded
//! parts have threads or locks of their own and are made once and shared by all.
//!
//! Bounds: 64 waiting calls for each SQLite thread, `dedup.entries_max` fingerprints, `store.clickhouse.pool` and
//! `redis.pool` connections; every call over a network has a time-out.

mod columns;
mod database_thread;
#[cfg(test)]
mod samples;
mod sqlite_audit;
mod sqlite_domains;
mod sqlite_expiry;
mod sqlite_file;
mod sqlite_insert;
mod sqlite_persons;
mod sqlite_questions;
mod sqlite_releases;
mod sqlite_rollups;

pub mod clickhouse;
pub mod machine;
pub mod memory;
pub mod redis;
pub mod redis_caps;
mod redis_figures;
mod redis_pool;
mod redis_told;
mod redis_window;
mod sqlite_campaigns;
mod sqlite_caps;
pub mod sqlite_catalog;
#[cfg(test)]
mod sqlite_catalog_upgrades;
pub mod sqlite_clicks;
mod sqlite_keys;
pub mod sqlite_ledger;
mod sqlite_links;
pub mod sqlite_snapshot;
pub mod timed;
pub mod warden;
