//! How each cap stands now, and how many more clicks this node may let through.

use super::{Caps, Kept, State};
use crate::click::cap::{CapId, Of, Per};

/// How one cap stands on this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// The cap.
    pub cap: CapId,
    /// The period around now.
    pub period: u32,
    /// Its kind.
    pub per: Per,
    /// When it began, Unix milliseconds.
    pub begins_ms: u64,
    /// When it ends, Unix milliseconds.
    pub ends_ms: Option<u64>,
    /// Clicks of a period.
    pub limit: u64,
    /// Clicks that this node has let through, or counted for a journal that was left.
    pub spent: u64,
    /// Further ones that it may let through.
    pub unspent: u64,
}

impl Standing {
    /// Whether its period has begun no longer ago than this. One that never ends begins never.
    #[must_use]
    pub fn has_just_begun(&self, now_ms: u64, within_ms: u64) -> bool {
        self.ends_ms.is_some() && now_ms < self.begins_ms.saturating_add(within_ms)
    }
}

/// What a node may have of a cap.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Granted {
    /// Clicks that it may still let through.
    pub unspent: u64,
    /// Clicks that others have let through.
    pub others: u64,
}

/// A cap as operators see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shown {
    /// What is capped: `link`, or `campaign` with `rule` and `destination`.
    pub names: Vec<(&'static str, Box<str>)>,
    /// The period.
    pub per: Per,
    /// What is counted.
    pub of: Of,
    /// Clicks of a period.
    pub limit: u64,
    /// Clicks of this period, on all nodes as far as it is known.
    pub used: u64,
    /// When the period ends, Unix milliseconds; `None` for never.
    pub resets_ms: Option<u64>,
}

impl Caps {
    /// How every cap stands. The cores give back what they hold.
    #[must_use]
    pub fn look(&self) -> Vec<Standing> {
        let (mut state, now_ms) = (self.state(), self.clock.wall_ms());
        let live: Vec<_> = state.kept.iter().filter(|(_, kept)| kept.is_live).map(|(id, _)| *id).collect();
        live.into_iter().filter_map(|id| state.standing(id, now_ms)).collect()
    }

    /// Nobody else is there, or can be asked: what this node knows to be left is its own. Each node by itself keeps the cap.
    pub fn grant_alone(&self) {
        let (mut state, now_ms) = (self.state(), self.clock.wall_ms());
        state.nodes = 1;
        let live: Vec<_> = state.kept.iter().filter(|(_, kept)| kept.is_live).map(|(id, _)| *id).collect();
        live.into_iter().for_each(|id| state.open(id, now_ms));
    }

    /// So many nodes share the caps, and this is what they leave. Taken away is only what nobody has taken meanwhile.
    pub fn grant(&self, nodes: u64, granted: &[(Standing, Granted)]) {
        let mut state = self.state();
        state.nodes = nodes.max(1);
        for (standing, granted) in granted {
            let Some(kept) = state.kept.get_mut(&standing.cap) else { continue };
            kept.others = (standing.period, granted.others);
            kept.settle(standing, granted.unspent, nodes.max(1));
        }
    }

    /// The caps of a campaign or a link, by the names of their places.
    #[must_use]
    pub fn show(&self, names: &[(&str, &str)]) -> Vec<Shown> {
        let (mut state, now_ms) = (self.state(), self.clock.wall_ms());
        let has = |kept: &Kept, (field, name): &(&str, &str)| {
            kept.names.iter().any(|(known, text)| known == field && **text == **name)
        };
        let named = |kept: &Kept| names.iter().all(|name| has(kept, name));
        let found: Vec<_> =
            state.kept.iter().filter(|(_, kept)| kept.is_live && named(kept)).map(|(id, _)| *id).collect();
        let mut shown: Vec<_> = found.into_iter().filter_map(|id| state.shown(id, now_ms)).collect();
        shown.sort_by(|a, b| (&a.names, a.per.name(), a.limit).cmp(&(&b.names, b.per.name(), b.limit)));
        shown
    }
}

impl State {
    /// Opens the gates that are new, or have another limit.
    pub(super) fn open_new(&mut self, now_ms: u64) {
        let new: Vec<_> = self.kept.iter().filter(|(_, kept)| kept.is_live && kept.is_new).map(|(id, _)| *id).collect();
        new.into_iter().for_each(|id| self.open(id, now_ms));
    }

    /// Opens a gate for what is left, as far as this node knows.
    pub(super) fn open(&mut self, id: CapId, now_ms: u64) {
        let Some(standing) = self.standing(id, now_ms) else { return };
        let Some(kept) = self.kept.get_mut(&id) else { return };
        let others = if kept.others.0 == standing.period { kept.others.1 } else { 0 };
        kept.settle(&standing, standing.limit.saturating_sub(standing.spent + others), 1);
    }

    fn standing(&mut self, id: CapId, now_ms: u64) -> Option<Standing> {
        let kept = self.kept.get(&id)?;
        let gathered = kept.gate.gather(kept.per.period(&kept.zone, now_ms));
        let (per, limit, zone) = (kept.per, kept.limit, &kept.zone);
        let (begins_ms, ends_ms) = (per.begins_ms(zone, now_ms), per.ends_ms(zone, now_ms));
        let spent = self.counts.spent(id, gathered.period, per, gathered.admitted, now_ms);
        let (period, unspent) = (gathered.period, gathered.unspent);
        Some(Standing { cap: id, period, per, begins_ms, ends_ms, limit, spent, unspent })
    }

    fn shown(&mut self, id: CapId, now_ms: u64) -> Option<Shown> {
        let Standing { period, per, limit, spent, ends_ms, .. } = self.standing(id, now_ms)?;
        let kept = self.kept.get(&id)?;
        let others = if kept.others.0 == period { kept.others.1 } else { 0 };
        Some(Shown { names: kept.names.clone(), per, of: kept.of, limit, used: spent + others, resets_ms: ends_ms })
    }
}

impl Kept {
    /// From here on this node may let so many more through.
    fn settle(&mut self, standing: &Standing, unspent: u64, nodes: u64) {
        self.is_new = false;
        // The next period begins with an equal share for each.
        self.gate.set_fresh(standing.limit / nodes);
        match unspent.checked_sub(standing.unspent) {
            Some(more) => self.gate.raise(standing.period, more),
            None => self.gate.lower(standing.period, standing.unspent - unspent),
        }
    }
}
