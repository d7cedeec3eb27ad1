//! One destination out of several.

use super::Campaign;
use crate::click::{Cap, Template};

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
    /// How many clicks it takes.
    pub cap: Option<Cap>,
    /// Its place in rendezvous hashing: from its name, so that it stays when others come and go.
    pub(super) seed: u64,
}

/// A strategy and what it chooses from: one destination at least, and one of a weight above 0.
#[derive(Clone, Debug, PartialEq)]
pub struct Choice {
    strategy: Strategy,
    /// Those of a weight above 0. Under `highest_bid` the highest bids first; and where none of these has a cap, no others:
    /// they are never chosen.
    to: Box<[Destination]>,
    /// Some of them may be closed.
    is_capped: bool,
}

/// What one thread keeps for decisions: turns of round robin, and its part of the caps.
pub trait Tally {
    /// The turns of this rule of a campaign.
    fn turn(&mut self, of: &Campaign, rule: usize) -> &mut Turn;

    /// Whether a cap has a place left.
    fn is_open(&self, _: &Cap) -> bool {
        true
    }

    /// Takes a place, where the visit is one that counts; false when the last one has just gone.
    fn take(&mut self, _: &Cap) -> bool {
        true
    }

    /// Gives back a place that this visit took.
    fn give_back(&mut self, _: &Cap) {}

    /// What the visit would have taken was closed.
    fn pass_over(&mut self) {}
}

/// How far the turns of one rule are.
#[derive(Clone, Debug, Default)]
pub struct Turn {
    credit: Vec<i64>,
}

/// What was chosen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Chosen<'c> {
    /// A destination, whose place is taken.
    To(&'c Destination),
    /// One that is at its cap sends its visitors here.
    Overflow(&'c Template),
}

/// A destination by its number, and whether a closed one would have been it.
type Found = (Option<usize>, bool);

impl Choice {
    /// `None` when no destination has a weight above 0.
    pub(super) fn new(strategy: Strategy, mut to: Vec<Destination>) -> Option<Self> {
        to.retain(|destination| destination.weight > 0);
        if strategy == Strategy::HighestBid {
            // Stable: of equal bids in the order of the document.
            to.sort_by(|a, b| b.bid.total_cmp(&a.bid));
            // A group of equal bids of which one never closes hides those behind it.
            let hides = |group: &[Destination]| group.iter().any(|destination| !destination.can_close());
            let reached = to.chunk_by(|a, b| a.bid == b.bid).scan(false, |hidden, group| {
                let is_reached = !*hidden;
                *hidden |= hides(group);
                is_reached.then_some(group.len())
            });
            let reached = reached.sum();
            to.truncate(reached);
        }
        let is_capped = to.iter().any(|destination| destination.cap.is_some());
        (!to.is_empty()).then(|| Self { strategy, to: to.into(), is_capped })
    }

    /// How it chooses.
    #[must_use]
    pub const fn strategy(&self) -> Strategy {
        self.strategy
    }

    /// What it chooses from.
    #[must_use]
    pub const fn destinations(&self) -> &[Destination] {
        &self.to
    }

    /// Whether the key has a word in it.
    pub(super) fn goes_by_key(&self) -> bool {
        self.to.len() > 1 && matches!(self.strategy, Strategy::Weighted | Strategy::HighestBid)
    }

    /// The caps of its destinations.
    pub(super) fn caps_mut(&mut self) -> impl Iterator<Item = (&str, &mut Cap)> {
        self.to.iter_mut().filter_map(|to| Some((&*to.name, to.cap.as_mut()?)))
    }

    /// One of them, whose place is then taken; `None` when all are closed.
    pub fn choose(&self, key: u64, tally: &mut impl Tally, of: &Campaign, rule: usize) -> Option<Chosen<'_>> {
        if !self.is_capped {
            let number = match (self.strategy, self.to.len()) {
                (Strategy::Priority, _) | (_, 1) => Some(0),
                (Strategy::Weighted | Strategy::HighestBid, _) => rendezvous(&self.to, key, |_| true).0,
                (Strategy::RoundRobin, _) => tally.turn(of, rule).next(&self.to, |_| true).0,
            };
            return number.map(|number| Chosen::To(&self.to[number]));
        }
        // A place that goes while it is asked for closes a destination, so each is found at most once.
        for _ in &self.to {
            let (number, passed) = self.find_open(key, tally, of, rule);
            if passed {
                tally.pass_over();
            }
            let destination = &self.to[number?];
            match &destination.cap {
                None => return Some(Chosen::To(destination)),
                Some(cap) if tally.is_open(cap) && tally.take(cap) => return Some(Chosen::To(destination)),
                Some(Cap { overflow: Some(overflow), .. }) => return Some(Chosen::Overflow(overflow)),
                Some(_) => {}
            }
        }
        None
    }

    fn find_open(&self, key: u64, tally: &mut impl Tally, of: &Campaign, rule: usize) -> Found {
        match self.strategy {
            Strategy::Priority => {
                let first = self.to.iter().position(|to| is_open(tally, to));
                (first, first != Some(0))
            }
            Strategy::Weighted => rendezvous(&self.to, key, |to| is_open(tally, to)),
            Strategy::HighestBid => {
                let (mut before, mut passed) = (0, false);
                for group in self.to.chunk_by(|a, b| a.bid == b.bid) {
                    let (found, closed) = rendezvous(group, key, |to| is_open(tally, to));
                    passed |= closed;
                    if let Some(number) = found {
                        return (Some(before + number), passed);
                    }
                    before += group.len();
                }
                (None, true)
            }
            Strategy::RoundRobin => {
                let mut turn = std::mem::take(tally.turn(of, rule));
                let found = turn.next(&self.to, |to| is_open(tally, to));
                *tally.turn(of, rule) = turn;
                found
            }
        }
    }
}

