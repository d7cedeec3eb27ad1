//! Caps: the gates of every cap that this node serves, and what it knows to have gone through them.
//!
//! ```text
//! edge    --take--> gate (see `click::gate`)           worker --count--> counts, by cap, period and journal
//!                     ^                                                    |            |
//!                     +-- places: the limit less what is spent ------------+      every second, with how far the
//!                         (shared out with other nodes, if there are any)         journals are counted: CapStore
//! ```
//! **What is spent** of a cap in a period is what workers have counted, and what the edge let through that no worker has
//! seen yet. A worker counts the clicks of a batch when it is frozen, so their labels never change; the counts are saved
//! together with the position that they reach to, in one transaction, and a checkpoint does not move beyond a position that
//! is not saved. So whatever ends the process, no stored click is counted twice or forgotten. What was let through in the
//! last second before that is unknown until its journal is taken up.
//!
//! The edge looks nothing up here: what it asks is in the links and campaigns themselves. Nothing here does I/O; `app` asks
//! every second. Bounds: `caps.counters_max` caps, and as many that nothing names any more; of each the counts of some
//! hours, or days.

mod counts;
mod standing;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;
use tokio::sync::Notify;

pub use counts::{CapCount, CapStore, Changes, Counted, Counts, Saved, Source};
pub use standing::{Granted, Shown, Standing};

use super::CatalogError;
use super::releases::Change;
use crate::click::campaign::{Campaign, Zone};
use crate::click::cap::{CapId, Of, Per, Place};
use crate::click::domain::ANY;
use crate::click::{Cap, Gate, Link};
use crate::clock::Clock;

/// More caps than `caps.counters_max`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("with it this node would count {asked} caps, and `caps.counters_max` allows {most}")]
pub struct TooManyCaps {
    /// All, with the new ones.
    pub asked: usize,
    /// The bound.
    pub most: usize,
}

/// All caps of this node. Shared by `Arc`.
pub struct Caps {
    cores: usize,
    counters_max: usize,
    /// Others let clicks through too: they are asked before a new gate opens.
    is_shared: bool,
    clock: Arc<dyn Clock>,
    known: ArcSwap<Known>,
    state: Mutex<State>,
    /// There is something to do before the second is over.
    hurry: Notify,
}

/// What is looked up without a lock.
#[derive(Debug, Default)]
struct Known {
    gates: Vec<Arc<Gate>>,
    /// The caps of a place.
    by_place: HashMap<CapId, Vec<Ruler>>,
}

/// How a cap counts.
#[derive(Clone, Debug)]
struct Ruler {
    id: CapId,
    per: Per,
    of: Of,
    zone: Zone,
}

#[derive(Default)]
struct State {
    kept: HashMap<CapId, Kept>,
    gates: Vec<Arc<Gate>>,
    /// Places among the gates whose cap was forgotten.
    free: Vec<usize>,
    owners: HashMap<Owner, Vec<CapId>>,
    counts: counts::Books,
    /// Nodes that share the caps, this one too.
    nodes: u64,
    /// Since workers were told last.
    has_changed: bool,
}

/// What has caps: a link by its slug, or a campaign by its name.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Owner {
    /// Its domain and slug.
    Link(Box<str>, Box<str>),
    Campaign(Box<str>),
}

impl Owner {
    fn link(domain: &str, slug: &str) -> Self {
        Self::Link(domain.into(), slug.into())
    }
}

/// What a change is of, and how many caps it has then.
fn asked(change: &Change) -> Option<(Owner, usize)> {
    match change {
        Change::Link { before, after } => {
            let link = &after.as_ref().or(before.as_ref())?.link;
            let caps = after.as_ref().and_then(|entry| entry.link.caps.as_ref());
            Some((Owner::link(link.domain(), &link.slug), caps.map_or(0, |caps| caps.iter().count())))
        }
        Change::Campaign { before, after } => {
            let id = after.as_ref().or(before.as_ref())?.id.as_str();
            let mut count = 0;
            if let Some(campaign) = after {
                Campaign::clone(campaign).for_each_cap(|_, _| count += 1);
            }
            Some((Owner::Campaign(id.into()), count))
        }
        Change::Domain { .. } => None,
    }
}

