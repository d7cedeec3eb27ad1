//! Who may ask how often: limits for each network, each link, guessed slugs, each key and all together, and connections
//! for each address.
//!
//! ```text
//! request -> network -> misses -> global -> (look-up) -> link -> ...        429 where one says no
//!                                              `- not there: one miss for the network
//! ```
//! - A network is an IPv4 /24 or an IPv6 /64 of the client, after trusted proxies. Those of `limits.exempt` have no limit
//!   of their own.
//! - The network goes before `global`: who is refused there uses up nothing of what all share.
//! - A network that guesses too much gets the same 429 for every link, known or not, *before* the look-up: the answer says
//!   nothing of the link. Below that, what is unknown, paused or not begun gets the same 404 and counts the same. What is
//!   refused is no miss, so a guesser gets as many looks as the rate says, and the others of its network come through in
//!   between.
//!
//! Shared by all edge threads; takes no lock, reads no clock, allocates only at the start. Bounds: `limits.entries_max`
//! sources for each limit, see [`table`] for what is forgotten beyond it.

pub mod addresses;
pub mod gcra;
pub mod table;

use std::hash::Hasher as _;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use sha2::{Digest as _, Sha256};
use siphasher::sip::SipHasher13;

use self::addresses::{Addresses, Counted, TooMany};
use self::gcra::{Gcra, seconds, ticks};
use self::table::Table;
use crate::click::address::Network;
use crate::config;
use crate::telemetry::metrics::Limit;

/// Keys whose use is remembered: each asks often, or owes nothing.
const KEYS: usize = 1 << 14;

/// A request that is not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limited {
    /// By which limit.
    pub limit: Limit,
    /// Whole seconds, rounded up, until there is room for one.
    pub retry_after_s: u64,
    /// Requests at once.
    pub burst: u32,
    /// Seconds in which these are paid off.
    pub window_s: u64,
}

/// A rate for each of many sources.
#[derive(Debug)]
struct Each {
    limit: Limit,
    gcra: Gcra,
    table: Table,
}

impl Each {
    fn new(limit: Limit, rate: Option<config::Rate>, entries: usize) -> Option<Self> {
        rate.map(|rate| Self { limit, gcra: Gcra::new(rate.rate, rate.burst), table: Table::new(entries) })
    }

    fn charge(&self, source: u64, now: u64) -> Result<u64, Limited> {
        self.table.charge(source, now, &self.gcra).map_err(|wait| Limited::new(self.limit, &self.gcra, wait))
    }
}

impl Limited {
    fn new(limit: Limit, gcra: &Gcra, wait: u64) -> Self {
        Self { limit, retry_after_s: seconds(wait), burst: gcra.burst(), window_s: gcra.window_s() }
    }
}

/// All limits of a node.
#[derive(Debug)]
pub struct Limits {
    hash: SipHasher13,
    exempt: Vec<Network>,
    network: Option<Each>,
    misses: Option<Each>,
    link: Option<Each>,
    global: Option<(Gcra, AtomicU64)>,
    keys: Table,
    addresses: Option<Addresses>,
    /// Until then some network is over its misses; before it, nobody's need be looked up.
    misses_over_until: AtomicU64,
}

impl Limits {
    /// By these settings. `secret` makes the hash of the sources one that nobody outside can compute; of
    /// `connections_max` connections in all.
    #[must_use]
    pub fn new(settings: &config::Limits, secret: &[u8], connections_max: usize) -> Self {
        let key: [u8; 32] = Sha256::new().chain_update(b"trellis limits 1").chain_update(secret).finalize().into();
        let half = |at: usize| key[at..at + 8].iter().fold(0, |half, byte| (half << 8) | u64::from(*byte));
        let most = settings.connections_per_address;
        let each = |limit, rate| Each::new(limit, rate, settings.entries_max);
        Self {
            hash: SipHasher13::new_with_keys(half(0), half(8)),
            exempt: settings.exempt.clone(),
            network: each(Limit::Network, settings.network),
            misses: each(Limit::Misses, settings.misses),
            link: each(Limit::Link, settings.link),
            global: settings.global.map(|rate| (Gcra::new(rate.rate, rate.burst), AtomicU64::new(0))),
            keys: Table::new(KEYS),
            addresses: (most > 0).then(|| Addresses::new(most, connections_max)),
            misses_over_until: AtomicU64::new(0),
        }
    }

    /// Whether this address is one of many behind it, or our own: it has no limit of its own.
    #[must_use]
    pub fn is_exempt(&self, address: IpAddr) -> bool {
        self.exempt.iter().any(|network| network.contains(address))
    }

