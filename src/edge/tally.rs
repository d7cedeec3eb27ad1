//! What one thread keeps for the decision on one visit: its turns of round robin, and the places of caps that it takes.
//!
//! Bots, HEAD requests and prefetches see what is closed as people do, and take no place. What a visit took is given back
//! when it is not kept. Bounds: [`TAKEN_MAX`] places of a visit.

use super::core::Core;
use super::route::{self, ThreadTurns};
use crate::click::campaign::{Campaign, Decision, Tally, Turn};
use crate::click::cap::{Moment, UTC};
use crate::click::{Cap, Class, Link, Template, Visit};
use crate::telemetry::metrics::Destined;

/// Two of the link, one of the rule, one of the destination.
const TAKEN_MAX: usize = 4;

/// Places that a visit took: gate and period.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Taken {
    places: [(u32, u32); TAKEN_MAX],
    count: u8,
}

impl Taken {
    /// None.
    pub(super) const NONE: Self = Self { places: [(0, 0); TAKEN_MAX], count: 0 };

    fn push(&mut self, cap: &Cap, period: u32) {
        let place = (u32::try_from(cap.gate.index()).unwrap_or(u32::MAX), period);
        if let Some(free) = self.places.get_mut(usize::from(self.count)) {
            *free = place;
            self.count += 1;
        }
    }

    /// Its click was not kept: it counts nowhere.
    pub(super) fn give_back(self, core: &Core) {
        for (gate, period) in self.places.into_iter().take(self.count.into()) {
            core.parts.caps.give_back(core.number, gate as usize, period);
        }
    }
}

/// Asked by the campaign that decides.
pub(super) struct VisitTally<'t> {
    pub(super) turns: &'t mut ThreadTurns,
    pub(super) core: usize,
    pub(super) moment: Moment<'t>,
    /// The visit is a click of a person.
    pub(super) counts: bool,
    pub(super) taken: Taken,
    /// Something was closed that it would have taken.
    pub(super) passed: bool,
}

impl Tally for VisitTally<'_> {
    fn turn(&mut self, of: &Campaign, rule: usize) -> &mut Turn {
        self.turns.turn(of, rule)
    }

    fn is_open(&self, cap: &Cap) -> bool {
        cap.gate.is_open(self.core, self.moment.period(cap.per))
    }

    fn take(&mut self, cap: &Cap) -> bool {
        if !self.counts {
            return true;
        }
        let taken = cap.gate.take(self.core, self.moment.period(cap.per));
        taken.inspect(|period| self.taken.push(cap, *period)).is_some()
    }

    fn give_back(&mut self, cap: &Cap) {
        if self.counts && self.taken.count > 0 {
            // The last one.
            self.taken.count -= 1;
            cap.gate.give_back(self.core, self.taken.places[usize::from(self.taken.count)].1);
        }
    }

    fn pass_over(&mut self) {
        self.passed = true;
    }
}

/// How far a visit comes into its link.
pub(super) enum Entered<'l> {
    /// In, with these places.
    In(Taken),
    /// It is at its `max_clicks`, or at its cap without an overflow: like an expired one.
    Expired(Option<&'l Template>),
    /// At its cap: to the overflow.
    Overflow(&'l Template),
}

/// Takes the places of a link that is alive.
pub(super) fn enter<'l>(core: &Core, link: &'l Link, visit: &Visit<'_>) -> Entered<'l> {
    let Some(caps) = &link.caps else { return Entered::In(Taken::default()) };
    let moment = Moment::new(&UTC, core.turn_ms.get());
    let closed = |cap: &'l Cap| {
        core.metrics.destine(Destined::Capped);
        match &cap.overflow {
            Some(overflow) => Entered::Overflow(overflow),
            None => Entered::Expired(link.expired()),
        }
    };
    if let Some(cap) = caps.iter().find(|cap| !cap.gate.is_open(core.number, moment.period(cap.per))) {
        return closed(cap);
    }
    let mut taken = Taken::default();
    if route::class(core, visit) == Class::Human {
        for cap in caps.iter() {
            let Some(period) = cap.gate.take(core.number, moment.period(cap.per)) else {
                taken.give_back(core);
                return closed(cap);
            };
            taken.push(cap, period);
        }
    }
    Entered::In(taken)
}

/// Counts where a visit goes.
pub(super) fn count(core: &Core, decision: &Decision<'_>, is_past: bool, passed: bool) {
    if passed {
        core.metrics.destine(Destined::Capped);
    }
    core.metrics.destine(match decision {
        Decision::Rule(..) | Decision::Default(_) => Destined::Chosen,
        Decision::Overflow(..) => Destined::Overflow,
        Decision::Fallback(_) => Destined::Fallback,
        Decision::Link if is_past => Destined::Overflow,
        Decision::Link => Destined::Link,
    });
}