/// One cap.
struct Kept {
    gate: Arc<Gate>,
    place: CapId,
    /// For people: the fields of its place.
    names: Vec<(&'static str, Box<str>)>,
    limit: u64,
    per: Per,
    of: Of,
    zone: Zone,
    /// Clicks of other nodes in this period, as they were told last.
    others: (u32, u64),
    /// Something names it.
    is_live: bool,
    /// Its gate has not opened, or not with this limit.
    is_new: bool,
}

impl Caps {
    /// Caps for so many edge threads. `is_shared`: other nodes count the same ones, and are asked before a gate opens.
    #[must_use]
    pub fn new(cores: usize, counters_max: usize, is_shared: bool, clock: Arc<dyn Clock>) -> Self {
        let state = Mutex::new(State { nodes: 1, ..State::default() });
        let (known, hurry) = (ArcSwap::default(), Notify::new());
        Self { cores, counters_max, is_shared, clock, known, state, hurry }
    }

    /// Whether a campaign has room, in place of an earlier one of its name.
    ///
    /// # Errors
    /// [`TooManyCaps`]
    pub fn check_campaign(&self, campaign: &mut Campaign) -> Result<(), TooManyCaps> {
        let mut count = 0;
        campaign.for_each_cap(|_, _| count += 1);
        self.check(&Owner::Campaign(campaign.id.as_str().into()), count)
    }

    /// Whether a link has room, likewise.
    ///
    /// # Errors
    /// [`TooManyCaps`]
    pub fn check_link(&self, link: &Link) -> Result<(), TooManyCaps> {
        let count = link.caps.as_ref().map_or(0, |caps| caps.iter().count());
        self.check(&Owner::link(link.domain(), &link.slug), count)
    }

    /// Whether there is room for all that these changes make.
    ///
    /// # Errors
    /// [`TooManyCaps`]
    pub fn check_changes(&self, changes: &[Change]) -> Result<(), TooManyCaps> {
        let asked: HashMap<Owner, usize> = changes.iter().filter_map(asked).collect();
        let state = self.state();
        let (mut before, mut others) = (0, 0);
        for (owner, caps) in &state.owners {
            *if asked.contains_key(owner) { &mut before } else { &mut others } += caps.len();
        }
        let more: usize = asked.values().sum();
        if more > before && others + more > self.counters_max {
            return Err(TooManyCaps { asked: others + more, most: self.counters_max });
        }
        Ok(())
    }

    fn check(&self, owner: &Owner, count: usize) -> Result<(), TooManyCaps> {
        let state = self.state();
        let others = state.owners.iter().filter(|(other, _)| *other != owner).map(|(_, caps)| caps.len());
        let asked = others.sum::<usize>() + count;
        if count > 0 && asked > self.counters_max {
            return Err(TooManyCaps { asked, most: self.counters_max });
        }
        Ok(())
    }

    /// Gives the caps of a campaign their gates, before it is served. [`Caps::publish`] is to follow.
    pub fn adopt_campaign(&self, campaign: &mut Campaign) {
        let owner = Owner::Campaign(campaign.id.as_str().into());
        let zone = campaign.zone.clone();
        let mut state = self.state();
        let mut ids = Vec::new();
        campaign.for_each_cap(|place, cap| ids.push(state.adopt(self.cores, place, (place, &zone), cap)));
        state.own(owner, ids, self.counters_max);
    }

    /// Gives the caps of a link theirs, likewise.
    pub fn adopt_link(&self, link: &mut Link) {
        let owner = Owner::link(link.domain(), &link.slug);
        let (domain, slug) = (link.domain.as_deref().unwrap_or(ANY), link.slug.as_str());
        let place = Place::Link(domain, slug);
        let mut state = self.state();
        let mut ids = Vec::new();
        if let Some(caps) = &mut link.caps {
            if let Some(cap) = &mut caps.max_clicks {
                let ever = Place::LinkEver(domain, slug);
                ids.push(state.adopt(self.cores, ever, (place, &Zone::UTC), cap));
            }
            if let Some(cap) = &mut caps.cap {
                ids.push(state.adopt(self.cores, place, (place, &Zone::UTC), cap));
            }
        }
        state.own(owner, ids, self.counters_max);
    }

