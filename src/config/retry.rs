//! `[retry]`: how often things are tried, and the pauses in between.
//!
//! Read by `check`, which has the limits; what an entry means is said where it is used.

use std::time::Duration;

/// `[retry]`
#[derive(Clone, Copy, Debug)]
pub struct Retry {
    /// A batch at the store.
    pub insert: Policy,
    /// A check of a chunk of clicks in Redis.
    pub dedup: Policy,
    /// A key at a Warden elsewhere.
    pub warden: Policy,
    /// Mail to people; not built yet.
    pub email: Policy,
    /// Calls to other systems; not built yet.
    pub webhook: Policy,
    /// Reports; not built yet.
    pub report: Policy,
}

/// One entry of `[retry]`: how often something is tried, and the pauses in between.
#[derive(Clone, Copy, Debug)]
pub struct Policy {
    /// Tries in all; at least 1.
    pub tries: u32,
    /// The first pause; it doubles from failure to failure.
    pub base: Duration,
    /// The longest pause.
    pub max: Duration,
    /// A pause is a random part of what it could be; otherwise all of it.
    pub jitter: bool,
}
