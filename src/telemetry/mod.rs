//! L1: what Trellis says of itself. [`metrics`] declares every metric; [`slo`] judges them by the objectives; [`log`] sets
//! up the log lines.
//!
//! It never decides anything and knows no part of the program; parts write their own shard of counters, and a scrape adds
//! the shards up. Bound: the values of labels are closed sets, and threads.

pub mod api;
pub mod auth;
pub mod backlog;
pub mod books;
pub mod caches;
mod called;
pub mod calls;
pub mod catalog;
mod exposition;
mod families;
pub mod figures;
mod keeper;
mod loads;
pub mod log;
pub mod metrics;
pub mod minutes;
mod outcomes;
pub mod overload;
pub mod phases;
pub mod pools;
pub mod probe;
pub mod recall;
pub mod requests;
pub mod runtimes;
mod scale;
pub mod shard;
pub mod slo;
mod watched;
mod worker;