    /// A campaign is gone. Its counts stay, for one that comes again.
    pub fn forget_campaign(&self, id: &str) {
        self.state().own(Owner::Campaign(id.into()), Vec::new(), self.counters_max);
        self.publish();
    }

    /// A link is gone, likewise.
    pub fn forget_link(&self, domain: &str, slug: &str) {
        self.state().own(Owner::link(domain, slug), Vec::new(), self.counters_max);
        self.publish();
    }

    /// Opens the gates of what was adopted, as far as this node knows of their clicks, and tells workers of them.
    pub fn publish(&self) {
        let mut state = self.state();
        if !std::mem::take(&mut state.has_changed) {
            return;
        }
        if self.is_shared {
            self.hurry.notify_one();
        } else {
            state.open_new(self.clock.wall_ms());
        }
        let mut by_place = HashMap::<CapId, Vec<Ruler>>::new();
        for (id, kept) in state.kept.iter().filter(|(_, kept)| kept.is_live) {
            let ruler = Ruler { id: *id, per: kept.per, of: kept.of, zone: kept.zone.clone() };
            by_place.entry(kept.place).or_default().push(ruler);
        }
        self.known.store(Arc::new(Known { gates: state.gates.clone(), by_place }));
    }

    /// Gives a place back that a click took which then was not kept. Only the thread of this core may.
    pub fn give_back(&self, core: usize, gate: usize, period: u32) {
        if let Some(gate) = self.known.load().gates.get(gate) {
            gate.give_back(core, period);
        }
    }

    /// Waits until something is to be done before the second is over.
    pub async fn hurried(&self) {
        self.hurry.notified().await;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Each change is a few additions that cannot panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// The gate of a cap of this place, which workers find by `found`.
    fn adopt(&mut self, cores: usize, of: Place<'_>, (found, zone): (Place<'_>, &Zone), cap: &mut Cap) -> CapId {
        let id = CapId::of(of.id(), cap.per, cap.of);
        if !self.kept.contains_key(&id) {
            let index = self.free.pop().unwrap_or(self.gates.len());
            let gate = Arc::new(Gate::new(cores, index));
            match self.gates.get_mut(index) {
                Some(place) => *place = Arc::clone(&gate),
                None => self.gates.push(Arc::clone(&gate)),
            }
            let (place, names, zone) = (found.id(), of.names(), zone.clone());
            let (per, of) = (cap.per, cap.of);
            let kept =
                Kept { gate, place, names, limit: 0, per, of, zone, others: (0, 0), is_live: true, is_new: true };
            self.kept.insert(id, kept);
        }
        if let Some(kept) = self.kept.get_mut(&id) {
            kept.is_new |= kept.limit != cap.limit;
            (kept.limit, kept.zone, kept.is_live) = (cap.limit, zone.clone(), true);
            cap.gate = Arc::clone(&kept.gate);
        }
        id
    }

    /// These are the caps of this owner, and no others any more.
    fn own(&mut self, owner: Owner, ids: Vec<CapId>, idle_max: usize) {
        let before = match ids.is_empty() {
            true => self.owners.remove(&owner),
            false => self.owners.insert(owner, ids.clone()),
        };
        let before = before.unwrap_or_default();
        self.has_changed |= !before.is_empty() || !ids.is_empty();
        for id in before.iter().filter(|id| !ids.contains(id)) {
            if let Some(kept) = self.kept.get_mut(id) {
                kept.is_live = false;
            }
        }
        if self.kept.len() > 2 * idle_max {
            let free = &mut self.free;
            self.kept.retain(|_, kept| {
                if !kept.is_live {
                    free.push(kept.gate.index());
                }
                kept.is_live
            });
        }
    }
}

impl std::fmt::Debug for Caps {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Caps").field("cores", &self.cores).finish_non_exhaustive()
    }
}