/// Whether a visit may be sent to it: at its cap too, where it has an overflow.
fn is_open(tally: &impl Tally, to: &Destination) -> bool {
    to.cap.as_ref().is_none_or(|cap| cap.overflow.is_some() || tally.is_open(cap))
}

impl Destination {
    /// Whether it takes nobody when it is at its cap. With an overflow its visitors go there.
    fn can_close(&self) -> bool {
        self.cap.as_ref().is_some_and(|cap| cap.overflow.is_none())
    }
}

impl Turn {
    /// Everybody who is open gets credit by weight, the richest is next and pays for all.
    fn next(&mut self, to: &[Destination], is_open: impl Fn(&Destination) -> bool) -> Found {
        // The campaign has changed.
        if self.credit.len() != to.len() {
            self.credit = vec![0; to.len()];
        }
        let (mut total, mut richest, mut closed) = (0, None, i64::MIN);
        for (number, destination) in to.iter().enumerate() {
            let weight = i64::from(destination.weight);
            if !is_open(destination) {
                closed = closed.max(self.credit[number] + weight);
                continue;
            }
            self.credit[number] += weight;
            total += weight;
            if richest.is_none_or(|richest: usize| self.credit[number] > self.credit[richest]) {
                richest = Some(number);
            }
        }
        let Some(number) = richest else { return (None, true) };
        let passed = closed > self.credit[number];
        self.credit[number] -= total;
        (richest, passed)
    }
}

/// The open destination with the highest score for this key: weight / -ln(hash), the hash between 0 and 1. Each one wins by
/// its share of the weight, and a change of one weight, or one that closes, moves keys to or from this one alone. Only
/// those that could win are asked whether they are open.
fn rendezvous(to: &[Destination], key: u64, is_open: impl Fn(&Destination) -> bool) -> Found {
    let (mut best, mut winner, mut closed) = (0.0, None, 0.0);
    for (number, destination) in to.iter().enumerate() {
        // 53 bits, in the middle of their steps: never 0, never 1.
        let hash = ((mix(key ^ destination.seed) >> 11) as f64 + 0.5) / (1_u64 << 53) as f64;
        let weight = f64::from(destination.weight);
        // -ln(h) >= 1 - h: most need no logarithm.
        if weight > best * (1.0 - hash) {
            let score = weight / -hash.ln();
            if score > best {
                if is_open(destination) {
                    (best, winner) = (score, Some(number));
                } else {
                    closed = f64::max(closed, score);
                }
            }
        }
    }
    (winner, closed > best)
}

/// The finaliser of SplitMix64: every bit of the input changes half of the output's.
pub(super) const fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^ (x >> 31)
}
