//! Decisions of a policy, remembered by what they go by.
//!
//! What visits say has 8,124 forms (two headers, three words about consent, 676 pairs of letters for a country, or none), so
//! the memo is a table with a byte for each: nothing in it is of one visitor, nothing is ever thrown out, and a hit is one
//! read. Bound: 8 KB.

use super::{COUNTRY_PLACES, Level, Policy, Signals};

const FORMS: usize = 2 * 2 * 3 * COUNTRY_PLACES;

/// What one policy decided so far. One for each thread, so that it needs no lock; it is for one policy only, since it does
/// not notice another.
#[derive(Debug)]
pub struct Decisions(Box<[Option<Level>]>);

impl Default for Decisions {
    /// With nothing remembered.
    fn default() -> Self {
        Self(vec![None; FORMS].into())
    }
}

impl Decisions {
    /// [`Policy::decide`], and whether it was remembered.
    pub fn decide(&mut self, policy: &Policy, signals: &Signals) -> (Level, bool) {
        let headers = usize::from(signals.gpc) * 2 + usize::from(signals.dnt);
        let form = (headers * 3 + signals.consent as usize) * COUNTRY_PLACES + signals.country_place();
        let remembered = self.0[form];
        (*self.0[form].get_or_insert_with(|| policy.decide(signals)), remembered.is_some())
    }
}