    /// Lets a request in, before anything is looked up. `address`: of whom it is, unless exempt.
    ///
    /// # Errors
    /// The limit that says no.
    pub fn admit(&self, address: Option<IpAddr>, now: Duration) -> Result<(), Limited> {
        let now = ticks(now);
        if let Some(address) = address {
            let guessing = now < self.misses_over_until.load(Ordering::Relaxed);
            if self.network.is_some() || guessing {
                let source = self.network_of(address);
                self.network.as_ref().map_or(Ok(0), |network| network.charge(source, now))?;
                if let Some(misses) = self.misses.as_ref().filter(|_| guessing) {
                    let over = misses.table.peek(source, now, &misses.gcra);
                    over.map_err(|wait| Limited::new(Limit::Misses, &misses.gcra, wait))?;
                }
            }
        }
        self.global.as_ref().map_or(Ok(()), |(gcra, paid_at)| charge_one(gcra, paid_at, now))
    }

    /// Counts a slug that was not there against who asked for it.
    pub fn miss(&self, address: IpAddr, now: Duration) {
        let Some(misses) = &self.misses else { return };
        let now = ticks(now);
        if let Ok(debt) = misses.charge(self.network_of(address), now)
            && let Err(wait) = misses.gcra.charge(debt)
        {
            self.misses_over_until.fetch_max(now + wait, Ordering::Relaxed);
        }
    }

    /// Lets a request for a link in that is there.
    ///
    /// # Errors
    /// When the link has had too many.
    pub fn link(&self, domain: &str, slug: &str, now: Duration) -> Result<(), Limited> {
        let Some(link) = &self.link else { return Ok(()) };
        let mut hasher = self.hash;
        hasher.write(domain.as_bytes());
        // No name holds it.
        hasher.write_u8(0);
        hasher.write(slug.as_bytes());
        link.charge(hasher.finish(), ticks(now)).map(drop)
    }

    /// Lets a request in that came with a key, at the key's own rate. `id`: of the key.
    ///
    /// # Errors
    /// When the key has been used too often.
    pub fn key(&self, id: &str, rate: u32, burst: u32, now: Duration) -> Result<(), Limited> {
        let gcra = Gcra::new(rate, burst);
        let mut hasher = self.hash;
        hasher.write(id.as_bytes());
        let charged = self.keys.charge(hasher.finish(), ticks(now), &gcra);
        charged.map(drop).map_err(|wait| Limited::new(Limit::Key, &gcra, wait))
    }

    /// Counts a connection; to be given back by [`Limits::disconnect`]. `None`: there is nothing to count.
    ///
    /// # Errors
    /// When the address has as many as it may.
    pub fn connect(&self, address: IpAddr) -> Result<Option<Counted>, TooMany> {
        let Some(addresses) = &self.addresses else { return Ok(None) };
        let source = match address {
            IpAddr::V4(v4) => u64::from(v4.to_bits()) | (1 << 32),
            IpAddr::V6(v6) => prefix_64(v6),
        };
        addresses.open(self.hash_of(source)).map(Some).ok_or(TooMany)
    }

    /// A connection has closed.
    pub fn disconnect(&self, counted: Counted) {
        if let Some(addresses) = &self.addresses {
            addresses.close(counted);
        }
    }

    /// Cleans up a little; about once a second.
    pub fn retire(&self, now: Duration) {
        let now = ticks(now);
        let each = [&self.network, &self.misses, &self.link].into_iter().flatten().map(|each| &each.table);
        each.chain([&self.keys]).for_each(|table| table.retire(now));
    }

    fn network_of(&self, address: IpAddr) -> u64 {
        self.hash_of(match address {
            IpAddr::V4(v4) => u64::from(v4.to_bits() >> 8),
            IpAddr::V6(v6) => prefix_64(v6),
        })
    }

    fn hash_of(&self, number: u64) -> u64 {
        let mut hasher = self.hash;
        hasher.write_u64(number);
        hasher.finish()
    }
}

/// The network part of an IPv6 address: a household has all of the rest. IPv4 is below 2^33, where no visitor's is.
const fn prefix_64(v6: std::net::Ipv6Addr) -> u64 {
    (v6.to_bits() >> 64) as u64
}

/// The one source that all are.
fn charge_one(gcra: &Gcra, paid_at: &AtomicU64, now: u64) -> Result<(), Limited> {
    let mut paid = paid_at.load(Ordering::Relaxed);
    loop {
        let debt = paid.saturating_sub(now);
        let charged = gcra.charge(debt).map_err(|wait| Limited::new(Limit::Global, gcra, wait))?;
        match paid_at.compare_exchange_weak(paid, now + charged, Ordering::Relaxed, Ordering::Relaxed) {
            Ok(_) => return Ok(()),
            Err(other) => paid = other,
        }
    }
}

#[cfg(test)]
mod tests;
