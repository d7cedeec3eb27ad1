//! One destination out of several.

use super::Campaign;
use crate::click::Template;

/// How a rule chooses among its destinations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Strategy {
    /// By weight, and by key: rendezvous hashing, so that a changed weight moves only the share that it must.
    #[default]
    Weighted,
    /// By weight, in turn: the smooth kind, which spreads each destination evenly over the turns.
    RoundRobin,
    /// The first of the list.
    Priority,
    /// The highest bid; of equal ones by weight and key.
    HighestBid,
}

impl Strategy {
    /// All of them, with their words.
    pub const ALL: [(&'static str, Self); 4] = [
        ("weighted", Self::Weighted),
        ("round_robin", Self::RoundRobin),
        ("priority", Self::Priority),
        ("highest_bid", Self::HighestBid),
    ];
}

/// One destination.
#[derive(Clone, Debug, PartialEq)]
pub struct Destination {
    /// Recorded as the click's variant.
    pub name: Box<str>,
    /// The URL, parsed.
    pub target: Template,
    /// Its share among the others; 0 takes nobody.
    pub weight: u32,
    /// What it pays, in any unit.
    pub bid: f64,
    /// Its place in rendezvous hashing: from its name, so that it stays when others come and go.
    pub(super) seed: u64,
}

/// A strategy and what it chooses from: one destination at least, and one of a weight above 0.
#[derive(Clone, Debug, PartialEq)]
pub struct Choice {
    strategy: Strategy,
    /// Those of a weight above 0. Under `highest_bid` those of the highest bid alone: no other is ever chosen.
    to: Box<[Destination]>,
}

/// The turns of round robin that one thread keeps.
pub trait Turns {
    /// Those of this rule of a campaign.
    fn turn(&mut self, of: &Campaign, rule: usize) -> &mut Turn;
}

/// How far the turns of one rule are.
#[derive(Clone, Debug, Default)]
pub struct Turn {
    credit: Vec<i64>,
}

impl Choice {
    /// `None` when no destination has a weight above 0.
    pub(super) fn new(strategy: Strategy, mut to: Vec<Destination>) -> Option<Self> {
        to.retain(|destination| destination.weight > 0);
        if strategy == Strategy::HighestBid {
            let highest = to.iter().map(|destination| destination.bid).fold(0.0, f64::max);
            to.retain(|destination| destination.bid >= highest);
        }
        (!to.is_empty()).then(|| Self { strategy, to: to.into() })
    }

    /// How it chooses.
    #[must_use]
    pub const fn strategy(&self) -> Strategy {
        self.strategy
    }

    /// What it chooses from.
    #[must_use]
    pub fn destinations(&self) -> &[Destination] {
        &self.to
    }

    /// Whether the key has a word in it.
    pub(super) fn goes_by_key(&self) -> bool {
        self.to.len() > 1 && matches!(self.strategy, Strategy::Weighted | Strategy::HighestBid)
    }

    /// One of them.
    pub fn choose<'t>(&self, key: u64, turn: impl FnOnce() -> &'t mut Turn) -> &Destination {
        let number = match (self.strategy, self.to.len()) {
            (Strategy::Priority, _) | (_, 1) => 0,
            (Strategy::Weighted | Strategy::HighestBid, _) => rendezvous(&self.to, key),
            (Strategy::RoundRobin, _) => turn().next(&self.to),
        };
        &self.to[number]
    }
}

impl Turn {
    /// Everybody gets credit by weight, the richest is next and pays for all.
    fn next(&mut self, to: &[Destination]) -> usize {
        // The campaign has changed.
        if self.credit.len() != to.len() {
            self.credit = vec![0; to.len()];
        }
        let (mut total, mut richest) = (0, 0);
        for (number, destination) in to.iter().enumerate() {
            let weight = i64::from(destination.weight);
            self.credit[number] += weight;
            total += weight;
            if self.credit[number] > self.credit[richest] {
                richest = number;
            }
        }
        self.credit[richest] -= total;
        richest
    }
}

/// The destination with the highest score for this key: weight / -ln(hash), the hash between 0 and 1. Each one wins by its
/// share of the weight, and a change of one weight moves keys to or from this one alone.
fn rendezvous(to: &[Destination], key: u64) -> usize {
    let (mut best, mut winner) = (0.0, 0);
    for (number, destination) in to.iter().enumerate() {
        // 53 bits, in the middle of their steps: never 0, never 1.
        let hash = ((mix(key ^ destination.seed) >> 11) as f64 + 0.5) / (1_u64 << 53) as f64;
        let weight = f64::from(destination.weight);
        // -ln(h) >= 1 - h: most need no logarithm.
        if weight > best * (1.0 - hash) {
            let score = weight / -hash.ln();
            if score > best {
                (best, winner) = (score, number);
            }
        }
    }
    winner
}

/// The finaliser of SplitMix64: every bit of the input changes half of the output's.
pub(super) const fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^ (x >> 31)
}
