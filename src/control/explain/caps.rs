//! What caps say of a supposed visit: which are closed on this node now, and who takes over. Takes no place of any.

use serde_json::{Value, json};

use crate::click::campaign::{Campaign, Destination, Rule, Tally, Turn, Zone};
use crate::click::cap::{Moment, UTC};
use crate::click::life::Stage;
use crate::click::{Cap, Link};

/// The turns of a thread that has just started, and the caps as they are.
pub(super) struct Looking<'z> {
    turn: Turn,
    moment: Moment<'z>,
}

impl<'z> Looking<'z> {
    pub(super) fn new(zone: &'z Zone, unix_ms: u64) -> Self {
        Self { turn: Turn::default(), moment: Moment::new(zone, unix_ms) }
    }
}

impl Tally for Looking<'_> {
    fn turn(&mut self, _: &Campaign, _: usize) -> &mut Turn {
        &mut self.turn
    }

    fn is_open(&self, cap: &Cap) -> bool {
        cap.gate.is_open_somewhere(self.moment.period(cap.per))
    }
}

/// How a link stands: by its life, and then by its caps.
#[derive(Clone, Copy)]
pub(super) struct LinkStage<'l> {
    pub(super) stage: Stage<'l>,
    /// Why a link that is alive is not followed.
    pub(super) at_cap: Option<&'static str>,
    /// Its visitors go to the overflow of its cap.
    pub(super) overflows: bool,
}

impl<'l> LinkStage<'l> {
    pub(super) fn of(link: &'l Link, unix_ms: u64) -> Self {
        let plain = Self { stage: link.stage(unix_ms), at_cap: None, overflows: false };
        let (Some(caps), Stage::Alive) = (&link.caps, plain.stage) else { return plain };
        let looking = Looking::new(&UTC, unix_ms);
        let is_closed = |cap: &Option<Cap>| cap.as_ref().is_some_and(|cap| !looking.is_open(cap));
        if is_closed(&caps.max_clicks) {
            let at_cap = Some("the link has had its max_clicks: it has expired");
            return Self { stage: Stage::Expired(link.expired()), at_cap, overflows: false };
        }
        match caps.cap.as_ref().filter(|cap| !looking.is_open(cap)) {
            None => plain,
            Some(Cap { overflow: Some(overflow), .. }) => Self {
                stage: Stage::Expired(Some(overflow)),
                at_cap: Some("the link is at its cap: its visitors go to the overflow_url"),
                overflows: true,
            },
            Some(_) => Self {
                stage: Stage::Expired(link.expired()),
                at_cap: Some("the link is at its cap: it is answered like an expired one until the period ends"),
                overflows: false,
            },
        }
    }

    pub(super) const ALIVE: Self = Self { stage: Stage::Alive, at_cap: None, overflows: false };
}

/// Why a rule whose condition holds does not take the visit; `None` when it can.
pub(super) fn rule_is_closed(rule: &Rule, looking: &Looking<'_>) -> Option<&'static str> {
    if rule.cap.as_ref().is_some_and(|cap| !looking.is_open(cap)) {
        return Some("at its cap");
    }
    let is_closed =
        |to: &Destination| to.cap.as_ref().is_some_and(|cap| cap.overflow.is_none() && !looking.is_open(cap));
    rule.choice.destinations().iter().all(is_closed).then_some("all destinations at their caps")
}

/// Whether something is at its cap; null without one.
pub(super) fn is_capped(cap: Option<&Cap>, looking: &Looking<'_>) -> Value {
    cap.map_or(Value::Null, |cap| json!(!looking.is_open(cap)))
}
